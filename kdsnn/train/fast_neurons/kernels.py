"""The compiled kernels: BatchNorm, neurons and a 2×2 maximum behind them, in one pass over the time steps.

Importing this module imports numba, so only `compiled` in `kdsnn.train.fast_neurons.layers` does, and only when a
layer is large enough to pay for it. Arrays are in rows: currents x (X, M, L), where M counts pixels over samples, L
channels (the innermost axis, over which the machine's vectors run) and X is T, or 1 where every step sees the same
current; spikes (T, O, L), with O = M, or M/4 and fewer behind a 2×2 maximum. One step of a neuron, from rest:

    y[t] = a x[t] + b,   h[t] = charge(v[t-1], y[t]),   s[t] = 1 where h[t] ≥ θ else 0,   v[t] = s[t] v⁺ + (1 - s[t]) h[t]

with v⁺ = 0 (hard reset) or h[t] - θ (soft). a and b, per channel, are the BatchNorm, or 1 and 0. The membranes are not
kept: backward computes them again from the currents, by the same operations in the same order, so no spike differs.
No operation is reordered or contracted: a result does not depend on the machine's vectors, nor on the threads, because
sums are kept for a fixed number of blocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numba  # noqa: F401  who lacks it learns that here, not when a kernel is made
import numpy as np

from exporters.compiled import inline, jit
from kdsnn.train.fast_neurons.dynamics import Charge, Slope

Number = Literal["float32", "float64", "bfloat16"]


@dataclass(frozen=True)
class Kind:
    """A kind of layer has kernels of its own, in which these are constants.

    Attributes:
        number: of currents, spikes and gradients; bfloat16 comes as its bits, uint16, and is computed in float32.
        charge: h = v + y, v - v/τ + y, or v + (y - v)/τ.
        slope: the surrogate's derivative.
        soft: reset by subtraction.
        detached: the reset is left out of the gradient.
        pooled: a 2×2 maximum of stride 2 follows.
        normed: BatchNorm comes first, so backward also sums what that needs.
    """

    number: Number
    charge: Charge
    slope: Slope
    soft: bool
    detached: bool
    pooled: bool
    normed: bool


def _load(number: Number) -> Any:
    if number != "bfloat16":
        return inline(lambda value: value)

    def widen(bits: Any) -> Any:
        return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)

    return inline(widen)


def _store(number: Number) -> Any:
    if number != "bfloat16":
        return inline(lambda value: value)

    def round_to_even(value: Any) -> Any:
        bits = np.float32(value).view(np.uint32)
        odd = np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(1))
        rounded = np.uint16(np.uint32(bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))
        return np.uint16(0x7FC0) if value != value else rounded

    return inline(round_to_even)


def _charge(charge: Charge) -> Any:
    if charge == "integrate":
        return inline(lambda v, y, tau: v + y)
    if charge == "leak":
        return inline(lambda v, y, tau: v - v / tau + y)
    return inline(lambda v, y, tau: v + (y - v) / tau)


def _slope(slope: Slope, real: Any) -> Any:
    one, half, half_pi = real(1), real(0.5), real(math.pi / 2)

    def atan(u: Any, alpha: Any) -> Any:
        scaled = half_pi * alpha * u
        return alpha * half / (one + scaled * scaled)

    def sigmoid(u: Any, alpha: Any) -> Any:
        fired = one / (one + np.exp(-alpha * u))
        return alpha * fired * (one - fired)

    return inline(atan if slope == "atan" else sigmoid)


def real_of(number: Number) -> Any:
    """Tell the type that a kernel computes in."""
    return np.float64 if number == "float64" else np.float32


@cache
def sums(number: Number) -> Any:
    """Make the kernel that sums x - k and (x - k)² over the rows of x (R, L), k = x[0]: into float64 (blocks, 2, L)."""
    load = _load(number)

    def kernel(first: int, last: int, x: Any, found: Any) -> None:
        rows, length, blocks = x.shape[0], x.shape[1], found.shape[0]
        shift = np.empty(length, np.float64)
        for c in range(length):
            shift[c] = np.float64(load(x[0, c]))
        for block in range(first, last):
            total, squares = found[block, 0], found[block, 1]
            total[:] = 0
            squares[:] = 0
            for row in range(block * rows // blocks, (block + 1) * rows // blocks):
                values = x[row]
                for c in range(length):
                    value = np.float64(load(values[c])) - shift[c]
                    total[c] += value
                    squares[c] += value * value

    return jit(kernel)


@cache
def forward(kind: Kind) -> Any:
    """Make the kernel that computes spikes (T, O, L) from currents, and membranes (O, L) where there is room for them.

    `height` and `width` are those of a map: with a maximum, O counts its windows.
    """
    load, store, charge, real = _load(kind.number), _store(kind.number), _charge(kind.charge), real_of(kind.number)
    soft, pooled = kind.soft, kind.pooled
    spike = np.uint16(0x3F80) if kind.number == "bfloat16" else real(1)
    silence = np.uint16(0) if kind.number == "bfloat16" else real(0)
    pixels, rest, corner_of = 4 if pooled else 1, real(0), _corner(kind)

    def kernel(
        first: int, last: int, blocks: int, x: Any, a: Any, b: Any, theta: Any, tau: Any, height: int, width: int,
        spikes: Any, membranes: Any,
    ) -> None:  # fmt: skip
        steps, outputs, length = spikes.shape
        static, kept = x.shape[0] == 1, membranes.shape[0] > 0
        v, peak = np.empty((pixels, length), real), np.empty(length, real)
        for output in range(first * outputs // blocks, last * outputs // blocks):
            v[:] = rest
            corner = corner_of(output, height, width)
            for t in range(steps):
                fired = spikes[t, output]
                for pixel in range(pixels):
                    currents = x[0 if static else t, corner + pixel // 2 * width + pixel % 2]
                    membrane = v[pixel]
                    if not pooled:
                        for c in range(length):
                            h = charge(membrane[c], load(currents[c]) * a[c] + b[c], tau)
                            fired[c] = spike if h >= theta else silence
                            membrane[c] = (h - theta if soft else rest) if h >= theta else h
                    else:
                        for c in range(length):
                            h = charge(membrane[c], load(currents[c]) * a[c] + b[c], tau)
                            peak[c] = h if pixel == 0 or h > peak[c] else peak[c]
                            membrane[c] = (h - theta if soft else rest) if h >= theta else h
                if pooled:
                    for c in range(length):
                        fired[c] = spike if peak[c] >= theta else silence
            if kept:
                for c in range(length):
                    membranes[output, c] = store(v[0, c])

    return jit(kernel)


def _corner(kind: Kind) -> Any:
    """Make what finds the row of x where window number `output` of a maximum begins."""
    pooled = kind.pooled

    def corner(output: int, height: int, width: int) -> int:
        if not pooled:
            return output
        row, column = output // (width // 2), output % (width // 2)
        return int(((row // (height // 2)) * height + row % (height // 2) * 2) * width + column * 2)

    return inline(corner)


@cache
def backward(kind: Kind) -> Any:
    """Make the kernel that computes ∂L/∂y into `dx` (X, M, L) from ∂L/∂s and ∂L/∂v[T-1].

    With BatchNorm it also sums ∂L/∂y, plain and times (x - mean) · inverse, over the rows of each block: into
    float64 `found` (blocks, 2, L).
    """
    recompute, through, add, corner_of = _recompute(kind), _through_time(kind), _add(kind), _corner(kind)
    load, store, real = _load(kind.number), _store(kind.number), real_of(kind.number)
    normed, pixels, rest = kind.normed, 4 if kind.pooled else 1, real(0)

    def kernel(
        first: int, last: int, x: Any, a: Any, b: Any, theta: Any, tau: Any, alpha: Any, height: int, width: int,
        gradient: Any, of_membrane: Any, mean: Any, inverse: Any, dx: Any, found: Any,
    ) -> None:  # fmt: skip
        steps, outputs, length = gradient.shape
        blocks, static, kept = found.shape[0], x.shape[0] == 1, of_membrane.shape[0] > 0
        h, dy, winner = (
            np.empty((pixels * steps, length), real),
            np.empty((steps, length), real),
            np.empty((steps, length), real),
        )
        carry, part, backwards = np.empty(length, real), np.zeros((2, length), real), np.arange(steps)[::-1].copy()
        for block in range(first, last):
            found[block] = 0
            for output in range(block * outputs // blocks, (block + 1) * outputs // blocks):
                corner = corner_of(output, height, width)
                for pixel in range(pixels - 1, -1, -1):
                    place = corner + pixel // 2 * width + pixel % 2
                    recompute(x, place, static, a, b, theta, tau, carry, h, winner, pixel)
                for pixel in range(pixels):
                    place = corner + pixel // 2 * width + pixel % 2
                    for c in range(length):
                        carry[c] = rest
                    if kept:
                        for c in range(length):
                            carry[c] = load(of_membrane[output, c])
                    through(gradient, output, h, winner, pixel, theta, tau, alpha, carry, dy, backwards)
                    if static:
                        for t in range(1, steps):
                            for c in range(length):
                                dy[0, c] += dy[t, c]
                    for t in range(1 if static else steps):
                        for c in range(length):
                            dx[t, place, c] = store(dy[t, c])
                        if normed:
                            add(dy, t, x, place, mean, inverse, part)
                if normed:  # a few rows are summed in the type of the values, all of them in float64
                    for c in range(length):
                        found[block, 0, c] += part[0, c]
                        part[0, c] = rest
                    for c in range(length):
                        found[block, 1, c] += part[1, c]
                        part[1, c] = rest

    return jit(kernel)


# Inner loops touch few arrays each, because the compiler checks every pair before it runs one in vectors, and gives up
# where there are many. It also gives up where a loop around them counts down, hence the steps in an array (`backwards`).
# No array is sliced: each slice counts references, which takes as long as a short row.


def _recompute(kind: Kind) -> Any:
    """Make what computes h (pixels · T, L) of one pixel again; with a maximum, pixels come last first, and `winner`
    (T, L) becomes the first that fires, else the first."""
    load, charge, real = _load(kind.number), _charge(kind.charge), real_of(kind.number)
    soft, pooled, rest = kind.soft, kind.pooled, real(0)

    def recompute(
        x: Any, place: int, static: bool, a: Any, b: Any, theta: Any, tau: Any, v: Any, h: Any, winner: Any, pixel: int
    ) -> None:
        steps, length = winner.shape
        row = pixel * steps
        for c in range(length):
            v[c] = rest
        for t in range(steps):
            source = 0 if static else t
            for c in range(length):
                value = charge(v[c], load(x[source, place, c]) * a[c] + b[c], tau)
                h[row + t, c] = value
                v[c] = (value - theta if soft else rest) if value >= theta else value
            if pooled:
                number = real(pixel)
                if pixel == 3:
                    for c in range(length):
                        winner[t, c] = rest
                for c in range(length):
                    winner[t, c] = number if h[row + t, c] >= theta else winner[t, c]

    return inline(recompute)


def _through_time(kind: Kind) -> Any:
    """Make what goes back through the time steps of one pixel: ∂L/∂s and `carry`, ∂L/∂v[T-1], become ∂L/∂y."""
    load, slope, real = _load(kind.number), _slope(kind.slope, real_of(kind.number)), real_of(kind.number)
    soft, detached, pooled, charge = kind.soft, kind.detached, kind.pooled, kind.charge
    nothing = real(0)

    def through(
        gradient: Any, output: int, h: Any, winner: Any, pixel: int, theta: Any, tau: Any, alpha: Any, carry: Any,
        dy: Any, backwards: Any,
    ) -> None:  # fmt: skip
        steps, length = dy.shape
        row, number = pixel * steps, real(pixel)
        for step in range(steps):
            t = backwards[step]
            for c in range(length):
                value, later, of_spike = h[row + t, c], carry[c], load(gradient[t, output, c])
                if pooled:
                    of_spike = of_spike if winner[t, c] == number else nothing
                if not detached:
                    of_spike -= later * (theta if soft else value)
                of_h = of_spike * slope(value - theta, alpha)
                of_h += later if soft or value < theta else nothing
                carry[c] = of_h if charge == "integrate" else of_h - of_h / tau
                dy[t, c] = of_h / tau if charge == "decay" else of_h

    return inline(through)


def _add(kind: Kind) -> Any:
    """Make what adds a row of ∂L/∂y to the two sums in `part` (2, L)."""
    load = _load(kind.number)

    def add(dy: Any, t: int, x: Any, place: int, mean: Any, inverse: Any, part: Any) -> None:
        for c in range(dy.shape[1]):
            part[0, c] += dy[t, c]
        for c in range(dy.shape[1]):
            part[1, c] += dy[t, c] * ((load(x[t, place, c]) - mean[c]) * inverse[c])

    return inline(add)


@cache
def normalized(number: Number) -> Any:
    """Make the kernel of BatchNorm's gradient: `dx` (R, L) becomes p dx + q x + r, in place."""
    load, store = _load(number), _store(number)

    def kernel(first: int, last: int, blocks: int, x: Any, dx: Any, p: Any, q: Any, r: Any) -> None:
        rows, length = x.shape
        for row in range(first * rows // blocks, last * rows // blocks):
            values, target = x[row], dx[row]
            for c in range(length):
                target[c] = store(load(target[c]) * p[c] + (load(values[c]) * q[c] + r[c]))

    return jit(kernel)
