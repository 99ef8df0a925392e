"""How a report tells times: rows side by side, bounds as bounds, and nothing where nothing is known."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import profilers_example as example
import pytest

from profilers import report
from profilers.energy import models as energy_models
from profilers.energy import operations, time_models, timing
from profilers.energy.models import Range
from profilers.report import markdown, time_tables
from profilers.report.html import render
from profilers.report.literature import sources
from profilers.report.numbers import SPACE


def student(name: str = "s") -> report.Student:
    """A student on one core of either chip, 10 of everything in each of its three steps."""
    bare = report.Student(name, example.run(example.network(), 0.9), example.run(example.network(integer=True), 0.8))
    counts = {key: np.full((2, 3, 1), 10) for key in time_models.PER_CORE if "update" not in key}
    layer = timing.TimedLayer("conv2.if", 0, np.array([50]), counts)
    deployments = []
    for target, title, mesh in (("loihi1", "Loihi 1", (0, 0)), ("loihi2", "Loihi 2", None)):
        network = timing.TimedNetwork(target, 1, 3, (layer,), None if mesh is None else 1, mesh)
        times = tuple(
            timing.estimate(model, network, bare.deployed.counts, list(energy_models.built_in().values()))
            for model in time_models.built_in().values()
            if model.target == target
        )
        deployments.append(
            report.Deployment(target, title, 1, 1, 50, (), 2, None, operations.placed(bare.deployed.counts), times)
        )
    return replace(bare, deployments=tuple(deployments))


@pytest.fixture(scope="module")
def made() -> report.Report:
    return report.build("t", "", [student()])


def test_one_row_per_model_and_what_it_says(made: report.Report) -> None:
    table = time_tables.times(made)
    assert table is not None
    assert [row.label for row in table.rows] == [model.title for model in time_models.built_in().values()]
    rows = dict(zip(time_models.built_in(), table.rows, strict=True))
    measured = [cell.text for cell in rows["loihi1-measured"].cells]
    # 4 steps of 5.8 to 850 µs; back to back 3 of them
    assert measured[0] == f"0.0232–3.40{SPACE}ms" and measured[1] == f"0.392–57.5{SPACE}k/s"
    assert measured[4] == "not known" and rows["loihi1-measured"].cells[0].small == (f"4{SPACE}steps",)
    energy = rows["loihi1-measured"].cells[2]
    assert energy.small[0] == "by loihi1-events, with static power"
    assert energy.small[1].endswith("by loihi1-sanafe, without static power")
    peak = [cell.text for cell in rows["loihi2-peak"].cells]
    assert peak[0].startswith("≥ ") and peak[1].startswith("≤ ") and peak[2:4] == ["not known", "not known"]
    assert peak[4] == "0, conv2.if" and rows["loihi2-peak"].cells[2].small == ("no energy model of this chip",)
    (step,) = rows["loihi2-measured"].cells[1].small
    assert step == f"2.45{SPACE}ms a step"


def test_the_page_markdown_and_sources_have_them(made: report.Report) -> None:
    text = re.sub("<[^>]*>", "", render(made))
    assert "Time per sample" in text and "Boundaries, constants and remarks of every step-time model" in text
    assert "barrier" in text and "a straight line between the two is an assumption" in text
    assert "## Time per sample under each model" in markdown.render(made)
    urls = {source.url for source in sources(made)}
    for model in time_models.built_in().values():
        assert {source.url for source in model.sources.values()} <= urls
    assert report.Report.from_json(made.to_json()) == made


def test_several_students_stand_side_by_side() -> None:
    both = report.build("t", "", [student(), student("other")])
    table = time_tables.times(both)
    assert table is not None and len(table.rows) == 2 * len(time_models.built_in())
    title = time_models.built_in()["loihi1-davies2018"].title
    assert [row.label for row in table.rows[:2]] == [f"s: {title}", f"other: {title}"]
    text = both.time_table()
    assert text is not None and len(text.rows) == len(table.rows)
    assert {row[2] for row in text.rows} == {"loihi1-events", "–"}


def test_nothing_placed_has_no_times() -> None:
    made = report.build("t", "", [replace(student(), deployments=())])
    assert time_tables.times(made) is None and made.time_table() is None
    assert "Time per sample" not in render(made)


def test_ends_far_apart_have_a_prefix_each() -> None:
    assert time_tables.span(Range(1e-9, 1e-6, 1e-5), "J·s") == f"1.00{SPACE}nJ·s – 10.0{SPACE}µJ·s"
    assert time_tables.span(Range(1e-6, 1e-6, 9e-4), "s") == f"1.00–900{SPACE}µs"
    assert time_tables.span(Range.exactly(0), "s").startswith("0")
