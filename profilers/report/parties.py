"""Who is set beside whom in a report: teacher, trained ANNs of few bits, students and twins, with what they are compared by."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from profilers.counting.statistics import share_interval
from profilers.report.data import ReportData
from profilers.report.numbers import SPACE, percent

Kind = Literal["teacher", "quantized ANN", "student", "twin"]


@dataclass(frozen=True)
class Party:
    """A network of a report has these numbers, None where nobody knows them. `samples`: behind its accuracy."""

    name: str
    kind: Kind
    accuracy: float | None
    samples: int | None
    parameters: int
    weight_bits: int | None
    membrane_bits: int = 0

    @property
    def key(self) -> tuple[str, str]:
        """Who it is (`comparing.Key`)."""
        return ("student" if self.kind == "twin" else self.kind, self.name)

    @property
    def label(self) -> str:
        """Its name, and its kind where the name does not say it."""
        letters = [re.sub(r"\W|_", "", text.lower()) for text in (self.kind, self.name)]
        return self.name if letters[0] in letters[1] else f"{self.name} ({self.kind})"

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % confidence interval of its accuracy."""
        known = self.accuracy is not None and self.samples
        return share_interval(self.accuracy or 0.0, self.samples or 1) if known else None

    @property
    def accuracy_text(self) -> str:
        """Its accuracy with the interval."""
        assert self.accuracy is not None
        text = percent(self.accuracy)
        return text if self.interval is None else f"{text} ({bounds_text(*self.interval)})"


def bounds_text(low: float, high: float) -> str:
    """An interval of shares: "95.3–98.7 %"."""
    return f"{100 * low:.1f}–{percent(high)}"


def parties(report: ReportData) -> tuple[Party, ...]:
    """Teacher, ANNs of few bits and students come in this order, students by the run that is closest to the chip."""
    found = []
    if (teacher := report.teacher) is not None:
        found.append(
            Party(
                teacher.name, "teacher", teacher.accuracy, teacher.samples, teacher.counts.parameters, weight_bits=None
            )
        )
    found += [
        Party(ann.name, "quantized ANN", ann.accuracy, ann.samples, ann.counts.parameters, ann.weight_bits)
        for ann in report.few_bit
    ]
    for student in report.students:
        run = student.deployed
        found.append(
            Party(
                student.name, student.role, run.accuracy, run.samples, run.parameters, run.weight_bits, run.state_bits
            )
        )
    return tuple(found)


def overlap(a: Party, b: Party) -> bool:
    """The intervals of two accuracies overlap, so that no difference is established."""
    assert a.interval is not None and b.interval is not None
    return a.interval[0] <= b.interval[1] and b.interval[0] <= a.interval[1]


def enumerated(names: Iterable[str], word: str = "and") -> str:
    """ "a", "a and b", "a, b and c"."""
    *first, last = names
    return f"{', '.join(first)} {word} {last}" if first else last


def sample_text(parties_: Iterable[Party]) -> str:
    """The samples that all accuracies are of: " on 359 samples"; nothing where they are of different ones."""
    counts = {party.samples for party in parties_}
    count = next(iter(counts)) if len(counts) == 1 else None
    return f" on {count:,}{SPACE}samples" if count else ""
