"""What a block of a layer takes of a core, from every synapse one by one: slow, and nothing of `hardware.chips` but the
numbers."""

from __future__ import annotations

import functools
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from exporters.graph import Conv2d, Flatten, Linear, SpikingGraph
from hardware.chips.limits import Target

Neuron = tuple[int, int, int]
Connection = tuple[int, Neuron, tuple[int, ...]]
"""(flat source, (c, y, x) of the neuron, kernel position): a synapse."""


@functools.cache
def connections(graph: SpikingGraph, name: str, *, zeros: bool = False) -> list[Connection]:
    """Every synapse of a layer that is not zero, by six loops; with `zeros` those too."""
    node = graph.synapses[name]
    found = []
    if isinstance(node, Linear):
        for o, i in itertools.product(*map(range, node.weight.shape)):
            if node.weight[o, i] or zeros:
                found.append((i, (o, 0, 0), (o, i)))
        return found
    _, height, width = graph.in_shape(name)
    out, per_in, kh, kw = node.weight.shape
    for o, y, x in itertools.product(*map(range, graph.shapes[name])):
        for i, a, b in itertools.product(range(per_in), range(kh), range(kw)):
            sy = y * node.stride[0] - node.padding[0] + a * node.dilation[0]
            sx = x * node.stride[1] - node.padding[1] + b * node.dilation[1]
            if 0 <= sy < height and 0 <= sx < width and (node.weight[o, i, a, b] or zeros):
                channel = o // (out // node.groups) * per_in + i
                found.append(((channel * height + sy) * width + sx, (o, y, x), (o, i, a, b)))
    return found


def lines(graph: SpikingGraph, name: str, target: Target) -> Callable[[int], object]:
    """Flat source → its line: an image column of a channel; a channel or a run of neurons before a dense layer."""
    source = graph.sources(name)[0]
    flattened = isinstance(graph.nodes[source], Flatten)
    shape = graph.in_shape(source) if flattened else graph.shapes[source]
    longest = target.get("population_size") or 1
    if len(shape) == 1:
        return lambda s: s // longest
    _, height, width = shape
    if isinstance(graph.synapses[name], Linear) and height * width <= longest:
        return lambda s: s // (height * width)
    return lambda s: (s // (height * width), s % width)


def weight_bits(weight: np.ndarray, target: Target) -> int:
    """Of the largest, sign included, once all are halved as often as none is odd; or what the chip stores of any."""
    if target.get("stored_weight_bits") is not None:
        return target["stored_weight_bits"]
    while (weight % 2 == 0).all():
        weight = weight // 2
    return len(f"{abs(weight).max():b}") + (weight.min() < 0 < weight.max())


def loops(graph: SpikingGraph, neurons_name: str, target: Target) -> bool:
    """Whether each neuron takes a second compartment that leads back to the first."""
    neurons = graph.neurons.get(neurons_name)
    return neurons is not None and neurons.reset == "soft" and target["soft_reset_compartments"] > 1


def words(graph: SpikingGraph, name: str, here: set[Neuron], target: Target, *, loop: bool) -> tuple[int, int]:
    """Words of memory of a core with these neurons of a layer, and of its longest list."""
    neurons = len(here)
    synapses = [c for c in connections(graph, name, zeros=target.memory.stores_zeros) if c[1] in here]
    word, state = target.memory.word_bits, 8 * (target.get("neuron_bytes") or 0)
    own = neurons * math.ceil(state / word)
    if target.memory.storage == "weights":
        shared = target.memory.shared_along
        kept = {
            (kernel, None if "rows" in shared else y, None if "columns" in shared else x)
            for _, (_, y, x), kernel in synapses
        }
        bits = weight_bits(graph.synapses[name].weight, target) + (target.get("synapse_overhead_bits") or 0)
        return own + math.ceil((len(kept) + loop * neurons) * bits / word), 0
    possible = [c for c in connections(graph, name, zeros=True) if c[1] in here]
    stored, longest = lists(graph, name, synapses, possible, neurons * (1 + loop), target)
    return own + stored + loop * neurons, longest


def lists(
    graph: SpikingGraph,
    name: str,
    synapses: Iterable[Connection],
    possible: Iterable[Connection],
    compartments: int,
    target: Target,
) -> tuple[int, int]:
    """Words by writing out every list of the core, and storing once what differs by a shift along a shared axis only.

    Whether lists do is a matter of the kernel's taps, of synapses that are possible, not of which of these are zero.
    """
    node, shared, line_of = graph.synapses[name], target.memory.shared_along, lines(graph, name, target)
    by_line: dict[object, dict[int, list[tuple[Neuron, tuple[int, ...]]]]] = defaultdict(lambda: defaultdict(list))
    with_zeros: dict[int, list[tuple[Neuron, tuple[int, ...]]]] = defaultdict(list)
    for source, neuron, kernel in synapses:
        by_line[line_of(source)][source].append((neuron, kernel))
    for source, neuron, kernel in possible:
        with_zeros[source].append((neuron, kernel))
    channels = {neuron[0] for own in with_zeros.values() for neuron, _ in own}
    bits = weight_bits(node.weight, target)
    index = max(target["min_index_bits"], (compartments - 1).bit_length())
    stored: dict[object, int] = {}
    longest = 0
    for line, sources in by_line.items():
        lengths, looks = [], []
        for source, own in sorted(sources.items()):
            lengths.append(list_words(own, node, bits, index, len(channels), target))
            whole = with_zeros[source]
            top, left = min(y for (_, y, _), _ in whole), min(x for (_, _, x), _ in whole)
            dy, dx = top if "rows" in shared else 0, left if "columns" in shared else 0
            looks.append(frozenset(((o, y - dy, x - dx), kernel) for (o, y, x), kernel in whole))
        longest = max(longest, *lengths)
        distinct = tuple(dict.fromkeys(looks)) if "rows" in shared else tuple(looks)
        stored[distinct if "columns" in shared else line] = max(lengths) * len(distinct)
    return sum(stored.values()), longest


def list_words(
    own: list[tuple[Neuron, tuple[int, ...]]], node: object, bits: int, index: int, channels: int, target: Target
) -> int:
    """The shorter of both forms of a list, with room for its end."""
    entry, prefix, word = target["synapses_per_entry"], target["entry_prefix_bits"], target.memory.word_bits
    taps = len({kernel[2:] for _, kernel in own}) if isinstance(node, Conv2d) else 1
    sparse = len(own) * (bits + index) + prefix * math.ceil(len(own) / entry)
    dense = taps * (channels * bits + math.ceil(channels / entry) * (prefix + index))
    full, rest = divmod(min(sparse, dense), word)
    free = word - rest if rest else 0
    return full + bool(rest) + math.ceil(max(0, target["list_end_bits"] - free) / word)


def input_axons(
    reached: Mapping[int, set[int]], core: int, line: Callable[[int], object], axons: str, target: Target, *, loop: int
) -> int:
    """Of a core: `reached` is source → the layer's cores that it feeds, `loop` the neurons that lead back to
    themselves."""
    sources = [s for s, to in reached.items() if core in to]
    alone = [s for s in sources if len(reached[s]) == 1 or axons == "population"]
    if target.get("population_entries") is None or loop:
        alone = []
    return len(sources) - len(alone) + len({line(s) for s in alone}) + loop


def output_axons(
    sends: Iterable[int],
    reached: Mapping[int, set[int]],
    line: Callable[[int], object],
    axons: str,
    target: Target,
    *,
    loop: int,
) -> int:
    """Of a core that holds these neurons, flat: `reached` is neuron → cores of the next layer."""
    entries, shared = 0, set()
    for neuron in sends:
        to = reached.get(neuron, set())
        populated = target.get("population_entries") is not None and not loop
        if populated and (len(to) == 1 or axons == "population"):
            shared |= {(line(neuron), core) for core in to}
        else:
            entries += len(to)
    return entries + (target.get("population_entries") or 0) * len(shared) + loop
