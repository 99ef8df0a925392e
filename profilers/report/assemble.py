"""Networks, a teacher and energy models become a report: every network goes through every model."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import torch

from exporters.errors import DeployError
from exporters.version import VERSION as PROGRAM
from profilers.counting import statistics
from profilers.counting.thinning import SEED
from profilers.energy import models as energy_models
from profilers.energy.evaluation import EnergyEstimate, baseline, break_even, energy
from profilers.energy.models import EnergyModel, Range
from profilers.energy.operations import Counts, ann_counts
from profilers.report import equal_accuracy, verdict
from profilers.report.data import (
    VERSION,
    ComparisonReport,
    DensityPoint,
    DensitySweep,
    ModelEnergies,
    NetworkRun,
    Student,
    StudentEnergy,
    Teacher,
)
from profilers.report.few_bit import FewBitAnn, FewBitEnergy
from profilers.report.on_chips import ChipFit, PlacementReport
from profilers.report.result import Report
from profilers.report.sentences import ReportOrigin

DENSITY_MODEL = "loihi1-events"
"""The energy model that prices thinned input: one of a chip, whose neurons cost something without a single event."""


def build(
    title: str,
    command: str,
    students: Sequence[Student],
    *,
    teacher: Teacher | None = None,
    comparisons: Iterable[ComparisonReport] = (),
    models: Mapping[str, EnergyModel] | None = None,
    placements: Iterable[PlacementReport] = (),
    thinned: Mapping[float, Student] | None = None,
    few_bit: Sequence[FewBitAnn] = (),
    data: str = "",
    notes: Iterable[str] = (),
    created: datetime | None = None,
    fits: Iterable[ChipFit] = (),
    seeds: Mapping[str, int] | None = None,
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
        thinned: share of the events that was kept → the first student, run on these: as placed if it has a deployment on the
            chip of `DENSITY_MODEL`, else as deployed.
        few_bit: trained ANNs of few bits, to be set beside the students.
        data: one line on the samples that were used.
        notes: sentences printed under the verdict.
        created: time stamp; now by default.
        fits: whether students fit the chips that they were held against.
        seeds: what a seed was for → the seed, beside those that the report itself draws with.

    Raises:
        DeployError: nobody to report on, two students of the same name, or thinned input that is no events.
    """
    names = [s.name for s in students]
    if not (names or teacher) or len(set(names)) < len(names):
        raise DeployError(f"a report needs a teacher or students with different names; got {names}")
    chosen = energy_models.built_in() if models is None else models
    energies = tuple(_energies(model, teacher, students, few_bit) for model in chosen.values())
    made = Report(
        version=VERSION,
        title=title,
        verdict=(),
        command=command,
        created=(created or datetime.now(UTC)).isoformat(timespec="seconds"),
        data=data,
        teacher=teacher,
        students=tuple(students),
        comparisons=tuple(comparisons),
        energies=energies,
        placements=tuple(placements),
        density=_density(thinned, chosen.values()) if thinned else None,
        notes=tuple(notes),
        few_bit=tuple(few_bit),
        equal_accuracy=equal_accuracy.compared(students, few_bit, energies),
        fits=tuple(fits),
        origin=_origin(seeds or {}, thinned=bool(thinned)),
    )
    return replace(made, verdict=verdict.judged(made))


def _origin(seeds: Mapping[str, int], *, thinned: bool) -> ReportOrigin:
    """Program, kind of machine and seeds; nothing that says whose machine it is."""
    system = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}"
    drawn = {"confidence intervals": statistics.SEED} | ({"thinned events": SEED} if thinned else {})
    return ReportOrigin(f"kdsnn-deploy {PROGRAM}", f"{system}, {versions}", {**seeds, **drawn})


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


def _density(thinned: Mapping[float, Student], models: Iterable[EnergyModel]) -> DensitySweep:
    """Runs on ever fewer events become a sweep, priced under `DENSITY_MODEL` if it is one of the models."""
    model = next((m for m in models if m.name == DENSITY_MODEL), None)
    found = {kept: _priced(model, thinned[kept]) for kept in sorted(thinned, reverse=True)}
    points = []
    for kept, estimate in found.items():
        run = thinned[kept].deployed
        if not run.events_in_by_step:
            raise DeployError(f"{thinned[kept].name}: no events come in over time, so none can be thinned")
        energies = Range(estimate.low, estimate.nominal, estimate.high) if estimate else None
        point = DensityPoint(kept, sum(run.events_in_by_step), run.spikes, run.synops, run.accuracy, energies)
        points.append(point)
    whole, estimate = thinned[points[0].kept], found[points[0].kept]
    placed = whole.on(model.target) if model else None
    return DensitySweep(
        student=whole.name,
        arithmetic=whole.deployed.arithmetic,
        samples=whole.deployed.samples,
        seed=SEED,
        model=model.name if model else "",
        model_title=model.title if model else "",
        placed_on=placed.title if placed else "",
        left_out=estimate.left_out if estimate else (),
        points=tuple(points),
    )


def _priced(model: EnergyModel | None, student: Student) -> EnergyEstimate | None:
    if model is None:
        return None
    deployment = student.on(model.target)
    return _estimate(model, deployment.counts if deployment else student.run_for(model.arithmetic).counts)


def _estimate(model: EnergyModel, counts: Counts) -> EnergyEstimate | None:
    return None if isinstance(model.snn, str) else energy(model, counts)


def _by_layer(model: EnergyModel, run: NetworkRun) -> dict[str, float]:
    found = {layer.name: _estimate(model, layer.counts) for layer in run.layers}
    return {name: estimate.nominal for name, estimate in found.items() if estimate}
