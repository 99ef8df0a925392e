"""What changed between two runs of the benchmarks: `python -m benchmarks compare BEFORE.json AFTER.json`.

    python -m benchmarks --out before          # in one tree: writes before/DATE.json
    python -m benchmarks --out after           # in the other, on the same machine
    python -m benchmarks compare before/DATE.json after/DATE.json > change.md

Rows of the same benchmark, group and name are set side by side, as Markdown: the ratios that either run took to the same row of
its own, and how they changed, which is what machines can be compared by; and the medians themselves where both runs were on one
machine. Where the ranges of the rounds overlap, nothing is said to have changed.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks._report import Line, Report, lines, read, shown
from profilers.report.numbers import number

SAME_MACHINE = ("processor", "system")
"""What of a run's head tells machines apart."""

Key = tuple[str, str, str]
"""A row is known by its benchmark, its group and its name."""


@dataclass(frozen=True)
class Change:
    """How a figure changed: `factor`, the median after by that before; `overlap`, whether the ranges of the rounds do."""

    factor: float
    overlap: bool

    def __str__(self) -> str:
        return "no change" if self.overlap else f"**{number(self.factor)}**"


@dataclass(frozen=True)
class Pair:
    """A row of both runs."""

    before: Line
    after: Line

    @property
    def base(self) -> str | None:
        """The row that both are divided by; None where they are not, or each by another one."""
        bases = {self.before.measured.relative_to, self.after.measured.relative_to}
        return bases.pop() if len(bases) == 1 else None

    @property
    def has_ratio(self) -> bool:
        """Whether a ratio of both can be shown: to the same row, or 1 because others are divided by this one."""
        return self.base is not None or self.before.ratios == self.after.ratios == (1.0,)

    @property
    def ratio(self) -> Change | None:
        """How the ratio changed; None where there is none of both."""
        if self.base is None or self.before.ratios is None or self.after.ratios is None:
            return None
        return _change(self.before.ratios, self.after.ratios)

    @property
    def median(self) -> Change | None:
        """How what was measured changed itself: on one machine alone that says something."""
        if self.before.measured.unit != self.after.measured.unit:
            return None
        return _change(self.before.measured.values, self.after.measured.values)


def _change(before: Sequence[float], after: Sequence[float]) -> Change | None:
    """None where there is nothing to divide by: a difference of two times may be below zero."""
    old, new = statistics.median(before), statistics.median(after)
    if old <= 0 or new <= 0:
        return None
    return Change(new / old, min(before) <= max(after) and min(after) <= max(before))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "benchmarks compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path, help="JSON file that `python -m benchmarks --out FOLDER` wrote")
    parser.add_argument("after", type=Path, help="another, of the same measurements")
    given = parser.parse_args(arguments)
    try:
        print(page(read(given.before), read(given.after)), end="")
    except ValueError as error:
        parser.error(str(error))


def page(before: Report, after: Report) -> str:
    """The whole comparison, as Markdown."""
    same = all(before.head.get(key) == after.head.get(key) for key in SAME_MACHINE)
    old, new = _by_key(before), _by_key(after)
    pairs = {key: Pair(line, new[key]) for key, line in old.items() if key in new}
    columns = ["ratio before", "ratio after", "after / before"]
    columns += ["before", "after", "after / before"] if same else []
    text = ["# Before and after", "", *_heads(before, after, same), ""]
    text += [f"| | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    heading: tuple[str, str] | None = None
    for key, pair in pairs.items():
        if not (same or pair.has_ratio):
            continue
        if heading != (heading := key[:2]):
            text.append(f"| **{key[0]}**: {key[1]} |" + " |" * len(columns))
        text.append(f"| {' | '.join(_cells(pair, with_medians=same))} |".replace("  ", " "))
    return "\n".join([*text, "", _sum(list(pairs.values())), *_left_out(old, new, pairs)]) + "\n"


def _by_key(report: Report) -> dict[Key, Line]:
    return {(line.benchmark, line.measured.group, line.measured.name): line for line in lines(report)}


def _heads(before: Report, after: Report, same: bool) -> Iterator[str]:
    """What was measured on what, and with what warnings."""
    yield "| | before | after |"
    yield "|---|---|---|"
    for key in dict.fromkeys([*before.head, *after.head]):
        yield f"| {key} | {before.head.get(key, '')} | {after.head.get(key, '')} |"
    if not same:
        yield "\nThe machines differ: only ratios are compared, each to a row of its own run."
    for name, report in (("Before", before), ("After", after)):
        for warning in report.warnings:
            yield f"\n**{name}: {warning}.**"


def _cells(pair: Pair, *, with_medians: bool) -> list[str]:
    """A row of the table."""
    name, value_before, ratio_before, _ = shown(pair.before)
    _, value_after, ratio_after, _ = shown(pair.after)
    ratios = [ratio_before, ratio_after] if pair.has_ratio else ["", ""]
    medians = [value_before, value_after, str(pair.median or "")] if with_medians else []
    return [name, *ratios, str(pair.ratio or ""), *medians]


def _sum(pairs: Sequence[Pair]) -> str:
    """How many ratios changed."""
    changes = [found for pair in pairs if (found := pair.ratio) is not None]
    less = sum(one.factor < 1 and not one.overlap for one in changes)
    more = sum(one.factor > 1 and not one.overlap for one in changes)
    rest = len(changes) - less - more
    return f"Of {len(changes)} ratios {less} became smaller and {more} larger; of {rest} the rounds overlap: no change."


def _left_out(old: Mapping[Key, Line], new: Mapping[Key, Line], pairs: Mapping[Key, Pair]) -> Iterator[str]:
    """What one run alone has, and what each divides by another row."""
    for name, one, other in (("before", old, new), ("after", new, old)):
        if alone := [key for key in one if key not in other]:
            yield f"\nOnly {name}:\n"
            yield from (f"* {benchmark}: {group}: {row}" for benchmark, group, row in alone)
    divided = [key for key, pair in pairs.items() if not pair.has_ratio and pair.before.ratios and pair.after.ratios]
    if divided:
        yield "\nDivided by another row than before, so that their ratios say nothing about each other:\n"
        yield from (f"* {benchmark}: {group}: {row}" for benchmark, group, row in divided)


if __name__ == "__main__":
    main()
