"""Quantisation, exact float graphs and chains: what each pass promises, on random networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from exporters.bounds import BIAS_LIMIT, CURRENT_LIMIT, THRESHOLD_LIMIT, input_bounds, sum_bound
from exporters.errors import DeployError
from exporters.exact import make_exact
from exporters.from_torch import from_torch
from exporters.graph import IF, Conv2d, Flatten, Input, Linear, MaxPool2d, Output, SpikingGraph, chain
from exporters.quantize import quantize
from exporters.to_chain import MAX_GROUPS, layers, to_chain
from hardware.emulator import Recorder, run
from tests.networks import Case, random_integer_chain, spiking_modules


def spikes_of(graph: SpikingGraph, x: np.ndarray, **options) -> dict[str, np.ndarray]:
    recorder = Recorder(graph)
    run(graph, graph.encode(x), observe=recorder, **options)
    return recorder.spikes


def random_linear(seed: int, threshold: float = 1.0, bias: float = 0.1) -> SpikingGraph:
    rng = np.random.default_rng(seed)
    return chain(
        [("in", Input((6,))), ("fc1", Linear(rng.normal(0, 0.5, (5, 6)), rng.normal(0, bias, 5))), ("sn1", IF(threshold)),
         ("fc2", Linear(rng.normal(0.2, 0.5, (3, 5)))), ("sn2", IF(threshold)), ("out", Output())],
        4,
    )  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(spiking_modules(leaky=False, soft=False), st.integers(2, 8), st.sampled_from([1, 4, 8]))
def test_quantised_numbers_respect_every_register(case: Case, bits: int, input_bits: int) -> None:
    try:
        graph, report = quantize(from_torch(case.module, case.shape, case.T), bits=bits, input_bits=input_bits)
    except DeployError as error:  # with few bits a weak layer beside a strong one may vanish, and must be refused
        assert "round to zero" in str(error) and bits < 5
        return
    assert graph.is_integer and graph.input.scale == 2**input_bits - 1
    bounds = input_bounds(graph)
    for end in [*graph.neurons, graph.output_name]:
        feeding = [s for s in graph.sources(end) if s in graph.synapses]
        assert sum(sum_bound(graph.synapses[s], bounds[s], bias=False) for s in feeding) <= CURRENT_LIMIT
        for s in feeding:
            synapse = graph.synapses[s]
            assert np.abs(synapse.weight).max() <= 2 ** (bits - 1) - 1
            assert synapse.bias is None or np.abs(synapse.bias).max() <= BIAS_LIMIT
    assert all(1 <= n.threshold <= THRESHOLD_LIMIT for n in graph.neurons.values())
    assert {row.name for row in report} == set(graph.synapses)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31))
def test_weights_that_are_integers_already_keep_every_spike(seed: int) -> None:
    """A float network whose weights lie on the grid: quantisation must change nothing at all."""
    rng = np.random.default_rng(seed)
    scale = 2.0 ** -rng.integers(3, 8)
    w1, w2 = (rng.integers(-127, 128, shape).astype(float) for shape in ((5, 8), (4, 5)))
    w1.flat[0] = w2.flat[0] = 127
    graph = chain(
        [("in", Input((8,), "spikes")), ("fc1", Linear(w1 * scale)), ("sn1", IF(100 * scale)), ("fc2", Linear(w2 * scale)), ("sn2", IF(90.5 * scale)), ("out", Output())],
        5,
    )  # fmt: skip
    x = rng.integers(0, 2, (20, 5, 8)).astype(np.float32)
    integer, report = quantize(graph)
    assert [row.rms_error for row in report] == [0, 0] and [row.threshold for row in report] == [100, 91]
    for name, expected in spikes_of(graph, x).items():
        np.testing.assert_array_equal(spikes_of(integer, x)[name], expected)


def test_report_says_what_held_the_scale_down() -> None:
    limits = {}
    for name, graph in {
        "weights": random_linear(0), "threshold": random_linear(0, threshold=50.0), "bias": random_linear(0, bias=40.0),
    }.items():  # fmt: skip
        limits[name] = quantize(graph)[1][0].limited_by
    assert limits == {"weights": "weights", "threshold": "threshold", "bias": "bias"}
    wide = chain([("in", Input((400,))), ("fc", Linear(np.ones((2, 400)))), ("sn", IF(200.0)), ("out", Output())], 2)
    assert quantize(wide)[1][0].limited_by == "current"


@pytest.mark.parametrize(
    ("graph", "options", "message"),
    [
        (random_linear(1), {"bits": 1}, "1-bit weights are not possible"),
        (random_linear(1), {"input_bits": 9}, "9-bit input is not possible"),
        (random_linear(1).with_nodes({"sn1": IF(1.0, "soft")}), {}, "sn1: reset by subtraction does not exist in Lava"),
        (random_linear(1).with_nodes({"fc2": Linear(np.zeros((3, 5)))}), {}, "fc2: all its weights are zero"),
        (random_linear(1, threshold=1e9), {}, "fc1: no scale fits its threshold"),
        (random_integer_chain(3), {}, "already quantised"),
    ],
)
def test_refusals(graph: SpikingGraph, options: dict, message: str) -> None:
    with pytest.raises(DeployError, match=message):
        quantize(graph, **options)


@settings(max_examples=40, deadline=None)
@given(spiking_modules(leaky=False))
def test_exact_graphs_do_not_depend_on_precision_or_order(case: Case) -> None:
    graph = make_exact(from_torch(case.module, case.shape, case.T))
    x = case.input(4).numpy()
    single, double = spikes_of(graph, x, dtype=torch.float32), spikes_of(graph, x, dtype=torch.float64)
    for name in single:
        np.testing.assert_array_equal(single[name], double[name], err_msg=name)


@settings(max_examples=25, deadline=None)
@given(spiking_modules())
def test_exact_weights_are_close(case: Case) -> None:
    graph = from_torch(case.module, case.shape, case.T)
    exact = make_exact(graph)
    for name, synapse in graph.synapses.items():
        weight = exact.synapses[name].weight
        assert weight.dtype == np.float32
        # the input scale and the pools' divisors have moved into the weights: compare in units of the largest
        before, after = (w / np.abs(w).max() for w in (synapse.weight, weight.astype(float)))
        np.testing.assert_allclose(after, before, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31))
def test_chain_spikes_like_the_graph(seed: int) -> None:
    graph = random_integer_chain(seed)
    chained = to_chain(graph)
    x = np.random.default_rng(seed).integers(0, 256, (4, *graph.input.shape)) / 255
    before, after = spikes_of(graph, x), spikes_of(chained, x)
    for name in before:
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)
    assert len(layers(chained)) == len(graph.neurons) + sum(isinstance(n, MaxPool2d) for n in graph.nodes.values())


@pytest.mark.parametrize(("channels", "groups"), [(127, 127), (128, 64), (254, 127), (131, 1), (192, 96)])
def test_wide_max_pools_get_few_groups(channels: int, groups: int) -> None:
    graph = chain(
        [("in", Input((channels, 4, 4), "spikes")), ("c", Conv2d(np.ones((channels, 1, 1, 1), np.int32), groups=channels)), ("s", IF(1)),
         ("pool", MaxPool2d((2, 2), (2, 2))), ("flat", Flatten()), ("fc", Linear(np.ones((2, channels * 4), np.int32))), ("o", IF(3)), ("out", Output())],
        2,
    )  # fmt: skip
    chained = to_chain(graph)
    for name in ("c", "pool"):
        node = chained.nodes[name]
        assert isinstance(node, Conv2d) and node.groups == groups <= MAX_GROUPS
    x = (np.random.default_rng(0).random((3, 2, channels, 4, 4)) < 0.1).astype(np.float32)
    pooled = x.reshape(3, 2, channels, 2, 2, 2, 2).max(axis=(4, 6))
    np.testing.assert_array_equal(spikes_of(chained, x)["pool.or"], pooled)


def test_what_a_chain_cannot_hold_is_refused_by_name() -> None:
    w = np.eye(3, dtype=np.int32)
    branch = SpikingGraph(
        {"in": Input((3,), "spikes"), "a": Linear(w), "sa": IF(1), "b": Linear(w), "sb": IF(1), "out": Output()},
        (("in", "a"), ("a", "sa"), ("sa", "b"), ("b", "sb"), ("a", "sb"), ("sb", "out")),
        2,
    )
    pooled_input = chain(
        [("in", Input((1, 4, 4), scale=255)), ("pool", MaxPool2d((2, 2), (2, 2))), ("flat", Flatten()), ("fc", Linear(np.ones((2, 4), np.int32))), ("s", IF(1)), ("out", Output())], 2
    )  # fmt: skip
    two = chain([("in", Input((3,), "spikes")), ("a", Linear(w)), ("b", Linear(w)), ("s", IF(1)), ("out", Output())], 2)
    for graph, message in [
        (branch, "a: the network branches here"),
        (pooled_input, "pool: a max-pool over analog input"),
        (two, "b: Linear stands where a netx chain needs IF neurons"),
        (random_linear(1), "only a quantised"),
    ]:
        with pytest.raises(DeployError, match=message):
            to_chain(graph)
