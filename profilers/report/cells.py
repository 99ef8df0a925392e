"""Tables of a report are made of rows of cells, each a text with smaller lines below it, and of the words in them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from profilers.counting.statistics import Statistic, share_interval
from profilers.energy.evaluation import EnergyEstimate
from profilers.energy.models import Range
from profilers.report.numbers import SPACE, interval, number, percent, quantity, spread

NONE = "–"
"""What a cell says about which there is nothing to say."""

FEWEST = 10
"""Samples below which no bootstrap interval is shown: it would be too narrow (of two, right every other time)."""


@dataclass(frozen=True)
class Cell:
    """A cell is a number or a word with smaller lines below it."""

    text: str = NONE
    small: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """A row has a label, a smaller second line, and a cell per column but the first."""

    label: str
    cells: tuple[Cell, ...]
    hint: str = ""


@dataclass(frozen=True)
class Table:
    """A table's `columns` have a heading for the labels too; its `notes` are sentences to read with it."""

    name: str
    caption: str
    columns: tuple[Cell, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


def as_cell(value: str | Cell) -> Cell:
    """A cell stays as it is, and a text becomes a cell of it."""
    return Cell(value) if isinstance(value, str) else value


def joined(cell: Cell, escape: Callable[[str], str]) -> str:
    """A cell becomes one line, its smaller lines in parentheses, both escaped."""
    return escape(cell.text) + (f" ({escape('; '.join(cell.small))})" if cell.small else "")


def one_line(text: str) -> str:
    """Line breaks become spaces, because they would end a table's row or a comment. Spaces that do not break stay."""
    return re.sub(rf"[^\S{SPACE}]+", " ", text).strip(" ")


def share_text(value: float | None) -> str:
    """A share, such as an accuracy, is written in percent; a dash says that there is none."""
    return NONE if value is None else percent(value)


def confidence(mean: Statistic) -> tuple[str, ...]:
    """The confidence interval is put in words in its mean's unit, if it has a width and is not of a handful of samples."""
    if mean.samples < FEWEST:
        return (f"{plural(mean.samples, 'sample')}, too few for an interval",)
    return () if mean.low == mean.high else (f"95{SPACE}%{SPACE}CI {interval(mean.low, mean.high, mean.mean)}",)


def counted(mean: Statistic) -> Cell:
    """A mean count stands with its interval."""
    return Cell(quantity(mean.mean), confidence(mean))


def accuracy_interval(accuracy: float | None, samples: int | None) -> tuple[str, ...]:
    """The confidence interval of an accuracy on so many samples is put in words; of an unknown number there is none."""
    if accuracy is None or not samples:
        return ()
    low, high = share_interval(accuracy, samples)
    return (f"95{SPACE}%{SPACE}CI {100 * low:.1f}–{percent(high)}",)


def plural(count: int, word: str) -> str:
    """A number goes with its noun: "1 chip", "2 chips"."""
    return f"{number(count)}{SPACE}{word}{'' if count == 1 else 's'}"


def joules(estimate: EnergyEstimate) -> str:
    """An estimate is written as a range."""
    return spread(Range(estimate.low, estimate.nominal, estimate.high), "J")
