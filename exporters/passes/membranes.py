"""Synapse layers that add up in one membrane share a unit of current; these functions find membranes and how deep they
lie."""

from __future__ import annotations

from dataclasses import dataclass

from exporters.errors import DeployError
from exporters.graph import MaxPool2d, Neuron, Output, SpikingGraph


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


def neuron_depths(graph: SpikingGraph) -> dict[str, int]:
    """The depth of a node is the most layers of neurons that a spike passes from the input to it, OR neurons of
    max-pools included."""
    depth: dict[str, int] = {}
    for name, node in graph.nodes.items():
        before = max((depth[source] for source in graph.sources(name)), default=0)
        is_layer = isinstance(node, Neuron) or (isinstance(node, MaxPool2d) and graph.in_signal(name) == "spikes")
        depth[name] = before + is_layer
    return depth
