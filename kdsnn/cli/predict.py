"""`kdsnn-deploy predict`: the class of images and recordings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kdsnn.cli.options import LOWERING, Json, Resized, Wide, takes
from kdsnn.cli.texts import lowering_of, size_of


@takes(lowering=LOWERING)
def predict(
    source: Annotated[
        str,
        typer.Argument(
            help="A checkpoint (.safetensors; of an ANN too), a .net, .nir or .onnx file, or package.module:factory."
        ),
    ],
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE…", help="Images (PNG, JPEG, …), .npy files of images or frames, recordings of events."
        ),
    ],
    lowering: dict[str, Any],
    on: Annotated[
        str | None,
        typer.Option(
            "--on",
            help="torch (as it was trained), onnx, emulator, lava or sanafe; by default torch, onnx for a .onnx file, "
            "emulator for a .net file.",
        ),
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="How many classes to show for each sample.")] = 1,
    image_size: Resized = None,
    json: Json = False,
    wide: Wide = False,
) -> None:
    """Print the class of each image or recording, with its score, and what it was taken for after each time step.

    Files are made what the network was trained on: size, channels, frames. Exits with 1 when some files cannot be used, and with 2
    when none can.
    """
    import kdsnn
    from kdsnn.cli.console import progress, say, show
    from kdsnn.cli.options import spelled
    from kdsnn.errors import OptionError

    with progress(quiet=json) as told:
        result = kdsnn.predict(
            source, files, on=on, top=top, image_size=size_of(image_size), progress=told, **lowering_of(lowering)
        )
    show(result, json=json, wide=wide)
    for one in result.refused:
        error = one.error
        say(f"error: {' '.join((error.worded(spelled) if isinstance(error, OptionError) else str(error)).split())}")
    if not result.ok:
        raise typer.Exit(1 if result.decisions else 2)
