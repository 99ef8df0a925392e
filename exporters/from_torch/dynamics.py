"""Neurons that the network writes out itself: their arithmetic is run like any other, and understood where it compares.

A comparison of a current with a threshold is a step of a layer of neurons. What it does to the membrane shows in what the
next step compares, which is made of nodes' elements like every value:

* d₁ = x₁ + b − θ, the first time;
* d_t = a·(v_{t−1} after its reset) + x_t + b − θ afterwards, where v_{t−1} = d_{t−1} + θ.

A hard reset multiplies the membrane by (1 − spike), which leaves elements of a source of its own (the membrane where the
neuron fires, else 0) with the factor −a. A reset by subtraction leaves spikes with the factor −a·θ. From these factors
follow leak and threshold; what remains must be the current of the first step. Anything else is refused, so that nothing is
guessed: neither the class nor its attributes are looked at. Comparisons without a membrane are neurons that leak all of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from exporters.from_torch.decode import Read, same_numbers
from exporters.from_torch.lowering import Lowering, NeuronLayer, as_bytes, key_of
from exporters.from_torch.neurons import Constants, as_layer, neuron_shape, node_of, require_steps
from exporters.from_torch.refusals import node_name
from exporters.from_torch.synapses import current, place, rows_index, rows_of
from exporters.from_torch.values import Affine, Factor, Gather, Source, added, aligned, elements, is_run, laid_out, same_place, scaled
from exporters.graph import IF, LIF, Array, Shape
from exporters.graph.nodes import Reset

TINY = 1e-9
"""Relative differences that float64 arithmetic leaves."""


@dataclass(eq=False)
class Written:
    """A layer of neurons that the network writes out.

    Attributes:
        layer: its spikes and steps.
        first: what it reads at its first step, (reads, shift).
        differences: what it compared with zero at each step, in the layout of the network.
        gated: the source of its membrane where it fires.
        strict: whether it fires above its threshold and not at it.
        found: leak, threshold, reset, bias and current leak, once the second step has told.
        lasting: the currents of the last step, where they persist.
    """

    layer: NeuronLayer
    first: tuple[list[Read], float | Array]
    gated: Source
    strict: bool
    differences: list[Affine] = field(default_factory=list)
    found: Found | None = None


@dataclass(frozen=True)
class Found:
    """The numbers of a neuron that its second step told."""

    leak: float
    threshold: float
    reset: Reset
    bias: float | Array


def fired(lowering: Lowering, difference: Affine, *, strict: bool) -> Affine:
    """The spikes where a current less a threshold is at least 0 (or above it, if `strict`).

    Raises:
        LoweringError: it is no step of a neuron that a graph has.
    """
    feedback = _feedback(lowering, difference)
    if feedback is None:
        return _first_or_alone(lowering, difference, strict=strict)
    written, step = feedback
    name = written.layer.name
    if step != written.layer.steps - 1 or strict != written.strict:
        raise lowering.error(f"it reads the membrane of {name} out of order; a neuron's step follows the one before it")
    rest, found = _explained(lowering, written, difference)
    if written.found is None:
        written.found = found
    elif not _agree(written.found, found):
        raise lowering.error(f"the leak, threshold or bias of {name} changes over time", name)
    value = _rows(lowering, rest, written.layer.source.size)
    reads, _ = rows_of(lowering, value, name)
    require_steps(lowering, reads, written.layer.steps, 1, name)
    if not _same_reads(written.first[0], reads):
        raise lowering.error(
            f"the membrane of {name} takes in something else at step {written.layer.steps + 1} than at its first; it is no "
            "IF or LIF neuron, or the network changes over time; declare it, or use one of SpikingJelly's",
            name,
        )
    return _spikes(lowering, written, difference)


def _spikes(lowering: Lowering, written: Written, difference: Affine) -> Affine:
    layer = written.layer
    start = layer.steps * lowering.samples * layer.source.size
    layer.steps += 1
    written.differences.append(difference)
    return Affine(difference.shape, (Gather(layer.source, elements(start, difference.shape)),))


def _rows(lowering: Lowering, value: Affine, size: int) -> Affine:
    """The value with its axes before the features as one."""
    shape, count = value.shape, 1
    for at in range(len(shape), -1, -1):
        if count == size and (at == 0 or math.prod(shape[:at]) % lowering.samples == 0):
            rows = math.prod(shape[:at])
            features = shape[at:]
            return laid_out(value, lambda t: t.reshape(rows, *features))
        count *= shape[at - 1] if at else 1
    raise lowering.error(f"it compares values of shape {tuple(shape)}, which are not {lowering.samples} samples of a layer")


def _first_or_alone(lowering: Lowering, difference: Affine, *, strict: bool) -> Affine:
    """The first step of a neuron, or any of one that has no membrane."""
    if not difference.gathers:
        raise lowering.unknown("ge")
    name = _name(lowering)
    value = _rows(lowering, difference, _features(lowering, difference))
    reads, shift = rows_of(lowering, value, name)
    key = ("written", name, key_of(reads, shift), strict)
    written = lowering.written.get(key)
    rows = value.shape[0]
    if rows % lowering.samples:
        raise lowering.error("it compares a part of the samples", name)
    steps = rows // lowering.samples
    done = written.layer.steps if written is not None else 0
    require_steps(lowering, reads, done, steps, name)
    if written is None or (steps == 1 and written.found is not None):
        lowering.progress += 1
        inner = neuron_shape(reads, value.shape[1:])
        node = lowering.builder.add(name, IF(1.0), [])
        source = Source(node, inner, lowering.T, lowering.samples, (node,), is_binary=True)
        layer = as_layer(name, source, key)
        written = Written(layer, (reads, shift), Source(f"{node}.v", inner, lowering.T, lowering.samples), strict)
        written.gated.gates = source
        lowering.written[key] = written
        lowering.neurons[("written", node)] = layer
        lowering.fires.add(node)
    if steps == 1:
        return _spikes(lowering, written, difference)
    start = written.layer.steps * lowering.samples * written.layer.source.size
    written.layer.steps += steps
    return Affine(difference.shape, (Gather(written.layer.source, elements(start, difference.shape)),))


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
    return any(isinstance(m, nn.modules.conv._ConvNd | nn.Linear | nn.modules.batchnorm._BatchNorm) for m in module.modules())


def _features(lowering: Lowering, value: Affine) -> int:
    """How many neurons compare: what lies behind the axes of time and samples."""
    total = math.prod(value.shape)
    sizes = {g.source.size for g in value.gathers}
    for size in sorted(sizes, reverse=True):
        if total % (size * lowering.samples) == 0:
            return size
    raise lowering.error(f"it compares values of shape {tuple(value.shape)}, which are no layer of neurons")


# -- what feeds back ---------------------------------------------------------------------------------


def _feedback(lowering: Lowering, value: Affine) -> tuple[Written, int] | None:
    """The layer whose membrane or reset is part of a value, and the step that it is of."""
    gated = [(_step_of(lowering, g), g.source.gates) for g in value.gathers if g.source.gates is not None]
    if gated:  # those of earlier steps are part of the last membrane
        step, source = max(gated, key=lambda found: found[0])
        return _written_of(lowering, source), step
    for gather in value.gathers:  # a reset by subtraction leaves but spikes: those of the layer whose last current is in here too
        written = next((w for w in lowering.written.values() if w.layer.source is gather.source), None)
        if written is None or not written.differences or not is_run(gather.index):
            continue
        if gather.index.numel() != lowering.samples * gather.source.size:
            continue
        step = _step_of(lowering, gather)
        if step != written.layer.steps - 1:
            continue
        before = written.differences[step]
        if before.shape == value.shape and all(any(_same_place(g, o) for o in value.gathers) for g in before.gathers):
            return written, step
    return None


def _written_of(lowering: Lowering, source: Source) -> Written:
    return next(w for w in lowering.written.values() if w.layer.source is source)


def _step_of(lowering: Lowering, gather: Gather) -> int:
    return int(gather.index.reshape(-1)[0]) // (lowering.samples * gather.source.size)


def _same_place(a: Gather, b: Gather) -> bool:
    return same_place(a, b, closely=True)


def _coefficient(value: Affine, like: Gather) -> Factor:
    total: Factor = 0.0
    for gather in value.gathers:
        if _same_place(gather, like):
            total = _plus(total, gather.scale, len(value.shape))
    return total


def _explained(lowering: Lowering, written: Written, difference: Affine) -> tuple[Affine, Found]:
    """What a step takes in anew, and the numbers of the neuron that what is left of the last step tells."""
    before, first = written.differences[-1], written.differences[0]
    start = (written.layer.steps - 1) * lowering.samples * written.layer.source.size
    index = elements(start, difference.shape)
    gate = _coefficient(difference, Gather(written.gated, index))
    spike = _coefficient(difference, Gather(written.layer.source, index))
    name = written.layer.name
    ndim = len(difference.shape)
    if not _is_zero(gate):
        leak, reset = _number(lowering, _negative(gate), f"the leak of {name}"), "hard"
        # relative to where it resets to, the membrane was κ/a − (what is not shift) and the threshold follows
        level = _minus(_divided(_negative(spike), leak), before.shift, ndim)
    else:
        leak, reset = _leak_from_history(lowering, name, difference, before, first), "soft"
        level = _divided(_negative(spike), leak)
    threshold = _number(lowering, level, f"the threshold of {name}")
    membrane = _plus(before.shift, threshold, ndim)  # the constant part of the last membrane
    bias = _plus(_minus(difference.shift, _scaled(membrane, leak), ndim), threshold, ndim)
    rest = added(difference, scaled(Affine(before.shape, before.gathers), -leak))
    own = {id(written.gated), id(written.layer.source)}
    kept = [g for g in rest.gathers if not (id(g.source) in own and _step_at(lowering, g, written)) and not _is_zero(g.scale)]
    value = Affine(rest.shape, tuple(kept))
    row = _row(lowering, bias, difference.shape, written.layer.source.shape)
    return value, Found(leak, threshold, reset, row)  # type: ignore[arg-type]


def _step_at(lowering: Lowering, gather: Gather, written: Written) -> bool:
    return _step_of(lowering, gather) == written.layer.steps - 1


def _leak_from_history(lowering: Lowering, name: str, now: Affine, before: Affine, first: Affine) -> float:
    """The factor with which the last step's current is in this one's; what is the same at every step is in it once more."""
    for gather in before.gathers:
        if gather.source.gates is not None:
            continue
        old = _number(lowering, gather.scale, f"the current of {name}", any_one=True)
        new = _number(lowering, _coefficient(now, gather), f"the current of {name}", any_one=True)
        if gather.source.is_static:
            again = next((g.scale for g in first.gathers if _same_place(g, gather)), 0.0)
            new -= _number(lowering, again, f"the current of {name}", any_one=True)
        return _tidy(new / old)
    raise lowering.error(f"the membrane of {name} cannot be told from its spikes", name)


def _number(lowering: Lowering, factor: Factor, what: str, *, any_one: bool = False) -> float:
    """The one number of a factor."""
    if isinstance(factor, float):
        return _tidy(factor)
    first = float(factor.reshape(-1)[0])
    if not any_one and not bool(torch.isclose(factor, torch.tensor(first, dtype=torch.float64), rtol=TINY, atol=TINY).all()):
        raise lowering.error(f"{what} differs between neurons, where a layer has one")
    return first if any_one else _tidy(first)


def _tidy(number: float) -> float:
    """The number without what rounding left: the short decimal, or float32, that it is but for its last bits."""
    for candidate in (float(f"{number:.12g}"), float(np.float32(number))):
        if math.isclose(candidate, number, rel_tol=4e-15, abs_tol=1e-300):
            return candidate
    return number


def _is_zero(factor: Factor) -> bool:
    if isinstance(factor, float):
        return abs(factor) < 1e-13
    return bool((factor.abs() < 1e-13).all())


def _negative(factor: Factor) -> Factor:
    return -factor


def _divided(factor: Factor, by: float) -> Factor:
    return factor / by if by else factor


def _scaled(factor: Factor, by: float) -> Factor:
    return factor * by


def _plus(a: Factor, b: Factor, ndim: int) -> Factor:
    a = aligned(a, ndim) if isinstance(a, Tensor) else a
    b = aligned(b, ndim) if isinstance(b, Tensor) else b
    return a + b


def _minus(a: Factor, b: Factor, ndim: int) -> Factor:
    return _plus(a, _negative(b), ndim)


def _row(lowering: Lowering, factor: Factor, shape: Shape, inner: Shape) -> float | Array:
    """The constants of one row of a layer, which must be those of every row; a number where they are all the same."""
    if isinstance(factor, float):
        return _tidy(factor) if abs(factor) > 1e-13 else 0.0
    rows = factor.expand(shape).reshape(-1, *inner)
    if not bool(torch.isclose(rows, rows[:1], rtol=TINY, atol=1e-13).all()):
        raise lowering.error("what is added to a membrane differs between steps or samples")
    level = float(rows.reshape(-1)[0])
    if bool(torch.isclose(rows, torch.tensor(level, dtype=torch.float64), rtol=TINY, atol=1e-13).all()):
        return _tidy(level) if abs(level) > 1e-13 else 0.0
    return rows[0].numpy()


def _agree(a: Found, b: Found) -> bool:
    return (
        a.reset == b.reset
        and math.isclose(a.leak, b.leak, rel_tol=TINY)
        and math.isclose(a.threshold, b.threshold, rel_tol=TINY)
        and bool(np.allclose(a.bias, b.bias, rtol=TINY, atol=TINY * a.threshold))
    )


def _same_reads(a: list[Read], b: list[Read]) -> bool:
    """Whether two sums are of the same sources with the same factors, but for rounding."""
    if len(a) != len(b):
        return False
    free = list(b)
    for read in a:
        for other in free:
            if (
                read.source is other.source
                and same_numbers(read.features, other.features)
                and np.shape(read.scale) == np.shape(other.scale)
                and np.allclose(read.scale, other.scale, rtol=TINY, atol=0)
            ):
                free.remove(other)
                break
        else:
            return False
    return True


# -- products ----------------------------------------------------------------------------------------


def product(lowering: Lowering, a: Affine, b: Affine) -> Affine:
    """The product of two values: of a membrane and its own spikes, or of spikes.

    Raises:
        LoweringError: it is another.
    """
    shape = tuple(torch.broadcast_shapes(a.shape, b.shape))
    if a.shape == b.shape == shape:
        for membrane, spikes in ((a, b), (b, a)):
            found = _gated(lowering, membrane, spikes)
            if found is not None:
                return found
        found = _both(lowering, a, b)
        if found is not None:
            return found
    raise lowering.error(
        "it multiplies two signals that depend on the input, which no layer does but for spikes (AND, IAND) and for neurons' "
        "own resets"
    )


def _gated(lowering: Lowering, membrane: Affine, spikes: Affine) -> Affine | None:
    """A membrane times (a line of) the spikes that it has just given."""
    if len(spikes.gathers) != 1 or isinstance(spikes.gathers[0].scale, Tensor) or isinstance(spikes.shift, Tensor):
        return None
    gather = spikes.gathers[0]
    written = next((w for w in lowering.written.values() if w.layer.source is gather.source), None)
    if written is None or not is_run(gather.index) or gather.index.numel() != lowering.samples * gather.source.size:
        return None
    step = _step_of(lowering, gather)
    if step >= len(written.differences):
        return None
    compared = written.differences[step]
    factor = _proportion(membrane, compared)
    if factor is None:
        return None
    ndim = len(membrane.shape)
    rest = _minus(membrane.shift, _scaled(compared.shift, factor), ndim)
    # membrane = factor·compared + rest, so that membrane·spike = factor·(compared without its shift)·spike + (…)·spike
    constant = _plus(rest, _scaled(compared.shift, factor), ndim)
    gated = Affine(membrane.shape, (Gather(written.gated, gather.index, factor),))
    on_spikes = scaled(Affine(membrane.shape, (replace(gather, scale=1.0),)), constant)
    total = added(scaled(gated, float(gather.scale)), scaled(on_spikes, float(gather.scale)))
    return added(scaled(membrane, float(spikes.shift)), total)


def _proportion(a: Affine, b: Affine) -> float | None:
    """The number by which a is b, but for their shifts; None where there is none."""
    if a.shape != b.shape or len(a.gathers) != len(b.gathers) or not b.gathers:
        return None
    ratio: float | None = None
    for gather in b.gathers:
        other = next((g for g in a.gathers if _same_place(g, gather)), None)
        if other is None:
            return None
        quotient = torch.as_tensor(other.scale, dtype=torch.float64) / torch.as_tensor(gather.scale, dtype=torch.float64)
        level = float(quotient.reshape(-1)[0])
        if ratio is None:
            ratio = level
        if not bool(torch.isclose(quotient, torch.tensor(ratio, dtype=torch.float64), rtol=TINY, atol=0).all()):
            return None
    return _tidy(ratio) if ratio is not None else None


def _both(lowering: Lowering, a: Affine, b: Affine) -> Affine | None:
    """Spikes times spikes, either of them perhaps turned around (1 − spike): neurons with a threshold and no memory."""
    sides = [_spike_or_not(a), _spike_or_not(b)]
    if sides[0] is None or sides[1] is None:
        return None
    (one, turned_one, level_one), (other, turned_other, level_other) = sides  # type: ignore[misc]
    total = added(scaled(one, -1.0 if turned_one else 1.0), scaled(other, -1.0 if turned_other else 1.0))
    both_turned = turned_one and turned_other
    threshold = 0.5 if turned_one or turned_other else 1.5
    if both_turned:
        total = added(total, Affine((), (), 1.0))
    value = _rows(lowering, total, _features(lowering, total))
    name = f"{lowering.where}.and"
    reads, shift = rows_of(lowering, value, name)
    key = ("and", name, key_of(reads, shift), threshold)
    if key not in lowering.sources:
        inner = neuron_shape(reads, value.shape[1:])
        what = current(lowering, reads, shift, name, inner)
        node = lowering.builder.add(name, LIF(threshold, 0.0), place(lowering, what))
        steps = max(read.source.steps for read in reads)
        lowering.sources[key] = Source(node, inner, steps, lowering.samples, (node,), is_binary=True)
        lowering.fires.add(node)
    source = lowering.sources[key]
    rows = next(read.rows for read in reads if read.source.steps == source.steps)
    index = rows_index(source, rows, value.shape[1:]).reshape(total.shape)
    return Affine(total.shape, (Gather(source, index, level_one * level_other),))


def _spike_or_not(value: Affine) -> tuple[Affine, bool, float] | None:
    """A value as a number times a spike, or times 1 − spike."""
    if len(value.gathers) != 1 or isinstance(value.shift, Tensor):
        return None
    gather = value.gathers[0]
    if not gather.source.is_binary or isinstance(gather.scale, Tensor):
        return None
    plain = Affine(value.shape, (replace(gather, scale=1.0),))
    if value.shift == 0:
        return plain, False, gather.scale
    if math.isclose(value.shift, -gather.scale, rel_tol=1e-12):
        return plain, True, value.shift
    return None


# -- at the end --------------------------------------------------------------------------------------


def settled(lowering: Lowering) -> None:
    """Give the neurons that the network wrote out their nodes, now that all of their steps are known.

    Raises:
        LoweringError: their bias is not the same at the first step as at the others.
    """
    for written in lowering.written.values():
        layer = written.layer
        reads, shift = written.first
        node, inner = layer.source.nodes[0], layer.source.shape
        found = written.found
        if found is None:  # no membrane: any positive threshold will do, with its bias
            lowest = float(np.min(-np.asarray(shift, np.float64)))
            threshold = lowest if lowest > 0 else 1.0
            found = Found(0.0 if lowering.T > 1 else 1.0, threshold, "hard", shift + threshold)
        start = np.broadcast_to(np.asarray(shift), inner if np.size(shift) != 1 else ()) if np.ndim(shift) == len(inner) or np.size(shift) == 1 else np.asarray(shift).reshape(inner)
        given = start + found.threshold
        if not np.allclose(given, found.bias, rtol=TINY, atol=TINY * abs(found.threshold)):
            raise lowering.error("its membrane does not start where it resets to", layer.name)
        if found.threshold <= 0:
            raise lowering.error(f"its threshold is {found.threshold:g}; a neuron needs a positive one", layer.name)
        given = np.where(np.abs(given) < 1e-12 * abs(found.threshold), 0.0, given)
        what = current(lowering, reads, given, layer.name, inner)
        threshold = _above(found.threshold, lowering.dtype) if written.strict else found.threshold
        made: Any = node_of(threshold, found.leak, found.reset, 0.0)
        lowering.builder.draft.nodes[node] = made
        lowering.builder.draft.edges.extend((s, node) for s in place(lowering, what))
        lowering.notes[node] = f"understood from its arithmetic: {_described(found, strict=written.strict)}"


def _above(threshold: float, dtype: torch.dtype) -> float:
    """The next number that the network's own type has above the threshold: at least this is above that."""
    kind = np.float64 if dtype == torch.float64 else np.float32
    return float(np.nextafter(kind(threshold), kind(np.inf)))


def _described(found: Found, *, strict: bool) -> str:
    kind = "IF" if found.leak == 1 else f"LIF with leak {found.leak:g}"
    sign = ">" if strict else "≥"
    return f"{kind}, fires at v {sign} {found.threshold:g}, {found.reset} reset"


_ = (as_bytes, Constants)
