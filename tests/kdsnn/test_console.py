"""Progress as a terminal and a log show it."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

from kdsnn.cli import console
from kdsnn.cli.app import app


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    shown = Terminal()  # not in a fixture: pytest puts its own in place before a test is called
    monkeypatch.setattr("sys.stderr", shown)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    return shown


def visible(bars: console._Bars) -> list[str]:
    return [task.description for task in bars.drawn.tasks if task.visible]


def test_a_terminal_shows_life_before_the_first_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = terminal(monkeypatch)
    with console.progress() as told:
        assert isinstance(told, console._Bars) and visible(told) == ["starting"]
        told.drawn.refresh()
        assert "starting" in shown.getvalue() and "%" not in shown.getvalue()
        told("train student", 0, 3)
        assert visible(told) == ["train student"]
        told("train student", 1, 3, "epoch 1: loss 0.1234, test accuracy 97.22 %")
        told("run on spikingjelly, torch, onnx, emulator, lava", 5, 10)
        told.drawn.refresh()
    plain = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", shown.getvalue())
    assert re.search(
        r"emulator, lava \S+  50 % 0:00:\d\d left [\d-]:[\d-]+:[\d-]+", plain
    )  # nothing but the bar shrinks
    last = plain.splitlines()[-6:]
    assert any("  epoch 1: loss 0.1234, test accuracy 97.22 %" in line for line in last)  # a line of its own, whole
    assert [task.percentage for task in told.drawn.tasks if task.visible] == [100, 100]


def test_an_error_before_the_first_piece_stands_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal(monkeypatch)
    with pytest.raises(ValueError, match="wrong"), console.progress() as told:
        raise ValueError("wrong")
    assert isinstance(told, console._Bars) and visible(told) == []
    with pytest.raises(ValueError, match="wrong"), console.progress() as told:
        told("train", 1, 4)
        raise ValueError("wrong")
    assert isinstance(told, console._Bars) and [task.percentage for task in told.drawn.tasks if task.visible] == [25]


def test_a_log_gets_lines_and_json_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress() as told:
        told("train", 0, 4)
        told("train", 1, 4, "not yet")
        told("train", 4, 4, "epoch 4")
    with console.progress(quiet=True) as told:
        told("train", 1, 4)
    assert capsys.readouterr().err.splitlines() == ["train: 0 %", "train: 100 %  epoch 4"]


def commands(group: Any) -> Iterator[Any]:
    for one in group.commands.values():
        yield from commands(one) if hasattr(one, "commands") else [one]


def test_every_verb_that_draws_tables_draws_them_whole_on_demand(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {one.name: {p.name for p in one.params} for one in commands(typer.main.get_command(app))}
    drawing = {name for name, found in options.items() if "json" in found}
    assert len(drawing) >= 10 and {name for name, found in options.items() if "wide" in found} == drawing
    monkeypatch.setenv("COLUMNS", "80")
    widths = []
    for wide in ([], ["--wide"]):
        typer.main.get_command(app)(["list", "targets", *wide], standalone_mode=False)
        lines = capsys.readouterr().out.splitlines()
        widths.append(max(map(len, lines)))
        assert lines[-1] == ("" if wide else "not shown for want of room: source, note; --wide shows all")
    assert widths[0] <= 80 < 200 < widths[1]
