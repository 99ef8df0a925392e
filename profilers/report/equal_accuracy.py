"""Students and ANNs of few bits are compared at equal accuracy.

The rule: networks of a kind are points, accuracy against energy. One that another of its kind beats in both drops out. Between
two neighbors that are left, energy is taken to be linear in accuracy; beyond them nothing is said. Compared is at the highest
accuracy that both kinds reach. Where every network of one kind is more accurate than all of the other, there is none.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from profilers.energy.models import Range
from profilers.report.data import ModelEnergies, Student
from profilers.report.few_bit import EnergyAtAccuracy, EqualAccuracy, FewBitAnn
from profilers.report.numbers import percent

Point = tuple[float, Range]
"""Accuracy, 0 to 1, and energy."""


def compared(
    students: Sequence[Student], anns: Sequence[FewBitAnn], energies: Sequence[ModelEnergies]
) -> EqualAccuracy | None:
    """Compare at equal accuracy under every model that prices all of them; None without one of the kinds, or labels.

    Of students those count that are no twins, by the accuracy of the run that is closest to the chip; of ANNs the
    energy without zeros that are skipped.
    """
    own = {s.name: s.deployed.accuracy for s in students if s.role == "student"}
    theirs = {ann.name: ann.accuracy for ann in anns}
    known = [accuracy for accuracy in (*own.values(), *theirs.values()) if accuracy is not None]
    if not own or not theirs or len(known) < len(own) + len(theirs):
        return None
    rows = []
    for model in energies:
        first = [(own[s.student], s.estimate) for s in model.students if s.student in own]
        second = [(theirs[one.name], one.dense) for one in model.few_bit]
        if not all(estimate for _, estimate in (*first, *second)):
            continue
        fronts = [
            front([(a, Range(e.low, e.nominal, e.high)) for a, e in points if a is not None and e])
            for points in (first, second)
        ]
        accuracy = shared(*fronts)
        if accuracy is not None:
            rows.append(EnergyAtAccuracy(model.name, accuracy, *(at(points, accuracy) for points in fronts)))
    if rows:
        return EqualAccuracy(tuple(rows))
    kinds = (("the students", own.values()), ("the quantized ANNs", theirs.values()))
    ranges = ", ".join(_range(who, [a for a in accuracies if a is not None]) for who, accuracies in kinds)
    return EqualAccuracy(
        (),
        f"Not compared at equal accuracy: {ranges}, and these ranges do not overlap. Give several networks of other T, "
        "widths or bits on either side.",
    )


def front(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats come with rising accuracy, and so with rising nominal energy."""
    kept: list[Point] = []
    for accuracy, joules in sorted(points, key=lambda point: (-point[0], point[1].nominal)):
        if not kept or joules.nominal < kept[-1][1].nominal:
            kept.append((accuracy, joules))
    return kept[::-1]


def shared(first: Sequence[Point], second: Sequence[Point]) -> float | None:
    """The highest accuracy that both fronts reach, if both have it in their range."""
    accuracy = min(first[-1][0], second[-1][0])
    return accuracy if accuracy >= max(first[0][0], second[0][0]) else None


def at(points: Sequence[Point], accuracy: float) -> Range:
    """A front has this energy at an accuracy in its range."""
    for (a, low), (b, high) in itertools.pairwise(points):
        if a <= accuracy <= b:
            share = (accuracy - a) / (b - a)
            return low * (1 - share) + high * share
    return points[0][1]


def _range(who: str, accuracies: Sequence[float]) -> str:
    low, high = percent(min(accuracies), 2), percent(max(accuracies), 2)
    return f"{who} have {low}" if low == high else f"{who} have {low} to {high}"
