"""What dense layers do in time is told beside a chain, as netx has it, and becomes nodes of the graph again.

A netx layer has one delay for each of its synapses and, if it is recurrent, weights from its neurons back to themselves. In a
graph the same are `Delay` nodes before linear layers: several of these, on different delays of one signal, add up in
the neurons, and one reads what the neurons themselves fired before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from exporters.errors import DeployError
from exporters.graph import AnySynapse, Array, Conv2d, Delay, Flatten, Linear, Node, Output, SpikingGraph, Synapse
from exporters.graph.editing import Draft, Edge, unique_name
from exporters.passes.membranes import require_synapses


@dataclass(frozen=True, eq=False)
class DenseTime:
    """What a dense layer of N neurons and F inputs does in time; its own weights (N, F) stand in the layer.

    Attributes:
        delays: (N, F) int64: so many steps later a spike arrives through each synapse; 0 where there is none. None: at once.
        recurrent: (N, N) integers: weights from each of its neurons (columns) to each. None: none.
        lags: (N, N) int64: so many steps, 1 or more, after it was fired such a spike arrives; 1 where there is no synapse.
    """

    delays: Array | None = None
    recurrent: Array | None = None
    lags: Array | None = None

    @property
    def longest(self) -> int:
        """The most steps that a spike spends on its way, beyond the one from step to step of a loop."""
        into = 0 if self.delays is None else int(self.delays.max())
        return max(into, 0 if self.lags is None else int(self.lags.max()) - 1)


class Term(NamedTuple):
    """A layer reads a signal, each element of it so many steps later; `late` where a delay, if only of 0 steps, says so."""

    name: str
    synapse: AnySynapse
    source: str
    steps: Array
    late: bool


def set_aside(graph: SpikingGraph) -> tuple[SpikingGraph, dict[str, DenseTime]]:
    """The graph without its delays, and what they did, by the neurons (or read-out) that the synapses behind them feed.

    All synapses that lead into such neurons are one layer, under the name of the first; what the neurons send back to
    themselves is left out.

    Raises:
        DeployError: delays or loops that a chain of dense layers does not have, by name, with what to do.
    """
    if not any(isinstance(node, Delay) for node in graph.nodes.values()):
        return graph, {}
    require_synapses(graph)
    _require_synapses_behind_delays(graph)
    times: dict[str, DenseTime] = {}
    merged: dict[str, tuple[Term, Linear]] = {}
    gone = {name for name, node in graph.nodes.items() if isinstance(node, Delay)}
    for end in ends_of(graph):
        terms = list(terms_of(graph, end))
        if any(term.late for term in terms):
            merged[end], times[end] = _merged(graph, end, terms)
            gone |= {term.name for term in terms}
    nodes = {name: node for name, node in graph.nodes.items() if name not in gone}
    edges = [(a, b) for a, b in graph.edges if a in nodes and b in nodes]
    for end, (term, layer) in merged.items():
        read = term.source
        if len(graph.shapes[read]) > 1:
            read = unique_name(f"{term.name}.flatten", {*graph.nodes, *nodes})
            nodes[read] = Flatten()
            edges.append((term.source, read))
        nodes[term.name] = layer
        edges += [(read, term.name), (term.name, end)]
    return without_idle(graph, nodes, edges), times


def put_back(chained: SpikingGraph, times: Mapping[str, DenseTime]) -> SpikingGraph:
    """The chain gets its delays and loops, each as few nodes as say it; `times` is by neurons, or read-out.

    Raises:
        DeployError: neurons that have become part of a larger layer.
    """
    draft = Draft(dict(chained.nodes), list(chained.edges))
    for end, time in times.items():
        (name,) = chained.sources(end) if end in chained.nodes else ("",)
        layer = chained.nodes.get(name)
        weights = None if time.delays is None else time.delays.shape
        if not isinstance(layer, Linear) or weights not in (None, layer.weight.shape):
            raise DeployError(
                f"{end}: it is recurrent, or its synapses are delayed, and a skip connection runs past it; netx cannot relay that; "
                "let the skip connection end before it"
            )
        (read,) = chained.sources(name)
        if time.delays is not None:
            draft.edges.remove((read, name))
            shape = chained.shapes[read]
            for part, (steps, weight) in enumerate(_parts(layer.weight, time.delays)):
                linear = replace(layer, weight=weight, bias=layer.bias if part == 0 else None)
                if part == 0:
                    draft.nodes[name] = linear
                    split = name
                else:
                    split = draft.add(f"{name}.split", linear, ())
                    draft.edges.append((split, end))
                delay = draft.add(f"{split}.delay", Delay(np.broadcast_to(steps, shape)), (read,)) if steps.any() else read
                draft.edges.append((delay, split))
        if time.recurrent is not None and time.lags is not None:
            for steps, weight in _parts(time.recurrent, time.lags):
                delay = draft.add(f"{end}.back", Delay(np.broadcast_to(steps, (len(weight),))), (end,))
                draft.edges.append((draft.add(f"{name}.recurrent", Linear(weight), (delay,)), end))
    return chained.redrawn(draft.nodes, draft.edges)


def _parts(weight: Array, steps: Array) -> Iterator[tuple[Array, Array]]:
    """Weights (N, F) with a delay each, (N, F), are linear layers, each behind delays of its inputs: of (F,) steps, or
    of one number for all inputs where they differ within an input."""
    used = weight != 0
    least, most = (np.where(used, steps, fill) for fill in (np.iinfo(np.int64).max, -1))
    first, last = least.min(axis=0), most.max(axis=0)
    idle = ~used.any(axis=0)
    if (idle | (first == last)).all():
        yield np.where(idle, steps.min(), last), weight
        return
    for lag in np.unique(steps[used]):
        yield np.array(lag), np.where(steps == lag, weight, 0).astype(weight.dtype)


def ends_of(graph: SpikingGraph) -> list[str]:
    """What has a membrane."""
    readout = [graph.output_name] if graph.output.readout == "membrane" else []
    return [*graph.neurons, *readout]


def terms_of(graph: SpikingGraph, end: str) -> Iterator[Term]:
    """What adds up in a membrane, one term for each layer and each signal that it reads."""
    for name in graph.sources(end):
        for read in graph.sources(name):
            for source, steps, late in _ways(graph, read):
                yield Term(name, graph.synapses[name], source, steps, late)


def _ways(graph: SpikingGraph, name: str) -> Iterator[tuple[str, Array, bool]]:
    """A signal comes from these nodes, each element so many steps later, with or without a delay on its way."""
    node = graph.nodes[name]
    if not isinstance(node, Delay | Flatten):
        yield name, np.zeros(graph.shapes[name], np.int64), False
        return
    for source in graph.sources(name):
        for origin, steps, late in _ways(graph, source):
            if isinstance(node, Delay):
                yield origin, steps + node.steps, True
            else:
                yield origin, steps.reshape(-1), late


def _require_synapses_behind_delays(graph: SpikingGraph) -> None:
    for name, node in graph.nodes.items():
        for source in () if isinstance(node, Synapse | Flatten | Delay) else graph.sources(name):
            if any(late for _, _, late in _ways(graph, source)):
                raise DeployError(
                    f"{name}: delayed spikes reach it without synapses, and in netx only dense layers have delays; put a linear "
                    "layer in between"
                )


def _merged(graph: SpikingGraph, end: str, terms: Sequence[Term]) -> tuple[tuple[Term, Linear], DenseTime]:
    """One layer for all that feeds neurons, with the term that names it, and what it does in time."""
    own, others = [t for t in terms if t.source == end], [t for t in terms if t.source != end]
    for term in terms:
        if isinstance(term.synapse, Conv2d):
            what = "a recurrent layer" if own else "a layer with delays"
            raise DeployError(
                f"{term.name}: {what} is dense in netx, and this is a convolution; use a linear layer, or ONNX and the emulator"
            )
        if set(graph.targets(term.name)) != {end}:
            raise DeployError(f"{term.name}: it feeds several layers beside a delay; give each of them a layer of its own")
    for loop in graph.loops:
        if end in loop and any(term.source in loop for term in others):
            listed = ", ".join(name for name in loop if name in graph.neurons)
            raise DeployError(
                f"{end}: spikes go around several layers ({listed}); in netx a layer's spikes come back to itself alone; make the "
                "loop one layer, or use ONNX and the emulator"
            )
    sources = {t.source for t in others}
    if len(sources) != 1:
        listed = " and ".join(sorted(sources)) or "nothing else"
        raise DeployError(f"{end}: it reads {listed}; a netx layer with delays or recurrence reads one layer")
    weight, delays = _matrix(end, others)
    biases = {t.name: t.synapse.bias for t in terms if t.synapse.bias is not None}
    bias = np.sum(list(biases.values()), axis=0, dtype=np.int64).astype(np.int32) if biases else None
    recurrent, lags = _matrix(end, own) if own else (None, None)
    if lags is not None:
        lags = np.maximum(lags, 1)
    time = DenseTime(delays if delays.any() else None, recurrent, lags)
    return (others[0], Linear(weight, bias)), time


def _matrix(end: str, terms: Sequence[Term]) -> tuple[Array, Array]:
    """The weights of all terms, and the delay of each: two of shape (N, F)."""
    shape = terms[0].synapse.weight.shape
    weight, delays = np.zeros(shape, np.int32), np.zeros(shape, np.int64)
    seen = np.zeros(shape, bool)
    for term in terms:
        used = term.synapse.weight != 0
        steps = np.broadcast_to(term.steps.reshape(-1), shape)
        twice = seen & used & (delays != steps)
        if twice.any():
            neuron, source = np.argwhere(twice)[0].tolist()
            raise DeployError(
                f"{term.name}: neuron {neuron} of {end} reads input {source} of {term.source} through several delays; a netx "
                "synapse has one; give each delay inputs of its own"
            )
        weight = weight + term.synapse.weight.astype(np.int32) * used
        delays = np.where(used, steps, delays)
        seen |= used
    return weight, np.where(weight != 0, delays, 0)


def without_idle(graph: SpikingGraph, nodes: dict[str, Node], edges: list[Edge]) -> SpikingGraph:
    """The graph of these nodes and edges, without what leads nowhere now."""
    while idle := nodes.keys() - {a for a, _ in edges} - {n for n, node in nodes.items() if isinstance(node, Output)}:
        nodes = {name: node for name, node in nodes.items() if name not in idle}
        edges = [(a, b) for a, b in edges if b not in idle]
    return graph.redrawn(nodes, edges)
