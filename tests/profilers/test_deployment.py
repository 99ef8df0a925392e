"""What a placement adds to the energies and tables of a report, and what is said where there is none."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import profilers_example as example
import pytest

from exporters.errors import DeployError
from exporters.graph import IF, Input, Linear, Output, chain
from profilers import report
from profilers.counting.activity import ActivityCounter
from profilers.counting.statistics import share_interval, statistic
from profilers.energy import models, operations
from profilers.energy.count_names import PER_SPIKE
from profilers.energy.models import Range, load
from profilers.report import cells, energy_tables, figures, markdown, tables
from profilers.report.html import render
from profilers.report.numbers import SPACE, interval

PICO = 1e-12
EVENTS = "loihi1-events"


def deployed(
    student: report.Student, seconds: Range | None, chips: int = 3, host: tuple[str, ...] = ()
) -> report.Student:
    counts = operations.placed(
        student.deployed.counts,
        hops_ew=100,
        hops_ns=50,
        messages=70,
        chips=None if seconds is None else chips,
        seconds=seconds,
        extra_updates=40,
    )
    return replace(
        student, deployments=(report.Deployment("loihi1", "Loihi 1", 300, chips, 2000, host, 20, seconds, counts),)
    )


@pytest.fixture(scope="module")
def student() -> report.Student:
    return report.Student("s", example.run(example.network(), 0.9), example.run(example.network(integer=True), 0.8))


def estimates(made: report.Report, name: str) -> list[report.Report]:
    model = next(m for m in made.energies if m.name == name)
    return [s.estimate for s in model.students]  # type: ignore[misc]


def test_static_power_is_chips_times_seconds_and_stands_apart(student: report.Student) -> None:
    seconds = Range(1e-3, 2e-3, 4e-3)
    made = report.build("t", "", [deployed(student, seconds), replace(deployed(student, None), name="untimed")])
    timed, untimed = estimates(made, EVENTS)
    # 29.7 and 104 mW per chip, three chips
    by_hand = [0.0297 * 3e-3, 0.104 * 6e-3, 0.104 * 12e-3]
    assert [timed.static.low, timed.static.nominal, timed.static.high] == pytest.approx(by_hand)
    assert untimed.static is None and timed.left_out == ()
    assert untimed.left_out == ("static power × run time of all chips",)
    assert timed.nominal - untimed.nominal == pytest.approx(by_hand[1])
    # no other model gets any of it
    for model in made.energies:
        if model.name != EVENTS:
            assert model.students[0].estimate == model.students[1].estimate
    text = re.sub("<[^>]*>", "", render(made))
    assert f"of it static 0.0891–1.25{SPACE}mJ" in text
    assert f"3{SPACE}chips × 1.00–4.00{SPACE}ms" in text
    assert "missing from the sum of untimed: static power × run time of all chips." in text
    assert report.Report.from_json(made.to_json()) == made
    rows = {(row.label, row.hint): row.cells for row in tables.networks(made).rows}
    assert [c.text for c in rows["Time per image", "as given"]] == [f"2.00{SPACE}ms", "–"]
    assert rows["Time per image", "as given"][0].small == (f"1.00–4.00{SPACE}ms",)
    assert [(c.text, c.small) for c in rows["Cores", "Loihi 1"]] == [("300", (f"3{SPACE}chips",))] * 2


def test_what_a_placement_adds_by_hand(student: report.Student) -> None:
    """Hops, messages and the silent updates of second compartments; the network's own counts stay."""
    bare, placed = (report.build("t", "", [s]) for s in (student, deployed(student, None)))
    for name, added in (
        (EVENTS, 100 * 3.0 + 50 * 4.0 + 40 * 52),
        ("loihi1-sanafe", 100 * 3.0 + 50 * 4.2 + 40 * (51.2 + 21.6) + 70 * 111),
    ):
        (before,), (after,) = estimates(bare, name), estimates(placed, name)
        assert after.nominal - before.nominal == pytest.approx(added * PICO)
    assert bare.energies[0] == placed.energies[0]
    assert any("message to a core" in text for m in bare.energies for text in energy_tables.left_out(m))
    assert not any("message to a core" in text for m in placed.energies for text in energy_tables.left_out(m))


def test_the_page_says_what_was_priced(student: report.Student) -> None:
    text = render(report.build("t", "", [deployed(student, None, host=("conv1",))]))
    assert (
        f"(Loihi 1: 2,000{SPACE}neurons, 300{SPACE}cores, 3{SPACE}chips, means over 20{SPACE}images, "
        "conv1 on the host but priced like the rest)." in text
    )
    assert "Hops, messages, static power" in text
    bare = render(report.build("t", "", [student]))
    assert "means over" not in bare and "Hops, messages, static power" not in bare


def test_a_student_without_a_placement_beside_one_that_has_it(student: report.Student) -> None:
    made = report.build("t", "", [deployed(student, None), replace(student, name="bare")])
    row = next(r for r in energy_tables.energies(made).rows if "event model" in r.label)
    assert row.hint.endswith("as placed") and row.cells[0].small == () and row.cells[1].small == ("quantized run",)
    assert energy_tables.energies(made).columns[-1].small == ("of s", "spikes per synapse")
    model = next(m for m in made.energies if m.name == EVENTS)
    assert energy_tables.left_out(model) == [
        "not counted, so missing from the sum of s: static power × run time of all chips.",
        "not counted, so missing from the sum of bare: hop between tiles, east-west; hop between tiles, north-south; "
        "static power × run time of all chips.",
    ]


def test_an_integer_network_without_a_float_form_is_called_quantized() -> None:
    made = report.build("t", "", [report.Student("net", example.run(example.network(integer=True), 0.9))])
    assert all("float run" not in row.hint for row in energy_tables.energies(made).rows)
    assert "quantized run" in tables.layers(made.students[0]).caption
    assert set(report.layer_table(made)["run"]) == {"quantized"}


def test_a_model_of_a_chip_prices_that_chip_only(student: report.Student, tmp_path: Path) -> None:
    data = json.loads((Path(models.__file__).parent / "data" / "10-loihi1-events.json").read_text(encoding="utf-8"))
    data |= {"name": "other", "target": "otherchip"}
    (tmp_path / "other.json").write_text(json.dumps(data), encoding="utf-8")
    made = report.build(
        "t", "", [deployed(student, Range.exactly(1e-3))], models={"other": load(tmp_path / "other.json")}
    )
    (energies,) = made.energies
    assert energies.students[0].placed_on == ""
    assert len(energies.students[0].estimate.left_out) == 3  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": None}, "snn counts hops_ew, which a placement gives; name its chip in target"),
        ({"target": " "}, "target must be a text that is not empty"),
        ({"arithmetic": "float"}, "arithmetic is 'float', but on target runs the quantized network; write 'integer'"),
        (
            {"ann": [{"name": "x", "count": "chip_seconds", "constants": ["static"]}]},
            "ann counts chip_seconds, which only the placement of a spiking network gives",
        ),
    ],
)
def test_models_that_need_a_placement_name_their_chip(tmp_path: Path, change: dict[str, object], message: str) -> None:
    data = json.loads((Path(models.__file__).parent / "data" / "10-loihi1-events.json").read_text(encoding="utf-8"))
    data = copy.deepcopy(data) | change
    if data["target"] is None:
        del data["target"]
    (tmp_path / "m.json").write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(DeployError, match=re.escape(message)):
        load(tmp_path / "m.json")


def test_less_than_a_dense_ann_means_that_the_ranges_do_not_meet(student: report.Student) -> None:
    """INT8: the student's highest value lies above the ANN's lowest, so no saving is claimed, though there is one at the
    same constants, which the figure shows."""
    made = report.build("t", "", [student])
    both = [(m.name, s.estimate, s.as_ann) for m in made.energies for s in m.students if s.estimate and s.as_ann]
    synops = {m.name: student.run_for(m.students[0].arithmetic).synops for m in made.energies}
    below = []
    for name, own, ann in both:
        spikes = sum(line.joules.high for line in own.breakdown if line.counted in PER_SPIKE)
        wider = own.high + spikes * (synops[name].high / synops[name].mean - 1)
        if wider < ann.low:
            below.append(name)
    int8 = next(m for m in made.energies if m.name == "horowitz-45nm-int8").students[0]
    assert "horowitz-45nm-int8" not in below and max(figures.ratios(int8) or (1,)) < 1
    assert 0 < len(below) < len(both)
    assert f"less than a dense ANN of its shape under {len(below)} of {len(both)}" in render(made)


# -- few samples, silence, one step ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "samples", "low", "high"),
    # Newcombe 1998 (Stat. Med. 17:857), table I, method 3: 81/263, 15/148, 0/20, 1/29; and one sample of one
    [
        (81 / 263, 263, 0.2553, 0.3662),
        (15 / 148, 148, 0.0624, 0.1605),
        (0 / 20, 20, 0.0, 0.1611),
        (1 / 29, 29, 0.0061, 0.1718),
        (1.0, 1, 0.2065, 1.0),
    ],
)
def test_wilson_interval_against_published_values(share: float, samples: int, low: float, high: float) -> None:
    assert share_interval(share, samples) == pytest.approx((low, high), abs=5e-5)


def test_a_handful_of_samples_has_no_bootstrap_interval() -> None:
    counts = np.arange(12)[:, None]
    assert cells.confidence(statistic(counts[:9])) == (f"9{SPACE}samples, too few for an interval",)
    assert cells.confidence(statistic(counts[:1])) == (f"1{SPACE}sample, too few for an interval",)
    assert cells.confidence(statistic(counts))[0].startswith(f"95{SPACE}%{SPACE}CI ")
    assert cells.confidence(statistic(np.full((12, 1), 7))) == ()


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [(84_400, 85_600, "84.4–85.6 k"), (115_310, 115_390, "115.3–115.4 k"), (1331.2, 1341, "1,331–1,341")],
)
def test_an_interval_shows_both_its_ends(low: float, high: float, text: str) -> None:
    assert interval(low, high).replace(SPACE, " ") == text


@pytest.mark.parametrize("T", [1, 3])
@pytest.mark.parametrize("samples", [1, 4])
@pytest.mark.parametrize("pixel", [0.0, 1.0])
@pytest.mark.parametrize("threshold", [0.5, 1e9])
def test_silence_one_step_and_one_sample_have_a_report(T: int, samples: int, pixel: float, threshold: float) -> None:
    """Nothing is divided by zero, and no number is missing where one can be had."""
    graph = chain(
        [
            ("in", Input((6,))),
            *(
                ("a", Linear(np.ones((4, 6)))),
                ("n", IF(threshold)),
                ("b", Linear(np.ones((3, 4)))),
                ("m", IF(threshold)),
            ),
            ("o", Output("rate")),
        ],
        T,
    )
    spikes = float(pixel >= threshold / 6)
    counter = ActivityCounter(graph)
    import torch

    counter("in", torch.full((1, samples, 6), pixel))
    counter("n", torch.full((T, samples, 4), spikes))
    counter("m", torch.full((T, samples, 3), spikes))
    run = report.summarize(graph, counter.result(), (1.0,) * T)
    made = report.build("t", "", [report.Student("s", run)], teacher=example.teacher())
    assert run.synops.mean == T * 12 * spikes and run.spikes_per_synapse == T * spikes
    for text in (render(made), markdown.render(made), made.to_json()):
        assert not re.search(r"\b(nan|inf|NaN|Infinity)\b", text)
    for model in made.energies:
        assert (model.students[0].break_even is None) or spikes
        estimate = model.students[0].estimate
        assert estimate is not None and 0 <= estimate.low <= estimate.nominal <= estimate.high
    assert report.Report.from_json(made.to_json()) == made
