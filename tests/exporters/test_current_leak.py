"""Current-based neurons (slayer's CUBA) in every file format: what is read or run again spikes as the graph does."""

from __future__ import annotations

from pathlib import Path

import h5py
import nir
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporters import netx, onnx
from exporters import nir as nir_file
from exporters.errors import DeployError
from exporters.graph import IF, LIF, Conv2d, Flatten, GraphError, Input, Linear, Output, SpikingGraph, chain
from exporters.passes.chain import chain_layers, to_chain
from exporters.passes.exact import make_exact
from hardware.emulator import Recorder, run


def network(
    seed: int, *, integer: bool, leak: float, current_leak: float, bias: bool = True, T: int = 6
) -> SpikingGraph:
    """A convolution and two dense layers whose currents persist; pixels in, spikes out."""
    rng = np.random.default_rng(seed)

    def values(low: int, high: int, *shape: int) -> np.ndarray:
        w = rng.integers(low, high, shape)
        return w.astype(np.int32) if integer else w / 64

    def biases(n: int, size: int) -> np.ndarray | None:
        return values(-size, 2 * size, n) if bias else None

    unit = 255 if integer else 1
    cuba = {"leak": leak, "current_leak": current_leak}
    gain = 1 if integer else 1 / 64
    return chain(
        [("in", Input((2, 5, 5), scale=255 if integer else None)),
         ("conv", Conv2d(values(-40, 60, 4, 2, 3, 3), biases(4, 9 * unit), (2, 2))),
         ("s1", LIF(int(unit * 300) * gain, **cuba)), ("flat", Flatten()),
         ("fc1", Linear(values(-60, 80, 9, 16), biases(9, 9))), ("s2", LIF(120 * gain, **cuba)),
         ("fc2", Linear(values(-60, 80, 5, 9), biases(5, 9))), ("s3", LIF(150 * gain, **cuba)), ("out", Output())],
        T,
    )  # fmt: skip


def spikes(graph: SpikingGraph, x: np.ndarray) -> dict[str, np.ndarray]:
    recorder = Recorder(graph)
    run(graph, graph.encode(x), observe=recorder)
    return recorder.spikes


def pixels(seed: int, n: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 2, 5, 5)) / 255


decays = st.sampled_from([0, 1, 300, 2048, 4000, 4095])


@pytest.mark.parametrize("form", ["sequence", "loop", "step"])
@pytest.mark.parametrize("integer", [False, True])
def test_onnx_computes_them_in_every_form(tmp_path: Path, form: str, integer: bool) -> None:
    for seed, (leak, current_leak) in enumerate([(0.5, 0.75), (1.0, 0.3), (0.0, 1.0)]):
        graph = network(seed, integer=integer, leak=leak, current_leak=current_leak)
        graph = graph if integer else make_exact(graph)
        path = onnx.write(graph, tmp_path / f"{seed}.onnx", form)
        expected = spikes(graph, pixels(seed))
        assert 0.02 < np.mean([s.mean() for s in expected.values()]) < 0.95
        found = onnx.run(path, pixels(seed).astype(np.float32), layers=list(graph.neurons))
        for name, layer in expected.items():
            np.testing.assert_array_equal(found[name], layer, err_msg=f"{name} {leak} {current_leak}")


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**31), i=decays, v=st.integers(0, 4096))
def test_netx_keeps_both_decays(tmp_path: Path, seed: int, i: int, v: int) -> None:
    graph = network(seed, integer=True, leak=(4096 - v) / 4096, current_leak=(4096 - i) / 4096)
    path = netx.write(to_chain(graph), tmp_path / f"{seed}.net")
    with h5py.File(path) as file:
        assert (file["layer/1/neuron/iDecay"][()], file["layer/1/neuron/vDecay"][()]) == (i, v)
    again = netx.read(path)
    assert [(step.decay, step.current_decay) for step in chain_layers(again)] == [(v, i)] * 3
    for name, layer in spikes(graph, pixels(seed)).items():
        np.testing.assert_array_equal(spikes(again, pixels(seed))[name], layer)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**31), a=st.floats(0.01, 0.99), b=st.floats(0.01, 0.99))
def test_nir_holds_them_as_cuba_neurons(tmp_path: Path, seed: int, a: float, b: float) -> None:
    graph = network(seed, integer=False, leak=a, current_leak=b, bias=False)
    path = nir_file.write(graph, tmp_path / f"{seed}.nir")
    node = nir.read(str(path)).nodes["s1"]
    assert isinstance(node, nir.CubaLIF)
    # forward Euler of NIR's equations: I ← I + dt/τ_syn (w_in·x − I); v ← v + dt/τ_mem (R·I − v)
    dt = nir_file.DT
    np.testing.assert_allclose(1 - dt / node.tau_syn, b, rtol=1e-9)
    np.testing.assert_allclose(1 - dt / node.tau_mem, a, rtol=1e-9)
    np.testing.assert_allclose(dt / node.tau_syn * node.w_in * dt / node.tau_mem * node.r, 1, rtol=1e-9)
    again = nir_file.read(path)
    for name, layer in spikes(graph, pixels(seed)).items():
        np.testing.assert_array_equal(spikes(again, pixels(seed))[name], layer)


def test_nir_refuses_what_its_equations_do_not_say(tmp_path: Path) -> None:
    biased = network(0, integer=False, leak=0.5, current_leak=0.5)
    with pytest.raises(DeployError, match=r"s1: .*bias.*current"):
        nir_file.write(biased, tmp_path / "x.nir")
    for leaks in ({"leak": 1.0, "current_leak": 0.5}, {"leak": 0.5, "current_leak": 1.0}):
        with pytest.raises(DeployError, match=r"s1: .*leak"):
            nir_file.write(network(0, integer=False, bias=False, **leaks), tmp_path / "x.nir")
    assert not list(tmp_path.iterdir())


def test_relays_cannot_stand_beside_them() -> None:
    """A relay's current would persist too and repeat the spike again."""
    eye = Linear(np.eye(3, dtype=np.int32) * 9)
    nodes = {"in": Input((3,), "spikes"), "a": eye, "sa": IF(5), "b": eye, "sb": LIF(9, 0.5, current_leak=0.5), "c": eye,
             "d": eye, "sc": IF(9), "out": Output()}  # fmt: skip
    edges = [("in", "a"), ("a", "sa"), ("sa", "b"), ("b", "sb"), ("sb", "c"), ("c", "sc"), ("sa", "d"), ("d", "sc"), ("sc", "out")]  # fmt: skip
    with pytest.raises(DeployError, match=r"sb: its current persists .* spikes of sa"):
        to_chain(SpikingGraph(nodes, tuple(edges), 3))


def test_leaky_neurons_side_by_side_need_one_threshold() -> None:
    """Factors on weights would make thresholds alike, but not the truncation of the leak."""
    eye = Linear(np.eye(3, dtype=np.int32) * 9)
    nodes = {"in": Input((3,), "spikes"), "a": eye, "sa": LIF(5, 0.5), "b": eye, "sb": LIF(9, 0.5), "c": eye, "sc": IF(9), "out": Output()}  # fmt: skip
    edges = [("in", "a"), ("in", "b"), ("a", "sa"), ("b", "sb"), ("sa", "c"), ("sb", "c"), ("c", "sc"), ("sc", "out")]
    with pytest.raises(DeployError, match="different thresholds"):
        to_chain(SpikingGraph(nodes, tuple(edges), 3))


@pytest.mark.parametrize("leak", [-0.1, 1.5, float("nan")])
def test_impossible_leaks_are_refused(leak: float) -> None:
    nodes = [("in", Input((2,))), ("fc", Linear(np.eye(2))), ("s", LIF(1.0, 0.5, current_leak=leak)), ("out", Output())]
    with pytest.raises(GraphError, match="s: the current leak is"):
        chain(nodes, 2)


def test_only_synapses_can_feed_them() -> None:
    nodes = [("in", Input((2,), "spikes")), ("s", LIF(1.0, 0.5, current_leak=0.5)), ("out", Output())]
    with pytest.raises(GraphError, match="s: its current persists, so only synapse layers may feed it"):
        chain(nodes, 2)
