"""A report in the hands of a Python user: printed, as a frame, as a dictionary, in a notebook, as files."""

from __future__ import annotations

import dataclasses
import json
import random
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pandas as pd
import profilers_example as example
import pytest

from exporters.errors import DeployError
from profilers import report
from profilers.report.numbers import SPACE, percent, quantity
from profilers.text_table import table


@pytest.fixture(scope="module")
def made() -> report.Report:
    return example.example()


def cells(text: str) -> list[list[str]]:
    """The rows of a printed table, headings first."""
    _, _, head, rule, *rows = text.splitlines()
    assert set(rule.strip()) == {"─"}
    return [[cell.strip() for cell in line.split("   ") if cell.strip()] for line in (head, *rows)]


def test_it_prints_as_the_closing_table(made: report.Report) -> None:
    drawn = report.closing_table(made)
    title, headings, rows = drawn.title, list(drawn.columns), [list(row) for row in drawn.rows]
    verdict, _, text = str(made).partition("\n\n")
    assert repr(made) == str(made) and text.splitlines()[0] == title
    sentences = [one.paragraph for one in made.verdict]
    assert " ".join(verdict.split()) == " ".join(sentences) and len(sentences) > 5
    assert cells(text) == [headings, *rows]
    assert [row[0] for row in rows] == [
        "cnn2 (32, 64) (ANN teacher)",
        *("distilled (float)", "distilled (quantized)", "undistilled (float)", "undistilled (quantized)"),
    ]
    assert len(headings) == 10 and headings[-1].startswith("Loihi 1 event model")
    run = made.students[0].deployed
    assert rows[2][1:7] == [
        percent(0.9667, space=" "), f"{run.parameters:,}", "–",
        *(quantity(count, space=" ") for count in (run.macs_repeated, run.synops.mean, run.spikes.mean)),
    ]  # fmt: skip
    assert rows[1][7] != "–" and rows[1][8] == rows[1][9] == "–"  # float models price the float run
    assert rows[2][7] == "–" and rows[2][8] != "–" and rows[2][9] != "–"


def test_the_frame_holds_the_numbers_themselves(made: report.Report) -> None:
    frame = made.to_frame()
    assert list(zip(frame["network"], frame["role"], frame["run"], strict=True)) == [
        ("cnn2 (32, 64)", "teacher", "float"),
        ("distilled", "student", "float"),
        ("distilled", "student", "quantized"),
        ("undistilled", "twin", "float"),
        ("undistilled", "twin", "quantized"),
    ]
    student, teacher = made.students[0], made.teacher
    assert teacher is not None
    for row, run in ((frame.loc[1], student.float_run), (frame.loc[2], student.deployed)):
        assert row[["T", "samples", "accuracy", "parameters", "macs", "synops", "spikes"]].tolist() == [
            run.T, run.samples, run.accuracy, run.parameters, run.macs_repeated, run.synops.mean, run.spikes.mean
        ]  # fmt: skip
        assert pd.isna(row["flops"])
    ann = frame.loc[0]
    counts = teacher.counts
    assert ann[["T", "accuracy", "parameters", "flops", "macs"]].tolist() == [
        1, teacher.accuracy, counts.parameters, counts.thop, counts.macs
    ]  # fmt: skip
    assert ann[["samples", "synops", "spikes"]].isna().all()
    for model in made.energies:
        low, high = frame[f"{model.name} low"], frame[f"{model.name} high"]
        if model.ann is None:
            assert np.isnan(low[0])
        else:
            assert (low[0], high[0]) == (model.ann.low, model.ann.high)
        (energy,) = (one for one in model.students if one.student == "distilled")
        assert energy.estimate is not None
        priced, other = (1, 2) if energy.arithmetic == "float" else (2, 1)
        assert (low[priced], high[priced]) == (energy.estimate.low, energy.estimate.high)
        assert np.isnan(low[other]) and np.isnan(high[other])
    assert frame["parameters"].dtype == frame["flops"].dtype == "Int64" and frame["accuracy"].dtype == np.float64


@pytest.mark.parametrize("without", ["teacher", "students"])
def test_a_report_with_less_has_a_frame_too(made: report.Report, without: str) -> None:
    if without == "teacher":
        bare = report.build("bare", "", [report.Student("s", example.run(example.network(), None))])
    else:
        bare = report.build("bare", "", [], teacher=made.teacher)
    frame = bare.to_frame()
    assert len(frame) == 1 and list(frame.columns) == list(made.to_frame().columns)
    assert (frame.dtypes == made.to_frame().dtypes).all()
    assert cells(str(bare.closing_table()))[1][0] == ("s (float)" if without == "teacher" else "cnn2 (32, 64) (ANN)")


def test_the_dictionary_is_json(made: report.Report) -> None:
    data = made.to_dict()
    assert data == json.loads(made.to_json()) == json.loads(json.dumps(data))
    assert isinstance(data["students"], list)
    assert report.Report.from_json(json.dumps(data)) == made
    assert type(report.Report.from_json(made.to_json())) is report.Report


@pytest.mark.parametrize("name", ["distilled", "x" * 300])
def test_a_notebook_shows_the_same_table(made: report.Report, name: str) -> None:
    made = dataclasses.replace(made, students=(dataclasses.replace(made.students[0], name=name), made.students[1]))
    html = made._repr_html_()
    root = ElementTree.fromstring(f"<div>{html}</div>")
    drawn = report.closing_table(made)
    assert [p.text for p in root.iter("p")] == [one.paragraph for one in made.verdict]
    assert root.findtext("table/caption") == drawn.title
    assert tuple(cell.text for cell in root.iter("th")) == drawn.columns
    assert tuple(tuple(cell.text for cell in row.iter("td")) for row in root.iter("tr"))[1:] == drawn.rows
    evil = dataclasses.replace(made, title="<script>", students=(dataclasses.replace(made.students[0], name="<b>&"),))
    assert (
        "<script>" not in evil._repr_html_()
        and "<b>" not in evil._repr_html_()
        and "&lt;b&gt;&amp;" in evil._repr_html_()
    )


def test_it_writes_itself(made: report.Report, tmp_path: Path) -> None:
    paths = made.write(str(tmp_path / "new"), formats=["json", "markdown"])
    assert paths == {name: tmp_path / "new" / name for name in ("report.json", "report.md")}
    assert report.Report.from_json(paths["report.json"].read_text(encoding="utf-8")) == made
    assert sorted(made.write(tmp_path)) == ["layers.csv", "report.html", "report.json"]
    with pytest.raises(DeployError, match="no report format 'pdf'"):
        made.write(tmp_path, ["pdf"])


def test_columns_of_numbers_stand_to_the_right() -> None:
    text = str(table("title", ["a", "bb", "c"], [["x", "1", "–"], ["yyy", "–", "<2\u00a0%"], ["", "100", "3"]]))
    assert [line.rstrip() for line in text.splitlines()] == [
        "title",
        "",
        " a      bb      c",
        " ────────────────",
        " x       1      –",
        " yyy     –   <2 %",
        "       100      3",
    ]
    assert str(table("t", ["head"], [])).split() == ["t", "head", "────"]


def test_numbers_for_a_terminal() -> None:
    """Every number with a prefix, ordinary spaces, no zeros at the end: three digits of `%.3g`."""
    rng = random.Random(0)
    for value, text in (
        (0, "0 B"), (1, "1 B"), (999.4, "999 B"), (999.6, "1 kB"), (1200, "1.2 kB"), (13_584, "13.6 kB"), (1e9, "1 GB"),
        (36_900_000, "36.9 MB"), (0.05, "50 mB"), (100, "100 B"),
    ):  # fmt: skip
        assert quantity(value, "B", trim=True, space=" ") == text
    for _ in range(1000):
        value = rng.uniform(1, 999.4)
        assert quantity(value * 1e3, plain_below=0, trim=True, space=" ") == f"{value:.3g} k"
    assert quantity(1617, plain_below=0, trim=True, space=" ") == "1.62 k" and quantity(1617) == "1,617"
    assert percent(0.98119, 2, space=" ") == "98.12 %" and percent(0.98119) == f"98.1{SPACE}%"
