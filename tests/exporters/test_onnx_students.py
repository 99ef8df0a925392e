"""The paper's students at full width on onnxruntime: every neuron layer, every step, every form.

`python -m benchmarks onnx_students` runs the whole grid (T = 1, 4 and 8 in every form and arithmetic).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional

from exporters import onnx
from exporters.from_torch import from_torch
from exporters.graph import Array, SpikingGraph
from exporters.passes.exact import make_exact
from exporters.passes.quantize import quantize
from hardware.emulator import Recorder, run
from kdsnn import models
from tests.networks import Case

T, BATCH = 4, 3
SMALL = [("cnn2", (1, 28, 28)), ("cnn2", (3, 32, 32)), ("resnet14", (3, 32, 32)), ("wrn16-2", (3, 32, 32))]
LARGE = [("vgg11", (3, 32, 32)), ("resnet18", (3, 32, 32))]


def settled(name: str, shape: tuple[int, int, int]) -> torch.nn.Module:
    """Random weights with BatchNorm statistics that fit them, so that neurons fire as in a trained network."""
    torch.manual_seed(0)
    student = models.build(name, spiking=True, input_shape=shape, classes=10)
    for module in student.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        student.train()(torch.rand(2, 4, *shape))
    functional.reset_net(student)
    return student.eval()


def spikes_of(graph: SpikingGraph, x: Array) -> dict[str, Array]:
    recorder = Recorder(graph)
    run(graph, graph.encode(x), observe=recorder)
    return dict(recorder.spikes)


def differing(path: Path, x: Array, expected: dict[str, Array], steps: int) -> int:
    cut = {name: spikes[:, :steps] for name, spikes in expected.items()}  # what comes later changes nothing earlier
    return sum(onnx.verify(path, x, cut, T=steps).values())


@pytest.mark.parametrize(("name", "shape"), SMALL + LARGE, ids=lambda v: v if isinstance(v, str) else f"{v[0]}x{v[1]}")
def test_every_layer_at_every_step(tmp_path: Path, name: str, shape: tuple[int, int, int]) -> None:
    student = settled(name, shape).double()
    lowered = from_torch(student, shape, T)
    x = (np.random.default_rng(1).integers(0, 256, (BATCH, *shape)) / 255).astype(np.float32)
    steps = (1, 4, 8) if (name, shape) in SMALL else (1, 4)
    weights = 4 * sum(a.size for s in lowered.synapses.values() for a in (s.weight, s.bias) if a is not None)

    exact = make_exact(lowered)
    expected = spikes_of(exact.with_nodes({}, T=max(steps)), x)
    assert all(0.001 < spikes.mean() < 0.9 for spikes in expected.values())
    sequence = onnx.write(exact, tmp_path / "sequence.onnx", "sequence")
    assert differing(sequence, x, expected, T) == 0
    assert weights < sequence.stat().st_size < (1.02 * weights if name == "cnn2" else weights + 100_000)
    assert differing(onnx.write(exact, tmp_path / "step.onnx", "step"), x, expected, T) == 0
    loop = onnx.write(exact, tmp_path / "loop.onnx", "loop")
    for n in steps:
        assert differing(loop, x, expected, n) == 0, n
    if weights < 2**22:  # as it does for all of them at small width, see test_onnx.py
        longer = onnx.write(exact.with_nodes({}, T=64), tmp_path / "longer.onnx", "loop")
        assert onnx.node_count(longer) == onnx.node_count(loop)

    integer, _ = quantize(lowered)
    expected = spikes_of(integer, x)
    for form, n in (("sequence", T), ("loop", 1), ("step", 1)):
        path = onnx.write(integer, tmp_path / "integer.onnx", form)
        assert differing(path, x, expected, n) == 0, form
        assert path.stat().st_size < weights / 4 + 100_000

    # the graph itself against SpikingJelly's own module, in float64: ties that BatchNorm's rounding decides remain
    one = x[:1]
    _, theirs = Case(student, shape, T, True, 0).run(torch.from_numpy(one).double())
    recorder = Recorder(lowered)
    run(lowered, lowered.encode(one), observe=recorder, dtype=torch.float64)
    differ = sum(int((theirs[n].numpy() != spikes).sum()) for n, spikes in recorder.spikes.items())
    assert differ <= 1e-5 * sum(spikes.size for spikes in recorder.spikes.values())
