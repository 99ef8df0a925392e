"""How cost grows with batch, T, width and depth: time per unit of work, relative to the smallest size.

A ratio of 1 is linear growth; less is better than linear, as where a fixed cost is spread over more work.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._measure import Measured, compare, rounds
from benchmarks._networks import MNIST, T, in_a_long_run, pictures, settled
from exporters import netx, onnx
from exporters.from_torch import from_torch
from exporters.graph import SpikingGraph
from exporters.passes.chain import to_chain
from exporters.passes.exact import make_exact
from exporters.passes.quantize import quantize
from hardware import emulator
from profilers.counting.activity import ActivityCounter
from profilers.counting.sizes import graph_size

BATCH, CHANNELS = 8, 32
BATCHES, TIMES, WIDTHS, BLOCKS = (1, 8, 64), (1, 2, 4, 8), (16, 32, 64, 128), (1, 2, 4, 8)


@dataclass(frozen=True)
class Size:
    """A float graph, as lowered (T is in it), run with `batch` images: `work` units of it, and `parts` units to export."""

    graph: SpikingGraph
    batch: int
    work: float
    parts: float = 1


@dataclass(frozen=True)
class Axis:
    """Sizes from the smallest on, by name. `part`: what exporting is counted by; None where it does not depend on it."""

    network: str
    unit: str
    sizes: Mapping[str, Size]
    part: str | None


def rows(quick: bool) -> Iterator[Measured]:
    if not quick:
        in_a_long_run()
    for axis in axes(quick):
        sizes = axis.sizes
        works = {name: size.work for name, size in sizes.items()}
        for task, make in (("emulate", emulating), ("emulate and count", counting)):
            candidates = {name: make(size) for name, size in sizes.items()}
            yield from compare(f"{task} {axis.network}, {axis.unit}", candidates, rounds=rounds(quick, 5), per=works)
        if axis.part is not None:
            with tempfile.TemporaryDirectory() as folder:
                exports = {name: exporting(size, Path(folder)) for name, size in sizes.items()}
                parts = {name: size.parts for name, size in sizes.items()}
                group = f"quantize {axis.network.partition(', batch')[0]}, write ONNX and netx, {axis.part}"
                yield from compare(group, exports, rounds=rounds(quick, 5), per=parts)


def axes(quick: bool) -> Iterator[Axis]:
    few = 2 if quick else None
    graph = lowered("cnn2", channels=(CHANNELS, CHANNELS), hidden=4 * CHANNELS)
    network, per_work = f"cnn2 of {CHANNELS} channels", "per sample and million multiplications"
    batches = {f"batch {n}": Size(graph, n, n) for n in BATCHES[:few]}
    yield Axis(f"{network}, T = {T}", "per sample", batches, None)
    times = {f"T = {t}": Size(graph.with_nodes({}, T=t), BATCH, BATCH * t) for t in TIMES[:few]}
    yield Axis(f"{network}, batch {BATCH}", "per sample and step", times, "per network")
    widths = {}
    for n in WIDTHS[:few]:
        graph = lowered("cnn2", channels=(n, n), hidden=4 * n)
        widths[f"{n} channels"] = Size(graph, BATCH, work(graph), graph_size(graph).parameters / 1e6)
    yield Axis(f"cnn2, T = {T}, batch {BATCH}", per_work, widths, "per million parameters")
    depths = {}
    for n in BLOCKS[:few]:
        graph = lowered("resnet14", widths=(16, 16, 16), blocks=(n, n, n))
        depths[f"{6 * n + 2} layers"] = Size(graph, BATCH, work(graph), 6 * n + 2)
    yield Axis(f"ResNets of 16 channels, T = {T}, batch {BATCH}", per_work, depths, "per layer")


def lowered(name: str, **options: Any) -> SpikingGraph:
    return from_torch(settled(name, MNIST, **options), MNIST, T)


def work(graph: SpikingGraph) -> float:
    """Millions of multiplications of a batch: the layers that read the images once, all others at every step."""
    layers = graph_size(graph).layers.items()
    once = sum(layer.macs for name, layer in layers if graph.in_signal(name) != "spikes")
    return (
        BATCH * (once + graph.T * sum(layer.macs for name, layer in layers if graph.in_signal(name) == "spikes")) / 1e6
    )


def emulating(size: Size) -> Callable[[], object]:
    graph, _ = quantize(size.graph)
    frames = graph.encode(pictures(size.batch, MNIST))
    return lambda: emulator.run(graph, frames)


def counting(size: Size) -> Callable[[], object]:
    graph, _ = quantize(size.graph)
    frames = graph.encode(pictures(size.batch, MNIST))

    def function() -> object:
        counter = ActivityCounter(graph)
        emulator.run(graph, frames, observe=counter)
        return counter.result()

    return function


def exporting(size: Size, folder: Path) -> Callable[[], object]:
    def function() -> None:
        integer, _ = quantize(size.graph)
        onnx.write(make_exact(size.graph), folder / "net.onnx")
        netx.write(to_chain(integer), folder / "net.net")

    return function
