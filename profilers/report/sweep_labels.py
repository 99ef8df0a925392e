"""Where the names of points go in a panel: beside them, where neither a point nor another name is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

NARROWEST = 330.0
"""Pixels of a panel's width for which names are placed: what does not touch there touches nowhere else."""
_CHARACTER, _LINE, _RADIUS = 6.4, 12.0, 6.0


@dataclass(frozen=True)
class Label:
    """A name goes beside its point, which lies at `x` percent of the width and `y` pixels down."""

    x: float
    y: float
    text: str


_Box = tuple[float, float, float, float]
"""Left, right, top, bottom in pixels."""


def placed(
    labels: Sequence[Label], bounds: _Box, marks: Sequence[tuple[float, float]] = ()
) -> Iterator[tuple[Label, float, float, str]]:
    """Each label with the place of its text (x in percent, y of its base line) and its anchor.

    Of the places around a point, the first that is free within the bounds (left and right in percent), of the other points
    and of `marks` beside them; the least crowded where none is.
    """
    all_marks = [*((label.x, label.y) for label in labels), *marks]
    points = [_around(x * NARROWEST / 100, y, 2 * _RADIUS) for x, y in all_marks]
    left, right = bounds[0] * NARROWEST / 100, bounds[1] * NARROWEST / 100
    taken: list[_Box] = []
    for label in labels:
        width = max(1, len(label.text)) * _CHARACTER

        def crowd(place: tuple[float, float, str], width: float = width) -> float:
            box = _box(place, width)
            out = max(0.0, left - box[0]) + max(0.0, box[1] - right)
            out += max(0.0, bounds[2] - box[2]) + max(0.0, box[3] - bounds[3])
            return 50 * out + sum(_shared(box, other) for other in (*points, *taken))

        x, y, anchor = min(_places(label), key=crowd)
        taken.append(_box((x, y, anchor), width))
        yield label, 100 * x / NARROWEST, y, anchor


def _places(label: Label) -> Iterator[tuple[float, float, str]]:
    """Places of a text, the best first: fronts go up and to the right of a point, lines of a series mostly too, so below it,
    and then around it and farther away."""
    x, y = label.x * NARROWEST / 100, label.y
    for away in (1.0, 2.2, 3.4):
        side, up = 9 * away, 10 * away
        yield x + side * 0.7, y + up * 0.6 + 8, "start"
        yield x, y + up + 8, "middle"
        yield x, y - up, "middle"
        yield x - side * 0.8, y - up * 0.7, "end"
        yield x - side, y + 4, "end"
        yield x + side, y + 4, "start"
        yield x - side * 0.8, y + up * 0.7 + 8, "end"
        yield x + side * 0.8, y - up * 0.7, "start"


def _box(place: tuple[float, float, str], width: float) -> _Box:
    x, y, anchor = place
    left = {"start": x, "middle": x - width / 2, "end": x - width}[anchor]
    return left, left + width, y - _LINE + 2, y + 2


def _around(x: float, y: float, size: float) -> _Box:
    return x - size / 2, x + size / 2, y - size / 2, y + size / 2


def _shared(a: _Box, b: _Box) -> float:
    """The area that two boxes share."""
    across, down = min(a[1], b[1]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[2], b[2])
    return across * down if across > 0 and down > 0 else 0.0
