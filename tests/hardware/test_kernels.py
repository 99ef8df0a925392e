"""The compiled kernel of neurons gives every spike and every membrane of torch's operations, bit for bit."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from exporters.graph import IF, LIF, AnyNeuron, AnyPool, AvgPool2d, Conv2d, Input, MaxPool2d, Output, SpikingGraph
from exporters.graph.nodes import Flatten, Linear
from hardware import emulator
from hardware.emulator import membranes, neurons
from profilers.counting.activity import ActivityCounter
from tests.networks import random_frames, random_integer_network, random_recurrent

NEVER, AT_ONCE = 2**62, 0


def neuron(leak: float, threshold: float, reset: str) -> AnyNeuron:
    return IF(threshold, reset=reset) if leak == 1 else LIF(threshold, reset=reset, leak=leak)  # type: ignore[arg-type]


@pytest.mark.parametrize("integer", [True, False])
@pytest.mark.parametrize("leak", [1, 0.75, 1 / 3])
def test_it_is_torch_bit_for_bit(leak: float, integer: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neurons, "PAYS", AT_ONCE)
    assert neurons._tried(torch.float32)
    compiled = watched(monkeypatch)
    x = torch.randn(4 * 3, 5, 37, 29, generator=torch.Generator().manual_seed(0)) * 40  # no power of two divides it
    for reset, steps, innermost, saturates in itertools.product(("hard", "soft"), (4, 1), (True, False), (True, False)):
        current = x.round() * (2**15 if saturates else 1) if integer else x
        if innermost:
            current = current.contiguous(memory_format=torch.channels_last)
        current = current.view(4, 3, 5, 37, 29)[:steps]
        layer = neurons.Firing(
            neuron(leak, 30 if integer else 30.7, reset), integer, saturates, torch.uint8 if integer else torch.float32
        )
        v, also = (torch.full_like(current[0], 2) for _ in range(2))
        one = membranes.fire(layer.node, current, v, 4, integer=integer, saturates=saturates, dtype=layer.dtype)
        other = neurons.fire(layer, current, also, 4)
        assert torch.equal(one, other) and torch.equal(v, also) and one.stride() == other.stride()
        assert 0 < one.float().mean() < 1
    assert len(compiled) == 16


def watched(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The keywords of every call of the kernel from now on."""
    calls, original = [], neurons._fire_compiled
    monkeypatch.setattr(neurons, "_fire_compiled", lambda *a, **k: (calls.append((*a, k)), original(*a, **k))[1])
    return calls


def both_ways(graph: SpikingGraph, frames: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run with the kernel is one without: output, every layer's spikes, and all counts."""
    found = []
    for pays in (NEVER, AT_ONCE):
        monkeypatch.setattr(neurons, "PAYS", pays)
        values: dict[str, torch.Tensor] = {}
        counter = ActivityCounter(graph)

        def observe(name: str, x: torch.Tensor, values: Any = values, counter: Any = counter) -> None:
            values[name] = x.clone()
            counter(name, x)

        seen = emulator.run(graph, frames, observe=observe).output
        np.testing.assert_array_equal(emulator.run(graph, frames).output, seen)
        found.append((seen, values, counter.result()))
    (one, layers, counts), (other, also, too) = found
    np.testing.assert_array_equal(one, other)
    assert layers.keys() == also.keys() == graph.nodes.keys()
    assert all(torch.equal(layers[name], also[name]) and layers[name].dtype == also[name].dtype for name in layers)
    assert all(np.array_equal(counts.neurons[n].spikes, too.neurons[n].spikes) for n in graph.neurons)
    for n in graph.neurons:  # counted one by one
        np.testing.assert_array_equal(too.neurons[n].spikes, also[n].flatten(2).long().sum(2).T)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_networks_give_the_same_with_it(seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for make in (random_integer_network, random_recurrent):
            graph = make(seed)
            both_ways(graph, random_frames(graph, 3, seed), patch)


@st.composite
def pooled_networks(draw: st.DrawFn) -> SpikingGraph:
    """Convolution, neurons and a pool, wide enough for products of bytes; sums of layers, and readers beside the pool."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    channels, height, width = draw(st.sampled_from([1, 3, 16])), draw(st.integers(4, 9)), draw(st.integers(4, 9))
    down, across = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    stride = (down, across) if draw(st.booleans()) else (2, 2)
    pool: AnyPool = (
        MaxPool2d((down, across), stride) if draw(st.booleans()) else AvgPool2d((down, across), stride, divisor=1)
    )
    several, read_twice = draw(st.integers(1, 4)), draw(st.booleans())

    def conv(into: int, out: int, largest: int) -> Conv2d:  # small enough for registers not to wrap
        weight = rng.integers(-largest, largest + 1, (out, into, 3, 3))
        return Conv2d(weight, rng.integers(-99, 100, out), padding=(1, 1))

    reset = draw(st.sampled_from(["hard", "soft"]))
    leak = draw(st.sampled_from([1, 0.5, 0.75]))
    nodes: dict[str, Any] = {
        "input": Input((2, height, width), "direct", scale=255),
        **{f"conv{i}": conv(2, channels, 7) for i in range(several)},
        "fire": neuron(leak, int(rng.integers(300, 6_000)), reset),
        "pool": pool,
        "next": conv(channels, 8, 31),
        "fire2": neuron(leak, 50, reset),
        "flat": Flatten(),
    }
    pairs = [*((a, b) for i in range(several) for a, b in (("input", f"conv{i}"), (f"conv{i}", "fire"))),
             ("fire", "pool"), ("pool", "next"), ("next", "fire2"), ("fire2", "flat"), ("flat", "dense"), ("dense", "last"),
             ("last", "output")]  # fmt: skip
    rows, columns = (height - down) // stride[0] + 1, (width - across) // stride[1] + 1
    nodes["dense"] = Linear(rng.integers(-15, 16, (10, 8 * rows * columns)))
    if read_twice:
        nodes |= {"flat2": Flatten(), "dense2": Linear(rng.integers(-15, 16, (10, channels * height * width)))}
        pairs += [("fire", "flat2"), ("flat2", "dense2"), ("dense2", "last")]
    nodes |= {"last": neuron(1, 60, reset), "output": Output()}
    return SpikingGraph(nodes, tuple(pairs), T=draw(st.integers(1, 4)))


@settings(max_examples=25, deadline=None)
@given(graph=pooled_networks(), seed=st.integers(0, 99))
def test_pools_behind_neurons_give_the_same_with_it(graph: SpikingGraph, seed: int) -> None:
    plan = emulator.prepare(graph).plan
    assert not plan.wraps and (
        plan.pooled or graph.nodes["pool"].kernel != graph.nodes["pool"].stride or not plan.products
    )  # type: ignore[union-attr]
    with pytest.MonkeyPatch.context() as patch:
        both_ways(graph, random_frames(graph, 3, seed), patch)


def test_spikes_that_only_a_pool_reads_are_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    nodes: dict[str, Any] = {
        "input": Input((2, 6, 6), "direct", scale=255),
        "conv": Conv2d(rng.integers(-7, 8, (16, 2, 3, 3)), padding=(1, 1)),
        "fire": IF(900),
        "pool": MaxPool2d((2, 2), (2, 2)),
        "flat": Flatten(),
        "dense": Linear(rng.integers(-15, 16, (10, 144))),
        "last": IF(30),
        "output": Output(),
    }
    graph = SpikingGraph(nodes, tuple(zip(nodes, [*nodes][1:], strict=False)), T=4)
    assert emulator.prepare(graph).plan.pooled == {"fire": "pool"}
    monkeypatch.setattr(neurons, "PAYS", AT_ONCE)
    assert neurons._tried(torch.float32)
    calls = watched(monkeypatch)
    frames = random_frames(graph, 3, 0)
    emulator.run(graph, frames)
    emulator.run(graph, frames, observe=lambda name, x: None)
    fused = [call for call in calls if call[1].node is nodes["fire"]]
    if emulator.prepare(graph).plan.products:  # else channels are not innermost
        assert [(call[6], call[-1]["keep"]) for call in fused] == [(nodes["pool"], False), (nodes["pool"], True)]


def test_layouts_that_differ_are_left_to_torch() -> None:
    x = torch.zeros(2, 3, 4, 5, 6)
    nhwc = torch.zeros(2, 3, 5, 6, 4).permute(0, 1, 4, 2, 3)
    assert neurons._order([x, x[:1]]) is False
    assert neurons._order([nhwc, nhwc[:1]]) is True
    assert neurons._order([x, nhwc]) is None
    assert neurons._order([torch.zeros(2, 3, 4, 6, 5).transpose(3, 4)]) is None
    assert neurons._order([torch.zeros(4, 3, 4, 5, 6)[::2]]) is None


def test_without_numba_it_is_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neurons, "_tried", lambda _: None)
    monkeypatch.setattr(neurons, "PAYS", AT_ONCE)
    layer = neurons.Firing(IF(2), integer=True, saturates=False, dtype=torch.uint8)
    spikes = neurons.fire(layer, torch.ones(1, 1, 3), torch.zeros(1, 3), 4)
    assert spikes[:, 0, 0].tolist() == [0, 1, 0, 1]
    assert neurons.fire_from_rest(layer, [torch.ones(1, 1, 3)], 4, None, keep=True) is None


def test_a_kernel_that_differs_is_not_used() -> None:
    from hardware.emulator import kernels

    trials = [*neurons._trials(torch.float32)]
    assert all(neurons._agrees(kernels, *trial) for trial in trials)

    def wrong(first: int, last: int, *args: Any) -> None:
        kernels.fire(first, last, *args)
        spikes = args[5]
        if spikes.size:
            spikes[-1, -1, -1] ^= 1

    broken: Any = SimpleNamespace(**{**vars(kernels), "fire": wrong})
    assert not any(neurons._agrees(broken, *trial) for trial in trials)


def test_work_ahead_decides_whether_a_compiler_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(1, 1, 3)
    monkeypatch.setattr(neurons, "_expected", [0])
    monkeypatch.setattr(neurons, "_tried", lambda _: "kernels")
    neurons.expect(neurons.PAYS - 1)
    assert neurons._kernels_for(x) is None
    neurons.expect(1)
    assert neurons._kernels_for(x) == "kernels"
    assert neurons._kernels_for(x.half()) is None
