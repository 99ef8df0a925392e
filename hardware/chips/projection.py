"""The synapses between two layers are seen as a convolution from a source grid (I, H, W) to the layer's own grid (O,
H', W').

A dense layer is a convolution whose kernel covers its whole source. What is asked of a projection is always about blocks of its
grid: how many synapses each source has there. Two things make that fast. Sources that see a block through the same taps of the
kernel are of one *kind* and have the same number. And most sources have either all synapses that the geometry allows or none:
only the others are counted one by one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import assert_never

import numpy as np

from exporters.graph import AnySynapse, Array, Conv2d, Linear, Pair, Shape
from exporters.passes.kernels import merge_groups
from hardware.chips.blocks import Block, Span
from hardware.chips.limits import Target

AT_ONCE = 2**22
"""So many counts are held at a time (16 MB)."""


@dataclass(frozen=True, eq=False)
class Window:
    """A window is the source rows (or columns) from the first to the last that lead into a range of the layer's.

    Attributes:
        sources: which, half-open.
        taps: (sources, kernel) bool: through which taps of the kernel.
        kinds: (kinds, kernel) the different ones of these; `counts`: how many sources are of each kind.
        kind_of: (sources,) the kind of each.
        key: bytes that are equal where `taps` are.
    """

    sources: Span
    taps: Array
    kinds: Array
    counts: Array
    kind_of: Array
    key: bytes


@dataclass(frozen=True, eq=False)
class Connections:
    """The sources of one window reach blocks with the same rows and columns and different channels in this way.

    Attributes:
        first: index of the first block.
        full: (blocks, I) bool: source channels that have all synapses into the block that the geometry allows.
        block, source: (pairs,) the blocks, counted from `first`, and source channels that have some synapses, but not all.
        synapses: (row kinds, column kinds, pairs) of a source with the neurons of the block.
        taps: (row kinds, column kinds, pairs) how many taps of the kernel these synapses come through.
    """

    first: int
    full: Array
    block: Array
    source: Array
    synapses: Array
    taps: Array


@dataclass(frozen=True, eq=False)
class Projection:
    """A projection is the synapses of a layer.

    Attributes:
        mask: (kH, kW, O, I) bool: which exist, groups expanded; of the kernel the taps that lead from anywhere to anywhere.
        grid: shape (O, H', W') of the layer.
        source: shape (I, H, W) of what feeds it; a flat source is wrapped into lines and padded.
        stride, padding, dilation: (y, x); the padding is of the kernel that was cut.
        weight_bits: stored bits per weight, those of its delay included.
        compartments: how many a neuron takes.
        words: what `hardware.chips.memory` has found so far.
    """

    mask: Array
    grid: Shape
    source: Shape
    stride: Pair
    padding: Pair
    dilation: Pair
    weight_bits: int
    compartments: int = 1
    words: dict[tuple[Span, int, bytes, bytes], tuple[int, int]] = field(default_factory=dict)
    _windows: dict[tuple[int, Span], Window] = field(default_factory=dict)
    _full_sources: dict[int, Array] = field(default_factory=dict)
    _weighted: dict[tuple[bytes, bytes], tuple[int, Array]] = field(default_factory=dict)

    @property
    def loops(self) -> bool:
        """A second compartment of a neuron leads back to its first, which takes one more synapse and axon for each."""
        return self.compartments > 1

    def window(self, axis: int, span: Span) -> Window:
        """These source rows (axis 0) or columns (axis 1) lead into a range of the layer's."""
        if (axis, span) not in self._windows:
            size, kernel = self.source[1 + axis], self.mask.shape[axis]
            taps = _taps(size, kernel, span, self.stride[axis], self.padding[axis], self.dilation[axis])
            self._windows[axis, span] = _window(taps)
        return self._windows[axis, span]

    @cached_property
    def per_tap(self) -> Array:
        """Through each tap all sources have so many synapses with the output channels before each: (O + 1, kH, kW)."""
        counts = np.add.reduce(self.mask.view(np.uint8), axis=3, dtype=np.int64)
        return np.ascontiguousarray(_cumulated(counts, axis=2).transpose(2, 0, 1))

    @cached_property
    def _per_source(self) -> Array:
        """Through each tap each source has so many synapses with the output channels before each: (kH, kW, (O +
        1)·I)."""
        return _cumulated(self.mask, axis=2).reshape(*self.mask.shape[:2], -1)

    @cached_property
    def _complete(self) -> Array:
        """Each source channel has all taps into so many of the output channels before each: (O + 1, I)."""
        return _cumulated(np.asarray(self.mask.all(axis=(0, 1))), axis=0)

    @cached_property
    def _connected(self) -> Array:
        """Each source channel has a tap into so many of the output channels before each: (O + 1, I)."""
        return _cumulated(np.asarray(self.mask.any(axis=(0, 1))), axis=0)

    def full_sources(self, channels: int) -> Array:
        """Into each block of so many output channels, from the first on, so many source channels have all taps of all
        of these."""
        if channels not in self._full_sources:
            before = self._complete[::channels]
            self._full_sources[channels] = (before[1:] - before[:-1] == channels).sum(axis=1)
        return self._full_sources[channels]

    def weighted(self, rows: Window, columns: Window, down: Array, across: Array) -> tuple[int, Array]:
        """All synapses of a window are added up, each as often as the kinds of its source say.

        `down` and `across` are these numbers, for each row and column kind. The sums are of one full source with one output channel,
        and (O + 1,) of all sources with the output channels before each.
        """
        key = (rows.key, columns.key)
        if key not in self._weighted:
            stored = np.outer(down @ rows.kinds, across @ columns.kinds)
            self._weighted[key] = int(stored.sum()), self.per_tap.reshape(len(self.per_tap), -1) @ stored.ravel()
        return self._weighted[key]

    def connections(self, spans: Sequence[Span], rows: Window, columns: Window) -> Iterator[Connections]:
        """The sources of a window reach blocks of these output channels as is told for some blocks at a time."""
        kinds, width = len(rows.kinds) * len(columns.kinds), self.source[0]
        step = max(1, AT_ONCE // max(1, kinds * width))
        for first in range(0, len(spans), step):
            starts, ends = np.array(spans[first : first + step]).T
            lengths = (ends - starts)[:, None]
            full = self._complete[ends] - self._complete[starts] == lengths
            block, source = np.nonzero(~full & (self._connected[ends] > self._connected[starts]))
            before, behind = starts[block] * width + source, ends[block] * width + source
            per_tap = self._per_source.take(behind, axis=2) - self._per_source.take(before, axis=2)
            # no source has more synapses with a block than this
            most = int(lengths.max(initial=0)) * math.prod(self.mask.shape[:2])
            kind = np.int16 if most < 2**15 else np.int32
            synapses = through(per_tap, rows.kinds, columns.kinds, kind)
            taps = synapses if lengths.max() == 1 else through(per_tap > 0, rows.kinds, columns.kinds, kind)
            yield Connections(first, full, block, source, synapses, taps)


def projection(
    synapse: AnySynapse, source: Shape, grid: Shape, target: Target, *, soft: bool, delay: int = 0
) -> Projection:
    """The synapses of a layer are made ready to be counted.

    Args:
        synapse: the layer.
        source: shape of what feeds it, before any `Flatten`.
        grid: shape of its neurons, (O, H', W').
        target: the chip, which decides about zeros, bits, compartments and the length of lines.
        soft: whether its neurons reset by subtraction.
        delay: the longest of the synapses' delays, in steps, whose bits each of them takes (an inference).
    """
    bits = (target.get("stored_weight_bits") or weight_bits(synapse.weight)) + delay.bit_length()
    compartments = target["soft_reset_compartments"] if soft else 1
    match synapse:
        case Conv2d(groups=groups):
            down, top = _used_taps(synapse, 0, source[1], grid[1])
            across, left = _used_taps(synapse, 1, source[2], grid[2])
            mask = merge_groups(_exists(synapse.weight[:, :, down, across], target), groups, 1)
            geometry = (synapse.stride, (top, left), synapse.dilation)
        case Linear():
            source = wrapped_source(source, target.get("population_size") or 1)
            outputs, inputs = synapse.weight.shape
            padded: Array = np.zeros((outputs, math.prod(source)), bool)
            padded[:, :inputs] = _exists(synapse.weight, target)
            mask, geometry = padded.reshape(outputs, *source), ((1, 1), (0, 0), (1, 1))
        case _:
            assert_never(synapse)
    taps_first = np.ascontiguousarray(mask.transpose(2, 3, 0, 1))
    return Projection(taps_first, grid, source, *geometry, bits, compartments)


def _exists(weight: Array, target: Target) -> Array:
    return np.ones(weight.shape, bool) if target.memory.stores_zeros else np.asarray(weight != 0)


def wrapped_source(source: Shape, longest: int) -> Shape:
    """A dense layer sees its source in this grid (I, H, W): lines as long as a population may be.

    A channel whose map fits is one line, else each of its columns is; a flat source is cut every
    `longest` neurons. C order is kept; what is beyond the source's size has no synapses.
    """
    if len(source) == 1:
        return (-(-source[0] // longest), min(longest, source[0]), 1)
    channels, height, width = source
    return (channels, height * width, 1) if height * width <= longest else source


def weight_bits(weight: Array) -> int:
    """A weight is stored in so many bits: sign included where both signs occur, a common power of two left to the
    exponent."""
    lowest, highest = int(weight.min()), int(weight.max())
    if lowest == highest == 0:
        return 1
    # a number and its negative end in the same zeros
    common = int(np.bitwise_or.reduce(weight, axis=None))
    shift = (common & -common).bit_length() - 1
    return (max(highest, -lowest) >> shift).bit_length() + (lowest < 0 < highest)


def through(per_tap: Array, rows: Array, columns: Array, kind: type[np.integer]) -> Array:
    """Taps that are open add up: (kH, kW, P), (Y, kH) bool, (X, kW) bool → (Y, X, P) of an integer type."""
    # neither BLAS nor einsum is as fast on kernels this small as adding up row by row
    over_columns = _open(per_tap.swapaxes(0, 1), columns, kind)  # (X, kH, P)
    summed: Array = _open(over_columns.swapaxes(0, 1), rows, kind)
    return summed


def _open(values: Array, kinds: Array, kind: type[np.integer]) -> Array:
    """The first axis adds up where a kind is open: (k, A, P), (kinds, k) bool → (kinds, A, P)."""
    if (kinds.sum(axis=1) == 1).all():  # a dense layer's, as many as it has sources
        return np.asarray(values[kinds.argmax(axis=1)].astype(kind, copy=False))
    found = np.zeros((len(kinds), *values.shape[1:]), kind)
    for taps, total in zip(kinds, found, strict=True):
        for tap in np.flatnonzero(taps):
            total += values[tap]
    return found


def _cumulated(values: Array, axis: int) -> Array:
    """An axis adds up to each place, from 0 on, and becomes one longer; truths are counted in 16 bits where these
    suffice."""
    shape = list(values.shape)
    kind = values.dtype if values.dtype != bool else np.int16 if shape[axis] < 2**15 else np.int32
    shape[axis] += 1
    sums: Array = np.zeros(shape, kind)
    along = np.moveaxis(sums, axis, 0)
    for k, value in enumerate(np.moveaxis(values, axis, 0)):  # several times faster than np.cumsum
        np.add(along[k], value, out=along[k + 1])
    return sums


def _used_taps(synapse: Conv2d, axis: int, size: int, positions: int) -> tuple[slice, int]:
    """These taps of a kernel do not always meet the padding, which on small maps are few; the padding in front of them
    is returned too."""
    padding, dilation = synapse.padding[axis], synapse.dilation[axis]
    kernel = synapse.weight.shape[2 + axis]
    taps = _taps(size, kernel, (0, positions), synapse.stride[axis], padding, dilation)
    used = np.flatnonzero(taps.any(axis=0))
    first, last = (int(used[0]), int(used[-1])) if used.size else (0, 0)
    return slice(first, last + 1), padding - first * dilation


def _taps(size: int, kernel: int, span: Span, stride: int, padding: int, dilation: int) -> Array:
    """These taps lead from a source row (column) into a range of the layer's: (source size, kernel size) bool."""
    outputs = np.arange(*span)[:, None]
    index = outputs * stride - padding + np.arange(kernel) * dilation
    found: Array = np.zeros((size, kernel), bool)
    inside = (index >= 0) & (index < size)
    found[index[inside], np.broadcast_to(np.arange(kernel), index.shape)[inside]] = True
    return found


def _window(taps: Array) -> Window:
    used = np.flatnonzero(taps.any(axis=1))
    first, end = (int(used[0]), int(used[-1]) + 1) if used.size else (0, 0)
    inside = taps[first:end]
    kinds, kind_of, counts = np.unique(inside, axis=0, return_inverse=True, return_counts=True)
    return Window((first, end), inside, kinds, counts, kind_of.ravel(), inside.tobytes())


def windows(projection: Projection, block: Block) -> tuple[Window, Window]:
    """These source rows and columns lead into a block."""
    return projection.window(0, block.rows), projection.window(1, block.columns)
