"""NIR with delays and loops: our files back again, and files of others against their neurons written out."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from exporters import nir as door
from exporters.graph import IF, Conv2d, Delay, Flatten, Input, Linear, MaxPool2d, Output, SpikingGraph
from exporters.passes.quantize import quantize
from hardware.emulator import Recorder, run
from tests.networks import random_frames, random_recurrent

DT = 1e-4
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _drawn_anew() -> None:
    global RNG
    RNG = np.random.default_rng(0)


def spikes_of(graph: SpikingGraph, frames: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    recorder = Recorder(graph)
    return run(graph, frames, observe=recorder).output, recorder.spikes


def drawn(*shape: int, low: int = -24, high: int = 41) -> np.ndarray:
    """Multiples of 1/64: every sum is exact in float32, in any order."""
    return RNG.integers(low, high, shape).astype(np.float32) / 64


def network(nodes: dict[str, Any], edges: list[tuple[str, str]], **how: Any) -> SpikingGraph:
    return door.from_nir(nir.NIRGraph(nodes, edges, type_check=False), **{"dt": DT, "encoding": "spikes", **how})


def row(*names: str) -> list[tuple[str, str]]:
    return list(itertools.pairwise(names))


def cells(n: int | tuple[int, ...], threshold: float = 0.5) -> Any:
    return nir.IF(np.full(n, 1 / DT), np.full(n, threshold), np.zeros(n))


def ends(inputs: int | tuple[int, ...], outputs: int) -> dict[str, Any]:
    return {"input": nir.Input(np.atleast_1d(inputs)), "output": nir.Output(np.array([outputs]))}


def random_spikes(*shape: int, rate: float = 0.5) -> np.ndarray:
    return (RNG.random(shape) < rate).astype(np.float32)


# -- our own -----------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), integer=st.booleans())
def test_round_trip_of_recurrent_networks(tmp_path: Path, seed: int, integer: bool) -> None:
    graph = random_recurrent(seed, integer=integer)
    path = door.write(graph, tmp_path / "net.nir")
    file = nir.read(path)  # with its own type check
    again = door.read(path)
    assert set(again.nodes) == set(graph.nodes) and set(again.edges) == set(graph.edges)
    for name, node in graph.nodes.items():
        if isinstance(node, Delay):
            np.testing.assert_array_equal(again.nodes[name].steps, node.steps)
    frames = random_frames(graph, 3, seed)
    (output, layers), (output2, layers2) = spikes_of(graph, frames), spikes_of(again, frames)
    np.testing.assert_array_equal(output2, output)
    for name, spikes in layers.items():
        np.testing.assert_array_equal(layers2[name], spikes, err_msg=name)
    if not integer and all(neuron.reset == "hard" for neuron in graph.neurons.values()):
        for node in (file, *file.nodes.values()):  # as others see it
            node.metadata = {}
        plain = door.from_nir(file, T=graph.T, dt=DT, encoding=graph.input.encoding)
        np.testing.assert_array_equal(spikes_of(plain, frames)[0], output)


def self_driven(*, steps: int = 1) -> SpikingGraph:
    nodes = {
        "in": Input((3,), "spikes"), "w": Linear(drawn(4, 3)), "n": IF(0.5), "ba/ck": Delay(np.full(4, steps)),
        "u": Linear(drawn(4, 4), drawn(4)), "v": Linear(drawn(2, 4)), "m": IF(0.5), "out": Output(),
    }  # fmt: skip
    return SpikingGraph(nodes, (*row("in", "w", "n", "v", "m", "out"), *row("n", "ba/ck", "u", "n")), 6)


def test_a_loop_of_one_step_is_a_bare_connection_and_a_longer_one_a_delay(tmp_path: Path) -> None:
    file = nir.read(door.write(self_driven(), tmp_path / "one.nir"))
    assert set(file.nodes) == {"in", "w", "n", "u", "v", "m", "out"} and ("n", "u") in file.edges
    assert any("must take a step" in said for said in door.losses(self_driven()))
    three = self_driven(steps=3)
    file = nir.read(door.write(three, tmp_path / "three.nir"))
    np.testing.assert_allclose(file.nodes["ba.ck"].delay, 3 * DT)
    assert any("delays (ba/ck)" in said for said in door.losses(three))
    assert "ba/ck" in door.read(tmp_path / "three.nir").nodes


def test_a_delay_of_one_step_is_said_where_others_would_not_find_it(tmp_path: Path) -> None:
    """It also feeds what is no part of the loop, or the loop goes through a pool that it stands before."""
    graph = self_driven()
    beside = {**graph.nodes, "x": Linear(drawn(2, 4))}
    edges = (*graph.edges, ("ba/ck", "x"), ("x", "m"))
    image = {
        "in": Input((1, 4, 4), "spikes"), "first": Conv2d(drawn(1, 1, 1, 1)), "n": IF(1.0), "back": Delay(np.ones((1, 4, 4), int)),
        "pool": MaxPool2d((2, 2), (1, 1)), "u": Conv2d(drawn(1, 1, 2, 2), padding=(1, 1)), "flat": Flatten(), "w": Linear(drawn(2, 16)), "m": IF(0.5), "out": Output(),
    }  # fmt: skip
    pooled = (*row("in", "first", "n", "flat", "w", "m", "out"), *row("n", "back", "pool", "u", "n"))
    for nodes, drawn_edges in ((beside, edges), (image, pooled)):
        written = SpikingGraph(nodes, drawn_edges, 5)
        file = nir.read(door.write(written, tmp_path / "net.nir"))
        assert any(isinstance(node, nir.Delay) for node in file.nodes.values())
        again = door.read(tmp_path / "net.nir")
        assert set(again.edges) == set(written.edges)


def test_metadata_of_a_loop_that_was_edited_away(tmp_path: Path) -> None:
    file = nir.read(door.write(self_driven(), tmp_path / "net.nir"))
    file.metadata["kdsnn_deploy_loops"] = json.dumps([{"name": "back", "from": ["m"], "to": ["u"]}])
    with pytest.raises(door.NirError, match="'back' on connections that it does not have; remove the metadata"):
        door.from_nir(file)


# -- delays of others --------------------------------------------------------------------------------


def late(x: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """(N, T, F) later by steps (F,)."""
    out = np.zeros_like(x)
    for f, lag in enumerate(np.broadcast_to(steps, x.shape[2:])):
        out[:, lag:, f] = x[:, : x.shape[1] - lag, f]
    return out


def fire(current: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    v, fired = np.zeros(current.shape[::2] if current.ndim == 3 else current[:, 0].shape), []
    for t in range(current.shape[1]):
        v = v + current[:, t]
        fired.append(v > threshold)
        v = np.where(fired[-1], 0, v)
    return np.stack(fired, 1).astype(np.float32)


def test_delays_of_elements_before_and_behind_synapses() -> None:
    """On the input, per element; behind dense synapses, per output: then each lag has synapses of its own."""
    w, v, x = drawn(6, 4), drawn(3, 6), random_spikes(5, 9, 4)
    before, behind = np.array([0, 2, 1, 2]), np.array([3, 0, 1, 0, 3, 1])
    nodes = {
        **ends(4, 3), "d": nir.Delay(before * DT), "w": nir.Linear(w), "e": nir.Delay(behind.astype(np.float32) * np.float32(DT)),
        "n": cells(6), "v": nir.Linear(v), "m": cells(3),
    }  # fmt: skip
    graph = network(nodes, row("input", "d", "w", "e", "n", "v", "m", "output"), T=9)
    hidden = fire(late(late(x, before) @ w.T, behind))
    output, layers = spikes_of(graph, x)
    np.testing.assert_array_equal(layers["n"], hidden)
    np.testing.assert_array_equal(output, fire(hidden @ v.T))
    assert 0.1 < hidden.mean() < 0.9 and len(graph.synapses) == 4


def test_delays_behind_convolutions_pools_and_scales() -> None:
    """Per channel behind convolution, pool and scale, after a flattening per element of a channel alike."""
    w, v, x = drawn(3, 2, 3, 3), drawn(4, 12), random_spikes(3, 7, 2, 4, 4)
    lags = np.array([2, 0, 1])
    nodes = {
        **ends((2, 4, 4), 4),
        "c": nir.Conv2d((4, 4), w, 1, 1, 1, 1, np.zeros(3)), "p": nir.SumPool2d(*(np.full(2, k) for k in (2, 2, 0))),
        "s": nir.Scale(np.array([0.5, 1, 2])), "f": nir.Flatten(None, 0, -1), "d": nir.Delay(np.repeat(lags, 4) * DT),
        "n": cells(12, 1.0), "v": nir.Linear(v), "m": cells(4),
    }  # fmt: skip
    graph = network(nodes, row("input", "c", "p", "s", "f", "d", "n", "v", "m", "output"), T=7)
    y = F.conv2d(torch.from_numpy(x).flatten(0, 1), torch.from_numpy(w), padding=1)
    y = F.avg_pool2d(y, 2, divisor_override=1) * torch.tensor([0.5, 1, 2])[:, None, None]
    hidden = fire(late(y.flatten(1).unflatten(0, (3, 7)).numpy(), np.repeat(lags, 4)), 1.0)
    np.testing.assert_array_equal(spikes_of(graph, x)[0], fire(hidden @ v.T))
    assert 0.1 < hidden.mean() < 0.9


def test_delays_that_say_nothing_and_delays_of_the_output() -> None:
    w, x = drawn(3, 4), random_spikes(4, 6, 4)
    for steps in (0, 2):
        nodes = {**ends(4, 3), "w": nir.Linear(w), "n": cells(3), "d": nir.Delay(np.array([steps * DT]))}
        graph = network(nodes, row("input", "w", "n", "d", "output"), T=6)
        assert any(isinstance(node, Delay) for node in graph.nodes.values()) == (steps > 0)
        np.testing.assert_array_equal(spikes_of(graph, x)[0], late(fire(x @ w.T), np.array(steps)))
    assert not any("delay" in said for said in graph.metadata["nir_warnings"])


# -- loops of others ---------------------------------------------------------------------------------


def recurrent(
    x: np.ndarray, w: np.ndarray, back: np.ndarray, *, lag: int = 1, bias: float | np.ndarray = 0.0, leak: float = 1.0,
    persists: float = 0.0, soft: bool = False, threshold: float = 0.5,
) -> np.ndarray:  # fmt: skip
    """The equations of snnTorch's RSynaptic (RLeaky: persists = 0), in the step's order, reset in the same step:
    syn ← α·syn + W·x + V·z[t − 1] + biases, mem ← β·mem + syn, z = mem > θ. In float64."""
    N, T, _ = x.shape
    syn, mem, fired = np.zeros((N, len(w))), np.zeros((N, len(w))), [np.zeros((N, len(w)))] * lag
    for t in range(T):
        syn = persists * syn + x[:, t] @ w.T + fired[t] @ back.T + bias
        mem = leak * mem + syn
        fired.append((mem > threshold).astype(float))
        mem = mem - threshold * fired[-1] if soft else np.where(fired[-1], 0, mem)
    return np.stack(fired[lag:], 1)


def cuba(n: int, persists: float, leak: float) -> Any:
    """As snnTorch's exporter writes Synaptic and RSynaptic, in float32."""
    tau_syn, tau_mem = (np.full(n, DT / (1 - share), np.float32) for share in (persists, leak))
    zero, one = np.zeros(n, np.float32), np.ones(n, np.float32)
    return nir.CubaLIF(tau_syn, tau_mem, tau_mem / np.float32(DT), zero, one, zero, tau_syn / np.float32(DT))


@pytest.mark.parametrize("biased", [True, False])
def test_the_braille_network_of_the_nir_paper(tmp_path: Path, biased: bool) -> None:
    """Its shape, names and edges (paper/03_rnn: 12 taxels, 38 recurrent CubaLIF, 7 letters; with biases it resets to zero,
    without it subtracts), written as HDF5 and read again; shares of currents and membranes are dyadic here."""

    def dense(outputs: int, inputs: int) -> Any:
        weight = drawn(outputs, inputs, low=-20, high=24)
        return nir.Affine(weight, drawn(outputs, low=-8, high=9)) if biased else nir.Linear(weight)

    nodes = {
        **ends(12, 7), "fc1": dense(38, 12), "lif1.lif": cuba(38, 0.5, 0.875), "lif1.w_rec": dense(38, 38),
        "fc2": dense(7, 38), "lif2": cuba(7, 0.5, 0.5),
    }  # fmt: skip
    edges = [
        ("lif1.w_rec", "lif1.lif"),
        ("lif1.lif", "lif1.w_rec"),
        *row("input", "fc1", "lif1.lif", "fc2", "lif2", "output"),
    ]
    nir.write(tmp_path / "braille.nir", nir.NIRGraph(nodes, edges))
    graph = door.read(tmp_path / "braille.nir", T=16, encoding="spikes", reset=None if biased else "soft")
    assert any("lif1.w_rec → lif1.lif" in said and "one step" in said for said in graph.metadata["nir_warnings"])
    assert ("lif1.lif.back", "lif1.w_rec", "lif1.lif") in graph.loops
    assert ("always" in graph.neurons) == biased and len(graph.loops) == 1 + biased
    x = random_spikes(6, 16, 12, rate=0.2)
    b1, b2 = (sum(nodes[k].bias for k in keys) if biased else 0.0 for keys in (("fc1", "lif1.w_rec"), ("fc2",)))
    how = {"threshold": 1.0, "soft": not biased, "persists": 0.5}
    hidden = recurrent(x, nodes["fc1"].weight, nodes["lif1.w_rec"].weight, bias=b1, leak=0.875, **how)
    expected = recurrent(hidden, nodes["fc2"].weight, np.zeros((7, 7)), bias=b2, leak=0.5, **how)
    output, layers = spikes_of(graph, x)
    np.testing.assert_array_equal(layers["lif1.lif"], hidden)
    np.testing.assert_array_equal(output, expected)
    assert 0.05 < hidden.mean() < 0.95 and 0.05 < expected.mean() < 0.95
    again = door.read(door.write(graph, tmp_path / "again.nir"))
    np.testing.assert_array_equal(spikes_of(again, x)[0], output)
    small, _ = quantize(graph)
    assert small.is_integer and small.loops == graph.loops and run(small, x).output.mean() > 0.01


def test_a_recurrent_layer_as_a_graph_within_a_graph(tmp_path: Path) -> None:
    """snnTorch's RLeaky with one weight for each neuron: its exporter makes a sub-graph of lif and w_rec."""
    beta, fc, diagonal = 0.75, drawn(5, 4), np.diag(drawn(5))
    tau, zero = np.full(5, DT / (1 - beta)), np.zeros(5)
    inner = nir.NIRGraph(
        {
            "input": nir.Input(np.array([5])), "lif": nir.LIF(tau, tau / DT, zero, np.full(5, 0.5), zero),
            "w_rec": nir.Linear(diagonal), "output": nir.Output(np.array([5])),
        },
        [("input", "lif"), ("lif", "w_rec"), ("w_rec", "lif"), ("lif", "output")],
    )  # fmt: skip
    outer = nir.NIRGraph({**ends(4, 5), "fc": nir.Linear(fc), "r": inner}, row("input", "fc", "r", "output"))
    nir.write(tmp_path / "net.nir", outer)
    graph = door.read(tmp_path / "net.nir", T=12, encoding="spikes")
    x = random_spikes(5, 12, 4)
    np.testing.assert_array_equal(spikes_of(graph, x)[0], recurrent(x, fc, diagonal, leak=beta))
    assert list(graph.loops) == [("r.lif.back", "r.w_rec", "r.lif")]


def test_neurons_whose_spikes_go_straight_back() -> None:
    """Onto themselves, with a weight of 1, beside the synapses of the input."""
    w, x = drawn(3, 4), random_spikes(5, 8, 4, rate=0.2)
    graph = network(
        {**ends(4, 3), "w": nir.Linear(w), "n": cells(3)}, [*row("input", "w", "n", "output"), ("n", "n")], T=8
    )
    np.testing.assert_array_equal(spikes_of(graph, x)[0], recurrent(x, w, np.eye(3)))
    assert list(graph.loops) == [("n.back", "n.back.same", "n")]


@pytest.mark.parametrize("place", ["lif", "w_rec"])
def test_a_delay_in_a_loop_is_as_long_as_it_says(place: str) -> None:
    w, back, x = drawn(5, 4), drawn(5, 5), random_spikes(5, 12, 4)
    nodes = {
        **ends(4, 5),
        "w": nir.Linear(w),
        "lif": cells(5),
        "w_rec": nir.Linear(back),
        "d": nir.Delay(np.full(5, 2 * DT)),
    }
    loop = ["lif", "d", "w_rec", "lif"] if place == "lif" else ["lif", "w_rec", "d", "lif"]
    graph = network(nodes, [*row("input", "w", "lif", "output"), *row(*loop)], T=12)
    np.testing.assert_array_equal(spikes_of(graph, x)[0], recurrent(x, w, back, lag=2))
    assert set(graph.nodes) == set(nodes) and not any("goes back" in said for said in graph.metadata["nir_warnings"])


def test_two_layers_in_a_loop_and_a_loop_in_that() -> None:
    """Entered at a alone, so b → a takes the step; and c, which b alone feeds, drives itself."""
    wa, wb, back, own = (drawn(4, n, low=-16) for n in (3, 4, 4, 4))
    nodes = {
        **ends(3, 4), "wa": nir.Linear(wa), "a": cells(4), "wb": nir.Linear(wb), "b": cells(4), "back": nir.Linear(back),
        "own": nir.Linear(own),
    }  # fmt: skip
    edges = [*row("input", "wa", "a", "wb", "b", "output"), *row("b", "back", "a"), *row("b", "own", "b")]
    x, graph = random_spikes(4, 10, 3), network(nodes, edges, T=10)
    va, vb, zb, expected = np.zeros((4, 4)), np.zeros((4, 4)), np.zeros((4, 4)), []
    for t in range(10):
        va = va + x[:, t] @ wa.T + zb @ back.T
        za = va > 0.5
        va = np.where(za, 0, va)
        vb = vb + za @ wb.T + zb @ own.T
        zb = vb > 0.5
        vb = np.where(zb, 0, vb)
        expected.append(zb)
    np.testing.assert_array_equal(spikes_of(graph, x)[0], np.stack(expected, 1))
    assert 0.05 < np.mean(expected) < 0.95


def test_the_convolutions_of_the_nir_paper() -> None:
    """The N-MNIST network of the paper (paper/02_cnn, as sinabs writes it: R = 1, zero biases), against torch."""
    shapes = [(16, 2, 5, 5), (16, 16, 3, 3), (8, 16, 3, 3), (256, 128), (10, 256)]
    w1, w2, w3, w4, w5 = (drawn(*s, low=-8, high=12 + 8 * (len(s) == 2)) for s in shapes)

    def conv(w: np.ndarray, size: int, stride: int) -> Any:
        return nir.Conv2d(None, w, (stride, stride), (1, 1), (1, 1), 1, np.zeros(len(w), np.float32))

    def fires(*shape: int) -> Any:
        return nir.IF(np.ones(shape, np.float32), np.ones(shape, np.float32))

    layers = [
        conv(w1, 34, 2), fires(16, 16, 16), conv(w2, 16, 1), fires(16, 16, 16), nir.SumPool2d(*np.array([[2, 2], [2, 2], [0, 0]])),
        conv(w3, 8, 1), fires(8, 8, 8), nir.SumPool2d(*np.array([[2, 2], [2, 2], [0, 0]])), nir.Flatten({"input": np.array([8, 4, 4])}, 0, -1),
        nir.Affine(w4, np.zeros(256)), fires(256), nir.Affine(w5, np.zeros(10)), fires(10),
    ]  # fmt: skip
    nodes = {**ends((2, 34, 34), 10), **{str(i): layer for i, layer in enumerate(layers)}}
    graph = network(nodes, row("input", *map(str, range(13)), "output"), T=5, dt=None, reset="soft")
    x = random_spikes(2, 5, 2, 34, 34, rate=0.1)
    membranes: dict[int, Any] = {}

    def step(i: int, current: torch.Tensor) -> torch.Tensor:
        v = membranes.get(i, 0) + current
        z = (v > 1).double()
        membranes[i] = v - z
        return z

    a, b, c, d, e = (torch.from_numpy(w).double() for w in (w1, w2, w3, w4, w5))
    expected = []
    for t in range(5):
        y = step(0, F.conv2d(torch.from_numpy(x[:, t]).double(), a, stride=2, padding=1))
        y = F.avg_pool2d(step(1, F.conv2d(y, b, padding=1)), 2, divisor_override=1)
        y = F.avg_pool2d(step(2, F.conv2d(y, c, padding=1)), 2, divisor_override=1)
        expected.append(step(4, step(3, y.flatten(1) @ d.T) @ e.T))
    np.testing.assert_array_equal(spikes_of(graph, x)[0], torch.stack(expected, 1).numpy())
    assert 0.05 < np.mean(expected) < 0.95


# -- refused -----------------------------------------------------------------------------------------


def test_what_cannot_be_delayed_is_refused_by_name() -> None:
    w, v = nir.Linear(drawn(3, 4)), nir.Linear(drawn(3, 3))
    biased = nir.Affine(drawn(3, 4), np.ones(3))
    conv = nir.Conv2d((2, 2), drawn(3, 1, 1, 1), 1, 0, 1, 1, np.zeros(3))
    flat, pixels = ends(4, 3), ends((1, 2, 2), 3)
    line, looped = row("input", "w", "d", "n", "output"), [*row("input", "w", "n", "output"), ("n", "d"), ("d", "n")]

    def by(*steps: float) -> Any:
        return nir.Delay(np.array(steps) * DT)

    neurons = {"n": cells(3)}
    cases: dict[str, tuple[dict[str, Any], list[tuple[str, str]]]] = {
        r"d: its delay of 0.00015 s is 1.5 steps of dt = 0.0001 s": ({**flat, **neurons, "w": w, "d": by(0, 1.5, 1)}, line),
        "d: it delays by -0.0001 to": ({**flat, **neurons, "w": w, "d": by(0, -1, 1)}, line),
        "d: it delays by 0 to 1 s, which is 0 to 10000 steps": ({**flat, **neurons, "w": w, "d": by(0, 1e4, 1)}, line),
        "d: its delay is empty, NaN or infinite": ({**flat, **neurons, "w": w, "d": by(np.nan)}, line),
        "d: it has 2 delays": ({**flat, **neurons, "w": w, "d": by(1, 2)}, line),
        "d: it delays the current of w, whose bias would set in as late": ({**flat, **neurons, "w": biased, "d": by(2, 1, 1)}, line),
        "d: its delays differ within a channel of w": (
            {**pixels, "w": conv, "d": nir.Delay(np.arange(12.0).reshape(3, 2, 2) * DT), "n": cells((3, 2, 2))}, line),
        "d: it closes a loop, but some of its delays are 0": ({**flat, **neurons, "w": w, "d": by(0, 1, 1)}, looped),
        "the loop of .* is entered at a and b": (
            {**flat, "w": w, "x": w, "a": cells(3), "b": cells(3), "v": v, "u": v},
            [*row("input", "w", "a", "v", "b", "output"), *row("input", "x", "b"), *row("b", "u", "a")]),
        "nothing feeds the loop of a, v": (
            {**flat, "w": w, "n": cells(3), "a": cells(3), "v": v}, [*row("input", "w", "n", "output"), *row("a", "v", "a", "n")]),
        "a: nothing feeds this node but a loop": (
            {**flat, "w": w, "n": cells(3), "a": cells(3), "v": v, "d": nir.Delay(np.array(DT))},
            [*row("input", "w", "n", "output"), *row("a", "d", "v", "a", "n")]),
        "d: the loop that it closes has no neurons": (
            {**flat, **neurons, "w": w, "v": v, "d": by(1)}, [*row("input", "w", "v", "n", "output"), *row("v", "d", "v")]),
        "v: nothing feeds this node": ({**flat, **neurons, "w": w, "v": v}, [*row("input", "w", "n", "output"), ("v", "n")]),
    }  # fmt: skip
    for message, (nodes, edges) in cases.items():
        with pytest.raises(door.NirError, match=message) as caught:
            network(nodes, edges, T=3)
        assert "\n" not in str(caught.value)
