"""The tables of a sweep: every point with its costs, and what the points cost at the accuracy of a trained quantized ANN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from profilers.report.cells import Cell, Row, Table
from profilers.report.numbers import SPACE, percent
from profilers.report.sweep import CostAtAccuracy, CostAxis, SweepData, SweepPoint, pareto
from profilers.report.sweep_words import (
    BY_BITS,
    DOMINANCE,
    accuracy_text,
    bits_text,
    cost_text,
    point_label,
    varies,
)
from profilers.text_table import TextTable, table

STAR = f"{SPACE}*"


def fronts(sweep: SweepData) -> dict[str, set[int]]:
    """The points of each cost's front, by their place among the points."""
    places = {id(point): index for index, point in enumerate(sweep.points)}
    return {axis.name: {places[id(p)] for p in pareto(sweep.points, axis.name)} for axis in sweep.axes}


def shown(sweep: SweepData) -> list[CostAxis]:
    """The costs that tables and picture have, as far as any point has them."""
    return [axis for axis in sweep.axes if axis.shown and any(axis.name in point.costs for point in sweep.points)]


def point_table(sweep: SweepData) -> TextTable:
    """One row per point, and one per ANN beside them; for a terminal."""
    axes, front = shown(sweep), fronts(sweep)
    fields = _fields(sweep.points)
    heads = [_HEADS[name] for name in fields]
    rows = [
        [
            *(_field(point, name) for name in fields),
            accuracy_text(point.accuracy, point.low, point.high),
            *(_starred(cost_text(axis, point.costs.get(axis.name)), index in front[axis.name]) for axis in axes),
        ]
        for index, point in enumerate(sweep.points)
    ]
    for ann in sweep.references:
        first = [f"{ann.name} ({ann.kind})", *["–"] * (len(fields) - 1)]
        costs = [cost_text(axis, ann.costs.get(axis.name)) for axis in axes]
        rows.append([*first, accuracy_text(ann.accuracy, ann.low, ann.high), *costs])
    star = f"* on the Pareto front of accuracy and that cost: {DOMINANCE}."
    title = "\n".join([f"{sweep.title}, per sample", star, *remarks(sweep)])
    return table(title, [*heads, "accuracy (95 % CI)", *(axis.title for axis in axes)], rows)


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
    rows = [[row.reference, percent(row.accuracy, 2), *_compared(sweep, row)] for row in _of_shown(sweep)]
    heads = ["quantized ANN", "its accuracy", "cost", "these networks", "the ANN", "ratio"]
    return table("at equal accuracy, interpolated along the front of each cost", heads, rows) if rows else None


def equal_page_table(sweep: SweepData) -> Table | None:
    """The same for the page."""
    rows = []
    for row in _of_shown(sweep):
        title, *cells = _compared(sweep, row)
        rows.append(Row(title, tuple(map(Cell, cells)), f"{row.reference}, {percent(row.accuracy, 2)}"))
    columns = tuple(map(Cell, ("Cost", "These networks", "The quantized ANN", "Ratio")))
    return Table("equal", "At equal accuracy", columns, tuple(rows)) if rows else None


def remarks(sweep: SweepData) -> list[str]:
    """Sentences to read with the tables: what was left out, and which costs hang on the bits."""
    found = [f"Not finished: {', '.join(sweep.missing)} are missing."] if sweep.missing else []
    if varies(sweep.points, "bits"):
        for kind, axes in _by_bits(shown(sweep)).items():
            found.append(f"{_BITS_SENTENCE[kind]}: {'; '.join(axis.title for axis in axes)}.")
    return [*found, *sweep.notes]


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

_HEADS = {"network": "network", "bits": "bits", "T": "T"}
_BITS_SENTENCE = {
    "weights": "Count the bits of the weights",
    "placement": "Depend on the bits by cores and spikes only, an operation costs the same at any",
    "none": "Do not depend on the bits, an operation costs the same at any and only the spikes differ",
}


def _fields(points: Sequence[SweepPoint]) -> list[str]:
    return [name for name in _HEADS if varies(points, name)] or ["network"]


def _field(point: SweepPoint, name: str) -> str:
    if name == "bits":
        return bits_text(None) if point.bits is None else str(point.bits)
    return str(getattr(point, name))


def _starred(text: str, on_front: bool) -> str:
    return f"{text}{STAR}" if on_front else text


def _of_shown(sweep: SweepData) -> list[CostAtAccuracy]:
    names = {axis.name for axis in shown(sweep)}
    return [row for row in sweep.equal if row.cost in names]


def _compared(sweep: SweepData, row: CostAtAccuracy) -> list[str]:
    axis = next(axis for axis in sweep.axes if axis.name == row.cost)
    if row.points is None:
        return [axis.title, row.refusal, cost_text(axis, row.ann), "–"]
    ratio = "–"
    if row.ann is not None:
        ratios = sorted(getattr(row.points, b) / getattr(row.ann, b) for b in ("low", "nominal", "high"))
        ratio = f"{ratios[0]:.3g}–{ratios[-1]:.3g}{SPACE}×" if ratios[0] != ratios[-1] else f"{ratios[0]:.3g}{SPACE}×"
    return [axis.title, cost_text(axis, row.points), cost_text(axis, row.ann), ratio]


def _by_bits(axes: Sequence[CostAxis]) -> Mapping[str, list[CostAxis]]:
    found: dict[str, list[CostAxis]] = {}
    for kind in _BITS_SENTENCE:
        if those := [axis for axis in axes if axis.bits == kind]:
            found[kind] = those
    return found
