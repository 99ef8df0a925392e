"""`report.html` is one page that stands alone, without script or fetch; everything that a user wrote is escaped."""

from __future__ import annotations

import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from profilers.energy.models import Range
from profilers.report import cells, class_tables, energy_tables, few_bit_tables, figures, tables, time_tables
from profilers.report.comparing import beside_own_shape, tally
from profilers.report.data import ReportData, Student
from profilers.report.glossary import GLOSSARY
from profilers.report.literature import sources
from profilers.report.numbers import deviation, number, percent, quantity, spread

_TEMPLATES = Path(__file__).parent / "templates"
_OTHERS = 2  # students named beside the first one in the verdict


def environment() -> Environment:
    """All pages are made of templates that know how numbers are written."""
    found = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["unbroken"] = _unbroken
    found.globals.update(number=number, percent=percent, quantity=quantity, spread=spread)
    return found


def render(report: ReportData) -> str:
    """The report becomes the page's HTML text."""
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            head=report.head,
            titles=_titles(report),
            lead=_student_lead(report.head) if report.head else _teacher_lead(report),
            tiles=_student_tiles(report, report.head) if report.head else _teacher_tiles(report),
            tables=tables,
            energy_tables=energy_tables,
            few_bit_tables=few_bit_tables,
            class_tables=class_tables.class_tables(report),
            time_tables=time_tables,
            figures=figures,
            glossary=GLOSSARY,
            sources=sources(report),
        )
    )


def _titles(report: ReportData) -> dict[str, str]:
    """The sections that the page has, in order: anchor → title. The list of contents is made of them too."""
    networks = "Teacher" if not report.head else "Teacher and students" if report.teacher else "Students"
    sections = (
        ("verdict", "Verdict", True),
        ("networks", networks if report.teacher or len(report.students) > 1 else "In numbers", True),
        ("layers", "Layer by layer", report.head),
        ("over-time", "Over time", report.head),
        ("classes", "Class by class", class_tables.class_tables(report)),
        ("fewer-events", "With fewer events", report.density),
        ("energy", "Energy per sample", report.energies),
        ("quantized-anns", "Beside trained quantized ANNs", few_bit_tables.few_bit(report)),
        ("time", "Time per sample", time_tables.times(report)),
        ("placement", "Placement", report.placements),
        ("comparison", "Spike for spike", report.comparisons),
        ("conventions", "Conventions", True),
        ("sources", "Sources", True),
    )
    return {anchor: title for anchor, title, there in sections if there}


def _unbroken(text: str) -> Markup:
    """No line of the text breaks within a range such as 3.1–9.4."""
    return Markup(re.sub(r"\S+–\S+", r'<span class="unbroken">\g<0></span>', str(escape(text))))


def _student_lead(head: Student) -> str:
    run = head.deployed
    kind = "quantized student" if head.quantized_run else "student"
    accuracy = "" if run.accuracy is None else f", {percent(run.accuracy)} accurate,"
    return (
        f"The {kind}{accuracy} needs {run.T} time {'step' if run.T == 1 else 'steps'}, "
        f"{quantity(run.spikes.mean)} spikes and {quantity(run.synops.mean)} synaptic operations per sample "
        f"(mean of {run.samples:,})."
    )


def _teacher_lead(report: ReportData) -> str:
    teacher = report.teacher
    assert teacher is not None  # build makes no report about nobody
    accuracy = "" if teacher.accuracy is None else f", {percent(teacher.accuracy)} accurate,"
    return f"The ANN {teacher.name}{accuracy} needs {quantity(teacher.counts.macs)} multiply-accumulates per sample."


Tile = tuple[str, str, str, str]
"""Label, value, a smaller value beside it, explanation."""


def _teacher_tiles(report: ReportData) -> list[Tile]:
    teacher = report.teacher
    assert teacher is not None
    counts = teacher.counts
    tiles = [
        ("Accuracy", cells.NONE if teacher.accuracy is None else percent(teacher.accuracy), "", ""),
        ("MACs", quantity(counts.macs), "", "convolutions and dense layers, per sample"),
        ("FLOPs (thop)", quantity(counts.thop, digits=5), "", "MACs + 4 per BatchNorm element"),
        (
            "Parameters",
            quantity(counts.parameters),
            "",
            f"{quantity(counts.parameters_without_batchnorm)} without BatchNorm",
        ),
    ]
    estimates = [r.ann for r in report.energies if r.ann]
    if estimates:
        tiles.append(
            (
                "Energy",
                _overall([Range(e.low, e.nominal, e.high) for e in estimates], "J"),
                "",
                _several(len(estimates)),
            )
        )
    return tiles


def _student_tiles(report: ReportData, head: Student) -> list[Tile]:
    run, teacher = head.deployed, report.teacher
    others = list(cells.accuracy_interval(run.accuracy, run.samples))
    if head.quantized_run and head.float_run.accuracy is not None:
        others.append(f"float {percent(head.float_run.accuracy)}")
    if teacher and teacher.accuracy is not None:
        others.append(f"teacher {percent(teacher.accuracy)}")
    for other in report.students[1 : 1 + _OTHERS]:
        if other.deployed.accuracy is not None:
            others.append(f"{other.name} {percent(other.deployed.accuracy)}")
    if len(report.students) > 1 + _OTHERS:
        others.append(f"{len(report.students) - 1 - _OTHERS} more below")
    tiles = [
        ("Accuracy", cells.NONE if run.accuracy is None else percent(run.accuracy), "", " · ".join(others)),
        ("Time steps", str(run.T), "", f"firing rate {percent(run.rate)} per neuron and step"),
        (
            "SynOps",
            quantity(run.synops.mean),
            "",
            "; ".join(
                [*cells.confidence(run.synops), f"{deviation(run.synops.std, run.synops.mean)} over samples; all steps"]
            ),
        ),
        (
            "Spikes",
            quantity(run.spikes.mean),
            "",
            "; ".join(
                [
                    *cells.confidence(run.spikes),
                    f"{deviation(run.spikes.std, run.spikes.mean)} over samples",
                    f"{quantity(run.neurons)} neurons",
                ]
            ),
        ),
    ]
    estimates = [e for r in report.energies if (e := r.students[0].estimate)]
    if estimates:
        text = _overall([Range(e.low, e.nominal, e.high) for e in estimates], "J")
        tiles.append(("Energy", text, "", f"{_several(len(estimates))}{_against_own_shape(report, head)}"))
    rates = [rate for r in report.energies if (rate := r.students[0].break_even)]
    if rates and run.spikes_per_synapse is not None:
        hint = f"spikes per synapse and inference, {len(rates)} models, against a dense ANN of its shape"
        tiles.append(("Break-even", _overall(rates, ""), f"own {number(run.spikes_per_synapse)}", hint))
    return tiles


def _several(models: int) -> str:
    return f"per sample; {models} models of different boundaries" if models > 1 else "per sample"


def _against_own_shape(report: ReportData, head: Student) -> str:
    """The student costs less than an ANN of its own shape under so many models, by the verdict's rule."""
    found = tally((title, price.dense, shape) for title, price, shape in beside_own_shape(report, head.name))
    return f"; less than a dense ANN of its shape under {len(found.less)} of {len(found.all)}" if found.all else ""


def _overall(ranges: list[Range], unit: str) -> str:
    low, high = min(r.low for r in ranges), max(r.high for r in ranges)
    if unit and high > 1000 * low:  # one prefix for both would hide the smaller one
        return f"{quantity(low, unit)} – {quantity(high, unit)}"
    return spread(Range(low, low, high), unit)
