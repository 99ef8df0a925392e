"""These tables of a report are about energy: each model's estimate, what it leaves out, and the layers' shares."""

from __future__ import annotations

from collections.abc import Iterable

from profilers.energy.evaluation import BreakdownLine
from profilers.report.cells import Cell, Row, Table, joules, plural
from profilers.report.data import Deployment, ModelEnergies, ReportData, StudentEnergy
from profilers.report.numbers import interval, number, percent, quantity, spread

RUNS = {"float": "float run", "integer": "quantized run"}
"""How a run is called, by its arithmetic."""


def energies(report: ReportData) -> Table:
    """The table has one row per model; numbers compare along a row only."""
    rows = []
    for model in report.energies:
        cells = []
        if report.teacher:
            skipping = model.ann_zero_skipping
            skipped = (f"zeros skipped {joules(skipping)}",) if skipping else ()
            missing_text = "no entry" if model.no_ann else "not counted"
            cells.append(Cell(joules(model.ann), skipped) if model.ann else Cell(missing_text))
        for student in model.students:
            cells.append(_energy(student, model.students[0]))
        hint = [model.basis, model.technology]
        if model.students:
            first = model.students[0]
            hint.append(_priced(first))
            own = first.spikes_per_synapse
            even = Cell(spread(first.break_even), (f"own {number(own)}",)) if first.break_even and own else Cell()
            cells.append(even)
        rows.append(Row(model.title, tuple(cells), " · ".join(hint)))
    columns = [Cell("Model"), *([Cell(report.teacher.name)] if report.teacher else [])]
    columns += [Cell(s.name) for s in report.students]
    if report.head:
        of = (f"of {report.head.name}",) if len(report.students) > 1 else ()
        columns.append(Cell("Break-even", (*of, "spikes per synapse")))
    notes = (
        "Estimates, not measurements. ANN and SNN go through the same model; the models draw different boundaries "
        "around a computation: compare along a row, never down a column.",
        *((as_placed(report),) if as_placed(report) else ()),
        *(note for model in report.energies for note in missing(model)),
    )
    return Table("energy", "Energy per sample under each model", tuple(columns), tuple(rows), notes)


def _energy(student: StudentEnergy, first: StudentEnergy) -> Cell:
    """A cell is a student under a model; it says what was counted where that differs from the first student."""
    small = [] if _priced(student) == _priced(first) else [_priced(student)]
    static = student.estimate.static if student.estimate else None
    if static:
        small.append(f"of it static {spread(static, 'J')}")
    others = (("ANN", student.as_ann), ("quantized ReLU", student.as_twin))
    small += [f"as {name} {joules(e)}" for name, e in others if e]
    return Cell(joules(student.estimate) if student.estimate else "no entry", tuple(small))


def _priced(student: StudentEnergy) -> str:
    return "as placed" if student.placed_on else RUNS[student.arithmetic]


def as_placed(report: ReportData) -> str:
    """The sentence says what “as placed” counts, for the first student; it is empty where no model does."""
    used = {m.target for m in report.energies if m.students and m.students[0].placed_on}
    placed = [d for d in (report.head.deployments if report.head else ()) if d.target in used]
    if not placed:
        return ""
    what = []
    for d in placed:
        host = f", {', '.join(d.host)} on the host but priced like the rest" if d.host else ""
        sizes = ", ".join((plural(d.neurons, "neuron"), plural(d.cores, "core"), plural(d.chips, "chip")))
        what.append(f"{d.title}: {sizes}, means over {plural(d.samples, 'image')}{host}")
    return (
        "“As placed” is the network as the chip runs it, OR neurons of max-pools and relays of skip connections "
        f"included ({'; '.join(what)})."
    )


def counted(line: BreakdownLine, deployment: Deployment | None) -> str:
    """The operation of a breakdown's line happened so often."""
    if line.counted != "chip_seconds":
        exact = line.count.low == line.count.high
        return quantity(line.count.nominal) if exact else interval(line.count.low, line.count.high)
    if deployment is None or deployment.seconds is None:
        return quantity(line.count.nominal, "s") + " of a chip"
    return f"{plural(deployment.chips, 'chip')} × {spread(deployment.seconds, 's')}"


def missing(model: ModelEnergies) -> Iterable[str]:
    """Each sentence tells something that this model says nothing about here."""
    if model.no_ann:
        yield f"{model.title}: no ANN entry: {model.no_ann}"
    if model.no_snn:
        yield f"{model.title}: no SNN entry: {model.no_snn}"
    for text in left_out(model):
        yield f"{model.title}: {text}"


def left_out(model: ModelEnergies) -> list[str]:
    """Each sentence names terms of the model that nobody counted, and the students that lack them."""
    lacking: dict[tuple[str, ...], list[str]] = {}
    for student in model.students:
        if student.estimate and student.estimate.left_out:
            lacking.setdefault(student.estimate.left_out, []).append(student.student)
    everyone = len(model.students)
    return [
        f"not counted, so missing from the sum{'' if len(who) == everyone else ' of ' + ', '.join(who)}: {'; '.join(what)}."
        for what, who in lacking.items()
    ]


def shares(report: ReportData) -> Table | None:
    """The table has the energy share of each layer of the first student under each model; None without such a model."""
    head = report.head
    models = [m for m in report.energies if m.students and sum(m.students[0].layers.values()) > 0]
    if head is None or not models:
        return None
    rows = []
    for layer in head.deployed.layers:
        found = [share(m, layer.name) for m in models]
        if any(found):
            rows.append(Row(layer.name, tuple(Cell(percent(value)) for value in found), layer.kind))
    columns = (Cell("Layer"), *(Cell(m.title) for m in models))
    return Table("shares", f"Energy share of each layer of {head.name}", columns, tuple(rows))


def share(model: ModelEnergies, layer: str) -> float:
    """A layer has this share, 0 to 1, of the first student's nominal energy."""
    joules_by_layer = model.students[0].layers
    return joules_by_layer.get(layer, 0.0) / sum(joules_by_layer.values())
