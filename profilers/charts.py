"""Inline SVG charts. Positions along the page are percentages, so they fit any width and text keeps its size.

Colours come from CSS classes of the page (`float`, `quantised`, `track`, …), so that light and dark both work.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

_ROW, _BAR, _LABEL_LENGTH = 46, 8, 40
_TICK_ROW = 22


@dataclass(frozen=True)
class Bars:
    """One row of `bar_chart`: a label, the value as text, and (CSS class, value) per bar, top to bottom."""

    label: str
    text: str
    values: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Span:
    """One row of `span_chart`: a label, the value as text, a range, a point in it, and the CSS class of both."""

    label: str
    text: str
    low: float
    high: float
    point: float | None
    css: str


def bar_chart(rows: Sequence[Bars], description: str) -> Markup:
    """Horizontal bars from zero, a label above each group; all rows share one scale."""
    longest = max((value for row in rows for _, value in row.values), default=0) or 1
    parts = []
    for index, row in enumerate(rows):
        top = index * _ROW
        parts.append(_heading(row.label, row.text, top + 13))
        for position, (css, value) in enumerate(row.values):
            y = top + 19 + position * (_BAR + 2)
            parts.append(_rect("track", 0, 100, y, _BAR))
            parts.append(_rect(css, 0, 100 * value / longest, y, _BAR))
    return _svg(parts, len(rows) * _ROW, description)


def span_chart(rows: Sequence[Span], marker: tuple[str, float], description: str) -> Markup:
    """Ranges on a logarithmic axis, with one vertical line (label, value) through all of them."""
    positive = [v for v in (marker[1], *(end for row in rows for end in (row.low, row.high))) if v > 0] or [1.0]
    first = max(-4, math.floor(math.log10(min(positive))))
    last = max(first + 1, math.ceil(math.log10(max(positive))))

    def at(value: float) -> float:
        return 0.0 if value <= 0 else min(100.0, max(0.0, 100 * (math.log10(value) - first) / (last - first)))

    bottom = _TICK_ROW + len(rows) * _ROW
    parts = [_axis_tick(decade, at(10.0**decade), bottom) for decade in range(first, last + 1)]
    for index, row in enumerate(rows):
        top = _TICK_ROW + index * _ROW
        left, right = at(row.low), at(row.high)
        parts.append(_heading(row.label, row.text, top + 15))
        parts.append(_rect("track", 0, 100, top + 24, 3))
        if right - left > 0.5:
            parts.append(_rect(row.css, left, right - left, top + 21, 9))
        if row.point is not None:
            parts.append(_dot(row.css, at(row.point), top + 25.5))
    x = at(marker[1])
    anchor = "start" if x < 20 else "end" if x > 80 else "middle"
    parts.append(
        Markup('<line class="marker" x1="{x:.2f}%" x2="{x:.2f}%" y1="17" y2="{y}"/>').format(x=x, y=bottom)
        + Markup('<text class="marker-text" x="{:.2f}%" y="12" text-anchor="{}">{}</text>').format(x, anchor, marker[0])
    )
    return _svg(parts, bottom + _TICK_ROW, description)


def _svg(parts: Sequence[Markup], height: float, description: str) -> Markup:
    head = Markup('<svg class="chart" width="100%" height="{}" role="img" aria-label="{}">').format(height, description)
    return head + Markup("").join(parts) + Markup("</svg>")


def _heading(label: str, text: str, y: float) -> Markup:
    return Markup(
        '<text class="label" x="0" y="{y}"><title>{full}</title>{label}</text>'
        '<text class="value" x="100%" y="{y}" text-anchor="end">{text}</text>'
    ).format(y=y, full=label, label=_shorten(label), text=text)


def _shorten(label: str) -> str:
    """The end of a layer's name tells it from its neighbours, and so does the beginning: drop the middle."""
    if len(label) <= _LABEL_LENGTH:
        return label
    return f"{label[: _LABEL_LENGTH // 2]}…{label[-_LABEL_LENGTH // 2 + 1 :]}"


def _rect(css: str, x: float, width: float, y: float, height: float) -> Markup:
    return Markup('<rect class="{}" x="{:.2f}%" width="{:.2f}%" y="{}" height="{}" rx="1.5"/>').format(
        css, x, max(0.0, width), y, height
    )


def _dot(css: str, x: float, y: float) -> Markup:
    return Markup('<circle class="{} dot" cx="{:.2f}%" cy="{}" r="5"/>').format(css, x, y)


def _axis_tick(decade: int, x: float, bottom: float) -> Markup:
    anchor = "start" if x < 1 else "end" if x > 99 else "middle"
    return Markup(
        '<line class="grid" x1="{x:.2f}%" x2="{x:.2f}%" y1="17" y2="{bottom}"/>'
        '<text class="tick" x="{x:.2f}%" y="{below}" text-anchor="{anchor}">{text}</text>'
    ).format(x=x, bottom=bottom, below=bottom + 15, anchor=anchor, text=f"{10.0**decade:,g}")
