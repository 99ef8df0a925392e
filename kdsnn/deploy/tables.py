"""Results as tables: the same rows for the command line, for `print`, for pandas and for a notebook.

A result is a frozen dataclass that derives from `Result` and says what its tables are and what its rows hold as plain
values. The command line draws the tables to the terminal's width; `print` draws them as wide as they are.
"""

from __future__ import annotations

import html
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

EMPTY = ("", "–")
"""Cells that say nothing: they do not decide how a column is aligned."""


@dataclass(frozen=True)
class Table:
    """A titled table of text.

    Attributes:
        title: one line above it.
        columns: the heads.
        rows: the cells, as many in each row as there are columns.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def is_numeric(self, column: int) -> bool:
        """Whether the cells of a column start with digits, so that it is aligned to the right."""
        cells = [row[column] for row in self.rows if row[column] not in EMPTY]
        return bool(cells) and all(cell.lstrip("−-±<≈ ")[:1].isdigit() for cell in cells)

    def __str__(self) -> str:
        lines = [self.columns, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        numeric = [self.is_numeric(i) for i in range(len(self.columns))]

        def drawn(line: Sequence[str]) -> str:
            cells = zip(line, widths, numeric, strict=True)
            padded = [cell.rjust(width) if right else cell.ljust(width) for cell, width, right in cells]
            return f" {'   '.join(padded)} "

        rule = f" {'─' * (sum(widths) + 3 * (len(widths) - 1))} "
        return "\n".join([self.title, "", drawn(self.columns), rule, *map(drawn, self.rows), ""])

    def to_html(self) -> str:
        """The table as an HTML table; every text is escaped."""

        def cells(line: Sequence[str], tag: str) -> str:
            return "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in line)

        body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in self.rows)
        head = f"<caption>{html.escape(self.title)}</caption><thead><tr>{cells(self.columns, 'th')}</tr></thead>"
        return f"<table>{head}<tbody>{body}</tbody></table>"


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A `Table` of any sequences. A terminal wants plain spaces between a number and its unit: they are searched for."""
    return Table(title, tuple(columns), tuple(tuple(cell.replace("\u00a0", " ") for cell in row) for row in rows))


class Result(ABC):
    """What a verb returns: it prints as the command's tables do, and gives its numbers to pandas and JSON."""

    @abstractmethod
    def tables(self) -> tuple[Table, ...]:
        """What is printed."""

    @abstractmethod
    def rows(self) -> list[dict[str, Any]]:
        """The main table's rows as plain values, for `to_frame`."""

    def to_dict(self) -> Mapping[str, Any]:
        """Everything that the result says, as JSON can hold it."""
        return {"rows": self.rows()}

    def to_frame(self) -> pd.DataFrame:
        """The main table as a pandas frame of numbers, one row a line."""
        import pandas as pd

        return pd.DataFrame(self.rows())

    def __str__(self) -> str:
        return "\n".join(map(str, self.tables()))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return "".join(one.to_html() for one in self.tables())
