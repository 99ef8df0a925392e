"""What the verbs print: tables and progress for people, JSON for programs.

Results go to standard output, progress and remarks to standard error. On a terminal, long work shows
a bar with the time left; elsewhere plain lines, at most one every few seconds.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

PLAIN_INTERVAL = 5.0
"""Seconds between progress lines where no terminal shows a bar."""


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(value, indent=2, allow_nan=False, default=str))


def say(message: str) -> None:
    """A remark on standard error. One that cannot be written (a full disk, a closed pipe) is not worth the work it is about."""
    try:
        print(message, file=sys.stderr, flush=True)
    except OSError:
        with suppress(OSError, ValueError):  # Python tries once more at its end, and would change the exit code
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on standard output; columns whose cells start with a digit are right-aligned."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(columns):
        cells = [row[i] for row in rows if row[i] not in ("", "–")]
        numeric = bool(cells) and all(cell.lstrip("−-±<≈ ")[:1].isdigit() for cell in cells)
        grid.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        grid.add_row(*row)
    print(title)
    width = None if sys.stdout.isatty() else 160

    class Piped(Console):
        def on_broken_pipe(self) -> None:  # rich would exit with 1 from here; `main` knows what a closed pipe means
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    console = Piped(width=width, highlight=False, markup=False)
    with console.capture() as drawn:
        console.print(grid)
    print(drawn.get(), end="")  # rich itself would end the program where nobody reads it


class Progress(Protocol):
    """Told how much of the work is done."""

    def __call__(self, done: float, total: float, note: str = "") -> None:
        """`done` of `total` is done; `note` is shown beside it."""
        ...


@dataclass
class _Lines:
    """Progress where nobody watches: a line now and then."""

    title: str
    last: float = -PLAIN_INTERVAL

    def __call__(self, done: float, total: float, note: str = "") -> None:
        now = time.monotonic()
        if now - self.last >= PLAIN_INTERVAL or done >= total:
            self.last = now
            say(f"{self.title}: {100 * done / total:.0f} %{'  ' + note if note else ''}")


@contextmanager
def progress(title: str, *, quiet: bool = False) -> Iterator[Progress]:
    """Show how far a piece of work is: a bar with the time left on a terminal, lines elsewhere."""
    if quiet:
        yield lambda done, total, note="": None
    elif not sys.stderr.isatty():
        yield _Lines(title)
    else:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
        )  # fmt: skip
        with Bar(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(title, total=1.0, note="")

            def update(done: float, total: float, note: str = "") -> None:
                bar.update(task, completed=done / total, note=note)

            yield update
            bar.update(task, completed=1.0)


def si(value: float, unit: str = "") -> str:
    """1.23 M, 4.56 µJ: three digits with an engineering prefix."""
    if value == 0:
        return f"0 {unit}".strip()
    for factor, prefix in (
        (1e12, "T"),
        (1e9, "G"),
        (1e6, "M"),
        (1e3, "k"),
        (1, ""),
        (1e-3, "m"),
        (1e-6, "µ"),
        (1e-9, "n"),
    ):
        if abs(value) >= factor * 0.9995:
            return f"{value / factor:.3g} {prefix}{unit}".strip()
    return f"{value * 1e12:.3g} p{unit}"


def percent(share: float) -> str:
    """0.9812 → 98.12 %."""
    return f"{100 * share:.2f} %"
