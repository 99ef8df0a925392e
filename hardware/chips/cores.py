"""What a block of a layer takes on one neurocore: compartments, synaptic memory, axons.

Every layer is seen as a convolution from a source grid (I, H, W) to its own grid (O, H', W'); a dense
layer is one whose kernel covers its whole source. A *block* is a box of a layer's grid, on one core.

Loihi 1 ("lines"): the rules of NxTF's partitioner (Rueckauer et al. 2022; its public source is cited in
the target file).

* One spike finds its synapses on a core in a *list* of 64-bit words: entries of up to 60 synapses, each
  with a prefix of 10 bits. Sparse entries spend index bits on every synapse, dense entries once per
  entry, but hold zeros too; the shorter of the two is taken. A list is one word longer where its last
  word is full or has fewer than 6 bits left.
* The sources of a *line* (one channel, one image column) share the length of the longest list. Lines
  whose lists are equal but for a shift of the compartments are stored once: this is the weight sharing
  of convolutions. A dense layer has nothing to share.
* Input axons: one for each source that feeds several cores (discrete), one for all those of a line
  that feed this core only (a population). Output axons: one entry for each core a discrete source
  feeds, two for each population.

Two things differ from NxTF and are inferences. Compartments are numbered channel by channel within a
position, so that dense entries run over channels. And where discrete axons do not fit, as for more
than 4096 sources, a line stays one population on all the cores it feeds, two entries for each; NxTF
refuses such a layer, nengo-loihi maps so. The extra entry of a spike that leaves the chip, and NxTF's
interleaving of compartments (the way around a bug of its SDK), are not counted.

Loihi 2 ("kernel"): no compiler is public. Neuron state and the kernel's non-zero weights, once per core,
share the core's memory; axons are not counted. That is a lower bound (inference).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np

from exporters.graph import Array, Conv2d, Shape, Synapse
from exporters.passes.kernels import merge_groups
from hardware.chips.limits import Target

WORD = 64
_SMALL_KERNEL = 128
"""Taps; the larger kernels are those of dense layers, whose taps are their sources."""
Span = tuple[int, int]
Axons = Literal["discrete", "population"]


@dataclass(frozen=True)
class Block:
    """A box of a layer's grid: half-open ranges of channels, rows and columns."""

    channels: Span
    rows: Span
    columns: Span

    @property
    def neurons(self) -> int:
        """How many neurons it holds."""
        return math.prod(b - a for a, b in (self.channels, self.rows, self.columns))

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """For indexing an array of the layer's shape."""
        return slice(*self.channels), slice(*self.rows), slice(*self.columns)


@dataclass(frozen=True)
class Usage:
    """What one core is used for, in the units of the target's limits.

    `memory`: 64-bit words of synaptic memory on Loihi 1, bytes of neuron state and synapses on Loihi 2.
    `longest`: words of the longest list, 0 where there are no lists.
    """

    neurons: int
    compartments: int
    memory: int
    longest: int
    input_axons: int
    output_axons: int


@dataclass(frozen=True, eq=False)
class Hop:
    """The synapses between two layers as a convolution's non-zero mask.

    Attributes:
        mask: (O, I, kH, kW) bool, groups expanded.
        grid: shape (O, H', W') of the layer.
        source: shape (I, H, W) of what feeds it; a flat source is wrapped into lines and padded.
        stride, padding, dilation: (y, x).
        weight_bits: stored bits per weight.
        soft: whether its neurons reset by subtraction.
        words: what `hardware.chips.resources` has found so far.
    """

    mask: Array
    grid: Shape
    source: Shape
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    weight_bits: int
    soft: bool
    _counts: dict[Span, Array] = field(default_factory=dict)
    _windows: dict[tuple[int, Span], Window] = field(default_factory=dict)
    words: dict[tuple[Span, int, bytes, bytes], tuple[int, int]] = field(default_factory=dict)

    @cached_property
    def _cumulated(self) -> Array:
        summed = np.zeros_like(self.mask, np.int32, shape=(len(self.mask) + 1, *self.mask.shape[1:]))  # laid out alike
        for channel, synapses in enumerate(self.mask):  # np.cumsum along the first axis is ten times slower
            np.add(summed[channel], synapses, out=summed[channel + 1])
        return summed

    def synapses_per_tap(self, channels: Span) -> Array:
        """(I, kH, kW): how many of these output channels a source reaches through each kernel tap."""
        if channels[1] - channels[0] == 1:  # without the sums over all
            return np.asarray(self.mask[channels[0]].astype(np.int32))
        if channels not in self._counts:
            self._counts[channels] = self._cumulated[channels[1]] - self._cumulated[channels[0]]
        return self._counts[channels]

    def window(self, axis: int, span: Span) -> Window:
        """The source rows (columns) that lead into a range of the layer's."""
        if (axis, span) not in self._windows:
            self._windows[axis, span] = _window(self._find_taps(axis, span))
        return self._windows[axis, span]

    def _find_taps(self, axis: int, span: Span) -> Array:
        """(source size, kernel size) bool: which taps lead from a source row (column) into a range of the layer's."""
        size, kernel = self.source[1 + axis], self.mask.shape[2 + axis]
        outputs = np.arange(*span)[:, None]
        index = outputs * self.stride[axis] - self.padding[axis] + np.arange(kernel) * self.dilation[axis]
        found: Array = np.zeros((size, kernel), bool)
        inside = (index >= 0) & (index < size)
        found[index[inside], np.broadcast_to(np.arange(kernel), index.shape)[inside]] = True
        return found

    def reached(self, parts: Sequence[Block]) -> list[Reach]:
        """The sources with at least one synapse into each block."""
        # blocks that differ by a shift only, most of a layer's, reach the same
        masks: dict[tuple[Span, bytes, bytes], Array] = {}
        found = []
        for block in parts:
            ys, xs = self.window(0, block.rows), self.window(1, block.columns)
            key = (block.channels, ys.key, xs.key)
            if key not in masks:
                open_taps = through(self.synapses_per_tap(block.channels) > 0, ys.taps, xs.taps)
                masks[key] = np.ascontiguousarray((open_taps > 0).transpose(2, 0, 1))
            found.append(Reach(ys.sources, xs.sources, masks[key]))
        return found


@dataclass(frozen=True, eq=False)
class Reach:
    """Sources that feed a core: half-open ranges of rows and columns, and which there: mask (I, rows, columns) bool."""

    rows: Span
    columns: Span
    mask: Array

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """For indexing an array of the source's shape."""
        return slice(None), slice(*self.rows), slice(*self.columns)


@dataclass(frozen=True, eq=False)
class Window:
    """Source rows (or columns) from the first to the last that lead into a range of the layer's.

    Attributes:
        sources: which, half-open.
        taps: (sources, kernel) bool: through which taps of the kernel.
        kinds: (kinds, kernel) the different ones of these; `counts`: how many sources are of each kind.
        key: bytes that are equal where `taps` are.
    """

    sources: Span
    taps: Array
    kinds: Array
    counts: Array
    key: bytes


def _window(taps: Array) -> Window:
    used = np.flatnonzero(taps.any(axis=1))
    first, end = (int(used[0]), int(used[-1]) + 1) if used.size else (0, 0)
    inside = taps[first:end]
    kinds, counts = np.unique(inside, axis=0, return_counts=True)
    return Window((first, end), inside, kinds, counts, inside.tobytes())


def hop(synapse: Synapse, source: Shape, grid: Shape, target: Target, *, soft: bool) -> Hop:
    """The synapses of a layer, ready to be counted. `source`: before any `Flatten`; `grid`: of the neurons."""
    mask = synapse.weight != 0
    bits = _weight_bits(synapse.weight)
    if isinstance(synapse, Conv2d):
        return Hop(
            merge_groups(mask, synapse.groups, 1),
            grid,
            source,
            synapse.stride,
            synapse.padding,
            synapse.dilation,
            bits,
            soft,
        )
    lines = target.get("population_size") or 1
    wrapped = wrapped_source(source, lines)
    padded: Array = np.zeros((len(mask), math.prod(wrapped)), bool)
    padded[:, : mask.shape[1]] = mask
    kernel = padded.reshape(len(mask), *wrapped)
    return Hop(kernel, (len(mask), 1, 1), wrapped, (1, 1), (0, 0), (1, 1), bits, soft)


def wrapped_source(source: Shape, longest: int) -> Shape:
    """The grid (I, H, W) in which a dense layer sees its source: lines as long as a population may be.

    A channel whose map fits is one line, else each of its columns is; a flat source is cut every
    `longest` neurons. C order is kept; what is beyond the source's size has no synapses.
    """
    if len(source) == 1:
        return (-(-source[0] // longest), min(longest, source[0]), 1)
    channels, height, width = source
    return (channels, height * width, 1) if height * width <= longest else source


def through(per_tap: Array, rows: Array, columns: Array) -> Array:
    """Sums over the taps that are open: (I, kH, kW), (Y, kH), (X, kW) → (Y, X, I)."""
    # float32 for the sake of BLAS; counts below 2²⁴ are exact in it
    taps, size = per_tap.astype(np.float32), (len(rows), len(columns), len(per_tap))
    if math.prod(taps.shape[1:]) <= _SMALL_KERNEL:  # one product instead of two for every channel
        shape = size[0] * size[1], math.prod(taps.shape[1:])
        both = (rows[:, None, :, None] & columns[:, None, :]).reshape(shape).astype(np.float32)
        return (both @ taps.reshape(len(taps), shape[1]).T).astype(np.int32).reshape(size)
    found = rows.astype(np.float32) @ (taps @ columns.T.astype(np.float32))
    return np.ascontiguousarray(found.astype(np.int32).transpose(1, 2, 0))


def input_axons(hop_: Hop, reached: Sequence[Reach], axons: Axons, parts: Sequence[Block]) -> list[int]:
    """Input axons of the cores that hold the blocks of a layer; `reached`: the sources that feed each."""
    if hop_.soft:  # discrete axons only, and one per neuron that leads back to it
        return [int(reach.mask.sum()) + block.neurons for reach, block in zip(reached, parts, strict=True)]
    if axons == "population":
        return [int(reach.mask.any(axis=1).sum()) for reach in reached]
    feeds = np.zeros(hop_.source, np.int32)  # how many cores each source feeds
    for reach in reached:
        feeds[reach.slices] += reach.mask
    found = []
    for reach in reached:
        alone = reach.mask & (feeds[reach.slices] == 1)
        found.append(int(alone.any(axis=1).sum()) + int(reach.mask.sum()) - int(alone.sum()))
    return found


@dataclass(frozen=True, eq=False)
class FanOut:
    """Where the spikes of a layer go.

    Attributes:
        bits: (neurons, bytes) uint8: the cores of the next layer that listen to each neuron. Core k is bit k % 8 of
            byte k // 8; the bytes are a multiple of 8.
        cores: of the next layer.
        feeds: (C, H, W): how many cores each neuron feeds.
        lines: (C, H, W): the line that each neuron belongs to.
        axons: how they are addressed.
    """

    bits: Array
    cores: int
    feeds: Array
    lines: Array
    axons: Axons

    def entries(self, target: Target, parts: Sequence[Block], *, soft: bool) -> Array:
        """Output axon entries of the cores that hold these blocks, (len(parts),); no two blocks overlap."""
        senders = np.concatenate([self._numbers[block.slices].ravel() for block in parts])
        block_of = np.repeat(np.arange(len(parts)), [block.neurons for block in parts])
        feeds = self.feeds.ravel()[senders]
        if soft:  # discrete axons only, and one per neuron that leads back to it
            return np.asarray(_sums(block_of, feeds, len(parts)) + np.array([block.neurons for block in parts]))
        shared = feeds > 0 if self.axons == "population" else feeds == 1
        discrete = _sums(block_of[~shared], feeds[~shared], len(parts))
        senders, block_of = senders[shared], block_of[shared]
        if not len(senders):
            return discrete
        # the neurons of one line in one block share their populations
        population = block_of * (int(self.lines.max()) + 1) + self.lines.ravel()[senders]
        order = np.argsort(population, kind="stable")
        starts = np.flatnonzero(np.diff(population[order], prepend=-1))
        together = np.bitwise_or.reduceat(self.bits.view(np.uint64)[senders[order]], starts, axis=0)
        pairs = np.bitwise_count(together).sum(axis=1, dtype=np.int64)
        return np.asarray(discrete + target["population_entries"] * _sums(block_of[order][starts], pairs, len(parts)))

    def messages(self, block: Block) -> Array:
        """(cores,): how many of a block's neurons each core of the next layer listens to."""
        listeners = self.bits[self._numbers[block.slices].ravel()]
        each = np.unpackbits(listeners, axis=1, count=self.cores, bitorder="little")
        return np.asarray(each.sum(axis=0, dtype=np.int64))

    @cached_property
    def _numbers(self) -> Array:
        return np.arange(self.feeds.size).reshape(self.feeds.shape)


def _sums(index: Array, values: Array, size: int) -> Array:
    """Sums of the integer values that have the same index, 0…size - 1."""
    return np.asarray(np.bincount(index, values, size).astype(np.int64))  # in float64, exact below 2⁵³


def fan_out(hop_: Hop, parts: Sequence[Block], axons: Axons, shape: Shape) -> FanOut:
    """Where a layer of a shape sends its spikes, given the blocks of the next layer."""
    channels, _, width = hop_.source
    bits = np.zeros((*hop_.source, 8 * -(-len(parts) // 64)), np.uint8)
    feeds = np.zeros(hop_.source, np.int64)
    for core, reach in enumerate(hop_.reached(parts)):
        bits[(*reach.slices, core // 8)] |= reach.mask.view(np.uint8) << np.uint8(core % 8)
        feeds[reach.slices] += reach.mask
    line = np.broadcast_to(np.arange(channels)[:, None, None] * width + np.arange(width), hop_.source)
    # a flat source was wrapped into lines and padded
    size, grid = math.prod(shape), as_grid(shape)
    feeds, lines = (values.ravel()[:size].reshape(grid) for values in (feeds, line))
    return FanOut(bits.reshape(-1, bits.shape[-1])[:size], len(parts), feeds, lines, axons)


def silent(shape: Shape) -> FanOut:
    """The fan-out of the last layer, which only the host reads."""
    grid = as_grid(shape)
    nothing = np.zeros(grid, np.int64)
    return FanOut(np.zeros((math.prod(grid), 0), np.uint8), 0, nothing, nothing, "discrete")


def as_grid(shape: Shape) -> Shape:
    """(C, H, W) as it is, (F,) as (F, 1, 1)."""
    return shape if len(shape) == 3 else (shape[0], 1, 1)


def cut(size: int, step: int) -> list[Span]:
    """0…size in pieces of `step`, the last one shorter."""
    return [(start, min(start + step, size)) for start in range(0, size, step)]


def blocks(grid: Shape, step: Shape) -> list[Block]:
    """The blocks of a grid cut into boxes of a size, channels slowest."""
    cuts: Sequence[list[Span]] = [cut(n, s) for n, s in zip(grid, step, strict=True)]
    return [Block(c, y, x) for c in cuts[0] for y in cuts[1] for x in cuts[2]]


def from_one_to_all(grid: Shape, step: Shape) -> Iterator[list[Block]]:
    """One of `blocks(grid, step)`, then one for each range of channels, then all: what is wrong with most shows early."""
    channels, *across = (cut(n, s) for n, s in zip(grid, step, strict=True))
    y, x = (spans[len(spans) // 2] for spans in across)
    middle = [Block(c, y, x) for c in channels]
    yield [middle[len(middle) // 2]]
    yield middle
    yield blocks(grid, step)


def _weight_bits(weight: Array) -> int:
    """Bits to store a weight: sign included where both signs occur, a common power of two left to the exponent."""
    lowest, highest = int(weight.min(initial=0)), int(weight.max(initial=0))
    if not lowest and not highest:
        return 1
    common = int(np.bitwise_or.reduce(np.abs(weight), axis=None))
    shift = (common & -common).bit_length() - 1
    return int(max(-lowest, highest) >> shift).bit_length() + (lowest < 0 < highest)
