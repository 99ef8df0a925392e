"""The report: teacher, student and undistilled twin side by side, with counts, energies and their sources.

`summarize` turns one counted run into plain numbers, `build` assembles them with the energy models into a
frozen `Report`, `write` puts `report.json`, `layers.csv` and `report.html` into a folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from exporters.errors import DeployError
from exporters.files import atomic_path
from exporters.graph import SpikingGraph
from profilers import energy_models
from profilers.counts import Activity
from profilers.energy import Counts, EnergyEstimate, ann_counts, break_even, energy, snn_counts
from profilers.energy_models import EnergyModel
from profilers.flops import graph_size
from profilers.page import render
from profilers.report_data import (
    VERSION,
    Comparison,
    Layer,
    Mean,
    ModelEnergies,
    Report,
    Run,
    Student,
    StudentEnergy,
    Teacher,
)

__all__ = ["Comparison", "Report", "Run", "Student", "Teacher", "build", "layer_table", "summarize", "write"]


def summarize(graph: SpikingGraph, activity: Activity, accuracy: float | None = None) -> Run:
    """Plain numbers of one counted run of `graph`; `accuracy` is a fraction."""
    size = graph_size(graph)
    layers = []
    for name, node in graph.nodes.items():
        kind = type(node).__name__
        if name in activity.neurons:
            neuron = activity.neurons[name]
            layers.append(Layer(name, kind, neuron.neurons, spikes=_mean(neuron.spikes), rate=neuron.rate))
        elif name in activity.synapses:
            synapse, weights = activity.synapses[name], size.layers[name]
            layers.append(
                Layer(
                    name,
                    kind,
                    role=synapse.role,
                    macs=synapse.macs,
                    connections=synapse.connections,
                    events=_mean(synapse.events),
                    operations=_mean(synapse.operations),
                    operations_nonzero=_mean(synapse.operations_nonzero),
                    rate_macs=_mean(synapse.rate_macs),
                    parameters=weights.parameters,
                    weight_bits=weights.weight_bits,
                )
            )
    return Run(
        arithmetic="integer" if graph.is_integer else "float",
        T=activity.T,
        samples=activity.samples,
        accuracy=None if accuracy is None else float(accuracy),
        spikes=_statistics(activity.spikes),
        synops=_statistics(activity.synops),
        synops_nonzero=_statistics(activity.synops_nonzero),
        rate_macs=_statistics(activity.rate_macs),
        rate=activity.rate,
        spikes_per_synapse=activity.spikes_per_synapse,
        macs_once=activity.macs_once,
        macs_repeated=activity.macs_repeated,
        dense_macs=size.macs,
        neurons=size.neurons,
        parameters=size.parameters,
        weight_bits=size.weight_bits,
        state_bits=size.state_bits,
        spikes_by_step=tuple(activity.spikes.mean(axis=0).tolist()),
        synops_by_step=tuple(activity.synops.mean(axis=0).tolist()),
        layers=tuple(layers),
        counts=snn_counts(activity),
    )


def build(
    title: str,
    command: str,
    students: Sequence[Student],
    *,
    teacher: Teacher | None = None,
    comparisons: Iterable[Comparison] = (),
    models: Mapping[str, EnergyModel] | None = None,
    data: str = "",
    notes: Iterable[str] = (),
    created: datetime | None = None,
) -> Report:
    """Assemble a report; the first student is the one the verdict is about.

    Args:
        title: heading of the page.
        command: the command line that made it.
        students: at least one; give them different names.
        teacher: the ANN, if there is one.
        comparisons: rows of the spike-for-spike table.
        models: energy models by name; by default those of the package.
        data: one line on the samples that were used.
        notes: sentences printed under the verdict.
        created: time stamp; now by default.

    Raises:
        DeployError: no student, or two of the same name.
    """
    names = [s.name for s in students]
    if not names or len(set(names)) < len(names):
        raise DeployError(f"a report needs students with different names; got {names}")
    chosen = energy_models.built_in() if models is None else models
    return Report(
        version=VERSION,
        title=title,
        command=command,
        created=(created or datetime.now(UTC)).isoformat(timespec="seconds"),
        data=data,
        teacher=teacher,
        students=tuple(students),
        comparisons=tuple(comparisons),
        energies=tuple(_energies(model, teacher, students) for model in chosen.values()),
        notes=tuple(notes),
    )


def write(report: Report, out_dir: Path) -> dict[str, Path]:
    """Write `report.json`, `layers.csv` and `report.html`; returns their paths by file name.

    Raises:
        OSError: the folder cannot be written.
    """
    texts = {
        "report.json": report.to_json(),
        "layers.csv": layer_table(report).to_csv(index=False),
        "report.html": render(report),
    }
    for name, text in texts.items():
        with atomic_path(out_dir / name) as path:
            path.write_text(text, encoding="utf-8")
    return {name: out_dir / name for name in texts}


def layer_table(report: Report) -> pd.DataFrame:
    """One row per student, run and layer; the columns of `Layer` after "student" and "run"."""
    rows = [
        {"student": student.name, "run": "quantised" if run is student.quantised_run else "float", **asdict(layer)}
        for student in report.students
        for run in (student.float_run, student.quantised_run)
        if run is not None
        for layer in run.layers
    ]
    columns = ["student", "run", *(f.name for f in fields(Layer))]
    whole = ["neurons", "macs", "connections", "parameters", "weight_bits"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(whole, "Int64"))


def _energies(model: EnergyModel, teacher: Teacher | None, students: Sequence[Student]) -> ModelEnergies:
    rows = []
    for student in students:
        run = student.run_for(model.arithmetic)
        same_shape = ann_counts(run.dense_macs)
        rows.append(
            StudentEnergy(
                student=student.name,
                arithmetic=run.arithmetic,
                estimate=_estimate(model, run.counts),
                as_ann=_estimate(model, same_shape),
                break_even=break_even(model, same_shape, run.counts),
                spikes_per_synapse=run.spikes_per_synapse,
            )
        )
    return ModelEnergies(
        name=model.name,
        title=model.title,
        technology=model.technology,
        precision=model.precision,
        basis=model.basis,
        boundary=model.boundary,
        ann=_estimate(model, ann_counts(teacher.counts.macs)) if teacher else None,
        no_ann=model.ann if isinstance(model.ann, str) else "",
        students=tuple(rows),
        no_snn=model.snn if isinstance(model.snn, str) else "",
        constants=dict(model.constants),
        sources=tuple(model.sources.values()),
        remarks=model.remarks,
    )


def _estimate(model: EnergyModel, counts: Counts) -> EnergyEstimate | None:
    entry = model.ann if counts.kind == "ann" else model.snn
    return None if isinstance(entry, str) else energy(model, counts)


def _mean(values: np.ndarray[Any, Any]) -> float:
    return float(values.sum(axis=1).mean())


def _statistics(values: np.ndarray[Any, Any]) -> Mean:
    per_sample = values.sum(axis=1)
    return Mean(float(per_sample.mean()), float(per_sample.std()))
