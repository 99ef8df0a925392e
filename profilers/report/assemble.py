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
from profilers.report import equal_accuracy
from profilers.report.data import (
    VERSION,
    ComparisonReport,
    FewBitAnn,
    FewBitEnergy,
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
    few_bit: Sequence[FewBitAnn] = (),
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
        few_bit: trained ANNs of few bits, to be set beside the students.
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
    energies = tuple(_energies(model, teacher, students, few_bit) for model in chosen.values())
    return Report(
        version=VERSION,
        title=title,
        command=command,
        created=(created or datetime.now(UTC)).isoformat(timespec="seconds"),
        data=data,
        teacher=teacher,
        students=tuple(students),
        comparisons=tuple(comparisons),
        energies=energies,
        placements=tuple(placements),
        notes=tuple(notes),
        few_bit=tuple(few_bit),
        equal_accuracy=equal_accuracy.compared(students, few_bit, energies),
    )


def _energies(
    model: EnergyModel, teacher: Teacher | None, students: Sequence[Student], few_bit: Sequence[FewBitAnn]
) -> ModelEnergies:
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
        few_bit=tuple(_few_bit(model, ann, students) for ann in few_bit),
        no_snn=model.snn if isinstance(model.snn, str) else "",
        constants=dict(model.constants),
        sources=tuple(model.sources.values()),
        remarks=model.remarks,
    )


def _few_bit(model: EnergyModel, ann: FewBitAnn, students: Sequence[Student]) -> FewBitEnergy:
    """An ANN of few bits computes with integers: models of floats have nothing to say of it."""
    if model.arithmetic == "float":
        return FewBitEnergy(ann.name, None, None, None)
    run = students[0].run_for("integer") if students and not model.target else None
    even = None if run is None else break_even(model, ann.dense, run.counts)
    return FewBitEnergy(ann.name, baseline(model, ann.dense), baseline(model, ann.zero_skipping), even)


def _estimate(model: EnergyModel, counts: Counts) -> EnergyEstimate | None:
    return None if isinstance(model.snn, str) else energy(model, counts)


def _by_layer(model: EnergyModel, run: NetworkRun) -> dict[str, float]:
    found = {layer.name: _estimate(model, layer.counts) for layer in run.layers}
    return {name: estimate.nominal for name, estimate in found.items() if estimate}
