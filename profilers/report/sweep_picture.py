"""The picture of a sweep: accuracy against each cost, small multiples in one SVG.

Lengths across are percentages of the page and heights are pixels, as in `svg_charts`. Panels stand in two columns, and in
one on a narrow page: then the picture's own style sheet moves them. Written alone (`standalone`), it has a fixed size and
its colors are spelled out, so that other programs than browsers can show it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from markupsafe import Markup

from profilers.report.numbers import SPACE, percent
from profilers.report.svg_charts import axis_ticks
from profilers.report.sweep import CostAxis, SweepData, SweepPoint, pareto
from profilers.report.sweep_labels import Label, placed
from profilers.report.sweep_tables import shown
from profilers.report.sweep_words import (
    BY_BITS,
    accuracy_text,
    by_series,
    cost_text,
    nominal_text,
    point_label,
    series_label,
    varies,
)

_TEMPLATES = Path(__file__).parent / "templates"
_WIDTH = 1000
"""Of the picture alone, in pixels."""
_PANEL, _TOP, _PLOT, _GAP = 262, 50, 170, 18
_LEFT, _RIGHT = 11.0, 96.0
_LEGEND_ROW, _CAPTION = 22, 44
_LOGARITHMIC = 30
"""From this ratio of the largest cost to the smallest on, the axis is logarithmic."""
_SHAPES = ("M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0z", "M-4.5,-4.5h9v9h-9z", "M0,-6.3L6.3,0L0,6.3L-6.3,0z", "M0,-6L5.8,4.5L-5.8,4.5z")  # fmt: skip
COLORS = 8
"""Colors of series, `.c0` to `.c7` of the style sheet."""


@dataclass(frozen=True)
class _Scale:
    """Values of a cost lie at a percentage of the panel's width; the ticks are values too."""

    at: Callable[[float], float]
    ticks: tuple[float, ...]
    logarithmic: bool


def picture(sweep: SweepData) -> Markup:
    """The picture for the page: it takes the page's width and colors."""
    return _drawn(sweep, 'class="chart sweep" width="100%"', f"<style>{_rules(sweep)}</style>")


def standalone(sweep: SweepData) -> Markup:
    """The picture as a file of its own."""
    height = _height(sweep, 2)
    size = f'xmlns="http://www.w3.org/2000/svg" class="chart sweep" width="{_WIDTH}" height="{height}" viewBox="0 0 {_WIDTH} {height}"'
    ground = '<rect class="page" width="100%" height="100%"/>'
    return _drawn(sweep, size, f"<style>{_spelled_out()}</style>{ground}")


def _drawn(sweep: SweepData, attributes: str, first: str) -> Markup:
    series = by_series(sweep.points)
    parts = [_legend(sweep, series), _caption(_legend_rows(series, 4) * _LEGEND_ROW)]
    top = _above(series, 4)
    for index, axis in enumerate(shown(sweep)):
        row, column = divmod(index, 2)
        place = Markup('class="p{}" x="{}%" y="{}" width="48%" height="{}"').format(
            index, 52 * column, top + row * (_PANEL + _GAP), _PANEL
        )
        parts.append(Markup("<svg {}>{}</svg>").format(place, _panel(sweep, series, axis)))
    head = Markup('<svg {} role="img" aria-label="Accuracy against each cost, one panel per cost">').format(
        Markup(attributes)
    )
    return head + Markup(first) + Markup("").join(parts) + Markup("</svg>")


def _panel(sweep: SweepData, series: Sequence[Sequence[SweepPoint]], axis: CostAxis) -> Markup:
    known = [[p for p in one if axis.name in p.costs] for one in series]
    scale, levels = _scale(sweep, axis), _levels(sweep)

    def height(accuracy: float) -> float:
        return _TOP + _PLOT * (levels[-1] - accuracy) / (levels[-1] - levels[0])

    def place(point: SweepPoint) -> tuple[float, float]:
        return scale.at(point.costs[axis.name].nominal), height(point.accuracy)

    front = pareto(sweep.points, axis.name)
    parts = [_heading(sweep, axis, scale)]
    parts += [_level(height(level), f"{100 * level:.3g}{SPACE}%") for level in levels]
    parts += [_tick(scale.at(tick), nominal_text(axis, tick, digits=2, trim=True)) for tick in scale.ticks]
    parts += _references(sweep, axis, scale, height)
    parts += _staircase([place(p) for p in front])
    for index, one in enumerate(known):
        for a, b in pairwise(map(place, one)):
            parts.append(_line(f"stroke {_color(index)}", a, b))
    labels = []
    for index, one in enumerate(known):
        for point in one:
            x, y = place(point)
            title = (
                f"{point_label(point, sweep.points)}: {accuracy_text(point.accuracy, point.low, point.high)}, "
                f"{axis.title} {cost_text(axis, point.costs[axis.name])}{', on the front' if point in front else ''}"
            )
            css = f"{_color(index)}{'' if point in front else ' off'}"
            parts.append(_marker(css, _SHAPES[(index + index // COLORS) % len(_SHAPES)], x, y, title))
            short = f"{point.T}" if varies(sweep.points, "T") else series_label(point, sweep.points)
            labels.append(Label(x, y, short))
    bounds = (_LEFT - 5, 100.0, float(_TOP - 8), float(_TOP + _PLOT + 4))
    parts += [_text("name", x, y, label.text, anchor) for label, x, y, anchor in placed(labels, bounds)]
    return Markup("").join(parts)


def _heading(sweep: SweepData, axis: CostAxis, scale: _Scale) -> Markup:
    said = [BY_BITS[axis.bits]] if varies(sweep.points, "bits") else []
    said += ["lower bounds"] if axis.at_least else []
    said += ["logarithmic"] if scale.logarithmic else []
    small = "; ".join(said)
    # an inner <svg> clips what is too long for a narrow page
    return Markup(
        '<svg class="clip" width="100%" height="40"><text class="label" y="14"><title>{}</title>{}</text>'
        '<text class="tick" y="32">{}</text></svg>'
    ).format(axis.title, axis.title, small)


def _references(sweep: SweepData, axis: CostAxis, scale: _Scale, height: Callable[[float], float]) -> list[Markup]:
    """A line at the accuracy of each ANN, with its name, and a mark where its cost is known."""
    parts = []
    for ann in sweep.references:
        y = height(ann.accuracy)
        parts.append(_line("reference", (_LEFT, y), (100, y)))
        parts.append(_text("reference-text", 100, y - 4, f"{ann.name} {percent(ann.accuracy)}", "end"))
        if axis.name in ann.costs:
            title = f"{ann.name} ({ann.kind}): {percent(ann.accuracy)}, {cost_text(axis, ann.costs[axis.name])}"
            parts.append(_marker("reference", "M-5,-5L5,5M-5,5L5,-5", scale.at(ann.costs[axis.name].nominal), y, title))
    return parts


def _scale(sweep: SweepData, axis: CostAxis) -> _Scale:
    """From 0, or logarithmic where costs lie far apart; ANNs that stand beside the points are in it."""
    values = [one.costs[axis.name].nominal for one in (*sweep.points, *sweep.references) if axis.name in one.costs]
    low, high = min(values), max(values)
    if low > 0 and high / low >= _LOGARITHMIC:
        first, last = math.log10(low) - 0.05, math.log10(high) + 0.05
        decades = range(math.floor(first), math.ceil(last) + 1)
        steps = (1,) if last - first > 2 else (1, 2, 5)
        ticks = [step * 10.0**decade for decade in decades for step in steps]
    else:
        first, last = 0.0, high * 1.06 or 1.0
        ticks = axis_ticks(0, last, 4)

    def at(value: float) -> float:
        where = math.log10(value) if low > 0 and high / low >= _LOGARITHMIC else value
        return _LEFT + (_RIGHT - _LEFT) * (where - first) / (last - first)

    kept = tuple(tick for tick in ticks if _LEFT - 0.01 <= at(tick) <= 100)
    return _Scale(at, kept, low > 0 and high / low >= _LOGARITHMIC)


def _levels(sweep: SweepData) -> list[float]:
    accuracies = [one.accuracy for one in (*sweep.points, *sweep.references)]
    return axis_ticks(min(accuracies), max(accuracies), 4)


def _staircase(front: Sequence[tuple[float, float]]) -> list[Markup]:
    """The front as its steps: nothing lies left of it and above."""
    parts = []
    for (x1, y1), (x2, y2) in pairwise([*front, (100.0, front[-1][1])] if front else []):
        parts += [_line("front", (x1, y1), (x2, y1)), _line("front", (x2, y1), (x2, y2))]
    return parts


# -- the page around the panels ----------------------------------------------------------------------


def _legend(sweep: SweepData, series: Sequence[Sequence[SweepPoint]]) -> Markup:
    parts = []
    for index, one in enumerate(series):
        row, column = divmod(index, 4)
        mark = _marker(_color(index), _SHAPES[(index + index // COLORS) % len(_SHAPES)], 0, 10, "", shift=7)
        label = series_label(one[0], sweep.points)
        parts.append(
            Markup(
                '<svg class="l{}" x="{}%" y="{}" width="24%" height="{}">{}<text class="value" x="18" y="14"><title>{}</title>{}</text></svg>'
            ).format(index, 25 * column, row * _LEGEND_ROW, _LEGEND_ROW, mark, label, label)
        )
    return Markup("").join(parts)


def _caption(y: float) -> Markup:
    lines = (
        "Filled, on the dashed line: the Pareto front. Hollow: another point is at",
        "least as accurate and at most as expensive. Costs at nominal values. Numbers are T.",
    )
    texts = [_text("tick", 0, 16 + 17 * i, line, "start") for i, line in enumerate(lines)]
    return Markup('<svg class="caption" y="{}" width="100%" height="{}">{}</svg>').format(
        y, _CAPTION, Markup("").join(texts)
    )


def _legend_rows(series: Sequence[Sequence[SweepPoint]], columns: int) -> int:
    return math.ceil(len(series) / columns)


def _above(series: Sequence[Sequence[SweepPoint]], columns: int) -> int:
    return _legend_rows(series, columns) * _LEGEND_ROW + _CAPTION


def _height(sweep: SweepData, columns: int) -> int:
    rows = math.ceil(len(shown(sweep)) / columns)
    return _above(by_series(sweep.points), 2 * columns) + rows * (_PANEL + _GAP)


def _rules(sweep: SweepData) -> Markup:
    """Where everything lies on a narrow page: x, y and width are properties that a style sheet may set."""
    series = by_series(sweep.points)
    top = _above(series, 2)
    rules = [f".sweep{{height:{_height(sweep, 1)}px}}", f".sweep .caption{{y:{top - _CAPTION}px}}"]
    rules += [f".sweep .l{i}{{x:{50 * (i % 2)}%;y:{i // 2 * _LEGEND_ROW}px;width:48%}}" for i in range(len(series))]
    rules += [f".sweep .p{i}{{x:0;y:{top + i * (_PANEL + _GAP)}px;width:100%}}" for i in range(len(shown(sweep)))]
    wide = f".sweep{{height:{_height(sweep, 2)}px}}"
    return Markup(f"{wide}@media (max-width:680px){{{''.join(rules)}}}")


def _spelled_out() -> str:
    """The page's rules for charts, with its colors in place of their names: light, and dark where that is wanted."""
    sheet = (_TEMPLATES / "report.css").read_text(encoding="utf-8") + (_TEMPLATES / "sweep.css").read_text(
        encoding="utf-8"
    )
    light, dark = (dict(re.findall(r"--([\w-]+): (#\w+)", block)) for block in re.findall(r":root \{(.*?)\}", sheet, re.DOTALL)[:2])  # fmt: skip
    rules = [line for line in sheet.splitlines() if line.startswith(".chart")]
    colored = [re.findall(r"(\.chart[^{]*)\{([^}]*var[^}]*)\}", rule) for rule in rules]

    def spelled(text: str, colors: dict[str, str]) -> str:
        return re.sub(r"var\(--([\w-]+)\)", lambda match: colors[match[1]], text)

    again = "".join(f"{selector}{{{spelled(body, dark)}}}" for found in colored for selector, body in found)
    font = ".chart{font-family:system-ui,-apple-system,'Segoe UI',Roboto,Arial,sans-serif}"
    return font + spelled("".join(rules), light) + f"@media (prefers-color-scheme:dark){{{again}}}"


# -- marks -------------------------------------------------------------------------------------------


def _color(index: int) -> str:
    return f"c{index % COLORS}"


def _line(css: str, a: tuple[float, float], b: tuple[float, float]) -> Markup:
    return Markup('<line class="{}" x1="{:.2f}%" y1="{:.1f}" x2="{:.2f}%" y2="{:.1f}"/>').format(css, *a, *b)


def _text(css: str, x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text class="{}" x="{:.2f}%" y="{:.1f}" text-anchor="{}">{}</text>').format(css, x, y, anchor, text)


def _level(y: float, text: str) -> Markup:
    return _line("grid", (0, y), (100, y)) + _text("tick", 0, y - 3, text, "start")


def _tick(x: float, text: str) -> Markup:
    return _text("tick", x, _TOP + _PLOT + 18, text, "end" if x > 97 else "middle")


def _marker(css: str, shape: str, x: float, y: float, title: str, shift: float = 0) -> Markup:
    said = Markup("<title>{}</title>").format(title) if title else ""
    return Markup(
        '<svg x="{:.2f}%" y="{:.1f}" overflow="visible"><path class="mark {}" transform="translate({},0)" d="{}">{}</path></svg>'
    ).format(x, y, css, shift, shape, said)
