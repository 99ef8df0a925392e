"""Residual networks become plain chains: what skips layers is relayed through them.

On Lava a spike takes one time step per layer of neurons, so a skip connection must wait while the main
path computes. Relay neurons do that: a synapse of weight V into a threshold of V repeats the spike one
step later. All neuron layers of one depth, and the relays that pass through it, become one layer of the
chain: their channels side by side, their kernels placed into one common kernel. Where the main path
strides, a relay takes the positions that will be read (and keeps several of them in several channels).

The neurons of one Loihi layer share one threshold. Layers side by side with thresholds V₁, V₂ get
integer factors k₁, k₂ on their weights and a common V with kᵢ(Vᵢ − 1) < V ≤ kᵢVᵢ; then kᵢA ≥ V ⇔ A ≥ Vᵢ. Where
they reset by subtraction, what is left must be kᵢ times as much too: V = kᵢVᵢ. Membranes that start elsewhere than
at 0 start kᵢ times there. A relay among them starts there too: between 0 and V it is silent, and V more makes it fire
all the same; below 0 it would not.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from exporters.errors import DeployError
from exporters.graph import (
    IF,
    LIF,
    AnyNeuron,
    AnySynapse,
    Array,
    Conv2d,
    Flatten,
    Linear,
    Neuron,
    Node,
    Output,
    Pair,
    SpikingGraph,
    chain,
    layer_names,
    unique_name,
)
from exporters.graph.bounds import signed_bounds
from exporters.graph.editing import over_positions
from exporters.graph.registers import BIAS_LIMIT, CURRENT_LIMIT, DENSE_WEIGHTS, THRESHOLD_LIMIT
from exporters.memory import available
from exporters.passes.levels import Level, Levels, Link, Slot, depths_of, leaks, links_of
from exporters.passes.membranes import resets_by_subtraction

BESIDE_RELAYS = ".relayed"
"""So end the names of neurons that stand side by side with relays."""


def straighten(graph: SpikingGraph) -> SpikingGraph:
    """An integer graph of synapses and neurons (no pools) becomes one chain, spike for spike.

    Where a neuron layer ends up in the chain stands in `metadata["members"]`: layer → [chain layer, first
    channel, end]. A chain comes back as it is.

    Raises:
        DeployError: a skip that no relay can carry (of the analog input, or around dense layers with large
            thresholds), layers side by side that differ in stride, or thresholds that no
            common threshold can stand for.
    """
    links = links_of(graph)
    depth = depths_of(graph, links)
    if _is_chain(graph):
        return graph
    return _chained(Levels(graph, links, depth), layer_names(graph))


def _is_chain(graph: SpikingGraph) -> bool:
    return all(len(graph.sources(n)) <= 1 and len(graph.targets(n)) <= 1 for n in graph.nodes)


def _chained(plan: Levels, names: Mapping[str, str]) -> SpikingGraph:
    """The levels come one after the other, each under the name that its first members' layer has in the graph."""
    _require_room(plan, available())
    graph = plan.graph
    nodes: list[tuple[str, Node]] = [(graph.input_name, graph.input)]
    members: dict[str, list[Any]] = {}
    for d in range(1, plan.top + 1):
        level = plan.levels[d]
        factors, threshold = _common_threshold(plan, level)
        synapse = _synapse_into(plan, d, factors, threshold)
        main = level.members[0]
        alone = len(level.slots) == 1
        called = names.get(main) or plan.links_to(main)[-1].name  # a membrane read-out has no neurons
        name = unique_name(called, {main, *(other for other, _ in nodes)})
        if isinstance(synapse, Linear) and len(plan.shape(d - 1)) == 3:
            nodes.append((f"{name}.flat", Flatten()))
        nodes.append((name, synapse))
        node = graph.nodes[main]
        if isinstance(node, Output):
            nodes.append((main, node))
            break
        assert isinstance(node, IF | LIF)
        if level.relays and node.start < 0:
            raise DeployError(
                f"{main}: its membranes start at {node.start:g}, below 0, and spikes of {level.relays[0][0]} are relayed beside "
                "them, which would miss the first; start them at 0 or above"
            )
        neurons = main if alone else f"{main}{BESIDE_RELAYS}"
        nodes.append((neurons, _multiplied(node, factors[main], threshold)))
        for slot, start in _starts(plan, level.slots).items():
            if slot[0] in level.members:
                members[slot[0]] = [neurons, start, start + plan.width(slot)]
    else:
        (last,) = graph.sources(graph.output_name)
        nodes += [(last, Flatten())] if isinstance(graph.nodes[last], Flatten) else []
        nodes.append((graph.output_name, graph.output))
    return chain(nodes, graph.T, metadata={**graph.metadata, "members": members})


def _multiplied(node: AnyNeuron, factor: int, threshold: int) -> AnyNeuron:
    """Neurons behind weights that are `factor` times as large."""
    return replace(node, threshold=threshold, scale=node.scale * factor, start=node.start * factor)


def _starts(plan: Levels, slots: Sequence[Slot]) -> dict[Slot, int]:
    """Each slot starts at this channel."""
    ends = itertools.accumulate(map(plan.width, slots), initial=0)
    return dict(zip(slots, ends, strict=False))


# -- memory ------------------------------------------------------------------------------------------

ROOM = 1.4
"""So many times the bytes of all its weights a chain takes, with what a layer is made of and held against."""


def _require_room(plan: Levels, room: int | None) -> None:
    """A chain that this machine cannot hold is refused before anything of it is made.

    Relays make layers wide: one that carries C channels past others has C more inputs and outputs, with weights from each to each.

    Raises:
        DeployError: it would take more than `room` bytes; names the layers that take most, and what works all the same.
    """
    merged = {plan.levels[d].members[0]: _bytes(plan, d) for d in range(1, plan.top + 1)}
    needed = round(ROOM * sum(merged.values()))
    if room is None or needed <= room:
        return
    largest = sorted(merged, key=merged.__getitem__, reverse=True)[:3]
    listed = ", ".join(f"{name} ({merged[name] / 1e6:,.0f} MB)" for name in largest)
    raise DeployError(
        f"{largest[0]}: the layers of a chain relay what skips them, and all of this network's take {needed / 1e6:,.0f} MB, of which "
        f"{room / 1e6:,.0f} MB are free, the widest those beside {listed}; ONNX and NIR need no chain, or use a machine with more memory"
    )


def _bytes(plan: Levels, d: int) -> int:
    """The weights from level d − 1 to level d, merged, take so many bytes; none where there is nothing to merge."""
    into, widths = _into(plan, d), _width(plan, d) * _width(plan, d - 1)
    if _is_single(plan, d, into):
        return 0
    if len(plan.shape(d)) == 1:
        return widths * math.prod(plan.shape(d - 1)[1:]) * np.dtype(np.int32).itemsize
    blocks = _blocks(plan, d, into)
    kind = _kind(blocks, len(into), *_common_threshold(plan, plan.levels[d]))
    return widths * math.prod(_kernel(plan, d, blocks)[0]) * np.dtype(kind).itemsize


# -- thresholds --------------------------------------------------------------------------------------


def _common_threshold(plan: Levels, level: Level) -> tuple[dict[str, int], int]:
    """Factors multiply each member's weights, and then one threshold stands for all of theirs; it is 0 for a read-out."""
    nodes = {m: plan.graph.nodes[m] for m in level.members}
    thresholds = {m: round(n.threshold) for m, n in nodes.items() if isinstance(n, Neuron)}
    if len(thresholds) < len(nodes):  # the membrane read-out stands alone
        return dict.fromkeys(nodes, 1), 0
    main = level.members[0]
    listed = ", ".join(f"{m} {v}" for m, v in thresholds.items())
    soft = resets_by_subtraction(nodes[main])
    if leaks(nodes[main]) != (1.0, 0.0) and len(set(thresholds.values())) > 1:
        raise DeployError(
            f"{main}: leaky neurons run side by side with different thresholds ({listed}); Loihi truncates leaks, so no "
            "factor makes them alike; give them one threshold"
        )
    rooms = {m: _room(plan, m) for m in thresholds}
    for common in range(max(thresholds.values()), THRESHOLD_LIMIT + 1):
        factors = {m: -(-common // v) for m, v in thresholds.items()}
        if not all(rooms[m].holds(factor, common) for m, factor in factors.items()):
            break  # neither will larger ones
        slack = {m: factors[m] * v - common for m, v in thresholds.items()}
        if all(left == 0 if soft else left < factors[m] for m, left in slack.items()):
            return factors, common
    raise DeployError(f"no threshold can stand for those of layers of one depth ({listed}); quantize with fewer bits")


@dataclass(frozen=True)
class Room:
    """The room of a neuron layer is what its registers must hold, in units of its weights, of which a factor makes more.

    Attributes:
        above: the largest current of a step, bias included; of all steps where a spike leaves what is above the threshold.
        below: the most negative sum of all steps' currents and of where the membrane starts, its amount.
        bias: the largest amount of a bias.
    """

    above: float
    below: float
    bias: float

    def holds(self, factor: int, common: int) -> bool:
        """The registers hold all times `factor`, in every step: the neurons do not leak, so that what stays in a
        membrane is below the threshold `common`, or all that was negative."""
        if factor == 1:
            return True
        fits = common + factor * self.above <= CURRENT_LIMIT and factor * self.below <= CURRENT_LIMIT
        return fits and factor * self.bias <= BIAS_LIMIT


def _room(plan: Levels, member: str) -> Room:
    graph, into = plan.graph, plan.links_to(member)
    scale = float(graph.input.scale or 1)
    sums = [signed_bounds(link.synapse, scale if link.source == graph.input_name else 1.0) for link in into]
    above, below = (float(np.sum([one[sign] for one in sums], axis=0).max()) for sign in (0, 1))
    bias = sum(float(np.abs(link.synapse.bias).max()) for link in into if link.synapse.bias is not None)
    node = graph.nodes[member]
    sunk = max(0.0, -node.start) if isinstance(node, Neuron) else 0.0
    return Room(above * graph.T if resets_by_subtraction(node) else above, below * graph.T + sunk, bias)


# -- synapses ----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class WeightBlock:
    """A block is weights (rows, columns) between two levels, and where they stand.

    Attributes:
        offset: (y, x) around each position of the level below.
        row, column: the first channel of the upper level, and of the lower one.
        weight: before any factor.
        target: the neuron layer whose factor it is.
    """

    offset: Pair
    row: int
    column: int
    weight: Array
    target: str


def _synapse_into(plan: Levels, d: int, factors: Mapping[str, int], threshold: int) -> AnySynapse:
    """One synapse layer leads from level d − 1 to level d."""
    into = _into(plan, d)
    if _is_single(plan, d, into):
        return into[0].synapse  # nothing to merge: keep groups and dilation as they are
    if len(plan.shape(d)) == 1:
        return Linear(_dense(plan, d, into, factors, threshold), _bias(plan, d, into, factors))
    return _convolution(plan, d, into, factors, threshold)


def _into(plan: Levels, d: int) -> list[Link]:
    return [link for link in plan.links if plan.depth[link.target] == d]


def _is_single(plan: Levels, d: int, into: Sequence[Link]) -> bool:
    return len(plan.levels[d].slots) == len(plan.levels[d - 1].slots) == len(into) == 1


def _bias(plan: Levels, d: int, into: Sequence[Link], factors: Mapping[str, int]) -> Array | None:
    """The biases of all members stand side by side, none for relays: they are a whole map if any of them is one."""
    level, shape = plan.levels[d], plan.shape(d)
    starts = _starts(plan, level.slots)
    biases = [(starts[link.target, 0, 0], link.synapse.bias, factors[link.target]) for link in into]
    is_map = any(b is not None and b.ndim > 1 for _, b, _ in biases)
    total: Array = np.zeros((sum(map(plan.width, level.slots)), *(shape[1:] if is_map else ())), np.int64)
    for start, bias, factor in biases:
        if bias is not None:
            total[start : start + len(bias)] += over_positions(bias.astype(np.int64), total.shape) * factor
    return total.astype(np.int32) if total.any() else None


def _blocks(plan: Levels, d: int, into: Sequence[Link]) -> list[WeightBlock]:
    """The weights of all connections into level d stand at these places, as they are: nothing is copied yet."""
    starts_in, starts_out = _starts(plan, plan.levels[d - 1].slots), _starts(plan, plan.levels[d].slots)
    found = []
    for link in into:
        row = starts_out[link.target, 0, 0]
        for tap in plan.taps(link, d):
            per_out, per_in = len(tap.weight) // tap.groups, tap.weight.shape[1]
            column = starts_in[tap.slot]
            found += [
                WeightBlock(tap.offset, row + g * per_out, column + g * per_in, weight, link.target)
                for g, weight in enumerate(np.split(tap.weight, tap.groups))
            ]
    return found


def _dense(plan: Levels, d: int, into: Sequence[Link], factors: Mapping[str, int], threshold: int) -> Array:
    """The weights (channels of level d, channels × positions of level d − 1) are those of all connections and relays."""
    level, below = plan.levels[d], plan.levels[d - 1]
    starts_in, starts_out = _starts(plan, below.slots), _starts(plan, level.slots)
    positions = math.prod(plan.shape(d - 1)[1:])
    weight: Array = np.zeros(
        (sum(map(plan.width, level.slots)), sum(map(plan.width, below.slots)) * positions), np.int32
    )
    for link in into:
        rows = starts_out[link.target, 0, 0]
        for tap in plan.taps(link, d):
            columns = starts_in[tap.slot] * positions
            part = _times(tap.weight, factors[link.target])
            weight[rows : rows + part.shape[0], columns : columns + part.shape[1]] += part
    for slot in level.relays:
        if threshold > DENSE_WEIGHTS[1]:
            raise DeployError(
                f"{slot[0]}: its spikes skip the dense layer {level.members[0]}, whose threshold {threshold} is more than a "
                f"dense weight can hold ({DENSE_WEIGHTS[1]}); quantize with fewer bits"
            )
        index = np.arange(plan.width(slot))
        weight[starts_out[slot] + index, starts_in[slot] + index] = threshold
    return weight


def _times(weight: Array, factor: int) -> Array:
    """Weights times a factor, in 32 bits: `Room` holds these products to 17."""
    return weight.astype(np.int32, copy=False) if factor == 1 else weight.astype(np.int32) * np.int32(factor)


def _convolution(plan: Levels, d: int, into: Sequence[Link], factors: Mapping[str, int], threshold: int) -> Conv2d:
    """Weights at offsets around each position, and those of relays, become one kernel, whose padding and size give the
    level's shape.

    A deep network's kernel has hundreds of millions of weights, nearly all of them 0: only the others are written, so that the
    system gives memory to few of its pages but those of the tap at which relays read.
    """
    level, below = plan.levels[d], plan.levels[d - 1]
    starts_in, starts_out = _starts(plan, below.slots), _starts(plan, level.slots)
    relays = [(slot, *plan.relay_source(slot, d)) for slot in level.relays]
    blocks = _blocks(plan, d, into)
    kernel, padding = _kernel(plan, d, blocks)
    kind = _kind(blocks, len(into), factors, threshold)
    # whole matrices side by side in memory, where single numbers nine apart would take ten times as long
    by_tap: Array = np.zeros((*kernel, _width(plan, d), _width(plan, d - 1)), kind)
    for block in blocks:
        rows, columns = block.weight.shape
        tap = by_tap[block.offset[0] + padding[0], block.offset[1] + padding[1]]
        part = tap[block.row : block.row + rows, block.column : block.column + columns]
        part += _times(block.weight, factors[block.target]).astype(kind)
    for slot, source, (y, x) in relays:
        index = np.arange(plan.width(slot))
        by_tap[y + padding[0], x + padding[1], starts_out[slot] + index, starts_in[source] + index] = threshold
    return Conv2d(by_tap.transpose(2, 3, 0, 1), _bias(plan, d, into, factors), level.stride, padding)


def _kernel(plan: Levels, d: int, blocks: Sequence[WeightBlock]) -> tuple[Pair, Pair]:
    """The kernel into level d has this size and padding."""
    offsets = {block.offset for block in blocks} | {plan.relay_source(slot, d)[1] for slot in plan.levels[d].relays}
    height, width = (_axis(plan, d, axis, [offset[axis] for offset in offsets]) for axis in (0, 1))
    return (height[0], width[0]), (height[1], width[1])


def _kind(
    blocks: Sequence[WeightBlock], connections: int, factors: Mapping[str, int], threshold: int
) -> type[np.int16 | np.int32]:
    """The weights of a merged convolution have this type: 16 bits where they suffice, also where connections add up."""
    amounts = [factors[b.target] * max(int(b.weight.max()), -int(b.weight.min())) for b in blocks]
    return np.int16 if max(threshold, connections * max(amounts, default=0)) < 2**15 else np.int32


def _width(plan: Levels, d: int) -> int:
    """All channels of a level, side by side."""
    return sum(map(plan.width, plan.levels[d].slots))


def _axis(plan: Levels, d: int, axis: int, offsets: Sequence[int]) -> Pair:
    """Along an axis the kernel has this size and padding: the least padding and then the smallest kernel that hold all
    offsets and give the level's size; taps that no offset needs are zeros."""
    size, wanted = plan.shape(d - 1)[1 + axis], plan.shape(d)[1 + axis]
    stride = plan.levels[d].stride[axis]
    reach = max(offsets) + 1
    padding = max(0, -min(offsets), reach + (wanted - 1) * stride - size)
    largest = size + 2 * padding - (wanted - 1) * stride  # one more would leave out the last position
    return max(reach + padding, largest - stride + 1), padding
