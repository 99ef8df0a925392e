"""Lowering step 2: float `SpikingGraph` → integer graph, with the arithmetic of Loihi as Lava simulates it.

Per membrane one scale s (integer units per real unit; Loihi's threshold is one number per layer):

    W_q = rint(s·W),   b_q = rint(s·b),   V = ceil(s·v_threshold)

With integer membranes, `A ≥ V` is then exactly Lava's `v > (V − 1)·64`. The scale is the largest that respects every limit of the chip's registers, so an integer
graph made here can neither wrap nor clip; where that costs resolution, `LayerScale` says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from exporters.bounds import (
    BIAS_LIMIT,
    CURRENT_LIMIT,
    THRESHOLD_LIMIT,
    channel_bounds,
    input_bounds,
)
from exporters.errors import DeployError
from exporters.graph import IF, LIF, Array, Node, Output, SpikingGraph, Synapse
from exporters.rescale import Group, integer_inputs, neuron_depths, neuron_groups


@dataclass(frozen=True)
class LayerScale:
    """How one synapse layer was quantised.

    Attributes:
        name: the synapse layer.
        scale: integer units per real unit of its membrane.
        threshold: the integer threshold V of the neurons it feeds (0 for a membrane read-out).
        largest: largest |integer weight|; below 2^(bits−1) − 1 when another limit held the scale down.
        limited_by: what set the scale: "weights", "current", "threshold", "bias", or "neighbour" for the
            threshold of a layer that runs beside it.
        rms_error: root mean square of W_q/s − W relative to that of W.
    """

    name: str
    scale: float
    threshold: int
    largest: int
    limited_by: str
    rms_error: float


def quantize(graph: SpikingGraph, *, bits: int = 8, input_bits: int = 8) -> tuple[SpikingGraph, tuple[LayerScale, ...]]:
    """Integer weights of `bits` bits (sign included), integer biases and thresholds, integer pixels.

    Args:
        graph: a float graph.
        bits: 2 to 8.
        input_bits: 1 to 8, the resolution of direct-coded pixels (ignored for spike input).

    Returns:
        The integer graph and a report per synapse layer.

    Raises:
        DeployError: neurons that reset by subtraction (the chip resets to zero), a layer that quantises
            to nothing, or a layer whose numbers do not fit the registers at any useful scale.
    """
    if not 2 <= bits <= 8:
        raise DeployError(f"{bits}-bit weights are not possible; choose 2 to 8 bits")
    if not 1 <= input_bits <= 8:
        raise DeployError(f"{input_bits}-bit input is not possible; choose 1 to 8 bits")
    if graph.is_integer:
        raise DeployError("the graph is already quantised")
    for name, neuron in graph.neurons.items():
        if neuron.reset != "hard":
            raise DeployError(
                f"{name}: reset by subtraction does not exist in Lava; train with v_reset=0.0 (hard reset)"
            )
    graph = integer_inputs(graph, 2**input_bits - 1)
    arriving = input_bounds(graph)
    changed: dict[str, Node] = {}
    report: list[LayerScale] = []
    groups = neuron_groups(graph)
    scales = [_largest_scale(graph, group, 2 ** (bits - 1) - 1, arriving) for group in groups]
    for group, (scale, limited_by) in zip(groups, _aligned(graph, groups, scales), strict=True):
        nodes, rows = _quantize_group(graph, group, scale, limited_by)
        changed |= nodes
        report += rows
    return graph.with_nodes(changed), tuple(report)


def _aligned(graph: SpikingGraph, groups: Sequence[Group], scales: list[tuple[float, str]]) -> list[tuple[float, str]]:
    """The scales, lowered where neuron layers run side by side, so that these get the same integer threshold.

    On the chip they become one layer (`relays`), and a layer has one threshold.
    """
    depth = neuron_depths(graph)
    aligned = list(scales)
    for level in set(depth.values()):
        side_by_side = [i for i, g in enumerate(groups) if g.ends[0] in graph.neurons and depth[g.ends[0]] == level]
        if len(side_by_side) > 1:
            theta = {i: float(graph.neurons[groups[i].ends[0]].threshold) for i in side_by_side}
            common = max(1, math.floor(min(scales[i][0] * theta[i] for i in side_by_side)))
            for i in side_by_side:
                held_down = scales[i][0] * theta[i] >= common + 1
                aligned[i] = (min(scales[i][0], common / theta[i]), "neighbour" if held_down else scales[i][1])
    return aligned


def _quantize_group(
    graph: SpikingGraph, group: Group, scale: float, limited_by: str
) -> tuple[dict[str, Node], list[LayerScale]]:
    nodes: dict[str, Node] = {}
    rows: list[LayerScale] = []
    threshold = 0
    for end in group.ends:
        node = graph.nodes[end]
        if isinstance(node, IF | LIF):
            threshold = _integer_threshold(scale * node.threshold)
            if isinstance(node, LIF):  # Loihi's decay has 12 bits
                node = replace(node, leak=min(round(node.leak * 4096), 4095) / 4096)
            nodes[end] = replace(node, threshold=threshold, scale=scale)
        elif isinstance(node, Output):
            nodes[end] = replace(node, scale=scale)
    for name in group.synapses:
        synapse = graph.synapses[name]
        rounded = _rounded(synapse, scale)
        if not rounded.weight.any():
            raise DeployError(f"{name}: all its weights round to zero beside those it is summed with; use more bits")
        nodes[name] = rounded
        error = _rms(rounded.weight / scale - synapse.weight) / _rms(synapse.weight)
        rows.append(LayerScale(name, scale, threshold, int(np.abs(rounded.weight).max()), limited_by, error))
    return nodes, rows


def _largest_scale(graph: SpikingGraph, group: Group, largest: int, arriving: dict[str, float]) -> tuple[float, str]:
    """The largest scale at which weights, thresholds, biases and the worst possible current fit, and which of them set it."""
    synapses = {name: graph.synapses[name] for name in group.synapses}
    where = group.synapses[0]
    top = max(float(np.abs(s.weight).max()) for s in synapses.values())
    if top == 0:
        raise DeployError(f"{where}: all its weights are zero; a dead layer cannot be deployed (retrain or remove it)")
    limits = {"weights": largest / top}
    thresholds = [float(graph.neurons[e].threshold) for e in group.ends if e in graph.neurons]
    if thresholds:
        limits["threshold"] = (THRESHOLD_LIMIT - 1) / max(thresholds)
    bias = max((float(np.abs(s.bias).max()) for s in synapses.values() if s.bias is not None), default=0.0)
    if bias > 0:
        limits["bias"] = BIAS_LIMIT / bias
    limited_by = min(limits, key=limits.__getitem__)
    scale = limits[limited_by]
    # a membrane that is read out must hold all T currents with their biases, any other one current without
    is_output = graph.output_name in group.ends
    steps = graph.T if is_output else 1
    while scale * top >= 0.5:
        rounded = {name: _rounded(s, scale) for name, s in synapses.items()}
        bounds = [channel_bounds(s, arriving[name], bias=is_output) for name, s in rounded.items()]
        current = steps * float(np.sum(bounds, axis=0).max())
        if current <= CURRENT_LIMIT:
            return scale, limited_by
        # rounding makes the bound uneven in the scale, so step down until it holds
        scale, limited_by = scale * min(CURRENT_LIMIT / current, 0.999), "current"
    raise DeployError(
        f"{where}: no scale fits its {limited_by} into Lava's registers and keeps any weight above zero; "
        "use fewer input bits, a smaller fan-in, or retrain with weight decay"
    )


def _rounded(synapse: Synapse, scale: float) -> Synapse:
    """The layer in integers at a scale; a bias that rounds to nothing is dropped."""
    bias = None if synapse.bias is None else _integers(synapse.bias * scale)
    if bias is not None and not bias.any():
        bias = None
    return replace(synapse, weight=_integers(synapse.weight * scale), bias=bias)


def _integer_threshold(value: float) -> int:
    """The smallest integer V with A ≥ V ⇔ A ≥ value for integer A; a rounding error of the product is not a unit."""
    nearest = round(value)
    return nearest if math.isclose(value, nearest, rel_tol=1e-12) else math.ceil(value)


def _integers(values: Array) -> Array:
    return np.asarray(np.rint(values).astype(np.int32))


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
