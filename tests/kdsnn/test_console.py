"""Progress as a terminal and a log show it."""

from __future__ import annotations

import io
import re

import pytest

from kdsnn.cli import console


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
