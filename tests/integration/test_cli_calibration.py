"""`--calibrate` on the command line, on a tiny student with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from exporters import netx
from exporters.from_torch import from_torch
from exporters.graph import SpikingGraph
from exporters.passes.exact import make_exact
from exporters.passes.quantize import quantize
from hardware.emulator import Recorder, run
from hardware.emulator.bias_correction import correct_biases
from hardware.emulator.calibration import calibrate
from kdsnn import checkpoint, models
from kdsnn.checkpoint import CheckpointInfo
from kdsnn.data import load
from kdsnn.deploy.images import chosen
from tests.integration.test_cli import cli, error_line


def training_images(n: int) -> np.ndarray:
    x = load("digits").x_train
    return (x[chosen(len(x), n)] / np.float32(255)).astype(np.float32)


def rates(graph: SpikingGraph, x: np.ndarray) -> dict[str, float]:
    """Spikes per neuron and step of every layer."""
    recorder = Recorder(graph)
    run(graph, graph.encode(x), observe=recorder)
    return {name: float(recorder.spikes[name].mean()) for name in graph.neurons}


def test_export_calibrates_on_training_images(student: Path, tmp_path: Path) -> None:
    arguments = ("export", student, "--to", "netx", "--bits", 4, "--calibrate", "digits", "--calibration-samples", 60)
    rows = json.loads(cli(*arguments, "--out", tmp_path, "--json").stdout)["quantization"]

    module, _ = checkpoint.load(student)
    graph = from_torch(module, (1, 8, 8), 4)
    exact, x = make_exact(graph), training_images(60)
    before = calibrate(exact, exact.encode(x))
    integer, scales = quantize(graph, bits=4, moments=before.inputs)
    integer = correct_biases(integer, before.currents, integer.encode(x))  # at few bits
    assert [(r["name"], r["scale"], r["clipped"]) for r in rows] == [(s.name, s.scale, s.clipped) for s in scales]
    for g, key in ((exact, "rate_float"), (integer, "rate_quantized")):
        found = rates(g, x)
        assert [r[key] for r in rows] == pytest.approx([found[r["neurons"]] for r in rows])
    assert any(r["limited_by"] == "calibration" for r in rows) and any(r["clipped"] > 0 for r in rows)
    assert all(0 < r["register_used"] < 1 for r in rows)

    # the file holds that network, and says how it was made
    written = netx.read(tmp_path / "tiny.int4.net")
    for name, synapse in integer.synapses.items():
        if isinstance(written.nodes.get(name), type(synapse)) and synapse.bias is not None:
            np.testing.assert_array_equal(written.synapses[name].bias, synapse.bias)
    sidecar = json.loads((tmp_path / "tiny.int4.net.json").read_text())
    expected = {"bits": 4, "input_bits": 8, "calibration": {"data": "digits", "part": "train", "samples": 60}}
    assert sidecar["metadata"]["quantization"] == expected

    text = cli(*arguments, "--out", tmp_path).stdout
    assert "clipped" in text and "of register" in text and "→" in text


def test_without_calibration_nothing_is_measured(student: Path, tmp_path: Path) -> None:
    done = json.loads(cli("export", student, "--to", "netx", "--out", tmp_path, "--json").stdout)
    assert all(r["clipped"] == 0 and "peak" not in r for r in done["quantization"])
    sidecar = json.loads((tmp_path / "tiny.net.json").read_text())
    assert sidecar["metadata"]["quantization"] == {"bits": 8, "input_bits": 8, "calibration": None}


def test_run_and_profile_calibrate_too(student: Path, tmp_path: Path) -> None:
    options = ("--bits", 3, "--input-bits", 4, "--calibrate", "digits", "--calibration-samples", 40)
    cli("run", student, *options, "--samples", 12, "--save", tmp_path / "a.npz")
    cli("export", student, *options, "--to", "netx", "--out", tmp_path)
    cli("run", tmp_path / "tiny.int3.net", "--samples", 12, "--save", tmp_path / "b.npz")
    with np.load(tmp_path / "a.npz") as a, np.load(tmp_path / "b.npz") as b:
        np.testing.assert_array_equal(a["input"], b["input"])
        np.testing.assert_array_equal(a["emulator"], b["emulator"])
        assert a["input"].max() == 15
    cli("profile", student, *options, "--samples", 5, "--out", tmp_path / "report")
    assert (tmp_path / "report" / "report.html").is_file()


def test_mistakes_are_one_line(student: Path, tmp_path: Path) -> None:
    x, y = np.zeros((20, 3, 5, 5), np.uint8), np.arange(20) % 2
    np.savez(tmp_path / "other.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    cli("export", student, "--to", "netx", "--out", tmp_path)
    ann = tmp_path / "ann.safetensors"
    module = models.build("cnn2", spiking=False, input_shape=(1, 8, 8), classes=10, channels=(3, 4), hidden=8)
    checkpoint.save(
        ann, module, CheckpointInfo("cnn2", False, (1, 8, 8), 10, "digits", {"channels": (3, 4), "hidden": 8})
    )
    torch.manual_seed(0)
    for arguments, message in [
        (("run", student, "--calibrate", f"npz:{tmp_path / 'other.npz'}"), "tiny takes input of shape (1, 8, 8)"),
        (("run", student, "--calibrate", "digitz"), "Unknown data set 'digitz': did you mean digits?"),
        (("run", tmp_path / "tiny.net", "--calibrate", "digits"), "is quantized already"),
        (("export", student, "--to", "nir", "--out", tmp_path, "--calibrate", "digits"), "no file holds the quantized network"),
        (("export", ann, "--out", tmp_path, "--calibrate", "digits"), "is an ANN, which it does not change"),
    ]:  # fmt: skip
        assert message in error_line(*arguments)


def test_few_bits_without_calibration_are_told(student: Path, tmp_path: Path) -> None:
    """With how far its worst layer is off; calibrated or in 8 bits there is nothing to tell."""
    told = cli("summary", student, "--bits", 4)
    graph = from_torch(checkpoint.load(student)[0], (1, 8, 8), 4)
    worst = max(quantize(graph, bits=4)[1], key=lambda scale: scale.rms_error)
    assert f"rounded to 4 bits, weights are off by up to {100 * worst.rms_error:.0f} % ({worst.name}," in told.stderr
    for silent in (["--bits", 8], ["--bits", 4, "--calibrate", "digits"]):
        assert "rounded to" not in cli("export", student, "--out", tmp_path, *silent).stderr
