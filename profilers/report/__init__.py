"""The report: teacher, student and undistilled twin side by side, with counts, energies and their sources.

`summarize` turns one counted run into plain numbers, `build` assembles them with the energy models into a
frozen `Report`, `write` puts it into a folder in any of `FORMATS`. `profilers.profiling` runs the networks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from exporters.errors import DeployError
from exporters.files import atomic_paths
from exporters.graph import SpikingGraph
from profilers.counting.activity import Activity
from profilers.counting.conventions import by_every_convention
from profilers.counting.sizes import graph_size
from profilers.counting.statistics import statistic
from profilers.energy import models as energy_models
from profilers.energy.evaluation import EnergyEstimate, baseline, break_even, energy
from profilers.energy.models import EnergyModel
from profilers.energy.operations import Counts, ann_counts, dense_ann, quantized_twin, snn_counts
from profilers.report import paper
from profilers.report.data import (
    VERSION,
    Comparison,
    Deployment,
    Layer,
    LayerCores,
    ModelEnergies,
    Placement,
    Report,
    Run,
    Student,
    StudentEnergy,
    Teacher,
)
from profilers.report.html import render

__all__ = [
    "DEFAULT_FORMATS",
    "FORMATS",
    "Comparison",
    "Deployment",
    "LayerCores",
    "Placement",
    "Report",
    "Run",
    "Student",
    "Teacher",
    "build",
    "known_formats",
    "layer_table",
    "summarize",
    "write",
]


DEFAULT_FORMATS = ("html", "json", "csv")


def summarize(
    graph: SpikingGraph,
    activity: Activity,
    accuracy_by_step: Sequence[float] = (),
    differing: Mapping[str, float] | None = None,
) -> Run:
    """Plain numbers of one counted run of `graph`.

    Args:
        graph: what ran.
        activity: what was counted.
        accuracy_by_step: fraction of right answers after the first 1, 2, … T steps, if there were labels.
        differing: neuron layer → spikes per sample that differ from those of another run.

    Raises:
        DeployError: accuracies for another number of steps.
    """
    if len(accuracy_by_step) not in (0, activity.T):
        raise DeployError(f"{len(accuracy_by_step)} accuracies for T = {activity.T} steps; give one per step, or none")
    drift = differing or {}
    size = graph_size(graph)
    layers = []
    for name, node in graph.nodes.items():
        kind = type(node).__name__
        if name in activity.neurons:
            neuron = activity.neurons[name]
            layers.append(
                Layer(
                    name,
                    kind,
                    _counts_of(activity, name),
                    neuron.neurons,
                    spikes=_mean(neuron.spikes),
                    rate=neuron.rate,
                    differing=drift.get(name),
                )
            )
        elif name in activity.synapses:
            synapse, weights = activity.synapses[name], size.layers[name]
            layers.append(
                Layer(
                    name,
                    kind,
                    _counts_of(activity, name),
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
        accuracy=float(accuracy_by_step[-1]) if len(accuracy_by_step) else None,
        spikes=statistic(activity.spikes),
        synops=statistic(activity.synops),
        synops_nonzero=statistic(activity.synops_nonzero),
        rate_macs=statistic(activity.rate_macs),
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
        accuracy_by_step=tuple(map(float, accuracy_by_step)),
        conventions=by_every_convention(activity),
        layers=tuple(layers),
        counts=snn_counts(activity),
        dense_counts=dense_ann(synapse.shape for synapse in activity.synapses.values()),
        twin_counts=quantized_twin(activity),
    )


def build(
    title: str,
    command: str,
    students: Sequence[Student],
    *,
    teacher: Teacher | None = None,
    comparisons: Iterable[Comparison] = (),
    models: Mapping[str, EnergyModel] | None = None,
    placements: Iterable[Placement] = (),
    data: str = "",
    notes: Iterable[str] = (),
    created: datetime | None = None,
) -> Report:
    """Assemble a report; the first student is the one the verdict is about.

    Args:
        title: heading of the page.
        command: the command line that made it.
        students: give them different names; there may be none if there is a teacher.
        teacher: the ANN, if there is one.
        comparisons: rows of the spike-for-spike table.
        models: energy models by name; by default those of the package.
        placements: of the first student, one per chip.
        data: one line on the samples that were used.
        notes: sentences printed under the verdict.
        created: time stamp; now by default.

    Raises:
        DeployError: nobody to report on, or two students of the same name.
    """
    names = [s.name for s in students]
    if not (names or teacher) or len(set(names)) < len(names):
        raise DeployError(f"a report needs a teacher or students with different names; got {names}")
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
        placements=tuple(placements),
        notes=tuple(notes),
    )


def write(report: Report, out_dir: Path, formats: Iterable[str] = DEFAULT_FORMATS) -> dict[str, Path]:
    """Write the report in some of `FORMATS` into a folder; returns the paths by file name.

    Raises:
        DeployError: an unknown format.
        OSError: the folder cannot be written; then a report that was there is still there, whole.
    """
    texts = {FORMATS[name][0]: FORMATS[name][1](report) for name in known_formats(formats)}
    with atomic_paths(*(out_dir / name for name in texts)) as temporaries:
        for temporary, text in zip(temporaries, texts.values(), strict=True):
            temporary.write_text(text, encoding="utf-8")
    return {name: out_dir / name for name in texts}


def known_formats(formats: Iterable[str]) -> list[str]:
    """Each format once.

    Raises:
        DeployError: an unknown one.
    """
    wanted = list(dict.fromkeys(formats))
    if unknown := [name for name in wanted if name not in FORMATS]:
        raise DeployError(f"no report format {unknown[0]!r}; choose from {', '.join(FORMATS)}")
    return wanted


def layer_table(report: Report) -> pd.DataFrame:
    """One row per student, run and layer; the columns of `Layer` after "student" and "run"."""
    columns = [f.name for f in fields(Layer) if f.name != "counts"]
    rows = [
        {"student": student.name, "run": "quantized" if run.arithmetic == "integer" else "float"}
        | {column: getattr(layer, column) for column in columns}
        for student in report.students
        for run in (student.float_run, student.quantized_run)
        if run is not None
        for layer in run.layers
    ]
    whole = ["neurons", "macs", "connections", "parameters", "weight_bits"]
    return pd.DataFrame(rows, columns=["student", "run", *columns]).astype(dict.fromkeys(whole, "Int64"))


def _energies(model: EnergyModel, teacher: Teacher | None, students: Sequence[Student]) -> ModelEnergies:
    rows = []
    for student in students:
        run = student.run_for(model.arithmetic)
        deployment = student.on(model.target)
        counts = run.counts
        if deployment:  # break-even is about the network, not about its lowering
            counts = replace(deployment.counts, spikes_per_synapse=run.spikes_per_synapse)
        rows.append(
            StudentEnergy(
                student=student.name,
                arithmetic=run.arithmetic,
                estimate=_estimate(model, counts),
                as_ann=baseline(model, run.dense_counts),
                as_twin=baseline(model, run.twin_counts),
                break_even=break_even(model, run.dense_counts, counts),
                spikes_per_synapse=run.spikes_per_synapse,
                layers=_by_layer(model, run),
                placed_on=deployment.title if deployment else "",
            )
        )
    return ModelEnergies(
        name=model.name,
        target=model.target,
        title=model.title,
        technology=model.technology,
        precision=model.precision,
        basis=model.basis,
        boundary=model.boundary,
        ann=baseline(model, teacher.dense or ann_counts(teacher.counts.macs)) if teacher else None,
        ann_zero_skipping=baseline(model, teacher.zero_skipping) if teacher and teacher.zero_skipping else None,
        no_ann=model.ann if isinstance(model.ann, str) else "",
        students=tuple(rows),
        no_snn=model.snn if isinstance(model.snn, str) else "",
        constants=dict(model.constants),
        sources=tuple(model.sources.values()),
        remarks=model.remarks,
    )


def _estimate(model: EnergyModel, counts: Counts) -> EnergyEstimate | None:
    return None if isinstance(model.snn, str) else energy(model, counts)


def _by_layer(model: EnergyModel, run: Run) -> dict[str, float]:
    found = {layer.name: _estimate(model, layer.counts) for layer in run.layers}
    return {name: estimate.nominal for name, estimate in found.items() if estimate}


def _counts_of(activity: Activity, layer: str) -> Counts:
    """The counts of a network of which only this layer does anything."""
    neurons = {layer: activity.neurons[layer]} if layer in activity.neurons else {}
    synapses = {layer: activity.synapses[layer]} if layer in activity.synapses else {}
    return snn_counts(Activity(activity.T, activity.samples, neurons, synapses))


def _mean(values: np.ndarray[Any, Any]) -> float:
    return float(values.sum(axis=1).mean())


FORMATS: Mapping[str, tuple[str, Callable[[Report], str]]] = MappingProxyType(
    {
        "html": ("report.html", render),
        "json": ("report.json", Report.to_json),
        "csv": ("layers.csv", lambda report: str(layer_table(report).to_csv(index=False))),
        "markdown": ("report.md", paper.markdown),
        "latex": ("report.tex", paper.latex),
    }
)
"""Format → file name and what makes its text."""
