"""Which classes a network recognizes and which it mistakes are rows of text: for the page, and for the terminal alike."""

from __future__ import annotations

from collections.abc import Sequence

from profilers.counting.confusion import Confusion
from profilers.report.cells import NONE, Cell, Row, Table, share_text
from profilers.report.data import ReportData, Student
from profilers.report.numbers import number

MOST_IN_A_MATRIX = 10
"""Classes up to which a confusion matrix can be read."""

MOST_LISTED = 100
"""Classes that a report lists; of more it lists those that are recognized worst."""

Lines = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""Headings and rows, as many texts in each."""


def matrix_lines(found: Confusion) -> Lines:
    """A row is a label, with what its samples were taken for and how many of them were recognized; columns have the classes'
    numbers, so that the table stays narrow, and what never came up is blank."""
    rows = [
        (_numbered(found, label), *(number(n) if n else "" for n in counts), share_text(recall))
        for label, (counts, recall) in enumerate(zip(found.matrix.tolist(), found.recall, strict=True))
    ]
    return ("class", *map(str, range(found.classes)), "recognized"), rows


def class_lines(found: Confusion) -> Lines:
    """A row is a class, with its samples, the share that was recognized, its precision, and what it is most often mistaken
    for."""
    rows: list[tuple[str, ...]] = []
    for label, (samples, recall, precision) in enumerate(
        zip(found.samples, found.recall, found.precision, strict=True)
    ):
        mistake = found.taken_for(label)
        taken = NONE if mistake is None else f"{_numbered(found, mistake.decision)} ({number(mistake.samples)})"
        rows.append((_numbered(found, label), number(samples), share_text(recall), share_text(precision), taken))
    return ("class", "samples", "recognized", "precision", "most often taken for"), rows


def class_tables(report: ReportData) -> list[Table]:
    """The report has a table of the accuracy of every class for all students, and the first one's confusion matrix where that
    can be read."""
    known = [(s, s.deployed.confusion) for s in report.students]
    counted = [(s, found) for s, found in known if found is not None and found.classes > 1]
    if not counted:
        return []
    tables = [_recognized(counted)]
    head, first = counted[0]
    if first.classes <= MOST_IN_A_MATRIX:
        headings, lines = matrix_lines(first)
        headings = ("Class", *headings[1:-1], "Recognized")
        note = "A row is a class of the samples, a column what the network took them for."
        tables.append(_table("confusion", f"What {head.name} takes for what", headings, lines, (note,)))
    return tables


def _recognized(counted: Sequence[tuple[Student, Confusion]]) -> Table:
    head = counted[0][1]
    order = list(range(head.classes))
    notes = []
    if head.classes > MOST_LISTED:
        order.sort(key=lambda label: 2.0 if (share := head.recall[label]) is None else share)
        order = order[:MOST_LISTED]
        notes.append(f"The {MOST_LISTED} of {number(head.classes)} classes that {counted[0][0].name} recognizes worst.")
    several = len(counted) > 1
    headings = ("Class", "Samples", *(s.name if several else "Recognized" for s, _ in counted), "Most often taken for")
    shown = class_lines(head)[1]
    rows = [
        (shown[label][0], shown[label][1], *(share_text(found.recall[label]) for _, found in counted), shown[label][4])
        for label in order
    ]
    caption = f"Class by class{', share recognized' if several else f': {counted[0][0].name}'}"
    if several:
        notes.append(f"What a class is most often taken for is said of {counted[0][0].name}.")
    return _table("classes", caption, headings, rows, tuple(notes))


def _table(
    name: str, caption: str, headings: Sequence[str], rows: Sequence[Sequence[str]], notes: tuple[str, ...]
) -> Table:
    lines = tuple(Row(row[0], tuple(map(Cell, row[1:]))) for row in rows)
    return Table(name, caption, tuple(map(Cell, headings)), lines, notes)


def _numbered(found: Confusion, label: int) -> str:
    return f"{label} {found.names[label]}" if found.names and found.names[label] != str(label) else str(label)
