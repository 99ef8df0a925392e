"""Neurons that the network writes out itself: their arithmetic is run like any other, and understood where it compares.

A comparison of a current with a threshold is a step of a layer of neurons. What the layer does to its membrane v shows in
what the next step compares, which is made of nodes' elements like every value:

* d₁ = x₁ + b − θ, the first time;
* d_t = a·(v_{t−1} after its reset) + x_t + b − θ afterwards, where v_{t−1} = d_{t−1} + θ.

A hard reset multiplies the membrane by (1 − spike), which leaves elements of an origin of its own (the membrane where the
neuron fires, else 0) with the factor −a. A reset by subtraction leaves spikes with the factor −a·θ. From these factors
follow leak and threshold; what remains must be the current of the first step. Anything else is refused, so that nothing is
guessed: neither a class nor its attributes are looked at. Comparisons without a membrane are neurons that leak all of it.
"""

from __future__ import annotations

import math
from collections.abc import Hashable

import numpy as np
import torch
from torch import nn

from exporters.from_torch.decode import Read
from exporters.from_torch.factors import Factor, as_tensor, minus, plus
from exporters.from_torch.lowering import Found, Lowering, NeuronLayer, Written, key_of
from exporters.from_torch.refusals import call_site, node_name
from exporters.from_torch.steps import arriving, neuron_shape, shift_for
from exporters.from_torch.synapses import rows_of
from exporters.from_torch.values import Affine, Gather, Origin, added, elements, is_run, laid_out, same_place, scaled
from exporters.graph import IF, Array, Shape
from exporters.graph.nodes import Reset

TINY = 1e-9
"""Relative differences that float64 arithmetic leaves."""

ANOTHER_MEMBRANE = (
    "its membrane takes in something else than at its first: it is no IF or LIF neuron, or the network changes over time; "
    "declare it, or use one of SpikingJelly's"
)


def fired(lowering: Lowering, difference: Affine, *, strict: bool) -> Affine:
    """The spikes where a current less a threshold is at least 0 (or above it, if `strict`).

    Raises:
        LoweringError: it is no step of a neuron that a graph has.
    """
    if not difference.shape:
        raise lowering.error(
            "its forward compares a single number that the network computes; a graph is the same for every input"
        )
    again = _compared_before(lowering, difference, strict=strict)
    if again is not None:
        return again
    feedback = _feedback(lowering, difference)
    if feedback is None:
        return _first_or_alone(lowering, difference, strict=strict)
    written, step = feedback
    layer, name = written.layer, written.layer.name
    if step != layer.steps - 1 or strict != written.strict:
        raise lowering.error(f"it reads the membrane of {name} out of order; a neuron's step follows the one before it")
    rest, found = _explained(lowering, written, difference)
    written.found = written.found or found
    if not _agree(written.found, found):
        raise lowering.error("its leak, threshold or bias changes over time", name)
    reads, _ = rows_of(lowering, layer_rows(lowering, rest, layer.origin.size), name)
    if any(read.origin is layer.origin for read in reads):
        raise lowering.error(
            "its membrane takes in its own spikes of more than one step before, as that of neurons that adapt or rest does; they "
            "are no IF or LIF neurons",
            name,
        )
    layer.arrivals = arriving(lowering, layer.arrivals, reads, layer.steps, 1, name, ANOTHER_MEMBRANE)
    return _spikes(lowering, written, difference)


def _spikes(lowering: Lowering, written: Written, difference: Affine) -> Affine:
    layer = written.layer
    start = layer.steps * lowering.samples * layer.origin.size
    layer.steps += 1
    written.differences.append(difference)
    written.site = call_site()
    return Affine(difference.shape, (Gather(layer.origin, elements(start, difference.shape)),))


def _compared_before(lowering: Lowering, difference: Affine, *, strict: bool) -> Affine | None:
    """The spikes of a comparison that the network makes a second time.

    What is the same at every step may be compared anew by the next step of neurons without memory, or by other neurons.
    These come back to the same place in the code, or are another module.
    """
    for written in lowering.written.values():
        if written.strict != strict or not written.differences:
            continue
        last = written.differences[-1]
        if last.shape != difference.shape or len(last.gathers) != len(difference.gathers):
            continue
        if (
            (any(not g.origin.is_static for g in last.gathers) or _again(lowering, written))
            and _is_nothing(minus(last.shift, difference.shift, len(last.shape)))
            and all(_is_nothing(minus(g.scale, _factor_of(difference, g), len(last.shape))) for g in last.gathers)
        ):
            start = (written.layer.steps - 1) * lowering.samples * written.layer.origin.size
            return Affine(difference.shape, (Gather(written.layer.origin, elements(start, difference.shape)),))
    return None


def _again(lowering: Lowering, written: Written) -> bool:
    """Whether the module that wrote a step of neurons looks at it once more, further on in its code."""
    return written.layer.name == _name(lowering) and call_site() != written.site


def layer_rows(lowering: Lowering, value: Affine, size: int) -> Affine:
    """The value of layers of a size with its axes before the features as one: (B, *features).

    Raises:
        LoweringError: it holds no whole samples of such a layer.
    """
    shape = value.shape
    for at in range(len(shape) + 1):
        rows = math.prod(shape[:at])
        if math.prod(shape[at:]) == size and rows % lowering.samples == 0:
            layers = (rows, *shape[at:])
            return laid_out(value, lambda t, to=layers: t.reshape(to))  # type: ignore[misc]
    raise lowering.error(
        f"it compares values of shape {tuple(shape)}, which are not {lowering.samples} samples of a layer"
    )


def feature_count(lowering: Lowering, value: Affine) -> int:
    """How many neurons a value is of: what lies behind the axes of time and samples."""
    total = math.prod(value.shape)
    for size in sorted({g.origin.size for g in value.gathers}, reverse=True):
        if total % (size * lowering.samples) == 0:
            return size
    raise lowering.error(f"it compares values of shape {tuple(value.shape)}, which are no layer of neurons")


def _first_or_alone(lowering: Lowering, difference: Affine, *, strict: bool) -> Affine:
    """The first step of a neuron, or any of one that has no membrane."""
    name = _name(lowering)
    value = layer_rows(lowering, difference, feature_count(lowering, difference))
    reads, shift = rows_of(lowering, value, name)
    key: Hashable = ("written", name, key_of(_newest(reads), shift), strict)
    written = lowering.written.get(key)
    if written is not None and written.found is not None:  # the same current once more: another layer
        key = (key, len(lowering.written))
        written = None
    steps = value.shape[0] // lowering.samples
    known, done = ((), 0) if written is None else (written.layer.arrivals, written.layer.steps)
    arrivals = arriving(lowering, known, reads, done, steps, name)
    if written is None:
        lowering.progress += 1
        node = lowering.builder.add(name, IF(1.0), [])
        inner = neuron_shape(reads, value.shape[1:])
        lowering.firing[node] = inner
        origin = Origin(node, inner, lowering.T, lowering.samples, (node,), is_binary=True)
        layer = lowering.neurons["written", node] = NeuronLayer(node, origin, key)
        membrane = Origin(f"the membrane of {node}", inner, lowering.T, lowering.samples, gates=origin)
        layer.shift = shift_for(shift, value.shape[1:], inner)
        written = lowering.written[key] = Written(layer, membrane, strict)
    written.layer.arrivals = arrivals
    if steps == 1:
        return _spikes(lowering, written, difference)
    layer = written.layer
    start = layer.steps * lowering.samples * layer.origin.size
    layer.steps += steps
    written.differences.append(difference)
    written.site = call_site()
    return Affine(difference.shape, (Gather(layer.origin, elements(start, difference.shape)),))


def _newest(reads: list[Read]) -> list[Read]:
    """Those of the last step, without what comes from earlier ones."""
    last = max((int(read.rows[-1]) for read in reads if not read.origin.is_static), default=0)
    return [read for read in reads if read.origin.is_static or int(read.rows[-1]) == last]


def _name(lowering: Lowering) -> str:
    """The module that is a neuron, whose surrogate function may be another within it; or where neurons are written out."""
    stack = lowering.stack
    at = len(stack) - 1
    while at > 0 and not _has_layers(stack[at - 1][1]) and not isinstance(stack[at - 1][1], nn.Sequential):
        at -= 1
    path, module = stack[at]
    name = node_name(path, module)
    return f"{name}.neuron" if _has_layers(module) else name


def _has_layers(module: nn.Module) -> bool:
    kinds = nn.modules.conv._ConvNd | nn.Linear | nn.modules.batchnorm._BatchNorm
    return any(isinstance(m, kinds) for m in module.modules())


# -- what feeds back ---------------------------------------------------------------------------------


def written_layers(lowering: Lowering) -> dict[int, Written]:
    """The neurons that the network writes out, by the identity of their spikes."""
    return {id(w.layer.origin): w for w in lowering.written.values()}


def step_of(lowering: Lowering, gather: Gather) -> int:
    """The step, from 0, that the first element of a gather is of."""
    return int(gather.index[(0,) * gather.index.ndim]) // (lowering.samples * gather.origin.size)


def _feedback(lowering: Lowering, value: Affine) -> tuple[Written, int] | None:
    """The layer whose membrane or reset is part of a value, and the step that it is of."""
    known = written_layers(lowering)
    gated = [(step_of(lowering, g), id(g.origin.gates)) for g in value.gathers if g.origin.gates is not None]
    if gated:  # those of earlier steps are part of the last membrane
        step, of = max(gated)
        return known[of], step
    for (
        gather
    ) in value.gathers:  # a reset by subtraction leaves but spikes, beside the currents of the step that they are of
        written = known.get(id(gather.origin))
        if written is None or not is_run(gather.index) or not written.differences:
            continue
        before = written.differences[-1]
        if not before.shape == value.shape == tuple(gather.index.shape):
            continue
        if not all(any(same_place(g, o, closely=True) for o in value.gathers) for g in before.gathers):
            continue
        if gather.index.numel() > lowering.samples * gather.origin.size:
            raise lowering.error(
                "it runs several steps of its neurons within each step of its input", written.layer.name
            )
        if (step := step_of(lowering, gather)) == written.layer.steps - 1:
            return written, step
    return None


def _factor_of(value: Affine, like: Gather) -> Factor:
    """The factor with which a value holds some elements."""
    total: Factor = 0.0
    for gather in value.gathers:
        if same_place(gather, like, closely=True):
            total = plus(total, gather.scale, len(value.shape))
    return total


def _explained(lowering: Lowering, written: Written, difference: Affine) -> tuple[Affine, Found]:
    """What a step takes in anew, and the neuron's numbers, told by what is left of the last step."""
    before, layer, ndim = written.differences[-1], written.layer, len(difference.shape)
    name = layer.name
    index = elements((layer.steps - 1) * lowering.samples * layer.origin.size, difference.shape)
    gate = _factor_of(difference, Gather(written.gated, index))
    spike = _factor_of(difference, Gather(layer.origin, index))
    reset: Reset
    if _is_nothing(gate):
        leak, reset = _leak_from_history(lowering, written, difference), "soft"
        level: Factor = -spike / leak
    else:
        leak, reset = _number(lowering, -gate, "leak", name), "hard"
        # a membrane d + θ is reset by −(d without its shift)·spike − κ·spike: κ is a·(its shift + θ − where it resets to)
        level = minus(-spike / leak, before.shift, ndim)
    threshold = _row(lowering, level, difference.shape, layer.origin.shape, name, "its threshold")
    level = threshold if isinstance(threshold, float) else level
    membrane = plus(before.shift, level, ndim)  # its constant part
    bias = plus(minus(difference.shift, membrane * leak, ndim), level, ndim)
    rest = added(difference, scaled(Affine(before.shape, before.gathers), -leak))
    own = (written.gated, layer.origin)
    kept = [
        g
        for g in rest.gathers
        if not _is_nothing(g.scale) and not (g.origin in own and step_of(lowering, g) == layer.steps - 1)
    ]
    row = _row(lowering, bias, difference.shape, layer.origin.shape, name)
    return Affine(rest.shape, tuple(kept)), Found(leak, threshold, reset, row)


def _leak_from_history(lowering: Lowering, written: Written, now: Affine) -> float:
    """The factor with which the last step's current is in this one's; what is the same at every step is in it once more."""
    before, first = written.differences[-1], written.differences[0]
    gather = next((g for g in before.gathers if g.origin is not written.layer.origin), None)
    if gather is None:
        raise lowering.error("its membrane cannot be told from its spikes", written.layer.name)
    old, new = as_tensor(gather.scale).reshape(-1)[0], as_tensor(_factor_of(now, gather)).reshape(-1)[0]
    if gather.origin.is_static:
        new = new - as_tensor(_factor_of(first, gather)).reshape(-1)[0]
    return tidy(float(new / old))


def _number(lowering: Lowering, factor: Factor, what: str, name: str) -> float:
    """The one number of a factor."""
    numbers = as_tensor(factor)
    first = float(numbers.reshape(-1)[0])
    if not bool(torch.isclose(numbers, as_tensor(first), rtol=TINY, atol=TINY).all()):
        raise lowering.error(f"its {what} differs between neurons, where a layer has one", name)
    return tidy(first)


def tidy(number: float) -> float:
    """The number without what rounding left: the short decimal, or float32, that it is but for its last bits."""
    for candidate in (float(f"{number:.12g}"), float(np.float32(number))):
        if math.isclose(candidate, number, rel_tol=4e-15, abs_tol=1e-300):
            return candidate
    return number


def _is_nothing(factor: Factor) -> bool:
    return bool((as_tensor(factor).abs() < 1e-13).all())


def _row(
    lowering: Lowering,
    factor: Factor,
    shape: Shape,
    inner: Shape,
    name: str,
    what: str = "what is added to its membrane",
) -> float | Array:
    """The constants of one row of a layer, which must be those of every row; a number where they are all the same."""
    rows = as_tensor(factor).expand(shape).reshape(-1, *inner)
    if not bool(torch.isclose(rows, rows[:1], rtol=TINY, atol=1e-13).all()):
        raise lowering.error(f"{what} differs between steps or samples", name)
    level = float(rows.reshape(-1)[0])
    if bool(torch.isclose(rows, as_tensor(level), rtol=TINY, atol=1e-13).all()):
        return tidy(level) if abs(level) > 1e-13 else 0.0
    return rows[0].numpy()


def _agree(a: Found, b: Found) -> bool:
    return (
        a.reset == b.reset
        and math.isclose(a.leak, b.leak, rel_tol=TINY)
        and bool(np.allclose(a.threshold, b.threshold, rtol=TINY, atol=0))
        and bool(np.allclose(a.bias, b.bias, rtol=TINY, atol=TINY * float(np.max(np.abs(a.threshold)))))
    )
