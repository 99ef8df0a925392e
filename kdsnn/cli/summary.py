"""`kdsnn-deploy summary`: what a network is, layer by layer."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from kdsnn.cli.options import LOWERING, Json, Wide, takes
from kdsnn.cli.texts import lowering_of


@takes(lowering=LOWERING)
def summary(
    source: Annotated[
        str,
        typer.Argument(
            help="A checkpoint (.safetensors; of an ANN too), a .net, .nir or .onnx file, or package.module:factory."
        ),
    ],
    lowering: dict[str, Any],
    target: Annotated[
        str,
        typer.Option(
            "--target",
            help="The chip whose neurocores are counted: loihi1 or loihi2, or a .json file that describes another.",
        ),
    ] = "loihi1",
    json: Json = False,
    wide: Wide = False,
) -> None:
    """Print a network layer by layer: shapes, parameters, MACs, neurons, neurocores. No data is needed."""
    import kdsnn
    from kdsnn.cli.console import draw_note, progress, show

    with progress(quiet=json) as told:
        result = kdsnn.summary(source, target=target, progress=told, **lowering_of(lowering))
    show(result, json=json, wide=wide)
    if not json:
        for note in result.notes:
            draw_note(note)
