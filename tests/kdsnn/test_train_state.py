"""A killed run goes on as if nothing had happened."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from kdsnn.data import load
from kdsnn.errors import KdsnnError
from kdsnn.models import build
from kdsnn.train import DivergedError, RunFiles, TrainConfig, distill

CONFIG = TrainConfig(
    epochs=3, batch_size=128, lr=0.05, T=2, warmup_epochs=1, shift=1, ema=0.9, clip_norm=1.0, optimizer="adamw",
    precision="fp32",
)  # fmt: skip
OPTIONS = {"input_shape": (1, 8, 8), "classes": 10, "channels": (2, 4), "hidden": 8}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def networks():
    torch.manual_seed(0)
    teacher = build("cnn2", spiking=False, **OPTIONS)
    return build("cnn2", spiking=True, **OPTIONS), teacher


def train(digits, config=CONFIG, method="feature", **rest):
    student, teacher = networks()
    return distill(student, digits, config, method=method, teacher=teacher, **rest)


def bits(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_same(a, b):
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


SCRIPT = """
import pathlib, sys, time, torch
sys.path.insert(0, sys.argv[1])
from safetensors.torch import save_file
from tests_state import CONFIG, networks
from kdsnn.data import load
from kdsnn.train import RunFiles, distill

folder, slow, resume = pathlib.Path(sys.argv[2]), sys.argv[3] == "slow", sys.argv[4] == "resume"
torch.set_num_threads(1)

def on_step(done, total):
    if slow and done >= 15:  # in the middle of the second epoch
        (folder / "reached").touch()
        time.sleep(60)

files = RunFiles(folder / "run.state.safetensors", every_seconds=0, resume=resume, history=folder / "history.csv")
student, teacher = networks()
trained = distill(student, load("digits"), CONFIG, method="feature", teacher=teacher, files=files, on_step=on_step)
save_file(trained.module.state_dict(), folder / "final.safetensors")
"""


def test_resumed_after_sigkill_ends_bit_identical(digits, tmp_path):
    root = Path(__file__).parents[2]
    (tmp_path / "tests_state.py").write_text(Path(__file__).read_text())
    (tmp_path / "job.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}

    def start(speed, resume):
        command = [sys.executable, str(tmp_path / "job.py"), str(tmp_path), str(tmp_path), speed, resume]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    killed = start("slow", "fresh")
    deadline = time.monotonic() + 90
    while not (tmp_path / "reached").exists() and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL, killed.stderr.read()
    assert not (tmp_path / "final.safetensors").exists()

    resumed = start("fast", "resume")
    _, errors = resumed.communicate(timeout=90)
    assert resumed.returncode == 0, errors
    uninterrupted = train(digits)
    assert_same(load_file(tmp_path / "final.safetensors"), bits(uninterrupted.module))
    lines = (tmp_path / "history.csv").read_text().splitlines()
    assert [line.split(",")[:3] for line in lines[1:]] == [
        [str(r.epoch), str(r.loss), str(r.accuracy)] for r in uninterrupted.history
    ]
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


class StoppedError(Exception):
    pass


def stopped_after(step, digits, path, **changes):
    def on_step(done, total):
        if done == step:
            raise StoppedError

    files = RunFiles(path, every_seconds=0)
    with pytest.raises(StoppedError):
        train(digits, replace(CONFIG, **changes), files=files, on_step=on_step)


@pytest.mark.parametrize("step", [1, 2, 11, 12, 20])  # 11 steps in an epoch; before the first state, and on its edges
@pytest.mark.parametrize("changes", [{}, {"optimizer": "sgd", "ema": 0.0}])
def test_resumed_at_any_step(digits, tmp_path, step, changes):
    path = tmp_path / "run.state.safetensors"
    stopped_after(step, digits, path, **changes)
    config = replace(CONFIG, **changes)
    resumed = train(digits, config, files=RunFiles(path, resume=True))
    whole = train(digits, config)
    assert_same(bits(resumed.module), bits(whole.module))
    assert [r.loss for r in resumed.history] == [r.loss for r in whole.history]


def test_a_finished_run_is_not_run_again(digits, tmp_path):
    path = tmp_path / "run.state.safetensors"
    first = train(digits, files=RunFiles(path))
    steps = []
    again = train(digits, files=RunFiles(path, resume=True), on_step=lambda *a: steps.append(a))
    assert not steps and again.history == first.history
    assert_same(bits(first.module), bits(again.module))


def test_another_configuration_is_refused_in_one_line(digits, tmp_path):
    path = tmp_path / "run.state.safetensors"
    stopped_after(3, digits, path)
    files = RunFiles(path, resume=True)
    with pytest.raises(KdsnnError, match=r"lr was 0\.05, is 0\.1") as error:
        train(digits, replace(CONFIG, lr=0.1), files=files)
    assert "\n" not in str(error.value)
    with pytest.raises(KdsnnError, match="method was feature, is none"):
        train(digits, method="none", files=files)
    with pytest.raises(KdsnnError, match="augment was None, is crop"):
        train(digits, files=files, about={"augment": "crop"})
    wider = build("cnn2", spiking=True, **{**OPTIONS, "hidden": 9})
    with pytest.raises(KdsnnError, match="another network"):
        distill(wider, digits, CONFIG, method="feature", teacher=networks()[1], files=files)


@pytest.mark.parametrize("damage", ["cut", "flip", "foreign"])
def test_a_damaged_state_is_refused(digits, tmp_path, damage):
    path = tmp_path / "run.state.safetensors"
    stopped_after(3, digits, path)
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-3] ^= 1
    path.write_bytes(content[:-5] if damage == "cut" else content)
    if damage == "foreign":
        save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(KdsnnError, match="start anew without resuming"):
        train(digits, files=RunFiles(path, resume=True))


def test_without_resume_an_old_state_is_replaced(digits, tmp_path):
    path = tmp_path / "run.state.safetensors"
    stopped_after(3, digits, path)
    fresh = train(digits, replace(CONFIG, seed=1), files=RunFiles(path))
    assert_same(
        bits(train(digits, replace(CONFIG, seed=1), files=RunFiles(path, resume=True)).module), bits(fresh.module)
    )


def test_a_run_is_drawn_beside_others(digits, tmp_path):
    student, teacher = networks()
    first = RunFiles(history=tmp_path / "s.csv", tensorboard=tmp_path / "board", plot=tmp_path / "s.svg")
    second = RunFiles(plot=tmp_path / "s.svg", label="without a teacher", others={"student": tmp_path / "s.csv"})
    for files in (first, second):
        distill(student, digits, replace(CONFIG, epochs=1), method="temporal", teacher=teacher, files=files)
    assert {p.name for p in tmp_path.iterdir()} == {"s.csv", "board", "s.svg"}
    assert all(label in (tmp_path / "s.svg").read_text() for label in ("student", "without a teacher"))


def test_divergence_leaves_a_good_state(digits, tmp_path):
    path = tmp_path / "run.state.safetensors"
    student, teacher = networks()

    def poison(done, total):
        if done == 15:
            with torch.no_grad():
                student.stem.conv.weight.fill_(np.nan)

    with pytest.raises(DivergedError, match="epoch 2") as error:
        distill(
            student,
            digits,
            CONFIG,
            method="response",
            teacher=teacher,
            files=RunFiles(path, every_seconds=0),
            on_step=poison,
        )
    assert len(error.value.trained.history) == 1 and error.value.trained.module is student
    assert all(torch.isfinite(t).all() for t in student.state_dict().values())
    assert all(torch.isfinite(t).all() for t in load_file(path).values())
