"""A layer is cut into the boxes of equal size that cover it at the lowest cost and exceed no limit.

The cost is NxTF's (Rueckauer et al. 2022) as far as a cut decides it: cores, plus the axons that the cut asks of the cores before
it, in shares of a core. NxTF adds synaptic memory, and keeps several candidates per layer where this keeps one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from exporters.errors import DeployError
from exporters.graph import Shape
from hardware.chips.axons import Axons, FanOut, input_axons, stacks
from hardware.chips.blocks import Block, blocks, middle_block, middle_blocks
from hardware.chips.limits import Target
from hardware.chips.memory import at_least, memory_words
from hardware.chips.projection import Projection

WINDOW = 1.25
"""A cut is considered if it takes at most so many times the fewest cores."""


class PlacementError(DeployError):
    """No number of cores can hold a layer; the message names layer and limit."""

    def __init__(self, layer: str, message: str) -> None:
        super().__init__(message)
        self.layer = layer


@dataclass(frozen=True)
class Usage:
    """One core is used for this, in the units of the target's limits.

    `memory`: words of the memory that holds the synapses. `longest`: words of the longest list, 0 where there are no lists.
    Axons are 0 where the chip's are not published.
    """

    neurons: int
    compartments: int
    memory: int
    longest: int
    input_axons: int
    output_axons: int

    def of(self, resource: str) -> int:
        """The core takes so much of a resource, which has its name in `Target.room`."""
        return {
            "neurons": self.compartments,
            "memory": self.memory,
            "input axons": self.input_axons,
            "output axons": self.output_axons,
        }[resource]


@dataclass(frozen=True, eq=False)
class Cut:
    """A layer was cut into these blocks; `outgoing` is where its spikes go."""

    blocks: tuple[Block, ...]
    usage: tuple[Usage, ...]
    axons: Axons
    outgoing: FanOut


def search(name: str, projection: Projection, outgoing: FanOut, target: Target, known: Sequence[Block] = ()) -> Cut:
    """The cheapest cut of a layer that exceeds no limit is found; or `known`, blocks of a cut, if they exceed none.

    Raises:
        PlacementError: there is none.
    """
    if known and all(block.neurons <= _most_neurons(projection, target) for block in known):
        again = list(_cuts(projection, outgoing, target, known))
        if again:
            return min(again, key=lambda cut: _cost(cut, target))
    _require_one_neuron(name, projection, outgoing, target)
    best: Cut | None = None
    most = math.inf
    for cores, step in _candidates(projection, target):
        if cores > most or (best is not None and cores >= _cost(best, target)):
            break
        for found in _try(projection, outgoing, target, step):
            most = min(most, WINDOW * cores)
            if best is None or _cost(found, target) < _cost(best, target):
                best = found
    if best is None:
        raise PlacementError(
            name, f"{name}: no way to cut it keeps within a core's {', '.join(target.room)}; make it, or the "
            "layers beside it, smaller",
        )  # fmt: skip
    return best


def _cost(cut: Cut, target: Target) -> float:
    """A cut costs its cores, and the share of a core's output axons that its input axons take before it."""
    if (room := target.room.get("output axons")) is None:
        return len(cut.blocks)
    entries = target["population_entries"] if cut.axons == "population" else 1
    return len(cut.blocks) + entries * sum(used.input_axons for used in cut.usage) / room


def _most_neurons(projection: Projection, target: Target) -> int:
    return target["compartments"] // projection.compartments


def _candidates(projection: Projection, target: Target) -> Iterator[tuple[int, Shape]]:
    """Cuts are (cores, block size) by cores; rows and columns are cut before channels, which repeat the whole
    source."""
    room = _most_neurons(projection, target)
    steps = [sorted({-(-n // k) for k in range(1, n + 1)}, reverse=True) for n in projection.grid]
    found = []
    for step in itertools.product(*steps):
        if math.prod(step) <= room:
            found.append((math.prod(-(-n // s) for n, s in zip(projection.grid, step, strict=True)), step))
    yield from sorted(found, key=lambda f: (f[0], -f[1][0]))


def _try(projection: Projection, outgoing: FanOut, target: Target, step: Shape) -> Iterator[Cut]:
    """Cuts into boxes of a size that exceed no limit."""
    # most sizes are refused, most of them for one block: a guess, then that one, then one for each range of channels, then all
    room = target.room["memory"]
    least = at_least(target, projection, middle_block(projection.grid, step), room)
    if least.max() > room:
        return
    middle = middle_blocks(projection.grid, step)
    for few in ([middle[int(least.argmax())]], middle):
        if not _memory_fits(target, memory_words(target, projection, few)):
            return
        if max(_output_axons(target, projection, outgoing, few)) > target.room.get("output axons", math.inf):
            return
    yield from _cuts(projection, outgoing, target, blocks(projection.grid, step))


def _cuts(projection: Projection, outgoing: FanOut, target: Target, parts: Sequence[Block]) -> Iterator[Cut]:
    """The blocks as a cut, once for each kind of input axons with which no core exceeds a limit."""
    memory = memory_words(target, projection, parts)
    sending = _output_axons(target, projection, outgoing, parts)
    if not _memory_fits(target, memory) or max(sending) > target.room.get("output axons", math.inf):
        return
    stacked = stacks(projection, parts) if target.counts_axons else []
    for axons in _kinds_of_axons(target, projection):
        receiving = [0] * len(parts)
        if target.counts_axons:
            receiving = input_axons(target, projection, parts, stacked, axons)
        if max(receiving) > target.room.get("input axons", math.inf):
            continue
        usage = tuple(
            Usage(block.neurons, block.neurons * projection.compartments, words, longest, come, go)
            for block, (words, longest), come, go in zip(parts, memory, receiving, sending, strict=True)
        )
        yield Cut(tuple(parts), usage, axons, outgoing)


def _kinds_of_axons(target: Target, projection: Projection) -> tuple[Axons, ...]:
    both = target.counts_axons and target.has_populations and not projection.loops
    return ("discrete", "population") if both else ("discrete",)


def _output_axons(target: Target, projection: Projection, outgoing: FanOut, parts: Sequence[Block]) -> list[int]:
    if not target.counts_axons:
        return [0] * len(parts)
    entries: list[int] = outgoing.entries(target, parts, loops=projection.loops).tolist()
    return entries


def _memory_fits(target: Target, memory: Sequence[tuple[int, int]]) -> bool:
    room, longest_list = target.room["memory"], target.get("words_per_list") or math.inf
    return all(words <= room and longest <= longest_list for words, longest in memory)


def _require_one_neuron(name: str, projection: Projection, outgoing: FanOut, target: Target) -> None:
    """A layer of which one neuron, in the middle of a channel, needs more than an empty core has is refused.

    Tried are the channel with the most synapses and the one that feeds the most cores.
    """
    middle = [n // 2 for n in projection.grid[1:]]
    feeds = outgoing.feeds[:, middle[0], middle[1]]
    synapses = projection.per_tap.sum(axis=(1, 2))
    for channel in {int((synapses[1:] - synapses[:-1]).argmax()), int(feeds.argmax())}:
        block = Block((channel, channel + 1), *((m, m + 1) for m in middle))
        (used, _), *_ = memory_words(target, projection, [block])
        reduce = "reduce its fan-in (fewer channels, a smaller kernel, a pool before it)"
        _require(name, used, target.memory.unit, target.room["memory"], reduce)
        (stack,) = stacks(projection, [block])
        lines = target.has_populations and not projection.loops
        axons = int(stack.lines()[0] if lines else stack.sources()[0])
        _require(name, axons, "input axons", target.room.get("input axons"), reduce)
        entries = int(outgoing.entries(target, [block], loops=projection.loops)[0])
        smaller = "make the next layer smaller, so that it takes fewer cores"
        _require(name, entries, "output axons", target.room.get("output axons"), smaller)


def _require(name: str, used: int, unit: str, room: int | None, change: str) -> None:
    if room is not None and used > room:
        raise PlacementError(name, f"{name}: one neuron needs {used:,} {unit}, a core has {room:,}; {change}")
