from __future__ import annotations

import dataclasses
import html.parser
import json
import platform
import re
from pathlib import Path

import pandas as pd
import profilers_example as example
import pytest

from exporters.errors import DeployError
from exporters.version import VERSION as PROGRAM
from profilers import report
from profilers.energy.models import Range
from profilers.report import data as report_data
from profilers.report.html import render
from profilers.report.numbers import SPACE, memory, number, percent, quantity, spread


@pytest.fixture(scope="module")
def made() -> report.Report:
    return example.example()


class Page(html.parser.HTMLParser):
    """Collects tags with attributes, text, and checks that tags close in order."""

    VOID = frozenset({"meta", "link"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words).replace(SPACE, " "))


def test_json_round_trip(made: report.Report) -> None:
    text = made.to_json()
    assert report.Report.from_json(text) == made
    assert json.loads(text)["version"] == report_data.VERSION
    bare = report.build("bare", "x", [report.Student("s", example.run(example.network(), None))])
    assert report.Report.from_json(bare.to_json()) == bare


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 99}', '{"version": 1}', '{"version": 1, "title": "x"}'])
def test_bad_json_is_explained(text: str) -> None:
    with pytest.raises(DeployError, match="report"):
        report.Report.from_json(text)


def test_damaged_reports_are_explained(made: report.Report) -> None:
    """Of the right version, but a part is gone or is something else."""
    whole = json.loads(made.to_json())
    for key in whole.keys() - {"version"}:
        with pytest.raises(DeployError, match=rf"the report is damaged \(\w+: .*{key}.*\); write it again"):
            report.Report.from_json(json.dumps({k: v for k, v in whole.items() if k != key}))
    for damage in ({"students": 3}, {"students": [3]}, {"students": [{}]}, {"energies": [[]]}):
        with pytest.raises(DeployError, match=r"the report is damaged \(\w+: .+\); write it again"):
            report.Report.from_json(json.dumps(whole | damage))


def test_files(made: report.Report, tmp_path: Path) -> None:
    written = report.write(made, tmp_path / "new" / "folder")
    assert sorted(written) == ["layers.csv", "report.html", "report.json"]
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == sorted(written)
    assert report.Report.from_json(written["report.json"].read_text(encoding="utf-8")) == made
    assert written["report.html"].read_text(encoding="utf-8") == render(made)
    table = pd.read_csv(written["layers.csv"])
    rows = table[(table.student == "distilled") & (table.run == "quantized") & (table.role == "spikes")]
    run = made.students[0].deployed
    assert rows.operations.sum() == pytest.approx(run.synops.mean)
    assert table.groupby(["student", "run"]).spikes.sum()["distilled", "float"] == pytest.approx(
        made.students[0].float_run.spikes.mean
    )
    assert len(table) == 4 * 4


def test_the_page_needs_nothing_from_outside(made: report.Report) -> None:
    page = Page(render(made))
    for tag, attributes in page.found:
        assert tag not in ("script", "img", "iframe", "object", "embed", "use", "image", "base", "form")
        assert "src" not in attributes and not any(name.startswith("on") for name in attributes)
        if "href" in attributes:
            target = str(attributes["href"])
            assert target.startswith(("https://", "#")) if tag == "a" else target == "data:,"
    assert "url(" not in render(made) and "@import" not in render(made)
    policies = [a["content"] for tag, a in page.found if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_everything_a_user_wrote_is_escaped(made: report.Report) -> None:
    evil = "\"><script>alert(1)</script>&'"
    student = dataclasses.replace(
        made.students[0],
        name=evil,
        quantized_run=dataclasses.replace(
            made.students[0].deployed,
            layers=tuple(dataclasses.replace(layer, name=evil) for layer in made.students[0].deployed.layers),
        ),
    )
    assert made.teacher is not None
    hostile = report.build(
        evil,
        evil,
        [student],
        teacher=dataclasses.replace(made.teacher, name=evil),
        comparisons=[report.ComparisonReport(evil, 1, None, 2, evil, evil)],
        data=evil,
        notes=[evil],
    )
    text = render(hostile)
    assert "<script" not in text
    assert Page(text).text.count(evil) >= 10
    assert report.Report.from_json(hostile.to_json()) == hostile


def test_the_contents_lead_to_every_section(made: report.Report) -> None:
    alone = report.build("ANN on digits", "", [], teacher=made.teacher)
    for one in (made, alone, example.events()):
        page = Page(render(one))
        targets = [str(a["href"])[1:] for tag, a in page.found if tag == "a" and str(a.get("href", "")).startswith("#")]
        anchors = [a["id"] for tag, a in page.found if tag == "section" and "id" in a]
        assert targets == anchors and len(set(anchors)) == len(anchors) > 3


def test_footer_and_json_say_where_it_comes_from(made: report.Report) -> None:
    seeded = report.build("t", "kdsnn-deploy profile", made.students, seeds={"training of distilled": 3})
    footer = Page(render(seeded)).text.rpartition("Made by")[2]
    data = json.loads(seeded.to_json())
    assert data["origin"]["seeds"] == {"training of distilled": 3, "confidence intervals": 0}
    for expected in ("kdsnn-deploy profile", PROGRAM, platform.machine(), "training of distilled 3"):
        assert expected in footer
    assert data["origin"]["program"].endswith(PROGRAM) and platform.node() not in seeded.to_json()


def test_what_does_not_fit_is_red_and_above_everything_else(made: report.Report) -> None:
    problems = (report.FitProblem("conv1", "a weight of 300; Loihi 1 holds ±127", "quantize with fewer bits"),) * 2
    fits = [
        report.ChipFit("distilled", "loihi1", "Loihi 1", problems),
        report.ChipFit("distilled", "loihi2", "Loihi 2", ()),
    ]
    bad = report.build("t", "", made.students, fits=fits)
    text = (
        "distilled does not fit Loihi 1: conv1: a weight of 300; Loihi 1 holds ±127 (and 1 problem more). "
        "What to change: quantize with fewer bits."
    )
    page = Page(render(bad))
    assert [a for tag, a in page.found if a.get("class") == "misfit"] == [{"class": "misfit"}]
    assert page.text.index(text) < page.text.index("needs 4 time steps")
    assert ".misfit { color: var(--bad);" in render(bad)
    assert not any(a.get("class") == "misfit" for _, a in Page(render(made)).found)
    plain = text.replace(" ", r"\s+")  # lines are folded
    assert bad.verdict[0].bad and str(bad).startswith("distilled does not fit Loihi 1:") and plain


def test_the_page_says_what_it_must(made: report.Report) -> None:
    text = Page(render(made)).text
    run, twin = made.students[0].deployed, made.students[1].deployed
    for expected in (
        "96.7 % accurate, needs 4 time steps",
        "KDSNN’s “SynOps”",
        "Lava 0.10.0: 0 spikes differ from emulator, 20 samples",
        "No ANN entry: an ANN does not run on Loihi 1",
        "Static power of 104 mW per chip",
        "Not counted, so missing from the sum: hop between tiles, east-west",
        "kdsnn-deploy demo --out demo-output --seed 0",
        quantity(run.synops.mean).replace(SPACE, " "),
        quantity(twin.synops.mean).replace(SPACE, " "),
        quantity(run.synops_nonzero.mean).replace(SPACE, " "),
        *(f"{one.answer} {one.text}".replace(SPACE, " ") for one in made.verdict if one.question),
        quantity(run.rate_macs.mean).replace(SPACE, " "),
        f"own {number(run.spikes_per_synapse or 0)}",
    ):
        assert expected in text, expected
    for row in made.energies:
        assert row.title in text
        estimate = row.students[0].estimate
        assert estimate is not None
        assert spread(Range(estimate.low, 0, estimate.high), "J").replace(SPACE, " ") in text


def test_a_mismatch_is_not_hidden(made: report.Report) -> None:
    bad = dataclasses.replace(made, comparisons=(report.ComparisonReport("Lava", 20, 0.9, 1234, "emulator"),))
    page = Page(render(bad))
    assert "✗ Lava: 1,234 spikes differ from emulator, 20 samples" in page.text
    assert any(a.get("class") == "check bad" for _, a in page.found)
    expected = dataclasses.replace(bad.comparisons[0], must_agree=False, compared_spikes=9000)
    page = Page(render(dataclasses.replace(made, comparisons=(expected,))))
    assert "≈ Lava: 1,234 of 9,000 spikes differ from emulator, 20 samples" in page.text
    assert not any(a.get("class") == "check bad" for _, a in page.found)


def test_float_models_take_the_float_run_and_integer_models_the_quantized_one(made: report.Report) -> None:
    used = {row.name: row.students[0].arithmetic for row in made.energies}
    assert used["horowitz-45nm-fp32"] == "float"
    assert used["horowitz-45nm-int8"] == used["loihi1-events"] == "integer"
    student, fp32 = made.students[0], made.energies[0].students[0]
    assert fp32.estimate is not None and fp32.as_ann is not None
    expected = 4.6e-12 * student.float_run.macs_repeated + 0.9e-12 * student.float_run.synops.mean
    assert fp32.estimate.nominal == pytest.approx(expected)
    assert fp32.as_ann.nominal == pytest.approx(4.6e-12 * (9 * 1024 + 16 * 9 * 512 + 128 * 64 + 640))


def test_a_report_without_teacher_twin_quantization_or_accuracy_still_reads_well() -> None:
    student = report.Student("s", example.run(example.network(), None))
    text = Page(render(report.build("bare", "x", [student]))).text
    assert "The student needs 4 time steps" in text
    assert "None" not in text and "teacher" not in text.split("Conventions")[0].lower()
    silent = dataclasses.replace(student.float_run, spikes_per_synapse=None)
    Page(render(report.build("bare", "x", [report.Student("s", silent)], models={})))


def test_students_need_names_of_their_own(made: report.Report) -> None:
    for students in ([], [made.students[0], made.students[0]]):
        with pytest.raises(DeployError, match="students with different names"):
            report.build("t", "c", students)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (quantity(4.1234e-6, "J"), "4.12 µJ"),
        (quantity(0, "J"), "0 J"),
        (quantity(999.96e-9, "J"), "1.00 µJ"),
        (quantity(1e-12, "J"), "1.00 pJ"),
        (quantity(557_880_320, digits=5), "557.88 M"),
        (quantity(1652), "1,652"),
        (quantity(81.123), "81.1"),
        (quantity(0.05), "0.0500"),
        (quantity(130_400), "130 k"),
        (quantity(9_999.6), "10,000"),
        (number(7_385_984), "7,385,984"),
        (number(0.789), "0.789"),
        (spread(Range(3.1e-9, 5e-9, 9.44e-9), "J"), "3.10–9.44 nJ"),
        (spread(Range(0.31e-6, 1e-6, 9.4e-6), "J"), "0.310–9.40 µJ"),
        (spread(Range(1.0001e-9, 1e-9, 1e-9), "J"), "1.00 nJ"),
        (spread(Range(0.0, 0.0, 0.0)), "0"),
        (spread(Range(0.15, 0.5, 1.38)), "0.150–1.38"),
        (percent(0.9722), "97.2 %"),
        (memory(8 * 13_584), "13.6 kB"),
    ],
)
def test_numbers_as_people_read_them(text: str, expected: str) -> None:
    assert text.replace(SPACE, " ") == expected


def test_an_ann_alone_has_a_report(made: report.Report) -> None:
    assert made.teacher is not None
    alone = report.build("ANN on digits", "", [], teacher=made.teacher)
    assert report.Report.from_json(alone.to_json()) == alone
    text = Page(render(alone)).text
    macs = made.teacher.counts.macs
    assert (
        f"The ANN cnn2 (32, 64), 98.9 % accurate, needs {quantity(macs)} multiply-accumulates".replace(SPACE, " ")
        in text
    )
    for absent in ("None", "student", "Layer by layer", "Over time", "Placement", "Break-even", "Made by"):
        assert absent not in text.split("Conventions")[0], absent
    fp32 = alone.energies[0]
    assert fp32.ann is not None and fp32.ann.nominal == pytest.approx(4.6e-12 * macs)
    assert fp32.ann_zero_skipping is not None and fp32.ann_zero_skipping.nominal < fp32.ann.nominal
    with pytest.raises(DeployError, match="a teacher or students"):
        report.build("nobody", "", [])


def test_a_teacher_of_which_only_macs_are_known_has_no_energy_with_memory(made: report.Report) -> None:
    assert made.teacher is not None
    bare = dataclasses.replace(made.teacher, dense=None, zero_skipping=None)
    energies = {m.name: m for m in report.build("t", "", made.students, teacher=bare).energies}
    assert energies["lemaire2022"].ann is None and energies["horowitz-45nm-int8"].ann is not None
    assert {m.name: m for m in made.energies}["lemaire2022"].ann is not None


def test_charts_show_what_the_report_holds(made: report.Report) -> None:
    page = Page(render(made))
    charts = [str(a["aria-label"]) for tag, a in page.found if tag == "svg" and "aria-label" in a]
    assert [c.split(",")[0] for c in charts] == [
        "Firing rate per neuron and time step of every neuron layer",
        "Synaptic operations per sample of every layer fed by spikes",
        "Share of neurons and steps that differ between the float and the quantized run",
        "Share of each layer in the energy",
        "Accuracy and counts at every time step",
        "Accuracy against synaptic operations",
        "Energy of the student divided by that of a dense ANN of its shape under the same model",
        "Break-even of every energy model",
        "Cores of chip 1 of Loihi 1",
        "Cores of chip 2 of Loihi 1",
    ]
    # 100 + 40 + 3 + 1 cores on two chips of 128
    cores = re.findall(r'<rect class="(c\d|track)"[^>]*><title>', render(made))
    assert [cores.count(c) for c in ("c0", "c1", "c2", "c3", "track")] == [100, 40, 3, 1, 256 - 144]
    assert "conv2: synaptic memory, 75.0 %" in page.text
    run = made.students[0].deployed
    differing = next(layer.differing for layer in run.layers if layer.name == "conv2")
    assert differing == 40.25 and percent(40.25 / (4 * 512), 2).replace(SPACE, " ") in page.text
    operations = re.search(r'aria-label="Synaptic operations[^"]*".*?</figure>', render(made), re.DOTALL)
    assert operations is not None
    for layer in run.layers:  # all but the first, which reads pixels
        shown = f">{quantity(layer.operations or 0)}<" in operations[0]
        assert shown == (layer.role == "spikes"), layer.name
    for t in range(4):
        point = (
            f"t = {t + 1}: {percent(run.accuracy_by_step[t])} at {quantity(sum(run.synops_by_step[: t + 1]))} SynOps"
        )
        assert point.replace(SPACE, " ") in page.text


def test_energy_relative_to_the_ann_of_its_shape(made: report.Report) -> None:
    """FP32 at 45 nm by hand: the analog layer once or at all four steps, SynOps at 0.9 pJ, against 4.6 pJ per MAC."""
    run = made.students[0].float_run
    dense = 4.6 * run.dense_macs
    low, high = ((4.6 * macs + 0.9 * run.synops.mean) / dense for macs in (run.macs_once, run.macs_repeated))
    assert f"{spread(Range(low, low, high))}×" in Page(render(made)).text


def test_many_chips_and_many_students(made: report.Report) -> None:
    wide = example.wide()
    text = Page(render(wide)).text
    assert "2 more below" in text
    huge = dataclasses.replace(made.placements[0], chips=20, rows=(report.LayerCores("a", 2500, "neurons", 1.0),))
    text = render(dataclasses.replace(made, placements=(huge,)))
    assert text.count('aria-label="Cores of chip') == 8 and "and 12 more" in text
