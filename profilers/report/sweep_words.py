"""What points, series and costs of a sweep are called, and how their numbers read: the same in tables, picture and page."""

from __future__ import annotations

from collections.abc import Sequence

from profilers.energy.models import Range
from profilers.report.numbers import SPACE, percent, quantity, spread
from profilers.report.sweep import CostAxis, SweepPoint

DOMINANCE = "no other point is at least as accurate and at most as expensive, and better in one of the two"
"""What it means to be on the front."""

BY_BITS = {
    "weights": "counts the bits of the weights",
    "placement": "bits change it by placement and zeros only",
    "none": "does not depend on the bits; spikes differ",
}
"""How a cost hangs on the bits, as `bit_dependence` tells it."""


def varies(points: Sequence[SweepPoint], name: str) -> bool:
    """Whether the points differ in a field of theirs."""
    return len({getattr(point, name) for point in points}) > 1


def bits_text(bits: int | None) -> str:
    """The bits of a weight, where they are known."""
    return "bits unknown" if bits is None else f"{bits}{SPACE}bits"


def series_label(point: SweepPoint, points: Sequence[SweepPoint]) -> str:
    """What tells the network of a point, in its bits, from the others."""
    parts = [point.network] if varies(points, "network") else []
    parts += [bits_text(point.bits)] if varies(points, "bits") else []
    return ", ".join(parts) or point.network


def point_label(point: SweepPoint, points: Sequence[SweepPoint]) -> str:
    """What tells a point from the others."""
    if not varies(points, "T"):
        return series_label(point, points)
    alone = not (varies(points, "network") or varies(points, "bits"))
    steps = f"T{SPACE}={SPACE}{point.T}"
    return steps if alone else f"{series_label(point, points)}, {steps}"


def by_series(points: Sequence[SweepPoint]) -> list[list[SweepPoint]]:
    """The points of one network and its bits together, by rising T."""
    found: dict[tuple[str, int | None], list[SweepPoint]] = {}
    for point in points:
        found.setdefault((point.network, point.bits), []).append(point)
    return [sorted(series, key=lambda point: point.T) for series in found.values()]


def accuracy_text(accuracy: float, low: float, high: float) -> str:
    """An accuracy with its interval: "97.5 % (95.3–98.7)"."""
    return f"{percent(accuracy)} ({100 * low:.1f}–{100 * high:.1f})"


def cost_text(axis: CostAxis, value: Range | None) -> str:
    """A cost with its bounds; counts, which are measured, by their mean."""
    if value is None:
        return "–"
    text = spread(value, axis.unit) if axis.unit and value.low != value.high else nominal_text(axis, value.nominal)
    return f"≥{SPACE}{text}" if axis.at_least else text


def nominal_text(axis: CostAxis, value: float, *, digits: int = 3, trim: bool = False) -> str:
    """One value of a cost."""
    return quantity(value, axis.unit, digits, trim=trim)
