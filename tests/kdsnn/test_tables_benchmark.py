"""`benchmarks/kdsnn_tables.py`: rows, figures, and going on after a kill."""

import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import kdsnn_tables
from benchmarks._kdsnn_table3 import table_3
from kdsnn import checkpoint
from kdsnn.data import DataSet
from kdsnn.deploy import training
from kdsnn.errors import KdsnnError
from kdsnn.models import MODELS, build
from kdsnn.train import evaluate

CONFIG = """
seeds = [0, 1]
[sets.digits]
pretrain = { epochs = 1, batch_size = 128, warmup_epochs = 0 }
distill = { epochs = 2, batch_size = 128, warmup_epochs = 0, T = 2 }
[[rows]]
table = 1
data = "digits"
student = "cnn2"
student_options = { channels = [2, 4], hidden = 8 }
teacher = "resnet14"
teacher_options = { stem = 2, widths = [2, 2, 4], blocks = [1, 1, 1] }
method = ["response", "temporal"]
paper = 96.5
paper_alone = 95.0
"""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def results(out: Path) -> list[Path]:
    # not the temporary file that a kill in the middle of writing leaves
    return [path for path in out.glob("cells/*.json") if not path.name.startswith(".")]


def read(out: Path) -> list[dict[str, str]]:
    with (out / "tables.csv").open() as file:
        return list(csv.DictReader(file))


def test_killed_and_run_again_gives_the_table_without_training_anything_twice(tmp_path, monkeypatch, capsys):
    (tmp_path / "config.toml").write_text(CONFIG)
    out, root = tmp_path / "out", Path(__file__).parents[2]
    options = ["--config", str(tmp_path / "config.toml"), "--out", str(out), "--table", "1"]
    first = subprocess.Popen(
        [sys.executable, "-m", "benchmarks", "kdsnn_tables", *options],
        cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while len(results(out)) < 2 and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    _, errors = first.communicate()
    done = {path: path.stat().st_mtime_ns for path in results(out)}
    assert 2 <= len(done) < 7, errors

    trained, original = [], training.train_and_save
    monkeypatch.setattr(training, "train_and_save", lambda job, told: trained.append(job.title) or original(job, told))
    kdsnn_tables.main(options)
    # a teacher; two seeds of the twin, which both methods share; two of either method
    assert len(results(out)) == 1 + 2 + 2 * 2
    assert len(trained) == 7 - len(done) and not {path.stem for path in done} & set(trained)
    assert all(path.stat().st_mtime_ns == when for path, when in done.items())
    assert not list(out.glob("cells/*.training"))

    table = read(out)
    assert [row["method"] for row in table] == ["response", "temporal"]
    images = kdsnn_tables._data("digits", ())
    for row in table:
        measured = {}
        for method in (row["method"], "none", "pretrain"):
            files = sorted(out.glob(f"cells/digits-*-{method}-*.safetensors"))
            modules = [checkpoint.load(path) for path in files]
            measured[method] = [100 * evaluate(m, images, T=info.T)[-1] for m, info in modules]
        mine, alone = measured[row["method"]], measured["none"]
        assert len(mine) == len(alone) == 2 and row["seeds"] == "2"
        assert row["distilled, ours"] == f"{statistics.mean(mine):.2f} ± {statistics.stdev(mine):.2f}"
        assert row["alone, ours"] == f"{statistics.mean(alone):.2f} ± {statistics.stdev(alone):.2f}"
        assert row["teacher, ours"] == f"{measured['pretrain'][0]:.2f}" and row["teacher, paper"] == ""
        assert float(row["difference"]) == pytest.approx(statistics.mean(mine) - 96.5, abs=0.006)
        assert row["gain, paper"] == "+1.50"
        gains = [a - b for a, b in zip(mine, alone, strict=True)]
        half = 12.7062 * statistics.stdev(gains) / 2**0.5  # Student's t for one degree of freedom
        low, high = (float(end) for end in row["95 % interval"].split(" … "))
        assert (high - low) / 2 == pytest.approx(half, abs=0.011)
        assert (high + low) / 2 == pytest.approx(statistics.mean(gains), abs=0.011)
        assert float(row["gain, ours"]) == pytest.approx(statistics.mean(mine) - statistics.mean(alone), abs=0.006)
    assert "| difference |" in (out / "tables.md").read_text() and "| difference |" in capsys.readouterr().out

    trained.clear()
    kdsnn_tables.main(options)
    assert not trained and read(out) == table


def plan(**changes) -> kdsnn_tables.Plan:
    rows, sets, seeds = kdsnn_tables.read_config(kdsnn_tables.CONFIG)
    given = {"rows": rows, "sets": sets, "seeds": seeds, "sources": {}, "changes": {}, "teacher_changes": {}}
    return kdsnn_tables.Plan(**{**given, **changes})


def test_the_papers_rows_can_all_be_built():
    full = plan()
    assert {row.table for row in full.rows} == {1, 2, 4}
    cells = list(full.cells())
    assert len({cell.name for cell in cells}) == len(cells)
    for cell in cells:
        assert cell.model in MODELS
        assert cell.teacher is None or cell.teacher.name in {c.name for c in cells[: cells.index(cell)]}
    for row in full.rows:
        assert {row.student, row.teacher} <= MODELS.keys() and row.method in ("response", "feature", "temporal")
    # what facts of the paper there are
    figures = {(r.shown_data, r.paper_teacher, r.paper_alone, r.paper) for r in full.rows}
    assert ("mnist+12k-50k+rot", 96.01, 94.43, 95.34) in figures and ("cifar10", None, None, 93.41) in figures


def test_the_rows_of_readouts_share_twins_and_raw_rates_are_settings():
    rows, sets, seeds = kdsnn_tables.read_config(kdsnn_tables.CONFIG.with_name("readouts.toml"))
    full = plan(rows=rows, sets=sets, seeds=seeds)
    shown = {row.shown_student for row in rows}
    assert shown == {"cnn2", "cnn2 (voting)", "cnn2 (membrane)", "cnn2 (logit_scale 1, alpha 0.1, temperature 3)"}
    cells = list(full.cells())
    # per variant: a teacher; per seed four twins and seven distilled students
    assert len(cells) == 4 * (1 + 5 * (4 + 7))
    scales = {(c.method == "pretrain", c.config.logit_scale) for c in cells}
    assert scales == {(True, 0.0), (False, 0.0), (False, 1)}
    for cell in cells:
        build(
            cell.model,
            spiking=cell.teacher is not None,
            input_shape=(1, 28, 28),
            classes=10,
            readout=cell.readout,
            **cell.options,
        )


def test_options_make_other_cells():
    row = next(r for r in plan().rows if r.data == "mnist+12k-50k+rot")
    base, small = plan(), plan(sources={"mnist": "npz:x.npz"}, changes={"epochs": 3}, teacher_changes={"epochs": 1})
    assert small.student(row, 0).config.epochs == 3 and small.teacher(row).config.epochs == 1
    assert small.student(row, 0).data == "npz:x.npz+12k-50k+rot"
    assert small.student(row, 0).name != base.student(row, 0).name != base.student(row, 1).name
    assert kdsnn_tables._sources(["cifar10=npz:a=b", "npz:c=d"], base.sets) == {"cifar10": "npz:a=b", "": "npz:c=d"}


def test_selection_and_errors(tmp_path):
    rows = plan().rows
    assert kdsnn_tables.selected(rows, [1, 2], "2,4-5") == (rows[1], rows[3], rows[4])
    assert all(r.table == 2 for r in kdsnn_tables.selected(rows, [2], None))
    with pytest.raises(KdsnnError, match="--rows x"):
        kdsnn_tables.selected(rows, [1], "x")
    with pytest.raises(KdsnnError, match="no row"):
        kdsnn_tables.selected(rows, [4], "1")
    for text in ("rows = 3", "[[rows]]\ntable = 1", "x ="):
        (tmp_path / "c.toml").write_text(text)
        with pytest.raises(SystemExit, match=r"c\.toml: not a configuration"):
            kdsnn_tables.main(["--config", str(tmp_path / "c.toml"), "--list"])
    (tmp_path / "c.json").write_text(json.dumps({"rows": [], "seeds": [4]}))
    assert kdsnn_tables.read_config(tmp_path / "c.json") == ((), {}, (4,))


def test_table_3_is_the_papers_to_its_digits_and_counts_a_checkpoint(tmp_path):
    torch.manual_seed(0)
    options = {"channels": (2, 4), "hidden": 8}
    net = build("cnn2", spiking=True, input_shape=(1, 28, 28), classes=10, **options).eval()
    info = checkpoint.CheckpointInfo("cnn2", True, (1, 28, 28), 10, "x", options, readout="rate", neuron="if", T=2)
    checkpoint.save(tmp_path / "s.safetensors", net, info)
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (20, 1, 28, 28)).astype(np.uint8)
    y = np.arange(20) % 10
    np.savez(tmp_path / "x.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    spec = f"npz:{tmp_path / 'x.npz'}"
    odd = build("resnet14", spiking=True, input_shape=(1, 28, 28), classes=10)
    info = checkpoint.CheckpointInfo("resnet14", True, (1, 28, 28), 10, "x", readout="rate", neuron="if", T=2)
    checkpoint.save(tmp_path / "o.safetensors", odd, info)
    columns, rows, notes = table_3([tmp_path / "o.safetensors", tmp_path / "s.safetensors"], 20, spec)
    found = [dict(zip(columns, row, strict=True)) for row in rows]
    assert len(found) == 8
    for row in found:
        assert row["parameters, paper (M)"] == row["ours"] and row["FLOPs, paper (M)"] == row["thop, ours (M)"], row
    row = next(row for row in found if row["network"] == "2conv, MNIST")
    assert sum(bool(other["spikes, ours (M)"]) for other in found) == 1
    spikes = []
    hooks = [
        m.register_forward_hook(lambda m, i, o: spikes.append(o.sum()))
        for m in net.modules()
        if hasattr(m, "v_threshold")
    ]
    with torch.no_grad():
        net.forward_static(torch.from_numpy(x).float() / 255, 2)
    assert hooks and row["spikes, ours (M)"] == f"{sum(spikes).item() / 20 / 1e6:.3f}"
    # 3×3 kernels, one input channel, zero padding not counted: 28·28·9 less the border
    assert row["MACs of the first layer, ours (M)"] == f"{2 * (28 * 3 - 2) ** 2 / 1e6:.2f}"
    accuracy = 100 * evaluate(net, DataSet("x", x, y, x, y, 10), T=2)[-1]
    assert row["accuracy"] == f"{accuracy:.2f}"
    assert any("o.safetensors is left out" in note for note in notes)
