"""`kdsnn-deploy check`: will a network fit a chip, and what is lost, before anything is written."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from kdsnn.cli.options import LOWERING, Json, Wide, takes
from kdsnn.cli.texts import lowering_of


@takes(lowering=LOWERING)
def check(
    source: Annotated[
        str,
        typer.Argument(help="A checkpoint (.safetensors), a .net or .nir file, or package.module:factory."),
    ],
    target: Annotated[
        str,
        typer.Option(
            "--target", help="The chip: loihi1 or loihi2, see `list targets`, or a .json file that describes another."
        ),
    ],
    lowering: dict[str, Any],
    chips: Annotated[
        int | None, typer.Option("--chips", min=1, help="Chips at hand.", show_default="the largest system built")
    ] = None,
    json: Json = False,
    wide: Wide = False,
) -> None:
    """Say whether a network fits a chip, on how many cores, and what to change.

    Exit code 0: it fits; 1: it does not; 2: it could not be checked.
    """
    import kdsnn
    from kdsnn.cli.console import progress, show

    with progress(quiet=json) as told:
        result = kdsnn.check(source, target, chips=chips, progress=told, **lowering_of(lowering))
    show(result, json=json, wide=wide)
    if not json:
        print(result.verdict)
    raise typer.Exit(0 if result.fits else 1)
