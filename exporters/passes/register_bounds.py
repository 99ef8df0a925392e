"""What the registers must hold of one membrane, whatever its inputs are, and how much they hold at most."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from exporters.graph import AnySynapse, SpikingGraph
from exporters.graph.bounds import channel_bounds
from exporters.graph.registers import MIXED_THRESHOLD_LIMIT, THRESHOLD_LIMIT, decay_of, leak_of
from exporters.passes.membranes import Membrane, register_leaks


def thresholds_of(graph: SpikingGraph, membrane: Membrane) -> list[float]:
    """The neurons that hold a membrane have these thresholds; one that is read out has none."""
    return [float(graph.neurons[end].threshold) for end in membrane.ends if end in graph.neurons]


def threshold_limit(graph: SpikingGraph, membrane: Membrane) -> int:
    """The largest threshold that a chip's register holds behind these weights."""
    weights = [graph.synapses[name].weight for name in membrane.synapses]
    is_mixed = min(float(w.min()) for w in weights) < 0 < max(float(w.max()) for w in weights)
    return MIXED_THRESHOLD_LIMIT if is_mixed else THRESHOLD_LIMIT - 1


def largest_bias(graph: SpikingGraph, membrane: Membrane) -> float:
    """This is the largest |bias| of a membrane."""
    biases = [graph.synapses[name].bias for name in membrane.synapses]
    return max((float(np.abs(b).max()) for b in biases if b is not None), default=0.0)


def largest_current(
    graph: SpikingGraph, membrane: Membrane, synapses: Mapping[str, AnySynapse], arriving: Mapping[str, float]
) -> float:
    """This is the worst integer that a membrane must hold besides what it holds already.

    A membrane that is read out must hold what it keeps of all T currents with their biases, any other one current without;
    where the current persists, its register holds what is left of the earlier ones too.
    """
    is_output = graph.output_name in membrane.ends
    bounds = [channel_bounds(s, arriving[name], bias=is_output) for name, s in synapses.items()]
    kept = register_leaks(graph.output)[0] if is_output else max(current_leaks(graph, membrane), default=0.0)
    steps = sum(kept**t for t in range(graph.T))
    return steps * float(np.sum(bounds, axis=0).max())


def current_leaks(graph: SpikingGraph, membrane: Membrane) -> list[float]:
    """The membrane's neurons keep these shares of their current from step to step, in Loihi's 12 bits."""
    return [leak_of(decay_of(graph.neurons[end].current_leak)) for end in membrane.ends if end in graph.neurons]
