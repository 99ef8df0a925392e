"""NIR: graph → file → graph, files as other frameworks write them, broken files."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporters import nir as door
from exporters.from_torch import from_torch
from exporters.graph import IF, LIF, AvgPool2d, Conv2d, Input, Linear, MaxPool2d, Output, SpikingGraph, chain
from exporters.passes.exact import make_exact
from exporters.passes.quantize import quantize
from hardware.emulator import Recorder, run
from kdsnn.models import build as build_model
from tests.networks import Case, random_integer_chain, randomize, spiking_modules

SHARED = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
DT = 1e-4


def spikes_of(graph: SpikingGraph, x: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    recorder = Recorder(graph)
    return run(graph, graph.encode(x), observe=recorder).output, recorder.spikes


def assert_round_trip(graph: SpikingGraph, x: np.ndarray, folder: Path) -> SpikingGraph:
    path = door.write(graph, folder / "net.nir")
    nir.read(path)  # with its own type check
    again = door.read(path)
    assert again.T == graph.T and again.is_integer == graph.is_integer and again.metadata == graph.metadata
    assert again.input.encoding == graph.input.encoding and again.input.scale == graph.input.scale
    assert [type(n) for n in again.nodes.values()] == [type(again.nodes[k]) for k in again.nodes]
    assert {n: type(node) for n, node in again.nodes.items()} == {n: type(node) for n, node in graph.nodes.items()}
    for name, neuron in graph.neurons.items():
        other = again.neurons[name]
        assert (other.threshold, other.reset, other.scale) == (neuron.threshold, neuron.reset, neuron.scale)
    (output, layers), (output2, layers2) = spikes_of(graph, x), spikes_of(again, x)
    np.testing.assert_array_equal(output2, output)
    for name, spikes in layers.items():
        np.testing.assert_array_equal(layers2[name], spikes, err_msg=name)
    return again


@SHARED
@given(spiking_modules())
def test_round_trip_of_float_networks(tmp_path: Path, case: Case) -> None:
    graph = make_exact(from_torch(case.module, case.shape, case.T, source="a.safetensors", accuracy=0.5))
    assert_round_trip(graph, case.input().numpy().astype(np.float32), tmp_path)


@SHARED
@given(spiking_modules())
def test_round_trip_of_quantized_networks(tmp_path: Path, case: Case) -> None:
    graph, _ = quantize(from_torch(case.module, case.shape, case.T))
    assert_round_trip(graph, case.input().numpy().astype(np.float32), tmp_path)


@SHARED
@given(st.integers(0, 10**6))
def test_round_trip_of_integer_chains(tmp_path: Path, seed: int) -> None:
    graph = random_integer_chain(seed)
    oblong = any(isinstance(n, Conv2d) and n.weight.shape[2] != n.weight.shape[3] for n in graph.nodes.values())
    x = np.random.default_rng(seed).random((3, *graph.input.shape)).astype(np.float32)
    assert not oblong
    assert_round_trip(graph, x, tmp_path)


@pytest.mark.parametrize("name", ["cnn2", "resnet14", "wrn16-2"])
def test_round_trip_of_students(tmp_path: Path, name: str) -> None:
    options = {"channels": (6, 8), "hidden": 16} if name == "cnn2" else {"stem": 4, "widths": (4, 8, 8)}
    student = build_model(name, spiking=True, input_shape=(1, 12, 12), classes=10, neuron="lif", **options)
    randomize(student, 1)
    x = np.random.default_rng(0).random((3, 1, 12, 12)).astype(np.float32)
    for graph in (lowered := from_torch(student, (1, 12, 12), 4), quantize(lowered)[0]):
        assert_round_trip(graph, x, tmp_path)


def test_max_pools_are_or_neurons_for_others(tmp_path: Path) -> None:
    """What a reader without our metadata sees: the same spikes, one more layer."""
    w = np.random.default_rng(0).normal(0.1, 0.5, (3, 1, 3, 3))
    graph = chain(
        [
            ("in", Input((1, 7, 7))), ("a/b", Conv2d(w)), ("sn", IF(1.0)),
            ("pool", MaxPool2d((3, 3), (2, 2), (1, 1))), ("out", Output()),
        ],
        5,
    )  # fmt: skip
    file = nir.read(door.write(graph, tmp_path / "net.nir"))
    assert sorted(file.nodes) == ["a.b", "in", "out", "pool", "pool.or", "sn"]
    for node in (file, *file.nodes.values()):
        node.metadata = {}
    plain = door.from_nir(file, T=5)
    assert [type(n) for n in plain.nodes.values()] == [Input, Conv2d, IF, Conv2d, IF, Output]
    x = np.random.default_rng(1).random((4, 1, 7, 7)).astype(np.float32)
    np.testing.assert_array_equal(spikes_of(plain, x)[0], spikes_of(graph, x)[0])


def test_what_others_do_not_see_is_said(tmp_path: Path) -> None:
    w = np.ones((2, 3), np.float32)
    soft = chain(
        [
            ("in", Input((3,))),
            ("fc", Linear(w)),
            ("sn", IF(1.0, "soft")),
            ("l", Linear(w[:, :2])),
            ("out", Output("membrane")),
        ],
        3,
    )
    found = " ".join(door.losses(soft))
    assert "reset by subtraction (sn)" in found and "summed over time" in found
    hard = soft.with_nodes({"sn": IF(1.0)})
    assert "multiplied by 255" in " ".join(door.losses(quantize(hard)[0]))


def test_average_pools_with_a_divisor_of_their_own_are_scaled_sums(tmp_path: Path) -> None:
    """What a reader without our metadata sees, too. Dyadic numbers: every sum is exact in any order."""
    w1, w2 = (np.round(8 * weights(*shape)) / 8 for shape in ((3, 1, 3, 3), (2, 3, 2, 2)))
    graph = chain(
        [
            ("in", Input((1, 8, 8), "spikes")), ("c1", Conv2d(w1, padding=(1, 1))), ("s1", IF(1.0)),
            ("pool", AvgPool2d((2, 2), (2, 2), divisor=8)), ("c2", Conv2d(w2)), ("s2", IF(0.125)), ("out", Output()),
        ],
        4,
    )  # fmt: skip
    x = (np.random.default_rng(3).random((5, 4, 1, 8, 8)) < 0.5).astype(np.float32)
    assert_round_trip(graph, x, tmp_path)
    file = nir.read(tmp_path / "net.nir")
    assert isinstance(file.nodes["pool"], nir.SumPool2d) and (file.nodes["pool.divisor"].scale == 1 / 8).all()
    for node in (file, *file.nodes.values()):
        node.metadata = {}
    plain = door.from_nir(file, T=4, dt=DT, encoding="spikes")
    expected = simulate(graph, x)
    np.testing.assert_array_equal(simulate(plain, x), expected)
    assert 0.05 < expected.mean() < 0.95


def test_names_that_only_a_slash_tells_apart(tmp_path: Path) -> None:
    w = weights(3, 3)
    graph = chain([("in", Input((3,))), ("a/b", Linear(w)), ("a.b", Linear(w)), ("sn", IF(0.5)), ("out", Output())], 3)
    again = assert_round_trip(graph, np.random.default_rng(0).random((4, 3)).astype(np.float32), tmp_path)
    assert list(again.nodes) == list(graph.nodes)
    assert {"a.b", "a.b_2"} <= set(nir.read(tmp_path / "net.nir").nodes)


def test_oblong_kernels_are_warned_of() -> None:
    graph = chain([("in", Input((1, 4, 4))), ("c", Conv2d(weights(1, 1, 1, 3))), ("sn", IF(1.0)), ("out", Output())], 1)
    assert any(said.startswith("c: nir 1.0.8 works out oblong kernels wrongly") for said in door.losses(graph))


def test_what_nir_has_no_word_for_is_refused(tmp_path: Path) -> None:
    pixels = ("in", Input((1, 4, 4)))
    pooled = chain(
        [
            pixels,
            ("pool", MaxPool2d((2, 2), (2, 2))),
            ("c", Conv2d(np.ones((1, 1, 1, 1)))),
            ("sn", IF(1.0)),
            ("out", Output()),
        ],
        1,
    )
    with pytest.raises(door.NirError, match="pool: NIR has no max-pool"):
        door.write(pooled, tmp_path / "net.nir")
    with pytest.raises(door.NirError, match="dt is 0"):
        door.write(pooled, tmp_path / "net.nir", dt=0)
    twice = SpikingGraph(
        {"in": Input((1,)), "fc": Linear(np.ones((1, 1))), "sn": IF(1.0), "out": Output()},
        (("in", "fc"), ("in", "fc"), ("fc", "sn"), ("sn", "out")), 1,
    )  # fmt: skip
    with pytest.raises(door.NirError, match="fc: it adds in twice"):
        door.write(twice, tmp_path / "net.nir")
    assert not list(tmp_path.iterdir())


# -- files as others write them -----------------------------------------------------------------------


def nir_chain(*nodes: Any, shape: tuple[int, ...], **extra: Any) -> Any:
    named = {
        "input": nir.Input(np.array(shape)),
        **{f"n{i}": n for i, n in enumerate(nodes)},
        "output": nir.Output(np.array([0])),
    }
    names = list(named)
    return nir.NIRGraph(named, list(itertools.pairwise(names)), type_check=False, **extra)


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.2, 0.6, shape).astype(np.float32)


def full(value: float, *shape: int) -> np.ndarray:
    return np.full(shape, value)


def simulate(graph: SpikingGraph, x: np.ndarray) -> np.ndarray:
    return spikes_of(graph, x)[0]


X = np.random.default_rng(5).random((6, 4)).astype(np.float32)


def lif(n: int, *, tau: float, r: float, threshold: float, leak_to: float = 0.0) -> Any:
    return nir.LIF(full(tau, n), full(r, n), full(leak_to, n), full(threshold, n), full(leak_to, n))


@pytest.mark.parametrize("dt", [1e-4, 1e-3])
def test_leaky_neurons_follow_euler(dt: float) -> None:
    """snnTorch: tau = dt/(1 − β), r = tau/dt.  SpikingJelly: r = 1 or tau/dt.  Norse: r = 1, dt = 1 ms."""
    w, tau, r, theta = weights(3, 4), 3.3 * dt, 1.7, 0.6
    graph = door.from_nir(nir_chain(nir.Linear(w), lif(3, tau=tau, r=r, threshold=theta), shape=(4,)), T=7, dt=dt)
    v, expected = np.zeros((6, 3)), []
    for _ in range(7):
        v = v + dt / tau * (0 - v + r * (X @ w.T.astype(np.float64)))
        expected.append(v > theta)
        v = np.where(v > theta, 0, v)
    np.testing.assert_array_equal(simulate(graph, X), np.stack(expected, 1))
    assert 0 < np.mean(expected) < 1
    assert any("above the threshold" in w for w in graph.metadata["nir_warnings"])


def test_exponential_leaks() -> None:
    node = lif(3, tau=2e-4, r=1.0, threshold=0.4)
    graph = door.from_nir(nir_chain(nir.Linear(weights(3, 4)), node, shape=(4,)), T=4, dt=1e-4, method="exponential")
    neuron = graph.neurons["n1"]
    assert isinstance(neuron, LIF) and neuron.leak == pytest.approx(np.exp(-0.5))
    assert neuron.threshold == pytest.approx(0.4 / (1 - np.exp(-0.5)))


def test_leak_and_reset_to_the_same_rest() -> None:
    w = weights(3, 4)
    node = lif(3, tau=3e-4, r=1.0, threshold=0.9, leak_to=0.2)
    graph = door.from_nir(nir_chain(nir.Affine(w, full(0.1, 3)), node, shape=(4,)), T=6, dt=1e-4)
    v, expected = np.full((6, 3), 0.2), []
    for _ in range(6):
        v = v + (0.2 - v + X @ w.T.astype(np.float64) + 0.1) / 3
        expected.append(v >= 0.9)
        v = np.where(v >= 0.9, 0.2, v)
    np.testing.assert_array_equal(simulate(graph, X), np.stack(expected, 1))
    assert any("counted from v_reset" in w for w in graph.metadata["nir_warnings"])


def test_current_based_neurons() -> None:
    """lava-dl: iDecay 4096 is tau_syn = dt; a longer tau_syn by forward Euler of its equations, in float64 here."""

    def cuba(tau_syn: float) -> Any:
        return nir.CubaLIF(
            full(tau_syn, 3), full(3e-4, 3), full(1.5, 3), full(0, 3), full(0.5, 3), full(0, 3), full(2.0, 3)
        )

    w = weights(3, 4)
    graph = door.from_nir(nir_chain(nir.Linear(w), cuba(1e-4), shape=(4,)), T=5, dt=1e-4)
    same = door.from_nir(nir_chain(nir.Linear(w), lif(3, tau=3e-4, r=3.0, threshold=0.5), shape=(4,)), T=5, dt=1e-4)
    np.testing.assert_array_equal(simulate(graph, X), simulate(same, X))
    lasting = door.from_nir(nir_chain(nir.Linear(w), cuba(5e-4), shape=(4,)), T=5, dt=1e-4)
    current, v, expected = np.zeros((len(X), 3)), np.zeros((len(X), 3)), []
    for _ in range(5):
        current = current + 1 / 5 * (2.0 * (X @ w.T) - current)
        v = v + 1 / 3 * (1.5 * current - v)
        expected.append(v > 0.5)
        v = np.where(v > 0.5, 0, v)
    np.testing.assert_array_equal(simulate(lasting, X), np.stack(expected, 1))
    assert any("synaptic current of the same step" in w for w in lasting.metadata["nir_warnings"])
    biased = door.from_nir(nir_chain(nir.Affine(w, full(0.25, 3)), cuba(5e-4), shape=(4,)), T=5, dt=1e-4)
    current, v, expected = np.zeros((len(X), 3)), np.zeros((len(X), 3)), []
    for _ in range(5):
        current = current + 1 / 5 * (2.0 * (X @ w.T + 0.25) - current)
        v = v + 1 / 3 * (1.5 * current - v)
        expected.append(v > 0.5)
        v = np.where(v > 0.5, 0, v)
    np.testing.assert_array_equal(simulate(biased, X), np.stack(expected, 1))
    assert any("a neuron that fires at every step (always)" in w for w in biased.metadata["nir_warnings"])
    maps = nir.CubaLIF(*(full(k * 1e-4, 3, 2, 2) for k in (5, 3)), *(full(k, 3, 2, 2) for k in (1.0, 0, 0.5, 0, 2.0)))
    with pytest.raises(door.NirError, match=r"n1: the biases .*tau_syn"):
        door.from_nir(
            nir_chain(nir.Conv2d(None, weights(3, 1, 1, 1), 1, 0, 1, 1, np.ones(3)), maps, shape=(1, 2, 2)), T=5
        )


def test_constants_per_neuron_and_scales_go_into_the_weights() -> None:
    w, scale, theta, r = weights(3, 4), np.array([0.5, 2, -1, 3]), np.array([0.5, 1, 2]), np.array([1e4, 2e4, 5e3])
    network = nir_chain(
        nir.Scale(scale),
        nir.Affine(w, full(0.1, 3)),
        nir.Scale(np.array([1.0, 2, 0.5])),
        nir.IF(r, theta, full(0, 3)),
        shape=(4,),
    )
    graph = door.from_nir(network, T=6)
    v, expected = np.zeros((6, 3)), []
    for _ in range(6):
        v = v + r * 1e-4 * ((X * scale) @ w.T.astype(np.float64) + 0.1) * np.array([1.0, 2, 0.5])
        expected.append(v > theta)
        v = np.where(v > theta, 0, v)
    np.testing.assert_array_equal(simulate(graph, X), np.stack(expected, 1))
    assert list(graph.nodes) == ["input", "n1", "n3", "output"] and 0 < np.mean(expected) < 1


def test_neurons_without_a_layer_and_thresholds() -> None:
    """Input straight into neurons (with a scale each), and a stateless Threshold behind."""
    uniform = door.from_nir(nir_chain(nir.Scale(full(2.0, 4)), nir.IF(full(1e4, 4), full(1.5, 4)), shape=(4,)), T=4)
    assert uniform.neurons["n1"].threshold == np.nextafter(np.float32(0.75), np.float32(1)) and not uniform.synapses
    varied = door.from_nir(
        nir_chain(nir.Scale(np.array([1, 2, 3, 4])), nir.IF(full(1e4, 4), full(1.5, 4)), shape=(4,)), T=4
    )
    v, expected = np.zeros((6, 4)), []
    for _ in range(4):
        v = v + X * [1, 2, 3, 4]
        expected.append(v >= 1.5)
        v = np.where(v >= 1.5, 0, v)
    np.testing.assert_array_equal(simulate(varied, X), np.stack(expected, 1))
    w = weights(3, 4)
    memoryless = door.from_nir(nir_chain(nir.Linear(w), nir.Threshold(full(0.5, 3)), shape=(4,)), T=3)
    np.testing.assert_array_equal(simulate(memoryless, X), np.repeat((X @ w.T > 0.5)[:, None], 3, 1))


def test_convolutions_pools_and_flatten() -> None:
    """1-D and grouped convolutions, string padding, sum and average pools with a scale behind, against torch."""
    from torch.nn import functional as F

    x = torch.from_numpy(np.random.default_rng(2).random((3, 4, 10)))
    w1, w2, w3 = (
        weights(6, 2, 3).astype(float),
        weights(4, 6, 1, seed=1).astype(float),
        weights(5, 20, seed=2).astype(float),
    )
    network = nir_chain(
        nir.Conv1d(10, w1, 1, "same", 1, 2, np.ones(6)), nir.IF(full(1e4, 6, 10), full(2.0, 6, 10)),
        nir.Conv1d(10, w2, np.array([2]), 0, np.array([1]), 1, np.zeros(4)), nir.IF(full(1e4, 1), full(0.5, 1)),
        nir.Flatten({"input": np.array([4, 5])}, 0, -1), nir.Linear(w3), shape=(4, 10),
    )  # fmt: skip
    graph = door.from_nir(network, T=1)
    s1 = (F.conv1d(x, torch.from_numpy(w1), torch.ones(6).double(), padding=1, groups=2) >= 2).double()
    s2 = (F.conv1d(s1, torch.from_numpy(w2), stride=2) >= 0.5).double()
    expected = (s2.flatten(1) @ torch.from_numpy(w3).T).numpy()
    found = run(graph, x.numpy().reshape(3, 4, 1, 10).astype(np.float64), dtype=torch.float64)
    np.testing.assert_allclose(found.output[:, 0], expected)
    assert any("becomes (C, 1, L)" in w for w in graph.metadata["nir_warnings"])

    x2 = torch.from_numpy(np.random.default_rng(3).random((2, 3, 8, 8)))
    w4 = weights(2, 3, 3, 3).astype(float)
    network = nir_chain(
        nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])), nir.Scale(np.array([1.0, 2, 3])),
        nir.AvgPool2d(np.array([2, 2]), np.array([1, 1]), np.array([1, 1])), nir.Conv2d(None, w4, 1, "valid", 1, 1, np.zeros(2)),
        nir.Flatten(None, 0, -1), nir.IF(full(1e4, 18), full(2.0, 18)), shape=(3, 8, 8),
    )  # fmt: skip
    graph = door.from_nir(network, T=1)
    y = F.avg_pool2d(4 * F.avg_pool2d(x2, 2) * torch.tensor([1.0, 2, 3]).reshape(3, 1, 1), 2, 1, 1)
    expected = (F.conv2d(y, torch.from_numpy(w4)).flatten(1) >= 2).numpy()
    np.testing.assert_array_equal(run(graph, x2.numpy(), dtype=torch.float64).output[:, 0], expected)


def conv(*shape: int, padding: Any = 0) -> Any:
    return nir.Conv2d(None, weights(*shape).astype(float), 1, padding, 1, 1, np.zeros(shape[0]))


def fires(n: int, threshold: float) -> Any:
    """IF neurons for one step: current ≥ threshold."""
    return nir.IF(full(1e4, n), full(threshold, n))


PER_PIXEL = np.random.default_rng(1).uniform(0.5, 2, (2, 4, 4))
SCALED = {
    "one scale, convolution": (
        lambda: [nir.Scale(full(1.5, 1)), conv(3, 2, 3, 3), nir.Flatten(None, 0, -1), fires(12, 0.5)],
        lambda x: convolved(1.5 * x).reshape(len(x), -1) >= 0.5,
    ),
    "one scale, dense": (
        lambda: [nir.Flatten(None, 0, -1), nir.Scale(full(1.5, 1)), nir.Linear(weights(3, 32).astype(float)), fires(3, 3.6)],
        lambda x: 1.5 * x.reshape(len(x), -1) @ weights(3, 32).T.astype(float) >= 3.6,
    ),
    "a scale per pixel, flattened": (
        lambda: [nir.Scale(PER_PIXEL), nir.Flatten(None, 0, -1), nir.Linear(weights(3, 32).astype(float)), fires(3, 2.4)],
        lambda x: (x * PER_PIXEL).reshape(len(x), -1) @ weights(3, 32).T.astype(float) >= 2.4,
    ),
    "a scale per channel into neurons": (
        lambda: [nir.Scale(np.array([1.0, 3.0])), nir.IF(full(1e4, 2, 4, 4), full(0.9, 2, 4, 4)), nir.Flatten(None, 0, -1)],
        lambda x: (x * np.array([1.0, 3.0]).reshape(2, 1, 1)).reshape(len(x), -1) >= 0.9,
    ),
    "flattened from the batch axis": (
        lambda: [nir.Flatten({"input": np.array([2, 4, 4])}, 1, -1), nir.Linear(weights(3, 32).astype(float)), fires(3, 2.4)],
        lambda x: x.reshape(len(x), -1) @ weights(3, 32).T.astype(float) >= 2.4,
    ),
    "flattened twice, axes counted from behind": (
        lambda: [nir.Flatten(None, -3, -1), nir.Flatten(None, 0, -1), nir.Linear(weights(3, 32).astype(float)), fires(3, 2.4)],
        lambda x: x.reshape(len(x), -1) @ weights(3, 32).T.astype(float) >= 2.4,
    ),
}  # fmt: skip


def convolved(x: np.ndarray) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, weights(3, 2, 3, 3).astype(float))


@pytest.mark.parametrize("name", SCALED)
def test_scales_and_flattening_in_numpy(name: str) -> None:
    nodes, expected = SCALED[name]
    x = np.random.default_rng(4).random((6, 2, 4, 4))
    graph = door.from_nir(nir_chain(*nodes(), shape=(2, 4, 4)), T=1)
    found = run(graph, x, dtype=torch.float64).output
    np.testing.assert_array_equal(found.reshape(len(x), -1), expected(x))
    assert 0.05 < found.mean() < 0.95
    is_batch_axis = any("the first is taken to be the batch" in said for said in graph.metadata["nir_warnings"])
    assert is_batch_axis == ("batch axis" in name)


def test_differently_scaled_signals_are_pooled_one_by_one() -> None:
    """Their nodes get the pool's name, the second a number behind it."""
    network = nir.NIRGraph(
        {
            "in": nir.Input(np.array([2, 4, 4])), "double": nir.Scale(full(2.0, 2)), "if": nir.IF(full(1e4, 2, 4, 4), full(0.6, 2, 4, 4)),
            "pool": nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])), "conv": conv(3, 2, 1, 1), "flat": nir.Flatten(None, 0, -1),
            "last": fires(12, 1.5), "out": nir.Output(np.array([12])),
        },
        [("in", "if"), ("if", "double"), ("if", "pool"), ("double", "pool"), ("pool", "conv"), ("conv", "flat"), ("flat", "last"), ("last", "out")],
        type_check=False,
    )  # fmt: skip
    graph = door.from_nir(network, T=1)
    assert {"pool", "pool_2"} <= set(graph.nodes)
    x = np.random.default_rng(6).random((5, 2, 4, 4))
    pooled = 3.0 * (x >= 0.6).reshape(5, 2, 2, 2, 2, 2).sum(axis=(3, 5))
    expected = np.einsum("nchw,oc->nohw", pooled, weights(3, 2, 1, 1)[:, :, 0, 0].astype(float)).reshape(5, -1) >= 1.5
    np.testing.assert_array_equal(run(graph, x, dtype=torch.float64).output[:, 0], expected)
    assert 0.05 < expected.mean() < 0.95


def test_sub_graphs_and_residual_edges() -> None:
    block = nir.NIRGraph(
        {"input": nir.Input(np.array([3])), "fc": nir.Linear(weights(3, 3)), "if": nir.IF(full(1e4, 3), full(0.5, 3)), "output": nir.Output(np.array([3]))},
        [("input", "fc"), ("fc", "if"), ("if", "output")],
    )  # fmt: skip
    network = nir.NIRGraph(
        {"in": nir.Input(np.array([4])), "fc": nir.Linear(weights(3, 4)), "sn": nir.IF(full(1e4, 3), full(0.5, 3)), "block": block,
         "last": nir.Linear(weights(2, 3)), "sn2": nir.IF(full(1e4, 2), full(0.7, 2)), "out": nir.Output(np.array([2]))},
        [("in", "fc"), ("fc", "sn"), ("sn", "block"), ("sn", "last"), ("block", "last"), ("last", "sn2"), ("sn2", "out")],
    )  # fmt: skip
    graph = door.from_nir(network, T=4)
    assert set(graph.neurons) == {"sn", "block.if", "sn2"} and set(graph.sources("last")) == {"sn", "block.if"}
    assert 0 < simulate(graph, X).mean() < 1


def test_read_outs() -> None:
    w = weights(3, 4)
    plain = door.from_nir(nir_chain(nir.Linear(w), shape=(4,)), T=3)
    summed = door.from_nir(nir_chain(nir.Linear(w), nir.I(full(5e3, 3)), shape=(4,)), T=3)
    leaky = door.from_nir(nir_chain(nir.Linear(w), nir.LI(full(1e-3, 3), full(1.0, 3), full(0, 3)), shape=(4,)), T=3)
    np.testing.assert_allclose(simulate(plain, X)[:, -1], 3 * X @ w.T, rtol=1e-5)
    np.testing.assert_allclose(simulate(summed, X)[:, -1], 1.5 * X @ w.T, rtol=1e-5)
    kept, current = sum(0.9**k for k in range(3)), 0.1 * X @ w.T
    np.testing.assert_allclose(simulate(leaky, X)[:, -1], kept * current, rtol=1e-5)
    assert not any("dropped" in text for text in leaky.metadata["nir_warnings"])
    assert any("their sum over time is read" in text for text in plain.metadata["nir_warnings"])
    maps = X.reshape(-1, 1, 2, 2)
    convolution = nir.Conv2d(None, weights(3, 1, 2, 2), 1, 0, 1, 1, np.zeros(3))
    flat = door.from_nir(nir_chain(convolution, nir.Flatten(None, 0, -1), shape=(1, 2, 2)), T=3)  # currents, flattened
    np.testing.assert_allclose(
        simulate(flat, maps)[:, -1], 3 * X @ np.asarray(convolution.weight).reshape(3, 4).T, rtol=1e-5
    )


def test_neurons_that_think_in_steps() -> None:
    """snnTorch's importer takes only IF neurons with r = 1."""
    network = nir_chain(nir.Linear(weights(3, 4)), nir.IF(full(1, 3), full(0.5, 3)), shape=(4,))
    graph = door.from_nir(network, T=3)
    assert graph.neurons["n1"].threshold == np.nextafter(np.float32(0.5), np.float32(1))
    assert any("resistance of 1 is taken to mean 1 per step" in w for w in graph.metadata["nir_warnings"])
    assert door.from_nir(network, T=3, dt=0.1).neurons["n1"].threshold == pytest.approx(5)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), leaky=st.booleans(), scale=st.sampled_from([1.0, 0.5, 2.0]))
def test_integers_fire_above_the_threshold_as_nir_says(seed: int, leaky: bool, scale: float) -> None:
    """With small integers membranes often equal θ; half of all steps are worth nothing if that is a spike."""
    rng = np.random.default_rng(seed)
    w, theta = rng.integers(-3, 4, (6, 8)).astype(float), float(rng.integers(1, 6))
    node = (
        lif(6, tau=2e-4, r=2.0, threshold=theta) if leaky else nir.IF(full(scale / 1e-4, 6), full(theta, 6), full(0, 6))
    )
    graph = door.from_nir(nir_chain(nir.Linear(w), node, shape=(8,)), T=6, dt=1e-4, encoding="spikes")
    x = rng.integers(0, 2, (20, 6, 8)).astype(np.float32)
    v, expected = np.zeros((20, 6)), []
    for t in range(6):
        v = (0.5 * v if leaky else v) + (1.0 if leaky else scale) * (x[:, t] @ w.T)
        expected.append(v > theta)
        v[expected[-1]] = 0
    np.testing.assert_array_equal(simulate(graph, x), np.stack(expected, 1))


def test_other_programs_see_thresholds_that_are_met_from_above(tmp_path: Path) -> None:
    """Integer weights reach the integer threshold exactly; NIR's v > θ on the file's numbers fires there too."""
    w = np.random.default_rng(2).integers(-3, 4, (5, 7)).astype(np.float32)
    graph = chain([("in", Input((7,), "spikes")), ("w", Linear(w)), ("sn", IF(3.0)), ("out", Output())], 5)
    x = np.random.default_rng(3).integers(0, 2, (30, 5, 7)).astype(np.float32)
    assert_round_trip(graph, x, tmp_path)
    theta = np.asarray(nir.read(tmp_path / "net.nir").nodes["sn"].v_threshold, np.float32)
    v, met, expected = np.zeros((30, 5), np.float32), 0, simulate(graph, x)
    for t in range(5):
        v = v + x[:, t] @ w.T
        met += int((v == 3).sum())
        np.testing.assert_array_equal(v > theta, expected[:, t])
        v[v > theta] = 0
    assert met > 20


class NewNode(nir.ir.node.NIRNode):
    """A node that a later nir may bring."""

    def __init__(self) -> None:
        self.input_type = self.output_type = self.metadata = {}


def nested(graph: Any, depth: int) -> None:
    for _ in range(depth):
        graph.nodes["within"] = graph = nir_chain(nir.Linear(weights(3, 4)), shape=(4,))


def test_what_cannot_be_mapped_is_refused_by_name() -> None:
    w, two = nir.Linear(weights(3, 4)), np.array([1e-4, 2e-4, 3e-4])
    cases = {
        "pass T": (nir_chain(w, shape=(4,)), {}),
        "n1: its time constants differ": (nir_chain(w, nir.LIF(two, full(1, 3), full(0, 3), full(1, 3)), shape=(4,)), {"T": 1}),
        "n1: it leaks toward v_leak": (nir_chain(w, nir.LIF(full(1e-3, 3), full(1, 3), full(1, 3), full(1, 3)), shape=(4,)), {"T": 1}),
        "n1: its time constant 0.0001 s is shorter": (nir_chain(w, lif(3, tau=1e-4, r=1, threshold=1), shape=(4,)), {"T": 1, "dt": 1e-3}),
        "n1: its threshold and resistance": (nir_chain(w, nir.IF(full(-1, 3), full(1, 3)), shape=(4,)), {"T": 1}),
        "n0: neurons that never fire": (nir_chain(nir.I(full(1, 4)), w, shape=(4,)), {"T": 1}),
        "n1: its constants have shape": (nir_chain(w, nir.IF(full(1, 5), full(1, 5)), shape=(4,)), {"T": 1}),
        "n0: it takes flat input": (nir_chain(w, shape=(1, 2, 2)), {"T": 1}),
        "n0: it takes .C, H, W.": (nir_chain(nir.Conv2d(None, weights(1, 1, 1, 1), 1, 0, 1, 1, np.zeros(1)), shape=(4,)), {"T": 1}),
        "n0: the weight expects 4": (nir_chain(w, shape=(5,)), {"T": 1}),
        "n1: a constant is NaN": (nir_chain(w, nir.IF(full(np.nan, 3), full(1, 3)), shape=(4,)), {"T": 1}),
        "its numbers do not fit together .invalid literal": (nir_chain(w, shape=(4,), metadata={"kdsnn_deploy_T": "soon"}), {}),
        "n0: it pools .C, H, W. input": (nir_chain(nir.SumPool2d(full(2, 2), full(2, 2), full(0, 2)), shape=(4,)), {"T": 1}),
        "n0: it flattens only dimensions 0 to 1": (nir_chain(nir.Flatten(None, 0, 1), shape=(1, 2, 2)), {"T": 1}),
        "n0: it flattens only dimensions 2 to 2": (nir_chain(nir.Flatten(None, -1, -1), shape=(1, 2, 2)), {"T": 1}),
        "n0: padding 'same' with an even kernel": (nir_chain(conv(3, 2, 2, 2, padding="same"), shape=(2, 4, 4)), {"T": 1}),
        "n1: what it pools is scaled differently": (nir_chain(nir.Scale(PER_PIXEL), nir.SumPool2d(full(2, 2), full(2, 2), full(0, 2)), shape=(2, 4, 4)), {"T": 1}),
        "n1: what it reads is scaled differently": (nir_chain(nir.Scale(PER_PIXEL), conv(3, 2, 3, 3), shape=(2, 4, 4)), {"T": 1}),
        "input: it is scaled differently within": (nir_chain(nir.Scale(PER_PIXEL), nir.IF(full(1e4, 2, 4, 4), full(1, 2, 4, 4)), shape=(2, 4, 4)), {"T": 1}),
        "input: 5000 signals are scaled": (nir_chain(nir.Scale(np.arange(1, 5001.0)), fires(5000, 1.0), shape=(5000,)), {"T": 1}),
        "n1: its synaptic current lasts": (nir_chain(w, nir.CubaLI(full(1e-3, 3), full(1e-3, 3), full(1, 3), full(0, 3)), shape=(4,)), {"T": 1}),
        "n1: its resistances must be positive": (nir_chain(w, nir.I(np.array([1.0, 2, 3])), shape=(4,)), {"T": 1}),
        "n1: NewNode cannot be mapped": (nir_chain(w, NewNode(), shape=(4,)), {"T": 1}),
        "the method is": (nir_chain(w, shape=(4,)), {"T": 1, "method": "magic"}),
        "dt is -1": (nir_chain(w, shape=(4,)), {"T": 1, "dt": -1.0}),
    }  # fmt: skip
    for message, (network, arguments) in cases.items():
        with pytest.raises(door.NirError, match=message) as caught:
            door.from_nir(network, **arguments)
        assert "\n" not in str(caught.value)
    for change, message in (
        (lambda g: g.nodes.pop("output"), "it has no Output node; add one"),
        (lambda g: (g.nodes.update(more=nir.Output(np.array([3]))), g.edges.append(("n0", "more"))), "it is the second Output node"),
        (lambda g: (g.nodes.update(more=nir.Linear(weights(2, 4))), g.edges.extend([("input", "more"), ("more", "output")])),
         r"output: the inputs it sums have different shapes \(\(2,\), \(3,\)\)"),
        (lambda g: (g.nodes.update(more=nir_chain(w, shape=(4,))), g.nodes["more"].nodes.pop("output"), g.nodes["more"].edges.clear()),
         "more: this sub-graph has no Input or no Output node"),
        (lambda g: nested(g, 50), "its sub-graphs are nested too deeply"),
    ):  # fmt: skip
        network = nir_chain(w, shape=(4,))
        change(network)
        network.edges[:] = [edge for edge in network.edges if set(edge) <= set(network.nodes)]
        with pytest.raises(door.NirError, match=message):
            door.from_nir(network, T=1)
    within = nir_chain(
        nir.Conv2d(None, weights(1, 1, 1, 1), 1, 0, 1, 1, np.zeros(1)),
        nir.IF(np.arange(1, 5.0).reshape(1, 2, 2), full(1, 1, 2, 2)),
        shape=(1, 2, 2),
    )
    with pytest.raises(door.NirError, match="n1: what arrives is scaled differently within a channel"):
        door.from_nir(within, T=1)


# -- broken and hostile files ---------------------------------------------------------------------------


def written(folder: Path) -> Path:
    w = weights(3, 1, 3, 3)
    graph = chain(
        [
            ("in", Input((1, 6, 6))),
            ("conv", Conv2d(w)),
            ("sn", LIF(1.0, 0.5)),
            ("pool", AvgPool2d((2, 2), (2, 2))),
            ("c2", Conv2d(weights(2, 3, 1, 1))),
            ("sn2", IF(1.0)),
            ("out", Output()),
        ],
        3,
    )
    return door.write(graph, folder / "net.nir")


def refused(path: Path, T: int | None = 3) -> str:
    started = time.monotonic()
    with pytest.raises(door.NirError) as caught:
        door.read(path, T=T)
    assert time.monotonic() - started < 5
    message = str(caught.value)
    assert path.name in message and "\n" not in message and len(message) < 400, message
    return message


@pytest.mark.parametrize("content", [None, b"", b"not nir", b"\x89HDF\r\n\x1a\n" + bytes(500)])
def test_files_of_another_kind(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "bad.nir"
    if content is not None:
        path.write_bytes(content)
    assert "no such file" in refused(path) if content is None else "not a readable NIR" in refused(path)


def test_a_single_node_and_too_many_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nir.write(tmp_path / "node.nir", nir.Linear(weights(3, 4)))
    assert "it holds a single node, not a graph" in refused(tmp_path / "node.nir")
    path = written(tmp_path)
    monkeypatch.setattr("exporters.hdf5.MAX_OBJECTS", 20)
    assert "it holds more than 20 objects" in refused(path)


def test_truncated_and_damaged_files(tmp_path: Path) -> None:
    whole = written(tmp_path).read_bytes()
    path, rng = tmp_path / "bad.nir", np.random.default_rng(0)
    for length in range(0, len(whole) - 1, 997):
        path.write_bytes(whole[:length])
        refused(path)
    for _ in range(60):
        content = np.frombuffer(whole, np.uint8).copy()
        content[rng.integers(0, len(content), 30)] = rng.integers(0, 256, 30)
        path.write_bytes(content.tobytes())
        try:
            door.read(path)
        except door.NirError as error:
            assert "\n" not in str(error)


def test_hostile_files(tmp_path: Path) -> None:
    def attack(change: Any, T: int | None = 3) -> str:
        path = written(tmp_path)
        with h5py.File(path, "r+") as file:
            change(file)
        return refused(path, T)

    def replace(name: str, **how: Any) -> Any:
        def change(file: h5py.File) -> None:
            del file[name]
            file.create_dataset(name, **how)

        return change

    def bomb(file: h5py.File) -> None:  # a few bytes that unfold to 40 GB
        del file["node/nodes/conv/weight"]
        file.create_dataset("node/nodes/conv/weight", (10**10,), "f4", chunks=(10**6,), compression="gzip", fillvalue=1)

    def loop(file: h5py.File) -> None:
        file["node/nodes/conv/again"] = file["node"]

    def link(file: h5py.File) -> None:
        file["node/nodes/other"] = h5py.ExternalLink("/etc/passwd", "/x")

    def endless(file: h5py.File) -> None:
        del file["node/metadata/kdsnn_deploy_T"]
        file["node/metadata/kdsnn_deploy_T"] = 10**9

    def outside(file: h5py.File) -> None:
        del file["node/nodes/conv/weight"]
        file.create_dataset("node/nodes/conv/weight", (4,), "f4", external=[("/etc/passwd", 0, 16)])

    assert "would take more than" in attack(bomb)
    assert "it asks for 1000000000 time steps" in attack(endless, T=None)
    assert "nested too deeply" in attack(loop)
    assert "is a link" in attack(link)
    assert "in another file" in attack(outside)
    assert "would have 1e+18 values" in attack(replace("node/nodes/in/shape", data=[1, 10**9, 10**9]))
    attack(replace("node/nodes/conv/padding", data=[10**9, 10**9]))
    attack(replace("node/nodes/conv/stride", data=[0, 0]))
    attack(replace("node/nodes/conv/groups", data=10**9))
    attack(replace("node/nodes/conv/weight", data=np.zeros((3, 1, 0, 3), np.float32)))
    attack(replace("node/nodes/conv/type", data="Bomb"))
    attack(replace("node/nodes/sn/v_threshold", data=np.zeros((5, 5))))
    attack(replace("node/edges", data=np.array([[b"in", b"conv"]])))
    attack(replace("node/edges", data=np.array([[b"in", b"nowhere"]])))
    row = ["in", "conv", "sn", "pool", "c2", "sn2", "out"]
    edges = [*itertools.pairwise(row), ("sn2", "pool")]
    assert "pool: the inputs it sums have different shapes" in attack(replace("node/edges", data=np.array(edges, "S9")))
    assert "nothing feeds the loop of sn2; it needs a path" in attack(
        replace("node/edges", data=np.array([("sn2", "sn2"), *itertools.pairwise(row[:5]), ("sn", "out")], "S9"))
    )

    def untold(file: h5py.File) -> None:
        file["node/metadata/kdsnn_deploy_loops"] = '[{"name": "d", "from": "in"}]'

    assert "do not fit together" in attack(untold)
