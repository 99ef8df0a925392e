"""The tables of a report as text, for the page, Markdown and LaTeX alike: same numbers, same words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from profilers.counting.statistics import Statistic, share_interval
from profilers.energy.evaluation import BreakdownLine, EnergyEstimate
from profilers.energy.models import Range
from profilers.report.data import Deployment, ModelEnergies, Placement, Report, Run, Student, StudentEnergy, Teacher
from profilers.report.numbers import SPACE, interval, memory, number, percent, quantity, spread

NONE = "–"

FEWEST = 10
"""Samples below which no bootstrap interval is shown: it would be far too narrow (of two samples, right every other time)."""

RUNS = {"float": "float run", "integer": "quantized run"}

FED_BY = {"spikes": "spikes", "static": "analog input", "changing": "currents"}


@dataclass(frozen=True)
class Cell:
    """The number, and smaller lines below it."""

    text: str = NONE
    small: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """A line of a table: what it is, a smaller second line, and a cell per column but the first."""

    label: str
    cells: tuple[Cell, ...]
    hint: str = ""


@dataclass(frozen=True)
class Table:
    """`columns` has a heading for the labels too; `notes` are sentences to read with the table."""

    name: str
    caption: str
    columns: tuple[Cell, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


def everything(report: Report) -> list[Table]:
    """All tables of a report, in its order."""
    head = report.head
    found = [networks(report)]
    if head is not None:
        found += [layers(head), steps(head)]
    if report.energies:
        found.append(energies(report))
    found += [placement(p) for p in report.placements]
    if report.comparisons:
        found.append(comparisons(report))
    return found


def networks(report: Report) -> Table:
    """Teacher and students, one column each."""
    teacher = report.teacher

    def line(
        label: str, hint: str, of_run: Callable[[Run], str | Cell], of_teacher: Callable[[Teacher], Cell] | None = None
    ) -> Row:
        cells = []
        if teacher is not None:
            cells.append(of_teacher(teacher) if of_teacher else Cell())
        for student in report.students:
            cell, plain = _cell(of_run(student.deployed)), _cell(of_run(student.float_run))
            differs = student.quantized_run and plain.text != cell.text
            small = (f"float{SPACE}{plain.text}",) if differs else ()
            cells.append(Cell(cell.text, cell.small + small))
        return Row(label, tuple(cells), hint)

    rows = (
        line(
            "Accuracy",
            "",
            lambda r: Cell(_accuracy(r.accuracy), accuracy_interval(r)),
            lambda t: Cell(_accuracy(t.accuracy)),
        ),
        line("Time steps T", "", lambda r: str(r.T), lambda t: Cell("1")),
        line("SynOps", "all synapses", lambda r: Cell(quantity(r.synops.mean), confidence(r.synops))),
        line("SynOps", "non-zero weights only", lambda r: quantity(r.synops_nonzero.mean)),
        line("SynOps", "Lemaire’s, borders ignored", lambda r: _counted(r, "synops_lemaire")),
        line("Rate × MACs", "the papers’ shortcut", lambda r: quantity(r.rate_macs.mean)),
        line("Spikes", "KDSNN’s “SynOps”", lambda r: Cell(quantity(r.spikes.mean), confidence(r.spikes))),
        line(
            "MACs",
            "SNN: as an ANN of its shape",
            lambda r: quantity(r.dense_macs),
            lambda t: Cell(quantity(t.counts.macs)),
        ),
        line("MACs on analog input", "every step", lambda r: quantity(r.macs_repeated)),
        line("MACs on analog input", "computed once", lambda r: quantity(r.macs_once)),
        line("MACs on analog input", "every step, no zeros", lambda r: _counted(r, "effective_macs")),
        line(
            "FLOPs", "thop, the paper’s convention", lambda r: NONE, lambda t: Cell(quantity(t.counts.thop, digits=5))
        ),
        line("Firing rate", "per neuron and step", lambda r: percent(r.rate)),
        line(
            "Spikes per synapse",
            "per inference",
            lambda r: NONE if r.spikes_per_synapse is None else number(r.spikes_per_synapse),
        ),
        line("Neurons", "", lambda r: number(r.neurons)),
        line("Neuron updates", "all neurons, all steps", lambda r: _counted(r, "neuron_updates")),
        line(
            "Parameters",
            "SNN: BatchNorm folded",
            lambda r: number(r.parameters),
            lambda t: Cell(
                number(t.counts.parameters), (f"{number(t.counts.parameters_without_batchnorm)} without BatchNorm",)
            ),
        ),
        line("Weight memory", "", lambda r: memory(r.weight_bits)),
        line("Membrane memory", "", lambda r: memory(r.state_bits)),
        *_deployments(report),
    )
    columns = [Cell("")]
    columns += [Cell(teacher.name, ("ANN teacher" if report.students else "ANN",))] if teacher else []
    columns += [
        Cell(s.name, ("SNN student" if s.role == "student" else "SNN, undistilled twin",)) for s in report.students
    ]
    quantized = any(s.quantized_run for s in report.students)
    return Table(
        "networks",
        "Networks, means per sample" + ("; the quantized integer run, float where it differs" if quantized else ""),
        tuple(columns),
        tuple(row for row in rows if any(cell.text != NONE for cell in row.cells)),
    )


def _deployments(report: Report) -> Iterable[Row]:
    """Cores on every chip that somebody was placed on, and the seconds that the user gave."""
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
    """The layers of a student's deployed run."""
    rows = []
    for layer in student.deployed.layers:
        texts = [
            FED_BY[layer.role] if layer.role else "",
            _optional(number, layer.parameters),
            _optional(quantity, layer.macs),
            _optional(quantity, layer.connections),
            _optional(quantity, layer.events),
            _optional(quantity, layer.operations),
            _optional(quantity, layer.operations_nonzero),
            _optional(number, layer.neurons),
            _optional(quantity, layer.spikes),
            _optional(percent, layer.rate),
            _optional(lambda value: percent(value, 2), drift(layer.differing, layer.neurons, student.deployed.T)),
        ]
        rows.append(Row(layer.name, tuple(map(Cell, texts)), layer.kind))
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
    """What each further time step costs and brings."""
    run = student.deployed
    headings = ["Step", *(["Accuracy"] if run.accuracy_by_step else []), "Spikes", "SynOps", "SynOps so far"]
    done, rows = 0.0, []
    for t, (spikes, synops) in enumerate(zip(run.spikes_by_step, run.synops_by_step, strict=True)):
        done += synops
        texts = [percent(run.accuracy_by_step[t])] if run.accuracy_by_step else []
        texts += [quantity(spikes), quantity(synops), quantity(done)]
        rows.append(Row(str(t + 1), tuple(map(Cell, texts))))
    caption = f"{student.name} over time, means per sample" + (
        "; accuracy if it stops after that step" if run.accuracy_by_step else ""
    )
    return Table("steps", caption, tuple(map(Cell, headings)), tuple(rows))


def energies(report: Report) -> Table:
    """One row per model; numbers compare along a row only."""
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
    """One student under one model; what was counted is said where it is not what was counted of the first student."""
    small = [] if _priced(student) == _priced(first) else [_priced(student)]
    static = student.estimate.static if student.estimate else None
    if static:
        small.append(f"of it static {spread(static, 'J')}")
    others = (("ANN", student.as_ann), ("quantized ReLU", student.as_twin))
    small += [f"as {name} {joules(e)}" for name, e in others if e]
    return Cell(joules(student.estimate) if student.estimate else "no entry", tuple(small))


def _priced(student: StudentEnergy) -> str:
    return "as placed" if student.placed_on else RUNS[student.arithmetic]


def as_placed(report: Report) -> str:
    """What “as placed” counts, for the first student; empty where no model does."""
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
    """How often the operation of a breakdown's line happened."""
    if line.counted != "chip_seconds":
        exact = line.count.low == line.count.high
        return quantity(line.count.nominal) if exact else interval(line.count.low, line.count.high)
    if deployment is None or deployment.seconds is None:
        return quantity(line.count.nominal, "s") + " of a chip"
    return f"{plural(deployment.chips, 'chip')} × {spread(deployment.seconds, 's')}"


def missing(model: ModelEnergies) -> Iterable[str]:
    """What this model says nothing about here, a sentence each."""
    if model.no_ann:
        yield f"{model.title}: no ANN entry: {model.no_ann}"
    if model.no_snn:
        yield f"{model.title}: no SNN entry: {model.no_snn}"
    for text in left_out(model):
        yield f"{model.title}: {text}"


def left_out(model: ModelEnergies) -> list[str]:
    """Terms of the model that nobody counted, a sentence for each group of students that lacks the same ones."""
    lacking: dict[tuple[str, ...], list[str]] = {}
    for student in model.students:
        if student.estimate and student.estimate.left_out:
            lacking.setdefault(student.estimate.left_out, []).append(student.student)
    everyone = len(model.students)
    return [
        f"not counted, so missing from the sum{'' if len(who) == everyone else ' of ' + ', '.join(who)}: {'; '.join(what)}."
        for what, who in lacking.items()
    ]


def placement(p: Placement) -> Table:
    """Cores per layer on one chip."""
    rows = [
        Row(row.layer, (Cell(number(row.cores)), Cell(row.limit), Cell(percent(row.utilization)))) for row in p.rows
    ]
    total = Row("all layers", (Cell(number(p.cores)), Cell(f"{number(p.chips)} × {p.cores_per_chip} cores"), Cell("")))
    headings = ("Layer", "Cores", "Limited by", "Used")
    notes = (p.note,) if p.note else ()
    name = "placement-" + re.sub(r"\W+", "-", p.target.lower())
    return Table(name, f"Cores on {p.target}", tuple(map(Cell, headings)), (*rows, total), notes)


def comparisons(report: Report) -> Table:
    """Backends against their references."""
    rows = []
    for row in report.comparisons:
        mismatch = Cell("reference")
        if row.mismatching_spikes is not None:
            reference = (f"against {row.reference}",) if row.reference else ()
            mismatch = Cell(number(row.mismatching_spikes), reference)
        rows.append(Row(row.backend, (Cell(number(row.samples)), Cell(_accuracy(row.accuracy)), mismatch), row.note))
    headings = ("Backend", "Samples", "Accuracy", "Mismatching spikes")
    return Table("comparison", "Spike for spike", tuple(map(Cell, headings)), tuple(rows))


def shares(report: Report) -> Table | None:
    """Energy share of each layer of the first student under each model; None without such a model."""
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
    """Of the first student's nominal energy, 0 to 1."""
    joules_by_layer = model.students[0].layers
    return joules_by_layer.get(layer, 0.0) / sum(joules_by_layer.values())


def drift(differing: float | None, neurons: int | None, T: int) -> float | None:
    """Share of neurons and steps that differ, 0 to 1."""
    return None if differing is None or neurons is None else differing / (neurons * T)


def confidence(mean: Statistic) -> tuple[str, ...]:
    """The confidence interval in words; nothing where it has no width, none of a handful of samples."""
    if mean.samples < FEWEST:
        return (f"{plural(mean.samples, 'sample')}, too few for an interval",)
    return () if mean.low == mean.high else (f"95{SPACE}%{SPACE}CI {interval(mean.low, mean.high)}",)


def accuracy_interval(run: Run) -> tuple[str, ...]:
    """The confidence interval of a run's accuracy in words."""
    if run.accuracy is None:
        return ()
    low, high = share_interval(run.accuracy, run.samples)
    return (f"95{SPACE}%{SPACE}CI {100 * low:.1f}–{percent(high)}",)


def plural(count: int, word: str) -> str:
    """ "1 chip", "2 chips"."""
    return f"{number(count)}{SPACE}{word}{'' if count == 1 else 's'}"


def joules(estimate: EnergyEstimate) -> str:
    """An estimate's range."""
    return spread(Range(estimate.low, estimate.nominal, estimate.high), "J")


def _cell(value: str | Cell) -> Cell:
    return Cell(value) if isinstance(value, str) else value


def _counted(run: Run, key: str) -> str:
    """The mean of one of the run's conventions."""
    return next(quantity(c.statistic.mean) for c in run.conventions if c.key == key)


def _accuracy(value: float | None) -> str:
    return NONE if value is None else percent(value)


def _optional(form: Callable[[float], str], value: float | None) -> str:
    return "" if value is None else form(value)
