"""`kdsnn-deploy evaluate`: the accuracy of a checkpoint, at every time step."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kdsnn.cli.options import IMAGES, Data, Json, takes
from kdsnn.cli.texts import images_of


@takes(images=IMAGES)
def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="A checkpoint (.safetensors), or package.module:factory.")],
    images: dict[str, Any],
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Of a factory: the checkpoint of its network.")
    ] = None,
    data: Data = None,
    device: Annotated[
        str | None, typer.Option(help="Where torch computes: cpu, cuda, cuda:1, mps.", show_default="cpu")
    ] = None,
    json: Json = False,
) -> None:
    """Print the test accuracy, for a spiking network after each of its T steps."""
    import kdsnn
    from kdsnn.cli.console import show

    show(kdsnn.evaluate(checkpoint, data, weights=weights, device=device, **images_of(images)), json=json)
