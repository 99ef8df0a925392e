"""Calibration statistics against numpy on recorded values, and the drift report."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from exporters.errors import DeployError
from exporters.from_torch import from_torch
from exporters.graph import IF, Input, Linear, Output, SpikingGraph, chain
from exporters.passes.exact import make_exact
from exporters.passes.quantize import quantize
from hardware.emulator import Recorder, run
from hardware.emulator.calibration import calibrate, drift
from tests.networks import Case, random_integer_network, spiking_modules


def recorded(graph: SpikingGraph, frames: np.ndarray) -> dict[str, np.ndarray]:
    """Every node's values (T, N, *shape), repeated over T where they are the same at every step."""
    found: dict[str, np.ndarray] = {}

    def keep(name: str, values: torch.Tensor) -> None:
        found[name] = np.broadcast_to(values.double().numpy(), (graph.T, *values.shape[1:])).copy()

    run(graph, frames, observe=keep, batch_size=len(frames))
    return found


def samples(graph: SpikingGraph, n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if graph.input.encoding == "spikes":
        return rng.integers(0, 2, (n, graph.T, *graph.input.shape)).astype(np.float32)
    return rng.integers(0, 256, (n, *graph.input.shape)) / 255


def assert_measured(graph: SpikingGraph, frames: np.ndarray, batch_size: int | None) -> None:
    values = recorded(graph, frames)
    found = calibrate(graph, frames, batch_size=batch_size)
    assert found.samples == len(frames)
    assert set(found.inputs) == set(graph.synapses) and set(found.rates) == set(graph.neurons)
    for name, moments in found.inputs.items():
        read = np.sum([values[s] for s in graph.sources(name)], axis=0)
        channels = np.moveaxis(read, 2, 0).reshape(read.shape[2], -1)
        np.testing.assert_allclose(moments.mean, channels.mean(axis=1), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(moments.variance, channels.var(axis=1), rtol=1e-6, atol=1e-9 * channels.max() ** 2)
    for name, rate in found.rates.items():
        assert rate == pytest.approx(values[name].mean())
    ends = [*graph.neurons, *([graph.output_name] if graph.output.readout == "membrane" else [])]
    assert set(found.peaks) == set(ends)
    for name in ends:
        into = values[name] if name == graph.output_name else np.sum([values[s] for s in graph.sources(name)], axis=0)
        assert found.peaks[name] == pytest.approx(np.abs(into).max())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([None, 1, 2]))
def test_statistics_of_integer_networks(seed: int, batch_size: int | None) -> None:
    graph = random_integer_network(seed)
    assert_measured(graph, graph.encode(samples(graph, 5, seed)), batch_size)


@settings(max_examples=15, deadline=None)
@given(spiking_modules())
def test_statistics_of_float_networks(case: Case) -> None:
    graph = from_torch(case.module, case.shape, case.T)
    assert_measured(graph, graph.encode(case.input(5).numpy()), 2)


def test_statistics_by_hand() -> None:
    """One image (0, 255), T = 2: the first neuron fires at step 2 only, the second at both, the third never."""
    weight = np.array([[0, 1], [0, 2], [1, 0]], np.int32)
    graph = chain(
        [("in", Input((2,), scale=255)), ("a", Linear(weight)), ("na", IF(510)), ("b", Linear(np.array([[4, -3, 1]], np.int32))), ("nb", IF(9)), ("out", Output())],
        2,
    )  # fmt: skip
    found = calibrate(graph, graph.encode(np.array([[0.0, 1.0]])))
    np.testing.assert_array_equal(found.inputs["a"].mean, [0, 255])
    np.testing.assert_array_equal(found.inputs["a"].variance, [0, 0])
    np.testing.assert_array_equal(found.inputs["b"].mean, [0.5, 1, 0])
    np.testing.assert_array_equal(found.inputs["b"].variance, [0.25, 0, 0])
    assert found.rates == {"na": 0.5, "nb": 0} and found.peaks == {"na": 510, "nb": 3}


@settings(max_examples=15, deadline=None)
@given(spiking_modules(), st.integers(3, 8))
def test_drift_tells_what_both_networks_did(case: Case, bits: int) -> None:
    graph = from_torch(case.module, case.shape, case.T)
    exact, x = make_exact(graph), case.input(4).numpy()
    before = calibrate(exact, exact.encode(x))
    try:
        integer, scales = quantize(graph, bits=bits, moments=before.inputs)
    except DeployError as error:
        assert "round to zero" in str(error) or "no scale fits" in str(error)
        return
    rows = drift(integer, scales, before, calibrate(integer, integer.encode(x)))
    assert [row.name for row in rows] == [s.name for s in scales] == list(integer.synapses)
    spikes = []
    for g in (exact, integer):
        recorder = Recorder(g)
        run(g, g.encode(x), observe=recorder)
        spikes.append(recorder.spikes)
    for row in rows:
        assert row.neurons in integer.targets(row.name)
        if row.neurons == integer.output_name:
            assert row.rate_float is None and row.rate_quantized is None
        else:
            assert row.rate_float == pytest.approx(spikes[0][row.neurons].mean())
            assert row.rate_quantized == pytest.approx(spikes[1][row.neurons].mean())
        assert row.register_used == row.peak / 131_071


def test_frames_of_another_shape_are_refused() -> None:
    graph = random_integer_network(1)
    with pytest.raises(DeployError, match="the emulator needs frames of shape"):
        calibrate(graph, np.zeros((2, 1, 1, 1), np.float32))
