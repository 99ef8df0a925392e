"""Membranes that start elsewhere than at 0, as at half of the threshold in converted ANNs: the same spikes everywhere, or a
refusal by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx as onnx_library
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

from exporters import netx, nir, onnx
from exporters.errors import DeployError
from exporters.from_torch import LoweringError, lower_module
from exporters.graph import IF, LIF, GraphError, Input, Linear, Output, SpikingGraph, chain
from exporters.onnx.facts import OnnxError
from exporters.passes.chain import member_spikes, to_chain
from exporters.passes.exact import make_exact
from exporters.passes.quantize import quantize
from hardware.chips.fit import check
from hardware.chips.limits import target
from hardware.emulator import Recorder, run
from tests.exporters.faithful import assert_faithful
from tests.networks import random_integer_network

SHARED = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class ByHand(nn.Module):
    """Two layers of neurons written out, whose membranes start at shares of their thresholds."""

    def __init__(
        self, leak: float, soft: bool, thresholds: tuple[float, float], shares: tuple[float, float], T: int
    ) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 9), nn.Linear(9, 5)
        self.leak, self.soft, self.thresholds, self.shares, self.T = leak, soft, thresholds, shares, T

    def neurons(self, v, x, threshold):
        v = self.leak * v + x
        spike = (v >= threshold).to(x)
        return spike, v - spike * threshold if self.soft else v * (1 - spike)

    def forward(self, x):
        v, w = (share * threshold for share, threshold in zip(self.shares, self.thresholds, strict=True))
        total = 0
        for _ in range(self.T):
            spike, v = self.neurons(v, self.a(x), self.thresholds[0])
            spike, w = self.neurons(w, self.b(spike), self.thresholds[1])
            total = total + spike
        return total / self.T


shares = st.sampled_from([-0.75, -0.125, 0.0, 0.25, 0.5, 0.9])


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([1.0, 0.5, 0.75]),
    st.booleans(),
    st.tuples(shares, shares),
    st.integers(2, 5),
    st.integers(0, 10**6),
)
def test_neurons_written_by_hand(leak: float, soft: bool, starts: tuple[float, float], T: int, seed: int) -> None:
    torch.manual_seed(seed)
    found = assert_faithful(ByHand(leak, soft, (0.8, 0.5), starts, T), (6,), T, n=8, seed=seed).graph
    np.testing.assert_allclose(
        [n.start for n in found.neurons.values()], [0.8 * starts[0], 0.5 * starts[1]], atol=1e-12
    )


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(["if", "lif"]), st.sampled_from([0.0, None]), shares, st.booleans(), st.integers(0, 10**6))
def test_modules_of_spikingjelly_with_another_reset_value(kind, reset, start: float, many: bool, seed: int) -> None:
    torch.manual_seed(seed)
    node = neuron.IFNode(v_reset=reset) if kind == "if" else neuron.LIFNode(tau=1.5, v_reset=reset)
    node.set_reset_value("v", start)
    module = nn.Sequential(layer.Linear(7, 6), node)
    functional.set_step_mode(module, "m" if many else "s")
    functional.reset_net(module)
    found = assert_faithful(module, (7,), 4, n=6, seed=seed).graph
    assert [n.start for n in found.neurons.values()] == [start]


@pytest.mark.parametrize("leak", [1.0, 0.75])
@pytest.mark.parametrize("rest", [-0.25, 0.125])
def test_a_reset_to_elsewhere_is_a_start_seen_from_there(leak: float, rest: float) -> None:
    class Elsewhere(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 4)

        def forward(self, x):
            v, total = torch.zeros(len(x), 4, dtype=x.dtype), 0
            for _ in range(5):
                v = leak * v + 2 * self.fc(x)
                spike = (v >= 0.5).to(x)
                v, total = v * (1 - spike) + rest * spike, total + spike
            return total / 5

    torch.manual_seed(0)
    (node,) = assert_faithful(Elsewhere(), (6,), 5, n=30).graph.neurons.values()
    assert (node.threshold, node.start) == (0.5 - rest, -rest)


def test_a_start_is_a_share_of_thresholds_that_differ_between_channels() -> None:
    class Channels(nn.Module):
        def __init__(self, start) -> None:
            super().__init__()
            self.fc, self.start = nn.Linear(6, 3), start

        def forward(self, x):
            level = torch.tensor([0.5, 1.0, 2.0], dtype=x.dtype)
            v, total = (
                self.start * level if isinstance(self.start, float) else torch.tensor(self.start, dtype=x.dtype),
                0,
            )
            for _ in range(4):
                v = v + 3 * self.fc(x)
                spike = (v - level >= 0).to(x)
                v, total = v - spike * level, total + spike
            return total / 4

    found = assert_faithful(Channels(0.5), (6,), 4, n=8)
    assert [(n.threshold, n.start) for n in found.graph.neurons.values()] == [(1.0, 0.5)]
    assert "starts at 0.5" in " ".join(found.notes.values())
    with pytest.raises(LoweringError, match="its membranes start at different places"):
        lower_module(Channels([0.25, 0.25, 0.25]).double(), (6,), 4)
    with pytest.raises(LoweringError, match=r"starts at 1\.5 \(its threshold is 1\); those of a graph start between"):
        lower_module(Channels(1.5).double(), (6,), 4)


def started(graph: SpikingGraph, seed: int, *, lowest: float = -1.0) -> SpikingGraph:
    """The graph with random whole starts, of either sign unless `lowest` is 0, and some resets by subtraction."""
    rng = np.random.default_rng(seed)
    reset = "soft" if rng.random() < 0.4 else "hard"
    share = rng.uniform(lowest, 1)
    changed = {}
    for name, node in graph.neurons.items():
        own = share if rng.random() < 0.7 else rng.uniform(lowest, 1)
        changed[name] = replace(node, reset=reset, start=int(own * (node.threshold - 1)))
    return graph.with_nodes(changed)


def samples(graph: SpikingGraph, seed: int, n: int = 3) -> np.ndarray:
    """What the network consumes: whole pixels, or spikes."""
    shape = (graph.T, *graph.input.shape) if graph.input.over_time else graph.input.shape
    return np.random.default_rng(seed).integers(0, (graph.input.scale or 1) + 1, (n, *shape)).astype(np.float32)


def assert_forms_equal_the_emulator(graph: SpikingGraph, x: np.ndarray, folder: Path) -> None:
    recorder = Recorder(graph)
    run(graph, graph.encode(x), observe=recorder)
    for form in onnx.FORMS:
        path = onnx.write(graph, folder / f"{form}.onnx", form)
        assert not any(onnx.verify(path, x, recorder.spikes).values()), form


@SHARED
@given(st.integers(0, 2**31))
def test_integer_forms_equal_the_emulator(tmp_path: Path, seed: int) -> None:
    graph = started(random_integer_network(seed), seed)
    assert graph.is_integer
    assert_forms_equal_the_emulator(graph, samples(graph, seed) / np.float32(graph.input.scale or 1), tmp_path)


def dense(seed: int, start: float, leak: float | None, reset) -> SpikingGraph:
    """A float network of two layers whose membranes start at a share of their thresholds."""
    rng = np.random.default_rng(seed)
    make = (
        (lambda v: IF(v, reset, start=start * v)) if leak is None else (lambda v: LIF(v, leak, reset, start=start * v))
    )
    layers = [
        ("in", Input((6,))), ("a", Linear(rng.normal(0.1, 0.5, (9, 6)), rng.normal(0, 0.1, 9))), ("a.sn", make(0.8)),
        ("b", Linear(rng.normal(0.1, 0.5, (5, 9)))), ("b.sn", make(0.6)), ("out", Output()),
    ]  # fmt: skip
    return chain(layers, 5)


@SHARED
@given(st.integers(0, 10**6), shares, st.sampled_from([None, 0.0, 0.7]), st.sampled_from(["hard", "soft"]))
def test_float_and_quantized_forms_equal_the_emulator(tmp_path: Path, seed: int, start, leak, reset) -> None:
    graph = dense(seed, start, leak, reset)
    x = np.random.default_rng(seed).integers(0, 256, (9, 6)).astype(np.float32) / 255
    assert_forms_equal_the_emulator(make_exact(graph), x, tmp_path)
    integer, _ = quantize(graph)
    assert_forms_equal_the_emulator(integer, x, tmp_path)
    for name, node in integer.neurons.items():
        assert node.start == int(node.start) and abs(node.start) < node.threshold
        if abs(node.start) < node.threshold - 1:
            assert abs(node.start - graph.neurons[name].start * node.scale) <= 0.5 + 1e-9


def by_steps(weight: np.ndarray, node: IF | LIF, x: np.ndarray, T: int) -> np.ndarray:
    """A layer neuron by neuron in whole registers of 1/64, as Loihi computes it: (T, neurons)."""
    v, found = [64 * int(node.start)] * len(weight), np.zeros((T, len(weight)))
    decay = 4096 - round(node.leak * 4096)
    for t in range(T):
        for i, row in enumerate(weight):
            kept = abs(v[i]) * (4096 - decay) // 4096 * (1 if v[i] >= 0 else -1)
            v[i] = kept + 64 * int(row @ x)
            if v[i] > 64 * (node.threshold - 1):
                found[t, i], v[i] = 1, v[i] - 64 * node.threshold if node.reset == "soft" else 0
    return found


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(-39, 39), st.sampled_from([1.0, 0.5, 1234 / 4096]), st.booleans())
def test_the_emulator_starts_there(seed: int, start: int, leak: float, soft: bool) -> None:
    rng = np.random.default_rng(seed)
    weight, reset = rng.integers(-5, 9, (6, 4)), "soft" if soft else "hard"
    node = IF(40, reset, start=start) if leak == 1 else LIF(40, leak, reset, start=start)
    graph = chain([("in", Input((4,), "direct", 3)), ("fc", Linear(weight)), ("sn", node), ("out", Output())], 7)
    x = samples(graph, seed, 1)
    np.testing.assert_array_equal(run(graph, x).output[0], by_steps(weight, node, x[0].astype(int), 7))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31))
def test_chains_equal_their_graphs(seed: int) -> None:
    """Layers side by side that start elsewhere than each other run one after the other, and relays beside both."""
    graph = started(random_integer_network(seed), seed, lowest=0.0)
    try:
        chained = to_chain(graph)
    except DeployError as error:
        assert "no threshold can stand for" in str(error) or "side by side with different thresholds" in str(error)
        return
    on_graph, on_chain, x = Recorder(graph), Recorder(chained), samples(graph, seed)
    run(graph, x, observe=on_graph)
    run(chained, x, observe=on_chain)
    found = member_spikes(chained, on_chain.spikes)
    for name, spikes in on_graph.spikes.items():
        np.testing.assert_array_equal(found[name], spikes, err_msg=name)


def skip(start: float) -> SpikingGraph:
    """Spikes of "a" reach the last layer straight and through "b", beside which the chain relays them."""
    rng = np.random.default_rng(1)
    nodes = {
        "in": Input((4,), "spikes"), "wa": Linear(rng.integers(1, 9, (4, 4))), "a": IF(9),
        "wb": Linear(rng.integers(1, 9, (4, 4))), "b": IF(9, start=start),
        "wc": Linear(rng.integers(1, 9, (4, 4))), "wd": Linear(rng.integers(1, 9, (4, 4))), "c": IF(30), "out": Output(),
    }  # fmt: skip
    edges = [
        ("in", "wa"),
        ("wa", "a"),
        ("a", "wb"),
        ("wb", "b"),
        ("b", "wc"),
        ("a", "wd"),
        ("wc", "c"),
        ("wd", "c"),
        ("c", "out"),
    ]
    return SpikingGraph(nodes, tuple(edges), 6)


def test_relays_beside_a_start() -> None:
    for start in (0, 4, 8):
        graph = skip(start)
        x = samples(graph, start, 20)
        np.testing.assert_array_equal(run(to_chain(graph), x).output, run(graph, x).output)
    with pytest.raises(DeployError, match="b: its membranes start at -3, below 0, and spikes of a are relayed beside"):
        to_chain(skip(-3))


def test_what_has_no_word_for_it_says_so(tmp_path: Path) -> None:
    graph, _ = quantize(dense(0, 0.5, None, "hard"))
    with pytest.raises(netx.NetxError, match=r"a\.sn: its membranes start elsewhere than at 0, which netx"):
        netx.write(to_chain(graph), tmp_path / "x.net")
    assert not (tmp_path / "x.net").exists()
    findings = [f for f in check(to_chain(graph), target("loihi2")).findings if "start elsewhere" in f.what]
    assert [(f.severity, f.layer) for f in findings] == [("warning", "a")]
    assert "2 of 2 layers" in findings[0].what
    with pytest.raises(GraphError, match=r"a\.sn: its membrane starts at 0\.8; it must lie between"):
        dense(0, 1.0, None, "hard")
    with pytest.raises(GraphError, match=r"a\.sn: its membrane starts at nan"):
        dense(0, float("nan"), None, "hard")


@pytest.mark.parametrize("leak", [None, 0.5])
@pytest.mark.parametrize("integer", [False, True])
def test_nir_keeps_it_in_the_metadata(tmp_path: Path, leak: float | None, integer: bool) -> None:
    graph = dense(3, 0.5, leak, "soft")
    graph = quantize(graph)[0] if integer else make_exact(graph)
    assert "where membranes start (a.sn, b.sn) is in the metadata only" in " ".join(nir.losses(graph))
    back = nir.read(nir.write(graph, tmp_path / "x.nir"))
    assert [n.start for n in back.neurons.values()] == [n.start for n in graph.neurons.values()]
    x = samples(graph, 3, 8)
    np.testing.assert_array_equal(run(back, x).output, run(graph, x).output)


@pytest.mark.parametrize("start", ["1", 1e30, True, None, 0.25, [1]])
def test_a_start_that_makes_no_sense_is_refused(tmp_path: Path, start) -> None:
    path = onnx.write(quantize(dense(0, 0.5, None, "hard"))[0], tmp_path / "x.onnx", "step")
    model = onnx_library.load(str(path))
    facts = next(p for p in model.metadata_props if p.key == "starts")
    facts.value = json.dumps(dict.fromkeys(json.loads(facts.value), start))
    onnx_library.save(model, str(path))
    with pytest.raises(OnnxError, match=r"x\.onnx: its metadata lacks starts, or says something impossible there"):
        onnx.run(path, np.zeros((1, 6), np.float32))
