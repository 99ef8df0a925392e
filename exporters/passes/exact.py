"""A float graph can have float32 arithmetic that is exact, and so the same spikes on every machine and runtime.

A spiking network in floating point is chaotic: add the same products in another order, the membrane
differs in its last bit, a neuron at its threshold fires or not, and everything behind it changes. So a
torch model and its ONNX copy disagree on a few spikes in a million, on every machine on others.

`make_exact` removes the cause. Per output channel, weights and bias are rounded to multiples of one
power of two δ, chosen so that no partial sum of a time step can reach 2²⁴ δ. Then every such sum is
exact in float32 in any order of addition (integers up to 2²⁴ are float32 numbers), with or without
fused multiply-add. What follows, membrane plus current, is one addition per element, which IEEE 754
rounds the same way everywhere. Weights keep 2²⁴ steps over the largest possible sum: about 14 bits
behind 8-bit pixels, 18 to 20 behind spikes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from exporters.errors import DeployError
from exporters.graph import Array, Node, SpikingGraph
from exporters.graph.bounds import EXACT_IN_FLOAT32, channel_bounds, input_bounds
from exporters.passes.integer_inputs import integer_inputs
from exporters.passes.membranes import membranes_of


def make_exact(graph: SpikingGraph, *, input_scale: int = 255) -> SpikingGraph:
    """The copy has float32 weights on a grid that makes every sum exact, and reads integer pixels 0…`input_scale`.

    Average pools become sums (divisor 1), their divisor moves into the next layer's weights.

    Raises:
        DeployError: a layer whose currents do not go straight to neurons or the output, or with a fan-in
            of many thousands of pixels.
    """
    graph = integer_inputs(graph, input_scale)
    arriving = input_bounds(graph)
    changed: dict[str, Node] = {}
    for membrane in membranes_of(graph):
        synapses = {name: graph.synapses[name] for name in membrane.synapses}
        bounds = np.sum([channel_bounds(s, arriving[n]) for n, s in synapses.items()], axis=0)
        # rounding moves each weight and bias by up to δ/2, and with them the largest sum
        rounding = sum(s.weight[0].size * arriving[n] + 1 for n, s in synapses.items()) / 2
        if rounding >= EXACT_IN_FLOAT32 / 2:
            raise DeployError(f"{membrane.synapses[0]}: its fan-in is too large for exact sums in float32")
        grid = 2.0 ** np.ceil(np.log2(np.maximum(bounds, 2.0**-100) / (EXACT_IN_FLOAT32 - rounding)))
        for name, synapse in synapses.items():
            bias = None if synapse.bias is None else _snap(synapse.bias, grid)
            changed[name] = replace(synapse, weight=_snap(synapse.weight, grid), bias=bias)
    return graph.with_nodes(changed)


def _snap(values: Array, grid: Array) -> Array:
    step = grid.reshape(-1, *[1] * (values.ndim - 1))
    return np.asarray((np.rint(values / step) * step).astype(np.float32))
