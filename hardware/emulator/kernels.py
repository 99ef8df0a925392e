"""The compiled kernel of neurons: integrate, leak, fire and reset of all time steps in one pass over memory.

Importing this module imports numba, so only `hardware.emulator.membranes` does, and only when there is enough to compute. Each
value is computed by the operations of `membranes`, in their order: no spike and no membrane differs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from exporters.compiled import jit
from exporters.graph.registers import FRACTION

BLOCK = 2048
"""Neurons whose membranes stay in the nearest cache while the steps go by."""

NO_LEAK, PLAIN, REGISTER = 0, 1, 2
"""How membranes leak: not, by multiplication, or as Lava's register does, in float64."""


@jit
def fire(
    first: int, last: int, x: Any, v: Any, spikes: Any, level: Any, taken: Any, soft: bool, leak_kind: int, leak: Any,
    largest: Any,
) -> None:  # fmt: skip
    """The blocks `first` to `last` of neurons take in currents x (T or 1, M) and give spikes (T, M), 1 where v ≥ `level`.

    Membranes v (M,) are changed in place; they stay within ± `largest`. A spike sets them to 0, or takes `taken` where the reset
    is `soft`. `leak` is a factor of the type of v, or for REGISTER of float64.
    """
    steps, count, zero, fraction = spikes.shape[0], v.size, v.dtype.type(0), float(FRACTION)
    for block in range(first, last):
        begin, end = block * BLOCK, min((block + 1) * BLOCK, count)
        membranes = v[begin:end]
        for t in range(steps):
            currents, out = x[t if x.shape[0] > 1 else 0, begin:end], spikes[t, begin:end]
            if leak_kind == PLAIN:
                for i in range(end - begin):
                    membranes[i] *= leak
            elif leak_kind == REGISTER:
                for i in range(end - begin):
                    membranes[i] = np.trunc(float(membranes[i]) * fraction * leak) / fraction
            if soft:
                for i in range(end - begin):
                    h = min(max(membranes[i] + currents[i], -largest), largest)
                    fired = h >= level
                    out[i] = fired
                    membranes[i] = h - taken if fired else h
            else:
                for i in range(end - begin):
                    h = min(max(membranes[i] + currents[i], -largest), largest)
                    fired = h >= level
                    out[i] = fired
                    membranes[i] = zero if fired else h
