"""`kdsnn-deploy evaluate`: the accuracy of a checkpoint, at every time step."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kdsnn.cli.options import IMAGES, Data, Json, Wide, takes
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
    confusion: Annotated[
        bool,
        typer.Option(
            "--confusion", help="Show what each class is taken for: a matrix, of more than 10 classes a line for each."
        ),
    ] = False,
    json: Json = False,
    wide: Wide = False,
) -> None:
    """Print the test accuracy, for a spiking network after each of its T steps; --json has that of every class too."""
    import kdsnn
    from kdsnn.cli.console import draw, progress, show

    with progress(quiet=json) as told:
        result = kdsnn.evaluate(checkpoint, data, weights=weights, device=device, progress=told, **images_of(images))
    show(result, json=json, wide=wide)
    if confusion and not json:
        draw(result.confusion_table(), wide=wide)
