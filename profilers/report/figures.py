"""The figures of the page decide which numbers of a report each chart shows."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from profilers.energy.models import Range
from profilers.report.data import NetworkRun, PlacementReport, ReportData, Student, StudentEnergy
from profilers.report.energy_tables import share
from profilers.report.literature import THRESHOLDS
from profilers.report.numbers import SPACE, number, percent, quantity, spread
from profilers.report.svg_charts import (
    BarRow,
    DotRow,
    Line,
    Patch,
    RangeRow,
    bar_chart,
    dot_chart,
    grid_map,
    line_chart,
    range_chart,
)
from profilers.report.tables import drift

CHIPS_DRAWN = 8
COLORS = 8
"""Colors of layers in the placement map, `.c0` to `.c7` of the style sheet."""

_LINES = ("quantized", "float", "line2", "line3", "line4", "line5")


def rates(student: Student) -> Markup:
    """The bars are the firing rate of every neuron layer, float and quantized."""
    rows = [
        BarRow(name, percent(layers[-1][1].rate), tuple((css, layer.rate) for css, layer in layers))
        for name, layers in _pairs(student, neurons=True)
    ]
    return bar_chart(rows, "Firing rate per neuron and time step of every neuron layer")


def operations(student: Student) -> Markup:
    """The bars are the SynOps of every layer fed by spikes, float and quantized."""
    rows = [
        BarRow(name, quantity(layers[-1][1].operations), tuple((css, layer.operations) for css, layer in layers))
        for name, layers in _pairs(student, neurons=False)
        if layers[-1][1].role == "spikes"
    ]
    return bar_chart(rows, "Synaptic operations per sample of every layer fed by spikes")


def drifts(student: Student) -> Markup | None:
    """The bars say how far each layer's spikes drift from float to quantized; None where nobody compared."""
    run = student.deployed
    found = [(layer.name, drift(layer.differing, layer.neurons, run.T)) for layer in run.layers]
    rows = [BarRow(name, percent(value, 2), (("quantized", value),)) for name, value in found if value is not None]
    return (
        bar_chart(rows, "Share of neurons and steps that differ between the float and the quantized run")
        if rows
        else None
    )


def energy_shares(report: ReportData) -> Markup | None:
    """The dots are the share of each layer in the first student's energy, one per model."""
    head = report.head
    models = [m for m in report.energies if m.students and sum(m.students[0].layers.values()) > 0]
    if head is None or not models:
        return None
    rows = []
    for layer in head.deployed.layers:
        values = [(m.title, share(m, layer.name)) for m in models]
        low, high = min(v for _, v in values), max(v for _, v in values)
        if high > 0:
            text = percent(low, 0) if f"{low:.2f}" == f"{high:.2f}" else f"{100 * low:.0f}–{percent(high, 0)}"
            rows.append(DotRow(layer.name, text, tuple(values)))
    return dot_chart(rows, "Share of each layer in the energy, one dot per energy model")


def over_time(report: ReportData) -> tuple[Markup, list[tuple[str, str]]] | None:
    """The lines are accuracy against SynOps for every t, with their (CSS class, name); None without labels."""
    runs: list[tuple[str, NetworkRun]] = []
    for student in report.students:
        name = f"{student.name}, quantized" if student.quantized_run else student.name
        runs.append((name, student.deployed))
        if student is report.head and student.quantized_run:
            runs.append((f"{student.name}, float", student.float_run))
    chosen = [
        (css, name, run) for css, (name, run) in zip(_LINES, (r for r in runs if r[1].accuracy_by_step), strict=False)
    ]
    if not chosen:
        return None
    lines = [Line(css, _points(name, run)) for css, name, run in chosen]
    chart = line_chart(
        lines,
        lambda x: quantity(x, digits=2),
        lambda y: f"{100 * y:.3g}{SPACE}%",
        "Accuracy against synaptic operations, per time step",
    )
    return chart, [(css, name) for css, name, _ in chosen]


def relative(report: ReportData) -> Markup | None:
    """The ranges are the first student's energy ÷ that of a dense ANN of its shape, model by model, if there is any."""
    if report.head is None:
        return None
    rows = []
    for model in report.energies:
        student = model.students[0]
        found = ratios(student)
        if found is None:
            continue
        other = None
        if student.as_twin is not None and student.as_ann is not None:
            nominal = student.as_twin.nominal / student.as_ann.nominal
            other = (nominal, f"with quantized ReLUs {number(nominal)}×")
        text = f"{spread(Range(min(found), found[1], max(found)))}×"
        rows.append(RangeRow(model.title, text, min(found), max(found), found[1], "quantized", other))
    if not rows:
        return None
    return range_chart(
        rows,
        (f"dense{SPACE}ANN{SPACE}1×", 1.0),
        "Energy of the student divided by that of a dense ANN of its shape under the same model, on a logarithmic axis",
    )


def break_even(report: ReportData) -> Markup | None:
    """The ranges say where each model breaks even, beside the first student's rate and other studies' thresholds."""
    own = report.head.deployed.spikes_per_synapse if report.head else None
    rows = [
        RangeRow(model.title, spread(rate), rate.low, rate.high, rate.nominal, "quantized")
        for model in report.energies
        if model.students and (rate := model.students[0].break_even)
    ]
    if not own or not rows:
        return None
    rows += [
        RangeRow(
            t.label,
            number(t.low) if t.low == t.high else f"{number(t.low)}–{number(t.high)}",
            t.low,
            t.high,
            t.low if t.low == t.high else None,
            "literature",
        )
        for t in THRESHOLDS
    ]
    return range_chart(
        rows,
        (f"student{SPACE}{number(own)}", own),
        "Break-even of every energy model, in spikes per synapse and inference, on a logarithmic axis",
    )


def color(index: int) -> str:
    """A placement's row has this CSS class."""
    return f"c{index % COLORS}"


def chips(placement: PlacementReport) -> list[Markup]:
    """Every chip has a map, up to `CHIPS_DRAWN` of them."""
    size = placement.cores_per_chip
    left = [
        Patch(color(i), f"{row.layer}: {row.limit}, {percent(row.utilization)}", row.cores)
        for i, row in enumerate(placement.rows)
    ]
    maps: list[Markup] = []
    while left and len(maps) < CHIPS_DRAWN:
        here, room = [], size
        while left and room:
            patch = left.pop(0)
            here.append(Patch(patch.css, patch.label, min(patch.cells, room)))
            if patch.cells > room:
                left.insert(0, Patch(patch.css, patch.label, patch.cells - room))
            room -= here[-1].cells
        maps.append(grid_map(here, size, min(16, size), f"Cores of chip {len(maps) + 1} of {placement.target}"))
    return maps


def ratios(student: StudentEnergy) -> tuple[float, float, float] | None:
    """The ratios are student ÷ dense ANN of its shape, at the same low, nominal and high constants and counts.

    None where the model lacks one of the two, or the ANN costs nothing.
    """
    snn, ann = student.estimate, student.as_ann
    if snn is None or ann is None or ann.low <= 0:
        return None
    return snn.low / ann.low, snn.nominal / ann.nominal, snn.high / ann.high


def _points(name: str, run: NetworkRun) -> tuple[tuple[float, float, str], ...]:
    done, points = 0.0, []
    for t, (synops, accuracy) in enumerate(zip(run.synops_by_step, run.accuracy_by_step, strict=True), start=1):
        done += synops
        points.append((done, accuracy, f"{name}, t = {t}: {percent(accuracy)} at {quantity(done)} SynOps"))
    return tuple(points)


def _pairs(student: Student, neurons: bool) -> list[tuple[str, list[tuple[str, Any]]]]:
    """Layer name → (CSS class, layer) of the float run and of the quantized one, matched by name."""
    runs = [("float", student.float_run)] + ([("quantized", student.quantized_run)] if student.quantized_run else [])
    found: dict[str, list[tuple[str, Any]]] = {}
    for css, run in runs:
        for layer in run.layers:
            if (layer.neurons is not None) == neurons:
                found.setdefault(layer.name, []).append((css, layer))
    return list(found.items())
