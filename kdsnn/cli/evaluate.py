"""`kdsnn-deploy evaluate`: the accuracy of a checkpoint, at every time step."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdsnn.cli.options import Data, Json, NoiseKind, NoiseOn, NoiseSigma


def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint (.safetensors).")],
    data: Data = "digits",
    noise: NoiseSigma = 0.0,
    noise_kind: NoiseKind = "std",
    noise_on: NoiseOn = "train,test",
    json: Json = False,
) -> None:
    """Print the test accuracy, for a spiking network after each of its T steps."""
    from kdsnn import checkpoint as checkpoints
    from kdsnn import train
    from kdsnn.cli.console import percent, print_json, table
    from kdsnn.cli.images import load_images
    from kdsnn.cli.source import require_fit

    module, info = checkpoints.load(checkpoint)
    images = load_images(data, noise, noise_kind, noise_on, quiet=json)
    require_fit(checkpoint.name, info.input_shape, images)
    accuracies = train.evaluate(module, images, T=info.T if info.spiking else None)
    if json:
        print_json({"checkpoint": str(checkpoint), "data": data, "samples": len(images.y_test), "accuracy": accuracies})
        return
    title = f"{checkpoint.name}: {info.model} on {data}, {len(images.y_test)} test images"
    if info.spiking:
        table(title, ["time steps", "accuracy"], [[str(t + 1), percent(a)] for t, a in enumerate(accuracies)])
    else:
        table(title, ["accuracy"], [[percent(accuracies[0])]])
