"""NeuroBench's metrics of its algorithm track (Yik et al. 2025, Nat. Commun. 16:1545), by its own definitions.

NeuroBench 2.3 looks at a torch module; here it is the graph as a module of its nodes (`kdsnn.models.folded`: BatchNorm folded
away), shown the input at every step. Its conventions differ from those of `profilers.counting.activity` in this:

* What a layer reads decides: with values other than 0 and 1 it multiplies. So does a layer behind an average pool, or one that
  reads a sum of spikes. (NeuroBench looks at the values of each batch; here the structure decides. A batch of pixels that are
  all 0 or 1 would be spikes to NeuroBench.)
* Its input is counted behind the pool, element by element.
* `Dense` are the synapses that exist, borders excluded, at every step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from exporters.errors import DeployError
from exporters.graph import AvgPool2d, Conv2d, Flatten, Linear, MaxPool2d, SpikingGraph
from profilers.counting.activity import Activity
from profilers.counting.sizes import MEMBRANE_BITS, GraphSize, repeated_layers


@dataclass(frozen=True)
class NeuroBenchMetrics:
    """These are NeuroBench's metrics, under its names but for the case of letters; operations are means per sample.

    `footprint` is in bytes: weights and biases, each stored once. Those of integers take the bits of `graph_size`, biases a
    membrane's word; NeuroBench, which knows modules of floats only, has no say in that.
    """

    footprint: int
    parameter_count: int
    connection_sparsity: float
    activation_sparsity: float
    effective_macs: float
    effective_acs: float
    dense: float


class MixedInputs:
    """An observer counts the operations of layers whose input `Activity` does not see: sums and averages of spikes.

    It is called like `ActivityCounter`, and is of use for any graph: mostly there are no such layers.
    """

    def __init__(self, graph: SpikingGraph) -> None:
        self._graph = graph
        self.layers = tuple(name for name in graph.synapses if _is_mixed(graph, name))
        self._readers: dict[str, list[str]] = {}
        for layer in self.layers:
            for source in graph.sources(layer):
                self._readers.setdefault(source, []).append(layer)
        self._fan_out = {layer: _fan_out(graph, layer, nonzero=True) for layer in self.layers}
        self._waiting: dict[str, tuple[int, Tensor]] = {}
        self._found = dict.fromkeys(self.layers, 0)
        self._samples = 0

    def __call__(self, name: str, values: Tensor) -> None:
        """Count one batch of a node's output (T, N, *shape), or (1, N, *shape) where it is the same at every step."""
        if name == self._graph.input_name:
            self._samples += values.shape[1]
        for layer in self._readers.get(name, []):
            arrived, total = self._waiting.pop(layer, (0, torch.zeros((), device=values.device)))
            arrived, total = arrived + 1, total + values.detach().float()
            if arrived < len(self._graph.sources(layer)):
                self._waiting[layer] = arrived, total
                continue
            events = (total != 0).flatten(2).sum((0, 1)).double().cpu()  # of each element, over steps and samples
            repeats = self._graph.T // total.shape[0]
            self._found[layer] += repeats * round(float(events @ self._fan_out[layer].flatten()))

    def join(self, gather: Callable[[Any], list[Any]]) -> None:
        """Join what was counted in several processes, as `ActivityCounter.join` does."""
        samples, found = zip(*gather((self._samples, self._found)), strict=True)
        self._samples = sum(samples)
        self._found = {layer: sum(one[layer] for one in found) for layer in self.layers}

    def result(self) -> dict[str, int]:
        """Operations on all samples, zero inputs and weights skipped, by layer.

        Raises:
            DeployError: nothing was run.
        """
        if self.layers and not self._samples:
            raise DeployError("no run to count: the input was never observed; pass the counter as observe=")
        return dict(self._found)


def metrics(
    graph: SpikingGraph, size: GraphSize, activity: Activity, mixed: Mapping[str, int]
) -> NeuroBenchMetrics | None:
    """NeuroBench's metrics of a counted run; None where `mixed` (`MixedInputs.result`) lacks a layer."""
    layers = [name for name in graph.synapses if _is_mixed(graph, name)]
    if any(name not in mixed for name in layers):
        return None
    macs, acs = sum(mixed[name] for name in layers), 0
    for name, layer in activity.synapses.items():
        done = int(layer.operations_nonzero.sum())
        if name not in layers:
            macs, acs = (macs, acs + done) if layer.role == "spikes" else (macs + done, acs)
    weights = sum(node.weight.size for node in graph.synapses.values())
    zeros = sum(int((node.weight == 0).sum()) for node in graph.synapses.values())
    neurons = activity.neuron_updates
    return NeuroBenchMetrics(
        footprint=_footprint(graph, size),
        parameter_count=size.parameters,
        connection_sparsity=round(zeros / weights, 4) if weights else 0.0,
        activation_sparsity=1 - activity.rate if neurons else 0.0,
        effective_macs=macs / activity.samples,
        effective_acs=acs / activity.samples,
        dense=float(graph.T * sum(int(_fan_out(graph, name, nonzero=False).sum()) for name in graph.synapses)),
    )


def _footprint(graph: SpikingGraph, size: GraphSize) -> int:
    again = repeated_layers(graph)
    bits = 0
    for name, layer in size.layers.items():
        if name not in again:
            bias_bits = MEMBRANE_BITS if graph.is_integer else layer.bits_per_weight
            bits += layer.weight_bits + layer.biases * bias_bits
    return math.ceil(bits / 8)


def _is_mixed(graph: SpikingGraph, layer: str) -> bool:
    """Several signals meet before a layer, or an average does."""
    name = layer
    while len(sources := graph.sources(name)) == 1:
        (name,) = sources
        if isinstance(graph.nodes[name], AvgPool2d):
            return True
        if not isinstance(graph.nodes[name], Flatten | MaxPool2d):
            return False
    return True


def _fan_out(graph: SpikingGraph, layer: str, *, nonzero: bool) -> Tensor:
    """Outputs that each element of a layer's own input reaches, float64 of its shape: by all weights, or those not zero."""
    node = graph.synapses[layer]
    weight = (
        torch.from_numpy(node.weight != 0).double() if nonzero else torch.ones(node.weight.shape, dtype=torch.float64)
    )
    match node:
        case Linear():
            return weight.sum(0)
        case Conv2d():
            probe = torch.zeros(1, *graph.in_shape(layer), dtype=torch.float64, requires_grad=True)
            with torch.enable_grad():
                total = conv2d(probe, weight, None, node.stride, node.padding, node.dilation, node.groups).sum()
                (reached,) = torch.autograd.grad(total, probe)
            found: Tensor = reached[0]
            return found
