"""Networks, a teacher and energy models become a report: every network goes through every model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from exporters.errors import DeployError
from profilers.energy import models as energy_models
from profilers.energy.evaluation import EnergyEstimate, baseline, break_even, energy
from profilers.energy.models import EnergyModel
from profilers.energy.operations import Counts, ann_counts
from profilers.report.data import (
    VERSION,
    ComparisonReport,
    ModelEnergies,
    NetworkRun,
    PlacementReport,
    Student,
    StudentEnergy,
    Teacher,
)
from profilers.report.result import Report


def build(
    title: str,
    command: str,
    students: Sequence[Student],
    *,
    teacher: Teacher | None = None,
    comparisons: Iterable[ComparisonReport] = (),
    models: Mapping[str, EnergyModel] | None = None,
    placements: Iterable[PlacementReport] = (),
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


def _by_layer(model: EnergyModel, run: NetworkRun) -> dict[str, float]:
    found = {layer.name: _estimate(model, layer.counts) for layer in run.layers}
    return {name: estimate.nominal for name, estimate in found.items() if estimate}
