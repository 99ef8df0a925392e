"""A run that is stopped loses nothing, is gone on with and never replaced unasked; what it trained is not trained twice."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kdsnn
from kdsnn import checkpoint
from kdsnn.data import DataSet
from kdsnn.data.splits import held_out
from kdsnn.deploy.progress import Estimated, duration
from kdsnn.errors import KdsnnError, OptionError, StoppedError
from kdsnn.train import loop, stopping
from kdsnn.train.history import read_csv

SMALL: dict[str, Any] = {
    "method": "none", "T": 2, "epochs": 3, "batch_size": 8, "options": {"channels": (2, 2), "hidden": 4},
    "augmentation": None, "shift": 1, "ema": 0.9,
}  # fmt: skip
STEPS = 2 * 3 * 5
"""Of a student and its twin: three epochs of five batches each."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data() -> DataSet:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (56, 1, 8, 8)).astype(np.uint8)
    return DataSet("some", x[:40], np.arange(40) % 4, x[40:], np.arange(16) % 4, 4)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Every (epoch, step) that is trained from here on."""
    taken: list[tuple[int, int]] = []
    original = loop._Loop._step

    def counted(self: Any, epoch: int, step: int, host: torch.Tensor) -> torch.Tensor:
        taken.append((epoch, step))
        return original(self, epoch, step, host)

    monkeypatch.setattr(loop._Loop, "_step", counted)
    return taken


def contents(folder: Path) -> dict[str, bytes]:
    """The checkpoints, byte by byte, and what else is there; of histories all but the seconds."""
    found = {p.name: p.read_bytes() if p.suffix == ".safetensors" else b"" for p in folder.iterdir()}
    for path in folder.glob("*.csv"):
        found[path.name] = repr([(r.epoch, r.loss, r.accuracy, r.val) for r in read_csv(path)]).encode()
    return found


@pytest.fixture(scope="module")
def whole(data: DataSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student and its twin, trained in one go."""
    folder = tmp_path_factory.mktemp("whole")
    kdsnn.distill("cnn2", data, twin=True, val=0.2, out=folder / "s.safetensors", **{**SMALL, "batch_size": 6})
    return folder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_anywhere_it_goes_on_with_nothing_trained_twice(
    number: signal.Signals,
    data: DataSet,
    whole: Path,
    tmp_path: Path,
    steps: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = {**SMALL, "batch_size": 6, "twin": True, "val": 0.2, "out": tmp_path / "s.safetensors"}
    moments = random.Random(number)
    stops = sorted(moments.sample(range(1, STEPS), 4))
    measured, asked = loop.correct, [0]
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as the command line has it

    def told(title: str, done: float, total: float, note: str = "") -> None:
        if stops and len(steps) >= stops[0]:
            stops.pop(0)
            signal.raise_signal(number)

    def correct(*args: Any, **rest: Any) -> torch.Tensor:
        asked[0] += 1
        if asked[0] == 5:  # in the middle of a measurement
            signal.raise_signal(number)
        return measured(*args, **rest)

    monkeypatch.setattr(loop, "correct", correct)
    stopped = 0
    try:
        while True:
            try:
                student = kdsnn.distill("cnn2", data, progress=told, resume=stopped > 0, **given)
                break
            except StoppedError as error:
                stopped += 1
                assert "continue with resume" in str(error)
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert stopped == 5 and len(steps) == STEPS  # none left out, none taken twice
    assert contents(tmp_path) == contents(whole)
    assert len(student.history) == 3 and student.twin is not None and len(student.twin.history) == 3
    with pytest.warns(match="nothing was left to train"):
        again = kdsnn.distill("cnn2", data, resume=True, **given)
    assert len(steps) == STEPS and again.accuracy == student.accuracy and contents(tmp_path) == contents(whole)
    assert again.best is not None and student.best is not None and again.best.info == student.best.info


def test_nothing_is_replaced_unasked(data: DataSet, tmp_path: Path, steps: list[Any]) -> None:
    out = tmp_path / "s.safetensors"
    given = {**SMALL, "out": out}
    with pytest.raises(OptionError, match=r"nothing to go on from, no .*s\.training"):
        kdsnn.distill("cnn2", data, resume=True, **given)
    with pytest.raises(OptionError, match="give that too"):
        kdsnn.distill("cnn2", data, resume=True, **SMALL)
    assert not list(tmp_path.iterdir())

    def told(title: str, done: float, total: float, note: str = "") -> None:
        if done:  # before the first step there is nothing to go on from
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(StoppedError):
        kdsnn.distill("cnn2", data, progress=told, **given)
    state = (tmp_path / "s.training").read_bytes()
    with pytest.raises(OptionError, match="go on with it by resume"):
        kdsnn.distill("cnn2", data, **given)
    assert (tmp_path / "s.training").read_bytes() == state and len(steps) == 1
    kdsnn.distill("cnn2", data, overwrite=True, **given)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["s.csv", "s.safetensors", "s.svg"] and len(steps) == 16
    first = contents(tmp_path)
    with pytest.raises(OptionError, match="replace it with overwrite"):
        kdsnn.pretrain("cnn2", data, epochs=1, out=out)
    with pytest.raises(OptionError, match="not of the run that resume"):
        kdsnn.distill("cnn2", data, resume=True, **{**given, "epochs": 1})
    assert contents(tmp_path) == first
    kdsnn.distill("cnn2", data, overwrite=True, **{**given, "epochs": 1})
    assert contents(tmp_path) != first


def test_a_run_that_diverged_is_not_taken_for_finished(data: DataSet, tmp_path: Path, steps: list[Any]) -> None:
    out = tmp_path / "t.safetensors"
    given = {"epochs": 2, "batch_size": 8, "options": SMALL["options"], "out": out, "lr": 1e9, "warmup_epochs": 1.9}
    with pytest.raises(KdsnnError, match="diverged"):
        kdsnn.pretrain("cnn2", data, **given)
    assert not (tmp_path / "t.training").exists()
    with pytest.raises(OptionError, match=r"not of the run that resume|nothing to go on from"):
        kdsnn.pretrain("cnn2", data, resume=True, **given)


def test_the_best_epoch_is_chosen_by_held_out_images_alone(data: DataSet, whole: Path) -> None:
    history = read_csv(whole / "s.csv")
    best, last = (checkpoint.read_info(whole / f"s{part}.safetensors") for part in (".best", ""))
    chosen = max(history, key=lambda r: r.val or 0)
    assert best.training["chosen_by"] == "val_accuracy" and best.training["epoch"] == chosen.epoch
    assert best.metrics == {"test_accuracy": chosen.accuracy, "val_accuracy": chosen.val}
    assert last.metrics == {"test_accuracy": history[-1].accuracy, "val_accuracy": history[-1].val}
    train, held = held_out(data.y_train, 0.2)
    assert sorted([*train, *held]) == list(range(40))
    assert np.bincount(data.y_train[held]).tolist() == [2, 2, 2, 2]
    # measured anew on these very images, as another data set's test
    other = DataSet("held", data.x_train[train], data.y_train[train], data.x_train[held], data.y_train[held], 4)
    assert kdsnn.evaluate(whole / "s.best.safetensors", other).accuracy == chosen.val
    for fraction, wrong in ((0.01, "no image"), (0.99, "without images")):
        with pytest.raises(KdsnnError, match=wrong):
            held_out(data.y_train, fraction)


def test_the_last_epoch_is_told(data: DataSet) -> None:
    said: list[tuple[float, float, str]] = []
    trained = kdsnn.distill("cnn2", data, progress=lambda title, *rest: said.append(rest), **SMALL)  # type: ignore[arg-type]
    done, total, note = said[-1]
    assert (
        done == total
        and note == f"epoch 3: loss {trained.history[-1].loss:.4f}, test accuracy {100 * trained.accuracy:.2f} %"
    )
    assert all(done < total for done, total, _ in said[:-1])


def test_the_whole_run_is_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    now: list[float] = [0.0]
    notes: list[str] = []
    monkeypatch.setattr("kdsnn.deploy.progress.time.monotonic", lambda: now[0])
    told = Estimated(lambda *told: notes.append(told[-1]), 2)
    for second in range(16):  # resumed in the first piece; a twentieth of a piece each second
        now[0] = float(second)
        told("a", 5 + second, 20, "x")
    told("b", 0, 20)
    assert notes[1] == "x" and notes[2] == "x; about 33 s left in all" and notes[-1] == "about 20 s left in all"
    assert [duration(s) for s in (40, 600, 36000, 1e6)] == ["40 s", "10 min", "10.0 h", "11.6 days"]


def test_a_second_signal_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)  # of the command line, where another test has run it in this process
    with pytest.raises(KeyboardInterrupt), stopping.stoppable() as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # what a launcher passes on is the same one
        with pytest.raises(stopping.StopAskedError):
            stop.check()
        monkeypatch.setattr(stopping, "PATIENCE", 0.0)
        with pytest.raises(KeyboardInterrupt, match=r"^$"):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    handler = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with stopping.stoppable() as stop:
        signal.raise_signal(signal.SIGTERM)
        stop.check()
        thread = threading.Thread(
            target=lambda: stopping.stoppable().__enter__()
        )  # gets no signals, and changes nothing
        thread.start()
        thread.join()
    signal.signal(signal.SIGTERM, handler)
