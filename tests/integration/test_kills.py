"""kill -9 at random moments of every command that writes: each file is the whole old one or a whole new one."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import onnx
import pytest
import torch

from exporters import netx
from kdsnn import checkpoint, models
from kdsnn.checkpoint import CheckpointInfo
from kdsnn.data import load
from tests.integration.copies import forked

KILLS, FEW = 10, 3
"""Of the commands that were there first, and of those that write with the same means."""

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, which spares importing torch at each kill")


def started(arguments: list[str], log: Path) -> int:
    """Start a command, so that it is at work at once; its process number."""
    with log.open("wb") as file:
        return forked(arguments, out=file.fileno(), err=file.fileno())


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def sound_netx(path: Path) -> None:
    assert netx.validate(path) == []


def sound_nir(path: Path) -> None:
    with h5py.File(path) as file:
        assert "node" in file


def sound_npz(path: Path) -> None:
    with np.load(path) as file:
        assert all(file[name].size for name in file)


SOUND: dict[str, Callable[[Path], object]] = {
    ".safetensors": checkpoint.load,
    ".onnx": lambda path: onnx.checker.check_model(onnx.load(path)),
    ".net": sound_netx,
    ".nir": sound_nir,
    ".npz": sound_npz,
    ".json": lambda path: json.loads(path.read_text()),
    ".csv": lambda path: list(csv.reader(path.open())),
    ".html": lambda path: path.read_text().index("</html>"),
    ".svg": lambda path: path.read_text().index("</svg>"),
}


def check(folder: Path) -> None:
    for path in folder.rglob("*"):
        # what begins with a dot is the temporary name of a file that was never finished
        if path.is_file() and not path.name.startswith("."):
            known = SOUND.get(path.suffix)
            if known is not None:
                known(path)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    load("digits")  # here once, not in every copy of this process
    torch.manual_seed(0)
    small = {"channels": (4, 4), "hidden": 16}
    module = models.build("cnn2", spiking=True, input_shape=(1, 8, 8), classes=10, **small)
    info = CheckpointInfo("cnn2", True, (1, 8, 8), 10, "digits", small, "rate", "if", 4)
    path = tmp_path_factory.mktemp("kills") / "student.safetensors"
    checkpoint.save(path, module.eval(), info)
    return path


COMMANDS = {
    "export": "export STUDENT --to onnx --to netx --to nir --out OUT",
    "run": "run STUDENT --on emulator --samples 40 --save OUT/spikes.npz",
    "profile": "profile STUDENT --samples 20 --out OUT",
    "pretrain": "pretrain cnn2 --option channels=4,4 --option hidden=16 --epochs 2 --overwrite --out OUT/teacher.safetensors",
    "distill": "distill cnn2 --method none --option channels=4,4 --option hidden=16 --epochs 1 --overwrite --out OUT/new.safetensors",
}
SIMILAR = {
    "forms": "export STUDENT --to onnx --form sequence --form loop --form step --quantized --no-verify --out OUT",
    "sweep": "profile STUDENT --bits 4,8 --samples 4 --out OUT",
    "seeds": "distill cnn2 --method none --option channels=2,2 --option hidden=4 --timesteps 1 --epochs 1 --batch-size 512 --seeds 0-1 --processes 1 --overwrite --out OUT/new.safetensors",
    "few levels": "pretrain cnn2 --option channels=2,2 --option hidden=4 --epochs 1 --batch-size 512 --quantize-activations 3 --overwrite --out OUT/ann.safetensors",
}


@pytest.mark.parametrize("verb", [*COMMANDS, *SIMILAR])
def test_killed_at_random_moments(verb: str, student: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    out.mkdir()
    arguments = {**COMMANDS, **SIMILAR}[verb].replace("STUDENT", str(student)).replace("OUT", str(out)).split()
    begun = time.monotonic()
    assert ended(started(arguments, log)) == 0, log.read_text()
    whole = time.monotonic() - begun
    before = {path.name for path in out.iterdir()}
    assert before and not any(name.startswith(".") for name in before)
    check(out)
    moments = random.Random(verb)
    for _ in range(KILLS if verb in COMMANDS else FEW):
        pid = started(arguments, log)
        time.sleep(moments.random() * whole)
        os.killpg(pid, signal.SIGKILL)
        assert ended(pid) in (0, -signal.SIGKILL), log.read_text()
        check(out)
        assert before <= {path.name for path in out.iterdir()}  # what was there is still there, old or new
    assert ended(started(arguments, log)) == 0, log.read_text()
    check(out)
