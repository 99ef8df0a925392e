"""`kdsnn-deploy profile`: several networks, formats, energy models of one's own, an ANN alone, and users' mistakes."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from exporters.graph import IF, Input, Linear, Output, chain
from hardware import emulator
from hardware.chips import fit, limits
from hardware.chips.work import CoreCounter
from kdsnn import checkpoint, models
from kdsnn.checkpoint import CheckpointInfo
from kdsnn.cli.app import main
from kdsnn.deploy.counting import FEW_SAMPLES, some
from kdsnn.deploy.on_chip import Pricing, on_chip
from kdsnn.deploy.report_options import BusyTime, distinct
from kdsnn.errors import KdsnnError
from profilers.counting.activity import ActivityCounter
from profilers.energy.models import Range
from profilers.report import Report

DATA = Path(__file__).parents[2] / "profilers" / "energy" / "data"


def cli(*arguments: object, code: int = 0) -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, ["kdsnn-deploy", *map(str, arguments)]
    found = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as end:
        found = int(end.code or 0)
    finally:
        sys.argv = before
    assert found == code, f"exit {found}\n{out.getvalue()}\n{err.getvalue()}"
    return out.getvalue(), err.getvalue()


def error(*arguments: object) -> str:
    lines = [line for line in cli("profile", *arguments, code=2)[1].splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained networks: an ANN and three students, of which two files have the same name."""
    import torch

    folder = tmp_path_factory.mktemp("profile")
    for name, spiking, channels in (
        ("ann", False, (8, 8)),
        ("a/net", True, (4, 4)),
        ("b/net", True, (6, 4)),
        ("c", True, (4, 8)),
    ):
        torch.manual_seed(len(name))
        options = {"channels": channels, "hidden": 16}
        module = models.build("cnn2", spiking=spiking, input_shape=(1, 8, 8), classes=10, **options)
        extra = ("rate", "if", 4) if spiking else (None, None, None)
        info = CheckpointInfo(
            "cnn2", spiking, (1, 8, 8), 10, "digits", options, *extra, metrics={} if spiking else {"test_accuracy": 0.5}
        )
        (folder / name).parent.mkdir(exist_ok=True)
        checkpoint.save(folder / f"{name}.safetensors", module, info)
    return folder


def made(out: Path) -> Report:
    return Report.from_json((out / "report.json").read_text(encoding="utf-8"))


def test_three_networks_side_by_side(folder: Path, tmp_path: Path) -> None:
    a, b, c = (folder / f"{name}.safetensors" for name in ("a/net", "b/net", "c"))
    arguments = ("--out", tmp_path, "--samples", 10, "--teacher", folder / "ann.safetensors", "--format", "json")
    shown, _ = cli("profile", a, "--compare", b, c, *arguments)
    report = made(tmp_path)
    assert [s.name for s in report.students] == ["a/net", "b/net", "c"]
    assert {s.role for s in report.students} == {"student"}
    assert report.title == "a/net, b/net, c on digits"
    assert len({s.deployed.parameters for s in report.students}) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.json"]
    starts = [line.split()[0] for line in shown.splitlines() if line.strip()]
    assert [starts.count(name) for name in ("a/net", "b/net", "c")] == [
        8,
        8,
        8,
    ]  # float and quantized, five step-time models, a note
    assert all(len(model.students) == 3 for model in report.energies)
    # the verdict's network comes first, wherever the flag stands
    cli("profile", "--compare", c, a, *arguments)
    assert [s.name for s in made(tmp_path).students] == ["c", "net"]


def test_several_networks_and_bits_are_a_sweep(folder: Path, tmp_path: Path) -> None:
    a, c = folder / "a/net.safetensors", folder / "c.safetensors"
    out = ("--samples", 12, "--out", tmp_path, "--bits", "4,8", "--timesteps", "1-2")
    shown, told = cli("profile", a, c, *out, "--format", "csv, svg")
    rows = [line.split()[:3] for line in shown.splitlines() if line.split()[:1] in (["net"], ["c"])]
    assert rows == [[name, bits, T] for name in ("net", "c") for bits in "48" for T in "12"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sweep.csv", "sweep.svg"]
    assert len((tmp_path / "sweep.csv").read_text(encoding="utf-8").splitlines()) == 9
    assert "count net in 4 bits: 100 %" in told and "was trained with T = 4, not 2" in told
    assert "--bits 2,x: it must be whole numbers from 2 to 8" in error(a, "--out", tmp_path, "--bits", "2,x")
    assert "--timesteps 3-1: it must be" in error(a, "--out", tmp_path, "--timesteps", "3-1")
    assert "--twin: a sweep has none" in error(a, c, "--out", tmp_path, "--twin", a)
    assert "not written as 'latex'" in error(a, c, "--out", tmp_path, "--format", "latex")


def test_everything_about_one_network(folder: Path, tmp_path: Path) -> None:
    formats = [part for name in ("html", "json", "csv", "markdown", "latex") for part in ("--format", name)]
    out, _ = cli("profile", folder / "c.safetensors", "--teacher", folder / "ann.safetensors", "--samples", 30,
                 "--out", tmp_path, *formats, "--json")  # fmt: skip
    assert list(json.loads(out)) == ["report.html", "report.json", "layers.csv", "report.md", "report.tex"]
    report = made(tmp_path)
    run = report.students[0].deployed
    assert len(run.accuracy_by_step) == run.T == 4
    assert any(layer.differing for layer in run.layers)
    # a teacher's zeros are skipped after its first ReLU: fewer than all multiplications, more than none
    assert report.teacher is not None and report.teacher.zero_skipping is not None
    assert 0 < report.teacher.zero_skipping.values["macs"].nominal < report.teacher.counts.macs
    assert [p.target for p in report.placements] == [t.title for t in limits.targets().values()]
    for placement in report.placements:
        assert placement.chips * placement.cores_per_chip >= placement.cores >= len(placement.rows) > 3
    # Loihi 1 takes no pixels: its first layer is on the host, and its spikes travel between tiles
    assert "on the host" in report.placements[0].note
    left_out = {m.name: s.left_out for m in report.energies if (s := m.students[0].estimate)}
    assert left_out["loihi1-events"] == ("static power × run time of all chips",)
    assert left_out["loihi1-sanafe"] == ()


def test_seconds_make_static_power(folder: Path, tmp_path: Path) -> None:
    """Two networks of T = 4, one chip each: 104 mW × what the user says, per image or per step; never a default."""
    arguments = ("--samples", 10, "--format", "json", "--out", tmp_path)
    networks = (folder / "c.safetensors", "--compare", folder / "a/net.safetensors")

    def static(*more: object) -> list[list[float] | None]:
        cli("profile", *networks, *arguments, *more)
        estimates = [s.estimate for m in made(tmp_path).energies if m.name == "loihi1-events" for s in m.students]
        found = [estimate.static for estimate in estimates if estimate]
        return [None if s is None else [s.low, s.nominal, s.high] for s in found]

    assert static() == [None, None]
    by_image = static("--seconds-per-image", "5e-3")
    assert by_image == [pytest.approx([0.0297 * 5e-3, 0.104 * 5e-3, 0.104 * 5e-3])] * 2
    by_step = static("--seconds-per-step", "1e-5,2e-5,6e-5")
    assert by_step == [pytest.approx([0.0297 * 4e-5, 0.104 * 8e-5, 0.104 * 24e-5])] * 2


def test_loihi_prices_what_is_placed(folder: Path, tmp_path: Path) -> None:
    """The checkpoint and the chain that `export` makes of it cost the same on Loihi, OR neurons included."""
    c = folder / "c.safetensors"
    cli("export", c, "--to", "netx", "--out", tmp_path)
    cli("profile", c, "--compare", tmp_path / "c.net", "--samples", 12, "--format", "json", "--out", tmp_path)
    report = made(tmp_path)
    checkpoint_, chain = report.students
    assert chain.deployed.neurons > checkpoint_.deployed.neurons
    placed = checkpoint_.on("loihi1")
    assert placed is not None and placed.neurons == chain.deployed.neurons
    for model in report.energies:
        first, second = (s.estimate for s in model.students)
        assert first is not None and second is not None
        if model.target:
            assert second.nominal == pytest.approx(first.nominal) and model.students[0].placed_on == "Loihi 1"
    events = next(m for m in report.energies if m.name == "loihi1-events")
    counts = chain.deployed.counts.values
    constants = (
        ("synops", 23.6),
        ("graded_ops", 23.6),
        ("active_updates", 81),
        ("inactive_updates", 52),
        ("spikes", 1.7),
    )
    by_hand = sum(counts[name].nominal * constant for name, constant in constants)
    by_hand += placed.counts.values["hops_ew"].nominal * 3 + placed.counts.values["hops_ns"].nominal * 4
    assert events.students[0].estimate is not None
    assert events.students[0].estimate.nominal == pytest.approx(by_hand * 1e-12)


def test_the_second_compartment_of_a_soft_reset_is_updated_too() -> None:
    """Loihi 1 gives a neuron that resets by subtraction two compartments, Loihi 2 one."""
    rng = np.random.default_rng(0)
    layer, last = (Linear(rng.integers(1, 9, shape).astype(np.int32)) for shape in ((7, 5), (2, 7)))
    graph = chain(
        [
            ("in", Input((5,), "spikes")),
            ("a", layer),
            ("n", IF(20, "soft")),
            ("b", last),
            ("m", IF(20)),
            ("o", Output()),
        ],
        3,
    )
    frames = rng.integers(0, 2, (4, 3, 5))
    for name, compartments in (("loihi1", 2 * 7 + 2), ("loihi2", 7 + 2)):
        counter, fits = ActivityCounter(graph), fit.check(graph, limits.target(name))
        assert fits.placement is not None
        cores = CoreCounter(fits.placement, graph)
        emulator.run(graph, frames, observe=counter)
        emulator.run(graph, frames, observe=cores)
        activity, work = counter.result(), cores.result()
        assert [layer.compartments.sum() for layer in work] == [compartments - 2, 2]
        pricing = Pricing({}, {}, BusyTime(Range.exactly(1e-3), per_step=True))
        found = on_chip(graph, fits, work, activity, pricing)
        assert found.deployment is not None
        counts = found.deployment.counts.values
        assert counts["neuron_updates"].nominal == 3 * compartments
        assert counts["inactive_updates"].nominal == pytest.approx(3 * compartments - counts["spikes"].nominal)
        assert counts["messages"].nominal == activity.neurons["n"].spikes.sum() / 4 > 0  # to the one core of m
        assert counts["chip_seconds"].nominal == pytest.approx(3e-3)
        assert ("hops_ew" in counts) == (name == "loihi1")


def test_an_ann_alone(folder: Path, tmp_path: Path) -> None:
    cli(
        "profile", folder / "ann.safetensors", "--samples", 5, "--out", tmp_path, "--format", "html", "--format", "json"
    )
    report = made(tmp_path)
    assert report.students == () and report.teacher is not None and report.placements == ()
    # measured on these images, whatever the checkpoint says of all
    assert report.teacher.accuracy in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    assert any(model.ann is not None for model in report.energies)
    assert f"The ANN cnn2, {100 * report.teacher.accuracy:.1f}" in (tmp_path / "report.html").read_text(
        encoding="utf-8"
    )


def test_an_energy_model_of_ones_own(folder: Path, tmp_path: Path) -> None:
    own = json.loads((DATA / "04-horowitz-45nm-int8.json").read_text(encoding="utf-8"))
    own |= {"name": "mine", "title": "My chip"}
    (tmp_path / "mine.json").write_text(json.dumps(own), encoding="utf-8")
    arguments = (folder / "c.safetensors", "--samples", 5, "--out", tmp_path / "out")
    cli("profile", *arguments, "--energy-model", tmp_path / "mine.json")
    energies = {m.name: m for m in made(tmp_path / "out").energies}
    assert list(energies)[-1] == "mine" and energies["mine"].title == "My chip"
    mine, known = energies["mine"].students[0].estimate, energies["horowitz-45nm-int8"].students[0].estimate
    assert mine is not None and known is not None and mine.nominal == known.nominal > 0
    assert "My chip" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")

    shutil.copy(DATA / "04-horowitz-45nm-int8.json", tmp_path / "known.json")
    assert "a model named horowitz-45nm-int8 already" in error(*arguments, "--energy-model", tmp_path / "known.json")
    elsewhere = json.loads((DATA / "10-loihi1-events.json").read_text(encoding="utf-8"))
    elsewhere |= {"name": "elsewhere", "target": "truenorth"}
    (tmp_path / "elsewhere.json").write_text(json.dumps(elsewhere), encoding="utf-8")
    message = error(*arguments, "--energy-model", tmp_path / "elsewhere.json")
    assert "target is 'truenorth'; placements are known for loihi1, loihi2" in message
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    assert "not valid JSON at line 1" in error(*arguments, "--energy-model", tmp_path / "broken.json")
    assert "none.json" in error(*arguments, "--energy-model", tmp_path / "none.json")


def test_mistakes_take_one_line_and_write_nothing(folder: Path, tmp_path: Path) -> None:
    a, c, ann = (folder / f"{name}.safetensors" for name in ("a/net", "c", "ann"))
    out = ("--out", tmp_path / "out")
    assert "no report format 'pdf'; choose from html, json" in error(c, *out, "--format", "pdf")
    assert not (tmp_path / "out").exists()
    assert "given twice" in error(a, "--compare", c, a, *out)
    assert "give the ANN" in error(ann, "--compare", c, *out) or "as --teacher" in error(ann, "--compare", c, *out)
    assert "this is a spiking network" in error(c, "--teacher", a, *out)
    for text in ("0", "-1e-3", "5ms", "nan", "inf", "1e-3,2e-3", "3e-3,2e-3,4e-3", ""):
        assert f"--seconds-per-image {text}: it must be seconds above 0" in error(
            c, *out, f"--seconds-per-image={text}"
        )
    assert "give one of them" in error(c, *out, "--seconds-per-image=1", "--seconds-per-step=1")
    assert "an ANN has no placement" in error(ann, *out, "--seconds-per-step=1e-5")


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        ([], []),
        (["x/student.safetensors"], ["student"]),
        (["x/student.safetensors", "y/student.safetensors"], ["x/student", "y/student"]),
        (["p/x/s.net", "q/x/s.net", "s.net"], ["p/x/s", "q/x/s", "s"]),
        (["s.net", "s.nir"], ["s.net", "s.nir"]),
        (["pkg.nets:small", "pkg.other:small"], ["pkg.nets:small", "pkg.other:small"]),
        (["pkg.nets:small", "small.net"], ["pkg.nets:small", "small"]),
    ],
)
def test_names_tell_networks_apart(sources: list[str], names: list[str]) -> None:
    assert distinct(sources) == names


def test_the_same_network_twice_is_a_mistake() -> None:
    with pytest.raises(KdsnnError, match=r"s\.net: given twice"):
        distinct(["s.net", "t.net", "s.net"])


def test_some_samples_are_spread_over_all() -> None:
    """Test images sorted by class must not be counted by their first class."""
    assert some(np.arange(10)).tolist() == list(range(10))
    found = some(np.arange(10 * FEW_SAMPLES))
    assert (found // 10).tolist() == list(range(FEW_SAMPLES))
