"""Student and twin over several seeds: paired, resumable as a whole, side by side, and summed up as statistics has it."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kdsnn
from kdsnn.data import DataSet
from kdsnn.deploy import seeds
from kdsnn.deploy.progress import Progress
from kdsnn.deploy.seeds import ALONE, SeedRun, SeedRuns, seeds_of, spread_of
from kdsnn.errors import KdsnnError, OptionError, StoppedError
from kdsnn.train import loop
from kdsnn.train.resume import RunFiles
from tests.kdsnn.test_stopping import SMALL

STEPS = 2 * 2 * 2 * 5
"""Two seeds, student and twin, two epochs of five batches."""


@pytest.fixture(scope="module")
def data() -> DataSet:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (56, 1, 8, 8)).astype(np.uint8)
    return DataSet("some", x[:40], np.arange(40) % 4, x[40:], np.arange(16) % 4, 4)


@pytest.fixture(scope="module")
def given(data: DataSet) -> dict[str, Any]:
    torch.set_num_threads(1)
    teacher = kdsnn.pretrain("cnn2", data, epochs=1, batch_size=8, options=SMALL["options"])
    # processes of their own know nothing of what is patched here
    return {**SMALL, "method": "response", "epochs": 2, "teacher": teacher, "twin": True, "precision": "fp32"}


@pytest.fixture(scope="module")
def whole(data: DataSet, given: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The checkpoints of two seeds, each trained by itself."""
    folder = tmp_path_factory.mktemp("whole")
    for seed in (0, 1):
        kdsnn.distill("cnn2", data, seed=seed, out=folder / f"s.seed{seed}.safetensors", **given)
    return checkpoints(folder)


def checkpoints(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.glob("[!.]*.safetensors")}


def test_stopped_and_killed_at_random_moments(
    data: DataSet, given: dict[str, Any], whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdsnn.train.RunFiles", lambda **rest: RunFiles(**rest, every_seconds=0.0))
    counted, original = tmp_path / "steps", loop._Loop._step
    counted.touch()

    def step(self: Any, epoch: int, step: int, host: torch.Tensor) -> torch.Tensor:
        with counted.open("a") as file:
            file.write(f"{self.job.config.seed} {self.job.run['method']} {epoch} {step}\n")
        return original(self, epoch, step, host)

    monkeypatch.setattr(loop._Loop, "_step", step)
    out = tmp_path / "out"
    out.mkdir()

    def train() -> SeedRuns:
        begun = any(out.glob("[!.]*.training")) or any(out.glob("[!.]*.safetensors"))
        return kdsnn.distill(
            "cnn2", data, seeds="0-1", processes=1, out=out / "s.safetensors", resume=begun, **given
        )  # fmt: skip

    moments = random.Random(0)
    at = sorted(moments.sample(range(1, STEPS), 6))
    for index, steps in enumerate(at):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                train()
            except StoppedError:
                code = 130
            finally:
                os._exit(code)
        while len(counted.read_text().splitlines()) < steps:
            time.sleep(0.002)
        time.sleep(moments.random() * 0.02)
        number = signal.SIGINT if index % 2 else signal.SIGKILL
        os.kill(pid, number)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == (130 if index % 2 else -signal.SIGKILL)
    result = train()
    taken = counted.read_text().splitlines()
    assert len(set(taken)) == STEPS  # none left out
    assert len(taken) <= STEPS + 3  # a kill loses the step it hits; Ctrl-C none
    assert checkpoints(out) == whole and not list(out.glob("[!.]*.training"))
    assert [run.seed for run in result.runs] == [0, 1] and len(result.to_frame()) == 2
    before = len(taken)
    assert train().rows() == result.rows() and len(counted.read_text().splitlines()) == before


def test_side_by_side_they_are_the_same(
    data: DataSet, given: dict[str, Any], whole: dict[str, bytes], tmp_path: Path
) -> None:
    said: list[tuple[float, str]] = []
    call = {"seeds": (0, 1), "processes": 2, "out": tmp_path / "s.safetensors", **given}

    def stop(title: str, done: float, total: float, note: str = "") -> None:
        if done:  # before the first step there is nothing to go on from
            raise KeyboardInterrupt

    with pytest.raises(StoppedError):
        kdsnn.distill("cnn2", data, progress=stop, **call)
    assert list(tmp_path.glob("*.training"))
    with pytest.raises(OptionError, match="go on with it by resume"):
        kdsnn.distill("cnn2", data, **call)
    result = kdsnn.distill(
        "cnn2",
        data,
        resume=True,
        progress=lambda title, done, total, note="": said.append((done / total, note)),
        **call,
    )
    assert checkpoints(tmp_path) == whole
    assert said[-1][0] == 1 and [done for done, _ in said] == sorted(done for done, _ in said)
    single = kdsnn.load(tmp_path / "s.seed1.safetensors")
    assert result.values("test_accuracy")[1] == single.accuracy
    with pytest.raises(KdsnnError, match=r"seed [01]: .*no setting 'emu'"):
        kdsnn.distill("cnn2", data, overwrite=True, **call, emu=1)


def test_what_a_resumed_run_has_behind_it_does_not_shorten_its_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six trainings of 100 s each: seed 0 is finished, and of seed 1 the student and half the twin."""
    now, told = [0.0], []
    monkeypatch.setattr("kdsnn.deploy.progress.time.monotonic", lambda: now[0])

    def one_seed(train: object, arguments: dict[str, Any], progress: Progress) -> SeedRun:
        begun = {0: (), 1: (("cnn2 " + ALONE, 50),), 2: (("cnn2", 0), ("cnn2 " + ALONE, 0))}[arguments["seed"]]
        for title, first in begun:
            for second in range(first, 101):
                now[0] += second > first
                progress(title, second, 100)
        return SeedRun(arguments["seed"], {}, {})

    monkeypatch.setattr(seeds, "_one_seed", one_seed)
    calls = {f"seed {seed}": {"seed": seed, "twin": True, "model": "cnn2"} for seed in (0, 1, 2)}
    seeds._trained(int, calls, 1, lambda *say: told.append((now[0], say[1], say[3])), launched=False)
    assert now[0] == 250 and told[-1][1] == 1 and [one[1] for one in told] == sorted(one[1] for one in told)
    estimates = [(at, re.search(r"about (\d+) (s|min) left", note)) for at, _, note in told]
    assert sum(found is not None for _, found in estimates) > 240
    for at, found in estimates:
        if found is not None:
            minutes = found[2] == "min"
            assert abs(int(found[1]) * (60 if minutes else 1) - (250 - at)) <= (32 if minutes else 2), (at, found[0])


def test_the_statistics_are_those_of_the_paired_t_test() -> None:
    from scipy import stats

    rng = np.random.default_rng(1)
    mine, other = rng.random(5), rng.random(5)

    def facts(value: float) -> dict[str, Any]:
        return {"test_accuracy": value, "spikes": 1000 * value, "synops": 1e5 * value, "checkpoint": "x"}

    runs = SeedRuns(
        "some", tuple(SeedRun(i, facts(a), facts(b)) for i, (a, b) in enumerate(zip(mine, other, strict=True)))
    )
    found, known = runs.difference("test_accuracy"), stats.ttest_rel(mine, other)
    interval = known.confidence_interval(0.95)
    np.testing.assert_allclose([found.low, found.high], [interval.low, interval.high])
    np.testing.assert_allclose([found.mean, found.std], [np.mean(mine - other), np.std(mine - other, ddof=1)])
    summary = runs.tables()[1]
    assert [row[0] for row in summary.rows] == ["distilled", "without a teacher", "difference", "its 95 % interval"]
    assert f"{100 * found.mean:+.2f}".replace("-", "−") in summary.rows[2][1]
    assert [cell[0] for cell in summary.rows[2][1:]] == ["−" if found.mean < 0 else "+"] * 3
    assert not any("e+" in cell or "e-" in cell for row in summary.rows for cell in row)
    assert runs.to_dict()["difference"]["test_accuracy"]["mean"] == found.mean
    one = SeedRuns("some", runs.runs[:1])
    alone = str(one.tables()[1])
    assert "interval" not in alone and "±" not in alone and "one seed" in alone
    assert one.to_dict()["student"]["spikes"]["low"] is None
    assert spread_of([2.0]).high == np.inf


def test_seeds_are_read_and_refused() -> None:
    assert seeds_of("0-4") == (0, 1, 2, 3, 4) and seeds_of("7, 0-1") == (7, 0, 1) and seeds_of([3, 5]) == (3, 5)
    for wrong in ("", "a", "1-", "0,0", "0-2,1", "3-1", "-1", "0-99999", "99999999999", "4294967296", [-1], []):
        with pytest.raises(OptionError, match="each once"):
            seeds_of(wrong)  # type: ignore[arg-type]


def test_what_does_not_go_with_seeds(data: DataSet, given: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "s.safetensors"

    def refused(says: str, **rest: Any) -> None:
        with pytest.raises(OptionError, match=says):
            kdsnn.distill(rest.pop("model", "cnn2"), data, **{"seeds": "0-1", "out": out, **given, **rest})

    refused("give out", out=None)
    refused("one of the two", seed=1)
    refused("one at least", processes=0)
    refused("nothing to go on from", resume=True)
    refused("they are for seeds", seeds=None, processes=2)
    refused("one set of initial weights", model=torch.nn.Linear(1, 1))
    refused("cannot be pickled", processes=2, augmentation=lambda images: images)
    assert not list(tmp_path.iterdir())
