"""Where one delay for each synapse is not enough, relay neurons take up the delays, and the layer behind them reads the relays.

netx has one delay for each pair of neuron and input, and none beside recurrence. A relay repeats one input, late by one number
of steps; a layer of relays, one for each input and each delay that it has, is a dense layer with delays, and what reads it
needs none. That is one more step of latency, and nothing else: a relay's spikes are those of its input, late.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from exporters.graph import IF, Array, Conv2d, Delay, Flatten, Linear, SpikingGraph
from exporters.graph.editing import Draft
from exporters.passes.dense_time import Term, ends_of, terms_of, without_idle

RELAYED = 2
"""Weight and threshold of a relay, even as the chip wants weights."""


def relay_delays(graph: SpikingGraph) -> SpikingGraph:
    """The graph whose layers with delays have one for each synapse, and none beside recurrence, spike for spike.

    Left as they are: layers that need no relays, and those that relays do not help, since they read numbers, a
    convolution or several layers.
    """
    for end in ends_of(graph):
        terms = list(terms_of(graph, end))
        others = [term for term in terms if term.source != end]
        if _can_relay(graph, end, others) and _needs_relays(terms, others):
            graph = _relayed(graph, end, others)
    return graph


def _needs_relays(terms: Sequence[Term], others: Sequence[Term]) -> bool:
    if not any(term.steps.any() for term in others):
        return False
    if len(others) < len(terms):
        return True
    for a, b in itertools.combinations(others, 2):
        twice = ((a.synapse.weight != 0) & (b.synapse.weight != 0)).any(axis=0)
        if (twice & (a.steps.reshape(-1) != b.steps.reshape(-1))).any():
            return True
    return False


def _can_relay(graph: SpikingGraph, end: str, others: Sequence[Term]) -> bool:
    sources = {term.source for term in others}
    return (
        len(sources) == 1
        and (not graph.input.is_graded or graph.input_name not in sources)
        and not any(isinstance(term.synapse, Conv2d) or set(graph.targets(term.name)) != {end} for term in others)
        and not any(end in loop and not sources.isdisjoint(loop) for loop in graph.loops)
    )


def _relayed(graph: SpikingGraph, end: str, others: Sequence[Term]) -> SpikingGraph:
    """Relays stand between what a layer reads and its synapses, which become one layer."""
    used = [np.flatnonzero(term.synapse.weight.any(axis=0)) for term in others]
    pairs = {(int(f), int(t.steps.reshape(-1)[f])) for t, inputs in zip(others, used, strict=True) for f in inputs}
    relays = {pair: number for number, pair in enumerate(sorted(pairs, key=lambda pair: (pair[1], pair[0])))}
    shape = others[0].synapse.weight.shape
    weight: Array = np.zeros((shape[0], len(relays)), np.int32)
    for term, inputs in zip(others, used, strict=True):
        for f in inputs.tolist():
            weight[:, relays[f, int(term.steps.reshape(-1)[f])]] += term.synapse.weight[:, f]
    biases = {t.name: t.synapse.bias for t in others if t.synapse.bias is not None}
    bias = np.sum(list(biases.values()), axis=0, dtype=np.int64).astype(np.int32) if biases else None

    gone = {term.name for term in others}
    draft = Draft(
        {n: node for n, node in graph.nodes.items() if n not in gone}, [e for e in graph.edges if gone.isdisjoint(e)]
    )
    source, name = others[0].source, others[0].name
    read = source
    if len(graph.shapes[source]) > 1:
        read = draft.add(f"{name}.flatten", Flatten(), (source,))
    late = draft.add(f"{name}.late.neurons", IF(RELAYED), ())
    for lag in sorted({lag for _, lag in relays}):
        part: Array = np.zeros((len(relays), shape[1]), np.int32)
        for (f, steps), number in relays.items():
            part[number, f] = RELAYED * (steps == lag)
        delayed = draft.add(f"{name}.late.delay", Delay(np.full(shape[1], lag)), (read,)) if lag else read
        draft.edges.append((draft.add(f"{name}.late", Linear(part), (delayed,)), late))
    draft.nodes[name] = Linear(weight, bias)
    draft.edges.extend([(late, name), (name, end)])
    return without_idle(graph, draft.nodes, draft.edges)
