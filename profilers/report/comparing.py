"""Two networks are compared under a model by one rule: one takes less where its range ends below the other's, and nowhere else.

Where ranges overlap, or touch, no difference is established. Numbers are compared within one model only. The range of a
spiking network includes the 95 % interval of its mean SynOps, as if all that spikes cause went with them. An ANN has two ranges, with every multiply-accumulate done and with those of zeros skipped. Two spiking networks are compared where
the model counts them alike (both as placed on a chip, say, and with the same terms left out), and a spiking network with an
ANN where no term of it is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from profilers.counting.statistics import Statistic
from profilers.energy.count_names import PER_SPIKE, SIZED
from profilers.energy.evaluation import BreakdownLine, EnergyEstimate
from profilers.energy.models import Range
from profilers.report.cells import plural
from profilers.report.data import ModelEnergies, ReportData

Outcome = Literal["less", "more", "open"]

MOVEMENT = SIZED | {
    *("weight_bits", "spike_weight_bits", "activation_bits", "membrane_bits", "result_bits"),
    *("spike_reads", "spike_writes"),
}
"""Counts of data that is moved: a model whose estimate has one of them prices data movement."""


def outcome(own: Range, other: Range) -> Outcome:
    """The first range is below the other, above it, or they overlap."""
    return "less" if own.high < other.low else "more" if own.low > other.high else "open"


@dataclass(frozen=True)
class Price:
    """What one network takes under one model, in joules: `dense`, or `skipping` where an ANN's zeros are not multiplied.

    `estimate` is what `dense` comes from; `alike` is equal for spiking networks that the model counts alike. `synops` says how
    far the samples leave open what spikes cause.
    """

    estimate: EnergyEstimate
    skipping: EnergyEstimate | None = None
    alike: tuple[object, ...] | None = None
    synops: Statistic | None = None

    @property
    def dense(self) -> Range:
        """Every multiply-accumulate is done."""
        return self.of(self.estimate.breakdown)

    @property
    def either(self) -> Range:
        """It holds whether zeros are skipped or not."""
        found = self.dense
        if self.skipping is None:
            return found
        return Range(min(found.low, self.skipping.low), found.nominal, max(found.high, self.skipping.high))

    def of(self, lines: Iterable[BreakdownLine], spikes: float = 1.0) -> Range:
        """The sum of some lines with so many times the spikes, as wide as the confidence interval of the SynOps makes it."""
        factors = [1.0]
        if self.synops is not None and self.synops.mean > 0:
            factors += [self.synops.low / self.synops.mean, self.synops.high / self.synops.mean]
        found = [total(with_spikes(tuple(lines), spikes * factor)) for factor in factors]
        return Range(min(r.low for r in found), found[0].nominal, max(r.high for r in found))


def as_range(estimate: EnergyEstimate) -> Range:
    """The range of an estimate is in joules per sample."""
    return Range(estimate.low, estimate.nominal, estimate.high)


Key = tuple[str, str]
"""Who is meant: "teacher", "quantized ANN" or "student", and the name, which a student may share with its teacher."""


def prices(model: ModelEnergies, report: ReportData) -> dict[Key, Price]:
    """The networks that a model prices."""
    found: dict[Key, Price] = {}
    if report.teacher is not None and model.ann is not None:
        found["teacher", report.teacher.name] = Price(model.ann, model.ann_zero_skipping)
    for ann in model.few_bit:
        if ann.dense is not None:
            found["quantized ANN", ann.name] = Price(ann.dense, ann.zero_skipping)
    for one, student in zip(model.students, report.students, strict=True):
        if one.estimate is not None:
            alike = (one.arithmetic, one.placed_on, one.estimate.left_out)
            found["student", one.student] = Price(
                one.estimate, alike=alike, synops=student.run_for(one.arithmetic).synops
            )
    return found


def comparable(a: Price, b: Price) -> bool:
    """Whether a difference says something about the networks, and not about what was counted of them."""
    if a.alike is not None and b.alike is not None:
        return a.alike == b.alike
    return not (a.estimate.left_out or b.estimate.left_out)


@dataclass(frozen=True)
class Tally:
    """Under the models of these titles a network takes less than another, more, or no difference is established."""

    less: tuple[str, ...] = ()
    more: tuple[str, ...] = ()
    open: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """Every model that compares the two."""
        return (*self.less, *self.more, *self.open)

    def words(self, name: str, what: str, rival: str, noun: str = "model") -> str:
        """A sentence without its full stop: `name` takes less `what` than `rival` under so many models, and which."""
        if not (self.less or self.more):
            under = f"under {share((), len(self.all), noun)}"
            return f"{under} a difference in {what} between {name} and {rival} is established ({listed(self.open)})"
        told: list[str] = []
        for word, titles in (("less", self.less), ("more", self.more)):
            if titles:
                than = f" {what} than {rival}" if not told else ""
                many = str(len(titles)) if told else share(titles, len(self.all), noun)
                told.append(f"{word}{than} under {many} ({listed(titles)})")
        left = f"; under {len(self.open)} ({listed(self.open)}) no difference is established" if self.open else ""
        return f"{name} takes {', '.join(told)}{left}"


def share(titles: Sequence[str], of: int, noun: str = "model") -> str:
    """So many of so many: "all 6 models", "the 1 model", "4 of 6 models", "none of 6 models"."""
    many = plural(of, noun)
    if len(titles) == of:
        return f"{'all' if of > 1 else 'the'} {many}"
    return f"{len(titles) or 'none'} of {many}"


def tally(pairs: Iterable[tuple[str, Range, Range]]) -> Tally:
    """Each pair is a model's title, what a network takes under it, and what the other takes."""
    found: dict[Outcome, list[str]] = {"less": [], "more": [], "open": []}
    for title, own, other in pairs:
        found[outcome(own, other)].append(title)
    return Tally(*(tuple(found[kind]) for kind in ("less", "more", "open")))


def compared(
    report: ReportData, name: Key, rival: Key, of_rival: Callable[[Price], Range | None] = lambda price: price.dense
) -> list[tuple[ModelEnergies, Price, Range]]:
    """The models that compare two networks, with the price of the first and the range of the second."""
    found = []
    for model in report.energies:
        priced = prices(model, report)
        own, other = priced.get(name), priced.get(rival)
        theirs = None if other is None else of_rival(other)
        if own is not None and other is not None and theirs is not None and comparable(own, other):
            found.append((model, own, theirs))
    return found


Pair = tuple[str, Price, Range]
"""A model's title, what a spiking network takes under it, and a rival's range."""


def beside_own_shape(report: ReportData, name: str) -> list[Pair]:
    """The models that compare a student with a dense ANN of its own shape."""
    found = []
    for model in report.energies:
        own = prices(model, report).get(("student", name))
        shape = next((one.as_ann for one in model.students if one.student == name), None)
        if own is not None and shape is not None and not own.estimate.left_out:
            found.append((model.title, own, as_range(shape)))
    return found


def moves_data(estimate: EnergyEstimate) -> bool:
    """Whether some term prices data that is moved."""
    return any(line.counted in MOVEMENT for line in estimate.breakdown)


Lines = tuple[BreakdownLine, ...]


def total(lines: Iterable[BreakdownLine]) -> Range:
    """All lines together, in joules per sample."""
    return sum((line.joules for line in lines), Range.exactly(0))


def with_spikes(lines: Lines, factor: float) -> Lines:
    """The lines of a network in which everything that a spike causes happens `factor` times as often."""
    counts = {line.counted: line.count.nominal for line in lines}
    rest = counts.get("inactive_updates", 0.0)
    more = (factor - 1) * counts.get("active_updates", 0.0)
    quiet = max(0.0, rest - more) / rest if rest else 1.0  # who fires more often rests less often
    by_count = {"active_updates": factor, "inactive_updates": quiet} | dict.fromkeys(PER_SPIKE, factor)
    return tuple(replace(line, joules=line.joules * by_count.get(line.counted, 1.0)) for line in lines)


def first_layer(lines: Lines) -> tuple[Lines, Lines] | None:
    """The lines with the layers that read analog input computed once per sample, and with those at every step.

    They are what makes a count a range (`operations.snn_counts`). None where no count is one.
    """
    if not any(map(_is_between, lines)):
        return None
    once, every = (
        tuple(_with_count(line, getattr(line.count, at)) if _is_between(line) else line for line in lines)
        for at in ("low", "high")
    )
    return once, every


def _is_between(line: BreakdownLine) -> bool:
    return line.counted != "chip_seconds" and 0 < line.count.low < line.count.high


def _with_count(line: BreakdownLine, count: float) -> BreakdownLine:
    """A line of exactly so many operations, with the constants' own bounds."""
    each = [getattr(line.joules, at) / getattr(line.count, at) for at in ("low", "nominal", "high")]
    return replace(line, count=Range.exactly(count), joules=Range(*(count * joules for joules in each)))


def listed(titles: Iterable[str]) -> str:
    """Titles of models, those of one source together: "INT8, FP32 at 45 nm by Horowitz 2014; CPU by KerasSpiking"."""
    groups: dict[str, list[str]] = {}
    for title in titles:
        stem, _, source = title.removesuffix(")").rpartition(" (") if title.endswith(")") else (title, "", "")
        groups.setdefault(source or title, []).append(stem)
    return "; ".join(
        source if stems == [source] else f"{_joined(stems)} by {source}" for source, stems in groups.items()
    )


def _joined(stems: list[str]) -> str:
    """What all of them end in, as "at 45 nm", is said once."""
    heads, ends = zip(
        *((head, mark + end) for head, mark, end in (stem.partition(" at ") for stem in stems)), strict=True
    )
    return f"{', '.join(heads)}{ends[0]}" if len(set(ends)) == 1 else ", ".join(stems)


def contenders(priced: Mapping[Key, Price]) -> tuple[Key, ...]:
    """Of networks that are compared with each other, those than which no other is established to take less."""
    lowest = min(price.either.high for price in priced.values())
    return tuple(name for name, price in priced.items() if price.either.low <= lowest)


def alike_only(priced: Mapping[Key, Price]) -> dict[Key, Price]:
    """The networks that can be compared with the first spiking one of them, or with an ANN where there is none."""
    first = next((price for price in priced.values() if price.alike is not None), None)
    return {name: price for name, price in priced.items() if first is None or comparable(first, price)}
