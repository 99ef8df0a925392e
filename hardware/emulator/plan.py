"""Before it sees a sample, the emulator decides about a graph: number types, registers that can overflow, weights ready
to multiply."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from exporters.graph import IF, LIF, AnyNeuron, Array, AvgPool2d, MaxPool2d, SpikingGraph
from exporters.graph.bounds import EXACT_IN_FLOAT32, input_bounds, is_signed, sum_bound
from exporters.graph.registers import CURRENT_LIMIT
from hardware.emulator.byte_products import LARGEST_BYTE, ByteProduct, byte_product
from hardware.emulator.membranes import MEMBRANE_MAX
from hardware.emulator.neurons import Firing, fits
from hardware.emulator.repeats import repeats_of


class EmulationPlan:
    """The plan is everything about a graph that does not depend on the samples, on the device.

    Attributes:
        graph: what is run; `device`: where.
        sources: node → the nodes that feed it; `uses`: node → how often it is read, by what is no part of its own loop.
        loops: node → the recurrent part that it is in.
        bounds: node → largest absolute value that can arrive at it.
        dtype: torch.float32 where all sums are exact in it, else float64.
        integer: whether Lava's registers are computed.
        wraps: whether a synaptic current can leave its register.
        persists: neuron layer → its current's leak, where the current persists.
        late: synapse layers whose bias the neurons add: Lava adds it behind the register that wraps and decays.
        saturating: neuron layers whose membrane can reach the end of its register.
        biases: synapse layer → bias, on the device.
        repeats: synapse layer → its outputs that repeat one input each, where these are many.
        multiplied: synapse layer → what is multiplied of it: all of it, or what remains beside the repeats.
        products: synapse layer → the multiplication of bytes of that, where there is one.
        pooled: neuron layer → the pool that can be computed with it.
    """

    def __init__(self, graph: SpikingGraph, device: torch.device, dtype: torch.dtype | None) -> None:
        self.graph = graph
        self.sources = {name: graph.sources(name) for name in graph.nodes}
        self.loops = {name: loop for loop in graph.loops for name in loop}
        read = Counter(a for a, b in graph.edges if a not in self.loops.get(b, ()))
        self.uses = {name: read[name] for name in graph.nodes}
        self.bounds = bounds = input_bounds(graph)
        self.dtype = _exact_type(graph, bounds) if dtype is None else dtype
        self.integer = graph.is_integer
        self.wraps = self.integer and _can_wrap(graph, bounds)
        self.persists = {n: leak for n, node in graph.neurons.items() if (leak := node.current_leak)}
        ends = {*graph.neurons, graph.output_name}
        self.late = {
            n
            for n in graph.synapses
            if (self.wraps and ends.issuperset(graph.targets(n)))
            or not self.persists.keys().isdisjoint(graph.targets(n))
        }
        # a membrane takes in at most T currents beside its start: most can never reach the end of their register
        self.saturating = {
            n
            for n, node in graph.neurons.items()
            if self.integer
            and (n in self.persists or abs(node.start) + graph.T * _current(graph, n, bounds) > MEMBRANE_MAX)
        }
        self.biases = {n: None if s.bias is None else self._tensor(s.bias, device) for n, s in graph.synapses.items()}
        # float graphs are left as they are: in them, sums are rounded
        found = {n: repeats_of(s) for n, s in graph.synapses.items()} if self.integer and device.type == "cpu" else {}
        self.repeats = {n: repeats for n, repeats in found.items() if repeats is not None}
        self.multiplied = graph.synapses | {n: r.layer for n, r in self.repeats.items() if r.layer is not None}
        bytes_possible = self.integer and device.type == "cpu" and self.dtype == torch.float32
        self.products = self._byte_products() if bytes_possible else {}
        largest = LARGEST_BYTE if self.products else 0  # torch's own pools add up floats
        self.pooled = {
            sources[0]: n
            for n, sources in self.sources.items()
            if isinstance(node := graph.nodes[n], MaxPool2d | AvgPool2d)
            and len(sources) == 1
            and isinstance(graph.nodes[sources[0]], IF | LIF)
            and sources[0] not in self.loops
            and fits(node, largest)
        }
        self.device, self._weights = device, dict[str, Tensor]()

    def firing(self, name: str, node: AnyNeuron) -> Firing:
        """How a neuron layer fires."""
        dtype = torch.uint8 if self.products else self.dtype
        return Firing(node, self.integer, name in self.saturating, dtype)

    def weight(self, name: str) -> Tensor:
        """A synapse layer's weights multiply floats in this form; most layers of an integer graph never ask."""
        if name not in self._weights:
            self._weights[name] = self._tensor(self.multiplied[name].weight, self.device)
        return self._weights[name]

    def _byte_products(self) -> dict[str, ByteProduct]:
        found = {}
        for name, synapse in self.multiplied.items():
            repeats, shape = self.repeats.get(name), self.graph.in_shape(name)
            if is_signed(self.graph, name) or (repeats is not None and repeats.layer is None):
                continue
            shape = shape if repeats is None else (len(repeats.read), *shape[1:])
            product = byte_product(synapse, shape, self.bounds[name])
            if product is not None:
                found[name] = product
        return found

    def late_bias(self, name: str) -> Tensor | None:
        """The biases of all synapses that feed a neuron layer are shaped to broadcast over (N, *shape)."""
        found = [b for s in self.sources[name] if s in self.late and (b := self.biases[s]) is not None]
        dims = len(self.graph.shapes[name]) - 1
        return add(*(b.reshape(-1, *[1] * dims) if b.ndim == 1 else b for b in found)) if found else None

    def _tensor(self, values: Array, device: torch.device) -> Tensor:
        return torch.from_numpy(values.astype(np.float32 if self.dtype == torch.float32 else np.float64)).to(device)


def add(first: Tensor, *others: Tensor) -> Tensor:
    """Tensors add up in the order given; one alone is returned itself."""
    total = first
    for other in others:
        total = total + other
    return total


def _exact_type(graph: SpikingGraph, bounds: Mapping[str, float]) -> torch.dtype:
    if not graph.is_integer:
        return torch.float32
    largest = [sum_bound(s, bounds[n], signed=is_signed(graph, n)) for n, s in graph.synapses.items()]
    return torch.float32 if all(bound < EXACT_IN_FLOAT32 for bound in largest) else torch.float64


def _current(graph: SpikingGraph, name: str, bounds: Mapping[str, float], *, bias: bool = True) -> float:
    """No larger current than this can reach a neuron layer or the output in one step."""
    synapses = graph.synapses
    into = [s for s in graph.sources(name) if s in synapses]
    return sum(sum_bound(synapses[s], bounds[s], bias=bias, signed=is_signed(graph, s)) for s in into)


def _can_wrap(graph: SpikingGraph, bounds: Mapping[str, float]) -> bool:
    ends = [*graph.neurons, graph.output_name]
    return any(_current(graph, end, bounds, bias=False) > CURRENT_LIMIT for end in ends)
