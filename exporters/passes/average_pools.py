"""Average pools disappear: the synapses behind them read the spikes before them.

An average pool in an integer graph is a sum over windows (its divisor stands in the weights already),
and a sum followed by a convolution is one convolution with a larger kernel and stride; a sum followed
by a linear layer is a linear layer over the unpooled positions. No neuron, no time step, no rounding.
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

import numpy as np

from exporters.errors import DeployError
from exporters.graph import (
    AnySynapse,
    Array,
    AvgPool2d,
    Conv2d,
    Delay,
    Flatten,
    Linear,
    Node,
    Output,
    Pair,
    Shape,
    SpikingGraph,
    Synapse,
    unique_name,
    window_positions,
)


def fold_average_pools(graph: SpikingGraph) -> SpikingGraph:
    """The integer graph becomes one without `AvgPool2d`, spike for spike.

    A synapse layer that reads several signals becomes one layer for each signal, into the same targets.

    Raises:
        DeployError: a pool that feeds something other than synapses, or a padded convolution behind a pool
            whose windows do not tile its input (their border pixels differ).
    """
    nodes: dict[str, Node] = {}
    edges: list[tuple[str, str]] = []
    copies: dict[str, list[str]] = {}  # synapse → the layers that stand for it

    for name, node in graph.nodes.items():
        stays = isinstance(node, Flatten) and any(
            isinstance(graph.nodes[t], Delay | Output) for t in graph.targets(name)
        )
        if isinstance(node, AvgPool2d | Flatten) and not stays:
            continue
        if not isinstance(node, Synapse):
            for source in graph.sources(name):
                if isinstance(graph.nodes[source], AvgPool2d):
                    raise DeployError(f"{name}: an average pool feeds it; only synapse layers can absorb one")
            nodes[name] = node
            edges += [(copy, name) for source in graph.sources(name) for copy in copies.get(source, [source])]
            continue
        paths = [path for source in graph.sources(name) for path in _paths(graph, source)]
        copies[name] = []
        for origin, pools, flattened in paths:
            layer: AnySynapse = node if not copies[name] else replace(node, bias=None)
            for pool in reversed(pools):
                pool_node = graph.nodes[pool]
                assert isinstance(pool_node, AvgPool2d)
                layer = _absorb(layer, pool_node, graph.in_shape(pool), graph.shapes[pool], name)
            unique = name if not copies[name] else unique_name(name, {*nodes, *graph.nodes})
            read = origin
            if flattened:
                read = f"{unique}.flatten"
                nodes[read] = Flatten()
                edges.append((origin, read))
            nodes[unique] = layer
            edges.append((read, unique))
            copies[name].append(unique)
    return graph.redrawn(nodes, edges)


def _paths(graph: SpikingGraph, name: str) -> list[tuple[str, tuple[str, ...], bool]]:
    """A signal comes from these: (node that is neither pool nor flatten, the pools on the way in order, flattened)."""
    node = graph.nodes[name]
    if not isinstance(node, AvgPool2d | Flatten):
        return [(name, (), False)]
    pool = (name,) if isinstance(node, AvgPool2d) else ()
    return [
        (origin, (*pools, *pool), flattened or isinstance(node, Flatten))
        for source in graph.sources(name)
        for origin, pools, flattened in _paths(graph, source)
    ]


def _absorb(layer: AnySynapse, pool: AvgPool2d, before: Shape, after: Shape, name: str) -> AnySynapse:
    if pool.divisor != 1:
        raise DeployError(f"{name}: an average pool with a divisor is not integer; quantize the graph first")
    match layer:
        case Linear():
            return replace(layer, weight=_unpooled(layer.weight, pool, before, after))
        case Conv2d():
            return _absorb_into_convolution(layer, pool, before, after, name)
        case _:
            assert_never(layer)


def _absorb_into_convolution(layer: Conv2d, pool: AvgPool2d, before: Shape, after: Shape, name: str) -> Conv2d:
    pads = [_axis_is_exact(layer, pool, axis, before[1 + axis], after[1 + axis]) for axis in (0, 1)]
    if not all(pads):
        raise DeployError(
            f"{name}: it pads its input, and the {pool.kernel[0]}×{pool.kernel[1]} average pool before it does not tile "
            f"{before[1]}×{before[2]}, so at the border they do not merge exactly; crop the input to a multiple, or use padding 0"
        )
    kernel: Array = layer.weight
    for axis in (0, 1):
        kernel = _stretched(kernel, axis + 2, layer.dilation[axis] * pool.stride[axis], pool.kernel[axis])
    return replace(
        layer,
        weight=kernel,
        stride=_product(layer.stride, pool.stride),
        padding=(
            layer.padding[0] * pool.stride[0] + pool.padding[0],
            layer.padding[1] * pool.stride[1] + pool.padding[1],
        ),
        dilation=(1, 1),
    )


def _product(a: Pair, b: Pair) -> Pair:
    return (a[0] * b[0], a[1] * b[1])


def _stretched(kernel: Array, axis: int, step: int, window: int) -> Array:
    """Tap b of the kernel becomes `window` taps from b·step on; where windows overlap they add."""
    size = (kernel.shape[axis] - 1) * step + window
    shape = list(kernel.shape)
    shape[axis] = size
    wide = np.moveaxis(np.zeros(shape, kernel.dtype), axis, 0)
    for b, tap in enumerate(np.moveaxis(kernel, axis, 0)):
        wide[b * step : b * step + window] += tap
    return np.moveaxis(wide, 0, axis)


def _axis_is_exact(layer: Conv2d, pool: AvgPool2d, axis: int, size: int, pooled: int) -> bool:
    """An axis is exact if every zero that the convolution pads with stands for windows that see nothing but zeros."""
    kernel, stride, padding = pool.kernel[axis], pool.stride[axis], pool.padding[axis]
    taps, dilation = layer.weight.shape[2 + axis], layer.dilation[axis]
    outputs = window_positions(pooled, taps, layer.stride[axis], layer.padding[axis], dilation)
    for position in range(outputs):
        for tap in range(taps):
            index = position * layer.stride[axis] - layer.padding[axis] + tap * dilation
            if 0 <= index < pooled:
                continue
            first = index * stride - padding
            if first + kernel > 0 and first < size:
                return False
    # the merged convolution must also end where the original one does
    merged = (taps - 1) * dilation * stride + kernel
    total = layer.padding[axis] * stride + padding
    return window_positions(size, merged, layer.stride[axis] * stride, total) == outputs


def _unpooled(weight: Array, pool: AvgPool2d, before: Shape, after: Shape) -> Array:
    """Weights over the flattened pool become weights over what is pooled: each position takes its windows' weights."""
    pooled = weight.reshape(len(weight), *after)
    (kh, kw), (sh, sw), (ph, pw) = pool.kernel, pool.stride, pool.padding
    channels, height, width = before
    wide: Array = np.zeros((len(weight), channels, height + 2 * ph, width + 2 * pw), weight.dtype)
    for y in range(after[1]):
        for x in range(after[2]):
            wide[:, :, y * sh : y * sh + kh, x * sw : x * sw + kw] += pooled[:, :, y : y + 1, x : x + 1]
    return wide[:, :, ph : ph + height, pw : pw + width].reshape(len(weight), -1)
