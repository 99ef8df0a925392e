"""Tables of text: what a result prints, as wide as what stands in it, and what the command line draws, as wide as a terminal.

In a narrow space texts are wrapped between words, never inside a number or a name, and columns that have no room stand in a
part of their own below, behind the columns that name the row. Nothing is left out.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

EMPTY = ("", "–")
"""Cells that say nothing: they do not decide how a column is aligned."""

UNWRAPPED = 24
"""Cells up to this width stay on one line, and a column of longer ones is not squeezed below it."""

GAP = 3
"""Spaces between two columns."""

_BREAK = re.compile(r"(?<!\d) | (?![^\w\s]|[^\W\d]{1,2}\b)")
"""Where a text may be broken: at spaces, but for those between a number and its unit, which has a letter or two or is a sign."""


@dataclass(frozen=True)
class TextTable:
    """A titled table of text.

    Attributes:
        title: one line above it.
        columns: the heads.
        rows: the cells, as many in each row as there are columns.
        extras: columns that say where the others come from, and may be left out where there is no room, the last first.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    extras: tuple[str, ...] = ()

    def is_numeric(self, column: int) -> bool:
        """Whether the cells of a column start with digits, so that it is aligned to the right."""
        cells = [row[column] for row in self.rows if row[column] not in EMPTY]
        return bool(cells) and all(cell.lstrip("−-±<≈ ")[:1].isdigit() for cell in cells)

    def __str__(self) -> str:
        return self.drawn()

    def drawn(self, width: int | None = None, *, rule: str = "─") -> str:
        """The table as text, its title above it.

        Args:
            width: of a line, in characters of a terminal, at most, but for single words that are longer; as wide as it is if None.
            rule: the character under the heads.
        """
        columns = self._measured()
        title = [self.title] if width is None else _wrapped(self.title, width)
        lines = [*title, "", *_body(columns, width, rule), ""]
        return "\n".join(lines)

    def fitted(self, width: int) -> tuple[TextTable, tuple[str, ...]]:
        """The table without those of its `extras` for which a line of `width` characters has no room; and which these are."""
        left_out: list[str] = []
        fitting = self
        while fitting.extras and _taken(fitting._measured()) > width:
            left_out.insert(0, fitting.extras[-1])
            fitting = fitting._without(fitting.extras[-1])
        return fitting, tuple(left_out)

    def _without(self, column: str) -> TextTable:
        kept = [i for i, head in enumerate(self.columns) if head != column]
        rows = tuple(tuple(row[i] for i in kept) for row in self.rows)
        return TextTable(self.title, tuple(self.columns[i] for i in kept), rows, self.extras[:-1])

    def _measured(self) -> list[_Column]:
        return [_Column(head, [row[i] for row in self.rows], self.is_numeric(i)) for i, head in enumerate(self.columns)]

    def to_html(self) -> str:
        """The table as an HTML table; every text is escaped."""
        import html

        def cells(line: Sequence[str], tag: str) -> str:
            return "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in line)

        body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in self.rows)
        head = f"<caption>{html.escape(self.title)}</caption><thead><tr>{cells(self.columns, 'th')}</tr></thead>"
        return f"<table>{head}<tbody>{body}</tbody></table>"


def table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, extras: Sequence[str] = ()
) -> TextTable:
    """A `TextTable` of any sequences; of `extras` those that it has.

    A terminal wants plain spaces between a number and its unit: they are searched for. What no terminal should get to see (line
    breaks and escapes in the name of a file) is written out.
    """
    cells = tuple(tuple(map(_printable, row)) for row in rows)
    return TextTable(_printable(title), tuple(columns), cells, tuple(name for name in extras if name in columns))


def _printable(cell: str) -> str:
    cell = cell.replace("\u00a0", " ")
    if cell.isprintable():
        return cell
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in cell)


class _Column:
    """A column and the widths that it may have.

    Attributes:
        natural: with nothing wrapped.
        body: with nothing but the head wrapped.
        least: with everything wrapped that may be.
    """

    def __init__(self, head: str, cells: Sequence[str], numeric: bool) -> None:
        self.head, self.cells, self.numeric = head, cells, numeric
        head_word = _longest_word(head)
        widest = max(map(_width, cells), default=0)
        self.natural = max(_width(head), widest)
        self.body = max(head_word, widest)
        self.least = max(head_word, min(widest, max(UNWRAPPED, *map(_longest_word, cells))) if cells else 0)


def _body(columns: Sequence[_Column], width: int | None, rule: str) -> Iterator[str]:
    """All columns beside one another where there is room, else in parts, each behind the columns that name a row; where these
    leave no room for that, row after row."""
    if width is None or _taken(columns) <= width or len(columns) == 1 or not columns[0].cells:
        yield from _block(columns, width, rule)
        return
    names = _names(columns, width)
    if not names or any(_taken([*columns[:names], column]) > width for column in columns[names:]):
        yield from _one_by_one(columns, width)
        return
    part = list(columns[:names])
    for column in columns[names:]:
        if len(part) > names and _taken([*part, column]) > width:
            yield from _block(part, width, rule)
            yield ""
            part = list(columns[:names])
        part.append(column)
    yield from _block(part, width, rule)


def _names(columns: Sequence[_Column], width: int) -> int:
    """How many of the first columns tell the rows apart; 0 where these take more than half the width."""
    for count in range(1, len(columns)):
        rows = list(zip(*(c.cells for c in columns[:count]), strict=True))
        if _taken(columns[:count]) > width // 2:
            break
        if len(set(rows)) == len(rows):
            return count
    return 0


def _one_by_one(columns: Sequence[_Column], width: int) -> Iterator[str]:
    """Row after row, each with one cell a line, behind its head."""
    heads = _Column("", [c.head for c in columns], numeric=False)
    for number, row in enumerate(zip(*(c.cells for c in columns), strict=True)):
        if number:
            yield ""
        pair = (heads, _Column("", row, numeric=False))
        for cells in zip(heads.cells, row, strict=True):
            yield from _line(cells, pair, _widths(pair, width))


def _taken(columns: Sequence[_Column]) -> int:
    """The least width of columns beside one another; every line starts with a space."""
    return 1 + sum(c.least for c in columns) + GAP * (len(columns) - 1)


def _block(columns: Sequence[_Column], width: int | None, rule: str) -> Iterator[str]:
    """The lines of columns beside one another."""
    widths = _widths(columns, width)
    total = sum(widths) + GAP * (len(widths) - 1)
    yield from _line([c.head for c in columns], columns, widths, bottom=True)
    yield f" {rule * total}"
    for row in zip(*(c.cells for c in columns), strict=True):
        yield from _line(row, columns, widths)


def _line(
    cells: Sequence[str], columns: Sequence[_Column], widths: Sequence[int], *, bottom: bool = False
) -> Iterator[str]:
    """One row, on as many lines as its longest cell takes; heads stand on the rule."""
    wrapped = [_wrapped(cell, width) for cell, width in zip(cells, widths, strict=True)]
    height = max(map(len, wrapped))
    for lines in wrapped:
        blank = [""] * (height - len(lines))
        lines[:] = [*blank, *lines] if bottom else [*lines, *blank]
    for line in zip(*wrapped, strict=True):
        padded = []
        for text, width, column in zip(line, widths, columns, strict=True):
            space = " " * (width - _width(text))
            padded.append(space + text if column.numeric else text + space)
        yield f" {(' ' * GAP).join(padded)}".rstrip()


def _widths(columns: Sequence[_Column], width: int | None) -> list[int]:
    """As wide as they are where there is room, else heads are wrapped first, and of the rest what is widest."""
    natural, body, least = ([getattr(c, name) for c in columns] for name in ("natural", "body", "least"))
    if width is None:
        return natural
    room = width - 1 - GAP * (len(columns) - 1)
    for low, high in ((body, natural), (least, body)):
        if sum(low) > room:
            continue
        cap = max(high)
        while sum(found := [max(a, min(b, cap)) for a, b in zip(low, high, strict=True)]) > room:
            cap -= 1
        return found
    return least


def _wrapped(text: str, width: int) -> list[str]:
    """A text in lines, broken at spaces alone; at least one line."""
    if _width(text) <= width:
        return [text]
    lines: list[str] = []
    for word in _BREAK.split(text):
        if lines and _width(lines[-1]) + 1 + _width(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _longest_word(text: str) -> int:
    return max(map(_width, _BREAK.split(text)))


def _width(text: str) -> int:
    """How many characters of a terminal a text takes: Chinese ones take two, accents of their own none."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)
