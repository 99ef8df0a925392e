"""The file formats as a table: how each writes a network, how what was written is run again, and what is wrong with a file.

To add a format is to add its package to `exporters`, and an entry here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kdsnn.errors import KdsnnError, notice

if TYPE_CHECKING:
    from exporters.graph import Array, SpikingGraph
    from exporters.onnx import Form
    from kdsnn.deploy.lowered import Lowered

FormatName = Literal["onnx", "netx", "nir", "sanafe"]
FORMS = ("sequence", "loop", "step")
"""How ONNX models may treat time: T fixed, T an input, states explicit."""


@dataclass(frozen=True)
class Wanted:
    """One file to write: its format; of an ONNX model its form, whether it holds the integer network, and its opset (None: that
    of `exporters.onnx`)."""

    format: FormatName
    form: Form = "sequence"
    integer: bool = False
    opset: int | None = None


@dataclass(frozen=True, eq=False)
class WrittenFile:
    """A file that was written, and how to run it.

    Attributes:
        graph: what was written.
        path: where.
        contents: what the file holds, in words.
        run: real-valued samples (N, *shape) → the spikes (N, T, *shape) of every neuron layer, and under the output's name
            what comes out, spikes or membranes (N, T, F), if `rounds`.
            None where what would run it is not installed.
        rounds: whether it adds up in another order than the emulator, so that rounding decides where a membrane is at its threshold.
        partial: whether layers that run on the host are not in the file.
    """

    graph: SpikingGraph
    path: Path
    contents: str
    run: Callable[[Array], Mapping[str, Array]] | None
    rounds: bool = False
    partial: bool = False


@dataclass(frozen=True)
class Format:
    """A format is one way to keep a network in a file.

    Attributes:
        suffix: how its files end.
        write: writes a network into a folder, and says how to run what it wrote.
        problems: what is wrong with a readable file, "layer: what; what to change" each. It raises DeployError for one that
            cannot be read.
    """

    suffix: str
    write: Callable[[Lowered, Wanted, Path], WrittenFile]
    problems: Callable[[Path], list[str]]


def integer_name(network: Lowered, *, always: bool = False) -> str:
    """What a file of the quantized network is called: it carries the bits where they are not 8, or `always`."""
    mark = f".int{network.bits or 8}"
    told = network.name.endswith(mark) or (mark == ".int8" and not always)
    return network.name if told else f"{network.name}{mark}"


def _write_onnx(network: Lowered, wanted: Wanted, out: Path) -> WrittenFile:
    from exporters import onnx

    graph = network.integer if wanted.integer else network.running
    if graph is None:
        raise KdsnnError(f"{network.name}: a netx file holds the quantized network only; export the checkpoint to ONNX")
    form = [] if wanted.form == "sequence" else [wanted.form]
    parts = [integer_name(network, always=True) if wanted.integer else network.name, *form, "onnx"]
    path = onnx.write(graph, out / ".".join(parts), wanted.form, opset=wanted.opset or onnx.OPSET)
    rounds = graph is network.graph and not graph.is_integer
    arithmetic = "integer" if wanted.integer else "float32" if rounds else "exact float32"
    contents = f"{wanted.form}, {onnx.node_count(path)} nodes, T={graph.T}, {arithmetic}"

    def again(x: Array) -> Mapping[str, Array]:
        found = onnx.run(path, x, layers=list(graph.neurons))
        return {**found, graph.output_name: found["spikes" if "spikes" in found else "membrane"]}

    return WrittenFile(graph, path, contents, again, rounds)


def _write_netx(network: Lowered, wanted: Wanted, out: Path) -> WrittenFile:
    from exporters import netx
    from exporters.passes.chain import chain_layers, member_spikes, to_chain

    chain = to_chain(network.integer)
    path = netx.write(chain, out / f"{integer_name(network)}.net")
    contents = f"{len(chain_layers(chain))} layers, T={chain.T}, integer"

    def again(x: Array) -> Mapping[str, Array]:
        read = netx.read(path)
        return member_spikes(read, _spikes(read, x))

    return WrittenFile(network.integer, path, contents, again)


def _write_nir(network: Lowered, wanted: Wanted, out: Path) -> WrittenFile:
    from exporters import nir

    # as lowered, on real-valued images, which other programs can run; float64 keeps every spike
    graph = network.graph or network.integer
    path = nir.write(graph, out / f"{network.name}.nir")
    contents = f"{len(graph.nodes)} nodes, T={graph.T}"
    for sentence in nir.losses(graph):
        notice(sentence)
    return WrittenFile(graph, path, contents, lambda x: _spikes(nir.read(path), x))


def _write_sanafe(network: Lowered, wanted: Wanted, out: Path) -> WrittenFile:
    from exporters.errors import DeployError
    from exporters.files import atomic_path
    from exporters.passes.chain import member_spikes
    from hardware import sanafe
    from kdsnn.deploy.sanafe import described

    ready = described(network)
    found = ready.description
    path = out / f"{integer_name(network)}.sanafe.yaml"
    with atomic_path(path) as temporary:
        temporary.write_text(found.text, encoding="utf-8")
    contents = (
        f"{len(found.layers)} layers, {found.synapses:,} synapses, T={found.T}, {found.steps} chip steps, integer"
    )

    def again(x: Array) -> Mapping[str, Array]:
        spikes = ready.run(network.integer.encode(x)).spikes
        return member_spikes(ready.chain, {name: s for name, s in spikes.items() if name in ready.chain.neurons})

    try:
        sanafe.python_path()
    except DeployError:
        return WrittenFile(network.integer, path, f"{contents}; not run, SANA-FE is not known here", None)
    return WrittenFile(network.integer, path, contents, again, partial=True)


def _spikes(graph: SpikingGraph, x: Array) -> Mapping[str, Array]:
    from hardware import emulator

    recorder = emulator.Recorder(graph)
    emulator.run(graph, graph.encode(x), observe=recorder)
    return recorder.spikes


def _problems_onnx(path: Path) -> list[str]:
    from exporters import onnx

    onnx.load(path)
    return []


def _problems_netx(path: Path) -> list[str]:
    from exporters import netx

    return netx.validate(path)


def _problems_sanafe(path: Path) -> list[str]:
    raise KdsnnError(
        f"{path}: a description for SANA-FE is written and run, not read; check the network it was made from"
    )


def _problems_nir(path: Path) -> list[str]:
    from exporters.nir import check

    check.load(path)
    return []


FORMATS: Mapping[str, Format] = {
    "onnx": Format(".onnx", _write_onnx, _problems_onnx),
    "netx": Format(".net", _write_netx, _problems_netx),
    "nir": Format(".nir", _write_nir, _problems_nir),
    "sanafe": Format(".yaml", _write_sanafe, _problems_sanafe),
}
"""Name → format, in the order in which they are offered."""
