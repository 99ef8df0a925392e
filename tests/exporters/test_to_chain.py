"""Chains: the same spikes as the graphs they were made of, in every layer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporters.errors import DeployError
from exporters.graph import IF, Conv2d, Flatten, Input, Linear, Node, Output, SpikingGraph
from exporters.to_chain import layers, member_spikes, to_chain
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
    assert layers(chained)[1].synapse.weight.shape[0] == 3 + 2 * stride**2


def test_a_skip_past_a_cut_border_is_refused() -> None:
    """6 positions, but the strided layer has 2, of 2 each: the last two of the source would be lost."""
    with pytest.raises(DeployError, match="skip: it reads s1 past layers that cut off its border"):
        to_chain(skip_to_dense(2, 0))
