"""Dense layers of a `.net` file: their weights and delays, and what netx and Lava make of these.

A layer of type `dense_rec` has, beside its weights (N, F), weights (N, N) from its own neurons, `weight_rec`. netx gives both
one exponent and one number of bits, chosen for all of them side by side; Lava then clips and truncates each by
the signs of its own, and that goes wrong where one of them has a single sign. `held` is this arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from exporters.graph import Array
from exporters.graph.registers import DENSE_WEIGHTS, LONGEST_DELAY
from exporters.passes.dense_time import DenseTime

DENSE = ("dense", "dense_rec")
"""Types of layers that are dense."""


def recurrent_of(group: Any, neurons: int) -> Array:
    """The weights from a layer's own neurons as netx folds them: (N, N), or as the file has them if they are none of this."""
    weight = np.asarray(group["weight_rec"][()])
    if np.asarray(group["weight"]).ndim == 1 and weight.ndim == 1 and weight.size == neurons**2:
        return weight.reshape(neurons, neurons)
    return weight


def delays_of(group: Any, shape: tuple[int, ...]) -> Array | None:
    """The delays of a dense layer of weights (N, F), as netx spreads them over its synapses: (N, F), or None for a shape
    that fits none.

    One number is for all, N numbers are for the neurons, F for the inputs; where N = F, they are for the neurons.
    """
    delay = np.asarray(group["delay"][()])
    if delay.ndim == 1 and delay.size == shape[0]:
        delay = delay[:, None]
    elif not (delay.ndim == 0 or delay.shape in (shape, shape[1:])):
        return None
    return np.broadcast_to(delay, shape)


def time_of(kind: str, group: Any, weight: Array) -> DenseTime | None:
    """What a sound dense layer does in time; None where spikes arrive at once and none come back."""
    if kind == "dense_rec":
        recurrent = recurrent_of(group, len(weight)).astype(np.int32)
        return DenseTime(None, recurrent, np.ones(recurrent.shape, np.int64)) if recurrent.any() else None
    found = delays_of(group, weight.shape) if "delay" in group else None
    delays = np.where(weight != 0, 0 if found is None else found, 0).astype(np.int64)
    return DenseTime(delays) if delays.any() else None


def time_problems(kind: str, group: Any, weight: Array) -> Iterator[str]:
    """What Lava would not run right of a dense layer's delays and recurrence, `weight` being (N, F) and whole numbers."""
    if kind == "dense_rec":
        yield from _recurrence_problems(group, weight)
    if "delay" not in group:
        return
    if kind == "dense_rec":
        yield (
            "delays in a recurrent layer, where netx loses the exponent of the weights and Lava computes other sums; put the delays into a "
            "layer of their own before it"
        )
        return
    given = np.asarray(group["delay"][()])
    if given.dtype.kind not in "fiu" or not np.isfinite(given).all() or (given != np.trunc(given)).any():
        yield "a delay that is no whole number; Lava cuts off fractions"
        return
    if delays_of(group, weight.shape) is None:
        yield f"delays of shape {given.shape}; Lava takes one number, {weight.shape[:1]}, {weight.shape[1:]} or {weight.shape}"
    elif given.min(initial=0) < 0:
        yield f"a delay of {given.min():g} steps; nothing arrives before it is sent"
    elif given.max(initial=0) > LONGEST_DELAY:
        yield f"a delay of {given.max():g} steps; Lava cuts it to {LONGEST_DELAY}"


def _recurrence_problems(group: Any, weight: Array) -> Iterator[str]:
    if "weight_rec" not in group:
        yield "weight_rec missing"
        return
    recurrent = recurrent_of(group, len(weight))
    if recurrent.shape != (len(weight), len(weight)):
        yield f"weight_rec has shape {recurrent.shape}, expected {(len(weight), len(weight))}"
        return
    if recurrent.dtype.kind not in "fiu" or not np.isfinite(recurrent).all():
        yield "weight_rec holds NaN, infinite or non-numeric values"
        return
    if (recurrent != np.trunc(recurrent)).any():
        yield "weight_rec holds fractions, which Lava cuts off; quantize the network first"
        return
    both = np.hstack((weight, recurrent)).astype(np.int64)
    low, high = DENSE_WEIGHTS
    if both.min() < low or both.max() > high or both.max() <= 0:
        if not (weight.min() < low or weight.max() > high or both.max() <= 0):
            yield f"weight_rec reaches from {recurrent.min():g} to {recurrent.max():g}; Lava clips dense weights to −{-low}…{high}"
        return
    for what, given, found in zip(("weight", "weight_rec"), (weight, recurrent), held(weight, recurrent), strict=True):
        if (wrong := given != found).any():
            yield (
                f"Lava makes {found[wrong][0]} of {given[wrong][0]:g} in {what}: it loses weights of one sign beside such of the "
                "other where they need all bits; quantize with fewer bits"
            )


def held(weight: Array, recurrent: Array) -> tuple[Array, Array]:
    """The weights (N, F) and recurrent weights (N, N), with which Lava's dense layers compute in place of whole numbers
    within `DENSE_WEIGHTS`, of which one is above 0.

    netx (`optimize_weight_bits`) moves all of them up so that they fill eight bits, or nine where there are both signs, and
    notes how many of these are used. `PyDenseModelBitAcc` takes the sign mode of each of the two again, from its
    values, clips, and cuts off the bits that are not used: a number below 0, by which numpy shifts all bits out, where a
    part has one sign and the other needs the ninth bit. At last it moves the sum back.
    """
    both = np.hstack((weight, recurrent)).astype(np.int64)
    low, high = int(both.min()), int(both.max())
    is_mixed = low < 0
    scale = min(127 / high, -128 / low) if is_mixed else 255 / high
    up = math.floor(math.log2(scale)) + is_mixed
    common = next((n for n in range(8, 0, -1) if not (both % 2**n).any()), 0)
    bits = 8 - up - (common - is_mixed)
    return _clipped(weight, up, bits), _clipped(recurrent, up, bits)


def _clipped(weight: Array, up: int, bits: int) -> Array:
    moved = weight.astype(np.int64) << up
    sign = -1 if moved.max() <= 0 and moved.min() < 0 else 1
    is_mixed = moved.min() < 0 < moved.max()
    clipped = np.clip(sign * moved, -256 if is_mixed else 0, 255)
    cut = 8 - bits + is_mixed
    kept = sign * (clipped >> cut << cut) if cut >= 0 else np.zeros_like(clipped)
    return np.asarray(kept >> up)
