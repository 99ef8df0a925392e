"""The encoder on the host and the rest on the chip give the spikes of the whole network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporters import netx
from exporters.errors import DeployError
from exporters.graph import IF, Conv2d, Input, Linear, Output, SpikingGraph, chain
from exporters.passes.chain import member_spikes, to_chain
from exporters.passes.split import split_encoder
from hardware.emulator import Recorder, run
from hardware.lava import client
from tests.networks import random_integer_network, spiking_modules


def splittable(seed: int) -> SpikingGraph:
    """The first direct-coded network from a seed on with more than one neuron layer and a spiking end."""
    while True:
        graph = random_integer_network(seed)
        if graph.input.encoding == "direct" and len(graph.neurons) > 1 and graph.output.readout == "rate":
            return graph
        seed += 1


def both_ways(graph: SpikingGraph, seed: int) -> tuple[np.ndarray, np.ndarray, SpikingGraph]:
    """The chip's input frames (N, T, *shape), the whole network's output, and the chip graph, whose spikes were compared."""
    host, chip = split_encoder(graph)
    x = np.random.default_rng(seed).integers(0, (graph.input.scale or 255) + 1, (3, *graph.input.shape))
    frames = x.astype(np.float32) if graph.input.scale else (x / 255).astype(np.float32)
    recorder, rest = Recorder(graph), Recorder(chip)
    whole = run(graph, frames, observe=recorder).output
    between = run(host, frames).output
    np.testing.assert_array_equal(run(chip, between.astype(np.float32), observe=rest).output, whole)
    assert set(host.neurons) | set(chip.neurons) == set(graph.neurons) and len(host.neurons) == 1
    for name, spikes in rest.spikes.items():
        np.testing.assert_array_equal(spikes, recorder.spikes[name], err_msg=name)
    return between, whole, chip


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31))
def test_integer_networks(seed: int) -> None:
    both_ways(splittable(seed), seed)


@settings(max_examples=10, deadline=None)
@given(spiking_modules(residual=False))
def test_float_networks(case) -> None:
    from exporters.from_torch import from_torch

    graph = from_torch(case.module, case.shape, case.T)
    if len(graph.neurons) > 1:
        both_ways(graph, case.seed)


@pytest.mark.usefixtures("lava_environment")
def test_on_lava(tmp_path: Path) -> None:
    """The chip part alone on real Lava, fed with the host's spikes."""
    graph = splittable(2)
    frames, whole, chip = both_ways(graph, 2)
    chained = to_chain(chip)
    assert netx.message_bits(chained) == 0
    path = netx.write(chained, tmp_path / "chip.net")
    found = client.run(path, frames.astype(np.int32), T=graph.T, message_bits=0, probes=True)
    np.testing.assert_array_equal(found.spikes, whole.reshape(found.spikes.shape))
    assert 0 < frames.mean() < 1 and member_spikes(chained, {}) == {}


def refusal(nodes: dict, edges: list[tuple[str, str]]) -> str:
    with pytest.raises(DeployError) as caught:
        split_encoder(SpikingGraph(nodes, tuple(edges), 2))
    return str(caught.value)


def test_refusals() -> None:
    eye = Linear(np.eye(2))
    spikes = chain([("in", Input((2,), "spikes")), ("a", eye), ("s", IF(1.0)), ("out", Output())], 2)
    with pytest.raises(DeployError, match="spikes already"):
        split_encoder(spikes)
    one = chain([("in", Input((2,))), ("a", eye), ("s", IF(1.0)), ("out", Output())], 2)
    with pytest.raises(DeployError, match="s: it is the whole network"):
        split_encoder(one)
    none = chain([("in", Input((2, 3, 3))), ("a", Conv2d(np.ones((1, 2, 3, 3)))), ("out", Output("membrane"))], 2)
    with pytest.raises(DeployError, match="reaches out"):
        split_encoder(none)
    # the currents of the first layer are added again behind the second neurons
    nodes = {"in": Input((2,)), "a": eye, "s": IF(1.0), "b": eye, "s2": IF(1.0), "out": Output()}
    edges = [("in", "a"), ("a", "s"), ("s", "b"), ("b", "s2"), ("a", "s2"), ("s2", "out")]
    assert "reaches s, s2" in refusal(nodes, edges)
