"""`kdsnn-deploy export`: write a network as ONNX, netx, NIR and for SANA-FE, read it back, verify it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from kdsnn.cli.options import LOWERING, Encoder, Json, OutDir, Seed, Wide, takes
from kdsnn.cli.texts import listed, lowering_of


@takes(lowering=LOWERING)
def export(
    source: Annotated[str, typer.Argument(help="A checkpoint (.safetensors), a .nir file, or package.module:factory.")],
    out: OutDir,
    lowering: dict[str, Any],
    to: Annotated[
        list[str] | None,
        typer.Option("--to", help="onnx, netx, nir, sanafe; repeatable, or comma-separated.", show_default="onnx,netx"),
    ] = None,
    form: Annotated[
        list[str] | None,
        typer.Option(
            "--form",
            help="ONNX: sequence (T fixed), loop (T an input), step (states explicit); repeatable, or comma-separated.",
            show_default="sequence",
        ),
    ] = None,
    quantized: Annotated[
        bool, typer.Option("--quantized", help="ONNX: the integer network too, bit-identical to the emulator and Lava.")
    ] = False,
    opset: Annotated[
        int | None, typer.Option("--opset", help="ONNX: the version of its operators, 18 to 23 (20 by default).")
    ] = None,
    encoder: Encoder = "chip",
    verify: Annotated[bool, typer.Option(help="Run what was written against the network it came from.")] = True,
    seed: Seed = 0,
    json: Json = False,
    wide: Wide = False,
) -> None:
    """Write a spiking network as ONNX, netx (.net), NIR or for SANA-FE, read it back and verify every spike of every layer.

    The checkpoint of an ANN teacher is written as plain ONNX. Exits with 1 when a format cannot express the network and
    the others are written, with 2 when none can.
    """
    import kdsnn
    from kdsnn.cli.console import progress, show

    with progress(quiet=json) as told:
        result = kdsnn.export(
            source, out, to=listed(to, "onnx,netx"), form=listed(form, "sequence"), quantized=quantized,  # type: ignore[arg-type]
            opset=opset, encoder=encoder, verify=verify, seed=seed, progress=told, **lowering_of(lowering),
        )  # fmt: skip
    show(result, json=json, wide=wide)
    if not result.ok:
        raise typer.Exit(1)
