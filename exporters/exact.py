"""A float graph whose float32 arithmetic is exact: the same spikes on every machine and runtime.

A spiking network in floating point is chaotic: add the same products in another order, the membrane
differs in its last bit, a neuron at its threshold fires or not, and everything behind it changes. So a
torch model and its ONNX copy disagree on a few spikes in a million, on every machine on others.

`make_exact` removes the cause. Per output channel, weights and bias are rounded to multiples of one
power of two δ, chosen so that no partial sum over all inputs and all T steps can reach 2²⁴ δ. Then
every sum is exact in float32 in any order of addition (Higham, Accuracy and Stability, 2nd ed., 2.1:
integers up to 2²⁴ are representable), with or without fused multiply-add. The weights keep about
2²⁴/(T·Σ|w|) steps, in practice 17 to 20 bits.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from exporters.bounds import channel_bounds, input_bounds
from exporters.graph import Array, SpikingGraph, Synapse
from exporters.rescale import integer_inputs, neuron_groups


def make_exact(graph: SpikingGraph, *, input_scale: int = 255) -> SpikingGraph:
    """A copy with float32 weights on a grid that makes every sum exact, reading integer pixels 0…`input_scale`.

    Average pools become sums (divisor 1), their divisor moves into the next layer's weights.

    Raises:
        DeployError: a layer whose currents do not go straight to neurons or the output.
    """
    graph = integer_inputs(graph, input_scale)
    arriving = input_bounds(graph)
    changed: dict[str, Synapse] = {}
    for group in neuron_groups(graph):
        per_channel = sum(
            channel_bounds(graph.synapses[s], arriving[s], signed=graph.in_signal(s) == "current")
            for s in group.synapses
        )
        # a membrane that is never reset adds up to T currents
        grid = _grid(np.asarray(per_channel) * graph.T)
        for name in group.synapses:
            synapse = graph.synapses[name]
            changed[name] = replace(
                synapse,
                weight=_snap(synapse.weight, grid),
                bias=None if synapse.bias is None else _snap(synapse.bias, grid),
            )
    return graph.with_nodes(changed)


def _grid(bounds: Array) -> Array:
    """Smallest power of two δ per channel with bound + rounding ≤ 2²⁴ δ (one bit is kept for the rounding itself)."""
    return np.asarray(2.0 ** (np.ceil(np.log2(np.maximum(bounds, 2.0**-100))) - 23))


def _snap(values: Array, grid: Array) -> Array:
    step = grid.reshape(-1, *[1] * (values.ndim - 1))
    return np.asarray((np.rint(values / step) * step).astype(np.float32))
