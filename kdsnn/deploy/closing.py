"""The closing table of a report: one row per network and run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdsnn.deploy.tables import Table, table

if TYPE_CHECKING:
    from profilers.report import Report

ENERGY_MODELS = ("horowitz-45nm-fp32", "horowitz-45nm-int8", "loihi1-events")
"""The energy models that a terminal has room for."""


def closing_table(made: Report) -> Table:
    """The closing table of a report: one row per network and run."""
    from profilers.report.numbers import percent, quantity
    from profilers.report.tables import NONE, joules

    models = [m for m in made.energies if m.name in ENERGY_MODELS]
    columns = [
        "network",
        "accuracy",
        "parameters",
        "FLOPs (thop)",
        "MACs",
        "SynOps",
        "spikes",
        *(m.title for m in models),
    ]
    rows = []
    if made.teacher is not None:
        t = made.teacher
        accuracy = NONE if t.accuracy is None else percent(t.accuracy)
        counts = [f"{t.counts.parameters:,}", quantity(t.counts.thop), quantity(t.counts.macs), NONE, NONE]
        energies = [joules(m.ann) if m.ann else NONE for m in models]
        rows.append([f"{t.name} (ANN{' teacher' if made.students else ''})", accuracy, *counts, *energies])
    for index, student in enumerate(made.students):
        for run in filter(None, (student.float_run, student.quantized_run)):
            kind = "quantized" if run.arithmetic == "integer" else "float"
            accuracy = NONE if run.accuracy is None else percent(run.accuracy)
            counts = [f"{run.parameters:,}", NONE, quantity(run.macs_repeated), quantity(run.synops.mean)]
            found = [m.students[index] for m in models]
            energies = [joules(e.estimate) if e.estimate and e.arithmetic == run.arithmetic else NONE for e in found]
            rows.append([f"{student.name} ({kind})", accuracy, *counts, quantity(run.spikes.mean), *energies])
    return table(f"{made.title}, per sample; MACs of an SNN are those on its analog input, every step", columns, rows)
