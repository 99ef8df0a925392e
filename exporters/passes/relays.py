"""Residual networks as plain chains: what skips layers is relayed through them.

On Lava a spike takes one time step per layer of neurons, so a skip connection must wait while the main
path computes. Relay neurons do that: a synapse of weight V into a threshold of V repeats the spike one
step later. All neuron layers of one depth, and the relays that pass through it, become one layer of the
chain: their channels side by side, their kernels placed into one common kernel. Where the main path
strides, a relay takes the positions that will be read (and keeps several of them in several channels).

The neurons of one Loihi layer share one threshold. Layers side by side with thresholds V₁, V₂ get
integer factors k₁, k₂ on their weights and a common V with kᵢ(Vᵢ − 1) < V ≤ kᵢVᵢ; then kᵢA ≥ V ⇔ A ≥ Vᵢ.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from exporters.errors import DeployError
from exporters.graph import (
    AnySynapse,
    Array,
    Conv2d,
    Flatten,
    Linear,
    Neuron,
    Node,
    Output,
    Pair,
    Shape,
    SpikingGraph,
    chain,
    window_positions,
)
from exporters.graph.bounds import sum_bound
from exporters.graph.registers import BIAS_LIMIT, CURRENT_LIMIT, DENSE_WEIGHTS, THRESHOLD_LIMIT
from exporters.passes.membranes import require_synapses

Slot = tuple[str, int, int]
"""A block of a level's channels: the spikes of a neuron layer at offset (y, x) of its grid (0, 0 for its own)."""


@dataclass(frozen=True, eq=False)
class _Link:
    """One synapse layer from one neuron layer (or the input) to another."""

    source: str
    target: str
    name: str
    synapse: AnySynapse


@dataclass
class _Level:
    """One layer of the chain under construction.

    Attributes:
        members: the neuron layers of this depth.
        slots: what its channels hold, in order: members first, then relays.
        stride: of the hop that leads here, (1, 1) into dense layers.
    """

    members: list[str] = field(default_factory=list)
    slots: list[Slot] = field(default_factory=list)
    stride: Pair = (1, 1)


def _leaks(node: Node) -> tuple[float, float]:
    """The shares of membrane and of current that last from step to step; a read-out keeps its membrane."""
    return (node.leak, node.current_leak) if isinstance(node, Neuron) else (1.0, 0.0)


def straighten(graph: SpikingGraph) -> SpikingGraph:
    """An integer graph of synapses and neurons (no pools) as one chain, spike for spike.

    Where a neuron layer ends up in the chain stands in `metadata["members"]`: layer → [chain layer, first
    channel, end]. A chain comes back as it is.

    Raises:
        DeployError: a skip that no relay can carry (of the analog input, or around dense layers with large
            thresholds), layers side by side that differ in size, stride or leak, or thresholds that no
            common threshold can stand for.
    """
    links = list(_links(graph))
    depth = _depths(graph, links)
    if _is_chain(graph):
        return graph
    return _Chain(graph, links, depth).build()


def _is_chain(graph: SpikingGraph) -> bool:
    return all(len(graph.sources(n)) <= 1 and len(graph.targets(n)) <= 1 for n in graph.nodes)


def _links(graph: SpikingGraph) -> Iterator[_Link]:
    require_synapses(graph)
    for name, synapse in graph.synapses.items():
        for target, source in itertools.product(graph.targets(name), graph.sources(name)):
            origin = source
            while isinstance(graph.nodes[origin], Flatten):
                (origin,) = graph.sources(origin)  # `fold_average_pools` leaves no Flatten of a sum
            if origin in graph.synapses:
                raise DeployError(f"{name}: {type(synapse).__name__} stands where a netx chain needs neurons")
            # a bias counts once, however many signals the layer reads
            first = source == graph.sources(name)[0]
            yield _Link(origin, target, name, synapse if first else replace(synapse, bias=None))


def _depths(graph: SpikingGraph, links: list[_Link]) -> dict[str, int]:
    depth = {graph.input_name: 0}
    for name in graph.nodes:
        reaching = [depth[link.source] for link in links if link.target == name]
        if reaching:
            depth[name] = 1 + max(reaching)
    return depth


class _Chain:
    """One straightening. Levels are numbered as depths: 0 is the input."""

    def __init__(self, graph: SpikingGraph, links: list[_Link], depth: dict[str, int]) -> None:
        self.graph, self.links, self.depth = graph, links, depth
        self.top = max(depth.values())
        self.levels = [_Level() for _ in range(self.top + 1)]
        for name, d in depth.items():
            self.levels[d].members.append(name)
        for d, level in enumerate(self.levels):
            self._check_alike(level)
            level.stride = self._stride(d)
        self._place_relays()

    def build(self) -> SpikingGraph:
        nodes: list[tuple[str, Node]] = [(self.graph.input_name, self.graph.input)]
        members: dict[str, list[Any]] = {}
        for d in range(1, self.top + 1):
            level = self.levels[d]
            factors, threshold = self._common_threshold(level)
            synapse = self._hop(d, factors, threshold)
            main = level.members[0]
            links = [link for link in self.links if link.target == main]
            alone = len(level.slots) == 1
            name = links[-1].name if alone else f"{main}.level"
            if isinstance(synapse, Linear) and len(self._shape(d - 1)) == 3:
                nodes.append((f"{name}.flat", Flatten()))
            nodes.append((name, synapse))
            node = self.graph.nodes[main]
            if isinstance(node, Output):
                nodes.append((main, node))
                return chain(nodes, self.graph.T, metadata={**self.graph.metadata, "members": members})
            assert isinstance(node, Neuron)
            neurons = main if alone else f"{main}.relayed"
            nodes.append((neurons, replace(node, threshold=threshold, scale=node.scale * factors[main])))
            start = 0
            for slot in level.slots:
                width = self._width(slot)
                if slot[0] in level.members:
                    members[slot[0]] = [neurons, start, start + width]
                start += width
        nodes.append((self.graph.output_name, self.graph.output))
        return chain(nodes, self.graph.T, metadata={**self.graph.metadata, "members": members})

    # -- geometry ------------------------------------------------------------------------------

    def _shape(self, d: int) -> Shape:
        return self.graph.shapes[self.levels[d].members[0]]

    def _width(self, slot: Slot) -> int:
        return self.graph.shapes[slot[0]][0]

    def _check_alike(self, level: _Level) -> None:
        first = level.members[0]
        for other in level.members[1:]:
            a, b = self.graph.shapes[first], self.graph.shapes[other]
            if a[1:] != b[1:] or len(a) != len(b):
                raise DeployError(
                    f"{other}: it runs beside {first} but has another size ({b} and {a}), so they cannot share a layer"
                )
            if len({_leaks(self.graph.nodes[n]) for n in (first, other)}) > 1:
                raise DeployError(f"{other}: it runs beside {first} but leaks differently; a Loihi layer has one decay")

    def _stride(self, d: int) -> Pair:
        """The stride of the hop into a level: that of the connections that come from the level right below."""
        strides = {
            link.synapse.stride if isinstance(link.synapse, Conv2d) else (1, 1)
            for link in self.links
            if self.depth[link.target] == d and self.depth[link.source] == d - 1
        }
        if len(strides) > 1:
            raise DeployError(
                f"{self.levels[d].members[0]}: layers of one depth have different strides {sorted(strides)}"
            )
        return strides.pop() if strides else (1, 1)

    def _factor(self, source: str, d: int) -> Pair:
        """How many positions of a source's grid one position of level d stands for."""
        strides = [self.levels[k].stride for k in range(self.depth[source] + 1, d + 1)]
        return (math.prod(s[0] for s in strides), math.prod(s[1] for s in strides))

    def _place_relays(self) -> None:
        """Give every level its slots: walk down from the readers and note which offsets each level must carry."""
        wanted: list[dict[Slot, None]] = [{} for _ in self.levels]
        for d in range(self.top, 0, -1):
            for link in self.links:
                if self.depth[link.target] == d:
                    for _, slot, _, _ in self._taps(link, d):
                        wanted[d - 1].setdefault(slot)
            for slot in list(wanted[d]):
                if self.depth[slot[0]] < d:
                    wanted[d - 1].setdefault(self._relay_source(slot, d)[0])
        for d, level in enumerate(self.levels):
            level.slots = [(m, 0, 0) for m in level.members]
            level.slots += [slot for slot in wanted[d] if slot not in level.slots]
            for source, _, _ in level.slots[len(level.members) :]:
                self._check_relay(source, d)

    def _check_relay(self, source: str, d: int) -> None:
        main = self.levels[d].members[0]
        if _leaks(self.graph.nodes[main])[1] > 0:
            raise DeployError(
                f"{main}: its current persists (current_leak), and so would that of relays beside it, which carry the spikes "
                f"of {source} past it; set current_leak to 0 in networks with skip connections"
            )
        if source == self.graph.input_name and self.graph.input.encoding == "direct":
            raise DeployError(
                f"{self.levels[d].members[0]}: the analog input skips this layer, and relay neurons pass on spikes only; "
                "put a neuron layer behind the first convolution"
            )
        if len(self.graph.shapes[source]) != len(self._shape(d)):
            raise DeployError(
                f"{source}: its spikes skip from convolutions to dense layers past {self.levels[d].members[0]}; netx cannot relay them"
            )

    def _relay_source(self, slot: Slot, d: int) -> tuple[Slot, Pair]:
        """Which slot of the level below feeds a relay, and at which tap offset."""
        source, y, x = slot
        below = self._factor(source, d - 1)
        return (source, y % below[0], x % below[1]), (y // below[0], x // below[1])

    def _taps(self, link: _Link, d: int) -> Iterator[tuple[Pair, Slot, Array, int]]:
        """What a connection reads on level d − 1: (tap offset, slot, weights (Cout, Cin/groups), groups)."""
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
            yield (y // factor[0], x // factor[1]), (link.source, y % factor[0], x % factor[1]), taps, synapse.groups

    def _dense_taps(self, link: _Link, d: int, factor: Pair) -> Iterator[tuple[Pair, Slot, Array, int]]:
        """As `_taps`, weights (Cout, Cin·H·W) over the grid of level d − 1: one part for each offset of the source's grid."""
        weight = link.synapse.weight
        if factor == (1, 1):
            yield (0, 0), (link.source, 0, 0), weight, 1
            return
        channels, height, width = self.graph.shapes[link.source]
        grid = self._shape(d - 1)[1:]
        if height > grid[0] * factor[0] or width > grid[1] * factor[1]:
            raise DeployError(
                f"{link.name}: it reads {link.source} past layers that cut off its border; netx cannot relay that to a "
                "dense layer; pad the strided layers so that they see the whole of it"
            )
        whole = weight.reshape(-1, channels, height, width)
        for y, x in itertools.product(range(factor[0]), range(factor[1])):
            part = whole[:, :, y :: factor[0], x :: factor[1]]
            if part.any():
                spread: Array = np.zeros((len(weight), channels, *grid), weight.dtype)
                spread[:, :, : part.shape[2], : part.shape[3]] = part
                yield (0, 0), (link.source, y, x), spread.reshape(len(weight), -1), 1

    # -- numbers -------------------------------------------------------------------------------

    def _common_threshold(self, level: _Level) -> tuple[dict[str, int], int]:
        nodes = {m: self.graph.nodes[m] for m in level.members}
        thresholds = {m: round(n.threshold) for m, n in nodes.items() if isinstance(n, Neuron)}
        if len(thresholds) < len(nodes):  # the membrane read-out stands alone
            return dict.fromkeys(nodes, 1), 0
        main = level.members[0]
        if _leaks(nodes[main]) != (1.0, 0.0) and len(set(thresholds.values())) > 1:
            listed = ", ".join(f"{m} {v}" for m, v in thresholds.items())
            raise DeployError(
                f"{main}: leaky neurons run side by side with different thresholds ({listed}); Loihi truncates leaks, so no "
                "factor makes them alike; give them one threshold"
            )
        for common in range(max(thresholds.values()), THRESHOLD_LIMIT + 1):
            factors = {m: -(-common // v) for m, v in thresholds.items()}
            if all(factors[m] * (v - 1) < common for m, v in thresholds.items()) and self._fits(factors):
                return factors, common
        listed = ", ".join(f"{m} {v}" for m, v in thresholds.items())
        raise DeployError(
            f"no threshold can stand for those of layers of one depth ({listed}); quantize with fewer bits"
        )

    def _fits(self, factors: dict[str, int]) -> bool:
        """Whether the currents and biases of members, times their factors, still fit Lava's registers."""
        for member, factor in factors.items():
            into = [link for link in self.links if link.target == member]
            scale = self.graph.input.scale or 1
            arriving = [float(scale) if link.source == self.graph.input_name else 1.0 for link in into]
            current = sum(sum_bound(link.synapse, a, bias=False) for link, a in zip(into, arriving, strict=True))
            bias = sum(float(np.abs(link.synapse.bias).max()) for link in into if link.synapse.bias is not None)
            # all steps together, so that no membrane saturates that would not without the factor
            if factor > 1 and (factor * (current + bias) * self.graph.T > CURRENT_LIMIT or factor * bias > BIAS_LIMIT):
                return False
        return True

    def _hop(self, d: int, factors: dict[str, int], threshold: int) -> AnySynapse:
        """The one synapse layer from level d − 1 to level d."""
        level, below = self.levels[d], self.levels[d - 1]
        starts_in = self._starts(below.slots)
        starts_out = self._starts(level.slots)
        into = [link for link in self.links if self.depth[link.target] == d]
        if len(level.slots) == len(below.slots) == len(into) == 1:
            return into[0].synapse  # nothing to merge: keep groups and dilation as they are
        width_out = sum(map(self._width, level.slots))
        bias: Array = np.zeros(width_out, np.int64)
        for link in into:
            if link.synapse.bias is not None:
                start = starts_out[link.target, 0, 0]
                bias[start : start + len(link.synapse.bias)] += (
                    link.synapse.bias.astype(np.int64) * factors[link.target]
                )
        if len(self._shape(d)) == 1:
            weight = self._dense(d, into, starts_in, starts_out, factors, threshold)
            return Linear(weight, bias.astype(np.int32) if bias.any() else None)
        taps: dict[Pair, Array] = {}

        def tap(offset: Pair) -> Array:
            if offset not in taps:
                taps[offset] = np.zeros((width_out, sum(map(self._width, below.slots))), np.int64)
            return taps[offset]

        for link in into:
            out = starts_out[link.target, 0, 0]
            for offset, slot, weight, groups in self._taps(link, d):
                matrix = tap(offset)
                per_out, per_in = len(weight) // groups, weight.shape[1]
                for g in range(groups):
                    rows = slice(out + g * per_out, out + (g + 1) * per_out)
                    columns = slice(starts_in[slot] + g * per_in, starts_in[slot] + (g + 1) * per_in)
                    matrix[rows, columns] += (
                        weight[g * per_out : (g + 1) * per_out].astype(np.int64) * factors[link.target]
                    )
        for slot in level.slots[len(level.members) :]:
            source, offset = self._relay_source(slot, d)
            index = np.arange(self._width(slot))
            tap(offset)[starts_out[slot] + index, starts_in[source] + index] = threshold
        return self._convolution(d, taps, bias)

    def _dense(
        self, d: int, into: list[_Link], starts_in: dict[Slot, int], starts_out: dict[Slot, int],
        factors: dict[str, int], threshold: int,
    ) -> Array:  # fmt: skip
        level, below = self.levels[d], self.levels[d - 1]
        positions = math.prod(self._shape(d - 1)[1:])
        weight: Array = np.zeros(
            (sum(map(self._width, level.slots)), sum(map(self._width, below.slots)) * positions), np.int64
        )
        for link in into:
            rows = starts_out[link.target, 0, 0]
            for _, slot, tap, _ in self._taps(link, d):
                columns = starts_in[slot] * positions
                part = tap.astype(np.int64) * factors[link.target]
                weight[rows : rows + part.shape[0], columns : columns + part.shape[1]] += part
        for slot in level.slots[len(level.members) :]:
            if threshold > DENSE_WEIGHTS[1]:
                raise DeployError(
                    f"{slot[0]}: its spikes skip the dense layer {level.members[0]}, whose threshold {threshold} is more than a "
                    "dense weight can hold ({DENSE_WEIGHTS[1]}); quantize with fewer bits"
                )
            index = np.arange(self._width(slot))
            weight[starts_out[slot] + index, starts_in[slot] + index] = threshold
        return weight.astype(np.int32)

    def _starts(self, slots: list[Slot]) -> dict[Slot, int]:
        ends = itertools.accumulate(map(self._width, slots), initial=0)
        return dict(zip(slots, ends, strict=False))

    def _convolution(self, d: int, taps: dict[Pair, Array], bias: Array) -> Conv2d:
        """Taps at offsets around each position as one kernel whose padding and size give the level's shape."""
        level = self.levels[d]
        height = [
            self._axis(d, axis, [offset[axis] for offset in taps]) for axis in (0, 1)
        ]  # (kernel, padding) per axis
        kernel, padding = (height[0][0], height[1][0]), (height[0][1], height[1][1])
        first = next(iter(taps.values()))
        weight: Array = np.zeros((*first.shape, *kernel), np.int32)
        for (y, x), matrix in taps.items():
            weight[:, :, y + padding[0], x + padding[1]] = matrix
        return Conv2d(weight, bias.astype(np.int32) if bias.any() else None, level.stride, padding)

    def _axis(self, d: int, axis: int, offsets: list[int]) -> tuple[int, int]:
        size, wanted = self._shape(d - 1)[1 + axis], self._shape(d)[1 + axis]
        stride = self.levels[d].stride[axis]
        least = max(0, -min(offsets))
        for padding in range(least, least + stride + 1):
            for kernel in range(max(offsets) + padding + 1, max(offsets) + padding + 1 + stride):
                if window_positions(size, kernel, stride, padding) == wanted:
                    return kernel, padding
        raise DeployError(
            f"{self.levels[d].members[0]}: no common kernel gives its size {wanted} from {size} with stride {stride} beside its relays"
        )
