"""The picture of a sweep: accuracy against each cost, small multiples.

Lengths across are percentages and heights are pixels, as in `svg_charts`: on the page every panel is a chart of its own, in
as many columns as there is room for; `standalone` puts them into one SVG of a fixed size with the colors spelled out, so
that other programs than browsers can show it.
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
from profilers.report.sweep import CostAxis, SweepData, SweepPoint, SweepReference, pareto
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
_WIDTH, _MARGIN = 1000, 20
"""Of the picture alone, in pixels."""
_PANEL, _TOP, _PLOT, _GAP = 262, 50, 170, 18
_LEFT, _RIGHT = 11.0, 96.0
_LINE = 22
_LOGARITHMIC = 30
"""From this ratio of the largest cost to the smallest on, the axis is logarithmic."""
_FAR_ERRORS = 4
"""From this ratio of the largest error to the smallest on, accuracies are logarithmic in the error."""
_SHAPES = ("M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0z", "M-4.5,-4.5h9v9h-9z", "M0,-6.3L6.3,0L0,6.3L-6.3,0z", "M0,-6L5.8,4.5L-5.8,4.5z")  # fmt: skip
COLORS = 8
"""Colors of series, `.c0` to `.c7` of the style sheet."""


@dataclass(frozen=True)
class AxisScale:
    """Where values lie on an axis; the ticks are values too."""

    at: Callable[[float], float]
    ticks: tuple[float, ...]
    logarithmic: bool


def panels(sweep: SweepData) -> list[Markup]:
    """One chart per cost, for the page."""
    head = Markup('<svg class="chart" width="100%" height="{}" role="img" aria-label="Accuracy against {}">{}</svg>')
    drawn = [(axis.title, _panel(sweep, axis)) for axis in shown(sweep)]
    return [head.format(_PANEL, title, panel) for title, panel in drawn]


def legend(sweep: SweepData) -> list[tuple[Markup, str]]:
    """The mark and the name of every series."""
    head = Markup('<svg class="chart key-mark" width="16" height="16">{}</svg>')
    labels = [series_label(one[0], sweep.points) for one in by_series(sweep.points)]
    return [(head.format(_marker(_color(i), _shape(i), 0, 8, "", shift=8)), label) for i, label in enumerate(labels)]


def caption(sweep: SweepData) -> list[str]:
    """How to read it, in short lines."""
    steps = " Numbers are T." if varies(sweep.points, "T") else ""
    errors = "; accuracy logarithmic in its error" if accuracy_scale(sweep).logarithmic else ""
    return [
        "Filled, on the dashed line: the Pareto front of accuracy and this cost.",
        "Hollow: another point is at least as accurate and at most as expensive.",
        f"Costs at nominal values{errors}.{steps}",
    ]


def standalone(sweep: SweepData) -> str:
    """The picture as a file of its own."""
    found, names = panels(sweep), legend(sweep)
    parts = []
    for index, (mark, label) in enumerate(names):
        row, column = divmod(index, 4)
        place = Markup('<svg x="{}%" y="{}" width="24%" height="{}">').format(25 * column, row * _LINE, _LINE)
        parts.append(place + mark + Markup('<text class="value" x="20" y="13">{}</text></svg>').format(label))
    top = math.ceil(len(names) / 4) * _LINE
    for line in caption(sweep):
        top += 17
        parts.append(_text("tick", 0, top, line, "start"))
    top += _LINE
    for index, panel in enumerate(found):
        row, column = divmod(index, 2)
        place = Markup('<svg x="{}%" y="{}" width="48%" height="{}">').format(
            52 * column, top + row * (_PANEL + _GAP), _PANEL
        )
        parts.append(place + panel + Markup("</svg>"))
    height = top + math.ceil(len(found) / 2) * (_PANEL + _GAP)
    whole = Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" class="chart" width="{0}" height="{1}" viewBox="-{2} -{2} {0} {1}" role="img" '
        'aria-label="Accuracy against each cost, one panel per cost"><style>{3}</style>'
        '<rect class="page" x="-{2}" y="-{2}" width="{0}" height="{1}"/><svg width="{4}" height="{5}">{6}</svg></svg>\n'
    ).format(
        _WIDTH + 2 * _MARGIN,
        height + 2 * _MARGIN,
        _MARGIN,
        Markup(_spelled_out()),
        _WIDTH,
        height,
        Markup("").join(parts),
    )
    return str(whole)  # a plain text, to which more may be added


def _panel(sweep: SweepData, axis: CostAxis) -> Markup:
    known = [[p for p in one if axis.name in p.costs] for one in by_series(sweep.points)]
    scale, levels = _scale(sweep, axis), accuracy_scale(sweep)

    def height(accuracy: float) -> float:
        return _TOP + _PLOT * (1 - levels.at(accuracy))

    def place(point: SweepPoint) -> tuple[float, float]:
        return scale.at(point.costs[axis.name].nominal), height(point.accuracy)

    front = pareto(sweep.points, axis.name)
    parts = [_heading(sweep, axis, scale)]
    parts += [_level(height(level), f"{100 * level:.4g}{SPACE}%") for level in levels.ticks]
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
            parts.append(_marker(css, _shape(index), x, y, title))
            short = f"{point.T}" if varies(sweep.points, "T") else series_label(point, sweep.points)
            labels.append(Label(x, y, short))
    marks = _occupied(sweep, axis, scale, height)
    bounds = (_LEFT - 5, 100.0, float(_TOP - 8), float(_TOP + _PLOT + 4))
    parts += [_text("name", x, y, label.text, anchor) for label, x, y, anchor in placed(labels, bounds, marks)]
    return Markup("").join(parts)


def _heading(sweep: SweepData, axis: CostAxis, scale: AxisScale) -> Markup:
    said = [BY_BITS[axis.bits]] if varies(sweep.points, "bits") else []
    said += ["lower bounds"] if axis.at_least else []
    said += ["logarithmic"] if scale.logarithmic else []
    small = "; ".join(said)
    # an inner <svg> clips what is too long for a narrow page
    return Markup(
        '<svg class="clip" width="100%" height="40"><text class="label" y="14"><title>{}</title>{}</text>'
        '<text class="tick" y="32">{}</text></svg>'
    ).format(axis.title, axis.title, small)


def _references(sweep: SweepData, axis: CostAxis, scale: AxisScale, height: Callable[[float], float]) -> list[Markup]:
    """A line at the accuracy of each ANN, with its name, and a mark where its cost is known."""
    parts = []
    for ann in sweep.references:
        y = height(ann.accuracy)
        parts.append(_line("reference", (_LEFT, y), (100, y)))
        known = axis.name in ann.costs
        text, where = _reference_text(ann, axis, scale)
        parts.append(_text("reference-text", where, y - 5, text, "start"))
        if known:
            title = f"{ann.name} ({ann.kind}): {percent(ann.accuracy)}, {cost_text(axis, ann.costs[axis.name])}"
            parts.append(_marker("reference", "M-5,-5L5,5M-5,5L5,-5", scale.at(ann.costs[axis.name].nominal), y, title))
    return parts


def _reference_text(ann: SweepReference, axis: CostAxis, scale: AxisScale) -> tuple[str, float]:
    """What stands on the line of an ANN, and where it starts: on the left, where fronts leave room, behind its own mark."""
    mark = scale.at(ann.costs[axis.name].nominal) if axis.name in ann.costs else 100.0
    return f"{ann.name} {percent(ann.accuracy)}", mark + 2.5 if mark < 40 else _LEFT


def _occupied(
    sweep: SweepData, axis: CostAxis, scale: AxisScale, height: Callable[[float], float]
) -> list[tuple[float, float]]:
    """Where marks of ANNs and their names are, so that no name of a point gets there."""
    found = []
    for ann in sweep.references:
        y = height(ann.accuracy)
        text, where = _reference_text(ann, axis, scale)
        found += [(where + 2 * i, y - 9) for i in range(len(text))]
        found += [(scale.at(ann.costs[axis.name].nominal), y)] if axis.name in ann.costs else []
    return found


def _scale(sweep: SweepData, axis: CostAxis) -> AxisScale:
    """From 0, or logarithmic where costs lie far apart; ANNs that stand beside the points are in it."""
    values = [one.costs[axis.name].nominal for one in _everything(sweep) if axis.name in one.costs]
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
    return AxisScale(at, kept, low > 0 and high / low >= _LOGARITHMIC)


def _everything(sweep: SweepData) -> list[SweepPoint | SweepReference]:
    return [*sweep.points, *sweep.references]


def accuracy_scale(sweep: SweepData) -> AxisScale:
    """Accuracy from bottom to top, 0 to 1; logarithmic in the error where errors lie far apart, since what matters of a sweep
    is where they are small."""
    least = 0.5 / max(point.samples for point in sweep.points)
    found = [one.accuracy for one in _everything(sweep)]
    low, high = min(found), max(found)
    if (1 - low) / max(1 - high, least) < _FAR_ERRORS:
        ticks = axis_ticks(low, high, 4)
        return AxisScale(lambda accuracy: (accuracy - ticks[0]) / (ticks[-1] - ticks[0]), tuple(ticks), False)

    def depth(accuracy: float) -> float:
        return -math.log10(max(1 - accuracy, least))

    first, last = depth(low) - 0.05, depth(high) + 0.05
    nines = [1 - error * 10.0**-decade for decade in range(6) for error in (1.0, 0.5, 0.2)]
    ticks = [tick for tick in nines if tick < 1 - least / 2 and first <= depth(tick) <= last]
    return AxisScale(lambda accuracy: (depth(accuracy) - first) / (last - first), tuple(ticks), True)


def _staircase(front: Sequence[tuple[float, float]]) -> list[Markup]:
    """The front as its steps: nothing lies left of it and above."""
    parts = []
    for (x1, y1), (x2, y2) in pairwise([*front, (100.0, front[-1][1])] if front else []):
        parts += [_line("front", (x1, y1), (x2, y1)), _line("front", (x2, y1), (x2, y2))]
    return parts


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


def _shape(index: int) -> str:
    return _SHAPES[(index + index // COLORS) % len(_SHAPES)]


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
