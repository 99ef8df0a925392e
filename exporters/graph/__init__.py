"""`SpikingGraph`: the network between training and hardware.

A small, typed, immutable directed acyclic graph in discrete time. Every pass after training takes a
graph and returns a graph or a file; nothing downstream looks at a torch module again. Names and
meaning follow NIR (Pedersen et al. 2024, Nat. Commun. 15:8122) where NIR has the concept; several
edges into one node add, so a residual sum needs no node of its own.

Semantics, per time step `t` of `T` (all state is zero before the first step of every sample):

* `Input` emits the sample: encoding "direct" repeats the same analog frame at every step (direct
  coding), "spikes" emits frame `t` of a `T`-step sequence.
* `Conv2d`, `Linear`, the pools and `Flatten` are memoryless; a bias is added at *every* step.
* `IF`:  v ← v + x;  spike = (v ≥ threshold);  where it spikes, v ← 0 (hard reset) or
  v ← v − threshold (soft reset).  `LIF` first multiplies v by `leak`. In an integer graph
  spike = (v > threshold − 1), which differs only where Loihi's leak or saturation leaves v fractional.
* With a `current_leak` (slayer's CUBA neuron) synaptic current persists: u ← current_leak·u + Σ w·x, and v takes
  in u + b. The biases b do not pass through u: on Loihi they drive the membrane directly.
* `Output` reads spikes ("rate": mean over time is the score) or currents ("membrane": a neuron that
  never fires integrates them, its value after `t` steps divided by `t` is the score).

Arrays are numpy in PyTorch's layout: kernels OIHW, shapes CHW, C-order flatten.
"""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from exporters.graph.nodes import (
    IF,
    LIF,
    Array,
    AvgPool2d,
    Conv2d,
    Flatten,
    GraphError,
    Input,
    Linear,
    MaxPool2d,
    Neuron,
    Node,
    Output,
    Pair,
    Pool,
    Shape,
    Signal,
    Synapse,
    current_leak,
    infer_shape,
    infer_signal,
    require,
    window_positions,
)

# whoever works on a graph finds its nodes here as well
__all__ = [
    "IF",
    "LIF",
    "Array",
    "AvgPool2d",
    "Conv2d",
    "Flatten",
    "GraphError",
    "Input",
    "Linear",
    "MaxPool2d",
    "Neuron",
    "Node",
    "Output",
    "Pair",
    "Pool",
    "Shape",
    "Signal",
    "SpikingGraph",
    "Synapse",
    "chain",
    "current_leak",
    "unique_name",
    "window_positions",
]


@dataclass(frozen=True, eq=False)
class SpikingGraph:
    """A spiking network in discrete time. Validated when built; nodes end up in topological order.

    Attributes:
        nodes: name → node.
        edges: (from, to) pairs. Several edges into a node add their values.
        T: number of time steps per sample.
        metadata: JSON-able facts that travel into exported files (source, metrics).
        shapes: name → shape of the node's output, without batch and time. Derived.
        signals: name → what the node's output carries. Derived.

    Raises:
        GraphError: names the node at fault and what to do.
    """

    nodes: Mapping[str, Node]
    edges: tuple[tuple[str, str], ...]
    T: int
    metadata: Mapping[str, Any] = field(default_factory=dict)
    shapes: Mapping[str, Shape] = field(init=False)
    signals: Mapping[str, Signal] = field(init=False)

    def __post_init__(self) -> None:
        if isinstance(self.T, bool) or not isinstance(self.T, int) or self.T < 1:
            raise GraphError(f"T is {self.T!r}; the number of time steps must be a whole number of at least 1")
        order = _topological_order(self.nodes, self.edges)
        object.__setattr__(self, "nodes", MappingProxyType({name: self.nodes[name] for name in order}))
        object.__setattr__(self, "edges", tuple(self.edges))
        object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))
        sources: dict[str, list[str]] = {name: [] for name in order}
        for a, b in self.edges:
            sources[b].append(a)
        _check_ends(self.nodes, sources)
        shapes: dict[str, Shape] = {}
        signals: dict[str, Signal] = {}
        for name, node in self.nodes.items():
            shape = _common_shape(name, sources[name], shapes)
            signal = _common_signal(name, sources[name], signals)
            shapes[name] = infer_shape(name, node, shape)
            signals[name] = infer_signal(name, node, signal)
        self._check_currents()
        object.__setattr__(self, "shapes", MappingProxyType(shapes))
        object.__setattr__(self, "signals", MappingProxyType(signals))

    def _check_currents(self) -> None:
        """A current that persists is that of synapses without their biases, so it must be plain which these are."""
        ends = {*self.neurons, self.output_name}
        for name, neuron in self.neurons.items():
            for source in self.sources(name) if current_leak(neuron) else ():
                require(
                    isinstance(self.nodes[source], Conv2d | Linear) and ends.issuperset(self.targets(source)),
                    name,
                    f"its current persists, so only synapse layers may feed it, and these only neurons; {source} is not so",
                )

    # -- structure -----------------------------------------------------------------------------

    def sources(self, name: str) -> tuple[str, ...]:
        """Names of the nodes whose outputs add up to this node's input, in edge order."""
        return tuple(a for a, b in self.edges if b == name)

    def targets(self, name: str) -> tuple[str, ...]:
        """Names of the nodes that this node feeds, in edge order."""
        return tuple(b for a, b in self.edges if a == name)

    @property
    def input_name(self) -> str:
        """Name of the one `Input` node."""
        return next(n for n, node in self.nodes.items() if isinstance(node, Input))

    @property
    def output_name(self) -> str:
        """Name of the one `Output` node."""
        return next(n for n, node in self.nodes.items() if isinstance(node, Output))

    @property
    def input(self) -> Input:
        """The one `Input` node."""
        node = self.nodes[self.input_name]
        assert isinstance(node, Input)
        return node

    @property
    def output(self) -> Output:
        """The one `Output` node."""
        node = self.nodes[self.output_name]
        assert isinstance(node, Output)
        return node

    def in_shape(self, name: str) -> Shape:
        """Shape of the (summed) input of a node, without batch and time."""
        return self.shapes[self.sources(name)[0]]

    def in_signal(self, name: str) -> Signal:
        """What arrives at a node: a synapse that receives "spikes" counts SynOps, any other MACs."""
        return _common_signal(name, list(self.sources(name)), self.signals)

    @property
    def neurons(self) -> dict[str, Neuron]:
        """The neuron layers, in topological order."""
        return {n: node for n, node in self.nodes.items() if isinstance(node, IF | LIF)}

    @property
    def synapses(self) -> dict[str, Synapse]:
        """The weighted layers, in topological order."""
        return {n: node for n, node in self.nodes.items() if isinstance(node, Conv2d | Linear)}

    @property
    def is_integer(self) -> bool:
        """True when every weight, bias and threshold is an integer, and the input too: chip arithmetic."""
        arrays = [a for s in self.synapses.values() for a in (s.weight, s.bias) if a is not None]
        return (
            (self.input.encoding == "spikes" or self.input.scale is not None)
            and all(np.issubdtype(a.dtype, np.integer) for a in arrays)
            and all(float(n.threshold).is_integer() for n in self.neurons.values())
        )

    def with_nodes(self, changed: Mapping[str, Node], **fields: Any) -> SpikingGraph:
        """A copy with some nodes replaced (same names, same edges) and other fields changed."""
        return replace(self, nodes={**self.nodes, **changed}, **fields)

    def encode(self, x: Array) -> Array:
        """Real-valued samples (N, *shape) to what the network consumes: float32, integers if `input.scale`.

        Raises:
            GraphError: wrong shape, values that are not finite, or values outside 0…1 when `input.scale` is set.
        """
        frames = 1 if self.input.encoding == "direct" else 2
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
    """A graph whose nodes follow one another in the order given."""
    named = list(nodes)
    names = [n for n, _ in named]
    if len(set(names)) != len(names):
        raise GraphError("two nodes of the chain share a name; give every node its own")
    return SpikingGraph(dict(named), tuple(itertools.pairwise(names)), T, **fields)


def unique_name(name: str, taken: Container[str]) -> str:
    """The name, or with the first number from 2 on that makes it one of its own."""
    unique, n = name, 2
    while unique in taken:
        unique, n = f"{name}_{n}", n + 1
    return unique


# -- validation --------------------------------------------------------------------------------------


def _topological_order(nodes: Mapping[str, Node], edges: Iterable[tuple[str, str]]) -> list[str]:
    waiting = dict.fromkeys(nodes, 0)
    targets: dict[str, list[str]] = {name: [] for name in nodes}
    for a, b in edges:
        for end in (a, b):
            if end not in waiting:
                raise GraphError(f"the edge {a} → {b} names {end!r}, which is not a node of the graph")
        waiting[b] += 1
        targets[a].append(b)
    order: list[str] = []
    ready = [name for name, count in waiting.items() if count == 0]
    while ready:
        name = ready.pop(0)
        order.append(name)
        for b in targets[name]:
            waiting[b] -= 1
            if waiting[b] == 0:
                ready.append(b)
    if len(order) < len(waiting):
        loop = ", ".join(sorted(set(waiting) - set(order)))
        raise GraphError(f"the graph has a cycle through {loop}; recurrent connections are not supported")
    return order


def _check_ends(nodes: Mapping[str, Node], sources: Mapping[str, list[str]]) -> None:
    for kind in (Input, Output):
        found = [n for n, node in nodes.items() if isinstance(node, kind)]
        if len(found) != 1:
            raise GraphError(
                f"the graph has {len(found)} {kind.__name__} nodes ({', '.join(found)}); it needs exactly one"
            )
    used = {a for names in sources.values() for a in names}
    for name, node in nodes.items():
        # without cycles, what feeds the Input, or what feeds that, is such a node too
        if not sources[name] and not isinstance(node, Input):
            raise GraphError(f"{name}: nothing feeds this node; remove it or connect it")
        if isinstance(node, Output):
            if name in used:
                raise GraphError(f"{name}: the Output node may not feed another node")
            if node.readout == "rate" and len(sources[name]) != 1:
                raise GraphError(f"{name}: a rate is read from exactly one neuron layer, not from {len(sources[name])}")
        elif name not in used:
            raise GraphError(f"{name}: its output goes nowhere; remove the node or connect it")


def _common_shape(name: str, sources: list[str], shapes: Mapping[str, Shape]) -> Shape:
    found = {shapes[s] for s in sources}
    if len(found) > 1:
        listed = ", ".join(f"{s} {shapes[s]}" for s in sources)
        raise GraphError(f"{name}: the inputs it sums have different shapes ({listed}); a downsample is missing")
    return found.pop() if found else ()


def _common_signal(name: str, sources: list[str], signals: Mapping[str, Signal]) -> Signal:
    found = {signals[s] for s in sources}
    if len(found) > 1:
        listed = ", ".join(f"{s} carries {signals[s]}" for s in sources)
        raise GraphError(f"{name}: it sums different kinds of signal ({listed}); put a neuron layer in between")
    return found.pop() if found else "current"
