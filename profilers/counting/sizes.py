"""A network at rest has sizes: of its weighted layers, of their memory, and of the samples that a machine holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import assert_never

import numpy as np

from exporters.graph import Array, Conv2d, Linear, SpikingGraph

MEMBRANE_BITS = 24
"""Membrane word of an integer neuron: Loihi keeps 23 bits and a sign (Davies et al. 2018, IEEE Micro 38(1))."""


@dataclass(frozen=True)
class LayerShape:
    """One weighted layer that a sample passes once has these sizes, as models of memory and addresses count them.

    Attributes:
        convolution: a convolution, else a linear layer.
        inputs, outputs: elements that arrive and leave.
        weights, biases: words of each.
        macs: dense multiply-accumulates, padding included, as thop and fvcore count.
        kernel_words: output channels × kernel positions of a convolution; 0 for a linear layer.
    """

    convolution: bool
    inputs: int
    outputs: int
    weights: int
    biases: int
    macs: int
    kernel_words: int


def layer_shape(graph: SpikingGraph, layer: str) -> LayerShape:
    """A weighted layer of a graph has this shape; it reads its input behind pools, as an ANN of this shape would."""
    node = graph.synapses[layer]
    outputs, inputs = math.prod(graph.shapes[layer]), math.prod(graph.in_shape(layer))
    weights, biases = int(node.weight.size), 0 if node.bias is None else int(node.bias.size)
    match node:
        case Conv2d():
            places = math.prod(graph.shapes[layer][1:])
            kernel_words = weights // int(node.weight.shape[1])
            return LayerShape(True, inputs, outputs, weights, biases, macs=weights * places, kernel_words=kernel_words)
        case Linear():
            return LayerShape(False, inputs, outputs, weights, biases, macs=weights, kernel_words=0)
        case _:
            assert_never(node)


@dataclass(frozen=True)
class LayerSize:
    """One weighted layer takes this memory. `macs` are those of a dense pass; `graph_size` tells `bits_per_weight`."""

    weights: int
    biases: int
    macs: int
    bits_per_weight: int

    @property
    def parameters(self) -> int:
        """Parameters are weights and biases."""
        return self.weights + self.biases

    @property
    def weight_bits(self) -> int:
        """The weights, each stored once, take so many bits."""
        return self.weights * self.bits_per_weight


@dataclass(frozen=True)
class GraphSize:
    """A whole network takes this memory.

    Attributes:
        layers: in topological order.
        neurons: of all layers.
        state_bits: of all membranes.
        repeated: parameters that stand in several layers and are one module's, beyond the first of these.
    """

    layers: Mapping[str, LayerSize]
    neurons: int
    state_bits: int
    repeated: int = 0

    @property
    def parameters(self) -> int:
        """Parameters are weights and biases, BatchNorm folded in; those of a module that is used twice count once."""
        return sum(layer.parameters for layer in self.layers.values()) - self.repeated

    @property
    def weight_bits(self) -> int:
        """All weights take so many bits."""
        return sum(layer.weight_bits for layer in self.layers.values())

    @property
    def macs(self) -> int:
        """One pass through all layers takes so many dense multiply-accumulates."""
        return sum(layer.macs for layer in self.layers.values())


def graph_size(graph: SpikingGraph) -> GraphSize:
    """A graph has parameters, memory and dense MACs before it runs.

    A float graph stores weights as they are (32 bits for float32) and 32-bit membranes. An integer graph stores
    each layer's weights in the narrowest two's complement word that holds them all, and 24-bit membranes.
    """
    layers = {}
    for name, node in graph.synapses.items():
        biases = 0 if node.bias is None else node.bias.size
        layers[name] = LayerSize(node.weight.size, biases, layer_shape(graph, name).macs, _bits(node.weight))
    neurons = sum(math.prod(graph.shapes[name]) for name in graph.neurons)
    membrane = MEMBRANE_BITS if graph.is_integer else 32
    repeated = sum(layers[name].parameters for name in repeated_layers(graph))
    return GraphSize(MappingProxyType(layers), neurons, neurons * membrane, repeated)


def repeated_layers(graph: SpikingGraph) -> set[str]:
    """Layers whose weights an earlier one has, as the front end told; the metadata may have come out of anybody's file."""
    groups = graph.metadata.get("shared", [])
    known = (
        [g for g in groups if isinstance(g, list) and all(isinstance(name, str) for name in g)]
        if isinstance(groups, list)
        else []
    )
    return {name for group in known for name in [n for n in graph.synapses if n in group][1:]}


def _bits(weight: Array) -> int:
    if not np.issubdtype(weight.dtype, np.integer):
        return int(weight.dtype.itemsize) * 8
    low, high = int(weight.min()), int(weight.max())
    return 1 + max((~low if low < 0 else low).bit_length(), (high if high >= 0 else ~high).bit_length())


def samples_within(room: int, graph: SpikingGraph) -> int:
    """So many samples, and their spikes of all layers at one byte each, take about `room` bytes; at least one."""
    neurons = sum(math.prod(graph.shapes[name]) for name in graph.neurons)
    return max(1, room // (graph.T * neurons + 8 * math.prod(graph.input.shape)))
