"""Helpers that `quantize` and `make_exact` share: integer inputs, and which synapses share a membrane."""

from __future__ import annotations

from dataclasses import dataclass, replace

from exporters.errors import DeployError
from exporters.graph import (
    IF,
    LIF,
    AvgPool2d,
    Flatten,
    Input,
    MaxPool2d,
    Node,
    Output,
    SpikingGraph,
)


@dataclass(frozen=True)
class Group:
    """Synapse layers and the neuron layers (or output) they feed: one membrane, hence one unit of current."""

    synapses: tuple[str, ...]
    ends: tuple[str, ...]


def neuron_groups(graph: SpikingGraph) -> tuple[Group, ...]:
    """The synapse layers grouped by shared target, in topological order.

    Raises:
        DeployError: a layer that feeds something other than neurons or the output, or neurons fed by anything else.
    """
    groups: list[tuple[set[str], set[str]]] = []
    for name in graph.synapses:
        ends = set(graph.targets(name))
        for end in ends:
            if not isinstance(graph.nodes[end], IF | LIF | Output):
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
    found = [Group(tuple(sorted(a, key=order.__getitem__)), tuple(sorted(b, key=order.__getitem__))) for a, b in groups]
    for name in graph.neurons:
        if not all(source in graph.synapses for source in graph.sources(name)):
            raise DeployError(f"{name}: spikes reach these neurons without a synapse layer; put a layer in between")
    return tuple(sorted(found, key=lambda g: order[g.synapses[0]]))


def integer_inputs(graph: SpikingGraph, input_scale: int) -> SpikingGraph:
    """The same function with every synapse reading integers: pixels 0…input_scale, spikes, and sums of spikes.

    The factor that makes real values of them (1/input_scale, an average pool's divisor) moves into the weights.

    Raises:
        DeployError: a node that sums signals of different units.
    """
    changed: dict[str, Node] = {}
    unit: dict[str, float] = {}  # real value = unit × the integer that now flows
    for name, node in graph.nodes.items():
        units = {unit[s] for s in graph.sources(name)}
        incoming = units.pop() if units else 1.0
        if units:
            raise DeployError(f"{name}: it sums average-pooled spikes with others, which no integer grid expresses")
        match node:
            case Input(encoding="direct", scale=None):
                changed[name] = replace(node, scale=input_scale)
                unit[name] = 1 / input_scale
            case AvgPool2d(divisor=divisor):
                changed[name] = replace(node, divisor=1)
                unit[name] = incoming / divisor
            case Flatten() | MaxPool2d():
                unit[name] = incoming
            case _:
                if name in graph.synapses:
                    synapse = graph.synapses[name]
                    changed[name] = replace(synapse, weight=synapse.weight * incoming)
                unit[name] = 1.0
    return graph.with_nodes(changed)
