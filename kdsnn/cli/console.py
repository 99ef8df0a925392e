"""What the verbs print: tables and progress for people, JSON for programs.

Results go to standard output, progress and remarks to standard error. On a terminal, long work shows
a bar with the time left; elsewhere plain lines, at most one every few seconds.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from kdsnn.deploy.processes import is_first_process
from kdsnn.deploy.progress import Progress, silent
from kdsnn.deploy.tables import Result, TextTable

PLAIN_INTERVAL = 5.0
"""Seconds between progress lines where no terminal shows a bar."""


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(value, indent=2, allow_nan=False, default=str))


def say(message: str) -> None:
    """A remark on standard error, of the first process where a launcher has started several. One that cannot be written (a
    full disk, a closed pipe) is not worth the work it is about."""
    if not is_first_process():
        return
    try:
        print(message, file=sys.stderr, flush=True)
    except OSError:
        with suppress(OSError, ValueError):  # Python tries once more at its end, and would change the exit code
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def show(result: Result, *, json: bool = False) -> None:
    """Print a result: its tables, or its JSON."""
    if json:
        print_json(result.to_dict())
    else:
        for one in result.tables():
            draw(one)


def draw(table: TextTable) -> None:
    """A table on standard output, as wide as the terminal at most; columns whose cells start with a digit are right-aligned."""
    from rich import box
    from rich.table import Table as Grid

    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(table.columns):
        grid.add_column(column, justify="right" if table.is_numeric(i) else "left", overflow="fold")
    for row in table.rows:
        grid.add_row(*row)
    print(table.title)
    _print(grid)


def draw_verdict(paragraphs: Iterable[tuple[str, bool]]) -> None:
    """Paragraphs on standard output; those that are bad news are red."""
    from rich.text import Text

    for text, bad in paragraphs:
        _print(Text(text, style="bold red" if bad else ""))
    print()


def _print(drawing: Any) -> None:
    """What rich draws, as wide as the terminal, in color where that shows any."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 160

    class Piped(Console):
        def on_broken_pipe(self) -> None:  # rich would exit with 1 from here; `main` knows what a closed pipe means
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    console = Piped(width=width, highlight=False, markup=False)
    with console.capture() as drawn:
        console.print(drawing)
    print(drawn.get(), end="")  # rich itself would end the program where nobody reads it


def command_line() -> str:
    """What was typed, as a shell would take it."""
    return shlex.join(["kdsnn-deploy", *sys.argv[1:]])


class _Lines:
    """Progress where nobody watches: a line now and then."""

    def __init__(self) -> None:
        self.title = ""
        self.last = 0.0

    def __call__(self, title: str, done: float, total: float, note: str = "") -> None:
        now = time.monotonic()
        if title != self.title or now - self.last >= PLAIN_INTERVAL or done >= total:
            self.title, self.last = title, now
            say(f"{title}: {100 * done / total:.0f} %{'  ' + note if note else ''}")


class _Bars:
    """Progress on a terminal: a bar for every piece of work, the last one moving."""

    def __init__(self, drawn: Any) -> None:
        self.drawn = drawn
        self.title: str | None = None
        self.task: Any = None

    def __call__(self, title: str, done: float, total: float, note: str = "") -> None:
        if title != self.title:
            self.close()
            self.title, self.task = title, self.drawn.add_task(title, total=1.0, note="")
        self.drawn.update(self.task, completed=done / total, note=note)

    def close(self) -> None:
        """The piece that was under way is done: another begins, or all are."""
        if self.title is not None:
            self.drawn.update(self.task, completed=1.0)


@contextmanager
def progress(*, quiet: bool = False) -> Iterator[Progress]:
    """Show how far each piece of a verb's work is: bars with the time left on a terminal, lines elsewhere."""
    if quiet:
        yield silent
    elif not sys.stderr.isatty():
        yield _Lines()
    else:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Drawn

        columns = (
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
        )  # fmt: skip
        with Drawn(*columns, console=Console(stderr=True)) as drawn:
            bars = _Bars(drawn)
            yield bars
            bars.close()
