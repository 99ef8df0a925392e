"""`report.html`: one self-contained page, no script, no external fetch; everything a user wrote is escaped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from profilers.charts import Bars, Span, bar_chart, span_chart
from profilers.energy_models import Range, Source
from profilers.format import SPACE, memory, number, percent, quantity, spread

if TYPE_CHECKING:
    from markupsafe import Markup

    from profilers.report_data import ModelEnergies, Report, Run, Student, Teacher

_TEMPLATES = Path(__file__).parent / "templates"
NONE = "–"

# What other studies found to decide between SNN and ANN, in spikes per synapse per inference.
_THRESHOLDS = (
    (
        Span("Dampfhoffer et al. 2023", "0.15–1.38", 0.15, 1.38, None, "literature"),
        Source(
            "M. Dampfhoffer et al., “Are SNNs really more energy-efficient than ANNs?”, IEEE TETCI 7(3):731–741, 2023",
            "https://doi.org/10.1109/TETCI.2022.3214509",
        ),
    ),
    (
        Span("Davidson & Furber 2021", "1.72", 1.72, 1.72, 1.72, "literature"),
        Source(
            "S. Davidson, S. B. Furber, “Comparison of artificial and spiking neural networks on digital hardware”, "
            "Front. Neurosci. 15:651141, 2021",
            "https://doi.org/10.3389/fnins.2021.651141",
        ),
    ),
    (
        Span("Yan et al. 2026, 5.7 % at T = 5", "0.285", 0.285, 0.285, 0.285, "literature"),
        Source(
            "Z. Yan et al., “Reconsidering the energy efficiency of spiking neural networks inference from analytical "
            "perspectives”, arXiv 2409.08290 version 4, 2026",
            "https://arxiv.org/abs/2409.08290v4",
        ),
    ),
)

_CONVENTION_SOURCES = (
    Source(
        "J. Yik et al., “The NeuroBench framework for benchmarking neuromorphic computing algorithms and systems”, "
        "Nat. Commun. 16:1545, 2025",
        "https://doi.org/10.1038/s41467-025-56739-4",
    ),
    Source(
        "Q. Xu et al., “Constructing deep spiking neural networks from artificial neural networks with knowledge "
        "distillation” (KDSNN), CVPR 2023",
        "https://arxiv.org/abs/2304.05627",
    ),
    Source("thop: PyTorch-OpCounter", "https://github.com/Lyken17/pytorch-OpCounter"),
)


@dataclass(frozen=True)
class Cell:
    """A table cell: the number, and a smaller second line."""

    text: str = NONE
    small: str = ""


def render(report: Report) -> str:
    """The page as HTML text."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(number=number, percent=percent, quantity=quantity, spread=spread, none=NONE)
    head = report.students[0]
    return environment.get_template("report.html.j2").render(
        report=report,
        head=head,
        run=head.deployed,
        verdict=_verdict(report),
        tiles=_tiles(report),
        table=_table(report),
        rates=_rates(head),
        operations=_operations(head),
        steps=_steps(head.deployed),
        energies=[_energy_row(energies, report) for energies in report.energies],
        break_even=_break_even(report),
        sources=_sources(report),
    )


def _verdict(report: Report) -> str:
    head, run = report.students[0], report.students[0].deployed
    kind = "quantised student" if head.quantised_run else "student"
    accuracy = "" if run.accuracy is None else f", {percent(run.accuracy)} accurate,"
    return (
        f"The {kind}{accuracy} needs {run.T} time {'step' if run.T == 1 else 'steps'}, "
        f"{quantity(run.spikes.mean)} spikes and {quantity(run.synops.mean)} synaptic operations per sample "
        f"(mean of {run.samples:,})."
    )


def _tiles(report: Report) -> list[tuple[str, str, str]]:
    """(label, value, explanation) of the verdict."""
    head, run, teacher = report.students[0], report.students[0].deployed, report.teacher
    others = []
    if head.quantised_run and head.float_run.accuracy is not None:
        others.append(f"float {percent(head.float_run.accuracy)}")
    if teacher and teacher.accuracy is not None:
        others.append(f"teacher {percent(teacher.accuracy)}")
    for twin in report.students[1:]:
        if twin.deployed.accuracy is not None:
            others.append(f"{twin.name} {percent(twin.deployed.accuracy)}")
    tiles = [
        ("Accuracy", NONE if run.accuracy is None else percent(run.accuracy), " · ".join(others)),
        ("Time steps", str(run.T), f"firing rate {percent(run.rate)} per neuron and step"),
        ("SynOps", quantity(run.synops.mean), f"± {quantity(run.synops.std)} over samples; all synapses, all steps"),
        (
            "Spikes",
            quantity(run.spikes.mean),
            f"± {quantity(run.spikes.std)} over samples; {quantity(run.neurons)} neurons",
        ),
    ]
    estimates = [r.students[0].estimate for r in report.energies if r.students[0].estimate]
    if estimates:
        lowest, highest = min(e.low for e in estimates), max(e.high for e in estimates)
        text = f"{quantity(lowest, 'J')} – {quantity(highest, 'J')}"
        tiles.append(("Energy", text, f"per sample, {len(estimates)} models of different boundaries; see below"))
    rates = [r.students[0].break_even for r in report.energies if r.students[0].break_even]
    if rates and run.spikes_per_synapse is not None:
        overall = Range(min(r.low for r in rates), 0.0, max(r.high for r in rates))
        hint = f"spikes per synapse and inference, {len(rates)} models, against an ANN of its shape"
        tiles.append(("Break-even", spread(overall), f"{hint}; the student has {number(run.spikes_per_synapse)}"))
    return tiles


def _table(report: Report) -> list[tuple[str, str, list[Cell]]]:
    """(label, explanation, cells) per line; the first cell is the teacher's if there is one."""
    teacher = report.teacher

    def line(
        label: str, hint: str, of_run: Callable[[Run], str], of_teacher: Callable[[Teacher], Cell] | None = None
    ) -> tuple[str, str, list[Cell]]:
        cells = []
        if teacher is not None:
            cells.append(of_teacher(teacher) if of_teacher else Cell())
        for student in report.students:
            text, plain = of_run(student.deployed), of_run(student.float_run)
            cells.append(
                Cell(text, f"float {plain}".replace(" ", SPACE) if student.quantised_run and plain != text else "")
            )
        return label, hint, cells

    def accuracy(value: float | None) -> str:
        return NONE if value is None else percent(value)

    lines = [
        line("Accuracy", "", lambda r: accuracy(r.accuracy), lambda t: Cell(accuracy(t.accuracy))),
        line("Time steps T", "", lambda r: str(r.T), lambda t: Cell("1")),
        line("SynOps", "all synapses", lambda r: quantity(r.synops.mean)),
        line("SynOps", "non-zero weights only", lambda r: quantity(r.synops_nonzero.mean)),
        line("Rate × MACs", "the papers’ shortcut", lambda r: quantity(r.rate_macs.mean)),
        line("Spikes", "KDSNN’s “SynOps”", lambda r: quantity(r.spikes.mean)),
        line(
            "MACs",
            "SNN: as an ANN of its shape",
            lambda r: quantity(r.dense_macs),
            lambda t: Cell(quantity(t.counts.macs)),
        ),
        line("MACs on analog input", "every step", lambda r: quantity(r.macs_repeated)),
        line("MACs on analog input", "computed once", lambda r: quantity(r.macs_once)),
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
        line(
            "Parameters",
            "SNN: BatchNorm folded",
            lambda r: number(r.parameters),
            lambda t: Cell(
                number(t.counts.parameters), f"{number(t.counts.parameters_without_batchnorm)} without BatchNorm"
            ),
        ),
        line("Weight memory", "", lambda r: memory(r.weight_bits)),
        line("Membrane memory", "", lambda r: memory(r.state_bits)),
    ]
    return [entry for entry in lines if any(cell.text != NONE for cell in entry[2])]


def _pairs(student: Student, neurons: bool) -> list[tuple[str, list[tuple[str, Any]]]]:
    """Layer name → (CSS class, layer) of the float run and of the quantised one, matched by name."""
    runs = [("float", student.float_run)] + ([("quantised", student.quantised_run)] if student.quantised_run else [])
    found: dict[str, list[tuple[str, Any]]] = {}
    for css, run in runs:
        for layer in run.layers:
            if (layer.neurons is not None) == neurons:
                found.setdefault(layer.name, []).append((css, layer))
    return list(found.items())


def _rates(student: Student) -> Markup:
    rows = [
        Bars(name, percent(layers[-1][1].rate), tuple((css, layer.rate) for css, layer in layers))
        for name, layers in _pairs(student, neurons=True)
    ]
    return bar_chart(rows, "Firing rate per neuron and time step of every neuron layer")


def _operations(student: Student) -> Markup:
    rows = [
        Bars(name, quantity(layers[-1][1].operations), tuple((css, layer.operations) for css, layer in layers))
        for name, layers in _pairs(student, neurons=False)
        if layers[-1][1].role == "spikes"
    ]
    return bar_chart(rows, "Synaptic operations per sample of every layer fed by spikes")


def _steps(run: Run) -> list[tuple[int, str, str, str]]:
    """(t, spikes, SynOps, SynOps so far) per time step."""
    done = 0.0
    lines = []
    for t, (spikes, synops) in enumerate(zip(run.spikes_by_step, run.synops_by_step, strict=True), start=1):
        done += synops
        lines.append((t, quantity(spikes), quantity(synops), quantity(done)))
    return lines


def _energy_row(model: ModelEnergies, report: Report) -> dict[str, Any]:
    def joules(estimate: Any) -> str:
        return spread(Range(estimate.low, estimate.nominal, estimate.high), "J")

    used = {"float": "float run", "integer": "quantised run"}
    return {
        "model": model,
        "ann": joules(model.ann) if model.ann else "no entry" if model.no_ann and report.teacher else NONE,
        "students": [
            Cell(joules(s.estimate) if s.estimate else "no entry", f"as ANN {joules(s.as_ann)}" if s.as_ann else "")
            for s in model.students
        ],
        "break_even": spread(model.students[0].break_even) if model.students[0].break_even else NONE,
        "own": NONE if (own := model.students[0].spikes_per_synapse) is None else number(own),
        "run": used[model.students[0].arithmetic],
        "estimate": model.students[0].estimate,
    }


def _break_even(report: Report) -> Markup | None:
    own = report.students[0].deployed.spikes_per_synapse
    rows = [
        Span(model.title, spread(rate), rate.low, rate.high, rate.nominal, "quantised")
        for model in report.energies
        if (rate := model.students[0].break_even)
    ]
    if not own or not rows:
        return None
    thresholds = [span for span, _ in _THRESHOLDS]
    return span_chart(
        [*rows, *thresholds],
        (f"student{SPACE}{number(own)}", own),
        "Break-even of every energy model, in spikes per synapse and inference, on a logarithmic axis",
    )


def _sources(report: Report) -> list[Source]:
    """Every source once, in order of appearance."""
    found = [source for model in report.energies for source in model.sources]
    found += [source for _, source in _THRESHOLDS]
    return list(dict.fromkeys([*found, *_CONVENTION_SOURCES]))
