"""Tables in a terminal of any width: no word is broken, nothing is missing, and no line is longer than it need be."""

from __future__ import annotations

import io
import re
from collections import Counter
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path

import numpy as np
import profilers_example as example
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import kdsnn
from exporters.passes.chain import to_chain
from exporters.passes.quantize import LayerScale
from hardware.chips import fit, limits
from hardware.lava.status import LavaStatus
from kdsnn.checkpoint import CheckpointInfo
from kdsnn.cli import console
from kdsnn.deploy.backends import BackendRun
from kdsnn.deploy.benchmark import BackendSpeed, BenchmarkResult, Timing
from kdsnn.deploy.catalogs import CATALOGS
from kdsnn.deploy.check import CheckResult
from kdsnn.deploy.comparisons import BackendComparison, LayerComparison
from kdsnn.deploy.demo import DemoResult
from kdsnn.deploy.evaluate import Evaluation
from kdsnn.deploy.export import ExportedFile, ExportResult, UnwrittenFile
from kdsnn.deploy.lava import LavaStatusResult
from kdsnn.deploy.layer_summary import LayerSummary
from kdsnn.deploy.lowered import Lowered
from kdsnn.deploy.predict import Decision, Predictions
from kdsnn.deploy.proof import LayerProof, Proof
from kdsnn.deploy.run import RunResult
from kdsnn.deploy.run_tables import RefusedBackend
from kdsnn.deploy.sanafe import ChipCosts
from kdsnn.deploy.seeds import SeedRun, SeedRuns
from kdsnn.deploy.summary import Summary
from kdsnn.deploy.tables import Result, TextTable, table
from kdsnn.deploy.trained import TrainedNetwork
from profilers import report
from profilers.counting.confusion import confusion
from tests.networks import random_integer_chain

WIDTHS = (80, 100, 120, 200)
CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "a long name of eight", "nine")
LAYERS = ("body.stage1.block1.conv1", "body.stage3.block2.shortcut.conv", "body.head.fc1")


def ran(backend: str, costs: ChipCosts | None = None) -> BackendRun:
    output = np.zeros((359, 4, 10), np.uint8)
    return BackendRun(backend, output, output.mean(1), {}, 0.158, costs)


def compared(backend: str, reference: str, proof: Proof | None = None) -> BackendComparison:
    layers = tuple(LayerComparison(name, 118, 7_385_984, "sample 0, step 1, neuron (3, 6, 5)") for name in LAYERS)
    return BackendComparison(
        backend, reference, 359, 118, 14360, 23867, 22_157_952, proof is not None, f"{LAYERS[1]}, {layers[1].first}", layers, proof
    )  # fmt: skip


def trained(path: str, *, best: TrainedNetwork | None = None, twin: TrainedNetwork | None = None) -> TrainedNetwork:
    info = CheckpointInfo(
        "cnn2", True, (1, 8, 8), 10, "digits", T=4, metrics={"test_accuracy": 0.9805, "val_accuracy": 0.975}, training={"epoch": 12}
    )  # fmt: skip
    return TrainedNetwork(
        nn.Identity(), info, path=Path(path), cost={"spikes": 990.1, "synops": 86012.0}, best=best, twin=twin
    )


@cache
def made() -> dict[type[Result], Result]:
    """One result of every kind, with long names and large numbers."""
    proof = Proof(20, tuple(LayerProof(name, 7_385_984, 3, 1, "sample 3, step 2, neuron (1, 2, 3)") for name in LAYERS))
    refused = RefusedBackend("lava", "body.pool1: Lava has no average pool of overlapping windows")
    costs = ChipCosts(np.full((3, 9), 1.23e-6), np.full((3, 9), 4.5e-5))
    pairs = (compared("torch", "spikingjelly", proof), compared("emulator", "torch"))
    ran_all = RunResult(
        "student.safetensors on digits", (ran("spikingjelly"), ran("torch"), ran("emulator"), ran("sanafe", costs)), pairs,
        np.zeros(359, int), (refused,),
    )  # fmt: skip
    scales = tuple(LayerScale(name, 341.7, 8192, 127, "calibration", 0.0123, 0.0004) for name in LAYERS)
    measured = [
        {**vars(scale), "peak": 123456.0, "register_used": 0.94, "rate_float": 0.0812, "rate_quantized": 0.0815}
        for scale in scales
    ]
    files = (
        ExportedFile("onnx", "exported/student.onnx", 1_234_567, "float32, sequence, T = 4, opset 18", 7_385_984, 0, 3),
        ExportedFile("netx", f"{'a_folder/' * 12}student.net", 54_321, "8-bit integers, for Lava", 7_385_984),
    )
    chain = to_chain(random_integer_chain(3))
    held = fit.check(chain, limits.target("loihi1"))
    finding = fit.Finding("error", LAYERS[0], "needs 4,321 output axons, a core has 4,096", "make it narrower")
    seeds = [
        SeedRun(seed, *({"test_accuracy": 0.97 + seed / 1000 - alone, "spikes": 990.0 - seed, "synops": 86012.0 + seed,
                         "checkpoint": f"runs/student.seed{seed}.safetensors"} for alone in (0.0, 0.002)))
        for seed in range(3)
    ]  # fmt: skip
    y = np.arange(359) % 10
    layers = tuple(
        LayerSummary(name, "Conv2d", (128, 32, 32), 7_385_984, 1_234_567_890, 131_072, 0.123456, 0.5, None, "hard", 43)
        for name in LAYERS
    )
    decided = [Decision(f"{'folder/' * 9}{i}.png", np.eye(10)[[i, 3, 3, 7]] / 4) for i in range(3)]
    took = Timing(1.234e-3, 1.2e-3, 1.3e-3, 20)
    speed = BackendSpeed("spikingjelly", 100, 0.98, took, 32, took, 123_456_789)
    results: list[Result] = [
        proof, ran_all, CheckResult("student", fit.Fit(held.target, (finding,), held.placement)),
        DemoResult(example.wide(), ran_all, (), 72.0), SeedRuns("cnn2 on digits, T=4", tuple(seeds)),
        Evaluation("student", "cnn2", "digits", 359, True, (0.9, 0.95, 0.97, 0.98), confusion(y, (y + y // 8) % 10, 10, CLASSES)),
        Summary("student", 4, (3, 32, 32), layers, 7_385_984, "loihi1", 2, 8, ("Two relays stand for a sum.",)),
        Predictions("student", "emulator", "rate", CLASSES, tuple(decided), 3),
        BenchmarkResult("student", "digits", "2 cores", (speed,), (refused,)),
        ExportResult("student.safetensors", files, tuple(measured), 8, (UnwrittenFile("nir", refused.reason, "--to nir"),)),
        LavaStatusResult(LavaStatus(True, Path("/home/somebody/.cache/kdsnn-deploy/lava"), {"lava-nc": "0.10.0"}, True, 1e-3, None)),
        Lowered("student", None, None, chain, scales),
        trained("student.safetensors", best=trained("student.best.safetensors"), twin=trained("t", best=trained("t.best"))),
    ]  # fmt: skip
    return {type(result): result for result in results}


@cache
def tables() -> dict[str, TextTable]:
    """Every table that a verb draws, by name."""
    found = {f"list {what}": rows_table(what, CATALOGS[what]()) for what in CATALOGS}
    results = made()
    for kind, result in results.items():
        found |= {f"{kind.__name__} {i}": one for i, one in enumerate(result.tables())}
    run = results[RunResult]
    assert isinstance(run, RunResult)
    found["run --compare"] = run.layers_table()
    for name, one in (("profile", example.example()), ("profile of long names", example.wide())):
        found[name] = report.closing_table(one)
        if (times := one.time_table()) is not None:
            found[f"{name}, times"] = times
    return found


def rows_table(what: str, rows: list[dict[str, str]]) -> TextTable:
    from kdsnn.cli.listing import EXTRAS

    return table(what, list(rows[0]), [list(row.values()) for row in rows], extras=EXTRAS)


def test_there_is_a_table_here_of_every_result() -> None:
    files = (Path(kdsnn.__file__).parent / "deploy").glob("*.py")
    ours = {
        name for file in files for name in re.findall(r"^class (\w+)\(Result\)", file.read_text("utf-8"), re.MULTILINE)
    }
    here = {kind.__name__ for kind in made()}
    assert ours == here, "give one of these to `made`, so that its tables are looked at in every width"


@pytest.fixture(scope="module")
def every() -> dict[str, TextTable]:
    return tables()


def drawn(one: TextTable, *, wide: bool = False) -> list[str]:
    shown = io.StringIO()
    with redirect_stdout(shown):
        console.draw(one, wide=wide)
    return shown.getvalue().splitlines()


def words(*texts: str) -> Counter[str]:
    return Counter(word for text in texts for word in text.split())


def assert_fits(one: TextTable, lines: list[str], width: int) -> None:
    """What must hold of a table at some width, said without a word of how it is laid out."""
    said = re.fullmatch(r"not shown for want of room: (.+); --wide shows all", lines[-1])
    note = said[1].split(", ") if said else []
    left_out = [i for i, head in enumerate(one.columns) if head in note]
    assert {one.columns[i] for i in left_out} == set(note) <= set(one.extras)
    kept = [i for i in range(len(one.columns)) if i not in left_out]
    cells = [row[i] for row in one.rows for i in kept]
    text = "\n".join(lines)
    missing = words(one.title, *(one.columns[i] for i in kept), *cells) - words(text)
    assert not missing, missing
    assert not [
        line for line in lines if len(line) > width and not any(len(word) > width - 30 for word in line.split())
    ]
    for number in re.findall(r"\d (?:%|[kMG]\b|[pnµm]?J\b|m?s\b|k?B\b)", " \n ".join(cells)):
        assert number in text


@pytest.mark.parametrize("width", WIDTHS)
def test_every_table_of_every_verb_fits(
    every: dict[str, TextTable], width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for one in every.values():
        assert_fits(one, drawn(one), width)


def test_wide_tables_have_a_line_for_every_row(every: dict[str, TextTable], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for one in every.values():
        title, empty, heads, rule, *rows, end = drawn(one, wide=True)
        assert (title, empty, end) == (one.title, "", "") and set(rule.strip()) == {"─"}
        assert [re.sub(r"\s+", " ", line).strip() for line in (heads, *rows)] == [
            re.sub(r"\s+", " ", " ".join(row)).strip() for row in (one.columns, *one.rows)
        ]


def test_columns_that_have_no_room_stand_below_behind_the_names_of_the_rows() -> None:
    one = table(
        "t", ["a", "b", "third", "fourth"], [["x", "1", "123456789", "2.5 M"], ["x", "2", "987654321", "97.2 %"]]
    )
    assert one.drawn(100) == str(one)
    assert [line for line in one.drawn(20).splitlines() if line] == [
        "t",
        " a   b       third",
        " ─────────────────",
        " x   1   123456789",
        " x   2   987654321",
        " a   b   fourth",
        " ──────────────",
        " x   1    2.5 M",
        " x   2   97.2 %",
    ]
    assert one.drawn(12).splitlines()[2:7] == [
        " a        x", " b        1", " third    123456789", " fourth   2.5 M", "",
    ]  # fmt: skip


def test_extras_give_way_and_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    one = table("t", ["name", "source", "note"], [["n" * 20, "s" * 20, "a note"]], extras=["source", "note", "basis"])
    for width, kept, said in ((60, 3, ""), (50, 2, "note"), (30, 1, "source, note")):
        monkeypatch.setenv("COLUMNS", str(width))
        lines = drawn(one)
        assert lines[2].split() == list(one.columns[:kept]) and lines[-1] == (
            said and f"not shown for want of room: {said}; --wide shows all"
        )
    assert drawn(one, wide=True) == [*str(one).splitlines(), ""]


def test_a_terminal_that_has_no_lines_gets_hyphens(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="ascii"))
    console.draw(table("t", ["a"], [["1"]]))
    console.sys.stdout.flush()
    assert raw.getvalue().decode() == "t\n\n a\n -\n 1\n\n"


def test_names_cannot_break_a_line_or_steer_a_terminal() -> None:
    one = table("t", ["file"], [["new\nline\x1b[2J"], ["2.5\u00a0M"], ["caf\udce9"]])
    assert one.rows == (("new\\nline\\x1b[2J",), ("2.5 M",), ("caf\\udce9",))


def test_characters_of_two_columns_count_twice() -> None:
    one = table("t", ["图像", "n"], [["猫", "1"], ["é", "2"]])
    assert str(one).splitlines()[2:] == [" 图像   n", " ────────", " 猫     1", " é      2"]


def test_a_number_and_its_unit_stay_on_one_line() -> None:
    text = "97.2 % of 2.58 M spikes, 0.44 ms and 4.7 µJ·s in 12 kB → 3 ± 1 of 7,385,984 at most"
    for width in range(1, 50):
        lines = [line.strip() for line in table("", ["n"], [[text]]).drawn(width).splitlines()[4:]]
        assert " ".join(lines).strip() == text
        assert not any(re.match(r"%|M\b|ms|µJ|kB|±", line) for line in lines), lines


pieces = st.lists(st.text("ab1% µ,.–", max_size=20), max_size=4).map(lambda texts: " ".join(" ".join(texts).split()))


@settings(max_examples=80, deadline=None)
@given(st.data(), st.integers(70, 130))
def test_any_table_keeps_its_words_whole(data: st.DataObject, width: int) -> None:
    columns = data.draw(st.lists(pieces.filter(bool), min_size=1, max_size=8))
    rows = data.draw(st.lists(st.tuples(*[pieces] * len(columns)), min_size=1, max_size=4))
    one = table("a title", columns, rows)
    assert_fits(one, one.drawn(width).splitlines(), width)
