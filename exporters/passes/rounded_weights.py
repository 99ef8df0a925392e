"""Weights become whole numbers, a few output channels at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from exporters.graph import Array

AT_ONCE = 2**17
"""So many weights are worked on at a time: what is made of them on the way stays in the caches."""


def _parts(weight: Array) -> Iterator[slice]:
    """A few output channels at a time."""
    step = max(1, AT_ONCE // max(1, weight[0].size))
    return (slice(start, start + step) for start in range(0, len(weight), step))


def rounded_at(weight: Array, scale: float, largest: int) -> Array:
    """The weights at a scale are whole numbers up to `largest` in amount, int32."""
    found: Array = np.empty(weight.shape, np.int32)
    for rows in _parts(weight):
        found[rows] = np.clip(np.rint(weight[rows] * np.float64(scale)), -largest, largest)
    return found


def rounding_loss(weight: Array, integers: Array, scale: float, unit: float, largest: int) -> tuple[float, float]:
    """The root mean square of what rounding changes, in a unit, relative to that of the weights, and the share of them that
    was cut at a scale."""
    changed, squares, cut = 0.0, 0.0, 0
    for rows in _parts(weight):
        part, now = weight[rows], integers[rows]
        changed += float(np.square(now / unit - part, dtype=np.float64).sum())
        squares += float(np.square(part, dtype=np.float64).sum())
        at_end = np.abs(now) == largest
        cut += int(np.count_nonzero(np.abs(np.rint(part[at_end] * np.float64(scale))) > largest))
    return math.sqrt(changed / squares), cut / weight.size
