"""The picture of a run's curves: read back from the SVG, point by point."""

import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kdsnn.data import DataSet
from kdsnn.deploy import training
from kdsnn.train import TrainConfig
from kdsnn.train.curves import _epoch_ticks, _ticks, curves_svg, read_runs, write_curves
from kdsnn.train.history import EpochRecord, read_csv, write_csv

SVG = "{http://www.w3.org/2000/svg}"


def history(losses, accuracies):
    pairs = enumerate(zip(losses, accuracies, strict=True), start=1)
    return tuple(EpochRecord(n, loss, accuracy, 1.0, 0.1, (accuracy,)) for n, (loss, accuracy) in pairs)


def polylines(svg: str) -> dict[str, list[np.ndarray]]:
    """CSS class → the points of its polylines, loss first."""
    found: dict[str, list[np.ndarray]] = {}
    for line in ElementTree.fromstring(svg).iter(f"{SVG}polyline"):
        points = np.array([[float(v) for v in p.split(",")] for p in line.get("points").split()])
        found.setdefault(line.get("class"), []).append(points)
    return found


def scale(svg: str, anchor: str, left: bool) -> np.ndarray:
    """(slope, offset) from page to value, fitted to the labels of an axis, as a reader of the picture does."""
    texts = [t for t in ElementTree.fromstring(svg).iter(f"{SVG}text") if t.get("text-anchor") == anchor]
    texts = [t for t in texts if t.text != "epoch" and (float(t.get("x")) < 430) == left]
    coordinate = "y" if anchor == "end" else "x"
    return np.polyfit([float(t.get(coordinate)) for t in texts], [float(t.text) for t in texts], 1)


def test_the_curves_are_where_the_axes_say():
    runs = {
        "teacher": history([2.0, 0.5, 0.25], [0.5, 0.9, 0.95]),
        "distilled": history([4.1, 3.3, 3.1, 3.0], [0.2, 0.6, 0.7, 0.8]),
    }
    svg = curves_svg(runs)
    lines = polylines(svg)
    assert lines.keys() == {"run teacher", "run run0"}
    for css, records in (("run teacher", runs["teacher"]), ("run run0", runs["distilled"])):
        for points, left, values in zip(
            lines[css], (True, False), ([r.loss for r in records], [100 * r.accuracy for r in records]), strict=True
        ):
            vertical, horizontal = scale(svg, "end", left), scale(svg, "middle", left)
            # a label's baseline lies 4 below its line
            np.testing.assert_allclose(np.polyval(vertical, points[:, 1] + 4), values, rtol=0.01)
            np.testing.assert_allclose(np.polyval(horizontal, points[:, 0]), [r.epoch for r in records], atol=0.02)
    assert "distilled 80.00 %" in svg and "teacher 95.00 %" in svg


def test_labels_are_escaped_and_one_epoch_is_a_dot(tmp_path):
    write_curves(tmp_path / "a" / "x.svg", {"a<b & c": history([1.0], [0.5]), "none yet": ()})
    svg = (tmp_path / "a" / "x.svg").read_text()
    root = ElementTree.fromstring(svg)
    assert len(list(root.iter(f"{SVG}circle"))) == 2 and not polylines(svg)
    assert "a<b & c 50.00 %" in [t.text for t in root.iter(f"{SVG}text")] and "none yet" not in svg
    assert ElementTree.fromstring(curves_svg({})) is not None


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (2.3, 2.3), (10.0, 99.9), (1e-4, 3e-4), (-2.0, 41.0), (0.0, 0.0)]
)
def test_ticks_are_round_and_around_the_values(low, high):
    ticks = _ticks(low, high)
    assert 2 <= len(ticks) <= 9 and ticks[0] <= low and ticks[-1] >= high
    steps = np.diff(ticks)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-6)
    assert f"{steps[0]:.3e}"[:5] in ("1.000", "2.000", "5.000")


@pytest.mark.parametrize("epochs", [1, 2, 7, 12, 100, 301])
def test_epoch_ticks(epochs):
    ticks = _epoch_ticks(epochs)
    assert ticks[0] == 1 and ticks[-1] <= epochs and len(ticks) <= 10


def test_what_is_no_history_is_left_out(tmp_path):
    records = history([2.0, 1.0], [0.25, 0.5])
    write_csv(tmp_path / "good.csv", records)
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    files = {name: tmp_path / f"{name}.csv" for name in ("good", "bad", "binary", "missing")}
    assert read_runs(files) == {"good": records} and read_csv(files["good"]) == records


def test_training_draws_student_twin_and_teacher_together(tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (16, 1, 8, 8)).astype(np.uint8), np.arange(16) % 4
    data = DataSet("noise", images, labels, images, labels, classes=4)
    options = {"channels": (2, 4), "hidden": 8}
    config = TrainConfig(epochs=2, batch_size=8, T=2, warmup_epochs=0)
    common = {"data": data, "config": config, "options": options, "quiet": True}
    teacher, _, _ = training.train_and_save(
        training.Training("", "cnn2", tmp_path / "t.safetensors", label="teacher", **common)
    )
    job = training.Training(
        "", "cnn2", tmp_path / "s.safetensors", method="response", teacher=teacher, label="distilled",
        others={"teacher": tmp_path / "t.csv"}, **common,
    )  # fmt: skip
    _, _, records = training.train_and_save(job)
    assert list(polylines((tmp_path / "s.svg").read_text())) == ["run teacher", "run run0"]
    training.train_and_save(job.twin("", tmp_path / "s.twin.safetensors"))
    svg = (tmp_path / "s.svg").read_text()
    assert list(polylines(svg)) == ["run teacher", "run run0", "run run1"] and "without a teacher" in svg
    assert read_csv(tmp_path / "s.csv") == tuple(replace(r, seconds=round(r.seconds, 3)) for r in records)
    assert not list(Path(tmp_path).glob("*.twin.svg"))
