"""A layer has one name wherever a person reads of it: that of its synapses, under which its weights are stored."""

from __future__ import annotations

from exporters.graph.nodes import MaxPool2d, Neuron, Synapse
from exporters.graph.spiking_graph import SpikingGraph


def layer_names(graph: SpikingGraph) -> dict[str, str]:
    """Neurons belong to a layer of this name, in the graph's order: neuron node → layer.

    It is the synapse layer that feeds them. Of several whose currents add up it is the deepest one (the last convolution
    of a residual block rather than its shortcut, and never a recurrent one), of equally deep ones the last. Neurons that
    no synapse feeds, or whose synapses have named others already, keep their own name.
    """
    found: dict[str, str] = {}
    depths: dict[str, int] = {}
    order = {name: index for index, name in enumerate(graph.nodes)}
    for name, node in graph.nodes.items():
        first = -1 if graph.closes_loop(name) else 0  # what comes back is no deeper than what comes in
        depths[name] = max((depths[source] for source in graph.earlier(name)), default=first)
        depths[name] += isinstance(node, Neuron | MaxPool2d)
        if isinstance(node, Neuron):
            taken = set(found.values())
            feeding = [s for s in graph.sources(name) if isinstance(graph.nodes[s], Synapse) and s not in taken]
            found[name] = max(feeding, key=lambda s: (depths[s], order[s]), default=name)
    return found
