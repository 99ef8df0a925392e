"""The two products of signals that a graph has: neurons' own resets, and spikes with spikes (AND, IAND)."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from exporters.from_torch.decode import same_rows
from exporters.from_torch.dynamics import (
    TINY,
    feature_count,
    layer_rows,
    step_of,
    tidy,
    written_layers,
)
from exporters.from_torch.factors import Factor, as_tensor
from exporters.from_torch.lowering import Lowering, Written, key_of
from exporters.from_torch.steps import neuron_shape, shift_for
from exporters.from_torch.synapses import placed_current, rows_index, rows_of
from exporters.from_torch.values import NOTHING, Affine, Gather, Origin, added, is_run, place_of, same_place, scaled
from exporters.graph import LIF


def product(lowering: Lowering, a: Affine, b: Affine) -> Affine:
    """The product of two values: of a membrane and its own spikes, or of spikes.

    Raises:
        LoweringError: it is another.
    """
    if a.shape == b.shape:
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
    """A membrane times (a line of) the spikes that it has just given.

    Where the membrane is k·d + c, with d what was compared, k·d·s is elements of the neuron's gated origin and c·s spikes.
    """
    if len(spikes.gathers) != 1 or isinstance(spikes.gathers[0].scale, Tensor) or isinstance(spikes.shift, Tensor):
        return None
    gather = spikes.gathers[0]
    written: Written | None = written_layers(lowering).get(id(gather.origin))
    if written is None or not is_run(gather.index) or gather.index.numel() != lowering.samples * gather.origin.size:
        return None
    step = step_of(lowering, gather)
    if step >= len(written.differences):
        return None
    factor = _proportion(membrane, written.differences[step])
    if factor is None:
        return None
    gated = Affine(membrane.shape, (Gather(written.gated, gather.index, factor),))
    on_spikes = scaled(Affine(membrane.shape, (replace(gather, scale=1.0),)), membrane.shift)
    where_it_fires = scaled(added(gated, on_spikes), float(gather.scale))
    return added(scaled(membrane, float(spikes.shift)), where_it_fires)


def _proportion(a: Affine, b: Affine) -> Factor | None:
    """The factor by which a is b, but for their shifts, a number or one for each element; None where there is none."""
    if a.shape != b.shape or len(a.gathers) != len(b.gathers):
        return None
    pairs = []
    places = {place_of(g): g for g in reversed(a.gathers)}
    for gather in b.gathers:
        other = places.get(place_of(gather))
        if other is None or other.index.shape != gather.index.shape:
            other = next((g for g in a.gathers if same_place(g, gather, closely=True)), None)
        if other is None:
            return None
        pairs.append(_alike(other.scale, gather.scale))
    if not pairs:
        return None
    one, two = (torch.cat([pair[i].reshape(-1) for pair in pairs]) for i in (0, 1))
    largest = int(two.abs().argmax())
    ratio = float(one[largest] / two[largest])
    is_same = torch.isclose(one, ratio * two, rtol=TINY, atol=TINY * float(two[largest].abs()))
    if bool(is_same.all()):
        return tidy(ratio)
    (one, two), *others = pairs
    each = one / two
    is_same_each = (torch.isclose(p, each * q, rtol=TINY, atol=0).all() for p, q in others)
    return each if bool(torch.isfinite(each).all()) and all(map(bool, is_same_each)) else None


def _alike(a: Factor, b: Factor) -> tuple[Tensor, Tensor]:
    one, two = as_tensor(a), as_tensor(b)
    return one + torch.zeros_like(two), two + torch.zeros_like(one)


def _both(lowering: Lowering, a: Affine, b: Affine) -> Affine | None:
    """Spikes times spikes, either of them perhaps turned around (1 − spike): neurons with a threshold and no memory."""
    first, second = _spike_or_not(a), _spike_or_not(b)
    if first is None or second is None:
        return None
    (one, turned_one, level_one), (other, turned_other, level_other) = first, second
    total = added(scaled(one, -1.0 if turned_one else 1.0), scaled(other, -1.0 if turned_other else 1.0))
    if turned_one and turned_other:
        total = added(total, Affine((), (), 1.0))
    if not total.gathers:  # spikes and not the same spikes
        return total
    threshold = 0.5 if turned_one or turned_other else 1.5
    value = layer_rows(lowering, total, feature_count(lowering, total))
    name = f"{lowering.where}.and"
    reads, shift = rows_of(lowering, value, name)
    if not all(same_rows(read, reads[0]) and bool((read.rows != NOTHING).all()) for read in reads):
        raise lowering.error("it multiplies spikes of different time steps, which no layer does")
    key = ("and", name, key_of(reads, shift), threshold)
    if key not in lowering.origins:
        inner = neuron_shape(reads, value.shape[1:])
        nodes = placed_current(lowering, reads, shift_for(shift, value.shape[1:], inner), name, inner)
        node = lowering.builder.add(name, LIF(threshold, 0.0), nodes)
        steps = max(read.origin.steps for read in reads)
        lowering.origins[key] = Origin(node, inner, steps, lowering.samples, (node,), is_binary=True)
        lowering.firing[node] = inner
    origin = lowering.origins[key]
    rows = next(read.rows for read in reads if read.origin.steps == origin.steps)
    index = rows_index(origin, rows, value.shape[1:]).reshape(total.shape)
    return Affine(total.shape, (Gather(origin, index, level_one * level_other),))


def _spike_or_not(value: Affine) -> tuple[Affine, bool, float] | None:
    """A value as a number times a spike, or times 1 − spike."""
    if len(value.gathers) != 1 or isinstance(value.shift, Tensor):
        return None
    gather = value.gathers[0]
    if not gather.origin.is_binary or isinstance(gather.scale, Tensor):
        return None
    spikes = Affine(value.shape, (replace(gather, scale=1.0),))
    if value.shift == 0:
        return spikes, False, gather.scale
    if math.isclose(value.shift, -gather.scale, rel_tol=1e-12):
        return spikes, True, value.shift
    return None
