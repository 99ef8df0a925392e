"""Fan-out maps say how many synapses every spike reaches, exact at every border.

A layer receives *events*: values that are not zero, sent by a neuron layer, a max-pool (an OR neuron on a
chip), the input, or another weighted layer. `Flatten` and `AvgPool2d` send nothing of their own: hardware
folds an average pool into the weights of the next layer, and so does the count. A spike that enters the pool
then causes one operation per *folded* synapse, that is per output neuron that it reaches, however many pool
cells lead there; the weight of that synapse is the sum over those ways.

Windows are products of a vertical and a horizontal range, so everything about borders, stride, padding,
dilation and pooling is decided along one axis at a time, with small matrices; no convolution is run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from exporters.graph import (
    IF,
    LIF,
    AvgPool2d,
    Conv2d,
    Delay,
    Flatten,
    Input,
    Linear,
    MaxPool2d,
    Output,
    SpikingGraph,
    window_positions,
)

Floats = NDArray[np.float64]

_BLOCK = 1 << 22  # weights looked at in one go: 32 MiB as float64


@dataclass(frozen=True)
class Connection:
    """A connection is one way for events into a weighted layer: from `source`, through average pools, into `layer`."""

    source: str
    layer: str
    pools: tuple[AvgPool2d, ...]


def connections_into(graph: SpikingGraph, layer: str) -> list[Connection]:
    """Every edge is a way into `layer`: summed inputs (residuals) are connections of their own."""

    def walk(name: str, pools: tuple[AvgPool2d, ...]) -> Iterator[Connection]:
        for source in graph.sources(name):
            node = graph.nodes[source]
            match node:
                case AvgPool2d():
                    yield from walk(source, (node, *pools))
                case Flatten():
                    yield from walk(source, pools)
                case Input() | IF() | LIF() | MaxPool2d() | Delay() | Conv2d() | Linear():
                    yield Connection(source, layer, pools)
                case Output():
                    raise AssertionError("nothing comes out of the output")
                case _:
                    assert_never(node)

    return list(walk(layer, ()))


def fan_out(graph: SpikingGraph, connection: Connection) -> tuple[Floats, Floats]:
    """Each element of the connection's source reaches so many synapses: all of them, and those of non-zero weight.

    Returns two arrays of the source's shape. They hold whole numbers, as float64 (exact up to 2⁵³).
    """
    shape = graph.shapes[connection.source]
    channels, *size = shape if len(shape) == 3 else (shape[0], 1, 1)
    cells = [_pool_cells(size[axis], connection.pools, axis) for axis in (0, 1)]
    node = graph.synapses[connection.layer]
    match node:
        case Conv2d():
            conv = node
        case Linear():  # on a flattened (C, H, W) it is a convolution whose kernel covers the whole frame
            conv = Conv2d(node.weight.reshape(node.weight.shape[0], channels, *(len(c) for c in cells)))
        case _:
            assert_never(node)
    rows, columns = (_tap_patterns(cells[axis], conv, axis) for axis in (0, 1))

    outputs = conv.weight.shape[0] // conv.groups
    every = np.full((channels, len(rows.taps), len(columns.taps)), float(outputs))
    return (
        _spread(every, rows, columns).reshape(shape),
        _spread(_nonzero_synapses(conv, rows.taps, columns.taps), rows, columns).reshape(shape),
    )


def lemaire_fan_out(graph: SpikingGraph, connection: Connection) -> tuple[int, int]:
    """Lemaire et al. 2022 (arXiv 2210.13107) give every spike of a layer the same operations and weight reads.

    Convolution: output channels × ⌈kernel / stride⌉ along both axes, but every weight of the kernel is read.
    An average pool on the way multiplies both by the cells that see a spike, ⌈kernel / stride⌉ along both axes.
    """
    node = graph.synapses[connection.layer]
    match node:
        case Linear():
            return node.weight.shape[0], node.weight.shape[0]
        case Conv2d():
            cells = math.prod(
                math.ceil(k / s) for pool in connection.pools for k, s in zip(pool.kernel, pool.stride, strict=True)
            )
            channels, kernel = node.weight.shape[0] // node.groups, node.weight.shape[2:]
            windows = math.prod(math.ceil(k / s) for k, s in zip(kernel, node.stride, strict=True))
            return cells * channels * windows, cells * channels * math.prod(kernel)
        case _:
            assert_never(node)


@dataclass(frozen=True, eq=False)
class _Patterns:
    """Along one axis, these patterns say how an element reaches outputs.

    taps (P, kernel): the distinct ways, each a vector of how often every kernel tap sees the element;
    outputs (P, n): for each element, the number of output positions that it reaches in that way.
    """

    taps: Floats
    outputs: Floats


def _pool_cells(size: int, pools: tuple[AvgPool2d, ...], axis: int) -> Floats:
    """(cells, size) matrix: how often each cell of the last pool sees each element of the first one's input."""
    cells = np.eye(size)
    for pool in pools:
        window = _windows(len(cells), pool.kernel[axis], pool.stride[axis], pool.padding[axis], 1)
        cells = np.asarray(window.sum(axis=1) @ cells)
    return cells


def _windows(size: int, kernel: int, stride: int, padding: int, dilation: int) -> Floats:
    """(positions, kernel, size) zeros and ones: tap a of the window at position y sees element i."""
    positions = window_positions(size, kernel, stride, padding, dilation)
    seen = np.arange(positions)[:, None] * stride - padding + np.arange(kernel) * dilation
    return np.asarray(seen[..., None] == np.arange(size), np.float64)


def _tap_patterns(cells: Floats, conv: Conv2d, axis: int) -> _Patterns:
    window = _windows(
        len(cells), conv.weight.shape[2 + axis], conv.stride[axis], conv.padding[axis], conv.dilation[axis]
    )
    reached = (window @ cells).transpose(0, 2, 1)  # (positions, size, kernel)
    taps, which = np.unique(reached.reshape(-1, reached.shape[2]), axis=0, return_inverse=True)
    which = which.reshape(reached.shape[:2])
    outputs = np.stack([(which == p).sum(axis=0) for p in range(len(taps))]).astype(np.float64)
    connected = taps.any(axis=1)  # the pattern without any tap is the absence of a synapse
    return _Patterns(taps[connected], outputs[connected])


def _nonzero_synapses(conv: Conv2d, rows: Floats, columns: Floats) -> Floats:
    """(Cin, P, Q): outputs per channel whose folded weight, for row pattern p and column pattern q, is not zero."""
    one_tap = bool((rows.sum(axis=1) == 1).all() and (columns.sum(axis=1) == 1).all())
    found = []
    for weight in np.split(conv.weight, conv.groups):
        count: Any = 0
        for block in np.array_split(weight, math.ceil(weight.size / _BLOCK)):
            if one_tap:  # no overlapping pool windows: the folded weights are the weights
                nonzero = (block != 0).sum(axis=0)
                count = count + nonzero[:, rows.argmax(axis=1)][:, :, columns.argmax(axis=1)]
            else:
                folded = np.tensordot(block.astype(np.float64), rows, axes=(2, 1))  # (Cout, Cin, kW, P)
                folded = np.tensordot(folded, columns, axes=(2, 1))  # (Cout, Cin, P, Q)
                count = count + (folded != 0).sum(axis=0)
        found.append(count)
    return np.concatenate(found).astype(np.float64)


def _spread(synapses: Floats, rows: _Patterns, columns: _Patterns) -> Floats:
    """(Cin, P, Q) synapses per pattern to (Cin, H, W) synapses per element."""
    return np.asarray(rows.outputs.T @ (synapses @ columns.outputs))
