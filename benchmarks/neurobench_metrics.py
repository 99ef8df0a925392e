"""NeuroBench's own run beside `neurobench.json`, on three networks: `python -m benchmarks neurobench_metrics`.

NeuroBench is installed, without its dependencies, into a temporary folder of its own. Weights are random, a third of them 0.
Exits with 1 where a number differs by more than rounding.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from spikingjelly.activation_based import functional, neuron
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks._process import run
from benchmarks.counting import NEUROBENCH
from exporters.from_torch import from_torch
from exporters.graph import SpikingGraph
from exporters.passes.quantize import quantize
from hardware import emulator
from kdsnn.models import build
from kdsnn.models.folded import FoldedNetwork
from profilers import profiling

T, SAMPLES = 4, 16
NETWORKS: dict[str, tuple[tuple[int, int, int], dict[str, Any]]] = {
    "cnn2": ((1, 28, 28), {"channels": (16, 32), "hidden": 64}),
    "vgg11": ((3, 32, 32), {"widths": (8, 12, 16, 16, 16), "hidden": (32, 32)}),
    "resnet14": ((3, 32, 32), {}),
}


def main() -> None:
    print("| network | metric | NeuroBench 2.3.0 | neurobench.json |")
    print("|---|---|---:|---:|")
    equal = True
    with tempfile.TemporaryDirectory() as folder:
        run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, *NEUROBENCH])
        sys.path.append(folder)
        for name, (shape, options) in NETWORKS.items():
            graph = in_floats(quantize(from_torch(pruned(name, shape, options), shape, T))[0])
            images = np.random.default_rng(1).random((SAMPLES, *shape)).astype(np.float32)
            theirs, ours = flat(neurobench(graph, images)), flat(own(graph, images, Path(folder)))
            for metric, value in theirs.items():
                print(f"| {name} | {metric} | {value:,.12g} | {ours[metric]:,.12g} |")
                equal &= bool(np.isclose(value, ours[metric], rtol=1e-12))
    if not equal:
        sys.exit(1)


def pruned(name: str, shape: tuple[int, int, int], options: dict[str, Any]) -> nn.Module:
    """A network with gains that let neurons fire, and a third of its weights 0."""
    torch.manual_seed(0)
    network = build(name, spiking=True, input_shape=shape, classes=10, **options)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.data *= 2.5 * (torch.rand_like(module.weight) < 0.67)
        if isinstance(module, nn.BatchNorm2d):
            module.bias.data.uniform_(-0.2, 0.4)
    return network.eval()


def in_floats(graph: SpikingGraph) -> SpikingGraph:
    """The integers of a graph as floats: no rounding, so that both count the same spikes."""

    def floats(array: Any) -> Any:
        return None if array is None else array.astype(np.float64)

    nodes = {n: replace(s, weight=floats(s.weight), bias=floats(s.bias)) for n, s in graph.synapses.items()}
    return graph.with_nodes(nodes)


def own(graph: SpikingGraph, images: np.ndarray[Any, Any], folder: Path) -> dict[str, Any]:
    made = profiling.profile(graph, images, run=emulator.run, models={}, name=graph.input_name)
    made.write(folder, ["neurobench"])
    found: dict[str, Any] = json.loads((folder / "neurobench.json").read_text(encoding="utf-8"))
    return dict(next(iter(found.values())))


def neurobench(graph: SpikingGraph, images: np.ndarray[Any, Any]) -> dict[str, Any]:
    """What `Benchmark.run` says of the graph as a torch module, in float64 as sums in float32 are not exact."""
    benchmarks = importlib.import_module("neurobench.benchmarks")
    static = importlib.import_module("neurobench.metrics.static")
    workload = importlib.import_module("neurobench.metrics.workload")
    network = FoldedNetwork(graph).eval().double()

    def shown_at_every_step(batch: torch.Tensor) -> torch.Tensor:
        functional.reset_net(network)
        with torch.no_grad():
            output: torch.Tensor = network(batch.double().expand(T, *batch.shape))
        return output.mean(0)

    model = importlib.import_module("neurobench.models").TorchModel(network)
    model.add_activation_module(neuron.BaseNode)
    type(model).__call__ = lambda self, batch: shown_at_every_step(batch)
    loader = DataLoader(
        TensorDataset(torch.from_numpy(graph.encode(images)), torch.zeros(len(images))), batch_size=len(images)
    )
    metrics = [
        [static.Footprint, static.ParameterCount, static.ConnectionSparsity],
        [workload.ActivationSparsity, workload.SynapticOperations],
    ]
    found: dict[str, Any] = benchmarks.Benchmark(model, loader, [], [], metrics).run(quiet=True)
    return found


def flat(results: dict[str, Any]) -> dict[str, float]:
    """The operations among the other metrics."""
    operations = results["SynapticOperations"]
    return {**{name: value for name, value in results.items() if name != "SynapticOperations"}, **operations}


if __name__ == "__main__":
    main()
