"""Chains: the same spikes as the graphs they were made of, in every layer."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporters.errors import DeployError
from exporters.graph import IF, LIF, AvgPool2d, Conv2d, Flatten, Input, Linear, MaxPool2d, Node, Output, SpikingGraph
from exporters.passes import relays
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
    graph = random_integer_network(seed)
    try:
        assert_same(graph, seed)
    except DeployError as error:  # about one in 8,000, where a membrane could saturate in a common unit
        assert "no threshold can stand for those of layers of one depth" in str(error)
        assert any(len(graph.sources(name)) > 1 for name in graph.nodes), error


@pytest.mark.parametrize("seed", [385, 973])
def test_a_common_threshold_needs_room_for_what_can_add_up_only(seed: int) -> None:
    """What is above the threshold is reset: T times the largest current never stands in a membrane."""
    assert_same(random_integer_network(seed), seed)


def test_a_membrane_that_could_saturate_in_a_common_unit_is_refused() -> None:
    with pytest.raises(
        DeployError, match=r"no threshold can stand for .*block1\.neurons1 101, block1\.down\.neurons 71"
    ):
        to_chain(random_integer_network(881604395))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31))
def test_random_networks_that_reset_by_subtraction(seed: int) -> None:
    """All of their neurons, or some: OR neurons of pools still reset to zero."""
    graph = random_integer_network(seed)
    every = np.random.default_rng(seed).random(len(graph.neurons)) < (1 if seed % 3 else 0.5)
    soft = {n: replace(node, reset="soft") for (n, node), yes in zip(graph.neurons.items(), every, strict=True) if yes}
    try:
        chained = assert_same(graph.with_nodes(soft), seed)
    except DeployError as error:
        # reset alike, thresholds side by side need a common multiple; unlike, layers wait for one another, behind pools too
        unlike = (
            "cuts off its border|strides|leaky neurons run side by side" if seed % 3 == 0 else "no threshold can stand"
        )
        assert re.search(f"no threshold can stand|{unlike}", str(error)), error
        return
    assert any(node.reset == "soft" for node in chained.neurons.values()) or not soft


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
    "a dense layer past a cut border": (
        beside([("a", conv(2, 2, 3, padding=1)), ("sa", IF(9)), ("fl", Flatten()), ("fa", dense(2, 72))],
               [("b", conv(2, 2, 3)), ("sb", IF(9)), ("flb", Flatten()), ("fb", dense(2, 32))]),
        "fa: it reads sa past layers that cut off its border",
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
        "skip: it reads s past sa, which cuts off its border",
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


UNLIKE = {
    "another size": beside([("a", conv(2, 2, 3, padding=1)), ("sa", IF(9)), ("la", conv(2, 2, 3, 2, 1))],
                           [("b", conv(2, 2, 3, 2, 1)), ("sb", IF(9)), ("lb", conv(2, 2, 1))]),
    "another leak": beside([("a", conv(2, 2, 3, padding=1)), ("sa", IF(9)), ("fl", Flatten()), ("fa", dense(2, 72))],
                           [("b", conv(2, 2, 3, padding=1)), ("sb", LIF(9, 0.5)), ("flb", Flatten()), ("fb", dense(2, 72))]),
    # a bottleneck: the branch beside it shrinks at once, it shrinks in the middle
    "a strided bottleneck": beside(
        [("a", conv(3, 2, 1)), ("sa", IF(9)), ("b", conv(3, 3, 3, 2, 1)), ("sb", IF(30)), ("e", conv(4, 3, 1)), ("se", IF(9)),
         ("l", conv(2, 4, 1))],
        [("down", conv(4, 2, 1, 2)), ("sd", IF(9)), ("l", conv(2, 4, 1))]),
    # both branches are as deep, and shrink at different ends
    "early and late": beside(
        [("a", conv(3, 2, 3, 2, 1)), ("sa", IF(9)), ("b", conv(3, 3, 3, 1, 1)), ("sb", IF(30)), ("la", conv(2, 3, 1))],
        [("d", conv(3, 2, 3, 1, 1)), ("sd", IF(9)), ("e", conv(3, 3, 3, 2, 1)), ("se", IF(30)), ("lb", conv(2, 3, 1))]),
}  # fmt: skip


@pytest.mark.parametrize("name", UNLIKE)
def test_branches_that_are_unlike_are_scheduled(name: str) -> None:
    """No layer runs beside one of another size or leak; relays carry what waits."""
    chained = assert_same(UNLIKE[name], 3)
    plan = {layer: place[0] for layer, place in chained.metadata["members"].items()}
    shapes: dict[str, set[tuple[int, ...]]] = {}
    for layer, level in plan.items():
        shapes.setdefault(level, set()).add(UNLIKE[name].shapes[layer][1:])
    assert all(len(found) == 1 for found in shapes.values())


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), depths=st.lists(st.integers(0, 3), min_size=2, max_size=3), blocks=st.integers(1, 2))
def test_blocks_whose_branches_differ_in_shape_and_depth(seed: int, depths: list[int], blocks: int) -> None:
    """Every branch leads from one grid to one grid in as many layers as it likes, and shrinks wherever it likes."""
    rng = np.random.default_rng(seed)
    graph = branches(rng, depths, blocks)
    try:
        assert_same(graph, seed)
    except DeployError as error:
        assert re.search("past .* which cuts off its border|no threshold can stand for", str(error)), error


def branches(rng: np.random.Generator, depths: list[int], blocks: int) -> SpikingGraph:
    """A network of residual blocks; the neurons of a branch's end feed the next block, or its currents its sum."""
    size, channels, stride = int(rng.integers(5, 10)), 2, int(rng.integers(1, 4))
    nodes: dict[str, Node] = {"in": Input((channels, size, size), "spikes")}
    edges: list[tuple[str, str]] = []
    ends = ["in"]  # their spikes add up

    def synapse(name: str, sources: list[str], into: int, out: int, step: int, end: str) -> None:
        kernel = int(rng.choice([1, 3])) if step == 1 else 3
        weight = rng.integers(-20, 40, (out, into, kernel, kernel)).astype(np.int32)
        nodes[name] = Conv2d(weight, None, (step, step), (kernel // 2, kernel // 2))
        edges.extend((source, name) for source in sources)
        edges.append((name, end))

    for block in range(blocks):
        out, last = int(rng.integers(1, 4)), f"b{block}.sum"
        for k, depth in enumerate(depths):
            shrinks, before, width = int(rng.integers(0, depth + 1)), ends, channels
            for i in range(depth):
                wide, neurons = int(rng.integers(1, 4)), f"b{block}.{k}.{i}.n"
                synapse(f"b{block}.{k}.{i}", before, width, wide, stride if i == shrinks else 1, neurons)
                nodes[neurons] = IF(25)
                before, width = [neurons], wide
            synapse(f"b{block}.{k}.end", before, width, out, stride if shrinks == depth else 1, last)
        nodes[last] = IF(40)
        ends, channels = [last], out
    nodes["out"] = Output()
    edges.append((ends[0], "out"))
    return SpikingGraph(nodes, tuple(edges), 4)


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


# -- memory ------------------------------------------------------------------------------------------


def test_a_chain_that_memory_does_not_hold_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimate is the bytes of the merged layers, to the byte."""
    graph = skip_to_dense(1, 1)
    graph = graph.with_nodes({"s3": IF(200)})
    merged = [step.synapse.weight for step in chain_layers(to_chain(graph))][1:]  # before them nothing is relayed
    needed = round(relays.ROOM * sum(weight.nbytes for weight in merged))
    monkeypatch.setattr(relays, "available", lambda: needed)
    to_chain(graph)
    monkeypatch.setattr(relays, "available", lambda: needed - 1)
    with pytest.raises(
        DeployError, match=r"^s3: the layers of a chain relay .* s3 \(0 MB\), s2 .*; ONNX and NIR need no chain"
    ):
        to_chain(graph)
    monkeypatch.setattr(relays, "available", lambda: None)  # a system that does not say
    to_chain(graph)


def test_a_limit_of_the_process_is_known() -> None:
    code = (
        "import resource; from exporters.memory import available; before = available(); "
        "resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30)); print(before, available())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, limited = map(int, done.stdout.split())
    assert 0 < limited < 2**30 and limited <= before
