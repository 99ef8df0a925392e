"""`import kdsnn`: the verbs from Python, what they return, and that they are those of the command line."""

from __future__ import annotations

import dataclasses
import inspect
import io
import json
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.main
from hypothesis import given, settings
from hypothesis import strategies as st

import kdsnn
from exporters.graph import SpikingGraph
from hardware.emulator import running
from kdsnn.cli import console
from kdsnn.cli.app import app
from kdsnn.cli.options import spelled
from kdsnn.data import DataSet
from kdsnn.deploy.backends import BackendRun, WarmedUp
from kdsnn.deploy.tables import Result
from kdsnn.errors import Notice, OptionError
from profilers.text_table import TextTable, table

SMALL = {"channels": (4, 4), "hidden": 16}


@pytest.fixture(scope="module")
def data() -> DataSet:
    full = kdsnn.load_data("digits")
    return dataclasses.replace(
        full, x_train=full.x_train[:256], y_train=full.y_train[:256], x_test=full.x_test[:48], y_test=full.y_test[:48]
    )


TOLD: list[tuple[str, float, float]] = []
"""What was told of the progress of a training."""


def tell(title: str, done: float, total: float, note: str = "") -> None:
    TOLD.append((title, done, total))


@pytest.fixture(scope="module")
def teacher(data: DataSet) -> kdsnn.TrainedNetwork:
    TOLD.clear()
    return kdsnn.pretrain("cnn2", data, epochs=1, batch_size=64, options=SMALL, progress=tell)


def test_progress_begins_before_the_first_step(teacher: kdsnn.TrainedNetwork, data: DataSet) -> None:
    assert [("pretrain cnn2", done, total) for done, total in ((0, 1), (1, 4), (2, 4), (3, 4), (1, 1))] == TOLD
    TOLD.clear()
    kdsnn.evaluate(teacher, data, progress=tell)
    assert TOLD == [("evaluate on digits", 0, 48)]


@pytest.fixture(scope="module")
def student(data: DataSet, teacher: kdsnn.TrainedNetwork) -> kdsnn.TrainedNetwork:
    return kdsnn.distill("cnn2", data, teacher=teacher, T=3, epochs=1, batch_size=64, options=SMALL, twin=True)


@pytest.fixture(scope="module")
def net(data: DataSet, student: kdsnn.TrainedNetwork) -> kdsnn.Lowered:
    return kdsnn.lower(student, bits=4, calibrate=data, calibration_samples=32)


def test_importing_it_loads_nothing() -> None:
    code = (
        "import sys, kdsnn; dir(kdsnn)\n"
        "heavy = {'torch', 'numpy', 'pandas', 'onnx', 'h5py', 'spikingjelly', 'typer', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "for name in kdsnn.__all__: getattr(kdsnn, name)\n"
        "try: kdsnn.nothing\n"
        "except AttributeError as error: assert 'nothing' in str(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


VERBS = sorted(set(typer.main.get_command(app).commands) - {"list", "lava"})  # type: ignore[attr-defined]
OTHERWISE = {"timesteps": "T", "option": "options", "sources": "source", "checkpoint": "source"}
TERMINAL = {"json", "wide", "compare", "confusion", "format_", "set_", "help"}
TERMINAL |= {"crop", "flip", "cutout", "auto_augment", "roll", "drop", "mix"}
"""Options that only say how something is shown, or that are one argument in Python: `settings`, `augmentation`."""


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_of_the_command_line_is_one_of_the_function(verb: str) -> None:
    command = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]
    known = set(inspect.signature(getattr(kdsnn, verb)).parameters)
    if "lowering" in known:
        known |= set(inspect.signature(kdsnn.lower).parameters)
    options = {p.name for p in command.params} - TERMINAL - ({"out"} if verb == "profile" else set())  # .write(out)
    assert {OTHERWISE.get(name, name) for name in options} <= known


def results(data: DataSet, teacher: Any, student: Any, net: Any, folder: Path) -> dict[str, Result]:
    return {
        "pretrain": teacher,
        "distill": student,
        "evaluate": kdsnn.evaluate(student, data),
        "lower": net,
        "export": kdsnn.export(net, folder, to=["onnx", "netx", "nir"]),
        "run": kdsnn.run(net, data, on=["torch", "onnx", "emulator"], samples=8),
        "check": kdsnn.check(net, "loihi1"),
    }


@pytest.mark.filterwarnings("ignore::kdsnn.errors.Notice")
def test_results_print_as_the_commands_do_and_go_to_pandas_and_json(
    data: DataSet, teacher: Any, student: Any, net: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")  # else tables as wide as this are drawn in parts
    for name, result in results(data, teacher, student, net, tmp_path).items():
        assert dataclasses.is_dataclass(result) and result.__dataclass_params__.frozen, name  # type: ignore[attr-defined]
        shown = io.StringIO()
        with redirect_stdout(shown):
            console.show(result)
        drawn = [" ".join(line.split()) for line in shown.getvalue().splitlines() if line.strip()]
        if all(len(line) < 150 for line in str(result).splitlines()):  # else the command folds cells
            printed = [" ".join(line.split()) for line in str(result).splitlines() if line.strip()]
            assert printed[: len(drawn)] == drawn, name
        assert repr(result) == str(result)
        frame = result.to_frame()
        assert len(frame) == len(result.rows()) > 0, name
        assert json.loads(json.dumps(result.to_dict(), allow_nan=False, default=str)), name
        assert result._repr_html_().count("<table>") == len(result.tables()), name


def test_frames_hold_numbers(data: DataSet, student: Any, net: Any) -> None:
    history = student.to_frame()
    assert history["epoch"].tolist() == [1] and 0 <= history["accuracy"].iloc[-1] <= 1
    assert student.accuracy == kdsnn.evaluate(student, data).accuracy == student.info.metrics["test_accuracy"]
    assert student.twin is not None and student.twin.info.training["method"] == "none"
    assert student.cost["spikes"] > 0 and student.twin.cost["synops"] > 0
    scales = net.scales
    assert scales["name"].tolist() == list(net.integer.synapses)
    assert (scales["largest"] == [np.abs(s.weight).max() for s in net.integer.synapses.values()]).all()
    ran = kdsnn.run(net, data, on=["torch", "emulator"], samples=8)
    assert ran.to_frame()["backend"].tolist() == ["spikingjelly", "torch", "emulator"]
    assert ran.accuracy["emulator"] == ran.to_frame()["accuracy"].iloc[-1]
    checked = kdsnn.check(net, "loihi1")
    assert checked.to_frame()["cores"].sum() == checked.to_dict()["placement"]["cores"]
    assert str(checked).splitlines()[-1] == checked.verdict


def test_a_network_saved_is_the_network_loaded(student: Any, data: DataSet, tmp_path: Path) -> None:
    path = student.save(tmp_path / "s.safetensors")
    loaded = kdsnn.load(path)
    assert loaded.accuracy == student.accuracy and loaded.history == ()
    assert kdsnn.evaluate(loaded, data).accuracies == kdsnn.evaluate(path, data).accuracies
    a, b = kdsnn.lower(student), kdsnn.lower(path)
    assert all((a.integer.synapses[n].weight == b.integer.synapses[n].weight).all() for n in a.integer.synapses)


def test_profile_writes_what_the_command_writes(
    data: DataSet, teacher: Any, student: Any, net: Any, tmp_path: Path
) -> None:
    told: list[str] = []
    report = kdsnn.profile(
        net, data, teacher=teacher, twin=student.twin, samples=16, progress=lambda title, *rest: told.append(title)
    )
    assert {path.name for path in report.write(tmp_path).values()} == {"report.html", "report.json", "layers.csv"}
    assert [s.role for s in report.students] == ["student", "twin"] and report.teacher is not None
    assert told and "count" in told[0]


def test_notices_are_warnings() -> None:
    with pytest.warns(Notice, match="noise"):
        kdsnn.load_data("digits", noise=0.1)


def test_options_are_spelled_as_they_are_given() -> None:
    error = OptionError("{input_bits}: say {T} too", input_bits=9, T=None)
    assert str(error) == "input_bits=9: say T too"
    assert error.worded(spelled) == "--input-bits 9: say --timesteps too"
    hostile = OptionError(f"{{out}}: {'{input_bits}'}", out="a{out}b")
    assert str(hostile) == "out=a{out}b: {input_bits}"


def test_mistakes_are_told_in_pythons_words(net: Any, data: DataSet, tmp_path: Path) -> None:
    def told(call: Any) -> str:
        with pytest.raises(kdsnn.UserError) as caught:
            call()
        assert "--" not in str(caught.value)
        return str(caught.value)

    assert "no such backend" in told(lambda: kdsnn.run(net, data, on=["loihi"]))
    assert "no such format" in told(lambda: kdsnn.export(net, tmp_path, to=["pdf"]))  # type: ignore[list-item]
    assert "weights have 2 to 8 bits" in told(lambda: kdsnn.lower("a.safetensors", bits=9))
    assert "needs teacher" in told(lambda: kdsnn.distill("cnn2", data))
    assert "input_shape" in told(lambda: kdsnn.lower("module:factory"))
    assert "no setting 'emu'" in told(lambda: kdsnn.pretrain("cnn2", data, emu=0.9))
    assert "not a source" in told(lambda: kdsnn.lower("x.bin"))


def test_back_ends_are_made_ready_once_for_all_parts_of_the_samples(
    net: kdsnn.Lowered, data: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned: list[object] = []

    def plan(graph: SpikingGraph, *rest: Any) -> running.EmulationPlan:
        planned.append(graph)
        return made(graph, *rest)

    made = running.EmulationPlan
    monkeypatch.setattr(running, "EmulationPlan", plan)
    whole = kdsnn.run(net, data, on=["torch", "emulator", "onnx"], samples=12)
    once, planned[:] = list(planned), []
    monkeypatch.setattr("kdsnn.deploy.run._samples_at_once", lambda network: 5)
    parts = kdsnn.run(net, data, on=["torch", "emulator", "onnx"], samples=12)
    assert planned == once and [graph for graph in once if graph is net.integer] == [net.integer]
    assert [r.samples for r in parts.runs] == [12] * 4
    assert [c.layers for c in parts.comparisons] == [c.layers for c in whole.comparisons]


def test_a_batch_of_every_size_is_run_before_the_time_is_taken() -> None:
    sizes: list[int] = []

    def run(x: np.ndarray, progress: object = None) -> BackendRun:
        sizes.append(len(x))
        return BackendRun("b", x, x, {}, float(len(sizes)))

    ready = WarmedUp(run, 8)
    assert ready(np.zeros((20, 1))).seconds == 3 and sorted(sizes) == [4, 8, 20] and sizes[-1] == 20
    assert ready(np.zeros((12, 1))).samples == 12 and sizes[3:] == [12]
    assert ready(np.zeros((3, 1))).samples == 3 and sizes[4:] == [3, 3]
    ready, sizes[:] = WarmedUp(run, None), []
    assert ready(np.zeros((5, 1))).samples == ready(np.zeros((2, 1))).samples + 3 and sizes == [1, 5, 2]


cells = st.text(st.characters(codec="ascii", exclude_categories=("C",)), max_size=12).map(lambda s: " ".join(s.split()))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_tables_are_drawn_alike_by_print_and_on_the_terminal(drawn: st.DataObject) -> None:
    columns = drawn.draw(st.lists(cells.filter(bool), min_size=1, max_size=5))
    rows = drawn.draw(st.lists(st.lists(cells, min_size=len(columns), max_size=len(columns)), max_size=5))
    one: TextTable = table("title", columns, rows)
    shown = io.StringIO()
    with redirect_stdout(shown):
        console.draw(one)
    ours, theirs = ([line.rstrip() for line in text.splitlines()] for text in (str(one), shown.getvalue()))
    assert [line for line in ours if line] == [line for line in theirs if line]
