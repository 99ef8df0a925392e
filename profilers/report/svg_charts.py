"""Six kinds of chart are written as inline SVG without a library: bars, ranges, dots, lines, panels of lines, maps of cells.

Positions along the page are percentages, so a chart fits any width and its text keeps its size. Colors are CSS classes
of the page (`float`, `quantized`, `track`, …), so light and dark both work.

matplotlib was tried for all five kinds, its colors mapped to the page's variables, and made the report worse. Its SVG
scales as a whole: charts with a row per energy model, 990 px wide, had text of under 5 px on a phone of 390 px; drawn
for the phone they filled half of a desktop's page, long names ran into their values, and no text could be clipped to
the room that a narrow page leaves it. What a dot says under the pointer was lost, the page grew by 40 %, and writing it
took 1.5 to 2.5 s instead of 0.2 s. Nothing became shorter: rows with their labels above them are laid out by hand there
too. The curves of a training run are plain axes, and matplotlib draws them (`kdsnn.train.curves`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

_ROW, _BAR, _LABEL_LENGTH, _TITLE_LENGTH = 46, 8, 34, 60
_TICK_ROW = 22
_PLOT_TOP, _PLOT = 16, 220
_PANEL, _PANEL_PLOT, _PANEL_LEFT, _PANEL_RIGHT = 122, 70, 15, 97


@dataclass(frozen=True)
class BarRow:
    """One row of `bar_chart` is a label, the value as text, and (CSS class, value) per bar, top to bottom."""

    label: str
    text: str
    values: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class RangeRow:
    """One row of `range_chart` is a label, the value as text, a range, a point in it, and the CSS class of both.

    `other` is a second point, of the class `literature`, and what it is.
    """

    label: str
    text: str
    low: float
    high: float
    point: float | None
    css: str
    other: tuple[float, str] | None = None


@dataclass(frozen=True)
class DotRow:
    """One row of `dot_chart` is a label, the value as text, and (name, fraction) per dot."""

    label: str
    text: str
    values: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Line:
    """One line of `line_chart` is its CSS class and (x, y, description) of its points, from left to right."""

    css: str
    points: tuple[tuple[float, float, str], ...]


@dataclass(frozen=True)
class Panel:
    """One panel of `panel_chart` is a label, a value as text, and lines over an axis of its own, from 0 if `from_zero`.

    `y_text` writes a value of that axis.
    """

    label: str
    text: str
    lines: tuple[Line, ...]
    y_text: Callable[[float], str]
    from_zero: bool = True


@dataclass(frozen=True)
class Patch:
    """A patch is a run of cells of `grid_map`: its CSS class, what it is, and how many cells."""

    css: str
    label: str
    cells: int


def bar_chart(rows: Sequence[BarRow], description: str) -> Markup:
    """The bars are horizontal, from zero, with a label above each group; all rows share one scale."""
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


def range_chart(rows: Sequence[RangeRow], marker: tuple[str, float], description: str) -> Markup:
    """The ranges lie on a logarithmic axis, with one vertical line (label, value) through all of them."""
    ends = [end for row in rows for end in (row.low, row.high, *([row.other[0]] if row.other else []))]
    positive = [v for v in (marker[1], *ends) if v > 0] or [1.0]
    first = max(-4, math.floor(math.log10(min(positive))))
    last = max(first + 1, math.ceil(math.log10(max(positive))))

    def at(value: float) -> float:
        return 0.0 if value <= 0 else min(100.0, max(0.0, 100 * (math.log10(value) - first) / (last - first)))

    bottom = _TICK_ROW + len(rows) * _ROW
    parts = [_axis_tick(decade, at(10.0**decade), bottom) for decade in range(first, last + 1)]
    for index, row in enumerate(rows):
        top = _TICK_ROW + index * _ROW
        left, right = at(row.low), at(row.high)
        parts.append(_heading(row.label, row.text, top + 15, _TITLE_LENGTH))
        parts.append(_rect("track", 0, 100, top + 24, 3))
        if right - left > 0.5:
            parts.append(_rect(row.css, left, right - left, top + 21, 9))
        if row.other is not None:
            parts.append(_dot("literature", at(row.other[0]), top + 25.5, row.other[1]))
        if row.point is not None:
            parts.append(_dot(row.css, at(row.point), top + 25.5))
    x = at(marker[1])
    anchor = "start" if x < 20 else "end" if x > 80 else "middle"
    parts.append(
        Markup('<line class="marker" x1="{x:.2f}%" x2="{x:.2f}%" y1="17" y2="{y}"/>').format(x=x, y=bottom)
        + Markup('<text class="marker-text" x="{:.2f}%" y="12" text-anchor="{}">{}</text>').format(x, anchor, marker[0])
    )
    return _svg(parts, bottom + _TICK_ROW, description)


def dot_chart(rows: Sequence[DotRow], description: str) -> Markup:
    """Fractions are dots on an axis from 0 to 1, with a bar from the lowest to the highest."""
    parts = []
    for index, row in enumerate(rows):
        top = index * _ROW
        found = [100 * value for _, value in row.values]
        parts.append(_heading(row.label, row.text, top + 13))
        parts.append(_rect("track", 0, 100, top + 22, 3))
        parts.append(_rect("range", min(found), max(found) - min(found), top + 19, 9))
        for (name, _), x in zip(row.values, found, strict=True):
            parts.append(_dot("quantized", x, top + 23.5, f"{name}: {x:.1f} %", 4))
    return _svg(parts, len(rows) * _ROW, description)


def line_chart(
    lines: Sequence[Line], x_text: Callable[[float], str], y_text: Callable[[float], str], description: str
) -> Markup:
    """Lines with dots go over linear axes; x starts at 0, y spans the values. The dots carry their text."""
    xs = [x for line in lines for x, _, _ in line.points]
    ys = [y for line in lines for _, y, _ in line.points]
    right = max(xs, default=0) * 1.04 or 1.0
    ticks = axis_ticks(min(ys, default=0), max(ys, default=1))
    bottom, top = ticks[0], ticks[-1]

    def at(x: float, y: float) -> tuple[float, float]:
        return 100 * x / right, _PLOT_TOP + _PLOT * (top - y) / (top - bottom)

    parts = [_level(at(0, y)[1], y_text(y)) for y in ticks]
    parts += [
        _below(100 * x / right, x_text(x), _PLOT_TOP + _PLOT + 18) for x in axis_ticks(0, right, 4) if 0 <= x <= right
    ]
    parts += _strokes(lines, at)
    return _svg(parts, _PLOT_TOP + _PLOT + _TICK_ROW, description)


def panel_chart(panels: Sequence[Panel], ticks: Sequence[tuple[float, str]], description: str) -> Markup:
    """The panels stand one above the other over one linear x axis, which reaches from the first point to the last."""
    xs = [x for panel in panels for line in panel.lines for x, _, _ in line.points]
    left, right = min(xs, default=0), max(xs, default=1)

    def across(x: float) -> float:
        share = 0.5 if right == left else (x - left) / (right - left)
        return _PANEL_LEFT + (_PANEL_RIGHT - _PANEL_LEFT) * share

    parts = []
    for index, panel in enumerate(panels):
        above = index * _PANEL
        ys = [y for line in panel.lines for _, y, _ in line.points]
        low, high = min(ys), max(ys)
        levels = axis_ticks(0 if panel.from_zero or low == high else low, high or 1, 3)
        bottom, top = levels[0], levels[-1]

        def at(
            x: float, y: float, above: float = above, bottom: float = bottom, top: float = top
        ) -> tuple[float, float]:
            return across(x), above + _PANEL - 10 - _PANEL_PLOT * (y - bottom) / (top - bottom)

        parts.append(_heading(panel.label, panel.text, above + 14))
        parts += [_level(at(left, y)[1], panel.y_text(y)) for y in levels]
        parts += _strokes(panel.lines, at, 4 if len(xs) <= 40 * len(panels) else 2)
    parts += [_below(across(x), text, len(panels) * _PANEL + 8) for x, text in ticks]
    return _svg(parts, len(panels) * _PANEL + _TICK_ROW, description)


def grid_map(patches: Sequence[Patch], cells: int, columns: int, description: str) -> Markup:
    """A chip has `cells` squares in rows of `columns`: the patches one after the other, the rest empty."""
    width, height = 100 / columns, 20
    parts = []
    filled = [(patch.css, patch.label) for patch in patches for _ in range(patch.cells)]
    for index in range(cells):
        row, column = divmod(index, columns)
        css, label = filled[index] if index < len(filled) else ("track", "free")
        parts.append(
            Markup(
                '<rect class="{}" x="{:.3f}%" width="{:.3f}%" y="{}" height="{}" rx="1.5"><title>{}</title></rect>'
            ).format(css, column * width + 0.2, width - 0.4, row * height + 1, height - 2, label)
        )
    return _svg(parts, math.ceil(cells / columns) * height, description)


def axis_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers enclose the two."""
    if high <= low:
        low, high = low - 0.05 * (abs(low) or 1), high + 0.05 * (abs(high) or 1)
    rough = (high - low) / count
    step = next(s for s in (1, 2, 2.5, 5, 10) if s * 10 ** math.floor(math.log10(rough)) >= rough * (1 - 1e-9))
    step *= 10 ** math.floor(math.log10(rough))
    return [step * i for i in range(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)]


def _strokes(
    lines: Sequence[Line], at: Callable[[float, float], tuple[float, float]], radius: float = 5
) -> list[Markup]:
    """Lines with dots, the first on top."""
    parts = []
    for line in reversed(lines):
        places = [at(x, y) for x, y, _ in line.points]
        for (x1, y1), (x2, y2) in pairwise(places):
            parts.append(
                Markup('<line class="stroke {}" x1="{:.2f}%" y1="{:.1f}" x2="{:.2f}%" y2="{:.1f}"/>').format(
                    line.css, x1, y1, x2, y2
                )
            )
        for (x, y), (_, _, text) in zip(places, line.points, strict=True):
            parts.append(_dot(line.css, x, y, text, radius))
    return parts


def _level(y: float, text: str) -> Markup:
    return Markup(
        '<line class="grid" x1="0" x2="100%" y1="{y:.1f}" y2="{y:.1f}"/><text class="tick" x="0" y="{above:.1f}">{text}</text>'
    ).format(y=y, above=y - 4, text=text)


def _below(x: float, text: str, y: float) -> Markup:
    anchor = "start" if x < 3 else "end" if x > 97 else "middle"
    return Markup('<text class="tick" x="{:.2f}%" y="{}" text-anchor="{}">{}</text>').format(x, y, anchor, text)


def _svg(parts: Sequence[Markup], height: float, description: str) -> Markup:
    head = Markup('<svg class="chart" width="100%" height="{}" role="img" aria-label="{}">').format(height, description)
    return head + Markup("").join(parts) + Markup("</svg>")


def _heading(label: str, text: str, y: float, length: int = _LABEL_LENGTH) -> Markup:
    # an inner <svg> clips what is too long for a narrow page, so that it never runs into the value
    return Markup(
        '<svg class="clip" y="{top}" width="70%" height="20"><text class="label" x="0" y="14">'
        "<title>{full}</title>{label}</text></svg>"
        '<text class="value" x="100%" y="{y}" text-anchor="end">{text}</text>'
    ).format(top=y - 14, y=y, full=label, label=_shorten(label, length), text=text)


def _shorten(label: str, length: int) -> str:
    """The end of a layer's name tells it from its neighbors, and so does the beginning: drop the middle."""
    return label if len(label) <= length else f"{label[: length // 2]}…{label[-length // 2 + 1 :]}"


def _rect(css: str, x: float, width: float, y: float, height: float) -> Markup:
    return Markup('<rect class="{}" x="{:.2f}%" width="{:.2f}%" y="{}" height="{}" rx="1.5"/>').format(
        css, x, max(0.0, width), y, height
    )


def _dot(css: str, x: float, y: float, title: str = "", radius: float = 5) -> Markup:
    ring = " dot" if radius > 3 else ""  # rings around small dots would cut up the line through them
    return Markup('<circle class="{}{}" cx="{:.2f}%" cy="{:.1f}" r="{}"><title>{}</title></circle>').format(
        css, ring, x, y, radius, title
    )


def _axis_tick(decade: int, x: float, bottom: float) -> Markup:
    anchor = "start" if x < 1 else "end" if x > 99 else "middle"
    return Markup(
        '<line class="grid" x1="{x:.2f}%" x2="{x:.2f}%" y1="17" y2="{bottom}"/>'
        '<text class="tick" x="{x:.2f}%" y="{below}" text-anchor="{anchor}">{text}</text>'
    ).format(x=x, bottom=bottom, below=bottom + 15, anchor=anchor, text=f"{10.0**decade:,g}")
