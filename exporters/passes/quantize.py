"""The second step of lowering makes of a float `SpikingGraph` an integer graph, in the arithmetic of Loihi as Lava
simulates it.

Per membrane one scale s (integer units per real unit; Loihi's threshold is one number per layer):

    W_q = rint(s·W),   b_q = rint(s·b),   V = ceil(s·v_threshold),   v_start = rint(s·start), below V in amount

With integer membranes, `A ≥ V` is then exactly Lava's `v > (V − 1)·64`, and exactly `A ≥ s·v_threshold`: rounding the
threshold up moves no spike. The scale is the largest that respects every limit of the registers, Lava's and the chip's own
(`exporters.graph.registers`), so an integer graph made here can neither wrap nor clip, and what `check` holds against a
Loihi is not a threshold that was chosen here; where that costs resolution, `LayerScale` says so.

Calibrated, that is with `moments` of what every layer reads, the scale may be larger by up to 1/`CLIP_RATIOS[-1]`: the
few weights that then pass the largest integer are cut there, the others are represented more finely, and biases take up
the shift of the mean current. The scale with the least expected squared error of the current wins, and thresholds and
biases follow the weights that are left of it (`exporters.passes.moments` has the formulas and what they assume).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from exporters.errors import DeployError
from exporters.graph import LIF, AnySynapse, Neuron, Node, Output, SpikingGraph
from exporters.graph.bounds import input_bounds
from exporters.graph.registers import BIAS_LIMIT, CURRENT_LIMIT
from exporters.passes.integer_inputs import integer_inputs
from exporters.passes.membranes import Membrane, membranes_of, neuron_depths, register_leaks
from exporters.passes.moments import (
    InputMoments,
    clipping_error,
    mean_change,
    require_moments,
    weighted_product,
    weighted_squares,
)
from exporters.passes.register_bounds import (
    current_leaks,
    largest_bias,
    largest_current,
    threshold_limit,
    thresholds_of,
)
from exporters.passes.rounded_weights import rounded_at, rounding_loss

CLIP_RATIOS = tuple(float(r) for r in np.geomspace(1, 0.1, 78))
"""Calibration tries scales that are larger than without a cut by 1 over these ratios, in steps of 3 %; at 1 it cuts
nothing."""


@dataclass(frozen=True)
class LayerScale:
    """The row says how one synapse layer was quantized.

    Attributes:
        name: the synapse layer.
        scale: integer units per real unit of its membrane.
        threshold: the integer threshold V of the neurons it feeds (0 for a membrane read-out).
        largest: largest |integer weight|; below 2^(bits−1) − 1 when another limit held the scale down.
        limited_by: what set the scale: "weights", "current", "threshold", "bias", "neighbor" for the
            threshold of a layer that runs beside it, or "calibration" where cutting weights pays.
        rms_error: root mean square of W_q/s − W relative to that of W.
        clipped: share of the weights that were cut at the largest integer.
    """

    name: str
    scale: float
    threshold: int
    largest: int
    limited_by: str
    rms_error: float
    clipped: float


def require_bits(bits: int) -> None:
    """Raise DeployError for a width of weights that no chip here has."""
    if not 2 <= bits <= 8:
        raise DeployError(f"{bits}-bit weights are not possible; choose 2 to 8 bits")


def quantize(
    graph: SpikingGraph, *, bits: int = 8, input_bits: int = 8, moments: Mapping[str, InputMoments] | None = None
) -> tuple[SpikingGraph, tuple[LayerScale, ...]]:
    """The network gets integer weights of `bits` bits (sign included), integer biases and thresholds, integer pixels.

    Args:
        graph: a float graph.
        bits: 2 to 8.
        input_bits: 1 to 8, the resolution of direct-coded pixels (ignored for spike input).
        moments: synapse layer → mean and variance of what it reads, measured on
            `make_exact(graph, input_scale=2**input_bits - 1)`, whose layers read the same integers under
            the same names (`hardware.emulator.calibration`). None: no weight is cut and no bias corrected.

    Returns:
        The integer graph and a report per synapse layer.

    Raises:
        DeployError: a layer that quantizes to nothing, a layer whose numbers do not fit the registers at any useful
            scale, or moments of another network.
    """
    require_bits(bits)
    if not 1 <= input_bits <= 8:
        raise DeployError(f"{input_bits}-bit input is not possible; choose 1 to 8 bits")
    if graph.is_integer:
        raise DeployError("the graph is already quantized")
    graph = integer_inputs(graph, 2**input_bits - 1)
    if moments is not None:
        require_moments(graph, moments)
    setting = _Setting(graph, 2 ** (bits - 1) - 1, input_bounds(graph), moments)
    changed: dict[str, Node] = {}
    report: list[LayerScale] = []
    for level in _side_by_side(graph):
        largest = [_largest_scale(setting, membrane) for membrane in level]
        chosen = _aligned(graph, level, largest) if moments is None else _least_error(setting, level, largest)
        units = _units(setting, level, [scale for scale, _ in chosen])
        for membrane, (scale, limited_by), unit in zip(level, chosen, units, strict=True):
            nodes, rows = _quantize_membrane(setting, membrane, scale, unit, limited_by)
            changed |= nodes
            report += rows
    order = {name: i for i, name in enumerate(graph.synapses)}
    return graph.with_nodes(changed), tuple(sorted(report, key=lambda row: order[row.name]))


@dataclass(frozen=True, eq=False)
class _Setting:
    """Every decision below rests on these: `largest` is the largest integer weight, `arriving` are `input_bounds`.

    `latest` keeps what was rounded last, without moments, by the first of a membrane's layers: what fits is mostly what is taken.
    """

    graph: SpikingGraph
    largest: int
    arriving: Mapping[str, float]
    moments: Mapping[str, InputMoments] | None
    latest: dict[str, tuple[float, dict[str, AnySynapse]]] = field(default_factory=dict)


Chosen = tuple[float, str]
"""A choice is a scale and what limited it."""


def _side_by_side(graph: SpikingGraph) -> list[tuple[Membrane, ...]]:
    """The membranes whose neurons run side by side come together.

    On the chip these become one layer (`relays`), and a layer has one threshold.
    """
    depth = neuron_depths(graph)
    found: dict[tuple[str, int], list[Membrane]] = {}
    for i, membrane in enumerate(membranes_of(graph)):
        end = membrane.ends[0]
        found.setdefault(("depth", depth[end]) if end in graph.neurons else ("membrane", i), []).append(membrane)
    return [tuple(level) for level in found.values()]


def _aligned(graph: SpikingGraph, level: Sequence[Membrane], scales: Sequence[Chosen]) -> list[Chosen]:
    """The scales are lowered where neuron layers run side by side, so that these get the same integer threshold."""
    if len(level) == 1:
        return list(scales)
    thetas = [float(graph.neurons[membrane.ends[0]].threshold) for membrane in level]
    products = [scale * theta for (scale, _), theta in zip(scales, thetas, strict=True)]
    common = max(1, math.floor(min(products)))
    return [
        (min(scale, common / theta), "neighbor" if product >= common + 1 else limited_by)
        for (scale, limited_by), theta, product in zip(scales, thetas, products, strict=True)
    ]


def _least_error(setting: _Setting, level: Sequence[Membrane], largest: Sequence[Chosen]) -> list[Chosen]:
    """The scales are, of those that `CLIP_RATIOS` gives, the ones with the least expected error among all that fit.

    Side by side, errors add up in units of each layer's threshold. Where nothing fits, the largest
    scales without a cut, which `_quantize_membrane` then refuses with the reason.
    """
    best, least, improved = _aligned(setting.graph, level, largest), math.inf, True
    for ratio in CLIP_RATIOS:
        wider = [(scale / ratio, limited_by if ratio == 1 else "calibration") for scale, limited_by in largest]
        scales = _aligned(setting.graph, level, wider)
        pairs = [(membrane, scale) for membrane, (scale, _) in zip(level, scales, strict=True)]
        # what cutting alone costs only grows from here on
        if not improved and sum(_cut(setting, membrane, scale) for membrane, scale in pairs) > least:
            break
        found = [_integers_at(setting, membrane, scale) for membrane, scale in pairs]
        error = sum(error for _, error in found)
        improved = error < least and all(_fits(setting, *p, r) for p, (r, _) in zip(pairs, found, strict=True))
        if improved:
            best, least = scales, error
    return best


def _units(setting: _Setting, level: Sequence[Membrane], scales: Sequence[float]) -> list[float]:
    """Thresholds and biases are set at these scales, one a membrane: what its weights still make of their inputs, see
    `exporters.passes.moments`. Side by side, thresholds stay one."""
    if setting.moments is None:
        return list(scales)
    units = [scale * _gain(setting, membrane, scale) for membrane, scale in zip(level, scales, strict=True)]
    if len(level) > 1:
        thetas = [float(setting.graph.neurons[membrane.ends[0]].threshold) for membrane in level]
        common = max(1, round(float(np.mean([unit * theta for unit, theta in zip(units, thetas, strict=True)]))))
        units = [common / theta for theta in thetas]
    fit = all(
        _holds(setting, membrane, unit, _integers_at(setting, membrane, scale, unit)[0])
        for membrane, scale, unit in zip(level, scales, units, strict=True)
    )
    return units if fit else list(scales)


def _gain(setting: _Setting, membrane: Membrane, scale: float) -> float:
    """The slope of the current that is left at a scale over the current as it was."""
    assert setting.moments is not None
    left = whole = 0.0
    for name in membrane.synapses:
        synapse, moments = setting.graph.synapses[name], setting.moments[name]
        left += weighted_product(
            rounded_at(synapse.weight, scale, setting.largest) / scale, synapse.weight, synapse, moments
        )
        whole += weighted_squares(synapse.weight, synapse, moments)
    return left / whole if left > 0 else 1.0


def _fits(setting: _Setting, membrane: Membrane, scale: float, rounded: Mapping[str, AnySynapse]) -> bool:
    """A scale fits when nothing passes a register or vanishes at it."""
    return (
        round(scale * largest_bias(setting.graph, membrane)) <= BIAS_LIMIT
        and all(s.weight.any() for s in rounded.values())
        and _holds(setting, membrane, scale, rounded)
    )


def _holds(setting: _Setting, membrane: Membrane, unit: float, rounded: Mapping[str, AnySynapse]) -> bool:
    """The registers hold the thresholds in a unit and whatever current these layers can bring."""
    highest = max(thresholds_of(setting.graph, membrane), default=0.0)
    current = largest_current(setting.graph, membrane, rounded, setting.arriving)
    return _integer_threshold(unit * highest) <= threshold_limit(setting.graph, membrane) and current <= CURRENT_LIMIT


def _cut(setting: _Setting, membrane: Membrane, scale: float) -> float:
    """Cutting weights makes this part of a membrane's expected error on its own."""
    assert setting.moments is not None
    synapses, limit = setting.graph.synapses, setting.largest / scale
    error = sum(clipping_error(synapses[name], limit, setting.moments[name]) for name in membrane.synapses)
    return error / _unit(setting.graph, membrane) ** 2


def _unit(graph: SpikingGraph, membrane: Membrane) -> float:
    return min(thresholds_of(graph, membrane), default=1.0)


def _quantize_membrane(
    setting: _Setting, membrane: Membrane, scale: float, unit: float, limited_by: str
) -> tuple[dict[str, Node], list[LayerScale]]:
    graph = setting.graph
    nodes: dict[str, Node] = {}
    rows: list[LayerScale] = []
    threshold = 0
    for end in membrane.ends:
        node = graph.nodes[end]
        if isinstance(node, Neuron):
            threshold = _integer_threshold(unit * node.threshold)
            if isinstance(node, LIF):
                leak, current_leak = register_leaks(node)
                node = replace(node, leak=leak, current_leak=current_leak)
            start = integer_start(unit * node.start, threshold)
            nodes[end] = replace(node, threshold=threshold, scale=unit, start=start)
        elif isinstance(node, Output):
            nodes[end] = replace(node, scale=unit, leak=register_leaks(node)[0])
    integers, _ = _integers_at(setting, membrane, scale, unit)
    if largest_current(setting.graph, membrane, integers, setting.arriving) > CURRENT_LIMIT:
        raise DeployError(
            f"{membrane.synapses[0]}: corrected biases do not fit Lava's registers; quantize without calibration"
        )
    for name, rounded in integers.items():
        synapse = graph.synapses[name]
        if not rounded.weight.any():
            raise DeployError(f"{name}: all its weights round to zero beside those it is summed with; use more bits")
        nodes[name] = rounded
        error, clipped = rounding_loss(synapse.weight, rounded.weight, scale, unit, setting.largest)
        largest = max(int(rounded.weight.max()), -int(rounded.weight.min()))
        rows.append(LayerScale(name, unit, threshold, largest, limited_by, error, clipped))
    return nodes, rows


def _largest_scale(setting: _Setting, membrane: Membrane) -> Chosen:
    """The choice is the largest scale at which weights, thresholds, biases and the worst possible current fit, and
    which of them set it."""
    where = membrane.synapses[0]
    weights = [setting.graph.synapses[name].weight for name in membrane.synapses]
    top = max(max(float(weight.max()), -float(weight.min())) for weight in weights)
    if top == 0:
        raise DeployError(f"{where}: all its weights are zero; a dead layer cannot be deployed (retrain or remove it)")
    limits = {"weights": setting.largest / top}
    thresholds, bias = thresholds_of(setting.graph, membrane), largest_bias(setting.graph, membrane)
    if thresholds:
        limits["threshold"] = threshold_limit(setting.graph, membrane) / max(thresholds)
    if bias > 0:
        limits["bias"] = BIAS_LIMIT / bias
    limited_by = min(limits, key=limits.__getitem__)
    scale = limits[limited_by]
    while scale * top >= 0.5:
        integers, _ = _integers_at(setting, membrane, scale)
        current = largest_current(setting.graph, membrane, integers, setting.arriving)
        if current <= CURRENT_LIMIT:
            return scale, limited_by
        # rounding makes the bound uneven in the scale, so step down until it holds
        scale, limited_by = scale * min(CURRENT_LIMIT / current, 0.999), "current"
    raise DeployError(
        f"{where}: no scale fits its {limited_by} into Lava's registers and keeps any weight above zero; "
        "use fewer input bits, a smaller fan-in, or retrain with weight decay"
    )


def _integers_at(
    setting: _Setting, membrane: Membrane, scale: float, unit: float | None = None
) -> tuple[dict[str, AnySynapse], float]:
    """The membrane's synapse layers become integers at a scale, and their current gets an expected squared error.

    Biases are in another `unit` where one is given. The error is in units of the membrane's (lowest) threshold if it has
    one, and 0 without calibration. A bias that rounds to nothing is dropped.
    """
    unit = scale if unit is None else unit
    known = setting.latest.get(membrane.synapses[0])
    if known is not None and known[0] == scale:
        return known[1], 0.0
    rounded: dict[str, AnySynapse] = {}
    error = 0.0
    remaining = np.zeros((1, 1))  # shift of the membrane's mean current, (output channel, position)
    # where the current persists the bias passes it by, and cannot make up for it
    corrects = not any(current_leaks(setting.graph, membrane))
    for name in membrane.synapses:
        synapse = setting.graph.synapses[name]
        whole = rounded_at(synapse.weight, scale, setting.largest)
        # (output channel, position); one position stands for all where the bias is the same at each
        wanted = np.zeros((len(whole), 1)) if synapse.bias is None else synapse.bias.astype(np.float64)
        wanted = wanted.reshape(len(whole), -1)
        shift = np.zeros((len(whole), 1))
        if setting.moments is not None:
            moments, change = setting.moments[name], whole / unit - synapse.weight
            shift[:, 0] = mean_change(change, synapse, moments)
            error += weighted_squares(change, synapse, moments)
        bias = np.rint(np.clip((wanted - shift if corrects else wanted) * unit, -BIAS_LIMIT, BIAS_LIMIT))
        if setting.moments is not None:
            remaining = remaining + shift + bias / unit - wanted
        shape = len(whole) if synapse.bias is None else synapse.bias.shape
        integers = bias.astype(np.int32).reshape(shape) if bias.any() else None
        rounded[name] = replace(synapse, weight=whole, bias=integers)
    if setting.moments is None:
        setting.latest[membrane.synapses[0]] = scale, rounded
    return rounded, (error + float((remaining**2).mean(axis=1).sum())) / _unit(setting.graph, membrane) ** 2


def _integer_threshold(value: float) -> int:
    """The threshold is the smallest integer V with A ≥ V ⇔ A ≥ value for integer A; a rounding error of the product is
    not a unit."""
    nearest = round(value)
    return nearest if math.isclose(value, nearest, rel_tol=1e-12) else math.ceil(value)


def integer_start(value: float, threshold: int) -> int:
    """The nearest integer, halves to the even one whichever way the product was rounded, that alone neither fires nor lies as
    deep below 0."""
    twice = 2 * value
    nearest = round(twice)
    start = round(nearest / 2) if math.isclose(twice, nearest, rel_tol=1e-12) else round(value)
    return max(1 - threshold, min(start, threshold - 1))
