"""A student of events through every verb, on the command line: the data is named, and nothing else says that it is over time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import kdsnn
from kdsnn import checkpoint, models
from kdsnn.checkpoint import SPIKES, CheckpointInfo
from profilers.counting.thinning import Thinned
from tests.integration.test_cli import cli, error_line
from tests.networks import randomize

T, SHAPE = 5, (2, 10, 10)
CHANNELS = 3


@pytest.fixture(scope="module")
def watching(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny student of digits+events5 with random weights."""
    options = {"channels": (CHANNELS, 4), "hidden": 8}
    module = models.build("cnn2", spiking=True, input_shape=SHAPE, classes=10, **options)
    randomize(module, 0)
    path = tmp_path_factory.mktemp("events") / "watching.safetensors"
    info = CheckpointInfo(
        "cnn2", True, SHAPE, 10, f"digits+events{T}", options, "rate", "if", T, SPIKES, {"test_accuracy": 0.1}
    )
    checkpoint.save(path, module.float(), info)
    return path


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some of digits+events5 as arrays, which load in no time."""
    data = kdsnn.load_data(f"digits+events{T}")
    path = tmp_path_factory.mktemp("events") / "events.npz"
    np.savez(
        path, x_train=data.x_train[:80], y_train=data.y_train[:80], x_test=data.x_test[:40], y_test=data.y_test[:40]
    )
    return path


@pytest.mark.usefixtures("lava_environment")
def test_a_student_of_events_is_the_same_on_lava(watching: Path, events: Path) -> None:
    done = cli("run", watching, "--data", events, "--on", "torch,onnx,emulator,lava", "--samples", 6, "--json")
    found = json.loads(done.stdout)
    assert [r["backend"] for r in found["runs"]] == ["spikingjelly", "torch", "onnx", "emulator", "lava"]
    by_pair = {(c["backend"], c["reference"]): c for c in found["comparisons"]}
    for pair in (("torch", "spikingjelly"), ("onnx", "torch"), ("lava", "emulator")):
        assert by_pair[pair]["ok"]
    lava = by_pair["lava", "emulator"]
    assert lava["mismatches"] == lava["hidden"] == 0 and lava["hidden_compared"] > 10_000


def test_files_of_every_format_run_on_the_same_data(watching: Path, events: Path, tmp_path: Path) -> None:
    cli("export", watching, "--to", "onnx,netx,nir", "--form", "sequence,loop", "--quantized", "--calibrate", events,
        "--calibration-samples", 40, "--out", tmp_path)  # fmt: skip
    calibrated = ["--calibrate", events, "--calibration-samples", 40]
    saved = tmp_path / "saved.npz"
    cli("run", watching, "--data", events, "--samples", 12, "--save", saved, *calibrated)
    expected = np.load(saved)
    for name, back_end in (
        ("watching.net", "emulator"),
        ("watching.int8.onnx", "onnx"),
        ("watching.int8.loop.onnx", "onnx"),
    ):
        cli("run", tmp_path / name, "--data", events, "--samples", 12, "--save", saved)
        found = np.load(saved)
        assert np.array_equal(found["input"], expected["input"]) and found["input"].shape == (12, T, *SHAPE)
        assert np.array_equal(found[back_end], expected["emulator"]) and found[back_end].any()
    cli("run", tmp_path / "watching.nir", "--data", events, "--samples", 12)
    for name in ("watching.onnx", "watching.net", "watching.nir"):
        assert "reads" in error_line("run", tmp_path / name, "--data", "digits")
    assert "reads 5 frames, and the samples of digits+events have 8" in error_line(
        "run", watching, "--data", "digits+events"
    )


def test_the_first_layer_counts_synops_of_events(watching: Path, events: Path, tmp_path: Path) -> None:
    cli("profile", watching, "--data", events, "--samples", 40, "--out", tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    (student,) = report["students"]
    stem = student["float_run"]["layers"][0]
    with np.load(events) as arrays:
        x = arrays["x_test"].astype(int)
    rows = np.array([2, *[3] * 8, 2])  # outputs of a 3×3 convolution with padding that a row or column reaches
    by_hand = (x * np.outer(rows, rows) * CHANNELS).sum((1, 2, 3, 4)).mean()
    assert stem["name"] == "stem.conv" and stem["counts"]["values"]["synops"]["nominal"] == pytest.approx(by_hand)
    assert stem["counts"]["values"]["macs"]["nominal"] == 0 and student["float_run"]["macs_repeated"] == 0
    assert len(student["float_run"]["accuracy_by_step"]) == T
    assert student["float_run"]["events_in_by_step"] == pytest.approx(x.sum((2, 3, 4)).mean(0))
    # on the chip it is placed with the others: no layer stays on the host
    found = json.loads(cli("check", watching, "--target", "loihi1", "--json").stdout)
    assert found["fits"] and found["placement"]["host"] == []


def test_fewer_events_are_counted_as_if_they_were_the_data(watching: Path, events: Path, tmp_path: Path) -> None:
    """Every point of the sweep against a report about arrays that hold these events and no others."""
    network = kdsnn.lower(watching)
    report = kdsnn.profile(network, str(events), samples=40)
    assert report.density is not None and report.density.placed_on == "Loihi 1"
    with np.load(events) as arrays:
        x, y = arrays["x_test"], arrays["y_test"]
    for point in report.density.points:
        fewer = Thinned(x, np.arange(len(x)), point.kept)[:].astype(np.uint8)
        alone = kdsnn.profile(network, (fewer, y), density=False)
        assert alone.density is None
        run, placed = alone.students[0].deployed, alone.students[0].on("loihi1")
        assert placed is not None and point.accuracy == run.accuracy
        counts = placed.counts.values
        assert point.spikes.mean == pytest.approx(counts["spikes"].nominal) and point.spikes.mean > run.spikes.mean
        assert point.synops.mean == pytest.approx(counts["synops"].nominal) and point.synops.mean > run.synops.mean
        assert point.events_in == pytest.approx(sum(run.events_in_by_step)) == pytest.approx(fewer.sum() / len(x))
        estimate = next(m for m in alone.energies if m.name == report.density.model).students[0].estimate
        assert estimate is not None and point.energy is not None
        assert point.energy.nominal == pytest.approx(estimate.nominal) and report.density.left_out == estimate.left_out
    assert len({point.synops.mean for point in report.density.points}) == len(report.density.points) == 5
    cli("profile", watching, "--data", events, "--samples", 5, "--no-density", "--out", tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["density"] is None


def test_images_have_no_events_to_thin(tmp_path: Path) -> None:
    path = tmp_path / "still.safetensors"
    for spiking, what in ((True, "still reads images, which are no events"), (False, "an ANN reads no events")):
        module = models.build("cnn2", spiking=spiking, input_shape=(1, 8, 8), classes=10, channels=(2, 2), hidden=4)
        extra = ("rate", "if", 4) if spiking else (None, None, None)
        options = {"channels": (2, 2), "hidden": 4}
        checkpoint.save(
            path, module, CheckpointInfo("cnn2", spiking, (1, 8, 8), 10, "digits", options, *extra, metrics={})
        )
        arguments = ("profile", path, "--samples", 3, "--out", tmp_path / "out")
        assert f"--density: {what}; leave it out" in error_line(*arguments, "--density")
    # nobody asked: nothing is said
    kdsnn.profile(path, samples=3)


def test_calibration_needs_events_too(watching: Path, events: Path) -> None:
    network = kdsnn.lower(watching, calibrate=str(events), calibration_samples=40)
    assert network.calibrated and network.over_time
    found = kdsnn.run(network, str(events), on=["torch", "emulator"], samples=40)
    assert found.ok
    message = error_line("run", watching, "--data", events, "--calibrate", "digits")
    assert f"reads frames over time, and digits holds images; digits+events{T} are events of them" in message
    message = error_line("run", watching, "--data", events, "--encoder", "host")
    assert "input is spikes already" in message
