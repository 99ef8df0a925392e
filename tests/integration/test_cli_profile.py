"""`kdsnn-deploy profile`: several networks, formats, energy models of one's own, an ANN alone, and users' mistakes."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
from pathlib import Path

import pytest

from hardware import limits
from kdsnn import checkpoint, models
from kdsnn.checkpoint import CheckpointInfo
from kdsnn.cli.app import main
from kdsnn.cli.counting import distinct
from kdsnn.errors import KdsnnError
from profilers.report import Report

DATA = Path(__file__).parents[2] / "profilers" / "data"


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
    assert [starts.count(name) for name in ("a/net", "b/net", "c")] == [2, 2, 2]  # float and quantised
    assert all(len(model.students) == 3 for model in report.energies)
    # the verdict's network comes first, wherever the flag stands
    cli("profile", "--compare", c, a, *arguments)
    assert [s.name for s in made(tmp_path).students] == ["c", "net"]


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
    davies = next(m for m in report.energies if m.name == "loihi1-events").students[0].estimate
    assert davies is not None and not any("hop" in name for name in davies.left_out)


def test_an_ann_alone(folder: Path, tmp_path: Path) -> None:
    cli(
        "profile", folder / "ann.safetensors", "--samples", 5, "--out", tmp_path, "--format", "html", "--format", "json"
    )
    report = made(tmp_path)
    assert report.students == () and report.teacher is not None and report.placements == ()
    assert report.teacher.accuracy == 0.5
    assert any(model.ann is not None for model in report.energies)
    assert "The ANN cnn2, 50.0" in (tmp_path / "report.html").read_text(encoding="utf-8")


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
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    assert "not valid JSON at line 1" in error(*arguments, "--energy-model", tmp_path / "broken.json")
    assert "none.json" in error(*arguments, "--energy-model", tmp_path / "none.json")


def test_mistakes_take_one_line_and_write_nothing(folder: Path, tmp_path: Path) -> None:
    a, c, ann = (folder / f"{name}.safetensors" for name in ("a/net", "c", "ann"))
    out = ("--out", tmp_path / "out")
    assert "no report format 'pdf'; choose from html, json" in error(c, *out, "--format", "pdf")
    assert "2 sources; to set several beside each other add --compare" in error(a, c, *out)
    assert not (tmp_path / "out").exists()
    assert "given twice" in error(a, "--compare", c, a, *out)
    assert "give the ANN" in error(ann, "--compare", c, *out) or "as --teacher" in error(ann, "--compare", c, *out)
    assert "this is a spiking network" in error(c, "--teacher", a, *out)


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        ([], []),
        (["x/student.safetensors"], ["student"]),
        (["x/student.safetensors", "y/student.safetensors"], ["x/student", "y/student"]),
        (["p/x/s.net", "q/x/s.net", "s.net"], ["p/x/s", "q/x/s", "s"]),
        (["s.net", "s.nir"], ["s.net", "s.nir"]),
        (["pkg.nets:small", "pkg.other:small"], ["nets/small", "other/small"]),
        (["pkg.nets:small", "small.net"], ["nets/small", "small"]),
    ],
)
def test_names_tell_networks_apart(sources: list[str], names: list[str]) -> None:
    assert distinct(sources) == names


def test_the_same_network_twice_is_a_mistake() -> None:
    with pytest.raises(KdsnnError, match=r"s\.net: given twice"):
        distinct(["s.net", "t.net", "s.net"])
