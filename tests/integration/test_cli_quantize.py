"""`distill --quantize` as a user meets it, and what the other verbs make of its checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from exporters.from_torch import from_torch
from exporters.passes.quantize import quantize
from kdsnn import checkpoint
from tests.integration.test_cli import cli, error_line

WIDTHS = ["--option", "channels=6,6", "--option", "hidden=16"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher, a student, and the student trained on to 3 bits."""
    path = tmp_path_factory.mktemp("quantize")
    cli("pretrain", "cnn2", *WIDTHS, "--epochs", 3, "--out", path / "ann.safetensors")
    teacher = ["--teacher", path / "ann.safetensors"]
    cli("distill", "cnn2", *WIDTHS, *teacher, "--epochs", 5, "--out", path / "snn.safetensors")
    start = ["--quantize", 3, "--start", path / "snn.safetensors"]
    cli("distill", "cnn2", *start, *teacher, "--epochs", 1, "--out", path / "q3.safetensors")
    return path


def test_the_checkpoint_says_what_it_is_and_where_it_came_from(folder: Path) -> None:
    start, info = (checkpoint.read_info(folder / name) for name in ("snn.safetensors", "q3.safetensors"))
    assert start.quantized is None and info.quantized is not None and info.quantized["bits"] == 3
    same = ("model", "options", "T", "neuron", "readout", "input_shape", "classes")
    assert all(getattr(start, name) == getattr(info, name) for name in same)
    assert info.training["lr"] == pytest.approx(start.training["lr"] / 10) and info.training["warmup_epochs"] == 0
    weights = checkpoint.load(folder / "q3.safetensors")[0].state_dict()
    assert not any("bn" in name or "running" in name for name in weights)
    assert all(len(t.unique()) <= 7 for name, t in weights.items() if name.endswith("weight"))  # -3…3


def test_run_uses_its_bits_and_finds_the_spikes_of_training(folder: Path, tmp_path: Path) -> None:
    saved = tmp_path / "spikes.npz"
    done = cli("run", folder / "q3.safetensors", "--on", "torch,emulator", "--samples", 60, "--save", saved, "--json")
    found = json.loads(done.stdout)
    assert [(c["mismatches"], c["hidden"]) for c in found["comparisons"]] == [(0, 0), (0, 0)]
    module, info = checkpoint.load(folder / "q3.safetensors")
    integer, _ = quantize(from_torch(module, info.input_shape, 4), bits=3)
    assert max(int(np.abs(s.weight).max()) for s in integer.synapses.values()) == 3
    spikes = np.load(saved)["emulator"]
    assert spikes.any() and not spikes.all()


def test_export_uses_its_bits_unless_told_otherwise(folder: Path, tmp_path: Path) -> None:
    done = cli("export", folder / "q3.safetensors", "--out", tmp_path, "--to", "netx")
    assert "quantized to 3 bits" in done.stdout
    rows = json.loads(cli("export", folder / "q3.safetensors", "--out", tmp_path, "--to", "netx", "--json").stdout)
    assert all(row["largest"] == 3 and row["rms_error"] < 1e-6 for row in rows["quantization"])
    other = cli("export", folder / "q3.safetensors", "--out", tmp_path, "--to", "netx", "--bits", 5)
    assert "quantized to 5 bits" in other.stdout and "trained for 3 bits, not 5" in other.stderr


def test_it_can_be_trained_on_again_and_beside_a_twin(folder: Path, tmp_path: Path) -> None:
    rows = json.loads(
        cli(
            "distill", "cnn2", "--quantize", 2, "--start", folder / "q3.safetensors", "--teacher",
            folder / "ann.safetensors", "--epochs", 1, "--twin", "--out", tmp_path / "q2.safetensors", "--json",
        ).stdout
    )  # fmt: skip
    assert [Path(row["checkpoint"]).name for row in rows] == ["q2.safetensors", "q2.twin.safetensors"]
    for row in rows:
        assert checkpoint.read_info(row["checkpoint"]).quantized["bits"] == 2  # type: ignore[index]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["cnn2", "--quantize", 4], "--quantize BITS and --start STUDENT go together"),
        (["cnn2", "--start", "snn"], "--quantize BITS and --start STUDENT go together"),
        (["cnn2", "--quantize", 1, "--start", "snn"], "--quantize 1: weights have 2 to 8 bits"),
        (["cnn2", "--quantize", 9, "--start", "snn"], "--quantize 9: weights have 2 to 8 bits"),
        (["cnn2", "--quantize", 4, "--start", "ann"], "this is an ANN"),
        (["cnn2", "--quantize", 4, "--start", "none"], "no such file"),
        (["vgg11", "--quantize", 4, "--start", "snn"], "this is a cnn2, not a vgg11"),
        (["cnn2", "--quantize", 4, "--start", "snn", "--timesteps", 3], "leave --option and --timesteps out"),
        (["cnn2", "--quantize", 4, "--start", "snn", *WIDTHS], "leave --option and --timesteps out"),
        (["cnn2", "--quantize", 4, "--start", "snn", "--set", "compile=true"], "leave compile out"),
    ],
)
def test_what_does_not_go_together_is_refused(folder: Path, tmp_path: Path, arguments: list[object], says: str) -> None:
    named = [folder / f"{a}.safetensors" if a in ("snn", "ann", "none") else a for a in arguments]
    out = tmp_path / "out.safetensors"
    assert says in error_line("distill", *named, "--method", "none", "--out", out)
    assert not out.exists()


def test_images_of_another_size_and_calibration_are_refused(folder: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (20, 12, 12), dtype=np.uint8), np.arange(20) % 10
    np.savez(tmp_path / "big.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    start = ["--quantize", 4, "--start", folder / "snn.safetensors", "--method", "none"]
    line = error_line(
        "distill", "cnn2", *start, "--data", f"npz:{tmp_path}/big.npz", "--out", tmp_path / "o.safetensors"
    )
    assert "input of shape (1, 8, 8)" in line
    assert "trained on its grid of 3 bits" in error_line("run", folder / "q3.safetensors", "--calibrate", "digits")
