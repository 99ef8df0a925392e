"""Spikes find the cores that they are sent to by axons, which a layer's cores take at either end.

The rules are those of NxTF's partitioner (Rueckauer et al. 2022; its public source is cited in Loihi 1's target file). Input axons:
one for each source that feeds several cores (discrete), one for all those of a line that feed this core only (a population).
Output axons: one entry for each core a discrete source feeds, `population_entries` for each population. On a chip without
populations every source is discrete.

One thing is an inference: where discrete axons do not fit, as for more than 4096 sources on Loihi 1, a line stays one population on
all the cores it feeds, `population_entries` for each; NxTF refuses such a layer, nengo-loihi maps so. The extra entry of a spike
that leaves the chip is not counted.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from exporters.graph import Array, Shape
from hardware.chips.blocks import Block, Span, as_grid
from hardware.chips.limits import Target
from hardware.chips.projection import Connections, Projection, Window, windows

Axons = Literal["discrete", "population"]


@dataclass(frozen=True, eq=False)
class Stack:
    """A stack is the blocks of a layer with the same rows and columns and different channels, and the sources that
    reach each.

    Attributes:
        members: (blocks,) their numbers among the layer's blocks.
        rows, columns: the source rows and columns that lead into them.
        full: (blocks, I) bool: source channels with all synapses into a block that the geometry allows.
        plane: (row kinds, column kinds) bool: which sources of such a channel reach the block.
        block, source: (pairs,) block (counted among `members`) and channel of the other channels with a synapse.
        some: (row kinds, column kinds, pairs) bool: which sources of these reach the block.
    """

    members: Array
    rows: Window
    columns: Window
    full: Array
    plane: Array
    block: Array
    source: Array
    some: Array

    @property
    def window(self) -> tuple[slice, slice, slice]:
        """This indexes an array of the source's shape."""
        return slice(None), slice(*self.rows.sources), slice(*self.columns.sources)

    def in_place(self, of_kinds: Array) -> Array:
        """What is known of kinds, (row kinds, column kinds, …), is told for every source of the window: (…, rows,
        columns)."""
        in_place = of_kinds[self.rows.kind_of[:, None], self.columns.kind_of]
        return np.ascontiguousarray(np.moveaxis(in_place, (0, 1), (-2, -1)))

    def sources(self) -> Array:
        """Each block is reached by so many sources: (blocks,)."""
        each = np.outer(self.rows.counts, self.columns.counts).astype(np.float64)
        return self._per_block(int((self.plane * each).sum()), np.tensordot(each, self.some))

    def lines(self) -> Array:
        """Each block is reached from so many lines: (blocks,)."""
        full = int(self.plane.any(axis=0) @ self.columns.counts)
        return self._per_block(full, self.columns.counts @ self.some.any(axis=0))

    def _per_block(self, of_full: int, of_pairs: Array) -> Array:
        total = np.bincount(self.block, of_pairs, len(self.members)).astype(np.int64)  # in float64, exact below 2⁵³
        return np.asarray(total + of_full * self.full.sum(axis=1))

    def feeds(self) -> Array:
        """Each source of the window reaches so many of the blocks: (I, rows, columns)."""
        total = self.plane[:, :, None] * self.full.sum(axis=0)
        for kind in np.ndindex(self.plane.shape):
            total[kind] += np.bincount(self.source[self.some[kind]], minlength=total.shape[2])
        return self.in_place(total)

    def alone(self, feeds: Array) -> tuple[Array, Array]:
        """Some sources reach a block and, of all the layer's, no other: how many, and from how many lines, is (blocks,)
        each.

        `feeds` (I, H, W) is how many blocks of the layer each source reaches.
        """
        lonely = feeds[self.window] == 1
        # where two blocks have all of a channel, none is alone there
        once = lonely.any(axis=(1, 2)) & (self.full.sum(axis=0) == 1)
        block, source = np.nonzero(self.full & once)
        pairs = lonely[self.source].any(axis=(1, 2))
        found = np.concatenate(
            [
                lonely[source] & self.in_place(self.plane),
                lonely[self.source[pairs]] & self.in_place(self.some[:, :, pairs]),
            ]
        )
        owner = np.concatenate([block, self.block[pairs]])
        return (
            _sums(owner, found.sum(axis=(1, 2)), len(self.members)),
            _sums(owner, found.any(axis=1).sum(axis=1), len(self.members)),
        )


def stacks(projection: Projection, parts: Sequence[Block]) -> list[Stack]:
    """The blocks of a layer are stacked, with the sources that reach them."""
    by_place: dict[tuple[object, object], list[int]] = defaultdict(list)
    for number, block in enumerate(parts):
        by_place[block.rows, block.columns].append(number)
    # stacks that differ by a shift only, most of a layer's, are reached alike
    known: dict[object, tuple[Array, ...]] = {}
    found = []
    for members in by_place.values():
        rows, columns = windows(projection, parts[members[0]])
        spans = tuple(parts[number].channels for number in members)
        if (key := (spans, rows.key, columns.key)) not in known:
            known[key] = _reaching([*projection.connections(spans, rows, columns)])
        full, of_block, source, some = known[key]
        plane = np.outer(rows.kinds.any(axis=1), columns.kinds.any(axis=1))
        found.append(Stack(np.array(members), rows, columns, full, plane, of_block, source, some))
    return found


def _reaching(connections: Sequence[Connections]) -> tuple[Array, ...]:
    return (
        np.concatenate([part.full for part in connections]),
        np.concatenate([part.first + part.block for part in connections]),
        np.concatenate([part.source for part in connections]),
        np.concatenate([part.synapses > 0 for part in connections], axis=2),
    )


def feeds(projection: Projection, stacked: Sequence[Stack]) -> Array:
    """Each source reaches so many blocks: (I, H, W)."""
    total = np.zeros(projection.source, np.int64)
    for stack in stacked:
        total[stack.window] += stack.feeds()
    return total


def input_axons(
    target: Target, projection: Projection, parts: Sequence[Block], stacked: Sequence[Stack], axons: Axons
) -> list[int]:
    """The cores that hold the blocks of a layer take so many input axons; `stacked` is `stacks` of these blocks."""
    total: Array = np.zeros(len(parts), np.int64)
    is_mixed = axons == "discrete" and target.has_populations and not projection.loops
    reached = feeds(projection, stacked) if is_mixed else None
    for stack in stacked:
        if axons == "population":
            total[stack.members] = stack.lines()
            continue
        total[stack.members] = stack.sources()
        if reached is not None:
            alone, lines = stack.alone(reached)
            total[stack.members] += lines - alone
    if projection.loops:  # one for each neuron's way back to itself
        total += [block.neurons for block in parts]
    return [int(count) for count in total]


@dataclass(frozen=True, eq=False)
class FanOut:
    """The spikes of a layer go to these cores.

    Attributes:
        kind: (neurons,) the kind of each: neurons that feed the same cores are alike, and of most layers few differ.
        bits: (kinds, bytes) uint8: the cores of the next layer that listen to each kind. Core k is bit k % 8 of
            byte k // 8; the bytes are a multiple of 8.
        cores: of the next layer.
        feeds: (C, H, W): how many cores each neuron feeds.
        lines: (C, H, W): the line that each neuron belongs to.
        axons: how they are addressed.
    """

    kind: Array
    bits: Array
    cores: int
    feeds: Array
    lines: Array
    axons: Axons

    def entries(self, target: Target, parts: Sequence[Block], *, loops: bool) -> Array:
        """The cores that hold these blocks, of which no two overlap, take so many output axon entries: (len(parts),).

        `loops`: the neurons lead back to themselves, which takes one entry each, and populations are not made of them.
        """
        spans = np.array([(block.channels, block.rows, block.columns) for block in parts])
        if loops:
            return np.asarray(_in_boxes(self._feeds_before, spans) + np.array([block.neurons for block in parts]))
        if not target.has_populations:
            return _in_boxes(self._feeds_before, spans)
        entries: Array = target["population_entries"] * self._pairs(parts, spans)
        return entries if self.axons == "population" else entries + _in_boxes(self._discrete_before, spans)

    def _pairs(self, parts: Sequence[Block], spans: Array) -> Array:
        """So many pairs of a line and a core that its population reaches are there in each block."""
        if not self._lines_are_columns:
            return self._pairs_of_any_lines(parts)
        found = np.zeros(len(spans), np.int64)
        for rows in {block.rows for block in parts}:
            if rows not in self._pairs_before:
                together = np.bitwise_or.reduce(self._shared(rows), axis=1)
                self._pairs_before[rows] = _before(np.bitwise_count(together).sum(axis=-1, dtype=np.int64))
            here = (spans[:, 1] == rows).all(axis=1)
            found[here] = _in_boxes(self._pairs_before[rows], spans[here][:, [0, 2]])
        return found

    def _pairs_of_any_lines(self, parts: Sequence[Block]) -> Array:
        senders = np.concatenate([self._numbers[block.slices].ravel() for block in parts])
        block_of = np.repeat(np.arange(len(parts)), [block.neurons for block in parts])
        reached = self.feeds.ravel()[senders]
        shared = reached > 0 if self.axons == "population" else reached == 1
        senders, block_of = senders[shared], block_of[shared]
        if not len(senders):
            return np.zeros(len(parts), np.int64)
        # the neurons of one line in one block share their populations; those that are alike add nothing to one another
        lines = int(self.lines.max()) + 1
        kinds = len(self.bits)
        population, of_kind = np.divmod(
            np.unique((block_of * lines + self.lines.ravel()[senders]) * kinds + self.kind[senders]), kinds
        )
        starts = np.flatnonzero(np.diff(population, prepend=-1))
        together = np.bitwise_or.reduceat(self.bits.view(np.uint64)[of_kind], starts, axis=0)
        pairs = np.bitwise_count(together).sum(axis=1, dtype=np.int64)
        return _sums(population[starts] // lines, pairs, len(parts))

    def messages(self, block: Block) -> Array:
        """Each core of the next layer listens to so many of a block's neurons: (cores,)."""
        count = np.bincount(self.kind[self._numbers[block.slices].ravel()])
        present = np.flatnonzero(count)
        return np.asarray(count[present] @ self._of(self.bits[present]).astype(np.int64))

    def listeners(self, block: Block) -> Array:
        """Which cores of the next layer listen to any of a block's neurons: (cores,) bool."""
        present = np.unique(self.kind[self._numbers[block.slices].ravel()])
        return np.asarray(self._of(np.bitwise_or.reduce(self.bits[present], axis=0, keepdims=True))[0])

    @property
    def listens(self) -> Array:
        """Which cores of the next layer listen to each kind: (kinds, cores) bool."""
        return self._of(self.bits)

    def _of(self, bits: Array) -> Array:
        """Which cores these rows of bits stand for: (rows, cores) bool."""
        return np.unpackbits(bits, axis=1, count=self.cores, bitorder="little").view(bool)

    @cached_property
    def _numbers(self) -> Array:
        return np.arange(self.feeds.size).reshape(self.feeds.shape)

    @cached_property
    def _lines_are_columns(self) -> bool:
        """Whether a line is a column of a channel, as it is where a convolution reads the layer."""
        channels, _, width = self.feeds.shape
        column = np.arange(channels * width).reshape(channels, 1, width)
        return bool((self.lines == column).all())

    def _shared(self, rows: Span) -> Array:
        """The bits of these rows' neurons in words, (C, rows, W, words), 0 for those that share no axon with others of their line."""
        kinds, feeds = (values.reshape(self.feeds.shape)[:, slice(*rows)] for values in (self.kind, self.feeds))
        words = self.bits.view(np.uint64)[kinds]
        return words if self.axons == "population" else words * (feeds == 1)[..., None]

    # sums up to each place are cut differently over and over as a layer is placed
    @cached_property
    def _feeds_before(self) -> Array:
        return _before(self.feeds)

    @cached_property
    def _discrete_before(self) -> Array:
        return _before(np.where(self.feeds == 1, 0, self.feeds))

    @cached_property
    def _pairs_before(self) -> dict[Span, Array]:
        """For ranges of rows that were asked for."""
        return {}


def alike(bits: Array) -> tuple[Array, Array]:
    """Rows (neurons, bytes) uint8 that are equal are of one kind: (neurons,) the kind of each, and the kinds' rows (kinds, bytes); the
    bytes are a multiple of 8."""
    words = bits.view(np.uint64)
    factors = np.random.default_rng(0).integers(1, 2**63, (4, words.shape[1]), np.uint64) * np.uint64(2) + np.uint64(1)
    # 16 bits at a time: the highest of 64 would leave of any odd factor but one bit, alike for all words
    lanes = [(words >> np.uint64(16 * lane)) & np.uint64(0xFFFF) for lane in range(4)]
    sums = sum((part @ by for part, by in zip(lanes, factors, strict=True)), np.zeros(len(words), np.uint64))
    different = np.unique(sums)
    kind = np.searchsorted(different, sums)  # there are few kinds, so that this is faster than to sort all
    first = np.empty(len(different), np.int64)
    first[kind[::-1]] = np.arange(len(sums))[::-1]
    if not np.array_equal(bits[first][kind], bits):  # two kinds have the same sum
        _, first, kind = np.unique(bits, axis=0, return_index=True, return_inverse=True)
    return kind.ravel(), bits[first]


def fan_out(projection: Projection, parts: Sequence[Block], axons: Axons, shape: Shape, first: int = 0) -> FanOut:
    """A layer of this shape sends its spikes to the blocks of the next layer, `parts`; its neurons are those of the source
    from `first` on, in C order."""
    channels, _, width = projection.source
    bits = np.zeros((*projection.source, 8 * -(-len(parts) // 64)), np.uint8)
    stacked = stacks(projection, parts)
    for stack in stacked:
        plane, some = stack.in_place(stack.plane), stack.in_place(stack.some)
        pair = np.searchsorted(stack.block, np.arange(len(stack.members) + 1))
        listens = np.zeros((channels, 8 * bits.shape[-1]), bool)
        listens[:, stack.members] = stack.full.T
        in_bytes = np.packbits(listens, axis=1, bitorder="little")
        used = slice(stack.members.min() // 8, stack.members.max() // 8 + 1)
        bits[(*stack.window, used)] |= np.where(plane[..., None], in_bytes[:, None, None, used], np.uint8(0))
        for k, core in enumerate(stack.members):
            pairs = slice(pair[k], pair[k + 1])
            listening = bits[(*stack.window, core // 8)]
            listening[stack.source[pairs]] |= some[pairs] * np.uint8(1 << core % 8)
    line = np.broadcast_to(np.arange(channels)[:, None, None] * width + np.arange(width), projection.source)
    # a flat source was wrapped into lines and padded
    own, grid = slice(first, first + math.prod(shape)), as_grid(shape)
    reached, lines = (values.ravel()[own].reshape(grid) for values in (feeds(projection, stacked), line))
    return FanOut(*alike(bits.reshape(-1, bits.shape[-1])[own]), len(parts), reached, lines, axons)


def silent(shape: Shape) -> FanOut:
    """The last layer, which only the host reads, sends its spikes to no core."""
    grid = as_grid(shape)
    nothing = np.zeros(grid, np.int64)
    return FanOut(np.zeros(math.prod(grid), np.int64), np.zeros((1, 0), np.uint8), 0, nothing, nothing, "discrete")


def _sums(index: Array, values: Array, size: int) -> Array:
    """Integer values that have the same index, 0…size - 1, are added up."""
    return np.asarray(np.bincount(index, values, size).astype(np.int64))  # in float64, exact below 2⁵³


def _before(values: Array) -> Array:
    """Integers add up to each place along all axes, from 0 on: every axis becomes one longer."""
    sums: Array = np.zeros([size + 1 for size in values.shape], np.int64)
    inside = sums[(slice(1, None),) * values.ndim]
    inside[...] = values
    for axis in range(values.ndim):
        np.cumsum(inside, axis=axis, out=inside)
    return sums


def _in_boxes(before: Array, spans: Array) -> Array:
    """What `_before` added up lies in each box (boxes, axes, 2) so many times: (boxes,)."""
    total = np.zeros(len(spans), np.int64)
    for corner in itertools.product((0, 1), repeat=before.ndim):
        sign = (-1) ** (before.ndim - sum(corner))
        total += sign * before[tuple(spans[:, axis, side] for axis, side in enumerate(corner))]
    return total
