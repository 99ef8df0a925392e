"""What a report holds of trained ANNs of few bits: their counts, their energy beside students, and that at equal accuracy."""

from __future__ import annotations

from dataclasses import dataclass

from profilers.counting.flops import ModuleCounts
from profilers.energy.evaluation import EnergyEstimate
from profilers.energy.models import Range
from profilers.energy.movement import BitBudget
from profilers.energy.operations import Counts


@dataclass(frozen=True)
class FewBitAnn:
    """A trained ANN has weights and activations of few bits: what a spiking student has to be compared with.

    `dense` and `zero_skipping` are what energy models read, data movement included (`profilers.energy.movement`), and
    `budget` is in operations × bits. `active`: multiply-accumulates per sample whose activation is not zero; `weight_bits`: of all weights.
    `samples`: on how many its accuracy was measured, None where nobody said.
    """

    name: str
    accuracy: float | None
    bits: int
    activation_bits: int
    counts: ModuleCounts
    weight_bits: int
    active: float
    budget: BitBudget
    dense: Counts
    zero_skipping: Counts
    samples: int | None = None


@dataclass(frozen=True)
class FewBitEnergy:
    """A trained ANN of few bits goes through one model, every multiply-accumulate done, or only those that are not zero.

    `break_even`: where the first student would cost the same as the ANN without zeros, in spikes per synapse per inference.
    """

    name: str
    dense: EnergyEstimate | None
    zero_skipping: EnergyEstimate | None
    break_even: Range | None


@dataclass(frozen=True)
class EnergyAtAccuracy:
    """Under one model, students and ANNs of few bits take this energy at the accuracy that is compared at, 0 to 1."""

    model: str
    accuracy: float
    students: Range
    anns: Range


@dataclass(frozen=True)
class EqualAccuracy:
    """Students and ANNs of few bits are compared at equal accuracy (`equal_accuracy.compared`), or `refusal` says why not."""

    rows: tuple[EnergyAtAccuracy, ...]
    refusal: str = ""
