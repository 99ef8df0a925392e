"""The tables of a sweep: every point with its costs, and what the points cost at the accuracy of a trained quantized ANN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from profilers.energy.models import Range
from profilers.report.cells import Cell, Row, Table
from profilers.report.numbers import SPACE, percent, spread
from profilers.report.sweep import CostAtAccuracy, CostAxis, SweepData, SweepPoint, SweepReference, pareto
from profilers.report.sweep_words import (
    BY_BITS,
    DOMINANCE,
    bits_text,
    cost_text,
    point_label,
    varies,
)
from profilers.text_table import TextTable, table

STAR = "*"
FOLLOWS_SYNOPS = "energy:horowitz-45nm-int8"
"""A cost that a terminal does without: it goes with SynOps."""


def fronts(sweep: SweepData) -> dict[str, set[int]]:
    """The points of each cost's front, by their place among the points."""
    places = {id(point): index for index, point in enumerate(sweep.points)}
    return {axis.name: {places[id(p)] for p in pareto(sweep.points, axis.name)} for axis in sweep.axes}


def shown(sweep: SweepData) -> list[CostAxis]:
    """The costs that tables and picture have: those in which points differ."""
    least = 1 if len(sweep.points) == 1 else 2
    return [axis for axis in sweep.axes if axis.shown and len(_values(sweep, axis) - {None}) >= least]


def alike(sweep: SweepData) -> str:
    """The costs that all points share, as a sentence; nothing where there is none."""
    found = [(axis, _values(sweep, axis) - {None}) for axis in sweep.axes if axis.shown and len(sweep.points) > 1]
    texts = [f"{axis.title} {cost_text(axis, values.pop())}" for axis, values in found if len(values) == 1]
    return f"The same for all points that have it: {', '.join(texts)}." if texts else ""


def point_table(sweep: SweepData) -> TextTable:
    """One row per point, and one per ANN beside them; for a terminal, so narrow that 80 columns break no number."""
    axes, front = [axis for axis in shown(sweep) if axis.name != FOLLOWS_SYNOPS], fronts(sweep)
    fields = _fields(sweep.points)
    rows = [
        [
            *(_field(point, name) for name in fields),
            _accuracy(point),
            *(_starred(cost_text(axis, point.costs.get(axis.name)), index in front[axis.name]) for axis in axes),
        ]
        for index, point in enumerate(sweep.points)
    ]
    names = [f"ANN{i if len(sweep.references) > 1 else ''}" for i in range(1, len(sweep.references) + 1)]
    for name, ann in zip(names, sweep.references, strict=True):
        costs = [cost_text(axis, ann.costs.get(axis.name)) for axis in axes]
        dashes = ["–"] * (len(fields) - 1)
        rows.append([name, *dashes, _accuracy(ann), *costs])
    title = [
        f"{sweep.title}, per sample",
        *(f"{name}: {ann.name}, {ann.kind}" for name, ann in zip(names, sweep.references, strict=True)),
        f"* on the Pareto front of accuracy and that cost: {DOMINANCE}.",
        *remarks(sweep),
    ]
    return table("\n".join(title), [*fields, "accuracy, 95 % CI", *(axis.title for axis in axes)], rows)


def page_table(sweep: SweepData) -> Table:
    """The same for the page; what hangs on the bits stands in the headings."""
    axes, front = shown(sweep), fronts(sweep)
    with_bits = varies(sweep.points, "bits")
    columns = [Cell(""), Cell("Accuracy", (f"95{SPACE}% interval",))]
    columns += [Cell(axis.title, (BY_BITS[axis.bits],) if with_bits else ()) for axis in axes]
    rows = []
    for index, point in enumerate(sweep.points):
        interval = f"{100 * point.low:.1f}–{percent(point.high)}"
        cells = [Cell(percent(point.accuracy), (interval,))]
        cells += [
            Cell(_starred(cost_text(axis, point.costs.get(axis.name)), index in front[axis.name])) for axis in axes
        ]
        rows.append(Row(point_label(point, sweep.points), tuple(cells)))
    for ann in sweep.references:
        interval = f"{100 * ann.low:.1f}–{percent(ann.high)}"
        costs = (Cell(cost_text(axis, ann.costs.get(axis.name))) for axis in axes)
        rows.append(Row(ann.name, (Cell(percent(ann.accuracy), (interval,)), *costs), ann.kind))
    return Table("sweep", "Every point", tuple(columns), tuple(rows))


def equal_text_table(sweep: SweepData) -> TextTable | None:
    """What the points cost at the accuracy of each trained quantized ANN, for a terminal; None without one."""
    heads = ["quantized ANN", "accuracy", "cost", "these networks", "the ANN", "ratio"]
    rows = [list(row) for row in _compared(sweep)]
    return table("at equal accuracy, interpolated along the front of each cost", heads, rows) if rows else None


def equal_page_table(sweep: SweepData) -> Table | None:
    """The same for the page."""
    rows = [
        Row(title, tuple(map(Cell, rest)), f"{who}, {accuracy}") for who, accuracy, title, *rest in _compared(sweep)
    ]
    columns = tuple(map(Cell, ("Cost", "These networks", "The quantized ANN", "Ratio")))
    return Table("equal", "At equal accuracy", columns, tuple(rows)) if rows else None


def remarks(sweep: SweepData) -> list[str]:
    """Sentences to read with the tables: what was left out, and which costs hang on the bits."""
    found = [f"Not finished: {', '.join(sweep.missing)} are missing."] if sweep.missing else []
    if varies(sweep.points, "bits"):
        for kind, axes in _by_bits(shown(sweep)).items():
            found.append(f"{_BITS_SENTENCE[kind]}: {'; '.join(axis.title for axis in axes)}.")
    same = alike(sweep)
    return [*found, *([same] if same else []), *sweep.notes]


def frame(sweep: SweepData) -> pd.DataFrame:
    """One row per point, all costs: nominal values, their bounds where they have any, and whether it is on the front."""
    front = fronts(sweep)
    wide = {
        axis.name
        for axis in sweep.axes
        if any((r := p.costs.get(axis.name)) is not None and r.low != r.high for p in sweep.points)
    }
    rows = []
    for index, point in enumerate(sweep.points):
        row: dict[str, object] = {
            "network": point.network, "bits": point.bits, "T": point.T, "samples": point.samples,
            "accuracy": point.accuracy, "accuracy low": point.low, "accuracy high": point.high,
            "parameters": point.parameters, "spikes": point.spikes,
        }  # fmt: skip
        for axis in sweep.axes:
            value = point.costs.get(axis.name)
            row[axis.name] = None if value is None else value.nominal
            if axis.name in wide:
                row[f"{axis.name} low"] = None if value is None else value.low
                row[f"{axis.name} high"] = None if value is None else value.high
            row[f"{axis.name} front"] = index in front[axis.name]
        rows.append(row)
    return pd.DataFrame(rows).astype({"bits": "Int64"})


# -- inside ------------------------------------------------------------------------------------------

_FIELDS = ("network", "bits", "T")
_BITS_SENTENCE = {
    "weights": "Count the bits of the weights",
    "placement": "An operation costs the same at any bits, which count by placement, zeros and spikes only",
    "none": "Do not depend on the bits, an operation costs the same at any and only the spikes differ",
}


def _values(sweep: SweepData, axis: CostAxis) -> set[Range | None]:
    return {point.costs.get(axis.name) for point in sweep.points}


def _fields(points: Sequence[SweepPoint]) -> list[str]:
    return [name for name in _FIELDS if varies(points, name)] or ["network"]


def _accuracy(one: SweepPoint | SweepReference) -> str:
    return f"{percent(one.accuracy)} {100 * one.low:.1f}–{100 * one.high:.1f}"


def _field(point: SweepPoint, name: str) -> str:
    if name == "bits":
        return bits_text(None) if point.bits is None else str(point.bits)
    return str(getattr(point, name))


def _starred(text: str, on_front: bool) -> str:
    return f"{text}{STAR}" if on_front else text


def _compared(sweep: SweepData) -> list[tuple[str, ...]]:
    """ANN, its accuracy, the cost, what the points and the ANN take of it, and the ratio; one row for an ANN that no point
    can be compared with."""
    axes = {axis.name: axis for axis in sweep.axes if axis.shown and _values(sweep, axis) - {None}}
    found: list[tuple[str, ...]] = []
    for reference in sweep.references:
        rows = [row for row in sweep.equal if row.reference == reference.name and row.cost in axes]
        if rows and all(row.refusal == rows[0].refusal != "" for row in rows):
            found.append((reference.name, percent(reference.accuracy, 2), "all", rows[0].refusal, "–", "–"))
            continue
        for row in rows:
            axis = axes[row.cost]
            points = row.refusal or cost_text(axis, row.points)
            cells = (axis.title, points, cost_text(axis, row.ann), _ratio(row))
            found.append((reference.name, percent(reference.accuracy, 2), *cells))
    return found


def _ratio(row: CostAtAccuracy) -> str:
    if row.points is None or row.ann is None:
        return "–"
    ratios = sorted(getattr(row.points, bound) / getattr(row.ann, bound) for bound in ("low", "nominal", "high"))
    return f"{spread(Range(ratios[0], ratios[1], ratios[-1]))}{SPACE}×"


def _by_bits(axes: Sequence[CostAxis]) -> Mapping[str, list[CostAxis]]:
    found: dict[str, list[CostAxis]] = {}
    for kind in _BITS_SENTENCE:
        if those := [axis for axis in axes if axis.bits == kind]:
            found[kind] = those
    return found
