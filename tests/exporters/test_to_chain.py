"""Chains: the same spikes as the graphs they were made of, in every layer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporters.errors import DeployError
from exporters.graph import IF, LIF, AvgPool2d, Conv2d, Flatten, Input, Linear, MaxPool2d, Node, Output, SpikingGraph
from exporters.passes.chain import chain_layers, member_spikes, to_chain
from hardware.emulator import Recorder, run
from tests.networks import random_integer_network


def assert_same(graph: SpikingGraph, seed: int) -> SpikingGraph:
    chained = to_chain(graph)
    rng = np.random.default_rng(seed)
    shape = (graph.T, *graph.input.shape) if graph.input.encoding == "spikes" else graph.input.shape
    frames = rng.integers(0, (graph.input.scale or 1) + 1, (3, *shape)).astype(np.float32)
    on_graph, on_chain = Recorder(graph), Recorder(chained)
    expected = run(graph, frames, observe=on_graph).output
    np.testing.assert_array_equal(run(chained, frames, observe=on_chain).output.reshape(expected.shape), expected)
    found = member_spikes(chained, on_chain.spikes)
    for name, spikes in on_graph.spikes.items():
        np.testing.assert_array_equal(found[name], spikes, err_msg=name)
    return chained


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31))
def test_random_networks(seed: int) -> None:
    """Residual sums of currents and of spikes, pools, groups, dilation, leaks, biases, pixels and spikes."""
    assert_same(random_integer_network(seed), seed)


def skip_to_dense(stride: int, padding: int) -> SpikingGraph:
    """Spikes that go to a dense layer both through a strided convolution and past it."""
    rng = np.random.default_rng(stride)

    def weights(*shape: int) -> np.ndarray:
        return rng.integers(-30, 50, shape).astype(np.int32)

    size = (6 + 2 * padding - 3) // stride + 1
    nodes: dict[str, Node] = {
        "in": Input((1, 6, 6), scale=255), "c1": Conv2d(weights(2, 1, 3, 3), padding=(1, 1)), "s1": IF(5000),
        "c2": Conv2d(weights(3, 2, 3, 3), stride=(stride, stride), padding=(padding, padding)), "s2": IF(60),
        "flat1": Flatten(), "flat2": Flatten(), "main": Linear(weights(4, 3 * size * size)), "skip": Linear(weights(4, 72)),
        "s3": IF(300), "out": Output(),
    }  # fmt: skip
    edges = [("in", "c1"), ("c1", "s1"), ("s1", "c2"), ("c2", "s2"), ("s2", "flat1"), ("flat1", "main"), ("s1", "flat2"),
             ("flat2", "skip"), ("main", "s3"), ("skip", "s3"), ("s3", "out")]  # fmt: skip
    return SpikingGraph(nodes, tuple(edges), 4)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_spikes_skip_strided_layers_into_a_dense_one(stride: int) -> None:
    """Relays keep every position of the finer grid, in channels of their own."""
    chained = assert_same(skip_to_dense(stride, 1), 0)
    assert chain_layers(chained)[1].synapse.weight.shape[0] == 3 + 2 * stride**2


def test_a_skip_past_a_cut_border_is_refused() -> None:
    """6 positions, but the strided layer has 2, of 2 each: the last two of the source would be lost."""
    with pytest.raises(DeployError, match="skip: it reads s1 past layers that cut off its border"):
        to_chain(skip_to_dense(2, 0))


# -- what no relay and no OR can carry ---------------------------------------------------------------


def conv(out: int, into: int, kernel: int, stride: int = 1, padding: int = 0) -> Conv2d:
    rng = np.random.default_rng(kernel)
    weight = rng.integers(-9, 20, (out, into, kernel, kernel)).astype(np.int32)
    return Conv2d(weight, None, (stride, stride), (padding, padding))


def dense(out: int, into: int) -> Linear:
    return Linear(np.random.default_rng(into).integers(-9, 20, (out, into)).astype(np.int32))


def joined(paths: list[list[tuple[str, Node]]], shape: tuple[int, ...] = (1, 6, 6)) -> SpikingGraph:
    """From "in" each path runs over its nodes, those of a name being one; the last is the read-out."""
    nodes: dict[str, Node] = {"in": Input(shape, "spikes")}
    edges: dict[tuple[str, str], None] = {}
    for path in paths:
        before = "in"
        for name, node in path:
            nodes.setdefault(name, node)
            edges[before, name] = None
            before = name
        edges[before, "out"] = None
    return SpikingGraph({**nodes, "out": Output()}, tuple(edges), 3)


FIRST: list[tuple[str, Node]] = [("c", conv(2, 1, 3, padding=1)), ("s", IF(20))]  # (2, 6, 6)
LAST: tuple[str, Node] = ("so", IF(40))


def beside(a: list[tuple[str, Node]], b: list[tuple[str, Node]]) -> SpikingGraph:
    """Two branches behind the first layer, into the same neurons."""
    return joined([[*FIRST, *a, LAST], [*FIRST, *b, LAST]])


def wide_and_narrow(threshold: int, other: int, largest: int) -> SpikingGraph:
    """Two dense layers side by side."""
    w = np.full((3, 4), largest, np.int32)
    paths = [[("a", Linear(w)), ("sa", IF(threshold)), ("fa", dense(2, 3)), LAST],
             [("b", Linear(w)), ("sb", IF(other)), ("fb", dense(2, 3)), LAST]]  # fmt: skip
    return joined(paths, (4,))


POOL = AvgPool2d((2, 2), (2, 2))
TO_POOLED: list[tuple[str, Node]] = [("pool", MaxPool2d((2, 2), (2, 2))), ("fl", Flatten()), ("fc", dense(2, 18)), LAST]
REFUSED = {
    "an average pool into neurons": (
        joined([[("pool", POOL), ("sp", IF(2)), ("flat", Flatten()), ("fc", dense(2, 9)), LAST]]),
        "sp: an average pool feeds it; only synapse layers can absorb one",
    ),
    "an average that still divides": (
        joined([[*FIRST, ("pool", AvgPool2d((2, 2), (2, 2), divisor=4)), ("fl", Flatten()), ("fc", dense(2, 18)), LAST]]),
        "fc: an average pool with a divisor is not integer; quantize the graph first",
    ),
    "another size": (
        beside([("a", conv(2, 2, 3, padding=1)), ("sa", IF(9)), ("fl", Flatten()), ("fa", dense(2, 72))],
               [("b", conv(2, 2, 3)), ("sb", IF(9)), ("flb", Flatten()), ("fb", dense(2, 32))]),
        r"sb: it runs beside sa but has another size \(\(2, 4, 4\) and \(2, 6, 6\)\)",
    ),
    "another leak": (
        beside([("a", conv(2, 2, 3)), ("sa", IF(9)), ("fl", Flatten()), ("fa", dense(2, 32))],
               [("b", conv(2, 2, 3)), ("sb", LIF(9, 0.5)), ("flb", Flatten()), ("fb", dense(2, 32))]),
        "sb: it runs beside sa but leaks differently",
    ),
    "another stride": (
        beside([("a", conv(2, 2, 3, 2, 1)), ("sa", IF(9)), ("fl", Flatten()), ("fa", dense(2, 18))],
               [("b", conv(2, 2, 4)), ("sb", IF(9)), ("flb", Flatten()), ("fb", dense(2, 18))]),
        r"sa: layers of one depth have different strides \[\(1, 1\), \(2, 2\)\]",
    ),
    "a skip with another stride": (
        beside([("a", conv(2, 2, 3, 2, 1)), ("sa", IF(9)), ("b", conv(2, 2, 3, 1, 1))], [("skip", conv(2, 2, 4))]),
        r"skip: it strides by \(1, 1\) where the layers it runs beside stride by \(2, 2\) in all",
    ),
    "a skip past a cut border": (
        beside([("a", conv(2, 2, 5)), ("sa", IF(9)), ("b", conv(2, 2, 3, 1, 1))], [("skip", conv(2, 2, 5))]),
        "so: no common kernel gives its size 2 from 2 with stride 1 beside its relays",
    ),
    "from convolutions past dense layers": (
        beside([("fl", Flatten()), ("fa", dense(3, 72)), ("sa", IF(9)), ("fb", dense(2, 3))],
               [("fl2", Flatten()), ("skip", dense(2, 72))]),
        "s: its spikes skip from convolutions to dense layers past sa",
    ),
    "thresholds without a common multiple": (
        wide_and_narrow(100_001, 131_072, 9),
        r"no threshold can stand for those of layers of one depth \(sa 100001, sb 131072\)",
    ),
    "a common threshold beyond the registers": (
        wide_and_narrow(2, 1000, 100),
        r"no threshold can stand for those of layers of one depth \(sa 2, sb 1000\)",
    ),
    "the maximum of a sum": (
        joined([[*FIRST, *TO_POOLED], [*FIRST, ("a", conv(2, 2, 3, padding=1)), ("sa", IF(9)), *TO_POOLED]]),
        "pool: a max-pool over a sum of spikes is no OR",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_chain_cannot_carry_is_refused_by_name(name: str) -> None:
    graph, message = REFUSED[name]
    with pytest.raises(DeployError, match=message) as caught:
        to_chain(graph)
    assert "\n" not in str(caught.value)


def test_layers_of_what_is_no_chain() -> None:
    graph = joined([[*FIRST, *TO_POOLED]])
    with pytest.raises(DeployError, match="pool: MaxPool2d stands where a netx chain needs a convolution or linear"):
        chain_layers(graph)


def test_spikes_skip_a_dense_layer() -> None:
    """Relays beside a dense layer: a weight as large as its threshold repeats a spike."""
    paths = [[("a", dense(5, 4)), ("sa", IF(12)), ("b", dense(4, 5)), ("sb", IF(30)), ("c", dense(3, 4)), LAST],
             [("a", dense(5, 4)), ("sa", IF(12)), ("skip", dense(3, 5)), LAST]]  # fmt: skip
    chained = assert_same(joined(paths, (4,)), 1)
    assert chain_layers(chained)[1].synapse.weight.shape == (4 + 5, 5)
