"""The third step of lowering makes of an integer graph what netx can express: a plain chain of synapse and neuron
layers.

netx loads convolutions, dense layers and flatten, each with its neurons; no pool and no branch.

* Average pools melt into the layers behind them (`average_pools`).
* A max-pool over spikes is the OR of its window, and a layer of neurons computes it: weight 2 from each
  spike of the window, threshold 2: any spike makes it fire and reset, no spike leaves it at 0.
* What skips layers is relayed through them (`relays`).
* Delays, and spikes that come back to the layer that fired them, are what dense layers have (`dense_time`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import assert_never

from exporters.errors import DeployError
from exporters.graph import (
    IF,
    AnyNeuron,
    AnySynapse,
    Array,
    Conv2d,
    Delay,
    Flatten,
    Input,
    MaxPool2d,
    Neuron,
    Node,
    Output,
    Pool,
    SpikingGraph,
    Synapse,
)
from exporters.graph.registers import DECAY_ONE, MAX_GROUPS, SILENT, decay_of
from exporters.passes.average_pools import fold_average_pools
from exporters.passes.delay_relays import relay_delays
from exporters.passes.dense_time import DenseTime, put_back, set_aside
from exporters.passes.kernels import merge_groups, or_synapses
from exporters.passes.relays import straighten


def to_chain(graph: SpikingGraph) -> SpikingGraph:
    """The integer network becomes one chain Input → (synapse → neurons)… → Output, spike for spike.

    Max-pools become OR neurons (one more step of latency each), average pools go into the next layer,
    skips are relayed, grouped convolutions with more than 127 groups become block-diagonal ones. Linear layers on
    delays of one signal become one layer with delays, before which stand as few `Delay` nodes as say it (and relays where it
    needs several for one synapse, or is recurrent too); a layer's own spikes may come back to it.

    Raises:
        DeployError: the graph is not integer, or has something that a chain cannot express, by name.
    """
    if not graph.is_integer:
        raise DeployError("only a quantized (integer) graph can become a netx chain; quantize it first")
    plain, times = set_aside(relay_delays(_or_neurons(fold_average_pools(graph))))
    chained = straighten(plain)
    narrow = {n: _fewer_groups(node) for n, node in chained.synapses.items() if isinstance(node, Conv2d)}
    chained = put_back(chained.with_nodes(narrow), times)
    chain_layers(chained)
    return chained


def _or_neurons(graph: SpikingGraph) -> SpikingGraph:
    """Max-pools become synapses (under the pool's name) and neurons (`NAME.or`)."""
    nodes: dict[str, Node] = {}
    edges = []
    pools = {name for name, node in graph.nodes.items() if isinstance(node, MaxPool2d)}
    for name, node in graph.nodes.items():
        nodes[name] = node
        if isinstance(node, MaxPool2d):
            feeding = [graph.nodes[source] for source in graph.sources(name)]
            if graph.in_signal(name) != "spikes":
                raise DeployError(f"{name}: a max-pool over analog input has no spiking form; pool after the neurons")
            if len(feeding) > 1:
                raise DeployError(
                    f"{name}: a max-pool over a sum of spikes is no OR; put a neuron layer before the pool"
                )
            nodes[name] = _fewer_groups(or_synapses(node, graph.in_shape(name)[0], 2))
            nodes[f"{name}.or"] = IF(2)
            edges.append((name, f"{name}.or"))
    edges += [(f"{a}.or" if a in pools else a, b) for a, b in graph.edges]
    return graph.redrawn(nodes, edges)


def member_spikes(chained: SpikingGraph, spikes: Mapping[str, Array]) -> dict[str, Array]:
    """The spikes of a chain's layers, (N, T, *shape), become those of the layers they were made from, by their names."""
    members = chained.metadata.get("members", {})
    found = {
        name: values for name, values in spikes.items() if not members or name not in {m[0] for m in members.values()}
    }
    for name, (layer, start, end) in members.items():
        if layer in spikes:
            found[name] = spikes[layer][:, :, start:end]
    return found


@dataclass(frozen=True, eq=False)
class ChainLayer:
    """A layer of a chain is one step of latency: a synapse layer and the neurons behind it.

    A membrane read-out has no neurons in the graph; on the chip it is neurons whose threshold, `SILENT`,
    is out of reach. `neuron_name` is then the output's. The decays are Loihi's: v ← v·(4096 − decay)/4096 per step,
    and so the current. `time` is what the synapses do in time, None where spikes arrive at once and none come back.
    """

    name: str
    synapse: AnySynapse
    neuron_name: str
    threshold: int
    scale: float
    decay: int = 0
    current_decay: int = DECAY_ONE
    time: DenseTime | None = None


def chain_layers(chained: SpikingGraph) -> list[ChainLayer]:
    """A chain has these layers, in order, each one step of latency on Lava.

    Raises:
        DeployError: the graph is not a chain of synapses and neurons in turn; names the node at fault.
    """
    found: list[ChainLayer] = []
    waiting: tuple[str, AnySynapse] | None = None  # a synapse layer whose neurons have not come yet
    plain, times = set_aside(chained)
    for name, node in plain.nodes.items():
        if not _stands_well(node, behind_synapses=waiting is not None):
            wanted = "a convolution or linear layer" if waiting is None else "neurons"
            raise DeployError(f"{name}: {type(node).__name__} stands where a netx chain needs {wanted}")
        if isinstance(node, Synapse):
            waiting = (name, node)
        elif waiting is not None and isinstance(node, Neuron | Output):
            found.append(replace(_layer(*waiting, name, node), time=times.get(name)))
            waiting = None
    return found


def _stands_well(node: Node, *, behind_synapses: bool) -> bool:
    """A node stands well in a chain where it may: right behind a synapse layer, or anywhere else."""
    match node:
        case Input() | Flatten() | Synapse():
            return not behind_synapses
        case Neuron():
            return behind_synapses
        case Output():
            return behind_synapses == (node.readout == "membrane")
        case Pool() | Delay():
            return False
        case _:
            assert_never(node)


def _layer(name: str, synapse: AnySynapse, neuron_name: str, neuron: AnyNeuron | Output) -> ChainLayer:
    if isinstance(neuron, Output):
        return ChainLayer(name, synapse, neuron_name, SILENT, neuron.scale, decay_of(neuron.leak))
    decays = decay_of(neuron.leak), decay_of(neuron.current_leak)
    return ChainLayer(name, synapse, neuron_name, round(neuron.threshold), neuron.scale, *decays)


def _fewer_groups(conv: Conv2d) -> Conv2d:
    """A convolution of more than 127 groups gets fewer: neighbors merge into block-diagonal kernels."""
    if conv.groups <= MAX_GROUPS:
        return conv
    groups = max(g for g in range(1, MAX_GROUPS + 1) if conv.groups % g == 0)
    return replace(conv, weight=merge_groups(conv.weight, conv.groups, groups), groups=groups)
