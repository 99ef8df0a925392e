"""What the verbs print: tables and progress for people, JSON for programs.

Results go to standard output, progress and remarks to standard error. On a terminal, long work shows
a bar with the time left; elsewhere plain lines, at most one every few seconds.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from kdsnn.cli.ascii_words import shown, spelled_out
from kdsnn.deploy.processes import is_first_process
from kdsnn.deploy.progress import Progress, silent
from kdsnn.deploy.tables import Result, TextTable

PLAIN_INTERVAL = 5.0
"""Seconds between progress lines where no terminal shows a bar."""

PIPED_WIDTH = 160
"""Characters in a line of a table where no terminal shows it."""


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(value, indent=2, allow_nan=False, default=str))


def say(message: str) -> None:
    """A remark on standard error, of the first process where a launcher has started several. One that cannot be written (a
    full disk, a closed pipe) is not worth the work it is about."""
    if not is_first_process():
        return
    try:
        print(spelled_out(message), file=sys.stderr, flush=True)
    except OSError:
        with suppress(OSError, ValueError):  # Python tries once more at its end, and would change the exit code
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def show(result: Result, *, json: bool = False, wide: bool = False) -> None:
    """Print a result: its tables, or its JSON."""
    if json:
        print_json(result.to_dict())
    else:
        for one in result.tables():
            draw(one, wide=wide)


def draw(table: TextTable, *, wide: bool = False) -> None:
    """A table on standard output, no wider than the terminal unless it is to be `wide`; every table of every verb is drawn here."""
    width = None if wide else _columns()
    rows = tuple(tuple(map(shown, row)) for row in table.rows)
    table = replace(table, title=shown(table.title), columns=tuple(map(shown, table.columns)), rows=rows)
    fitted, left_out = (table, ()) if width is None else table.fitted(width)
    print(fitted.drawn(width, rule=shown("─")))
    if left_out:
        print(f"not shown for want of room: {', '.join(left_out)}; --wide shows all")


def draw_verdict(sentences: Iterable[tuple[str, bool]]) -> None:
    """A verdict's short sentences on standard output, as wide as the terminal; those that are bad news are red."""
    from rich.console import Console
    from rich.text import Text

    console = Console(width=_columns(), highlight=False, markup=False)
    with console.capture() as drawn:
        for text, bad in sentences:
            if text:
                console.print(Text(shown(text), style="bold red" if bad else ""))
    if drawn.get():
        print(
            drawn.get() + "Energy, memory, what else the numbers decide and under which models: the report's verdict.\n"
        )  # rich itself would end the program where nobody reads it


def draw_note(text: str) -> None:
    """A sentence on standard output, wrapped as the terminal is wide."""
    print(textwrap.fill(shown(text), _columns(), break_long_words=False, break_on_hyphens=False))


def _columns() -> int:
    """How wide a line may be: as the terminal is, or as COLUMNS says."""
    if "COLUMNS" not in os.environ and not sys.stdout.isatty():
        return PIPED_WIDTH
    return shutil.get_terminal_size((PIPED_WIDTH, 24)).columns


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
    """Progress on a terminal: a bar for every piece of work, the last one moving. Before the first, one that only shows life:
    libraries are imported, networks and data are read."""

    def __init__(self, drawn: Any) -> None:
        self.drawn = drawn
        self.title: str | None = None
        self.task: Any = drawn.add_task("starting", total=None, note="", share="", left="")

    def __call__(self, title: str, done: float, total: float, note: str = "") -> None:
        share = f"{100 * done / total:3.0f} %"
        if title != self.title:
            self.close()
            self.task = self.drawn.add_task(title, total=1.0, note=note, share=share, left="left")
            self.title = title
        self.drawn.update(self.task, completed=done / total, note=note, share=share)

    def close(self) -> None:
        """The piece that was under way is done: another begins, or all are."""
        if self.title is None:
            self.drawn.update(self.task, visible=False)
        else:
            self.drawn.update(self.task, completed=1.0, share="100 %")

    def fail(self) -> None:
        """The piece that was under way stays as it is; an error before the first stands alone."""
        if self.title is None:
            self.close()


def _drawn_bars() -> Any:
    """A line for every piece of work, which shrinks its bar before anything else, and its note below it, where it has room."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.table import Column
    from rich.text import Text

    class Noted(Progress):
        def get_renderables(self) -> Iterator[Any]:
            for task in self.tasks:
                if task.visible:
                    yield self.make_tasks_table([task])
                if task.fields["note"]:
                    yield Text(f"  {task.fields['note']}")

    whole = Column(no_wrap=True)  # so that only the bar shrinks, as texts do not either
    return Noted(
        TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[share]}"),
        TimeElapsedColumn(table_column=whole), TextColumn("{task.fields[left]}"), TimeRemainingColumn(table_column=whole),
        console=Console(stderr=True),
    )  # fmt: skip


@contextmanager
def progress(*, quiet: bool = False) -> Iterator[Progress]:
    """Show how far each piece of a verb's work is: bars with the time left on a terminal, lines elsewhere."""
    if quiet:
        yield silent
    elif not sys.stderr.isatty():
        yield _Lines()
    else:
        with _drawn_bars() as drawn:
            bars = _Bars(drawn)
            try:
                yield bars
            except BaseException:
                bars.fail()
                raise
            bars.close()
