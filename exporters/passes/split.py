"""A network is split where its input becomes spikes: the encoder stays on the host, the chip gets spikes.

A direct-coded network reads the same analog image at every step, and only its first layer does arithmetic
on it. Chips that take no graded input (Loihi 1), and images whose currents do not fit their registers,
need that layer on the host: it computes its neurons' spikes, T frames of them, and these are the input
of what is left.
"""

from __future__ import annotations

from exporters.errors import DeployError
from exporters.graph import Input, Neuron, Node, Output, SpikingGraph


def split_encoder(graph: SpikingGraph) -> tuple[SpikingGraph, SpikingGraph]:
    """A direct-coded network, float or integer, becomes (host graph, chip graph).

    The host graph ends with the first neuron layer, whose spikes (N, T, *shape) are its output; the chip graph
    has an `Input` of that shape with encoding "spikes" in that layer's place. Run one after the other they give
    the spikes of the whole. Names, T and metadata stay; the host's metadata says which layer the chip reads.

    Raises:
        DeployError: the input is spikes already, the analog input reaches more than one neuron layer, or
            nothing would be left for the chip.
    """
    if not graph.input.is_graded:
        raise DeployError("the network's input is spikes already; there is no encoder to keep on the host")
    analog = {graph.input_name}  # nodes that compute on the analog input
    readers: list[str] = []  # where it ends
    for name, node in graph.nodes.items():
        if analog.intersection(graph.sources(name)):
            if isinstance(node, Neuron | Output):
                readers.append(name)
            else:
                analog.add(name)
    encoder = readers[0]
    if len(readers) > 1 or isinstance(graph.nodes[encoder], Output):
        raise DeployError(
            f"the analog input reaches {', '.join(readers)}; to keep the encoder on the host it must end in one neuron "
            "layer, from which all others take spikes"
        )
    targets = graph.targets(encoder)
    if graph.output_name in targets:
        raise DeployError(f"{encoder}: it is the whole network; nothing would be left for the chip")
    if any(encoder in loop for loop in graph.loops):
        raise DeployError(
            f"{encoder}: the first layer is recurrent, and the host would have to run its loop; keep it on the chip"
        )
    host_nodes: dict[str, Node] = {name: graph.nodes[name] for name in graph.nodes if name in analog or name == encoder}
    host_edges = [edge for edge in graph.edges if edge[1] in host_nodes]
    host = SpikingGraph(
        {**host_nodes, graph.output_name: Output("rate")},
        (*host_edges, (encoder, graph.output_name)),
        graph.T,
        {**graph.metadata, "encoder_of": encoder},
    )
    chip_nodes: dict[str, Node] = {graph.input_name: Input(graph.shapes[encoder], "spikes")}
    chip_nodes |= {name: node for name, node in graph.nodes.items() if name not in host_nodes}
    chip_edges = [(graph.input_name if a == encoder else a, b) for a, b in graph.edges if b in chip_nodes]
    return host, SpikingGraph(chip_nodes, tuple(chip_edges), graph.T, graph.metadata)
