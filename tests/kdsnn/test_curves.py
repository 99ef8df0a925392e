"""The picture of a run's curves: read back from the SVG, point by point."""

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kdsnn.data import DataSet
from kdsnn.deploy import training
from kdsnn.errors import KdsnnError
from kdsnn.train import TrainConfig
from kdsnn.train.curves import curves_svg, read_runs, write_curves
from kdsnn.train.history import EpochRecord, read_csv, write_csv

SVG = "{http://www.w3.org/2000/svg}"


def history(losses, accuracies):
    pairs = enumerate(zip(losses, accuracies, strict=True), start=1)
    return tuple(EpochRecord(n, loss, accuracy, 1.0, 0.1, (accuracy,)) for n, (loss, accuracy) in pairs)


def points(svg: str) -> dict[str, np.ndarray]:
    """Id of a line ("loss-0", "accuracy-0", …) → its points (N, 2) on the page."""
    found = {}
    for group in ElementTree.fromstring(svg).iter(f"{SVG}g"):
        if group.get("id", "").startswith(("loss-", "accuracy-")):
            found[group.get("id")] = np.array(re.findall(r"[ML] (\S+) (\S+)", group.find(f"{SVG}path").get("d")), float)
    return found


def texts(svg: str) -> list[tuple[str, float, float]]:
    """Every text with its place on the page."""
    return [(t.text, float(t.get("x")), float(t.get("y"))) for t in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def scales(svg: str) -> dict[str, np.ndarray]:
    """Axis → (slope, offset) from page to value, fitted to its labels, as a reader of the picture does."""
    found = {}
    for axis, coordinate, axes in (("epoch", 0, "2"), ("loss", 1, "1"), ("accuracy", 1, "2")):
        (panel,) = (g for g in ElementTree.fromstring(svg).iter(f"{SVG}g") if g.get("id") == f"axes_{axes}")
        labels = [
            (float(text.get("xy"[coordinate])), float(text.text))
            for tick in panel.iter(f"{SVG}g")
            if tick.get("id", "").startswith("xy"[coordinate] + "tick")
            for text in tick.iter(f"{SVG}text")
        ]
        assert len(labels) >= 2
        found[axis] = np.polyfit(*zip(*labels, strict=True), 1)
    return found


RUNS = {
    "teacher": history([2.0, 0.5, 0.25], [0.5, 0.9, 0.95]),
    "distilled": history([4.1, 3.3, 3.1, 3.0], [0.2, 0.6, 0.7, 0.8]),
}


def test_the_curves_are_where_the_axes_say():
    svg = curves_svg(RUNS)
    lines, axes = points(svg), scales(svg)
    assert lines.keys() == {"loss-0", "loss-1", "accuracy-0", "accuracy-1"}
    for index, records in enumerate(RUNS.values()):
        losses, accuracies = lines[f"loss-{index}"], lines[f"accuracy-{index}"]
        np.testing.assert_allclose(np.polyval(axes["epoch"], losses[:, 0]), [r.epoch for r in records], atol=0.02)
        np.testing.assert_allclose(losses[:, 0], accuracies[:, 0], atol=0.01)
        # a label's baseline lies some 4 pixels below its line
        np.testing.assert_allclose(np.polyval(axes["loss"], losses[:, 1] + 4.5), [r.loss for r in records], atol=0.03)
        np.testing.assert_allclose(
            np.polyval(axes["accuracy"], accuracies[:, 1] + 4.5), [100 * r.accuracy for r in records], atol=0.5
        )
    words = [text for text, _, _ in texts(svg)]
    assert "80.00 % distilled" in words and "95.00 % teacher" in words
    assert "epoch" in words and "training loss" in words and "test accuracy, %" in words


def test_the_picture_stands_alone_and_is_always_the_same():
    svg = curves_svg(RUNS)
    assert svg == curves_svg(dict(RUNS))
    root = ElementTree.fromstring(svg)
    assert root.get("role") == "img" and root.find(f"{SVG}title").text == "Training loss and test accuracy per epoch"
    assert "80.00 % distilled" in root.find(f"{SVG}desc").text
    assert not re.findall(r"https?://(?!www\.w3\.org/)", svg) and "<image" not in svg and "date" not in svg.lower()
    used = set(re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", svg))
    assert used >= {"#ffffff", "#737b86", "#1f66d1"}
    for color in used:  # none stays as it is in the dark
        assert f'[style*="fill: {color}"]{{fill:#' in svg and f'[style*="stroke: {color}"]{{stroke:#' in svg


def test_the_picture_is_drawn_as_always_whatever_the_user_has_set():
    svg = curves_svg(RUNS)
    import matplotlib

    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context(
        {"font.size": 30, "svg.fonttype": "path", "axes.facecolor": "red", "lines.linewidth": 9}
    ):
        assert curves_svg(RUNS) == svg
    assert dict(matplotlib.rcParams) == before


def test_labels_are_escaped_and_one_epoch_is_a_dot(tmp_path):
    runs = {"a<b & $x$": history([1.0], [0.5]), "_hidden": history([2.0], [0.25]), "none yet": ()}
    write_curves(tmp_path / "a" / "x.svg", runs)
    svg = (tmp_path / "a" / "x.svg").read_text()
    assert len(list(ElementTree.fromstring(svg).iter(f"{SVG}use"))) == 6  # two runs in two panels and in the legend
    assert {len(line) for line in points(svg).values()} == {1}
    words = [text for text, _, _ in texts(svg)]
    assert "50.00 % a<b & $x$" in words and "25.00 % _hidden" in words and "none yet" not in svg
    assert not points(curves_svg({}))


def test_only_drawing_loads_the_library():
    code = (
        "import sys; from kdsnn.train import curves; assert not any(m.startswith('matplotlib') for m in sys.modules)\n"
        "curves.curves_svg({}); assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_caches_and_fonts_of_the_library_are_not_remarked_on():
    code = "from kdsnn.train import curves; curves.curves_svg({'漢': [curves.EpochRecord(1, 1.0, 0.5, 1.0)]})"
    surroundings = os.environ | {"HOME": "/proc/none", "XDG_CONFIG_HOME": "", "XDG_CACHE_HOME": "", "MPLCONFIGDIR": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=surroundings)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_library_that_cannot_start_is_one_line(monkeypatch):
    class Nowhere:
        def find_spec(self, name, path=None, target=None):
            if name == "matplotlib.figure":
                raise OSError("Matplotlib requires access to a writable cache directory")

    for name in [name for name in sys.modules if name.startswith("matplotlib")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Nowhere(), *sys.meta_path])
    with pytest.raises(KdsnnError, match="set MPLCONFIGDIR to one that can be written"):
        curves_svg(RUNS)


@pytest.mark.parametrize("epochs", [1, 2, 7, 12, 100, 301])
def test_epochs_are_whole_numbers(epochs):
    svg = curves_svg({"run": history([1.0] * epochs, [0.5] * epochs)})
    ticks = [g for g in ElementTree.fromstring(svg).iter(f"{SVG}g") if g.get("id", "").startswith("xtick_")]
    labels = [float(text.text) for tick in ticks for text in tick.iter(f"{SVG}text")]
    assert 1 <= len(labels) <= 10 and all(label.is_integer() and 1 <= label <= epochs for label in labels)


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
    common = {"data": data, "config": config, "options": options}
    teacher = training.train_and_save(
        training.Training("", "cnn2", out=tmp_path / "t.safetensors", label="teacher", **common)
    )
    job = training.Training(
        "", "cnn2", out=tmp_path / "s.safetensors", method="response", teacher=teacher.module, label="distilled",
        others={"teacher": tmp_path / "t.csv"}, **common,
    )  # fmt: skip
    records = training.train_and_save(job).history
    assert len(points((tmp_path / "s.svg").read_text())) == 4
    training.train_and_save(job.twin("", tmp_path / "s.twin.safetensors"))
    svg = (tmp_path / "s.svg").read_text()
    assert len(points(svg)) == 6 and all(label in svg for label in ("% teacher", "% distilled", "% without a teacher"))
    assert read_csv(tmp_path / "s.csv") == tuple(replace(r, seconds=round(r.seconds, 3)) for r in records)
    assert not list(Path(tmp_path).glob("*.twin.svg"))
