"""`kdsnn-deploy run`: run a network on one back end or several, and compare them spike for spike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kdsnn.cli.options import LOWERING, Data, Encoder, Json, Resized, Wide, takes
from kdsnn.cli.texts import listed, lowering_of, size_of


@takes(lowering=LOWERING)
def run(
    source: Annotated[
        str,
        typer.Argument(
            help="A checkpoint (.safetensors), a .net, .nir or .onnx file (of this program, or of an ANN), or package.module:factory."
        ),
    ],
    lowering: dict[str, Any],
    on: Annotated[
        list[str] | None,
        typer.Option(
            "--on",
            help="torch, onnx, emulator, lava, sanafe; repeatable, or comma-separated.",
            show_default="emulator; of a .onnx file onnx, which it runs on alone",
        ),
    ] = None,
    data: Data = None,
    image_size: Resized = None,
    samples: Annotated[int, typer.Option(min=1, help="How many test images, spread over the set.")] = 20,
    save: Annotated[Path | None, typer.Option(help="Write integer input and output spikes to this .npz.")] = None,
    encoder: Encoder = "chip",
    timeout: Annotated[
        float | None,
        typer.Option(help="Seconds after which a Lava run is given up.", show_default="by the work there is"),
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Show every layer's mismatching spikes.")] = False,
    stock_lava: Annotated[bool, typer.Option("--stock-lava", help="Lava's own slow convolution.")] = False,
    json: Json = False,
    wide: Wide = False,
) -> None:
    """Run test images on one or several backends; several are compared spike for spike.

    Exits with 1 when two backends differ that must not (onnx and torch, lava or sanafe and emulator), or when one cannot run this
    network and the others do.
    """
    import kdsnn
    from kdsnn.cli.console import draw, progress, say, show

    with progress(quiet=json) as told:
        result = kdsnn.run(
            source, data, on=listed(on, "onnx" if Path(source).suffix == ".onnx" else "emulator"), samples=samples, save=save,
            image_size=size_of(image_size),
            encoder=encoder, timeout=timeout, stock_lava=stock_lava, progress=told, **lowering_of(lowering),
        )  # fmt: skip
    show(result, json=json, wide=wide)
    if compare and not result.comparisons:
        say("note: --compare: one back end ran, and there is nothing to compare it with; name more with --on")
    elif compare and not json:
        draw(result.layers_table(), wide=wide)
    if not result.ok:
        raise typer.Exit(1)
