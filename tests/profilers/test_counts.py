from __future__ import annotations

import numpy as np
import profilers_brute as brute
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporters.errors import DeployError
from exporters.graph import (
    IF,
    LIF,
    AvgPool2d,
    Conv2d,
    Flatten,
    Input,
    Linear,
    MaxPool2d,
    Node,
    Output,
    SpikingGraph,
    chain,
    window_positions,
)
from profilers.counting.activity import Activity, ActivityCounter, _blocks, layer_role
from profilers.counting.fanout import connections_into, fan_out
from profilers.counting.sizes import graph_size


def observed(graph: SpikingGraph, frames: torch.Tensor) -> tuple[Activity, dict[str, torch.Tensor]]:
    counter = ActivityCounter(graph)
    values = brute.run(graph, frames, counter)
    return counter.result(), values


@st.composite
def spiking_graphs(draw: st.DrawFn) -> tuple[SpikingGraph, torch.Tensor]:
    """Small random networks: convolutions of every geometry, both pools, residual sums, linear layers."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
    steps = draw(st.integers(1, 3))
    size = draw(st.tuples(st.integers(3, 7), st.integers(3, 7)))
    channels = draw(st.sampled_from([1, 2, 4]))
    encoding = draw(st.sampled_from(["direct", "spikes", "frames"]))
    nodes: dict[str, Node] = {"in": Input((channels, *size), encoding)}
    edges: list[tuple[str, str]] = []
    ends = ["in"]  # what the next node sums

    def add(name: str, node: Node) -> None:
        edges.extend((end, name) for end in ends)
        nodes[name] = node
        ends[:] = [name]

    def weights(*shape: int) -> np.ndarray:
        return rng.integers(-2, 3, shape).astype(np.float64)  # a fifth of them zero, and sums that cancel

    def fits(kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], dilation=(1, 1)) -> bool:
        return all(window_positions(*axis) > 0 for axis in zip(size, kernel, stride, padding, dilation, strict=True))

    for index in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["conv", "conv", "max", "avg", "residual", "neuron"]))
        kernel, stride = draw(pairs), draw(pairs)
        if kind == "conv":
            dilation, padding = draw(pairs), draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
            if not fits(kernel, stride, padding, dilation):
                continue
            groups = draw(st.sampled_from([g for g in (1, 2, 4) if channels % g == 0]))
            out = groups * draw(st.integers(1, 2))
            add(
                f"conv{index}",
                Conv2d(weights(out, channels // groups, *kernel), None, stride, padding, dilation, groups),
            )
            size = tuple(window_positions(*a) for a in zip(size, kernel, stride, padding, dilation, strict=True))
            channels = out
            if draw(st.booleans()):
                add(f"if{index}", IF(1.0, draw(st.sampled_from(["hard", "soft"]))))
        elif kind == "neuron":
            add(f"lif{index}", LIF(0.8, 0.5))
        elif kind == "residual" and len(ends) == 1 and isinstance(nodes[ends[0]], IF | LIF):
            shortcut = ends[0]
            add(f"res{index}", Conv2d(weights(channels, channels, 3, 3), None, (1, 1), (1, 1)))
            add(f"resif{index}", IF(1.0))
            ends.append(shortcut)
        elif kind in ("max", "avg"):
            padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
            if not fits(kernel, stride, padding):
                continue
            pool = MaxPool2d if kind == "max" else AvgPool2d
            extra = {} if kind == "max" else {"divisor": kernel[0] * kernel[1]}
            add(f"{kind}{index}", pool(kernel, stride, padding, **extra))
            size = tuple(window_positions(*a) for a in zip(size, kernel, stride, padding, strict=True))
    add("flat", Flatten())
    add("fc", Linear(weights(3, channels * size[0] * size[1]), weights(3)))
    add("out", Output("membrane"))
    graph = SpikingGraph(nodes, tuple(edges), steps)
    shape = (2, *graph.input.shape) if encoding == "direct" else (steps, 2, *graph.input.shape)
    frames = rng.random(shape) * (rng.random(shape) < 0.6)
    return graph, torch.from_numpy(np.ceil(frames) if encoding == "spikes" else frames)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(spiking_graphs())
def test_operations_equal_a_loop_over_every_synapse(case: tuple[SpikingGraph, torch.Tensor]) -> None:
    graph, frames = case
    activity, values = observed(graph, frames)
    for name, layer in activity.synapses.items():
        every, nonzero = brute.count(graph, values, name)
        np.testing.assert_array_equal(layer.operations, every)
        np.testing.assert_array_equal(layer.operations_nonzero, nonzero)
        tables = [table for tables in brute.synapses(graph, name).values() for table in tables]
        assert layer.connections == sum(map(len, tables))
    for name, neuron in activity.neurons.items():
        np.testing.assert_array_equal(neuron.spikes, values[name].flatten(2).sum(2).T)
    if graph.input.over_time:
        np.testing.assert_array_equal(activity.events_in, (values["in"] != 0).flatten(2).sum(2).T)
    else:
        assert activity.events_in is None
    again = ActivityCounter(graph)
    for name, value in values.items():  # as convolutions of bytes leave them in memory
        again(name, value.movedim(2, -1).contiguous().movedim(-1, 2) if value.ndim == 5 else value)
    for name, layer in again.result().synapses.items():
        np.testing.assert_array_equal(layer.operations, activity.synapses[name].operations)
        np.testing.assert_array_equal(layer.operations_nonzero, activity.synapses[name].operations_nonzero)


def test_folded_average_pool_equals_the_folded_convolution() -> None:
    """Average pool 2 and a 3×3 convolution compose into one 6×6 convolution of stride 2 (no borders cut)."""
    rng = np.random.default_rng(0)
    weight = rng.integers(-1, 2, (3, 2, 3, 3)).astype(np.float64)
    folded = np.repeat(np.repeat(weight, 2, axis=2), 2, axis=3) / 4
    head = [("in", Input((2, 10, 8), "spikes"))]
    pooled = chain(
        [*head, ("pool", AvgPool2d((2, 2), (2, 2), (0, 0), 4)), ("l", Conv2d(weight)), ("o", Output("membrane"))], 2
    )
    plain = chain([*head, ("l", Conv2d(folded, stride=(2, 2))), ("o", Output("membrane"))], 2)
    spikes = torch.from_numpy((rng.random((2, 5, 2, 10, 8)) < 0.4).astype(np.float64))
    (a, values), (b, expected) = observed(pooled, spikes), observed(plain, spikes)
    torch.testing.assert_close(values["l"], expected["l"])
    np.testing.assert_array_equal(a.synops, b.synops)
    np.testing.assert_array_equal(a.synops_nonzero, b.synops_nonzero)


def test_overlapping_pool_windows_reach_each_output_once() -> None:
    graph = chain(
        [
            ("in", Input((1, 4, 1), "spikes")),
            ("pool", AvgPool2d((3, 1), (1, 1), (1, 0), 3)),
            ("conv", Conv2d(np.array([[[[1.0], [-1.0]]]]))),  # neighboring cells cancel in the middle
            ("out", Output("membrane")),
        ],
        T=1,
    )
    every, nonzero = fan_out(graph, connections_into(graph, "conv")[0])
    # outputs y = cell[y] − cell[y+1]; cell k sums elements k−1…k+1
    assert every.reshape(-1).tolist() == [2, 3, 3, 2]
    # element 1 is in cells 0, 1, 2: +1−1 = 0 for y=0 and y=1, +1 for y=2
    assert nonzero.reshape(-1).tolist() == [1, 1, 1, 1]


def test_roles_come_from_the_graph_not_from_values() -> None:
    conv = Conv2d(np.ones((1, 1, 1, 1)))
    graph = chain(
        [
            ("in", Input((1, 2, 2))),
            ("encoder", conv),
            ("second", conv),
            ("if", IF(1.0)),
            ("spiking", conv),
            ("current", conv),
            ("out", Output("membrane")),
        ],
        T=4,
    )
    assert [layer_role(graph, name) for name in graph.synapses] == ["static", "static", "spikes", "changing"]
    activity, _ = observed(graph, torch.ones(3, 1, 2, 2, dtype=torch.float64))  # binary values change nothing
    assert activity.macs_once == 4 + 4 + 4 * 4
    assert activity.macs_repeated == 3 * 4 * 4
    assert activity.spike_fed_macs == 4
    assert activity.spikes.tolist() == activity.synops.tolist() == [[4] * 4] * 3
    assert activity.graded_operations.tolist() == [[12] * 4] * 3
    assert activity.spikes_per_synapse == 4.0
    assert activity.rate == 1.0
    assert activity.neuron_updates == 16
    # spike-fed layers only, and the shortcut equals SynOps where there is no border
    np.testing.assert_allclose(activity.rate_macs, activity.synops)


def test_rate_times_macs_ignores_borders() -> None:
    graph = chain(
        [
            ("in", Input((1, 3, 3), "spikes")),
            ("c", Conv2d(np.ones((1, 1, 3, 3)), padding=(1, 1))),
            ("o", Output("membrane")),
        ],
        T=1,
    )
    activity, _ = observed(graph, torch.ones(1, 1, 1, 3, 3, dtype=torch.float64))
    assert activity.rate_macs.tolist() == [[81.0]]
    assert activity.synops.tolist() == [[49]]  # 9 + 4·6 + 4·4 synapses exist
    assert activity.synapses["c"].connections == 49
    assert activity.synapses["c"].macs == 81


def test_batches_add_up_and_sizes_beyond_float32_stay_exact() -> None:
    graph = chain(
        [
            ("in", Input((5001,), "spikes")),
            ("fc", Linear(np.ones((4001, 5001), np.float32))),
            ("o", Output("membrane")),
        ],
        T=2,
    )
    frames = torch.ones(2, 3, 5001)
    frames[1, 2, 0] = 0
    whole, parts = ActivityCounter(graph), ActivityCounter(graph)
    whole("in", frames)
    parts("in", frames[:, :1])
    parts("in", frames[:, 1:])
    full = 5001 * 4001  # more than 2²⁴, odd
    assert whole.result().synops.tolist() == [[full, full], [full, full], [full, full - 4001]]
    np.testing.assert_array_equal(whole.result().synops, parts.result().synops)


def test_agrees_with_spikingjelly() -> None:
    from spikingjelly.activation_based import functional, layer, neuron
    from spikingjelly.activation_based.op_counter import DispatchCounterMode, SynOpCounter

    torch.manual_seed(0)
    net = torch.nn.Sequential(
        layer.Conv2d(3, 8, 3, padding=1, bias=False, step_mode="m"),
        neuron.IFNode(step_mode="m"),
        layer.MaxPool2d(2, 2, step_mode="m"),
        layer.Conv2d(8, 12, 3, stride=2, padding=2, dilation=2, groups=4, bias=False, step_mode="m"),
        neuron.IFNode(step_mode="m", v_threshold=0.2),
        layer.Flatten(step_mode="m"),
        layer.Linear(12 * 4 * 4, 10, bias=False, step_mode="m"),
    )
    image = torch.rand(5, 3, 14, 14) * 4
    theirs = SynOpCounter()
    with torch.no_grad(), DispatchCounterMode([theirs]):
        net(image.expand(4, *image.shape))
    functional.reset_net(net)

    def kernel(index: int) -> np.ndarray:
        return net[index].weight.detach().numpy()

    graph = chain(
        [
            ("in", Input((3, 14, 14))),
            ("c1", Conv2d(kernel(0), padding=(1, 1))),
            ("n1", IF(1.0)),
            ("pool", MaxPool2d((2, 2), (2, 2))),
            ("c2", Conv2d(kernel(3), None, (2, 2), (2, 2), (2, 2), 4)),
            ("n2", IF(0.2)),
            ("flat", Flatten()),
            ("fc", Linear(kernel(6))),
            ("out", Output("membrane")),
        ],
        T=4,
    )
    counter = ActivityCounter(graph)
    values = image.expand(4, *image.shape)
    names = {1: "n1", 2: "pool", 4: "n2"}
    counter("in", image[None])
    with torch.no_grad():
        for index, module in enumerate(net):
            values = module(values)
            if index in names:
                counter(names[index], values)
    activity = counter.result()
    assert activity.spikes.sum() > 0
    assert int(activity.synops.sum()) == theirs.get_total()


def test_misuse_is_explained() -> None:
    graph = chain([("in", Input((3,), "spikes")), ("fc", Linear(np.ones((2, 3)))), ("o", Output("membrane"))], T=2)
    counter = ActivityCounter(graph)
    with pytest.raises(DeployError, match="in was never observed"):
        counter.result()
    with pytest.raises(DeployError, match=r"in: values of shape \(3, 1, 3\) to count; expected \(2 or 1, N, 3\)"):
        counter("in", torch.zeros(3, 1, 3))
    with pytest.raises(DeployError, match="expected"):
        counter("in", torch.zeros(2, 1, 4))


def test_an_interrupted_batch_is_noticed() -> None:
    layers = [("in", Input((1,), "spikes")), ("a", Linear(np.ones((1, 1)))), ("n", IF(1.0))]
    graph = chain([*layers, ("b", Linear(np.ones((1, 1)))), ("o", Output("membrane"))], T=1)
    counter = ActivityCounter(graph)
    counter("in", torch.zeros(1, 2, 1))
    counter("in", torch.zeros(1, 2, 1))
    counter("n", torch.zeros(1, 2, 1))
    with pytest.raises(DeployError, match="different numbers of samples"):
        counter.result()


@pytest.mark.parametrize("largest", [2**15, 2**17, 2**19, 2**30])
def test_fan_outs_are_summed_without_rounding(largest: int) -> None:
    """In float32 while a block's sums stay below 2²⁴, in float64 beyond: as Python's integers in every case."""
    fan_outs = np.random.default_rng(largest).integers(largest, 2 * largest, (2, 301)) | 1
    blocks = _blocks(list(fan_outs.astype(np.float64)))
    assert {str(block.dtype) for block in blocks} == {"torch.float32" if largest < 2**19 else "torch.float64"}
    total = sum(int((block @ torch.ones(block.shape[1], dtype=block.dtype))[1]) for block in blocks)
    assert total == sum(map(int, fan_outs[1]))


def test_a_layer_that_is_used_twice_has_its_parameters_once() -> None:
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(2, 2, 3, 3))
    nodes = [("input", Input((2, 5, 5))), ("c", Conv2d(kernel, padding=(1, 1))), ("n", IF(0.5))]
    nodes += [("c_2", Conv2d(kernel, padding=(1, 1))), ("n_2", IF(0.5)), ("output", Output())]
    apart = graph_size(chain(nodes, 3))
    once = graph_size(chain(nodes, 3, metadata={"shared": [["c", "c_2"]]}))
    assert (apart.parameters, once.parameters) == (72, 36)
    assert once.macs == apart.macs and once.weight_bits == apart.weight_bits  # both are computed, and stored on a chip
    for strange in ("c", [["x", "c"]], [[1, 2]], {"c": 1}, None):  # of anybody's file
        assert graph_size(chain(nodes, 3, metadata={"shared": strange})).parameters == 72
