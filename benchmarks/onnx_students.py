"""Every student of the paper at full width on onnxruntime: spikes that differ from torch's or the emulator's."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from benchmarks._networks import settled
from exporters import onnx
from exporters.from_torch import from_torch
from exporters.graph import SpikingGraph
from exporters.passes.exact import make_exact
from exporters.passes.quantize import quantize
from hardware import emulator

BATCH, TIMES = 3, (1, 4, 8)
STUDENTS = [
    ("cnn2", (1, 28, 28)), ("cnn2", (3, 32, 32)), ("resnet14", (3, 32, 32)), ("wrn16-2", (3, 32, 32)),
    ("vgg11", (3, 32, 32)), ("vgg16", (3, 32, 32)), ("resnet18", (3, 32, 32)),
]  # fmt: skip


def main() -> None:
    print(f"  batch {BATCH}, T = {TIMES}; spikes of every neuron layer at every step, summed over T")
    print(
        f"  {'student':9} {'input':12} {'arithmetic':10} {'form':9} {'file':>9} {'weights':>9} {'nodes':>6} {'layers':>6} "
        f"{'compared':>12} {'differ':>7}"
    )
    total = 0
    for name, shape in STUDENTS:
        graph = from_torch(settled(name, shape, steps=2), shape, max(TIMES))
        x = (np.random.default_rng(1).integers(0, 256, (BATCH, *shape)) / 255).astype(np.float32)
        for arithmetic, lowered in (("float32", make_exact(graph)), ("integer", quantize(graph)[0])):
            total += check(name, shape, arithmetic, lowered, x)
    print(f"  in all {total} spikes differ")


def check(name: str, shape: tuple[int, ...], arithmetic: str, graph: SpikingGraph, x: np.ndarray) -> int:
    """Every form against the emulator (a float graph: torch in exact arithmetic), for every T; prints a row each."""
    weights = sum(a.size for s in graph.synapses.values() for a in (s.weight, s.bias) if a is not None)
    bytes_each = 1 if arithmetic == "integer" else 4
    differ = 0
    with tempfile.TemporaryDirectory() as folder:
        expected = {}
        for T in TIMES:
            recorder = emulator.Recorder(at_T := graph.with_nodes({}, T=T))
            emulator.run(at_T, at_T.encode(x), observe=recorder)
            expected[T] = recorder.spikes
        rates = [float(spikes.mean()) for spikes in expected[max(TIMES)].values()]
        for form in onnx.FORMS:
            compared = wrong = 0
            for T in TIMES:
                path = Path(folder) / f"{form}.onnx"
                if form == "sequence" or not path.exists():  # loop and step: one file for every T
                    onnx.write(graph.with_nodes({}, T=T), path, form)
                wrong += sum(onnx.verify(path, x, expected[T], T=T).values())
                compared += sum(spikes.size for spikes in expected[T].values())
            size, nodes = path.stat().st_size / 1e6, onnx.node_count(path)
            print(
                f"  {name:9} {'×'.join(map(str, shape)):12} {arithmetic:10} {form:9} {size:6.2f} MB "
                f"{bytes_each * weights / 1e6:6.2f} MB {nodes:6} {len(rates):6} {compared:12,} {wrong:7}",
                flush=True,
            )
            differ += wrong
    print(f"  {'':9} firing rates of the layers {min(rates):.3f} to {max(rates):.3f}")
    return differ


if __name__ == "__main__":
    main()
