"""The algebra that both front ends share: what nodes carry, scaled, summed, and folded into the weights that read it.

A front end walks through somebody else's network and knows, at every place, a `Current`: a sum of signals that nodes
of the new graph carry, each with a factor, and of synapses that have no node yet. Scaling is linear, so it only changes
weights (Jacob et al. 2018, section 3.2, for BatchNorm); what is read twice becomes two sets of synapses. Nodes appear
when neurons, a pool or the output read such a sum. Nothing is approximated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from exporters.graph import AnySynapse, Array, Conv2d, Flatten, GraphError, Linear, Node, Pool, Shape, Synapse
from exporters.graph.editing import Draft

Layer = TypeVar("Layer", bound=Synapse)

LARGEST_DIAGONAL = 4096
"""Flat signals beyond which synapses from each to its counterpart alone would be a needlessly large dense layer."""


@dataclass(frozen=True, eq=False)
class Signal:
    """The sum of some nodes' outputs, times a factor: a number, or an array that broadcasts to their shape."""

    nodes: tuple[str, ...]
    scale: float | Array = 1.0


@dataclass(frozen=True, eq=False)
class SynapseTerm:
    """One set of synapses that has no node yet: a layer that reads the sum of some nodes."""

    name: str
    synapse: AnySynapse
    nodes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Current:
    """A sum of signals and synapses, all of one shape: (C, H, W) or (F,)."""

    parts: tuple[Signal | SynapseTerm, ...]
    shape: Shape


def is_one(scale: float | Array) -> bool:
    """Whether a factor changes nothing."""
    return isinstance(scale, float) and scale == 1.0


def same_scale(a: float | Array, b: float | Array) -> bool:
    """Whether two factors are equal in every element."""
    return np.shape(a) == np.shape(b) and bool(np.all(a == b))


def uniform(values: Array) -> float | None:
    """The one number that an array repeats, or None."""
    first = float(values.flat[0])
    return first if bool((values == first).all()) else None


def per_channel(name: str, what: str, scale: float | Array, shape: Shape) -> Array:
    """The factor of a signal of a shape, as one number for each channel (or feature): float64 (C,).

    Raises:
        GraphError: it differs within a channel, which weights shared by a whole map cannot express. `what` is its subject.
    """
    rows = np.broadcast_to(np.asarray(scale, np.float64), shape).reshape(shape[0], -1)
    if not (rows == rows[:, :1]).all():
        raise GraphError(f"{name}: {what} is scaled differently within a channel, which cannot be mapped")
    return rows[:, 0]


def scaled_outputs(synapse: Layer, scale: Array) -> Layer:
    """The layer with its output channels, and their biases, multiplied by scale (C,)."""
    if bool(np.all(scale == 1)) and np.result_type(synapse.weight, scale) == synapse.weight.dtype:
        return synapse
    columns = [1] * (synapse.weight.ndim - 1)
    bias = synapse.bias
    if bias is not None:
        bias = bias * scale.reshape(-1, *[1] * (bias.ndim - 1))
    return replace(synapse, weight=synapse.weight * scale.reshape(-1, *columns), bias=bias)


def scaled_inputs(name: str, layer: Layer, scale: float | Array, shape: Shape) -> Layer:
    """The layer that reads x as this one reads scale · x; `shape` is that of x.

    Raises:
        GraphError: a convolution would need other weights in each place.
    """
    if is_one(scale):
        return layer
    if isinstance(scale, float) or isinstance(layer, Linear):
        return replace(layer, weight=layer.weight * scale)
    assert isinstance(layer, Conv2d)
    factors = per_channel(name, "what it reads", scale, shape)
    return replace(layer, weight=layer.weight * factors[read_channels(layer)][:, :, None, None])


def read_channels(layer: Conv2d) -> Array:
    """Which input channel each slice of a convolution's weights reads: (Cout, Cin/groups)."""
    each = layer.weight.shape[1]
    group = np.arange(len(layer.weight)) // (len(layer.weight) // layer.groups)
    return np.asarray(group[:, None] * each + np.arange(each))


def identity(name: str, shape: Shape, scale: float | Array = 1.0) -> AnySynapse:
    """Synapses from each neuron to its counterpart, which multiply by a factor.

    Raises:
        GraphError: the factor differs within a channel of a map, or the layer would be needlessly large.
    """
    factors = per_channel(name, "it", scale, shape)
    if len(shape) == 3:
        return Conv2d(factors.reshape(-1, 1, 1, 1), groups=shape[0])
    if shape[0] > LARGEST_DIAGONAL:
        raise GraphError(f"{name}: {shape[0]} signals are scaled without a layer behind them, which cannot be mapped")
    return Linear(np.diag(factors))


def scaled(name: str, current: Current, factor: Array) -> Current:
    """The sum times a factor per element, an array of its shape.

    Raises:
        GraphError: constants that differ within a channel of a convolution.
    """
    level = uniform(factor)
    parts: list[Signal | SynapseTerm] = []
    for part in current.parts:
        if isinstance(part, Signal):
            product = part.scale * (factor if level is None else level)
            parts.append(replace(part, scale=product if isinstance(product, np.ndarray) else float(product)))
        else:
            by = per_channel(name, "what arrives", factor, current.shape)
            parts.append(replace(part, synapse=scaled_outputs(part.synapse, by)))
    return Current(tuple(parts), current.shape)


class GraphBuilder:
    """A builder makes nodes of currents as they are asked for, each once.

    Attributes:
        draft: the graph so far.
    """

    def __init__(self) -> None:
        self.draft = Draft()
        self._placed: dict[int, tuple[Signal | SynapseTerm, str]] = {}

    def add(self, name: str, node: Node, sources: Sequence[str]) -> str:
        """Add a node behind its sources; the name that it got comes back."""
        return self.draft.add(name, node, sources)

    def gives_currents(self, name: str) -> bool:
        """Whether what a node gives are currents, flattened or pooled perhaps, and no spikes."""
        node, edges = self.draft.nodes[name], self.draft.edges
        passed_on = [a for a, b in edges if b == name] if isinstance(node, Flatten | Pool) else []
        return isinstance(node, Synapse) or any(map(self.gives_currents, passed_on))

    def place(self, current: Current) -> list[str]:
        """The nodes whose sum is the current; synapses get theirs when they are first asked for, factors become synapses."""
        names: list[str] = []
        for part in current.parts:
            if isinstance(part, Signal) and is_one(part.scale):
                names += part.nodes
                continue
            if id(part) not in self._placed:
                if isinstance(part, SynapseTerm):
                    name, synapse = part.name, part.synapse
                else:
                    name = f"{part.nodes[0]}.scaled"
                    synapse = identity(part.nodes[0], current.shape, part.scale)
                # the part is kept, so that its id stays its own
                self._placed[id(part)] = (part, self.add(name, synapse, part.nodes))
            names.append(self._placed[id(part)][1])
        return names

    def signals(self, current: Current) -> list[Signal]:
        """The parts as signals: synapses are placed, signals with the same factor put together."""
        merged: list[Signal] = []
        for part in current.parts:
            signal = part if isinstance(part, Signal) else Signal(tuple(self.place(Current((part,), current.shape))))
            for i, other in enumerate(merged):
                if same_scale(other.scale, signal.scale):
                    merged[i] = replace(other, nodes=other.nodes + signal.nodes)
                    break
            else:
                merged.append(signal)
        return merged
