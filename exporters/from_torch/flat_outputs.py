"""A network that ends in maps of one pixel and flattens them ends in dense layers: the same currents, which a chip has."""

from __future__ import annotations

import numpy as np

from exporters.graph import AnySynapse, Conv2d, Flatten, Linear, Shape, SpikingGraph
from exporters.graph.editing import Draft
from exporters.passes.kernels import merge_groups


def dense_at_the_end(graph: SpikingGraph) -> SpikingGraph:
    """The graph with dense layers in the place of convolutions whose maps of one pixel are flattened for a membrane at its end.

    No target has a Flatten between currents and the membrane that they go into; before the layer all have it.
    """
    nodes, name = graph.nodes, graph.output_name
    before = [source for source in graph.sources(name) if isinstance(nodes[source], Flatten)]
    flat = next((f for f in before if all(isinstance(nodes[s], Conv2d) for s in graph.sources(f))), None)
    if graph.output.readout != "membrane" or flat is None:
        return graph
    convolutions = graph.sources(flat)
    if graph.in_shape(flat)[1:] != (1, 1) or any(graph.targets(layer) != (flat,) for layer in convolutions):
        return graph
    draft = Draft()
    flattened: dict[str, str] = {}
    for node, layer in nodes.items():
        if node == flat:
            continue
        if node not in convolutions:
            sources = [s for source in graph.sources(node) for s in (convolutions if source == flat else (source,))]
            draft.add(node, layer, sources)
            continue
        assert isinstance(layer, Conv2d)
        for source in graph.sources(node):
            if source not in flattened:
                flattened[source] = draft.add(flat, Flatten(), [source])
        sources = [flattened[source] for source in graph.sources(node)]
        draft.add(node, _dense(layer, graph.in_shape(node)), sources)
    return graph.redrawn(draft.nodes, draft.edges)


def _dense(layer: Conv2d, shape: Shape) -> AnySynapse:
    """A convolution that gives one pixel of maps (C, H, W), as the dense layer of these flattened."""
    kernel = merge_groups(layer.weight, layer.groups, 1)
    weight = np.zeros((len(kernel), *shape), kernel.dtype)
    for ky, kx in np.ndindex(*kernel.shape[2:]):
        y, x = (k * d - p for k, d, p in zip((ky, kx), layer.dilation, layer.padding, strict=True))
        if 0 <= y < shape[1] and 0 <= x < shape[2]:
            weight[:, :, y, x] = kernel[:, :, ky, kx]
    bias = None if layer.bias is None else layer.bias.reshape(-1)
    return Linear(weight.reshape(len(weight), -1), bias)
