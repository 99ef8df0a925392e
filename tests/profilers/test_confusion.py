"""Decisions are counted class by class as scikit-learn counts them, and the report shows them."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import profilers_example as example
import pytest
from sklearn import metrics

from hardware import emulator
from profilers import profiling, report
from profilers.counting.confusion import Confusion, confusion
from profilers.report import Report, class_tables, html, markdown


def test_counts_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels, decisions = rng.integers(0, 6, 300), rng.integers(0, 6, 300)
    found = confusion(labels, decisions, 6)
    assert (found.matrix == metrics.confusion_matrix(labels, decisions)).all()
    assert found.recall == pytest.approx(metrics.recall_score(labels, decisions, average=None))
    assert found.precision == pytest.approx(metrics.precision_score(labels, decisions, average=None))
    assert sum(found.right) == (labels == decisions).sum() and sum(found.samples) == 300


def test_classes_without_samples_or_decisions_have_no_share() -> None:
    found = confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 3, ["a", "b", "c"])
    assert found.recall == (0.5, 1.0, None) and found.precision == (1.0, 0.5, None)
    assert [found.name(k) for k in range(3)] == ["a", "b", "c"]
    mistake = found.taken_for(0)
    assert mistake is not None and (mistake.decision, mistake.samples) == (1, 1) and found.taken_for(1) is None
    assert confusion(np.array([0]), np.array([0]), 3, ["one"]).names == ()  # names of something else


def counted() -> tuple[Report, np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A report on two networks, the labels, and what the first decides, by the emulator's own scores."""
    rng = np.random.default_rng(1)
    x, labels = rng.random((40, 1, 8, 8)), rng.integers(0, 10, 40)
    graphs = [example.network(seed, integer=True) for seed in (0, 1)]
    names = [f"class {k}" for k in range(10)]
    students = [
        profiling.count(f"net {i}", graph, x, labels, run=emulator.run, class_names=names)
        for i, graph in enumerate(graphs)
    ]
    decided = emulator.run(graphs[0], graphs[0].encode(x)).scores().argmax(axis=1)
    return report.build("t", "c", students, models={}), labels, decided


def test_the_report_counts_and_shows_classes() -> None:
    made, labels, decided = counted()
    found = made.students[0].float_run.confusion
    assert found is not None and (found.matrix == metrics.confusion_matrix(labels, decided, labels=range(10))).all()
    assert Report.from_json(made.to_json()) == made
    stored = json.loads(made.to_json())["students"][0]["float_run"]["confusion"]
    assert sum(stored["samples"]) == 40 and stored["names"][3] == "class 3"
    classes, matrix = class_tables.class_tables(made)
    assert [c.text for c in classes.columns[2:4]] == ["net 0", "net 1"]
    row = matrix.rows[4]
    assert [c.text or "0" for c in row.cells[:10]] == list(map(str, found.matrix[4]))
    assert row.label == "4 class 4"
    page, text = html.render(made), markdown.render(made)
    assert "Class by class" in page and matrix.caption in page and "What net 0 takes for what" in text
    assert not class_tables.class_tables(
        report.build("t", "c", [report.Student("s", example.run(example.network(), None))])
    )


def test_of_many_classes_the_worst_are_listed() -> None:
    labels = np.repeat(np.arange(150), 2)
    decisions = np.where(labels < 20, (labels + 1) % 150, labels)
    many = confusion(labels, decisions, 150)
    made, _, _ = counted()
    run = dataclasses.replace(made.students[0].float_run, confusion=many)
    only = dataclasses.replace(made, students=(dataclasses.replace(made.students[0], float_run=run),))
    (table,) = class_tables.class_tables(only)
    assert len(table.rows) == class_tables.MOST_LISTED
    assert [row.label for row in table.rows[:20]] == [str(k) for k in range(20)]
    assert {row.cells[1].text for row in table.rows[20:]} == {"100.0\u00a0%"}
    assert isinstance(many, Confusion) and table.rows[0].cells[2].text == "1 (2)"
