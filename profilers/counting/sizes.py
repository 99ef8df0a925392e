"""Sizes: of weighted layers, from a `SpikingGraph` or a torch module, as memory and address models count; of samples in memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

from exporters.graph import Conv2d, SpikingGraph


@dataclass(frozen=True)
class LayerShape:
    """One weighted layer, one sample, one pass.

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
    """The shape of a weighted layer of a graph; it reads its input behind pools, as an ANN of this shape would."""
    node = graph.synapses[layer]
    shape, is_convolution = graph.shapes[layer], isinstance(node, Conv2d)
    weights = int(node.weight.size)
    return LayerShape(
        convolution=is_convolution,
        inputs=math.prod(graph.in_shape(layer)),
        outputs=math.prod(shape),
        weights=weights,
        biases=0 if node.bias is None else int(node.bias.size),
        macs=weights * (math.prod(shape[1:]) if is_convolution else 1),
        kernel_words=weights // int(node.weight.shape[1]) if is_convolution else 0,
    )


def samples_within(room: int, graph: SpikingGraph) -> int:
    """How many samples, and their spikes of all layers at one byte each, take about `room` bytes; at least one."""
    neurons = sum(math.prod(graph.shapes[name]) for name in graph.neurons)
    return max(1, room // (graph.T * neurons + 8 * math.prod(graph.input.shape)))
