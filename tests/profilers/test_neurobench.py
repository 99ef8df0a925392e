"""NeuroBench's metrics against its own definitions, written out here on the same network as a torch module."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, neuron
from torch import nn

from exporters.errors import DeployError
from exporters.from_torch import from_torch
from exporters.graph import SpikingGraph
from exporters.passes.quantize import quantize
from hardware import emulator
from kdsnn.models import build
from kdsnn.models.folded import FoldedNetwork
from profilers import profiling, report
from profilers.counting.flops import ModuleCounts
from profilers.report.data import Teacher

T, SAMPLES = 3, 5
NETWORKS = {
    "cnn2": ((1, 8, 8), {"channels": (6, 4), "hidden": 12}),
    "vgg11": ((1, 16, 16), {"widths": (4, 6, 6, 8, 8), "hidden": (16, 16)}),
    "resnet14": ((1, 8, 8), {"stem": 4, "widths": (4, 6, 8)}),  # sums of spikes, and an average before the classifier
}


def graph_of(name: str) -> SpikingGraph:
    torch.manual_seed(0)
    shape, options = NETWORKS[name]
    network = build(name, spiking=True, input_shape=shape, classes=5, **options)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):  # a third of the weights zero, gains that let neurons fire
            module.weight.data *= 2.5 * (torch.rand_like(module.weight) < 0.67)
        if isinstance(module, nn.BatchNorm2d):
            module.bias.data.uniform_(-0.2, 0.4)
    return from_torch(network.eval(), shape, T)


def in_floats(graph: SpikingGraph) -> SpikingGraph:
    """A graph whose weights are the integers of another, as floats: its spikes are the same in any precision."""

    def floats(array: Any) -> Any:
        return None if array is None else array.astype(np.float64)

    nodes = {n: replace(s, weight=floats(s.weight), bias=floats(s.bias)) for n, s in graph.synapses.items()}
    return graph.with_nodes(nodes)


def by_definition(graph: SpikingGraph, images: np.ndarray) -> dict[str, Any]:
    """NeuroBench 2.3: hooks on connections and activations, layers with ones for weights, all steps shown."""
    network = FoldedNetwork(graph).eval().double()
    found: dict[str, Any] = {"Effective_MACs": 0, "Effective_ACs": 0, "Dense": 0}
    zeros = activations = 0

    def connection(module: Any, args: tuple[torch.Tensor]) -> None:
        x = args[0].flatten(0, 1)
        key = "Effective_ACs" if bool(((x == 0) | (x == 1) | (x == -1)).all()) else "Effective_MACs"

        def run(x: torch.Tensor, weight: torch.Tensor) -> float:
            if isinstance(module, nn.Linear):
                return float(torch.nn.functional.linear(x, weight).sum())
            geometry = (module.stride, module.padding, module.dilation, module.groups)
            return float(torch.nn.functional.conv2d(x, weight, None, *geometry).sum())

        found[key] += run((x != 0).double(), (module.weight != 0).double()) / SAMPLES
        found["Dense"] += run(torch.ones_like(x), torch.ones_like(module.weight)) / SAMPLES

    def activation(module: Any, args: Any, output: torch.Tensor) -> None:
        nonlocal zeros, activations
        zeros += int((output == 0).sum())
        activations += output.numel()

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_pre_hook(connection)
        if isinstance(module, neuron.BaseNode):
            module.register_forward_hook(activation)
    with torch.no_grad():
        network(torch.from_numpy(graph.encode(images)).double().expand(T, *images.shape))
    functional.reset_net(network)
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    weights = sum(m.weight.numel() for m in layers)
    return {
        "Footprint": sum(p.numel() * p.element_size() for p in (*network.parameters(), *network.buffers())),
        "ParameterCount": sum(p.numel() for p in network.parameters()),
        "ConnectionSparsity": round(sum(int((m.weight == 0).sum()) for m in layers) / weights, 4),
        "ActivationSparsity": zeros / activations,
        "SynapticOperations": found,
    }


@pytest.mark.parametrize("name", NETWORKS)
def test_the_file_has_what_neurobenchs_definitions_give(name: str, tmp_path: Path) -> None:
    lowered = graph_of(name)
    graph = in_floats(quantize(lowered, bits=8)[0])
    images = np.random.default_rng(1).random((SAMPLES, *graph.input.shape)).astype(np.float32)
    images[images < 0.3] = 0
    integer, _ = quantize(lowered, bits=4)
    made = profiling.profile(graph, images, run=emulator.run, quantized=integer, models={}, name="net")
    made.write(tmp_path, ["neurobench"])
    found = json.loads((tmp_path / "neurobench.json").read_text(encoding="utf-8"))
    assert list(found) == ["net (float)", "net (quantized)"]
    expected = by_definition(graph, images)
    operations = expected.pop("SynapticOperations")
    got = found["net (float)"]
    assert got.pop("SynapticOperations") == pytest.approx(operations, rel=1e-12)
    assert all(round(count * SAMPLES) > 0 for count in operations.values())
    assert got.pop("ActivationSparsity") == pytest.approx(expected.pop("ActivationSparsity"), abs=1e-12)
    assert got == expected
    # integers: rounding makes more zeros, a weight takes half a byte and a bias three
    quantized = found["net (quantized)"]
    assert quantized["ConnectionSparsity"] > got["ConnectionSparsity"]
    weights = sum(node.weight.size for node in integer.synapses.values())
    biases = sum(node.bias.size for node in integer.synapses.values() if node.bias is not None)
    assert quantized["Footprint"] <= -(-(4 * weights + 24 * biases) // 8)
    assert quantized["SynapticOperations"]["Dense"] == operations["Dense"]


def test_an_ann_alone_has_no_such_file(tmp_path: Path) -> None:
    ann = Teacher("ann", None, ModuleCounts(thop=8, macs=8, parameters=10, parameters_without_batchnorm=10))
    with pytest.raises(DeployError, match="leave out --format neurobench"):
        report.build("ann", "", [], teacher=ann).write(tmp_path, ["neurobench"])
    assert list(tmp_path.iterdir()) == []
