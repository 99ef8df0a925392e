"""Counted operations get their energy under named models, each a data file with the source of every constant.

A model is a list of terms (a count × the sum of some constants) for an ANN and one for an SNN; both go through
the same model or neither does. An estimate is a range with its breakdown, in joules per sample. Absolute
values of different models stand for different boundaries and differ by orders of magnitude: compare an ANN
and an SNN within one model, never numbers across models.
"""

from __future__ import annotations

from dataclasses import dataclass

from exporters.errors import DeployError
from profilers.energy.count_names import PER_SPIKE
from profilers.energy.models import EnergyModel, EnergyTerm, Range
from profilers.energy.operations import Counts, Kind, ann_counts, snn_counts

__all__ = [
    "BreakdownLine",
    "Counts",
    "EnergyEstimate",
    "Kind",
    "ann_counts",
    "baseline",
    "break_even",
    "energy",
    "snn_counts",
]


@dataclass(frozen=True)
class BreakdownLine:
    """A line says how many operations of a kind (`counted`, a key of `count_names.COUNTS`) take how many joules."""

    name: str
    counted: str
    count: Range
    joules: Range


@dataclass(frozen=True)
class EnergyEstimate:
    """An estimate is in joules per sample under one model.

    `left_out` names the terms of the model that nobody counted (say hops, without a placement): they are
    missing from the sums, not zero.
    """

    model: str
    kind: Kind
    low: float
    nominal: float
    high: float
    breakdown: tuple[BreakdownLine, ...]
    left_out: tuple[str, ...] = ()

    @property
    def static(self) -> Range | None:
        """Static power × run time is part of the sum; None where the model has none or it was left out."""
        lines = [line.joules for line in self.breakdown if line.counted == "chip_seconds"]
        return sum(lines, Range.exactly(0)) if lines else None


def energy(model: EnergyModel, counts: Counts) -> EnergyEstimate:
    """A model prices counts, term by term.

    Raises:
        DeployError: the model has no entry for this kind of network; the message says why.
    """
    terms = model.ann if counts.kind == "ann" else model.snn
    if isinstance(terms, str):
        raise DeployError(f"{model.title} has no estimate for an {counts.kind.upper()}: {terms}")
    breakdown = tuple(_evaluate(model, term, counts) for term in terms if _is_counted(term, counts))
    total = sum((line.joules for line in breakdown), Range.exactly(0))
    left_out = tuple(term.name for term in terms if not _is_counted(term, counts))
    return EnergyEstimate(model.name, counts.kind, total.low, total.nominal, total.high, breakdown, left_out)


def baseline(model: EnergyModel, counts: Counts) -> EnergyEstimate | None:
    """A baseline costs this; None where the model has no entry, or one that was not counted in full."""
    if isinstance(model.ann if counts.kind == "ann" else model.snn, str):
        return None
    estimate = energy(model, counts)
    return None if estimate.left_out else estimate


def break_even(model: EnergyModel, ann: Counts, snn: Counts) -> Range | None:
    """At so many spikes per synapse per inference the SNN would cost exactly as much as the dense ANN.

    Everything that happens per spike is scaled; multiply-accumulates of the analog input are not. The range
    comes from evaluating the model three times, with every constant and count at its low, nominal and high
    value on both sides. 0 means: more expensive than the ANN even without a single spike.
    None where the model has no entry for one of the two, where the ANN was not counted in full, or where no spike
    reached a synapse.
    """
    own = snn.spikes_per_synapse
    if isinstance(model.ann, str) or isinstance(model.snn, str) or not own:
        return None
    dense, silent, actual = energy(model, ann), energy(model, _silent(snn)), energy(model, snn)
    if dense.left_out:
        return None
    rates = []
    for at in ("low", "nominal", "high"):
        fixed = getattr(silent, at)
        per_rate = (getattr(actual, at) - fixed) / own
        if per_rate <= 0:
            return None
        rates.append(max(0.0, (getattr(dense, at) - fixed) / per_rate))
    return Range(min(rates), rates[1], max(rates))


def _is_counted(term: EnergyTerm, counts: Counts) -> bool:
    return term.count in counts.values or term.count in counts.accesses


def _evaluate(model: EnergyModel, term: EnergyTerm, counts: Counts) -> BreakdownLine:
    constants = [model.constants[name] for name in term.constants]
    nothing = Range.exactly(0)
    if term.count in counts.values:
        count = counts.values[term.count]
        return BreakdownLine(term.name, term.count, count, sum((count * c.joules for c in constants), nothing))
    accesses, word_bits = counts.accesses[term.count], model.word_bits or 0
    joules = (a.count * c.at(a.words * word_bits) for a in accesses for c in constants)
    return BreakdownLine(term.name, term.count, sum((a.count for a in accesses), nothing), sum(joules, nothing))


def _silent(counts: Counts) -> Counts:
    """The same network would do this if no neuron ever spiked."""
    values = {name: Range.exactly(0) if name in PER_SPIKE else count for name, count in counts.values.items()}
    if "active_updates" in values and "inactive_updates" in values:
        values["inactive_updates"] += values["active_updates"]
        values["active_updates"] = Range.exactly(0)
    accesses = {name: () if name in PER_SPIKE else found for name, found in counts.accesses.items()}
    return Counts(counts.kind, values, 0.0, accesses)
