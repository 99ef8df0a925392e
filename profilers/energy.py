"""Energy of counted operations under named models, each a data file with the source of every constant.

A model is a list of terms (a count × the sum of some constants) for an ANN and one for an SNN; both go through
the same model or neither does. An estimate is a range with its breakdown, in joules per sample. Absolute
values of different models stand for different boundaries and differ by orders of magnitude: compare an ANN
and an SNN within one model, never numbers across models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from exporters.errors import DeployError
from profilers.counts import Activity
from profilers.energy_models import EnergyModel, Range, Term

Kind = Literal["ann", "snn"]

_PER_SPIKE = ("synops", "spikes", "hops_ew", "hops_ns")


@dataclass(frozen=True)
class Counts:
    """Mean operations per sample, by the names of `energy_models.COUNTS`.

    spikes_per_synapse: SynOps per dense MAC of the spike-fed layers, see `Activity.spikes_per_synapse`.
    """

    kind: Kind
    values: Mapping[str, Range]
    spikes_per_synapse: float | None = None


@dataclass(frozen=True)
class TermEnergy:
    """One line of a breakdown. `count`: operations; `joules`: their energy."""

    name: str
    count: Range
    joules: Range


@dataclass(frozen=True)
class EnergyEstimate:
    """Joules per sample under one model.

    `left_out` names the terms of the model that nobody counted (say hops, without a placement): they are
    missing from the sums, not zero.
    """

    model: str
    kind: Kind
    low: float
    nominal: float
    high: float
    breakdown: tuple[TermEnergy, ...]
    left_out: tuple[str, ...] = ()


def ann_counts(macs: int) -> Counts:
    """A dense ANN: every multiply-accumulate is done (`flops.ModuleCounts.macs`)."""
    return Counts("ann", {"macs": Range.exactly(macs)})


def snn_counts(activity: Activity) -> Counts:
    """Mean counts per sample of a spiking run.

    SynOps are those over all synapses. Multiply-accumulates of the analog input range from once per sample
    (a chip that reuses them) to every step; the latter, what the deployed network does, is nominal.
    """
    spikes = float(activity.spikes.sum(axis=1).mean())
    repeated = float(activity.macs_repeated)
    values = {
        "macs": Range(float(activity.macs_once), repeated, repeated),
        "synops": Range.exactly(activity.synops.sum(axis=1).mean()),
        "graded_ops": Range.exactly(activity.graded_operations.sum(axis=1).mean()),
        "spikes": Range.exactly(spikes),
        "active_updates": Range.exactly(spikes),
        "inactive_updates": Range.exactly(activity.neuron_updates - spikes),
    }
    return Counts("snn", values, activity.spikes_per_synapse)


def energy(model: EnergyModel, counts: Counts) -> EnergyEstimate:
    """Evaluate a model.

    Raises:
        DeployError: the model has no entry for this kind of network; the message says why.
    """
    terms = model.ann if counts.kind == "ann" else model.snn
    if isinstance(terms, str):
        raise DeployError(f"{model.title} has no estimate for an {counts.kind.upper()}: {terms}")
    counted = [term for term in terms if term.count in counts.values]
    breakdown = tuple(_evaluate(model, term, counts.values[term.count]) for term in counted)
    total = sum((line.joules for line in breakdown), Range.exactly(0))
    left_out = tuple(term.name for term in terms if term.count not in counts.values)
    return EnergyEstimate(model.name, counts.kind, total.low, total.nominal, total.high, breakdown, left_out)


def break_even(model: EnergyModel, ann: Counts, snn: Counts) -> Range | None:
    """Spikes per synapse per inference at which the SNN would cost exactly as much as the dense ANN.

    Everything that happens per spike is scaled; multiply-accumulates of the analog input are not. The range
    comes from evaluating the model three times, with every constant and count at its low, nominal and high
    value on both sides. 0 means: more expensive than the ANN even without a single spike.
    None where the model has no entry for one of the two, or where no spike reached a synapse.
    """
    own = snn.spikes_per_synapse
    if isinstance(model.ann, str) or isinstance(model.snn, str) or not own:
        return None
    dense, silent, actual = energy(model, ann), energy(model, _silent(snn)), energy(model, snn)
    rates = []
    for at in ("low", "nominal", "high"):
        fixed = getattr(silent, at)
        per_rate = (getattr(actual, at) - fixed) / own
        if per_rate <= 0:
            return None
        rates.append(max(0.0, (getattr(dense, at) - fixed) / per_rate))
    return Range(min(rates), rates[1], max(rates))


def _evaluate(model: EnergyModel, term: Term, count: Range) -> TermEnergy:
    constants = [model.constants[name] for name in term.constants]
    joules = Range(
        count.low * sum(c.joules.low for c in constants),
        count.nominal * sum(c.joules.nominal for c in constants),
        count.high * sum(c.joules.high for c in constants),
    )
    return TermEnergy(term.name, count, joules)


def _silent(counts: Counts) -> Counts:
    """The same network if no neuron ever spiked."""
    values = dict(counts.values)
    values.update({name: Range.exactly(0) for name in _PER_SPIKE if name in values})
    if "active_updates" in values and "inactive_updates" in values:
        values["inactive_updates"] += values["active_updates"]
        values["active_updates"] = Range.exactly(0)
    return Counts(counts.kind, values, 0.0)
