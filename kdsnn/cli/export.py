"""`kdsnn-deploy export`: write a network as ONNX and netx, read it back, verify it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdsnn.cli.options import Bits, InputBits, InputShape, Json, OutDir, Seed, Timesteps, Weights, writable_folder

if TYPE_CHECKING:
    from kdsnn.cli.source import Source

VERIFY_SAMPLES = 16


class Format(StrEnum):
    """A file format to write."""

    onnx = "onnx"
    netx = "netx"


def export(
    source: Annotated[str, typer.Argument(help="A checkpoint (.safetensors), or package.module:factory.")],
    out: OutDir,
    to: Annotated[list[Format] | None, typer.Option("--to", help="onnx, netx (repeatable; both by default).")] = None,
    bits: Bits = 8,
    input_bits: InputBits = 8,
    weights: Weights = None,
    input_shape: InputShape = None,
    timesteps: Timesteps = None,
    verify: Annotated[bool, typer.Option(help="Run what was written against the network it came from.")] = True,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Write a spiking network as ONNX and as netx (.net), read it back and verify every spike."""
    from dataclasses import asdict

    from kdsnn.cli.console import percent, print_json, si, table
    from kdsnn.cli.source import load

    writable_folder(out)
    network = load(source, bits=bits, input_bits=input_bits, T=timesteps, weights=weights, input_shape=input_shape)
    rows = []
    for format_ in to or list(Format):
        rows.append(write(network, format_, out, verify=verify, seed=seed))
    scales = [asdict(scale) for scale in network.scales] if Format.netx in (to or Format) else []
    if json:
        print_json({"files": rows, "quantisation": scales})
        return
    cells = [
        [
            r["format"],
            r["path"],
            si(r["bytes"], "B"),
            r["contents"],
            str(r["verified_spikes"] or "–"),
            str(r["mismatches"]),
        ]
        for r in rows
    ]
    table(f"exported {network.name}", ["format", "file", "size", "contents", "spikes verified", "mismatches"], cells)
    if scales:
        columns = ["layer", "largest weight", "threshold V", "scale", "limited by", "weight error (RMS)"]
        cells = [
            [
                s["name"],
                str(s["largest"]),
                str(s["threshold"]),
                f"{s['scale']:.4g}",
                s["limited_by"],
                percent(s["rms_error"]),
            ]
            for s in scales
        ]
        table(f"quantised to {bits} bits", columns, cells)


def write(network: Source, format_: Format, out: Path, *, verify: bool = True, seed: int = 0) -> dict[str, Any]:
    """Write one format, verify it on random input, and delete it again if it does not verify.

    Raises:
        DeployError: it cannot be expressed, or what was read back differs.
    """
    import numpy as np

    from exporters import netx, onnx
    from exporters.errors import DeployError
    from exporters.to_chain import layers, member_spikes, to_chain
    from hardware import emulator
    from kdsnn.errors import KdsnnError

    rng = np.random.default_rng(seed)
    x = (rng.integers(0, 256, (VERIFY_SAMPLES, *network.integer.input.shape)) / 255).astype(np.float32)
    if format_ is Format.onnx:
        if network.exact is None:
            raise KdsnnError(
                f"{network.name}: a netx file holds the quantised network only; export the checkpoint to ONNX"
            )
        path = onnx.write(network.exact, out / f"{network.name}.onnx")
        contents = f"{len(network.exact.neurons)} neuron layers, T={network.exact.T}, exact float32"
        graph = network.exact
    else:
        chain = to_chain(network.integer)
        path = netx.write(chain, out / f"{network.name}.net")
        contents = f"{len(layers(chain))} layers, T={chain.T}, integer"
        graph = network.integer
    row: dict[str, Any] = {
        "format": format_.value, "path": str(path), "bytes": path.stat().st_size, "contents": contents,
        "verified_spikes": 0, "mismatches": 0,
    }  # fmt: skip
    if not verify:
        return row
    recorder = emulator.Recorder(graph)
    emulator.run(graph, graph.encode(x), observe=recorder)
    if format_ is Format.onnx:
        found = onnx.run(path, x, layers=list(graph.neurons))
    else:
        again = emulator.Recorder(read := netx.read(path))
        emulator.run(read, read.encode(x), observe=again)
        found = member_spikes(read, again.spikes)
    for name, spikes in recorder.spikes.items():
        row["verified_spikes"] += spikes.size
        row["mismatches"] += int((found[name] != spikes).sum())
    if row["mismatches"]:
        path.unlink()
        if format_ is Format.netx:
            netx.sidecar_path(path).unlink()
        raise DeployError(
            f"{path}: {row['mismatches']} of {row['verified_spikes']} spikes differ from the network it was made from; "
            "the file was removed. Please report this with the checkpoint"
        )
    return row
