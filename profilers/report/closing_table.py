"""A report closes with its verdict and a table of one row per network and run, which comes as text and as a pandas frame."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandas as pd

from profilers.energy.evaluation import EnergyEstimate
from profilers.report.cells import NONE, joules, share_text
from profilers.report.data import ReportData
from profilers.report.numbers import quantity
from profilers.text_table import TextTable, table

MODELS_SHOWN = ("horowitz-45nm-fp32", "horowitz-45nm-int8", "loihi1-events")
"""The energy models of which the table, but not the frame, has a column each."""


@dataclass(frozen=True)
class _Line:
    """A line is a network in one run; None is where a number has no meaning. `estimates` are by the models' names."""

    network: str
    role: str
    run: str
    T: int
    samples: int | None
    accuracy: float | None
    parameters: int
    flops: int | None
    macs: int
    synops: float | None
    spikes: float | None
    estimates: Mapping[str, EnergyEstimate]


def closing_table(report: ReportData) -> TextTable:
    """The table that the command ends with, in text."""
    models = [model for model in report.energies if model.name in MODELS_SHOWN]
    headings = ["network", "accuracy", "parameters", "FLOPs (thop)", "MACs", "SynOps", "spikes"]
    rows = []
    for line in _lines(report):
        kind = line.run if line.role in ("student", "twin") else "quantized ANN" if line.role == "few-bit" else "ANN"
        kind = "ANN teacher" if line.role == "teacher" and report.students else kind
        counts = (line.flops, line.macs, line.synops, line.spikes)
        rows.append(
            [
                f"{line.network} ({kind})",
                share_text(line.accuracy),
                f"{line.parameters:,}",
                *(NONE if count is None else quantity(count) for count in counts),
                *(joules(line.estimates[m.name]) if m.name in line.estimates else NONE for m in models),
            ]
        )
    title = f"{report.title}, per sample; MACs of an SNN are those on its analog input, every step"
    return table(title, [*headings, *(model.title for model in models)], rows)


def verdict_text(report: ReportData, width: int = 120) -> str:
    """The sentences for a terminal, a paragraph each; a question stands before its answer."""
    return "\n".join(
        textwrap.fill(one.paragraph, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        for one in report.verdict
    )


def frame(report: ReportData) -> pd.DataFrame:
    """The frame has one row per network and run; counts are means per sample, energies are in joules.

    Its columns are network, role (teacher, student, twin or few-bit: a trained ANN of few bits), run (float or quantized), T, samples, accuracy (0 to 1),
    parameters, flops (as thop counts), macs (of an SNN those on its analog input, at every step), synops, spikes, and
    for every energy model `NAME low` and `NAME high`. A model prices the run of its own arithmetic. Where a number has
    no meaning, it is NaN.
    """
    rows = []
    for line in _lines(report):
        row = {name: getattr(line, name) for name in _Line.__dataclass_fields__ if name != "estimates"}
        for model in report.energies:
            estimate = line.estimates.get(model.name)
            row[f"{model.name} low"] = None if estimate is None else estimate.low
            row[f"{model.name} high"] = None if estimate is None else estimate.high
        rows.append(row)
    whole = dict.fromkeys(("T", "samples", "parameters", "flops", "macs"), "Int64")
    texts = ("network", "role", "run")
    return pd.DataFrame(rows).astype({name: whole.get(name, "float64") for name in rows[0] if name not in texts})


def _lines(report: ReportData) -> Iterator[_Line]:
    if report.teacher is not None:
        teacher = report.teacher
        yield _Line(
            network=teacher.name,
            role="teacher",
            run="float",
            T=1,
            samples=None,
            accuracy=teacher.accuracy,
            parameters=teacher.counts.parameters,
            flops=teacher.counts.thop,
            macs=teacher.counts.macs,
            synops=None,
            spikes=None,
            estimates={model.name: model.ann for model in report.energies if model.ann},
        )
    for index, student in enumerate(report.students):
        for run in filter(None, (student.float_run, student.quantized_run)):
            found = {model.name: model.students[index] for model in report.energies}
            yield _Line(
                network=student.name,
                role=student.role,
                run="quantized" if run.arithmetic == "integer" else "float",
                T=run.T,
                samples=run.samples,
                accuracy=run.accuracy,
                parameters=run.parameters,
                flops=None,
                macs=run.macs_repeated,
                synops=run.synops.mean,
                spikes=run.spikes.mean,
                estimates={
                    name: energy.estimate
                    for name, energy in found.items()
                    if energy.estimate and energy.arithmetic == run.arithmetic
                },
            )
    for index, ann in enumerate(report.few_bit):
        dense = {model.name: model.few_bit[index].dense for model in report.energies}
        yield _Line(
            network=ann.name,
            role="few-bit",
            run="quantized",
            T=1,
            samples=None,
            accuracy=ann.accuracy,
            parameters=ann.counts.parameters,
            flops=ann.counts.thop,
            macs=ann.counts.macs,
            synops=None,
            spikes=None,
            estimates={name: estimate for name, estimate in dense.items() if estimate},
        )
