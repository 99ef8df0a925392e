"""A layer is called by its synapses everywhere: in the graph, in the chain that is placed, in findings and in reports."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from exporters.from_torch import from_torch
from exporters.graph import (
    IF,
    Conv2d,
    Delay,
    Flatten,
    Input,
    Linear,
    MaxPool2d,
    Node,
    Output,
    SpikingGraph,
    layer_names,
)
from exporters.passes.chain import chain_layers, to_chain
from exporters.passes.quantize import quantize
from hardware import emulator
from hardware.chips import fit, limits
from kdsnn import models
from kdsnn.deploy.check import CheckResult
from kdsnn.deploy.on_chip import drawn as drawn_of
from profilers import profiling


def conv() -> Conv2d:
    return Conv2d(np.ones((2, 2, 3, 3), np.float32), padding=(1, 1))


def dense(into: int = 4) -> Linear:
    return Linear(np.ones((4, into), np.float32))


def graph(nodes: dict[str, Node], edges: list[tuple[str, str]]) -> SpikingGraph:
    return SpikingGraph(nodes, tuple(edges), T=2)


def test_the_last_convolution_of_a_block_gives_the_name_wherever_its_shortcut_stands() -> None:
    for order in (("c2", "short"), ("short", "c2")):
        nodes: dict[str, Node] = {"in": Input((2, 6, 6), "spikes"), "c1": conv(), "n1": IF(1)}
        nodes |= {name: conv() for name in order} | {"c0": conv(), "n0": IF(1), "n2": IF(1), "out": Output()}
        edges = [("in", "c0"), ("c0", "n0"), ("n0", "c1"), ("c1", "n1"), ("n1", "c2"), ("n0", "short")]
        edges += [(name, "n2") for name in order] + [("n2", "out")]
        assert layer_names(graph(nodes, edges)) == {"n0": "c0", "n1": "c1", "n2": "c2"}


def test_a_recurrent_layer_has_the_name_of_what_comes_in() -> None:
    nodes: dict[str, Node] = {
        "in": Input((4,), "spikes"), "late": Delay(np.ones(4, np.int64)), "back": dense(), "fc": dense(), "n": IF(1), "out": Output(),
    }  # fmt: skip
    edges = [("in", "fc"), ("fc", "n"), ("n", "late"), ("late", "back"), ("back", "n"), ("n", "out")]
    assert layer_names(graph(nodes, edges)) == {"n": "fc"}


def test_neurons_without_synapses_of_their_own_keep_their_name() -> None:
    nodes: dict[str, Node] = {
        "in": Input((4,), "spikes"),
        "fc": dense(),
        "a": IF(1),
        "b": IF(2),
        "c": IF(1),
        "out": Output(),
    }
    edges = [("in", "fc"), ("fc", "a"), ("fc", "b"), ("a", "c"), ("b", "c"), ("c", "out")]
    assert layer_names(graph(nodes, edges)) == {"a": "fc", "b": "b", "c": "c"}


def residual() -> SpikingGraph:
    torch.manual_seed(0)
    module = models.build("resnet14", spiking=True, input_shape=(1, 8, 8), classes=10)
    return from_torch(module, (1, 8, 8), 2)


def pooled() -> SpikingGraph:
    rng = np.random.default_rng(0)
    nodes: dict[str, Node] = {
        "input": Input((1, 8, 8)), "conv": Conv2d(rng.normal(0, 1, (4, 1, 3, 3)).astype(np.float32), padding=(1, 1)), "conv.if": IF(1.0),
        "pool": MaxPool2d((2, 2), (2, 2)), "flat": Flatten(), "fc": Linear(rng.normal(0, 1, (3, 64)).astype(np.float32)), "fc.if": IF(1.0),
        "output": Output(),
    }  # fmt: skip
    names = list(nodes)
    return graph(nodes, list(itertools.pairwise(names)))


@pytest.mark.parametrize("make", [residual, pooled])
def test_placement_check_and_report_use_one_name(make: object) -> None:
    network = make()  # type: ignore[operator]
    integer, scales = quantize(network, bits=8)
    chain = to_chain(integer)
    samples = np.random.default_rng(1).random((2, *network.input.shape))
    student = profiling.count("s", network, samples, run=emulator.run, quantized=integer)
    reported = {layer.name for layer in student.deployed.layers}
    assert {layer.name for layer in student.float_run.layers} == reported
    pools = {name for name, node in network.nodes.items() if isinstance(node, MaxPool2d)}

    held = fit.check(chain, limits.target("loihi2"), scales=scales)
    assert held.placement is not None
    drawn = [row.layer for row in drawn_of(held.placement).rows]
    assert drawn == [step.name for step in chain_layers(chain)]
    assert drawn == [row["name"] for row in CheckResult("s", held).rows()]
    assert set(drawn) - pools <= reported and pools <= set(drawn)
    firing = {layer.name for layer in student.deployed.layers if layer.neurons is not None}
    assert firing == set(drawn) - pools  # shortcuts add to the layer of the main path and are none on the chip
    assert {finding.layer for finding in held.findings} <= {"", *drawn}


def test_a_layer_of_the_report_has_its_synapses_and_its_neurons() -> None:
    network = pooled()
    samples = np.random.default_rng(1).random((3, 1, 8, 8))
    run = profiling.count("s", network, samples, run=emulator.run).float_run
    assert [(layer.name, layer.kind) for layer in run.layers] == [("conv", "Conv2d + IF"), ("fc", "Linear + IF")]
    recorder = emulator.Recorder(network)
    emulator.run(network, network.encode(samples), observe=recorder)
    for layer in run.layers:
        assert layer.spikes == pytest.approx(recorder.spikes[f"{layer.name}.if"].sum() / 3)
        assert layer.parameters == network.synapses[layer.name].weight.size
    assert run.spikes.mean == pytest.approx(sum(layer.spikes or 0 for layer in run.layers))
