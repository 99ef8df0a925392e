"""Tables of text, as wide as what stands in them: what a result prints, and what the command line draws."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

EMPTY = ("", "–")
"""Cells that say nothing: they do not decide how a column is aligned."""


@dataclass(frozen=True)
class TextTable:
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


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> TextTable:
    """A `TextTable` of any sequences. A terminal wants plain spaces between a number and its unit: they are searched for."""
    return TextTable(title, tuple(columns), tuple(tuple(cell.replace("\u00a0", " ") for cell in row) for row in rows))
