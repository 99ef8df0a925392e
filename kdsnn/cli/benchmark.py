"""`kdsnn-deploy benchmark`: how fast this machine simulates a network on every back end."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from kdsnn.cli.options import LOWERING, Data, Json, Resized, Wide, takes
from kdsnn.cli.texts import listed, lowering_of, size_of


@takes(lowering=LOWERING)
def benchmark(
    source: Annotated[
        str,
        typer.Argument(
            help="A checkpoint (.safetensors; of an ANN too), a .net, .nir or .onnx file, or package.module:factory."
        ),
    ],
    lowering: dict[str, Any],
    on: Annotated[
        list[str] | None,
        typer.Option(
            "--on",
            help="torch, onnx, emulator, lava, sanafe (repeatable, or comma-separated); by default all that are there.",
        ),
    ] = None,
    data: Data = None,
    image_size: Resized = None,
    samples: Annotated[int, typer.Option(min=1, help="How many test images, spread over the set.")] = 100,
    repeats: Annotated[int, typer.Option(min=1, help="How often each measurement is repeated.")] = 20,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples at a time, for the throughput.")] = 32,
    seconds: Annotated[
        float, typer.Option(min=0, help="After so long a measurement is not repeated any more (but three times it is).")
    ] = 10.0,
    json: Json = False,
    wide: Wide = False,
) -> None:
    """Measure latency, throughput, memory and accuracy of every back end, each warmed up: this machine's speed, not a chip's.

    Exits with 1 when a back end that was asked for cannot run this network and others can.
    """
    import kdsnn
    from kdsnn.cli.console import draw_note, progress, show

    with progress(quiet=json) as told:
        result = kdsnn.benchmark(
            source, data, on=listed(on, "") if on else (), samples=samples, repeats=repeats, batch_size=batch_size,
            seconds=seconds, image_size=size_of(image_size), progress=told, **lowering_of(lowering),
        )  # fmt: skip
    show(result, json=json, wide=wide)
    if not json:
        for note in result.notes:
            draw_note(note)
    if not result.ok:
        raise typer.Exit(1)
