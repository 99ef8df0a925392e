"""What a core has room for, resource by resource, and whether one neuron fits an empty core."""

from __future__ import annotations

import numpy as np

from exporters.errors import DeployError
from hardware.chips.cores import WORD, Block, FanOut, Hop, Usage, Window, through
from hardware.chips.limits import Target


class PlacementError(DeployError):
    """A layer that no number of cores can hold: the message names layer and limit."""

    def __init__(self, layer: str, message: str) -> None:
        super().__init__(message)
        self.layer = layer


def core_limits(target: Target) -> dict[str, int]:
    """Resource → a core's limit; what is not published is left out."""
    known = {
        "neurons": target["compartments"],
        "memory": target.get("synaptic_words") or target.get("memory_bytes"),
        "input axons": target.get("input_axons"),
        "output axons": target.get("output_axons"),
    }
    return {name: limit for name, limit in known.items() if limit is not None}


def used(usage: Usage, resource: str) -> int:
    """What a core is used for of one resource, in the units of its limit."""
    return {
        "neurons": usage.compartments,
        "memory": usage.memory,
        "input axons": usage.input_axons,
        "output axons": usage.output_axons,
    }[resource]


def compartments_per_neuron(target: Target, synapses: Hop) -> int:
    """A neuron that resets by subtraction takes more than one."""
    return target["soft_reset_compartments"] if synapses.soft else 1


def memory_fits(target: Target, synapses: Hop, block: Block) -> bool:
    """Whether a block keeps within a core's memory, and its longest list within what an axon can point to."""
    words, longest = memory(target, synapses, block)
    return words <= core_limits(target)["memory"] and longest <= (target.get("words_per_list") or longest)


def memory(target: Target, synapses: Hop, block: Block) -> tuple[int, int]:
    """What a block takes of a core's memory in the target's units, and the words of its longest list, 0 where there are none."""
    if target.sharing == "lines":
        return _memory_words(target, synapses, block)
    return _memory_bytes(target, synapses, block), 0


def _memory_words(target: Target, hop_: Hop, block: Block) -> tuple[int, int]:
    """Words of synaptic memory that a block takes on Loihi 1, and of its longest list."""
    rows, columns = hop_.window(0, block.rows), hop_.window(1, block.columns)
    # blocks that differ by a shift only, most of a layer's, take the same
    key = (block.channels, block.neurons, rows.key, columns.key)
    if key not in hop_.words:
        hop_.words[key] = _lists(target, hop_, block, rows, columns)
    return hop_.words[key]


def _lists(target: Target, hop_: Hop, block: Block, rows: Window, columns: Window) -> tuple[int, int]:
    per_tap = hop_.synapses_per_tap(block.channels)
    # columns of a kind share their lists; a row's source has one of its own
    synapses = through(per_tap, rows.kinds, columns.kinds)
    entries = through(per_tap > 0, rows.kinds, columns.kinds)
    per_entry, prefix = target["synapses_per_entry"], target["entry_prefix_bits"]
    neurons = block.neurons * (target["soft_reset_compartments"] if hop_.soft else 1)
    index = max(target["min_index_bits"], (neurons - 1).bit_length())
    channels = block.channels[1] - block.channels[0]
    sparse = synapses * (hop_.weight_bits + index) + -(-synapses // per_entry) * prefix
    dense = entries * (channels * hop_.weight_bits + -(-channels // per_entry) * (prefix + index))
    bits = np.minimum(sparse, dense)
    words = bits // WORD + 1 + (bits % WORD >= WORD - 5)  # a full last word asks for one more too
    words *= synapses > 0
    used = np.tensordot(rows.counts.astype(np.int32), words > 0, 1)
    lines = words.max(axis=0, initial=0) * used
    # a reset by subtraction is one more synapse, and list, per neuron
    recurrent = block.neurons if hop_.soft else 0
    return int(lines.sum(dtype=np.int64)) + recurrent, int(words.max(initial=0))


def _memory_bytes(target: Target, hop_: Hop, block: Block) -> int:
    """Bytes that a block takes on Loihi 2: neuron state, and each non-zero weight that it uses once."""
    per_tap = hop_.synapses_per_tap(block.channels)
    used = np.outer(hop_.window(0, block.rows).taps.any(axis=0), hop_.window(1, block.columns).taps.any(axis=0))
    weights = int((per_tap * used).sum())
    return block.neurons * target["neuron_bytes"] + -(-weights * hop_.weight_bits // 8)


def require_one_neuron(name: str, synapses: Hop, outgoing: FanOut, target: Target) -> None:
    """Raise PlacementError where one neuron, in the middle of a channel, needs more than an empty core has.

    Tried are the channel with the most synapses and the one that feeds the most cores.
    """
    feeds = outgoing.feeds[:, synapses.grid[1] // 2, synapses.grid[2] // 2]
    largest = {int(synapses.mask.sum(axis=(1, 2, 3)).argmax()), int(feeds.argmax())}
    require_fan_in(name, synapses, target, largest)
    if target.sharing == "kernel":
        return
    limit = core_limits(target)["output axons"]
    for channel in largest:
        entries = int(outgoing.entries(target, [_middle(synapses, channel)], soft=synapses.soft)[0])
        if entries > limit:
            raise PlacementError(
                name, f"{name}: one neuron needs {entries:,} output axons, a core has {limit:,}; make "
                "the next layer smaller, so that it takes fewer cores",
            )  # fmt: skip


def require_fan_in(name: str, synapses: Hop, target: Target, channels: set[int]) -> None:
    """Raise PlacementError where one neuron of these channels has more synapses or sources than an empty core holds."""
    limits = core_limits(target)
    for channel in channels:
        block = _middle(synapses, channel)
        needed, _ = memory(target, synapses, block)
        if needed > limits["memory"]:
            unit = "words of synaptic memory" if target.sharing == "lines" else "bytes of memory"
            raise PlacementError(
                name, f"{name}: one neuron needs {needed:,} {unit}, a core has {limits['memory']:,}; reduce its fan-in "
                "(fewer channels, a smaller kernel, a pool before it)",
            )  # fmt: skip
        if target.sharing == "kernel":
            continue
        mask = synapses.reached([block])[0].mask
        axons = int(mask.sum() if synapses.soft else mask.any(axis=1).sum())
        if axons > limits["input axons"]:
            raise PlacementError(
                name, f"{name}: one neuron needs {axons:,} input axons, a core has {limits['input axons']:,}; reduce "
                "its fan-in (fewer channels, a smaller kernel, a pool before it)",
            )  # fmt: skip


def _middle(synapses: Hop, channel: int) -> Block:
    """One neuron, in the middle of a channel."""
    y, x = (n // 2 for n in synapses.grid[1:])
    return Block((channel, channel + 1), (y, y + 1), (x, x + 1))
