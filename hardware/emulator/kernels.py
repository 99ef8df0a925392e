"""The compiled kernel of neurons: add up what arrives, leak, fire, reset and pool, all time steps in one pass over memory.

Importing this module imports numba, so only `hardware.emulator.neurons` does, and only when there is enough to compute. Each
value is computed by the operations of `membranes` and `layers`, in their order: no spike and no membrane differs.

Values lie in memory as (steps, units, length): a unit is a stretch of neurons whose membranes stay in the nearest caches while
the steps go by. Where a pool follows, it is a row of an image, channels innermost. Long loops slice no array, because each slice is
more to compile, and counts references.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from exporters.compiled import inline, jit
from exporters.graph.registers import FRACTION

NO_LEAK, PLAIN, REGISTER = 0, 1, 2
"""How membranes leak: not, by multiplication, or as Lava's register does, in float64."""

NO_POOL, LARGEST, SUM = 0, 1, 2
"""What is made of the spikes of a window."""


@inline
def _arrive(x: Any, y: Any, z: Any, t: int, place: int, total: Any) -> None:
    """`total` becomes what a unit takes in at step t."""
    s = t if x.shape[0] > 1 else 0
    for i in range(total.size):
        total[i] = x[s, place, i]
    if y.size > 0:
        s = t if y.shape[0] > 1 else 0
        for i in range(total.size):
            total[i] += y[s, place, i]
    if z.size > 0:
        s = t if z.shape[0] > 1 else 0
        for i in range(total.size):
            total[i] += z[s, place, i]


@inline
def _leak(membrane: Any, kind: int, leak: Any, decay: float) -> None:
    fraction = float(FRACTION)
    if kind == PLAIN:
        for i in range(membrane.size):
            membrane[i] *= leak
    else:
        for i in range(membrane.size):
            membrane[i] = np.trunc(float(membrane[i]) * fraction * decay) / fraction


@inline
def _step(membrane: Any, total: Any, fired: Any, level: Any, taken: Any, soft: bool, largest: Any) -> None:
    """Membranes take in a total, fire into bytes, and are reset."""
    zero = taken - taken
    if soft:
        for i in range(membrane.size):
            h = min(max(membrane[i] + total[i], -largest), largest)
            fired[i] = h >= level
            membrane[i] = h - taken if h >= level else h
    else:
        for i in range(membrane.size):
            h = min(max(membrane[i] + total[i], -largest), largest)
            fired[i] = h >= level
            membrane[i] = zero if h >= level else h


@inline
def _combine(many: Any, t: int, fired: Any, pool: int) -> None:
    """A row's spikes join those of the rows above it in the windows."""
    if pool == LARGEST:
        for i in range(fired.size):
            many[t, i] = max(many[t, i], fired[i])
    else:
        for i in range(fired.size):
            many[t, i] += fired[i]


@inline
def _across(many: Any, across: int, pool: int, unit: int, pooled: Any) -> None:
    """Columns of windows become one."""
    steps, columns, channels = pooled.shape[0], pooled.shape[2], pooled.shape[3]
    for t in range(steps):
        for column in range(columns):
            at = column * across * channels
            out = pooled[t, unit, column]  # slices: indices of four axes keep the compiler from vectors
            for c in range(channels):
                out[c] = many[t, at + c]
            for _ in range(1, across):
                at += channels
                more = many[t, at : at + channels]
                if pool == LARGEST:
                    for c in range(channels):
                        out[c] = max(out[c], more[c])
                else:
                    for c in range(channels):
                        out[c] += more[c]


@jit
def fire(
    first: int, last: int, x: Any, y: Any, z: Any, v: Any, start: Any, spikes: Any, level: Any, taken: Any, soft: bool,
    leak_kind: int, leak: Any, decay: float, largest: Any, pool: int, window: Any, high: int, pooled: Any,
) -> None:  # fmt: skip
    """Neurons take in currents x + y + z, each (T or 1, units, length), y and z empty for none, and give spikes,
    bytes (T, units, length), 1 where v ≥ `level`.

    Without a pool the units `first` to `last` are computed. With one, `first` to `last` are rows of `pooled` (T, rows, columns,
    channels), made of windows side by side, `window` is (down, across); a unit is a row of `high` in an image, which may
    have more rows and columns than windows cover.

    Membranes v (units, length) are changed in place; where v is empty they begin at `start` and are forgotten. They stay within
    ± `largest`. A spike sets them to 0, or takes `taken` where the reset is `soft`. `leak` is the factor of
    PLAIN, of the type of v, `decay` that of REGISTER, float64. `spikes` may be empty where only `pooled` is wanted.
    """
    length, steps = x.shape[2], pooled.shape[0]
    kept, goes_on = spikes.size > 0, v.size > 0
    changes = max(x.shape[0], y.shape[0], z.shape[0]) > 1
    membrane, total, fired = np.empty(length, x.dtype), np.empty(length, x.dtype), np.empty(length, np.uint8)
    many, down = np.empty((steps if pool else 0, length), np.uint8), window[0]
    lines = high // down if pool else 1
    for unit in range(first, last):
        place, end, covered = unit, unit + 1, unit
        if pool:
            line = unit % lines
            place = unit // lines * high + line * down
            covered = place + down
            end = place + high - line * down if kept and line == lines - 1 else covered
            many[:] = 0
        while place < end:
            for i in range(length):
                membrane[i] = v[place, i] if goes_on else start
            for t in range(steps):
                if t == 0 or changes:
                    _arrive(x, y, z, t, place, total)
                if leak_kind != NO_LEAK:
                    _leak(membrane, leak_kind, leak, decay)
                _step(membrane, total, fired, level, taken, soft, largest)
                if kept:
                    for i in range(length):
                        spikes[t, place, i] = fired[i]
                if place < covered:
                    _combine(many, t, fired, pool)
            if goes_on:
                for i in range(length):
                    v[place, i] = membrane[i]
            place += 1
        if pool:
            _across(many, window[1], pool, unit, pooled)
