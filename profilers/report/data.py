"""A report holds plain frozen numbers that travel through JSON and back."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

from exporters.errors import DeployError
from profilers.counting.activity import Role
from profilers.counting.confusion import Confusion
from profilers.counting.conventions import Convention
from profilers.counting.flops import ModuleCounts
from profilers.counting.neurobench import NeuroBenchMetrics
from profilers.counting.statistics import Statistic
from profilers.energy.evaluation import Counts, EnergyEstimate
from profilers.energy.models import Citation, Constant, Range, Remark
from profilers.energy.movement import BitBudget
from profilers.energy.timing import TimeEstimate
from profilers.report.few_bit import EqualAccuracy, FewBitAnn, FewBitEnergy
from profilers.report.on_chips import ChipFit, PlacementReport
from profilers.report.sentences import ReportOrigin, Sentence

VERSION = 7
"""Version of `report.json`; raised when a field changes its meaning, appears or disappears."""


@dataclass(frozen=True)
class LayerReport:
    """A layer of one run, synapses and the neurons behind them, has these numbers, means per sample over all T steps.

    It is called by its synapses (`exporters.graph.layer_names`), and `kind` says what it consists of. What neurons no synapse
    feeds leave out, or synapses whose currents other synapses' neurons add up, is None.
    `operations` are SynOps where `role` is "spikes", else multiply-accumulates with zero inputs skipped.
    `differing`: spikes of a quantized run that the float run does not have, and the other way round, neuron by
    neuron and step by step. `counts`: what the energy models read. What ends in `_low` and `_high` is the 95 %
    confidence interval of a mean (`Statistic`).
    """

    name: str
    kind: str
    counts: Counts
    neurons: int | None = None
    spikes: float | None = None
    rate: float | None = None
    differing: float | None = None
    role: Role | None = None
    macs: int | None = None
    connections: int | None = None
    events: float | None = None
    operations: float | None = None
    operations_nonzero: float | None = None
    rate_macs: float | None = None
    parameters: int | None = None
    weight_bits: int | None = None
    spikes_low: float | None = None
    spikes_high: float | None = None
    operations_low: float | None = None
    operations_high: float | None = None


@dataclass(frozen=True)
class NetworkRun:
    """One network ran over some samples, in float or quantized to integers; `Activity` tells the conventions.

    `dense_macs` are those of an ANN of the same shape. What ends in `_by_step` are means per sample for each of the T
    steps: `events_in_by_step` values other than 0 that come in, empty where one image comes in at every step;
    `spikes_by_step` of all layers; `synops_by_step`; `macs_by_step` multiply-accumulates of the layers that spikes do
    not feed, zero inputs skipped. `accuracy_by_step` is the accuracy after the first 1, 2, … T steps, empty without
    labels.
    `conventions` has every way to count, by name. `counts` are what energy models read, `dense_counts` those of a dense
    ANN of the same shape, `twin_counts` those of the same network with quantized ReLUs (`operations.quantized_twin`). `budget`
    is in operations × bits (`profilers.energy.movement`). `neurobench`: the metrics of its algorithm track, where counted.
    `confusion`: which classes were taken for which, None without labels.
    Memory is in bits.
    """

    arithmetic: Literal["float", "integer"]
    T: int
    samples: int
    accuracy: float | None
    spikes: Statistic
    synops: Statistic
    synops_nonzero: Statistic
    rate_macs: Statistic
    rate: float
    spikes_per_synapse: float | None
    macs_once: int
    macs_repeated: int
    dense_macs: int
    neurons: int
    parameters: int
    weight_bits: int
    state_bits: int
    events_in_by_step: tuple[float, ...]
    spikes_by_step: tuple[float, ...]
    synops_by_step: tuple[float, ...]
    macs_by_step: tuple[float, ...]
    accuracy_by_step: tuple[float, ...]
    conventions: tuple[Convention, ...]
    layers: tuple[LayerReport, ...]
    counts: Counts
    dense_counts: Counts
    twin_counts: Counts
    budget: BitBudget
    neurobench: NeuroBenchMetrics | None
    confusion: Confusion | None


@dataclass(frozen=True)
class SimulatedRun:
    """A simulator of a chip ran a placed network, one sample alone at a time: ranges are (least, mean, most) over `samples` samples.

    `seconds_by_step` and `joules_by_step`: means for every step of the chip. `mismatching_spikes` of `compared_spikes` differ
    from the emulator's. `simulator` is its name, `note` what it leaves out.
    """

    simulator: str
    samples: int
    seconds: Range
    joules: Range
    product: Range
    seconds_by_step: tuple[float, ...]
    joules_by_step: tuple[float, ...]
    mismatching_spikes: int
    compared_spikes: int
    source: Citation
    note: str


@dataclass(frozen=True)
class Deployment:
    """A student is placed on a chip, and this is what energy models of the chip count instead of its run.

    Placed is the chain of layers that a chip runs: OR neurons of max-pools and relays of skip connections do work there
    that the network before it does not have. `target` is the chip's name, `title` what people call it; `neurons`:
    those of the chain; `host`: its layers that run on the host, which `counts` holds all the same. `counts`: of the
    chain, means over `samples` samples. `seconds` per sample, if the user gave them. `times`: one per step-time model of
    the chip; `simulated`: what a simulator of it found, where one was asked.
    """

    target: str
    title: str
    cores: int
    chips: int
    neurons: int
    host: tuple[str, ...]
    samples: int
    seconds: Range | None
    counts: Counts
    times: tuple[TimeEstimate, ...] = ()
    simulated: SimulatedRun | None = None


@dataclass(frozen=True)
class Student:
    """A student is a spiking network with its float run and, once quantized, its integer run.

    A "twin" is trained without a teacher. There is one of `deployments` per chip that it was placed on.
    """

    name: str
    float_run: NetworkRun
    quantized_run: NetworkRun | None = None
    role: Literal["student", "twin"] = "student"
    deployments: tuple[Deployment, ...] = ()

    @property
    def deployed(self) -> NetworkRun:
        """The deployed run is the one closest to the chip: quantized if there is one."""
        return self.quantized_run or self.float_run

    def on(self, target: str) -> Deployment | None:
        """A student has at most one deployment on a chip; None where there is none."""
        return next((d for d in self.deployments if d.target == target), None)

    def run_for(self, arithmetic: Literal["float", "integer"]) -> NetworkRun:
        """The run is the one in this arithmetic, or the other one if it was not run."""
        return self.float_run if arithmetic == "float" else self.deployed


@dataclass(frozen=True)
class Teacher:
    """The teacher is an ANN.

    `dense` and `zero_skipping` are what energy models read (`operations.dense_ann`, `operations.zero_skipping_ann`);
    without `dense` they know its multiply-accumulates only, and models that count more have no estimate. `samples`: on how
    many its accuracy was measured, None where nobody said.
    """

    name: str
    accuracy: float | None
    counts: ModuleCounts
    dense: Counts | None = None
    zero_skipping: Counts | None = None
    samples: int | None = None


@dataclass(frozen=True)
class ComparisonReport:
    """One backend is compared with a reference, spike for spike. `mismatching_spikes` is None for the reference itself.

    `compared_spikes` is out of how many; `must_agree` is False where a difference is expected, as that of quantization.
    """

    backend: str
    samples: int
    accuracy: float | None = None
    mismatching_spikes: int | None = None
    reference: str = ""
    note: str = ""
    compared_spikes: int | None = None
    must_agree: bool = True


@dataclass(frozen=True)
class StudentEnergy:
    """One student goes through one model.

    `arithmetic`: the run that was counted; `placed_on`: the title of the chip where the estimate is of a `Deployment`,
    empty where it is of the run. `as_ann`: a dense ANN of the student's own shape. `as_twin`: the same
    network with ReLUs quantized to as many levels as T spikes have. `break_even`: where
    the student would cost the same as that ANN, in spikes per synapse per inference. `layers`: nominal joules per
    sample of each layer of the run; what only a deployment has (hops, messages, static power, OR neurons, relays) is
    in none of them.
    """

    student: str
    arithmetic: Literal["float", "integer"]
    estimate: EnergyEstimate | None
    as_ann: EnergyEstimate | None
    as_twin: EnergyEstimate | None
    break_even: Range | None
    spikes_per_synapse: float | None
    layers: Mapping[str, float]
    placed_on: str = ""


@dataclass(frozen=True)
class ModelEnergies:
    """One energy model is applied to everyone. Without an estimate, `no_ann` or `no_snn` says why.

    `ann` is the teacher, `ann_zero_skipping` the teacher where zero activations are skipped. `target`: the chip of
    which the model prices deployments, empty where it prices runs.
    """

    name: str
    target: str
    title: str
    technology: str
    precision: str
    basis: str
    boundary: str
    ann: EnergyEstimate | None
    ann_zero_skipping: EnergyEstimate | None
    no_ann: str
    students: tuple[StudentEnergy, ...]
    few_bit: tuple[FewBitEnergy, ...]
    no_snn: str
    constants: Mapping[str, Constant]
    sources: tuple[Citation, ...]
    remarks: tuple[Remark, ...]


@dataclass(frozen=True)
class DensityPoint:
    """The events of the input were kept with probability `kept`, and this happened, means per sample.

    `events_in`: those that were left. `energy`: joules under the sweep's model, None without one.
    """

    kept: float
    events_in: float
    spikes: Statistic
    synops: Statistic
    accuracy: float | None
    energy: Range | None


@dataclass(frozen=True)
class DensitySweep:
    """The first student ran on some samples again, with fewer and fewer events in them.

    `seed` decides which; what one point keeps, all points before it kept. `placed_on`: the title of the chip on which it
    ran as placed, so that OR neurons of max-pools and relays of skip connections count too (`Deployment`); empty where
    it is the deployed run. `model` and `model_title`: the one energy model that priced all points, empty without one;
    `left_out`: terms of the model that nobody counted.
    """

    student: str
    arithmetic: Literal["float", "integer"]
    samples: int
    seed: int
    model: str
    model_title: str
    placed_on: str
    left_out: tuple[str, ...]
    points: tuple[DensityPoint, ...]


@dataclass(frozen=True)
class ReportData:
    """A report says this and nothing else. The first student is the one that the verdict is about.

    It has a teacher, students, or both, and perhaps trained ANNs of few bits beside the students; `energies` are in the
    order of the models. `profilers.report.result.Report` has what a user does with it. `density` is None where the input is
    no events, or nobody asked. `verdict` says in words what all of it decides; `fits` whether students fit the chips they were
    held against; `origin` where the report comes from.
    """

    version: int
    title: str
    verdict: tuple[Sentence, ...]
    command: str
    created: str
    data: str
    teacher: Teacher | None
    students: tuple[Student, ...]
    comparisons: tuple[ComparisonReport, ...]
    energies: tuple[ModelEnergies, ...]
    placements: tuple[PlacementReport, ...]
    density: DensitySweep | None
    notes: tuple[str, ...]
    few_bit: tuple[FewBitAnn, ...]
    equal_accuracy: EqualAccuracy | None
    fits: tuple[ChipFit, ...]
    origin: ReportOrigin

    @property
    def head(self) -> Student | None:
        """The verdict is about the first student; None without students."""
        return self.students[0] if self.students else None

    def to_json(self) -> str:
        """The JSON text has every number of the report."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """The report becomes what JSON would give back: dictionaries, lists, texts and numbers."""
        return typing.cast(dict[str, Any], json.loads(self.to_json()))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read back what `to_json` wrote.

        Raises:
            DeployError: not a report, or one of another version.
        """
        try:
            data = json.loads(text)
            version = data["version"]
        except (ValueError, TypeError, KeyError) as error:
            raise DeployError("not a kdsnn-deploy report: it must be the report.json that `profile` writes") from error
        if version != VERSION:
            raise DeployError(f"the report has version {version}, this program reads {VERSION}; write it again")
        try:
            return typing.cast(Self, _decode(cls, data))
        except (TypeError, KeyError, AttributeError) as error:
            raise DeployError(f"the report is damaged ({type(error).__name__}: {error}); write it again") from error


def _decode(kind: Any, value: Any) -> Any:
    """JSON values become the dataclasses again, by their type hints."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = typing.get_type_hints(kind)
        return kind(**{f.name: _decode(hints[f.name], value[f.name]) for f in fields(kind)})
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _decode(next(a for a in args if a is not type(None)), value)
    if origin is tuple:
        return tuple(_decode(args[0], item) for item in value)
    if origin is Mapping:
        return {key: _decode(args[1], item) for key, item in value.items()}
    return value
