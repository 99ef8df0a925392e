"""`kdsnn-deploy evaluate`: the accuracy of a checkpoint, at every time step."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kdsnn.cli.options import NOISE, Data, Json, takes


@takes(noise=NOISE)
def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint (.safetensors).")],
    noise: dict[str, Any],
    data: Data = "digits",
    json: Json = False,
) -> None:
    """Print the test accuracy, for a spiking network after each of its T steps."""
    import kdsnn
    from kdsnn.cli.console import show

    show(kdsnn.evaluate(checkpoint, data, **noise), json=json)
