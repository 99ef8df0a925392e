"""The precision of a run: what "auto" stands for, and that a run keeps the one it began with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kdsnn
from kdsnn import checkpoint
from kdsnn.data import DataSet
from kdsnn.deploy.precision import with_precision
from kdsnn.errors import Notice
from kdsnn.models import build
from kdsnn.train import RunFiles, TrainConfig, distill, precision
from kdsnn.train.precision import faster_in_bf16, settled

CPU = torch.device("cpu")
CONFIG = TrainConfig(epochs=2, batch_size=16, T=2)


@pytest.fixture
def data() -> DataSet:
    x = np.random.default_rng(0).integers(0, 256, (32, 1, 8, 8)).astype(np.uint8)
    return DataSet("random", x, np.arange(32) % 4, x, np.arange(32) % 4, 4)


def has_units(monkeypatch: pytest.MonkeyPatch, found: bool) -> None:
    monkeypatch.setattr(precision, "faster_in_bf16", lambda device: found)


def flags() -> set[str]:
    """What the kernel says of the processor, where it is Linux on x86."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return set(next((line for line in lines if line.startswith("flags")), "").split())


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="compares with what Linux says")
def test_bf16_is_faster_where_the_processor_has_units_for_it() -> None:
    assert faster_in_bf16(CPU) == bool({"amx_tile", "avx512_bf16"} & flags())
    assert not faster_in_bf16(torch.device("meta"))


def test_auto_is_settled_and_told(monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder) -> None:
    has_units(monkeypatch, False)
    assert settled(CONFIG, CPU).precision == "fp32" and not recwarn.list
    has_units(monkeypatch, True)
    with pytest.warns(Notice, match="precision=fp32"):
        assert settled(CONFIG, CPU).precision == "bf16"
    for explicit in ("fp32", "bf16"):
        assert settled(replace(CONFIG, precision=explicit), CPU).precision == explicit  # type: ignore[arg-type]


def small() -> Any:
    torch.manual_seed(0)
    return build("cnn2", spiking=True, input_shape=(1, 8, 8), classes=4, channels=(4, 4), hidden=8)


def test_a_run_goes_on_as_it_began(data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class StoppedError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise StoppedError

    files = RunFiles(state=tmp_path / "s.training", every_seconds=0)
    config = replace(CONFIG, precision="bf16")
    whole = distill(small(), data, config, method="none").module
    with pytest.raises(StoppedError):
        distill(small(), data, config, method="none", files=files, on_step=stop)
    has_units(monkeypatch, False)  # as on another machine
    resumed = distill(small(), data, CONFIG, method="none", files=replace(files, resume=True)).module
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_checkpoints_say_which_it_was_and_a_twin_has_the_same(
    data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_units(monkeypatch, True)
    out, options = tmp_path / "s.safetensors", {"channels": (4, 4), "hidden": 8}
    with pytest.warns(Notice, match="bf16"):
        kdsnn.distill("cnn2", data, method="none", out=out, epochs=1, batch_size=16, options=options)
    assert checkpoint.read_info(out).training["precision"] == "bf16"
    has_units(monkeypatch, False)
    assert with_precision(CONFIG, out, resume=True).precision == "bf16"  # its twin was cut off
    assert with_precision(CONFIG, out, resume=False).precision == "fp32"
    assert with_precision(CONFIG, tmp_path / "none.safetensors", resume=True).precision == "fp32"
