"""The figures of the page decide which numbers of a report each chart shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from markupsafe import Markup

from profilers.energy.models import Range
from profilers.report.data import DensitySweep, NetworkRun, ReportData, Student, StudentEnergy
from profilers.report.energy_tables import share
from profilers.report.literature import THRESHOLDS
from profilers.report.numbers import SPACE, number, percent, quantity, spread
from profilers.report.on_chips import PlacementReport
from profilers.report.svg_charts import (
    BarRow,
    DotRow,
    Line,
    Panel,
    Patch,
    RangeRow,
    axis_ticks,
    bar_chart,
    dot_chart,
    grid_map,
    line_chart,
    panel_chart,
    range_chart,
)
from profilers.report.tables import drift, kept_text, step_counts

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
        _level_percent,
        "Accuracy against synaptic operations, per time step",
    )
    return chart, [(css, name) for css, name, _ in chosen]


def by_step(student: Student) -> Markup:
    """The panels are accuracy so far and everything that is counted, step by step, quantized and float."""
    runs = [("quantized", student.quantized_run), ("float", student.float_run)]
    lines = [(css, run) for css, run in runs if run is not None]
    head = student.deployed
    panels = []
    if head.accuracy_by_step:
        panels.append(
            Panel(
                "Accuracy so far",
                f"{percent(head.accuracy_by_step[-1])} in the end",
                tuple(Line(css, _steps(run.accuracy_by_step, percent)) for css, run in lines if run.accuracy_by_step),
                _level_percent,
                from_zero=False,
            )
        )
    for heading, values in step_counts(head):
        found = [(css, dict(step_counts(run)).get(heading)) for css, run in lines]
        drawn = tuple(Line(css, _steps(counts, quantity)) for css, counts in found if counts)
        panels.append(Panel(f"{heading} per step", f"{quantity(sum(values))} in all", drawn, _level_count))
    steps = [t for t in axis_ticks(1, head.T, 8) if 1 <= t <= head.T and t % 1 == 0]
    ticks = [(t, f"t{SPACE}={SPACE}{t:.0f}" if t == steps[0] else f"{t:.0f}") for t in steps]
    return panel_chart(panels, ticks, "Accuracy and counts at every time step")


def density(sweep: DensitySweep) -> Markup:
    """The panels are accuracy, SynOps and energy against the share of the events that was kept."""
    points = sorted(sweep.points, key=lambda point: point.kept)
    shares = [point.kept for point in points]

    def line(css: str, values: Sequence[float], form: Callable[[float], str]) -> Line:
        texts = [f"{kept_text(kept)}: {form(value)}" for kept, value in zip(shares, values, strict=True)]
        return Line(css, tuple(zip(shares, values, texts, strict=True)))

    panels = []
    accuracies = [point.accuracy for point in points if point.accuracy is not None]
    if accuracies:
        drawn = line("quantized", accuracies, percent)
        panels.append(Panel("Accuracy", _ends(accuracies, percent), (drawn,), _level_percent, from_zero=False))
    synops = [point.synops.mean for point in points]
    panels.append(Panel("SynOps", _ends(synops, quantity), (line("quantized", synops, quantity),), _level_count))
    joules = [point.energy.nominal for point in points if point.energy is not None]
    if joules:
        drawn = line("quantized", joules, _energy_text)
        panels.append(Panel("Energy, nominal", _ends(joules, _energy_text), (drawn,), _level_energy))
    ticks = [(kept, kept_text(kept)) for kept in shares]
    return panel_chart(panels, ticks, "Accuracy and cost against the share of events kept")


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


def _steps(values: Sequence[float], form: Callable[[float], str]) -> tuple[tuple[float, float, str], ...]:
    return tuple((float(t), value, f"t = {t}: {form(value)}") for t, value in enumerate(values, start=1))


def _ends(values: Sequence[float], form: Callable[[float], str]) -> str:
    """The first value and the last, of the fewest events and of all."""
    return f"{form(values[0])} → {form(values[-1])}"


def _energy_text(value: float) -> str:
    return quantity(value, "J")


def _level_energy(value: float) -> str:
    return quantity(value, "J", trim=True)


def _level_count(value: float) -> str:
    return quantity(value, digits=2, trim=True)


def _level_percent(value: float) -> str:
    return f"{100 * value:.3g}{SPACE}%"


def _points(name: str, run: NetworkRun) -> tuple[tuple[float, float, str], ...]:
    done, points = 0.0, []
    for t, (synops, accuracy) in enumerate(zip(run.synops_by_step, run.accuracy_by_step, strict=True), start=1):
        done += synops
        points.append((done, accuracy, f"{name}, t = {t}: {percent(accuracy)} at {quantity(done)} SynOps"))
    return tuple(points)


def _pairs(student: Student, neurons: bool) -> list[tuple[str, list[tuple[str, Any]]]]:
    """Layer name → (CSS class, layer) of the float run and of the quantized one, of layers with neurons or with synapses."""
    runs = [("float", student.float_run)] + ([("quantized", student.quantized_run)] if student.quantized_run else [])
    found: dict[str, list[tuple[str, Any]]] = {}
    for css, run in runs:
        for layer in run.layers:
            if (layer.neurons if neurons else layer.role) is not None:
                found.setdefault(layer.name, []).append((css, layer))
    return list(found.items())
