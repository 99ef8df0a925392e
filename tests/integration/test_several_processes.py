"""Verbs in two processes of a launcher: each works on its share, the first writes and speaks, the numbers are those of one."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdsnn import checkpoint, models
from kdsnn.checkpoint import CheckpointInfo
from kdsnn.data import load
from tests.integration.copies import forked
from tests.networks import randomize

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="needs fork, which spares importing torch in each process"
)


@pytest.fixture(scope="module")
def ann(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = {"channels": (3, 4), "hidden": 8}
    module = models.build("cnn2", spiking=False, input_shape=(1, 8, 8), classes=10, **options)
    randomize(module, 1)
    path = tmp_path_factory.mktemp("ann") / "ann.safetensors"
    checkpoint.save(path, module.float(), CheckpointInfo("cnn2", False, (1, 8, 8), 10, "digits", options))
    return path


def started(arguments: Sequence[object], folder: Path, environment: dict[str, str]) -> int:
    folder.mkdir(parents=True)

    def inside() -> None:
        os.environ.update(environment)
        os.chdir(folder)

    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        return forked(arguments, out=out.fileno(), err=err.fileno(), before=inside)


def together(arguments: Sequence[object], folder: Path, count: int) -> list[Path]:
    """Run one command in so many processes that know of each other; their folders, with what they printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launcher = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    folders = [folder / f"{rank}" for rank in range(count)]
    pids = [started(arguments, one, {"RANK": str(rank), **launcher}) for rank, one in enumerate(folders)]
    for pid, one in zip(pids, folders, strict=True):
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert code == 0, (one / "err").read_text()
    return folders


def numbers(folder: Path) -> Any:
    """What a command printed as JSON, without how long it took, and how much of its own share the first process has proven."""
    said = json.loads((folder / "out").read_text())
    for one in said.get("runs", []):
        assert one.pop("seconds") > 0
    for one in said.get("comparisons", []):
        assert one["ok"]
        one.pop("proof")
    return said


@pytest.mark.parametrize(
    "verb", ["evaluate STUDENT", "run STUDENT --on torch,onnx,emulator --samples 7 --save spikes.npz"]
)
def test_both_find_what_one_finds(verb: str, student: Path, tmp_path: Path) -> None:
    load("digits")  # here once, not in every copy of this process
    arguments = [*verb.replace("STUDENT", str(student)).split(), "--json"]
    (one,), (first, second) = (together(arguments, tmp_path / f"of {count}", count) for count in (1, 2))
    assert numbers(first) == numbers(one)
    assert (second / "out").read_text() == "" and {p.name for p in second.iterdir()} == {"out", "err"}
    if (one / "spikes.npz").exists():
        with np.load(one / "spikes.npz") as expected, np.load(first / "spikes.npz") as found:
            assert expected.files == found.files
            assert all(np.array_equal(expected[name], found[name]) for name in expected.files)


def test_both_count_what_one_counts(student: Path, ann: Path, tmp_path: Path) -> None:
    load("digits")
    arguments = [
        "profile",
        student,
        "--teacher",
        ann,
        "--samples",
        9,
        "--target",
        "loihi1",
        "--format",
        "json",
        "--out",
        "report",
    ]
    (one,), (first, second) = (together(arguments, tmp_path / f"of {count}", count) for count in (1, 2))
    reports = [json.loads((folder / "report/report.json").read_text()) for folder in (first, one)]
    assert [report.pop("created") for report in reports] and reports[0] == reports[1]
    assert not list(second.rglob("report.*"))
