"""Quantization, exact float graphs and chains: what each pass promises, on random networks."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spikingjelly.activation_based import layer, neuron
from torch import nn

from exporters.errors import DeployError
from exporters.from_torch import from_torch
from exporters.graph import IF, LIF, AvgPool2d, Conv2d, Flatten, Input, Linear, MaxPool2d, Output, SpikingGraph, chain
from exporters.graph.bounds import input_bounds, sum_bound
from exporters.graph.registers import BIAS_LIMIT, CURRENT_LIMIT, MAX_GROUPS, THRESHOLD_LIMIT
from exporters.passes.chain import chain_layers, member_spikes, to_chain
from exporters.passes.exact import make_exact
from exporters.passes.membranes import membranes_of
from exporters.passes.quantize import quantize
from hardware.emulator import Recorder, run
from tests.networks import Case, Residual, random_integer_chain, randomize, spiking_modules


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
@given(spiking_modules(leaky=False), st.integers(2, 8), st.sampled_from([1, 4, 8]))
def test_quantized_numbers_respect_every_register(case: Case, bits: int, input_bits: int) -> None:
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
    """A float network whose weights lie on the grid: quantization must change nothing at all."""
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


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31))
def test_reset_by_subtraction_is_quantized_like_any_other(seed: int) -> None:
    """On the grid nothing changes: what is left of a membrane is the same number of units."""
    rng = np.random.default_rng(seed)
    scale = 2.0 ** -rng.integers(3, 8)
    w1, w2 = (rng.integers(-127, 128, shape).astype(float) for shape in ((5, 8), (4, 5)))
    w1.flat[0] = w2.flat[0] = 127
    last = LIF(90 * scale, 0.5, "soft") if seed % 2 else IF(90 * scale, "soft")
    graph = chain(
        [("in", Input((8,), "spikes")), ("fc1", Linear(w1 * scale)), ("sn1", IF(100 * scale, "soft")), ("fc2", Linear(w2 * scale)), ("sn2", last), ("out", Output())],
        6,
    )  # fmt: skip
    x = rng.integers(0, 2, (20, 6, 8)).astype(np.float32)
    integer, report = quantize(graph)
    assert [row.threshold for row in report] == [100, 90] and integer.neurons["sn1"].reset == "soft"
    ours = spikes_of(integer, x)
    for name, expected in spikes_of(graph, x).items():
        if name == "sn2" and seed % 2:
            continue  # a leak of one half truncates on the chip
        np.testing.assert_array_equal(ours[name], expected)
    # written out in Python's integers, registers of 1/64 and truncating leaks included
    v = np.zeros((20, 4), np.int64)
    for t in range(6):
        kept = np.sign(v) * (np.abs(v) * 2048 // 4096) if seed % 2 else v
        v = kept + 64 * (ours["sn1"][:, t].astype(np.int64) @ w2.T.astype(np.int64))
        fired = v > 89 * 64
        np.testing.assert_array_equal(ours["sn2"][:, t], fired)
        v = v - fired * 90 * 64


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
        (random_linear(1).with_nodes({"fc2": Linear(np.zeros((3, 5)))}), {}, "fc2: all its weights are zero"),
        (random_linear(1, threshold=1e9), {}, "fc1: no scale fits its threshold"),
        (random_integer_chain(3), {}, "already quantized"),
    ],
)
def test_refusals(graph: SpikingGraph, options: dict, message: str) -> None:
    with pytest.raises(DeployError, match=message):
        quantize(graph, **options)


def test_forms_that_no_integer_grid_expresses_are_refused() -> None:
    pixels, pool = ("in", Input((1, 4, 4))), AvgPool2d((2, 2), (2, 2), divisor=4)
    first: list = [pixels, ("c", Conv2d(np.ones((1, 1, 3, 3)), padding=(1, 1))), ("s", IF(3.0))]
    dense: list = [("flat", Flatten()), ("fc", Linear(np.ones((2, 4)))), ("out", Output("membrane"))]
    pooled_currents = chain([pixels, first[1], ("pool", pool), *dense], 2)
    # spikes and sums of four spikes, both of them 2×2, into one maximum
    both = SpikingGraph(
        dict([*first, ("a", Conv2d(np.ones((1, 1, 3, 3)), None, (2, 2), (1, 1))), ("sa", IF(3.0)), ("pool", pool),
              ("max", MaxPool2d((1, 1), (1, 1))), *dense]),
        (("in", "c"), ("c", "s"), ("s", "a"), ("a", "sa"), ("s", "pool"), ("sa", "max"), ("pool", "max"), ("max", "flat"), ("flat", "fc"), ("fc", "out")),
        2,
    )  # fmt: skip
    for graph, message in [
        (pooled_currents, r"c: its currents go into pool \(AvgPool2d\); only neurons can read them here"),
        (chain([*first, ("again", IF(1.0)), *dense[:1], ("fc", Linear(np.ones((2, 16)))), dense[2]], 2),
         "again: spikes reach these neurons without a synapse layer; put a layer in between"),
        (both, "max: it takes the maximum of spikes plus averages, which no integer grid expresses"),
    ]:  # fmt: skip
        for lower in (quantize, make_exact):
            with pytest.raises(DeployError, match=message):
                lower(graph)


def test_a_fan_in_beyond_float32_is_refused() -> None:
    """65,794 pixels of up to 255: rounding alone could move the sum by 2²³ steps of the grid."""
    for inputs in (65_792, 65_794):
        graph = chain(
            [("in", Input((inputs,))), ("fc", Linear(np.ones((1, inputs)))), ("s", IF(9.0)), ("out", Output())], 1
        )
        if inputs * 255 + 1 < 2**24:
            assert make_exact(graph).synapses["fc"].weight.dtype == np.float32
        else:
            with pytest.raises(DeployError, match="fc: its fan-in is too large for exact sums in float32"):
                make_exact(graph)


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
    arriving = input_bounds(exact)
    # layers that feed the same neurons share a grid, as coarse as their common sum needs
    sums: dict[str, float] = {}
    for group in membranes_of(exact):
        common = sum(sum_bound(exact.synapses[name], arriving[name]) for name in group.synapses)
        sums |= dict.fromkeys(group.synapses, common)
    for name, synapse in graph.synapses.items():
        weight = exact.synapses[name].weight
        assert weight.dtype == np.float32
        # the input scale and the pools' divisors have moved into the weights: compare in units of the largest
        before, after = (w / np.abs(w).max() for w in (synapse.weight, weight.astype(float)))
        # half a step of the grid, 2⁻²³ of the largest sum at most, in the weight and in the largest weight
        step = sums[name] / np.abs(weight).max() / 2**23
        np.testing.assert_allclose(after, before, rtol=1e-6, atol=1.01 * step)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31))
def test_chain_spikes_like_the_graph(seed: int) -> None:
    graph = random_integer_chain(seed)
    chained = to_chain(graph)
    x = np.random.default_rng(seed).integers(0, 256, (4, *graph.input.shape)) / 255
    before, after = spikes_of(graph, x), spikes_of(chained, x)
    for name in before:
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)
    assert len(chain_layers(chained)) == len(graph.neurons) + sum(
        isinstance(n, MaxPool2d) for n in graph.nodes.values()
    )


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
    skips_input = SpikingGraph(
        {
            "in": Input((3,), scale=255),
            "a": Linear(w),
            "sa": IF(1),
            "b": Linear(w),
            "c": Linear(w),
            "sb": IF(1),
            "out": Output(),
        },
        (("in", "a"), ("a", "sa"), ("sa", "b"), ("b", "sb"), ("in", "c"), ("c", "sb"), ("sb", "out")),
        2,
    )
    large = SpikingGraph(
        {
            "in": Input((3,), "spikes"),
            "a": Linear(w),
            "sa": IF(300),
            "b": Linear(w),
            "sb": IF(300),
            "c": Linear(w),
            "d": Linear(w),
            "sc": IF(1),
            "out": Output(),
        },
        (
            ("in", "a"),
            ("a", "sa"),
            ("sa", "b"),
            ("b", "sb"),
            ("sb", "c"),
            ("sa", "d"),
            ("c", "sc"),
            ("d", "sc"),
            ("sc", "out"),
        ),
        2,
    )
    pooled_input = chain(
        [("in", Input((1, 4, 4), scale=255)), ("pool", MaxPool2d((2, 2), (2, 2))), ("flat", Flatten()), ("fc", Linear(np.ones((2, 4), np.int32))), ("s", IF(1)), ("out", Output())], 2
    )  # fmt: skip
    two = chain([("in", Input((3,), "spikes")), ("a", Linear(w)), ("b", Linear(w)), ("s", IF(1)), ("out", Output())], 2)
    for graph, message in [
        (skips_input, "sa: the analog input skips this layer"),
        (large, "sa: its spikes skip the dense layer sb, whose threshold 300"),
        (pooled_input, "pool: a max-pool over analog input"),
        (two, "b: Linear stands where a netx chain needs neurons"),
        (random_linear(1), "only a quantized"),
    ]:
        with pytest.raises(DeployError, match=message):
            to_chain(graph)


def same_spikes_in_the_chain(graph: SpikingGraph, x: np.ndarray) -> SpikingGraph:
    """Every neuron layer spikes alike in the graph and in its chain, where `members` says it stands."""
    chained = to_chain(graph)
    before, after = spikes_of(graph, x), spikes_of(chained, x)
    found = member_spikes(chained, after)
    for name, spikes in before.items():
        np.testing.assert_array_equal(found[name], spikes, err_msg=name)
    return chained


@settings(max_examples=80, deadline=None)
@given(spiking_modules())
def test_residuals_pools_and_leaks_become_chains_spike_for_spike(case: Case) -> None:
    graph, _ = quantize(from_torch(case.module, case.shape, case.T))
    try:
        same_spikes_in_the_chain(graph, case.input(4).numpy())
    except DeployError as error:
        # the only reasons to refuse a network of these layers, each by name
        assert re.search(
            "does not tile|past a strided layer|cuts? off its border|no scale|round to zero", str(error)
        ), error


def test_parallel_layers_get_one_threshold() -> None:
    """A SEW block with a downsample branch: two neuron layers side by side."""
    torch.manual_seed(0)
    net = nn.Sequential(
        layer.Conv2d(1, 3, 3, 1, 1),
        neuron.IFNode(),
        Residual(3, 6, 2, True, neuron.IFNode),
        layer.Flatten(),
        layer.Linear(6 * 16, 4),
        neuron.IFNode(),
    )
    randomize(net, 0)
    graph, report = quantize(from_torch(net, (1, 8, 8), 4))
    assert graph.neurons["2.sn1"].threshold == graph.neurons["2.down.2"].threshold
    assert "neighbor" in {row.limited_by for row in report}
    x = np.random.default_rng(0).integers(0, 256, (5, 1, 8, 8)) / 255
    chained = same_spikes_in_the_chain(graph, x)
    assert chained.metadata["members"]["2.down.2"][0] == chained.metadata["members"]["2.sn1"][0]


def test_strided_skip_needs_several_offsets() -> None:
    """A skip through a 2×2 convolution of stride 2: relays keep all four positions in channels of their own."""
    rng = np.random.default_rng(3)

    def conv(out: int, into: int, k: int, stride: int, padding: int) -> Conv2d:
        return Conv2d(
            rng.integers(-20, 40, (out, into, k, k)).astype(np.int32), None, (stride, stride), (padding, padding)
        )

    graph = SpikingGraph(
        {"in": Input((2, 8, 8), "spikes"), "a": conv(3, 2, 3, 1, 1), "sa": IF(30), "b": conv(4, 3, 3, 2, 1), "sb": IF(50), "c": conv(4, 4, 3, 1, 1),
         "skip": conv(4, 3, 2, 2, 0), "sc": IF(60), "flat": Flatten(), "fc": Linear(rng.integers(-9, 12, (3, 64)).astype(np.int32)), "so": IF(40), "out": Output()},
        (("in", "a"), ("a", "sa"), ("sa", "b"), ("b", "sb"), ("sb", "c"), ("c", "sc"), ("sa", "skip"), ("skip", "sc"), ("sc", "flat"), ("flat", "fc"), ("fc", "so"), ("so", "out")),
        4,
    )  # fmt: skip
    x = (rng.random((5, 4, 2, 8, 8)) < 0.4).astype(np.float32)
    chained = same_spikes_in_the_chain(graph, x)
    assert chained.shapes["sb.relayed"][0] == 4 + 4 * 3
