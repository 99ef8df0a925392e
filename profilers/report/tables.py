"""The tables of a report are text for the page, Markdown and LaTeX alike: same numbers, same words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from fractions import Fraction
from itertools import accumulate

from profilers.counting.statistics import Statistic
from profilers.energy.models import Range
from profilers.report.cells import (
    FEWEST,
    NONE,
    Cell,
    Row,
    Table,
    accuracy_interval,
    as_cell,
    confidence,
    counted,
    plural,
    share_text,
)
from profilers.report.class_tables import class_tables
from profilers.report.data import DensitySweep, NetworkRun, ReportData, Student, Teacher
from profilers.report.energy_tables import RUNS, energies
from profilers.report.few_bit_tables import few_bit
from profilers.report.numbers import SPACE, memory, number, percent, quantity, spread
from profilers.report.on_chips import PlacementReport
from profilers.report.time_tables import times

FED_BY = {"spikes": "spikes", "static": "analog input", "changing": "changing values"}
"""What feeds a layer, by its role."""


def everything(report: ReportData) -> list[Table]:
    """All tables of a report come in its order."""
    head = report.head
    found = [networks(report), *filter(None, (conventions(report),))]
    if head is not None:
        found += [layers(head), steps(head), *class_tables(report)]
    if report.density is not None:
        found.append(density(report.density))
    if report.energies:
        found.append(energies(report))
    found += few_bit(report)
    if (table := times(report)) is not None:
        found.append(table)
    found += [placement(p) for p in report.placements]
    if report.comparisons:
        found.append(comparisons(report))
    return found


def networks(report: ReportData) -> Table:
    """Teacher and students have one column each."""
    teacher = report.teacher
    columns = [Cell("")]
    columns += [Cell(teacher.name, ("ANN teacher" if report.students else "ANN",))] if teacher else []
    columns += [
        Cell(s.name, ("SNN student" if s.role == "student" else "SNN, undistilled twin",)) for s in report.students
    ]
    rows = [*(_network_row(report, *row) for row in _NETWORK_ROWS), *_deployments(report)]
    quantized = any(s.quantized_run for s in report.students)
    return Table(
        "networks",
        "Networks, means per sample" + ("; the quantized integer run, float where it differs" if quantized else ""),
        tuple(columns),
        tuple(row for row in rows if any(cell.text != NONE for cell in row.cells)),
    )


_OfRun = Callable[[NetworkRun], str | Cell]
_OfTeacher = Callable[[Teacher], str | Cell]


def _network_row(report: ReportData, label: str, hint: str, of_run: _OfRun, of_teacher: _OfTeacher | None) -> Row:
    cells = []
    if report.teacher is not None:
        cells.append(as_cell(of_teacher(report.teacher)) if of_teacher else Cell())
    for student in report.students:
        cell, plain = as_cell(of_run(student.deployed)), as_cell(of_run(student.float_run))
        differs = student.quantized_run and plain.text != cell.text
        small = (f"float{SPACE}{plain.text}",) if differs else ()
        cells.append(Cell(cell.text, cell.small + small))
    return Row(label, tuple(cells), hint)


_NETWORK_ROWS: tuple[tuple[str, str, _OfRun, _OfTeacher | None], ...] = (
    (
        "Accuracy",
        "",
        lambda run: Cell(share_text(run.accuracy), accuracy_interval(run.accuracy, run.samples)),
        lambda teacher: Cell(share_text(teacher.accuracy), accuracy_interval(teacher.accuracy, teacher.samples)),
    ),
    ("Time steps T", "", lambda run: str(run.T), lambda teacher: "1"),
    ("SynOps", "all synapses", lambda run: counted(run.synops), None),
    ("Spikes", "KDSNN’s “SynOps”", lambda run: counted(run.spikes), None),
    (
        "MACs",
        "SNN: as an ANN of its shape",
        lambda run: quantity(run.dense_macs),
        lambda teacher: Cell(
            quantity(teacher.counts.macs), (f"FLOPs{SPACE}(thop){SPACE}{quantity(teacher.counts.thop, digits=5)}",)
        ),
    ),
    ("MACs on analog input", "every step", lambda run: quantity(run.macs_repeated), None),
    ("Firing rate", "per neuron and step", lambda run: percent(run.rate), None),
    (
        "Spikes per synapse",
        "per inference",
        lambda run: NONE if run.spikes_per_synapse is None else number(run.spikes_per_synapse),
        None,
    ),
    ("Neurons", "", lambda run: number(run.neurons), None),
    (
        "Parameters",
        "SNN: BatchNorm folded",
        lambda run: number(run.parameters),
        lambda teacher: Cell(
            number(teacher.counts.parameters),
            (f"{number(teacher.counts.parameters_without_batchnorm)} without BatchNorm",),
        ),
    ),
    ("Weight memory", "", lambda run: memory(run.weight_bits), None),
    ("Membrane memory", "", lambda run: memory(run.state_bits), None),
)
"""Label, smaller second line, and what the row says of a student's run and of the teacher."""


def conventions(report: ReportData) -> Table | None:
    """The rows are all ways in which operations are counted; None without a spiking network."""
    if report.head is None:
        return None
    rows = []
    for index, one in enumerate(report.head.deployed.conventions):
        cells = [] if report.teacher is None else [_of_teacher(report.teacher, one.key)]
        for student in report.students:
            cell, plain = (counted(run.conventions[index].statistic) for run in (student.deployed, student.float_run))
            differs = student.quantized_run and plain.text != cell.text
            cells.append(Cell(cell.text, cell.small + ((f"float{SPACE}{plain.text}",) if differs else ())))
        rows.append(Row(one.name, tuple(cells), one.what))
    if report.teacher is not None:
        thop = Cell(quantity(report.teacher.counts.thop, digits=5))
        rows.append(Row("FLOPs (thop)", (thop, *(Cell() for _ in report.students)), "the KDSNN paper’s convention"))
    columns = [Cell("Convention"), *([Cell(report.teacher.name)] if report.teacher else [])]
    columns += [Cell(student.name) for student in report.students]
    who = [f"{one.name} by {one.source}" for one in report.head.deployed.conventions if one.source]
    caption = "Operations by every convention, means per sample"
    return Table("conventions", caption, tuple(columns), tuple(rows), (f"Counted so: {'; '.join(who)}.",))


def _of_teacher(teacher: Teacher, convention: str) -> Cell:
    return Cell(quantity(teacher.counts.macs)) if convention == "dense_macs" else Cell()


def _deployments(report: ReportData) -> Iterable[Row]:
    """The rows are the cores on every chip that somebody was placed on, and the seconds that the user gave."""
    chips = {d.target: d.title for student in report.students for d in student.deployments}
    first = [Cell()] if report.teacher else []
    for target, title in chips.items():
        found = [student.on(target) for student in report.students]
        cells = [Cell() if d is None else Cell(number(d.cores), (plural(d.chips, "chip"),)) for d in found]
        yield Row("Cores", (*first, *cells), title)
    seconds = [next((d.seconds for d in s.deployments if d.seconds), None) for s in report.students]
    yield Row("Time per image", (*first, *(_seconds(s) for s in seconds)), "as given")


def _seconds(given: Range | None) -> Cell:
    if given is None:
        return Cell()
    return Cell(quantity(given.nominal, "s"), (spread(given, "s"),) if given.low < given.high else ())


def layers(student: Student) -> Table:
    """The rows are the layers of a student's deployed run."""
    rows, run = [], student.deployed
    for layer in run.layers:
        texts = [
            FED_BY[layer.role] if layer.role else "",
            _optional(number, layer.parameters),
            _optional(quantity, layer.macs),
            _optional(quantity, layer.connections),
            _optional(quantity, layer.events),
            _mean(layer.operations, layer.operations_low, layer.operations_high, run.samples),
            _optional(quantity, layer.operations_nonzero),
            _optional(number, layer.neurons),
            _mean(layer.spikes, layer.spikes_low, layer.spikes_high, run.samples),
            _optional(percent, layer.rate),
            _optional(lambda value: percent(value, 2), drift(layer.differing, layer.neurons, run.T)),
        ]
        rows.append(Row(layer.name, tuple(map(as_cell, texts)), layer.kind))
    headings = (
        "Layer", "Fed by", "Parameters", "Dense MACs", "Synapses", "Events in", "Operations", "Non-zero", "Neurons",
        "Spikes", "Rate", "Drift",
    )  # fmt: skip
    note = (
        "“Operations” are SynOps where spikes feed the layer, otherwise multiply-accumulates with zero inputs skipped, "
        "at every step."
    )
    kind = RUNS[student.deployed.arithmetic]
    return Table(
        "layers",
        f"Layers of {student.name}, {kind}, means per sample",
        tuple(map(Cell, headings)),
        tuple(rows),
        (note,),
    )


def steps(student: Student) -> Table:
    """The rows say what each further time step costs and brings."""
    run = student.deployed
    columns: list[tuple[str, tuple[float, ...], Callable[[float], str]]] = []
    if run.accuracy_by_step:
        columns.append(("Accuracy", run.accuracy_by_step, percent))
    columns += [(heading, values, quantity) for heading, values in step_counts(run)]
    columns.append(("SynOps so far", tuple(accumulate(run.synops_by_step)), quantity))
    rows = [Row(str(t + 1), tuple(Cell(form(values[t])) for _, values, form in columns)) for t in range(run.T)]
    caption = f"{student.name} over time, means per sample" + (
        "; accuracy if it stops after that step" if run.accuracy_by_step else ""
    )
    headings = ("Step", *(heading for heading, _, _ in columns))
    notes = ("MACs are those of layers that no spikes feed, zero inputs skipped.",) if any(run.macs_by_step) else ()
    return Table("steps", caption, tuple(map(Cell, headings)), tuple(rows), notes)


def step_counts(run: NetworkRun) -> list[tuple[str, tuple[float, ...]]]:
    """What is counted at every step, by name: events where they come in over time, MACs where there are any."""
    found = [("Events in", run.events_in_by_step)] if run.events_in_by_step else []
    found += [("Spikes", run.spikes_by_step), ("SynOps", run.synops_by_step)]
    return found + ([("MACs", run.macs_by_step)] if any(run.macs_by_step) else [])


def density(sweep: DensitySweep) -> Table:
    """The rows are shares of the events that were kept; below a count stands its share of that with all events."""
    first = sweep.points[0]

    def of_all(value: float, whole: float) -> tuple[str, ...]:
        return (f"{percent(value / whole, 0)} of all",) if whole and value != whole else ()

    rows = []
    for point in sweep.points:
        cells = [Cell(quantity(point.events_in))]
        if point.accuracy is not None:
            cells.append(Cell(percent(point.accuracy), accuracy_interval(point.accuracy, sweep.samples)))
        for count, whole in ((point.spikes, first.spikes), (point.synops, first.synops)):
            cells.append(Cell(quantity(count.mean), (*of_all(count.mean, whole.mean), *confidence(count))))
        if point.energy is not None and first.energy is not None:
            cells.append(Cell(spread(point.energy, "J"), of_all(point.energy.nominal, first.energy.nominal)))
        rows.append(Row("all events" if point.kept == 1 else f"{kept_text(point.kept)} of events", tuple(cells)))
    headings = [Cell("Input"), Cell("Events in"), *([] if first.accuracy is None else [Cell("Accuracy")])]
    headings += [
        Cell("Spikes"),
        Cell("SynOps"),
        *([] if first.energy is None else [Cell("Energy", (sweep.model_title,))]),
    ]
    notes = [
        f"Each event of {plural(sweep.samples, 'sample')} is kept with the same probability (seed {sweep.seed}); what one row "
        "keeps, the rows above it kept too. The network was not trained for it."
    ]
    if sweep.placed_on:
        notes.append(
            f"All counts are of the network as placed on {sweep.placed_on}: OR neurons of max-pools and relays of skip "
            "connections are among them."
        )
    if sweep.model:
        notes.append(f"Energy is an estimate under the {sweep.model_title}; shares are of its nominal value.")
    notes += [f"Not counted, so missing from the energy: {'; '.join(sweep.left_out)}."] if sweep.left_out else []
    what = f"as placed on {sweep.placed_on}" if sweep.placed_on else RUNS[sweep.arithmetic]
    caption = f"{sweep.student} with fewer events, {what}, means per sample"
    return Table("density", caption, tuple(headings), tuple(rows), tuple(notes))


def kept_text(kept: float) -> str:
    """A share of events is written as a fraction, as "3/4"; all of them are "all"."""
    return "all" if kept == 1 else str(Fraction(kept))


def placement(p: PlacementReport) -> Table:
    """The rows are the cores per layer on one chip."""
    rows = [
        Row(row.layer, (Cell(number(row.cores)), Cell(row.limit), Cell(percent(row.utilization)))) for row in p.rows
    ]
    total = Row("all layers", (Cell(number(p.cores)), Cell(f"{number(p.chips)} × {p.cores_per_chip} cores"), Cell("")))
    headings = ("Layer", "Cores", "Limited by", "Used")
    notes = (p.note,) if p.note else ()
    name = "placement-" + re.sub(r"\W+", "-", p.target.lower())
    return Table(name, f"Cores on {p.target}", tuple(map(Cell, headings)), (*rows, total), notes)


def comparisons(report: ReportData) -> Table:
    """The rows are backends against their references."""
    rows = []
    for row in report.comparisons:
        mismatch = Cell("reference")
        if row.mismatching_spikes is not None:
            reference = (f"against {row.reference}",) if row.reference else ()
            mismatch = Cell(number(row.mismatching_spikes), reference)
        rows.append(Row(row.backend, (Cell(number(row.samples)), Cell(share_text(row.accuracy)), mismatch), row.note))
    headings = ("Backend", "Samples", "Accuracy", "Mismatching spikes")
    return Table("comparison", "Spike for spike", tuple(map(Cell, headings)), tuple(rows))


def drift(differing: float | None, neurons: int | None, T: int) -> float | None:
    """This share of neurons and steps differs, 0 to 1."""
    return None if differing is None or neurons is None else differing / (neurons * T)


def _mean(mean: float | None, low: float | None, high: float | None, samples: int) -> str | Cell:
    """A layer's mean with its interval, which a handful of samples does not have."""
    if mean is None or low is None or high is None:
        return ""
    return Cell(quantity(mean), confidence(Statistic(mean, 0.0, low, high, samples)) if samples >= FEWEST else ())


def _optional(form: Callable[[float], str], value: float | None) -> str:
    return "" if value is None else form(value)
