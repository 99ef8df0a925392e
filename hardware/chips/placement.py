"""A network takes the neurocores that its layers are cut for: every layer into blocks, one block to a core.

What is placed is the chain that a `.net` file holds (`exporters.passes.chain`), not the graph before it:
the OR neurons of max-pools and the relay channels of skip connections are neurons that take cores, and
average pools, which take none, have become larger kernels. A network without a chain has no placement.

The search is NxTF's in outline (Rueckauer et al. 2022): layers from the last to the first, since a
layer's output axons depend on how the next one is cut; for each the cheapest cut (`hardware.chips.search`) by what its
blocks take of a core's memory (`hardware.chips.memory`) and axons (`hardware.chips.axons`).

A recurrent layer is one more source of its own blocks. The output axons by which its spikes come back to them depend on its own
cut, so they are added when it has been chosen; a cut that has no room for them is not tried again with another.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from exporters.errors import DeployError
from exporters.graph import AnySynapse, Flatten, Linear, Shape, SpikingGraph
from exporters.passes.chain import ChainLayer, chain_layers
from exporters.passes.dense_time import set_aside
from exporters.passes.membranes import resets_by_subtraction
from hardware.chips.axons import Axons, FanOut, fan_out, silent
from hardware.chips.blocks import Block, as_grid
from hardware.chips.limits import Target
from hardware.chips.projection import projection
from hardware.chips.search import Cut, PlacementError, Usage, search


@dataclass(frozen=True, eq=False)
class PlacedLayer:
    """A layer of the chain was placed on these cores.

    Attributes:
        name: the synapse layer; `neurons_name`: the neurons behind it.
        shape: of the neurons, (C, H, W) or (F,).
        blocks: what each core holds, in core order.
        usage: what each core is used for.
        first_core: number of its first core.
        axons: "discrete" (NxTF's rule) or "population" (`hardware.chips.cores`), of the spikes that come in.
        incoming: which of its cores each spike that comes in is sent to.
        outgoing: which cores of the next layer each of its own spikes is sent to; `back`: which of its own.
        target: the chip.
    """

    name: str
    neurons_name: str
    shape: Shape
    blocks: tuple[Block, ...]
    usage: tuple[Usage, ...]
    first_core: int
    axons: Axons
    incoming: FanOut
    outgoing: FanOut
    back: FanOut
    target: Target

    @property
    def limits(self) -> Mapping[str, int]:
        """A core has so much of each resource."""
        return self.target.room

    @property
    def messages_per_spike(self) -> float:
        """One spike is sent to so many cores, on average if every neuron fires alike."""
        return float(self.outgoing.feeds.mean() + self.back.feeds.mean())

    @cached_property
    def hops_per_spike(self) -> tuple[float, float] | None:
        """One spike's messages are expected to cross so many tiles (east-west, north-south), if every neuron fires alike; None
        where no mesh is published."""
        ways = (self.outgoing, self.first_core + self.cores), (self.back, self.first_core)
        return _hops_per_spike(self.target, self.blocks, self.first_core, *ways)

    @property
    def neurons(self) -> int:
        """The layer has so many neurons."""
        return math.prod(self.shape)

    @property
    def cores(self) -> int:
        """The layer takes so many cores."""
        return len(self.blocks)

    def totals(self) -> dict[str, int]:
        """All cores together take so much of each resource."""
        return {name: sum(used.of(name) for used in self.usage) for name in self.limits}

    def needed(self) -> dict[str, int]:
        """Each resource alone would ask for so many cores: its total over a core's limit, rounded up."""
        return {name: -(-total // self.limits[name]) for name, total in self.totals().items()}

    def utilization(self) -> dict[str, float]:
        """The fullest core takes this share of each resource, 0…1."""
        return {name: max(used.of(name) for used in self.usage) / limit for name, limit in self.limits.items()}

    @property
    def limited_by(self) -> str:
        """The fullest core has least left of this resource."""
        shares = self.utilization()
        return max(shares, key=shares.__getitem__)


@dataclass(frozen=True, eq=False)
class Placement:
    """A network was placed on a chip.

    Attributes:
        target: the chip.
        layers: in order; cores are numbered through them.
        host: layers that run on the host, before the first one placed.
    """

    target: Target
    layers: tuple[PlacedLayer, ...]
    host: tuple[str, ...] = ()

    @property
    def cores(self) -> int:
        """All layers together take so many cores; no core is shared by two layers."""
        return sum(layer.cores for layer in self.layers)

    @property
    def chips(self) -> int:
        """The cores are on so many chips, filled one after another."""
        return -(-self.cores // self.target["cores_per_chip"])


def position(target: Target, core: int) -> tuple[int, int] | None:
    """A core's tile lies at (x, y): tiles row by row, chips side by side (a layout assumed here, as NxSDK's is not
    public)."""
    columns, per_tile, per_chip = target.get("mesh_columns"), target.get("cores_per_tile"), target["cores_per_chip"]
    if columns is None or per_tile is None:
        return None
    chip, tile = core // per_chip, core % per_chip // per_tile
    return chip * columns + tile % columns, tile // columns


def hops(placement: Placement, events: Mapping[str, float]) -> tuple[float, float]:
    """The messages of a run hop from tile to tile (east-west, north-south) so many times, by estimate.

    Args:
        placement: where the layers are.
        events: spikes per layer, by the name of the synapse layer or of its neurons; others are ignored.

    One spike sends one message to every core it feeds, which goes along one axis and then the other. The
    spikes are taken to be spread evenly over a layer's neurons, the layout is `position`'s. Where a link
    leads to the next chip it counts as any other; its energy is not published. Input from the host and
    the read-out are not counted.

    Raises:
        DeployError: the target's mesh is not published.
    """
    east, north = 0.0, 0.0
    for layer in placement.layers:
        if layer.hops_per_spike is None:
            raise DeployError(f"{placement.target.title}: its mesh is not published, so hops cannot be estimated")
        spikes = events.get(layer.neurons_name, events.get(layer.name, 0.0))
        east += spikes * layer.hops_per_spike[0]
        north += spikes * layer.hops_per_spike[1]
    return east, north


def messages(placement: Placement, events: Mapping[str, float]) -> float:
    """The cores of a run send one another so many messages, by estimate: one per spike and core that it feeds.

    Arguments and what is left out (input from the host, the read-out) as in `hops`.
    """
    return sum(
        events.get(layer.neurons_name, events.get(layer.name, 0.0)) * layer.messages_per_spike
        for layer in placement.layers
    )


def place(graph: SpikingGraph, target: Target, *, host_layers: int = 0, known: Placement | None = None) -> Placement:
    """An integer chain (from `to_chain`) is placed.

    Args:
        graph: the chain. Weights count by being zero or not, and by their bits.
        target: the chip.
        host_layers: this many layers at the front run on the host, which sends their spikes.
        known: where a network of the same layers with other weights lies; a layer for which its cut is as good is not
            searched for another.

    Raises:
        PlacementError: one neuron of a layer needs more than a core has.
        DeployError: the graph is not a chain.
    """
    chain = chain_layers(graph)
    plain, _ = set_aside(graph)
    found: list[tuple[ChainLayer, Shape, Cut, FanOut, FanOut]] = []
    outgoing: FanOut | None = None
    before = {} if known is None else {(layer.name, layer.shape): layer.blocks for layer in known.layers}
    for step in reversed(chain[host_layers:]):
        shape = graph.shapes[step.neuron_name]
        soft = resets_by_subtraction(graph.nodes[step.neuron_name])
        source, back = plain.shapes[source_of(plain, step.name)], silent(shape)
        layer, delay = _with_recurrence(step)
        recurrent = layer is not step.synapse
        seen = (layer.weight.shape[1],) if recurrent else source
        synapses = projection(layer, seen, as_grid(shape), target, soft=soft, delay=delay)
        best = search(step.name, synapses, outgoing or silent(shape), target, before.get((step.name, shape), ()))
        if recurrent:
            back = fan_out(synapses, best.blocks, best.axons, shape, math.prod(source))
            best = _with_way_back(step.name, best, back, target, loops=synapses.loops)
        outgoing = fan_out(synapses, best.blocks, best.axons, source)
        found.append((step, shape, best, back, outgoing))
    found.reverse()
    firsts = list(itertools.accumulate((len(best.blocks) for _, _, best, _, _ in found), initial=0))
    placed = tuple(
        PlacedLayer(
            step.name, step.neuron_name, shape, best.blocks, best.usage, first, best.axons, incoming, best.outgoing, back, target
        )
        for (step, shape, best, back, incoming), first in zip(found, firsts, strict=False)
    )  # fmt: skip
    return Placement(target, placed, tuple(step.name for step in chain[:host_layers]))


# -- the chain ---------------------------------------------------------------------------------------


def source_of(chain: SpikingGraph, name: str) -> str:
    """The node whose output a layer reads; flattening changes no value and no order."""
    source: str = chain.sources(name)[0]
    while isinstance(chain.nodes[source], Flatten):
        source = chain.sources(source)[0]
    return source


def _with_recurrence(step: ChainLayer) -> tuple[AnySynapse, int]:
    """The synapses of a layer, those from its own neurons behind all others, and their longest delay."""
    if step.time is None:
        return step.synapse, 0
    if step.time.recurrent is None:
        return step.synapse, step.time.longest
    return Linear(np.hstack((step.synapse.weight, step.time.recurrent))), step.time.longest


def _with_way_back(name: str, cut: Cut, back: FanOut, target: Target, *, loops: bool) -> Cut:
    """The cut with the output axons by which a layer's spikes come back to it."""
    room = target.room.get("output axons")
    if room is None:
        return cut
    # a second compartment's own entries are counted already
    more = back.entries(target, cut.blocks, loops=loops) - loops * np.array([block.neurons for block in cut.blocks])
    usage = tuple(
        replace(used, output_axons=used.output_axons + int(own)) for used, own in zip(cut.usage, more, strict=True)
    )
    if (most := max(used.output_axons for used in usage)) > room:
        raise PlacementError(
            name, f"{name}: its spikes go back to its own {len(cut.blocks)} cores as well, {most:,} output axons of a core, which has "
            f"{room:,}; make it, or the layer behind it, smaller",
        )  # fmt: skip
    return replace(cut, usage=usage)


def _hops_per_spike(
    target: Target, blocks: Sequence[Block], first: int, *ways: tuple[FanOut, int]
) -> tuple[float, float] | None:
    """Between the core of a neuron and those that it feeds lie so many tiles, on average over the neurons; `ways` are where
    its spikes go, and the first core there."""
    if position(target, 0) is None:
        return None
    east = north = 0
    for outgoing, next_first in ways:
        if not outgoing.cores:
            continue
        there = np.array([position(target, next_first + i) for i in range(outgoing.cores)]).reshape(-1, 2)
        for core, block in enumerate(blocks, first):
            messages, here = outgoing.messages(block), np.array(position(target, core))
            tiles = messages @ np.abs(there - here)
            east, north = east + int(tiles[0]), north + int(tiles[1])
    neurons = sum(block.neurons for block in blocks)
    return east / neurons, north / neurons
