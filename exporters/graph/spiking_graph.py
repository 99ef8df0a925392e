"""The class `SpikingGraph` validates what it is built of; `exporters.graph` tells what a graph means."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from exporters.graph.editing import Edge
from exporters.graph.errors import GraphError, require
from exporters.graph.inference import infer_shape, infer_signal
from exporters.graph.loops import is_later, time_order
from exporters.graph.nodes import (
    AnyNeuron,
    AnySynapse,
    Array,
    Delay,
    Input,
    Neuron,
    Node,
    Output,
    Shape,
    SignalKind,
    Synapse,
)


@dataclass(frozen=True, eq=False)
class SpikingGraph:
    """A spiking network in discrete time is nodes and edges, validated when built; the nodes end up in topological
    order, but for what a delay carries back: where it closes a loop, it stands before the neurons that feed it.

    Attributes:
        nodes: name → node.
        edges: (from, to) pairs. Several edges into a node add their values.
        T: number of time steps per sample.
        metadata: JSON-able facts that travel into exported files (source, metrics).
        shapes: name → shape of the node's output, without batch and time. Derived.
        signals: name → what the node's output carries. Derived.
        loops: the nodes of each recurrent part, in order; empty for a feed-forward network. Derived.

    Raises:
        GraphError: names the node at fault and what to do.
    """

    nodes: Mapping[str, Node]
    edges: tuple[Edge, ...]
    T: int
    metadata: Mapping[str, Any] = field(default_factory=dict)
    shapes: Mapping[str, Shape] = field(init=False)
    signals: Mapping[str, SignalKind] = field(init=False)
    loops: tuple[tuple[str, ...], ...] = field(init=False)

    def __post_init__(self) -> None:
        if isinstance(self.T, bool) or not isinstance(self.T, int) or self.T < 1:
            raise GraphError(f"T is {self.T!r}; the number of time steps must be a whole number of at least 1")
        # the input first: a loop that nothing feeds, as of neurons with a bias, could stand before it
        given = dict(sorted(self.nodes.items(), key=lambda item: not isinstance(item[1], Input)))
        order, loops = time_order(given, tuple(self.edges))
        for name in order:
            kind = type(self.nodes[name]).__name__
            require(isinstance(self.nodes[name], Node), name, f"{kind} is not a node of a SpikingGraph")
        object.__setattr__(self, "nodes", MappingProxyType({name: self.nodes[name] for name in order}))
        object.__setattr__(self, "edges", tuple(self.edges))
        object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))
        object.__setattr__(self, "loops", loops)
        sources: dict[str, list[str]] = {name: [] for name in order}
        for a, b in self.edges:
            sources[b].append(a)
        _check_ends(self.nodes, sources)
        shapes: dict[str, Shape] = {}
        signals: dict[str, SignalKind] = {}
        for name, node in self.nodes.items():
            if isinstance(node, Delay) and self.closes_loop(name):
                shapes[name], signals[name] = node.steps.shape, "spikes"
                continue
            shape = _common_shape(name, sources[name], shapes)
            signal = _common_signal(name, sources[name], signals)
            shapes[name] = infer_shape(name, node, shape)
            signals[name] = infer_signal(name, node, signal)
        for loop in loops:
            _check_loop(loop, self.nodes, sources, shapes)
        self._check_currents()
        object.__setattr__(self, "shapes", MappingProxyType(shapes))
        object.__setattr__(self, "signals", MappingProxyType(signals))

    def __reduce__(self) -> tuple[Any, ...]:
        """A graph is pickled and copied by what it is made of, and checked again where it arrives."""
        return type(self), (dict(self.nodes), self.edges, self.T, dict(self.metadata))

    def _check_currents(self) -> None:
        """Neurons whose current persists are fed by synapse layers alone, which feed neurons alone.

        Such a current takes in the products of its synapses and not their biases, which go straight to the membrane.
        Behind a pool, or in a layer that something else reads too, the two could not be told apart.
        """
        ends = {*self.neurons, self.output_name}
        for name, neuron in self.neurons.items():
            for source in self.sources(name) if neuron.current_leak else ():
                require(
                    isinstance(self.nodes[source], Synapse) and ends.issuperset(self.targets(source)),
                    name,
                    f"its current persists, so only synapse layers may feed it, and these only neurons; {source} is not so",
                )

    # -- structure -----------------------------------------------------------------------------

    def sources(self, name: str) -> tuple[str, ...]:
        """The sources are the nodes whose outputs add up to this node's input, in edge order."""
        return tuple(a for a, b in self.edges if b == name)

    def earlier(self, name: str) -> tuple[str, ...]:
        """The earlier sources are those that stand before a node: all, but none of a delay that closes a loop."""
        return () if self.closes_loop(name) else self.sources(name)

    def closes_loop(self, name: str) -> bool:
        """Whether a node is a delay that carries spikes back to what they come from."""
        return is_later(self.nodes[name]) and any(name in loop for loop in self.loops)

    def targets(self, name: str) -> tuple[str, ...]:
        """The targets are the nodes that this node feeds, in edge order."""
        return tuple(b for a, b in self.edges if a == name)

    @property
    def input_name(self) -> str:
        """This is the name of the one `Input` node."""
        return next(n for n, node in self.nodes.items() if isinstance(node, Input))

    @property
    def output_name(self) -> str:
        """This is the name of the one `Output` node."""
        return next(n for n, node in self.nodes.items() if isinstance(node, Output))

    @property
    def input(self) -> Input:
        """Every graph has one `Input` node."""
        node = self.nodes[self.input_name]
        assert isinstance(node, Input)
        return node

    @property
    def output(self) -> Output:
        """Every graph has one `Output` node."""
        node = self.nodes[self.output_name]
        assert isinstance(node, Output)
        return node

    def in_shape(self, name: str) -> Shape:
        """The (summed) input of a node has this shape, without batch and time."""
        return self.shapes[self.sources(name)[0]]

    def in_signal(self, name: str) -> SignalKind:
        """This kind of signal arrives at a node: a synapse that receives "spikes" counts SynOps, any other MACs."""
        return _common_signal(name, list(self.sources(name)), self.signals)

    @property
    def neurons(self) -> dict[str, AnyNeuron]:
        """The neuron layers are in topological order."""
        return {n: node for n, node in self.nodes.items() if isinstance(node, Neuron)}

    @property
    def synapses(self) -> dict[str, AnySynapse]:
        """The weighted layers are in topological order."""
        return {n: node for n, node in self.nodes.items() if isinstance(node, Synapse)}

    @property
    def is_integer(self) -> bool:
        """A graph is integer, and so in chip arithmetic, when every weight, bias, threshold and start is, and the input
        too."""
        arrays = [a for s in self.synapses.values() for a in (s.weight, s.bias) if a is not None]
        return (
            (not self.input.is_graded or self.input.scale is not None)
            and all(np.issubdtype(a.dtype, np.integer) for a in arrays)
            and all(float(value).is_integer() for n in self.neurons.values() for value in (n.threshold, n.start))
        )

    def with_nodes(self, changed: Mapping[str, Node], **fields: Any) -> SpikingGraph:
        """The copy has some nodes replaced (same names, same edges) and other fields changed."""
        return replace(self, nodes={**self.nodes, **changed}, **fields)

    def redrawn(self, nodes: Mapping[str, Node], edges: Iterable[Edge]) -> SpikingGraph:
        """The new graph has other nodes and edges, the same T and metadata."""
        return replace(self, nodes=nodes, edges=tuple(edges))

    def encode(self, x: Array) -> Array:
        """Real-valued samples (N, *shape), or (N, T, *shape) over time, become what the network consumes: float32, integers if `input.scale`.

        Raises:
            GraphError: wrong shape, values that are not finite, or values outside 0…1 when `input.scale` is set.
        """
        frames = 2 if self.input.over_time else 1
        if x.shape[frames:] != self.input.shape:
            raise GraphError(f"the samples have shape {tuple(x.shape[frames:])}, the network takes {self.input.shape}")
        x = np.asarray(x, np.float32)
        if not np.isfinite(x).all():
            raise GraphError("the samples contain NaN or infinite values")
        scale = self.input.scale
        if scale is None:
            return x
        if x.size and (x.min() < 0 or x.max() > 1):
            raise GraphError(
                f"the samples range from {x.min():.4g} to {x.max():.4g}; integer input of 0…{scale} needs "
                "values between 0 and 1 (pixels / 255, without mean/std normalization)"
            )
        return np.rint(x * np.float32(scale))


def chain(nodes: Iterable[tuple[str, Node]], T: int, **fields: Any) -> SpikingGraph:
    """The graph is a chain: its nodes follow one another in the order given."""
    named = list(nodes)
    names = [n for n, _ in named]
    if len(set(names)) != len(names):
        raise GraphError("two nodes of the chain share a name; give every node its own")
    return SpikingGraph(dict(named), tuple(itertools.pairwise(names)), T, **fields)


# -- validation --------------------------------------------------------------------------------------


def _check_ends(nodes: Mapping[str, Node], sources: Mapping[str, list[str]]) -> None:
    for kind in (Input, Output):
        found = [n for n, node in nodes.items() if isinstance(node, kind)]
        if len(found) != 1:
            raise GraphError(
                f"the graph has {len(found)} {kind.__name__} nodes ({', '.join(found)}); it needs exactly one"
            )
    used = {a for names in sources.values() for a in names}
    for name, node in nodes.items():
        if not sources[name] and not isinstance(node, Input):
            raise GraphError(f"{name}: nothing feeds this node; remove it or connect it")
        if isinstance(node, Output):
            if name in used:
                raise GraphError(f"{name}: the Output node may not feed another node")
            if node.readout == "rate" and len(sources[name]) != 1:
                raise GraphError(f"{name}: a rate is read from exactly one neuron layer, not from {len(sources[name])}")
        elif name not in used:
            raise GraphError(f"{name}: its output goes nowhere; remove the node or connect it")


def _check_loop(
    loop: tuple[str, ...],
    nodes: Mapping[str, Node],
    sources: Mapping[str, list[str]],
    shapes: Mapping[str, Shape],
) -> None:
    """What closes a loop gets spikes of its shape, from neurons alone: pools and sums of spikes can stand behind it."""
    for name in loop:
        node = nodes[name]
        if not is_later(node):
            continue
        for source in sources[name]:
            fired = isinstance(nodes[source], Neuron)
            require(
                fired, name, f"a delay that closes a loop is fed by neurons, and {source} is none; put it behind them"
            )
            ok = shapes[source] == shapes[name]
            require(ok, name, f"its steps have shape {shapes[name]}, but {source} gives {shapes[source]}")
        infer_shape(name, node, shapes[name])


def _common_shape(name: str, sources: list[str], shapes: Mapping[str, Shape]) -> Shape:
    found = {shapes[s] for s in sources}
    if len(found) > 1:
        listed = ", ".join(f"{s} {shapes[s]}" for s in sources)
        raise GraphError(f"{name}: the inputs it sums have different shapes ({listed}); a downsample is missing")
    return found.pop() if found else ()


def _common_signal(name: str, sources: list[str], signals: Mapping[str, SignalKind]) -> SignalKind:
    found = {signals[s] for s in sources}
    if len(found) > 1:
        listed = ", ".join(f"{s} carries {signals[s]}" for s in sources)
        raise GraphError(f"{name}: it sums different kinds of signal ({listed}); put a neuron layer in between")
    return found.pop() if found else "current"
