"""A level is the neuron layers of one depth and the relays that pass through them, before they become one layer of a
chain.

A level's channels are *slots*, blocks of channels side by side: first those of its own neuron layers, its members,
then those of relays. Where the main path strides, a relay takes the positions that will be read, and several slots
hold several of them: offsets (y, x) of the grid of the layer whose spikes they repeat.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from exporters.errors import DeployError
from exporters.graph import AnySynapse, Array, Conv2d, Flatten, Linear, Neuron, Node, Output, Pair, Shape, SpikingGraph
from exporters.passes.membranes import likeness, require_synapses, schedule

Slot = tuple[str, int, int]
"""A slot is a block of a level's channels: the spikes of a neuron layer at offset (y, x) of its grid (0, 0 for its
own)."""


@dataclass(frozen=True, eq=False)
class Link:
    """A link is one synapse layer from one neuron layer (or the input) to another."""

    source: str
    target: str
    name: str
    synapse: AnySynapse


@dataclass
class Level:
    """A level is one layer of the chain under construction.

    Attributes:
        members: the neuron layers of this depth.
        slots: what its channels hold, in order: members first, then relays.
        stride: of the connections from the level below, (1, 1) into dense layers.
    """

    members: list[str] = field(default_factory=list)
    slots: list[Slot] = field(default_factory=list)
    stride: Pair = (1, 1)

    @property
    def relays(self) -> list[Slot]:
        """Relays are the slots that repeat spikes of earlier levels."""
        return self.slots[len(self.members) :]


@dataclass(frozen=True, eq=False)
class LevelTap:
    """A level tap is what a connection reads at one offset (y, x) around each position of the level below.

    Attributes:
        offset: where, in positions of that level's grid.
        slot: which of its channels.
        weight: (Cout, Cin/groups); of a dense layer (Cout, Cin·H·W) over the level's whole grid.
        groups: of the convolution.
    """

    offset: Pair
    slot: Slot
    weight: Array
    groups: int = 1


def leaks(node: Node) -> tuple[float, float]:
    """The leaks are the shares of membrane and of current that last from step to step; a max-pool has neither."""
    if isinstance(node, Output):
        return node.leak, 0.0
    return (node.leak, node.current_leak) if isinstance(node, Neuron) else (1.0, 0.0)


def links_of(graph: SpikingGraph) -> tuple[Link, ...]:
    """Every synapse layer is a link for each signal it reads and each neuron layer it feeds.

    Raises:
        DeployError: synapses that feed synapses, or neurons that are fed without.
    """
    require_synapses(graph)
    found: list[Link] = []
    for name, synapse in graph.synapses.items():
        for target, (index, source) in itertools.product(graph.targets(name), enumerate(graph.sources(name))):
            origin = source
            while isinstance(graph.nodes[origin], Flatten):
                (origin,) = graph.sources(origin)  # `fold_average_pools` leaves no Flatten of a sum
            if origin in graph.synapses:
                raise DeployError(f"{name}: {type(synapse).__name__} stands where a netx chain needs neurons")
            # a bias counts once, however many signals the layer reads
            found.append(Link(origin, target, name, synapse if index == 0 else replace(synapse, bias=None)))
    return tuple(found)


def depths_of(graph: SpikingGraph, links: Sequence[Link]) -> dict[str, int]:
    """The depth of a neuron layer, the input or the read-out is its level in the chain (`schedule`); the input's is 0."""
    sources: dict[str, set[str]] = {}
    for link in links:
        sources.setdefault(link.target, set()).update({link.source} - {graph.input_name})
    layers = {
        name: likeness(graph.shapes[name], leaks(node), node) for name, node in graph.nodes.items() if name in sources
    }
    return {graph.input_name: 0, **schedule(layers, sources)}


class Levels:
    """The levels of a graph are numbered as depths: 0 is the input.

    Raises:
        DeployError: layers of one depth that differ in stride, or a skip that no relay can carry.
    """

    def __init__(self, graph: SpikingGraph, links: Sequence[Link], depth: Mapping[str, int]) -> None:
        self.graph, self.links, self.depth = graph, links, depth
        self.top = max(depth.values())
        self.levels = [Level() for _ in range(self.top + 1)]
        for name, d in depth.items():
            self.levels[d].members.append(name)
        for d, level in enumerate(self.levels):
            level.stride = self._stride(d)
        self._place_relays()

    def shape(self, d: int) -> Shape:
        """Each member of level d has this shape, but for the channels, which are the first one's."""
        return self.graph.shapes[self.levels[d].members[0]]

    def links_to(self, member: str) -> list[Link]:
        """These connections end in a neuron layer or the read-out."""
        return [link for link in self.links if link.target == member]

    def width(self, slot: Slot) -> int:
        """A slot has this many channels."""
        return self.graph.shapes[slot[0]][0]

    def _stride(self, d: int) -> Pair:
        """The stride into a level is that of the connections from the level right below, or what those from earlier ones
        leave of theirs."""
        into = [link for link in self.links if self.depth[link.target] == d]
        near = [link for link in into if self.depth[link.source] == d - 1]
        strides: set[Pair] = set()
        for link in near or into:
            factor = self._factor(link.source, d - 1)
            y, x = link.synapse.stride if isinstance(link.synapse, Conv2d) else factor
            strides.add((max(1, y // factor[0]), max(1, x // factor[1])))
        if len(strides) > 1:
            raise DeployError(
                f"{self.levels[d].members[0]}: layers of one depth have different strides {sorted(strides)}; give them the "
                "same stride, or make one of them deeper"
            )
        return strides.pop() if strides else (1, 1)

    def _factor(self, source: str, d: int) -> Pair:
        """One position of level d stands for this many positions of a source's grid."""
        strides = [self.levels[k].stride for k in range(self.depth[source] + 1, d + 1)]
        return (math.prod(s[0] for s in strides), math.prod(s[1] for s in strides))

    def _place_relays(self) -> None:
        """Every level gets its slots: a walk down from the readers notes which offsets each level must carry."""
        wanted: list[dict[Slot, None]] = [{} for _ in self.levels]
        for d in range(self.top, 0, -1):
            for link in self.links:
                if self.depth[link.target] == d:
                    for tap in self.taps(link, d):
                        wanted[d - 1].setdefault(tap.slot)
            for slot in list(wanted[d]):
                if self.depth[slot[0]] < d:
                    wanted[d - 1].setdefault(self.relay_source(slot, d)[0])
        for d, level in enumerate(self.levels):
            level.slots = [(m, 0, 0) for m in level.members]
            level.slots += [slot for slot in wanted[d] if slot not in level.slots]
            for source, _, _ in level.relays:
                self._check_relay(source, d)

    def _check_relay(self, source: str, d: int) -> None:
        main = self.levels[d].members[0]
        if leaks(self.graph.nodes[main])[1] > 0:
            raise DeployError(
                f"{main}: its current persists (current_leak), and so would that of relays beside it, which carry the spikes "
                f"of {source} past it; set current_leak to 0 in networks with skip connections"
            )
        if source == self.graph.input_name and self.graph.input.is_graded:
            raise DeployError(
                f"{self.levels[d].members[0]}: the analog input skips this layer, and relay neurons pass on spikes only; "
                "put a neuron layer behind the first convolution"
            )
        if len(self.graph.shapes[source]) != len(self.shape(d)):
            raise DeployError(
                f"{source}: its spikes skip from convolutions to dense layers past {self.levels[d].members[0]}; netx cannot relay them"
            )

    def relay_source(self, slot: Slot, d: int) -> tuple[Slot, Pair]:
        """A relay is fed by this slot of the level below, at this tap offset."""
        source, y, x = slot
        below = self._factor(source, d - 1)
        return (source, y % below[0], x % below[1]), (y // below[0], x // below[1])

    def taps(self, link: Link, d: int) -> Iterator[LevelTap]:
        """The taps are what a connection into level d reads on level d − 1."""
        synapse = link.synapse
        factor = self._factor(link.source, d - 1)
        if isinstance(synapse, Linear):
            yield from self._dense_taps(link, d, factor)
            return
        stride = (factor[0] * self.levels[d].stride[0], factor[1] * self.levels[d].stride[1])
        if synapse.stride != stride:
            raise DeployError(
                f"{link.name}: it strides by {synapse.stride} where the layers it runs beside stride by {stride} in all; "
                "a skip connection must shrink as the main path does"
            )
        for a, b in itertools.product(*map(range, synapse.weight.shape[2:])):
            taps = synapse.weight[:, :, a, b]
            if not taps.any():
                continue
            y = a * synapse.dilation[0] - synapse.padding[0]
            x = b * synapse.dilation[1] - synapse.padding[1]
            self._require_relayed(link, d, (y, x), stride)
            slot = (link.source, y % factor[0], x % factor[1])
            yield LevelTap((y // factor[0], x // factor[1]), slot, taps, synapse.groups)

    def _require_relayed(self, link: Link, d: int, offset: Pair, stride: Pair) -> None:
        """The check raises DeployError where a tap reads positions that a layer in between has no room for."""
        for level, axis in itertools.product(range(self.depth[link.source] + 1, d), (0, 1)):
            end = self.graph.shapes[link.source][1 + axis] - 1
            last = (self.shape(d)[1 + axis] - 1) * stride[axis] + offset[axis]
            read = min(last, end - (end - offset[axis]) % stride[axis])
            if read // self._factor(link.source, level)[axis] >= self.shape(level)[1 + axis]:
                raise DeployError(
                    f"{link.name}: it reads {link.source} past {self.levels[level].members[0]}, which cuts off its border; "
                    "netx cannot relay that; pad the layers between so that they see the whole of it"
                )

    def _dense_taps(self, link: Link, d: int, factor: Pair) -> Iterator[LevelTap]:
        """A dense layer has one tap for each offset of the source's grid."""
        weight = link.synapse.weight
        if self.graph.shapes[link.source][1:] == self.shape(d - 1)[1:] or len(self.shape(d - 1)) == 1:
            yield LevelTap((0, 0), (link.source, 0, 0), weight)
            return
        channels, height, width = self.graph.shapes[link.source]
        for level in range(self.depth[link.source] + 1, d):
            rows, columns = np.multiply(self.shape(level)[1:], self._factor(link.source, level))
            if height > rows or width > columns:
                raise DeployError(
                    f"{link.name}: it reads {link.source} past layers that cut off its border; netx cannot relay that to a "
                    "dense layer; pad the strided layers so that they see the whole of it"
                )
        grid = self.shape(d - 1)[1:]
        whole = weight.reshape(-1, channels, height, width)
        for y, x in itertools.product(range(factor[0]), range(factor[1])):
            part = whole[:, :, y :: factor[0], x :: factor[1]]
            if part.any():
                spread: Array = np.zeros((len(weight), channels, *grid), weight.dtype)
                spread[:, :, : part.shape[2], : part.shape[3]] = part
                yield LevelTap((0, 0), (link.source, y, x), spread.reshape(len(weight), -1))
