"""What a benchmark yields: a `Measured` per line of the table; and how candidates are timed side by side.

Only the standard library is imported here: `memory` and `startup` measure from a process that is small itself.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

SHORTEST = 0.05
"""Seconds that one timing lasts at least: what is shorter is called several times."""


@dataclass(frozen=True)
class Measured:
    """One thing that was measured.

    Attributes:
        group: what was measured side by side, and per what: a heading of the table.
        name: the candidate, unique in its group.
        values: one per round, in seconds or bytes.
        relative_to: the candidate of the same group that this one is divided by; None for that one itself, and
            where no ratio means anything.
        note: more about it, for the last column.
    """

    group: str
    name: str
    values: tuple[float, ...]
    unit: Literal["s", "B"] = "s"
    relative_to: str | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if not self.values or not all(math.isfinite(value) for value in self.values):
            raise ValueError(f"{self.group}, {self.name}: {self.values} is no measurement")

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def ratios(self, base: Measured) -> tuple[float, ...]:
        """Round by round: what slows a machine down for a while slows both sides of a round, and cancels."""
        return tuple(value / other for value, other in zip(self.values, base.values, strict=True))


def rounds(quick: bool, wanted: int) -> int:
    """How many rounds to measure; `--quick` only shows that a benchmark runs."""
    return 1 if quick else wanted


def alternate(
    candidates: Mapping[str, Callable[[], float]], *, rounds: int, warm_up: bool = True
) -> dict[str, tuple[float, ...]]:
    """Let the candidates measure themselves in turn, round after round; a warm-up round before does not count."""
    if warm_up:
        for measure in candidates.values():
            measure()
    taken = [{name: measure() for name, measure in candidates.items()} for _ in range(rounds)]
    return {name: tuple(one[name] for one in taken) for name in candidates}


def compare(
    group: str,
    candidates: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    per: float | Mapping[str, float] = 1,
    notes: Mapping[str, str] | None = None,
    processor: bool = False,
) -> Iterator[Measured]:
    """Wall-clock seconds of the candidates, in turn; ratios to the first. `per`: what to divide the seconds by.

    `processor`: a note says how long processors were busy, all threads together, and the ratio of that: on a machine that
    others use it tells work from waiting.
    """
    busy: dict[str, list[float]] = {name: [] for name in candidates}
    timed = {
        name: _timed(function, per if isinstance(per, int | float) else per[name], busy[name])
        for name, function in candidates.items()
    }
    found = alternate(timed, rounds=rounds, warm_up=False)
    if processor:
        first = next(iter(busy.values()))
        ratios = {name: statistics.median(a / b for a, b in zip(one, first, strict=True)) for name, one in busy.items()}
        notes = {
            name: f"{1e3 * statistics.median(one):.3g} ms of a processor, {ratios[name]:.2f}"
            for name, one in busy.items()
        }
    yield from relative(group, found, notes=notes)


def relative(
    group: str,
    values: Mapping[str, tuple[float, ...]],
    *,
    unit: Literal["s", "B"] = "s",
    notes: Mapping[str, str] | None = None,
) -> Iterator[Measured]:
    """Rows of one group, relative to the first."""
    first = next(iter(values))
    for name, found in values.items():
        yield Measured(group, name, found, unit, None if name == first else first, (notes or {}).get(name, ""))


def _timed(function: Callable[[], object], per: float, busy: list[float]) -> Callable[[], float]:
    """Seconds of one call, those of processors appended to `busy`; the warm-up, made here, tells how many calls one timing
    needs."""
    function()
    started = time.perf_counter()
    function()
    calls = max(1, math.ceil(SHORTEST / (time.perf_counter() - started)))

    def measure() -> float:
        worked, started = time.process_time(), time.perf_counter()
        for _ in range(calls):
            function()
        busy.append((time.process_time() - worked) / calls / per)
        return (time.perf_counter() - started) / calls / per

    return measure
