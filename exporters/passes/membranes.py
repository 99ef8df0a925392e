"""Synapse layers that add up in one membrane share a unit of current; these functions find membranes and at which level of
a chain they lie."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from exporters.errors import DeployError
from exporters.graph import LIF, MaxPool2d, Neuron, Node, Output, Shape, SpikingGraph
from exporters.graph.registers import decay_of, leak_of


@dataclass(frozen=True)
class Membrane:
    """A membrane is the synapse layers that add up in it and the neuron layers (or output) that hold it: one unit of
    current."""

    synapses: tuple[str, ...]
    ends: tuple[str, ...]


def membranes_of(graph: SpikingGraph) -> tuple[Membrane, ...]:
    """The membranes of a graph are its synapse layers grouped by shared target, in topological order.

    Raises:
        DeployError: a layer that feeds something other than neurons or the output, or neurons fed by anything else.
    """
    groups: list[tuple[set[str], set[str]]] = []
    for name in graph.synapses:
        ends = set(graph.targets(name))
        for end in ends:
            if not isinstance(graph.nodes[end], Neuron | Output):
                kind = type(graph.nodes[end]).__name__
                raise DeployError(
                    f"{name}: its currents go into {end} ({kind}); only neurons can read them here, so put an IF or LIF layer in between"
                )
        merged = ({name}, ends)
        rest = []
        for group in groups:
            if group[1] & merged[1]:
                merged = (group[0] | merged[0], group[1] | merged[1])
            else:
                rest.append(group)
        groups = [*rest, merged]
    order = {name: i for i, name in enumerate(graph.nodes)}
    found = [
        Membrane(tuple(sorted(a, key=order.__getitem__)), tuple(sorted(b, key=order.__getitem__))) for a, b in groups
    ]
    require_synapses(graph)
    return tuple(sorted(found, key=lambda membrane: order[membrane.synapses[0]]))


def require_synapses(graph: SpikingGraph) -> None:
    """The check raises DeployError where spikes reach neurons without synapses, which no chip can do."""
    for name in graph.neurons:
        if not all(source in graph.synapses for source in graph.sources(name)):
            raise DeployError(f"{name}: spikes reach these neurons without a synapse layer; put a layer in between")


Likeness = tuple[int, tuple[int, ...], tuple[float, float], bool, tuple[float, float]]
"""Layers that run side by side are alike in the number of their axes, in all of these but channels, in their leaks, in
whether they reset by subtraction, and in where their membranes start: a layer of a chip has one start, as it has one
threshold, and a factor on one is a factor on the other."""


def likeness(shape: Shape, leaks: tuple[float, float], node: Node) -> Likeness:
    """The likeness of neurons of a shape that keep these shares of membrane and current; a flat shape has no positions."""
    starts = (float(node.start), float(node.threshold)) if isinstance(node, Neuron) and node.start else (0.0, 0.0)
    return len(shape), shape[1:], leaks, resets_by_subtraction(node), starts


def resets_by_subtraction(node: Node) -> bool:
    """Whether a spike takes the threshold from the membrane; what is no neuron does not fire."""
    return isinstance(node, Neuron) and node.reset == "soft"


def starting(graph: SpikingGraph) -> list[str]:
    """The layers of neurons whose membranes do not start at 0."""
    return [name for name, node in graph.neurons.items() if node.start]


def schedule(layers: Mapping[str, Likeness], sources: Mapping[str, Collection[str]]) -> dict[str, int]:
    """Every layer gets the level, from 1 on, of the chain that all of them become: behind all that feed it, and beside
    layers that are alike only.

    Where all that could run are alike, that is the most layers on a way from the input. Else the larger maps run
    first, since relays carry spikes to smaller maps and not to larger ones, and what is unlike waits.
    """
    level: dict[str, int] = {}
    waiting = list(layers)
    for number in itertools.count(1):
        ready = [name for name in waiting if all(source in level for source in sources[name])]
        if not ready:
            return level
        first = layers[max(ready, key=lambda name: (layers[name][0], math.prod(layers[name][1])))]
        level |= {name: number for name in ready if layers[name] == first}
        waiting = [name for name in waiting if name not in level]
    raise AssertionError("counting does not end")


def register_leaks(node: Node) -> tuple[float, float]:
    """The shares of membrane and current that last from step to step in Loihi's 12 bits; a LIF, or a read-out that leaks,
    still leaks where it would round to 1. What else is no neuron keeps all of its membrane."""
    if isinstance(node, Output) and node.leak < 1:
        return leak_of(max(decay_of(node.leak), 1)), 0.0
    if not isinstance(node, LIF):
        return 1.0, 0.0
    least = 0 if node.current_leak else 1
    return leak_of(max(decay_of(node.leak), least)), leak_of(decay_of(node.current_leak))


def neuron_depths(graph: SpikingGraph) -> dict[str, int]:
    """The depth of a node is the level, in the chain of the graph, of the last layer of neurons that a spike passes from
    the input to it, OR neurons of max-pools included."""
    nearest: dict[str, frozenset[str]] = {}
    layers: dict[str, Likeness] = {}
    sources: dict[str, frozenset[str]] = {}
    for name, node in graph.nodes.items():
        before = frozenset[str]().union(*(nearest[source] for source in graph.earlier(name)))
        nearest[name] = before
        if isinstance(node, Neuron) or (isinstance(node, MaxPool2d) and graph.in_signal(name) == "spikes"):
            layers[name], sources[name] = likeness(graph.shapes[name], register_leaks(node), node), before
            nearest[name] = frozenset({name})
    level = schedule(layers, sources)
    return {name: max((level[layer] for layer in found), default=0) for name, found in nearest.items()}
