"""A block of a layer takes of its core's memory what the chip's own rules say (`hardware.chips.limits.SynapseMemory`).

Storage "lists" is Loihi 1's, by the rules of NxTF's partitioner (Rueckauer et al. 2022; its public source is cited in the
target file):

* One spike finds its synapses on a core in a *list* of words: entries of up to `synapses_per_entry` synapses, each with a prefix
  of `entry_prefix_bits`. Sparse entries spend index bits on every synapse, dense entries once per entry, but hold zeros too; the
  shorter of the two is taken. `list_end_bits` of a list's last word stay free.
* The sources of a *line* (one channel, one image column) share the length of the longest list. Lists that differ by a shift of
  the compartments along the axes of `shared_along` are stored once: along columns, this is Loihi 1's weight sharing of
  convolutions. A dense layer has nothing to share.

One thing differs from NxTF and is an inference: compartments are numbered channel by channel within a position, so that dense
entries run over channels. NxTF's interleaving of compartments (the way around a bug of its SDK) is not counted.

Storage "weights" keeps each synapse's weight, with `synapse_overhead_bits` beside it, once for all the neurons that differ by a
shift along the axes of `shared_along`: both axes for a kernel once per core, as Loihi 2 is taken to have it (no compiler is
public, so that is a lower bound); one axis for a kernel per column or row of neurons; none for a copy per neuron.

With either storage a neuron's state, `neuron_bytes`, takes room too where it lies in the same memory, and a reset by subtraction
that takes a second compartment is one more synapse per neuron.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

import numpy as np

from exporters.graph import Array
from hardware.chips.blocks import Block, Span
from hardware.chips.limits import Target
from hardware.chips.projection import Projection, Window, windows


def memory_words(target: Target, projection: Projection, parts: Sequence[Block]) -> list[tuple[int, int]]:
    """Each block takes so many words of memory, and its longest list so many (0 where there are no lists)."""
    # blocks that differ by a shift only, most of a layer's, take the same
    keys = []
    missing: dict[tuple[int, int, bytes, bytes], dict[Span, Block]] = defaultdict(dict)
    for block in parts:
        rows, columns = windows(projection, block)
        keys.append((block.channels, block.neurons, rows.key, columns.key))
        if keys[-1] not in projection.words:
            length = block.channels[1] - block.channels[0]
            missing[length, block.neurons, rows.key, columns.key][block.channels] = block
    for (_, neurons, down, across), alike in missing.items():
        block = next(iter(alike.values()))
        own = _own_words(target, projection, block)
        for span, (synapses, longest) in zip(alike, _synapse_words(target, projection, [*alike], block), strict=True):
            projection.words[span, neurons, down, across] = own + synapses, longest
    return [projection.words[key] for key in keys]


def at_least(target: Target, projection: Projection, block: Block, room: int) -> Array:
    """Each block of a stack takes so many words or more, which is found faster than how many it takes.

    Args:
        target: the chip.
        projection: the layer.
        block: the first of the blocks, with channels from 0 on; a smaller last one does not count.
        room: above this many words, any number will do.
    """
    own = _own_words(target, projection, block)
    starts = np.arange(0, projection.grid[0] - block.channels[1] + 1, block.channels[1])
    match target.memory.storage:
        case "lists":
            return own + _lists_at_least(target, projection, block, room - own)
        case "weights":
            return own + _weight_words(target, projection, starts, starts + block.channels[1], block)
        case _:
            assert_never(target.memory.storage)


def _own_words(target: Target, projection: Projection, block: Block) -> int:
    """The neurons take words themselves, for their state and, in lists, for the way back of a second compartment."""
    state = -(-8 * (target.get("neuron_bytes") or 0) // target.memory.word_bits)
    back = target.memory.storage == "lists" and projection.loops
    return block.neurons * (state + back)


def _synapse_words(
    target: Target, projection: Projection, spans: Sequence[Span], block: Block
) -> list[tuple[int, int]]:
    """The synapses and the longest list take these words, in blocks that differ from one in which channels they hold,
    not how many."""
    match target.memory.storage:
        case "lists":
            return _lists(target, projection, spans, block)
        case "weights":
            return _weights(target, projection, spans, block)
        case _:
            assert_never(target.memory.storage)


# -- weights -----------------------------------------------------------------------------------------


def _weights(target: Target, projection: Projection, spans: Sequence[Span], block: Block) -> list[tuple[int, int]]:
    starts, ends = np.array(spans).T
    return [(words, 0) for words in _weight_words(target, projection, starts, ends, block).tolist()]


def _weight_words(target: Target, projection: Projection, starts: Array, ends: Array, block: Block) -> Array:
    rows, columns = windows(projection, block)
    shared = target.memory.shared_along
    # how many neurons along an axis use a tap, or whether one does
    down = rows.taps.any(axis=0) if "rows" in shared else rows.taps.sum(axis=0)
    across = columns.taps.any(axis=0) if "columns" in shared else columns.taps.sum(axis=0)
    copies = np.outer(down, across)
    weights = ((projection.per_tap[ends] - projection.per_tap[starts]) * copies).sum(axis=(1, 2))
    weights += block.neurons if projection.loops else 0
    bits = weights * (projection.weight_bits + (target.get("synapse_overhead_bits") or 0))
    return np.asarray(-(-bits // target.memory.word_bits))


# -- lists -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ListFormat:
    """The lists of a block are as long as this format says."""

    word_bits: int
    weight_bits: int
    index_bits: int
    entry: int
    prefix_bits: int
    end_bits: int
    channels: int

    def words(self, synapses: Array, taps: Array) -> Array:
        """Lists of so many synapses, which come through so many taps of the kernel, have these words."""
        # both are 0 where there are no synapses, and a longer list never has fewer words
        return np.minimum(self.sparse(synapses), self.dense(taps))

    def sparse(self, synapses: Array) -> Array:
        """Lists of which every synapse has an index have these words."""
        bits = synapses * (self.weight_bits + self.index_bits) + -(-synapses // self.entry) * self.prefix_bits
        return np.where(synapses > 0, -(-(bits + self.end_bits) // self.word_bits), 0)

    def dense(self, taps: Array) -> Array:
        """Lists that hold, for every tap, one weight for each of the block's channels have these words."""
        entries = -(-self.channels // self.entry)
        bits = taps * (self.channels * self.weight_bits + entries * (self.prefix_bits + self.index_bits))
        return np.where(taps > 0, -(-(bits + self.end_bits) // self.word_bits), 0)

    def least_bits(self) -> float:
        """Every synapse takes these bits at the least, in either form."""
        entries = -(-self.channels // self.entry)
        shared = entries * (self.prefix_bits + self.index_bits) / self.channels
        return self.weight_bits + min(self.index_bits, shared)


def _list_format(target: Target, projection: Projection, block: Block) -> ListFormat:
    return ListFormat(
        word_bits=target.memory.word_bits,
        weight_bits=projection.weight_bits,
        index_bits=max(target["min_index_bits"], (block.neurons * projection.compartments - 1).bit_length()),
        entry=target["synapses_per_entry"],
        prefix_bits=target["entry_prefix_bits"],
        end_bits=target["list_end_bits"],
        channels=block.channels[1] - block.channels[0],
    )


def _lists(target: Target, projection: Projection, spans: Sequence[Span], block: Block) -> list[tuple[int, int]]:
    rows, columns = windows(projection, block)
    copies = _copies(target, rows, columns)
    form = _list_format(target, projection, block)
    full = _full_lists(form, rows, columns)
    full_words, full_longest = int(_stored(full, copies)), int(full.max(initial=0))
    most = int(_taps(rows, columns).max(initial=0))
    # a table of all lengths is looked up faster than computed for every list
    sparse, dense = form.sparse(np.arange(form.channels * most + 1)), form.dense(np.arange(most + 1))
    found: list[tuple[int, int]] = []
    for part in projection.connections(spans, rows, columns):
        words = np.minimum(sparse[part.synapses], dense[part.taps])
        total = part.full.sum(axis=1) * full_words
        total += np.bincount(part.block, _stored(words, copies), len(total)).astype(np.int64)  # exact below 2⁵³
        longest = np.where(part.full.any(axis=1), full_longest, 0)
        np.maximum.at(longest, part.block, words.max(axis=(0, 1), initial=0))
        found += zip(total.tolist(), longest.tolist(), strict=True)
    return found


def _lists_at_least(target: Target, projection: Projection, block: Block, room: int) -> Array:
    """Every synapse takes its bits; what the ends of lists and of lines take is only known of full sources."""
    rows, columns = windows(projection, block)
    down, across = copies = _copies(target, rows, columns)
    form = _list_format(target, projection, block)
    # how many lists hold a synapse of each tap, and how many synapses with the output channels before each they hold together
    each, before = projection.weighted(rows, columns, down, across)
    synapses = before[form.channels :: form.channels] - before[: -form.channels : form.channels]
    words_each = form.least_bits() / form.word_bits * (1 - 1e-9)
    least = (synapses * words_each).astype(np.int64)
    if least.max() > room:
        return least
    full = projection.full_sources(form.channels)
    words = full * int(_stored(_full_lists(form, rows, columns), copies))
    return np.asarray(words + ((synapses - full * (form.channels * each)) * words_each).astype(np.int64))


def _copies(target: Target, rows: Window, columns: Window) -> tuple[Array, Array]:
    """The lists of each kind of source row and column are stored so many times."""
    shared = target.memory.shared_along
    return (
        np.ones_like(rows.counts) if "rows" in shared else rows.counts,
        np.ones_like(columns.counts) if "columns" in shared else columns.counts,
    )


def _taps(rows: Window, columns: Window) -> Array:
    """A source of each kind has so many taps: (row kinds, column kinds)."""
    return np.outer(rows.kinds.sum(axis=1), columns.kinds.sum(axis=1))


def _full_lists(form: ListFormat, rows: Window, columns: Window) -> Array:
    """A source with all synapses that the geometry allows has lists of so many words: (row kinds, column kinds)."""
    taps = _taps(rows, columns)
    return form.words(form.channels * taps, taps)


def _stored(words: Array, copies: tuple[Array, Array]) -> Array:
    """All lists together take so many words, (row kinds, column kinds, …) → (…): those of a line are as long as its
    longest."""
    down, across = copies
    lists = ((words > 0) * down.reshape(-1, *[1] * (words.ndim - 1))).sum(axis=0)
    lines = words.max(axis=0, initial=0) * lists
    return np.asarray((lines * across.reshape(-1, *[1] * (words.ndim - 2))).sum(axis=0))
