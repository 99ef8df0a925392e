"""`kdsnn-deploy export`: write a network as ONNX and netx, read it back, verify it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdsnn.cli.coding import InputCoding
from kdsnn.cli.encoding import EncoderAt, Where
from kdsnn.cli.options import (
    Bits,
    Calibrate,
    CalibrationSamples,
    InputBits,
    InputShape,
    Json,
    Nir,
    OutDir,
    Seed,
    Timesteps,
    Weights,
    nir_options,
    writable_folder,
)

if TYPE_CHECKING:
    from exporters.graph import Array, SpikingGraph
    from kdsnn.cli.source import Source

VERIFY_SAMPLES = 16


class Format(StrEnum):
    """A file format to write."""

    onnx = "onnx"
    netx = "netx"
    nir = "nir"


class Form(StrEnum):
    """How an ONNX model treats time."""

    sequence = "sequence"
    loop = "loop"
    step = "step"


def export(
    source: Annotated[str, typer.Argument(help="A checkpoint (.safetensors), a .nir file, or package.module:factory.")],
    out: OutDir,
    to: Annotated[
        list[Format] | None, typer.Option("--to", help="onnx, netx, nir (repeatable; onnx and netx by default).")
    ] = None,
    form: Annotated[
        list[Form] | None,
        typer.Option("--form", help="ONNX: sequence (T fixed), loop (T an input), step (states explicit); repeatable."),
    ] = None,
    quantized: Annotated[
        bool, typer.Option("--quantized", help="ONNX: the integer network too, bit-identical to the emulator and Lava.")
    ] = False,
    bits: Bits = None,
    input_bits: InputBits = 8,
    calibrate: Calibrate = None,
    calibration_samples: CalibrationSamples = 512,
    weights: Weights = None,
    input_shape: InputShape = None,
    timesteps: Timesteps = None,
    input_coding: InputCoding = None,
    nir: Nir = None,
    encoder: EncoderAt = Where.chip,
    verify: Annotated[bool, typer.Option(help="Run what was written against the network it came from.")] = True,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Write a spiking network as ONNX, netx (.net) or NIR, read it back and verify every spike of every layer.

    The checkpoint of an ANN teacher is written as plain ONNX.
    """
    from dataclasses import replace

    from kdsnn.cli.calibrating import drift_rows
    from kdsnn.cli.console import print_json
    from kdsnn.cli.encoding import on_host
    from kdsnn.cli.places import sole_writer
    from kdsnn.cli.source import load
    from kdsnn.errors import KdsnnError

    if encoder is Where.host and Format.netx not in (to or [Format.netx]):
        raise KdsnnError("--encoder host: it divides the network for the chip; add --to netx")
    writable_folder(out)
    formats = to or [Format.onnx, Format.netx]
    holds_integers = Format.netx in formats or (quantized and Format.onnx in formats)
    scales: list[dict[str, Any]] = []
    if source.endswith(".safetensors") and not _is_spiking(Path(source)):
        if calibrate is not None:
            raise KdsnnError(
                f"--calibrate {calibrate}: {source} is an ANN and is not quantized; give a spiking student"
            )
        with sole_writer(out / Path(source).stem):
            rows = [_write_teacher(Path(source), out)]
    else:
        if calibrate is not None and not holds_integers:
            raise KdsnnError(
                f"--calibrate {calibrate}: no file holds the quantized network; add --to netx, or --quantized for ONNX"
            )
        network = load(
            source, bits=bits, input_bits=input_bits, T=timesteps, weights=weights, input_shape=input_shape,
            calibrate=calibrate, calibration_samples=calibration_samples, nir=nir_options(nir),
            input_coding=input_coding, quiet=json,
        )  # fmt: skip
        wanted: list[tuple[Format, Form, bool]] = []
        for format_ in formats:
            forms = form or [Form.sequence] if format_ is Format.onnx else [Form.sequence]
            arithmetics = [False, True] if format_ is Format.onnx and quantized else [False]
            wanted += [(format_, f, integer) for f in forms for integer in arithmetics]
        wanted.sort(
            key=lambda one: one[0] is not Format.netx
        )  # what it cannot express is refused before anything is written
        split = on_host(network) if encoder is Where.host else network
        rows = []
        with sole_writer(out / network.name):
            for format_, shape, i in wanted:
                one = split if format_ is Format.netx else network
                rows.append(write(one, format_, out, form=shape, integer=i, verify=verify, seed=seed))
            if split.encoder is not None and split.encoder.graph is not None:
                host = replace(network, name=f"{network.name}.encoder", exact=split.encoder.graph)
                rows.append(write(host, Format.onnx, out, verify=verify, seed=seed))
        if holds_integers:
            scales = drift_rows(split.scales if formats == [Format.netx] else network.scales, network.drifts)
            bits = network.integer.metadata.get("quantization", {}).get("bits")
    if json:
        print_json({"files": rows, "quantization": scales})
    else:
        _print(source, rows, scales, bits)


def _print(source: str, rows: list[dict[str, Any]], scales: list[dict[str, Any]], bits: int | None) -> None:
    from kdsnn.cli.calibrating import print_quantization
    from kdsnn.cli.console import si, table

    cells = [
        [r["format"], r["path"], si(r["bytes"], "B"), r["contents"], str(r["verified"] or "–"), str(r["mismatches"])]
        for r in rows
    ]
    table(f"exported {source}", ["format", "file", "size", "contents", "spikes verified", "mismatches"], cells)
    if scales:
        print_quantization(f"quantized to {bits} bits", scales)


def write(
    network: Source,
    format_: Format,
    out: Path,
    *,
    form: Form = Form.sequence,
    integer: bool = False,
    verify: bool = True,
    seed: int = 0,
) -> dict[str, Any]:
    """Write one file, verify it on random input, and delete it again if it does not verify.

    Raises:
        DeployError: it cannot be expressed, or what was read back differs.
    """
    import numpy as np

    from exporters.errors import DeployError
    from hardware import emulator

    if format_ is Format.onnx:
        graph, path, contents, again = _write_onnx(network, out, form, integer)
    elif format_ is Format.netx:
        graph, path, contents, again = _write_netx(network, out)
    else:
        graph, path, contents, again = _write_nir(network, out)
    row: dict[str, Any] = {
        "format": format_.value, "path": str(path), "bytes": path.stat().st_size, "contents": contents,
        "verified": 0, "mismatches": 0,
    }  # fmt: skip
    if not verify:
        return row
    rng = np.random.default_rng(seed)
    shape = graph.input.shape
    if graph.input.encoding == "direct":
        x = (rng.integers(0, 256, (VERIFY_SAMPLES, *shape)) / 255).astype(np.float32)
    else:
        x = rng.integers(0, 2, (VERIFY_SAMPLES, graph.T, *shape)).astype(np.float32)
    recorder = emulator.Recorder(graph)
    emulator.run(graph, graph.encode(x), observe=recorder)
    found = again(x)
    for name, spikes in recorder.spikes.items():
        row["verified"] += spikes.size
        row["mismatches"] += int((found[name] != spikes).sum())
    if row["mismatches"]:
        path.unlink()
        path.with_name(f"{path.name}.json").unlink(missing_ok=True)
        raise DeployError(
            f"{path}: {row['mismatches']} of {row['verified']} spikes differ from the network it was made from; "
            "the file was removed. Please report this with the checkpoint"
        )
    return row


Written = tuple["SpikingGraph", Path, str, Callable[["Array"], Mapping[str, "Array"]]]
"""The graph that was written, where, what the file holds, and a function that runs it: samples → spikes by layer."""


def _write_onnx(network: Source, out: Path, form: Form, integer: bool) -> Written:
    from exporters import onnx
    from kdsnn.errors import KdsnnError

    graph = network.integer if integer else network.exact
    if graph is None:
        raise KdsnnError(f"{network.name}: a netx file holds the quantized network only; export the checkpoint to ONNX")
    parts = [network.name, *(["int8"] if integer else []), *([] if form is Form.sequence else [form.value]), "onnx"]
    path = onnx.write(graph, out / ".".join(parts), form.value)
    arithmetic = "integer" if integer else "exact float32"
    contents = f"{form.value}, {onnx.node_count(path)} nodes, T={graph.T}, {arithmetic}"
    return graph, path, contents, lambda x: onnx.run(path, x, layers=list(graph.neurons))


def _write_netx(network: Source, out: Path) -> Written:
    from exporters import netx
    from exporters.passes.chain import chain_layers, member_spikes, to_chain

    chain = to_chain(network.integer)
    path = netx.write(chain, out / f"{network.name}.net")
    contents = f"{len(chain_layers(chain))} layers, T={chain.T}, integer"

    def again(x: Array) -> Mapping[str, Array]:
        read = netx.read(path)
        return member_spikes(read, _spikes(read, x))

    return network.integer, path, contents, again


def _write_nir(network: Source, out: Path) -> Written:
    from exporters import nir
    from kdsnn.cli.console import say

    # as lowered, on real-valued images, which other programs can run; float64 keeps every spike
    graph = network.graph or network.integer
    path = nir.write(graph, out / f"{network.name}.nir")
    for sentence in nir.losses(graph):
        say(f"note: {sentence}")
    return graph, path, f"{len(graph.nodes)} nodes, T={graph.T}", lambda x: _spikes(nir.read(path), x)


def _spikes(graph: SpikingGraph, x: Array) -> Mapping[str, Array]:
    from hardware import emulator

    recorder = emulator.Recorder(graph)
    emulator.run(graph, graph.encode(x), observe=recorder)
    return recorder.spikes


def _is_spiking(path: Path) -> bool:
    from kdsnn import checkpoint

    return checkpoint.read_info(path).spiking


def _write_teacher(source: Path, out: Path) -> dict[str, Any]:
    """An ANN as ONNX, verified against torch by its logits."""
    from exporters.onnx.ann import write_ann
    from kdsnn import checkpoint

    module, info = checkpoint.load(source)
    path = out / f"{source.stem}.onnx"
    error = write_ann(module, info.input_shape, path)
    return {
        "format": "onnx", "path": str(path), "bytes": path.stat().st_size,
        "contents": f"ANN, largest logit error {error:.1e}", "verified": 0, "mismatches": 0,
    }  # fmt: skip
