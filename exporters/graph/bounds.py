"""Bounds say how large the numbers inside a network can become, worst case, from its weights alone.

Three decisions rest on this: whether float32 adds a layer's products exactly, whether a current fits
Lava's registers, and how finely weights may be represented.
"""

from __future__ import annotations

from typing import assert_never
from weakref import WeakKeyDictionary

import numpy as np

from exporters.graph.nodes import Array, AvgPool2d, Delay, Flatten, Input, MaxPool2d, Neuron, Output, Synapse
from exporters.graph.spiking_graph import SpikingGraph

EXACT_IN_FLOAT32 = 2**24
"""Whole numbers up to here are float32 numbers, so sums that stay below are exact in any order of addition."""

AT_ONCE = 2**18
"""So many weights are added up at a time."""

_sums: WeakKeyDictionary[Synapse, tuple[Array, Array]] = WeakKeyDictionary()
"""The sums of positive and of negative weights per output channel are kept: they are a pass over millions of weights,
asked for many times."""


def input_bounds(graph: SpikingGraph) -> dict[str, float]:
    """The bounds are the largest absolute value that can arrive at each node (spikes are 1, pixels `scale` or 1, sums
    add up)."""
    out: dict[str, float] = {}
    into: dict[str, float] = {}
    for name, node in graph.nodes.items():
        # what closes a loop is fed by neurons
        arriving = (
            float(len(graph.sources(name))) if graph.closes_loop(name) else sum(out[s] for s in graph.sources(name))
        )
        into[name] = arriving
        match node:
            case Input():
                out[name] = float(node.scale) if node.is_graded and node.scale is not None else 1.0
            case Neuron():
                out[name] = 1.0
            case AvgPool2d():
                out[name] = arriving * node.kernel[0] * node.kernel[1] / node.divisor
            case Synapse():
                out[name] = sum_bound(node, arriving, signed=is_signed(graph, name))
            case MaxPool2d() | Flatten() | Delay() | Output():
                out[name] = arriving
            case _:
                assert_never(node)
    return into


def is_signed(graph: SpikingGraph, name: str) -> bool:
    """A node is signed if negative values can arrive there: what synapses give out can be negative, spikes and pixels
    never are."""
    return graph.in_signal(name) == "current"


def signed_bounds(synapse: Synapse, arriving: float, *, bias: bool = True) -> tuple[Array, Array]:
    """The bounds are, per output channel, the largest sum and the negative of the smallest, of inputs from 0 to
    `arriving`: two of float64 (Cout,), neither below 0."""
    if synapse not in _sums:
        _sums[synapse] = _signed_sums(synapse.weight)
    positive, negative = (total * arriving for total in _sums[synapse])
    if bias and synapse.bias is not None:  # of a whole map, the extremes of each channel
        b = synapse.bias.astype(np.float64).reshape(len(synapse.bias), -1)
        positive, negative = positive + np.maximum(b.max(axis=1), 0), negative + np.maximum(-b.min(axis=1), 0)
    return positive, negative


def _signed_sums(weight: Array) -> tuple[Array, Array]:
    """The positive weights of each output channel add up to one, the negative ones to the negative of the other: float64
    (Cout,). A few channels at a time stay in the caches, and need no second copy of all weights."""
    step = max(1, AT_ONCE // max(1, weight[0].size))
    positive, negative = np.zeros(len(weight)), np.zeros(len(weight))
    for start in range(0, len(weight), step):
        rows = slice(start, start + step)
        part = weight[rows].reshape(len(weight[rows]), -1)
        positive[rows] = np.maximum(part, 0).sum(axis=1, dtype=np.float64)
        negative[rows] = -np.minimum(part, 0).sum(axis=1, dtype=np.float64)
    return positive, negative


def channel_bounds(synapse: Synapse, arriving: float, *, bias: bool = True, signed: bool = False) -> Array:
    """The bounds are, per output channel, the largest |sum| that any subset of the products can have: float64 (Cout,).

    Every partial sum in every order of addition is within it. Where inputs are never negative, the
    positive products alone or the negative products alone are the worst case; `signed` inputs can
    make every product as large as it gets.
    """
    positive, negative = signed_bounds(synapse, arriving, bias=bias and not signed)
    if not signed:
        return np.asarray(np.maximum(positive, negative))
    total = positive + negative
    if bias and synapse.bias is not None:
        total = total + np.abs(synapse.bias.astype(np.float64)).reshape(len(total), -1).max(axis=1)
    return np.asarray(total)


def sum_bound(synapse: Synapse, arriving: float, *, bias: bool = True, signed: bool = False) -> float:
    """The bound of a layer is the largest of its `channel_bounds`."""
    return float(channel_bounds(synapse, arriving, bias=bias, signed=signed).max())
