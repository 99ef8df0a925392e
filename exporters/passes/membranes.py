"""Helpers that `quantize` and `make_exact` share: integer inputs, and which synapses share a membrane."""

from __future__ import annotations

from dataclasses import dataclass, replace

from exporters.errors import DeployError
from exporters.graph import (
    IF,
    LIF,
    AvgPool2d,
    Conv2d,
    Flatten,
    Input,
    Linear,
    MaxPool2d,
    Node,
    Output,
    SpikingGraph,
    unique_name,
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
    require_synapses(graph)
    return tuple(sorted(found, key=lambda g: order[g.synapses[0]]))


def require_synapses(graph: SpikingGraph) -> None:
    """Raise DeployError where spikes reach neurons without synapses, which no chip can do."""
    for name in graph.neurons:
        if not all(source in graph.synapses for source in graph.sources(name)):
            raise DeployError(f"{name}: spikes reach these neurons without a synapse layer; put a layer in between")


def neuron_depths(graph: SpikingGraph) -> dict[str, int]:
    """Node → the most layers of neurons that a spike passes from the input to here, OR neurons of max-pools included."""
    depth: dict[str, int] = {}
    for name, node in graph.nodes.items():
        before = max((depth[source] for source in graph.sources(name)), default=0)
        is_layer = isinstance(node, IF | LIF) or (isinstance(node, MaxPool2d) and graph.in_signal(name) == "spikes")
        depth[name] = before + is_layer
    return depth


def integer_inputs(graph: SpikingGraph, input_scale: int) -> SpikingGraph:
    """The same function with every synapse reading integers: pixels 0…input_scale, spikes, and sums of spikes.

    The factor that makes real values of them (1/input_scale, an average pool's divisor) moves into the
    weights. A layer that reads spikes and averages at once becomes one layer for each, into the same neurons.

    Raises:
        DeployError: a max-pool over a mixture of spikes and averages.
    """
    nodes: dict[str, Node] = {}
    edges: list[tuple[str, str]] = []
    parts: dict[
        str, list[tuple[str, float]]
    ] = {}  # node → the nodes that now stand for it: real value = Σ unit × integer

    def add(name: str, node: Node, sources: list[str]) -> str:
        unique = unique_name(name, nodes)
        nodes[unique] = node
        edges.extend((source, unique) for source in sources)
        return unique

    for name, node in graph.nodes.items():
        by_unit: dict[float, list[str]] = {}
        for source in graph.sources(name):
            for part, unit in parts[source]:
                by_unit.setdefault(unit, []).append(part)
        match node:
            case Input(encoding="direct", scale=None):
                parts[name] = [(add(name, replace(node, scale=input_scale), []), 1 / input_scale)]
            case AvgPool2d(divisor=divisor):
                whole = replace(node, divisor=1)
                parts[name] = [(add(name, whole, read), unit / divisor) for unit, read in by_unit.items()]
            case MaxPool2d() if len(by_unit) > 1:
                raise DeployError(
                    f"{name}: it takes the maximum of spikes plus averages, which no integer grid expresses"
                )
            case Flatten() | MaxPool2d():
                parts[name] = [(add(name, node, read), unit) for unit, read in by_unit.items()]
            case Conv2d() | Linear():
                copies: list[tuple[str, float]] = []
                for unit, read in by_unit.items():
                    bias = None if copies else node.bias
                    copies.append((add(name, replace(node, weight=node.weight * unit, bias=bias), read), 1.0))
                parts[name] = copies
            case _:
                parts[name] = [(add(name, node, [p for read in by_unit.values() for p in read]), 1.0)]
    return SpikingGraph(nodes, tuple(edges), graph.T, graph.metadata)
