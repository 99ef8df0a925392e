"""The slow truth: a float runner, and SynOps counted by looping over every single synapse."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F

from exporters.graph import (
    IF,
    LIF,
    AvgPool2d,
    Conv2d,
    Flatten,
    Input,
    Linear,
    MaxPool2d,
    Output,
    Pool,
    SpikingGraph,
)

Observe = Callable[[str, torch.Tensor], None]


def run(graph: SpikingGraph, frames: torch.Tensor, observe: Observe) -> dict[str, torch.Tensor]:
    """frames: (N, *shape), or (T, N, *shape) for spike input. Every node's output, (T or 1, N, *shape)."""
    values: dict[str, torch.Tensor] = {}
    for name, node in graph.nodes.items():
        x = sum(values[s] for s in graph.sources(name)) if graph.sources(name) else None
        match node:
            case Input(encoding=encoding):
                y = frames[None] if encoding == "direct" else frames
            case IF() | LIF():
                leak = node.leak if isinstance(node, LIF) else 1.0
                v, steps = torch.zeros_like(x[0]), []
                for t in range(graph.T):
                    v = leak * v + x[min(t, len(x) - 1)]
                    spike = v >= node.threshold
                    v = torch.where(spike, v - node.threshold if node.reset == "soft" else torch.zeros_like(v), v)
                    steps.append(spike.double())
                y = torch.stack(steps)
            case Flatten():
                y = x.flatten(2)
            case Output():
                y = x
            case _:
                y = _memoryless(node, x.flatten(0, 1)).unflatten(0, x.shape[:2])
        values[name] = y
        observe(name, y)
    return values


def _memoryless(node: Conv2d | Linear | Pool, x: torch.Tensor) -> torch.Tensor:
    match node:
        case Conv2d():
            w = torch.as_tensor(node.weight, dtype=torch.float64)
            b = None if node.bias is None else torch.as_tensor(node.bias, dtype=torch.float64)
            return F.conv2d(x, w, b, node.stride, node.padding, node.dilation, node.groups)
        case Linear():
            b = None if node.bias is None else torch.as_tensor(node.bias, dtype=torch.float64)
            return F.linear(x, torch.as_tensor(node.weight, dtype=torch.float64), b)
        case MaxPool2d():
            return F.max_pool2d(x, node.kernel, node.stride, node.padding)
        case AvgPool2d():
            return F.avg_pool2d(x, node.kernel, node.stride, node.padding, divisor_override=node.divisor)


Place = tuple[int, ...]


def synapses(graph: SpikingGraph, layer: str) -> dict[str, list[dict[tuple[Place, Place], float]]]:
    """source → one table per edge into the layer: (element of the source, output neuron) → folded weight."""
    found: dict[str, list[dict[tuple[Place, Place], float]]] = defaultdict(list)

    def back(name: str, table: dict[tuple[Place, Place], float]) -> None:
        for source in graph.sources(name):
            node = graph.nodes[source]
            if isinstance(node, Flatten):
                shape = graph.in_shape(source)
                moved = {(_unflatten(i[0], shape), o): w for (i, o), w in table.items()}
                back(source, moved)
            elif isinstance(node, AvgPool2d):
                folded: dict[tuple[Place, Place], float] = defaultdict(float)
                for (cell, o), w in table.items():
                    for element in _window(cell, node, graph.in_shape(source)):
                        folded[element, o] += w
                back(source, folded)
            else:
                found[source].append(table)

    back(layer, dict(_own_synapses(graph, layer)))
    return found


def _unflatten(i: int, shape: Place) -> Place:
    return tuple(int(v) for v in np.unravel_index(i, shape))


def _window(cell: Place, pool: AvgPool2d, shape: Place) -> Iterator[Place]:
    c, y, x = cell
    for a, b in itertools.product(range(pool.kernel[0]), range(pool.kernel[1])):
        i, j = y * pool.stride[0] - pool.padding[0] + a, x * pool.stride[1] - pool.padding[1] + b
        if 0 <= i < shape[1] and 0 <= j < shape[2]:
            yield c, i, j


def _own_synapses(graph: SpikingGraph, layer: str) -> Iterator[tuple[tuple[Place, Place], float]]:
    node = graph.nodes[layer]
    if isinstance(node, Linear):
        for (o, i), w in np.ndenumerate(node.weight):
            yield ((i,), (o,)), float(w)
        return
    assert isinstance(node, Conv2d)
    _, height, width = graph.in_shape(layer)
    per_group = node.weight.shape[0] // node.groups
    for (o, c, a, b), w in np.ndenumerate(node.weight):
        channel = c + (o // per_group) * node.weight.shape[1]
        for y, x in itertools.product(*(range(n) for n in graph.shapes[layer][1:])):
            i = y * node.stride[0] - node.padding[0] + a * node.dilation[0]
            j = x * node.stride[1] - node.padding[1] + b * node.dilation[1]
            if 0 <= i < height and 0 <= j < width:
                yield ((channel, i, j), (o, y, x)), float(w)


def count(graph: SpikingGraph, values: dict[str, torch.Tensor], layer: str) -> tuple[np.ndarray, np.ndarray]:
    """(N, T) operations of a layer, over all synapses and over those of non-zero weight: one loop over all."""
    samples = values[graph.input_name].shape[1]
    every, nonzero = np.zeros((2, samples, graph.T), np.int64)
    for source, tables in synapses(graph, layer).items():
        events = values[source].expand(graph.T, *values[source].shape[1:]).numpy() != 0
        for table in tables:
            for (element, _), weight in table.items():
                hit = events[(slice(None), slice(None), *element)].T
                every += hit
                nonzero += hit & (weight != 0)
    return every, nonzero
