"""What the README and the pages in docs/ show: their Python runs, their commands run, their links lead somewhere."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from PIL import Image

import kdsnn
from kdsnn import checkpoint, models
from kdsnn.checkpoint import CheckpointInfo
from kdsnn.cli.app import app, main
from kdsnn.data import load
from tests import notebooks

ROOT = Path(__file__).parent.parent
RECORDS = ROOT / "docs" / "results"
"""What was once run, for hours: there the commands must exist, and are not run again."""
README = ROOT / "README.md"
NOTEBOOKS = sorted((ROOT / "docs").glob("*.ipynb"))
FROM_PYTHON = ROOT / "docs" / "from-python.md"
WRITTEN = [page for page in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in page.parts]
PAGES = [README, ROOT / "CONTRIBUTING.md", *WRITTEN]
QUICK = {verb: ["--epochs", "1", "--overwrite"] for verb in ("pretrain", "distill")}
"""What a command gets besides, so that it ends soon, where a page's files lie already. From Python a page's own number of epochs counts, if it says one."""
NARROW = {"channels": (4, 4), "hidden": 16}
"""A cnn2 that a page trains at full width is trained so narrow: its commands are what is tried, not its millions of weights."""
NOT_RUN = {"make", "pip", "uv", "python", "accelerate"}
"""Programs whose lines are not run: the suite itself runs inside of `make test`, benchmarks have checks of their own."""
MAY_FAIL = {"check": {0, 1}}
"""`check` exits with 1 when a network does not fit."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the pages speak of."""
    folder = tmp_path_factory.mktemp("docs")
    data = load("digits")
    np.savez(
        folder / "mydata.npz",
        x_train=data.x_train[:64], y_train=np.arange(64) % 10,
        x_test=data.x_test[:40], y_test=np.arange(40) % 10,
    )  # fmt: skip
    Image.fromarray(data.x_test[0, 0]).save(folder / "digit.png")
    torch.manual_seed(0)
    for name, spiking in (("teacher", False), ("student", True)):
        module = models.build("cnn2", spiking=spiking, input_shape=(1, 8, 8), classes=10, **NARROW)
        kinds = {"readout": "rate", "neuron": "if", "T": 4} if spiking else {}
        info = CheckpointInfo("cnn2", spiking, (1, 8, 8), 10, "digits", NARROW, **kinds)
        checkpoint.save(folder / f"{name}.safetensors", module.eval(), info)
    monkey = ["kdsnn-deploy", "export", str(folder / "student.safetensors"), "--out", str(folder)]
    cli(
        [
            *monkey[1:],
            "--to",
            "onnx",
            "--form",
            "sequence",
            "--form",
            "loop",
            "--form",
            "step",
            "--to",
            "netx",
            "--to",
            "nir",
        ]
    )
    shutil.copy(folder / "student.nir", folder / "theirs.nir")
    data = ROOT / "tests" / "exporters" / "data"
    shutil.copy(data / "slayer_cuba.net", folder / "slayer.net")
    with np.load(data / "slayer_cuba.npz") as slayer:
        np.savez(folder / "spikes.npz", x_test=slayer["x"], y_test=slayer["y"].sum(axis=1).argmax(axis=1))
    return folder


def cli(arguments: list[str]) -> int:
    """Run the command line in this process; its exit code."""
    before = sys.argv
    sys.argv = ["kdsnn-deploy", *arguments]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
    return 0


def quick(arguments: list[str]) -> list[str]:
    """What a command gets besides, so that it ends soon."""
    more = QUICK.get(arguments[0], [])
    if more and arguments[1] == "cnn2" and not {"--option", "--start"} & set(arguments):  # a start has its own
        for name, value in NARROW.items():
            numbers = value if isinstance(value, tuple) else (value,)
            more = [*more, "--option", f"{name}={','.join(map(str, numbers))}"]
    return more


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """(language, text) of every fenced block."""
    yield from re.findall(r"^```(\S*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def with_code(language: str) -> list[Path]:
    found = []
    for page in PAGES:
        texts = [text for kind, text in blocks(page) if kind == language]
        if any(language or "kdsnn-deploy " in text for text in texts):
            found.append(page)
    return found


def known(page: Path) -> dict[str, object]:
    """The names that a page takes as given: a module of the reader's own, his images, his camera."""
    from exporters.from_torch import from_torch

    module, _ = checkpoint.load("student.safetensors")
    teacher, _ = checkpoint.load("teacher.safetensors")
    x = np.random.default_rng(0).random((3, 1, 8, 8)).astype(np.float32)
    return {
        "__name__": page.stem,
        "module": module,
        "teacher": teacher,
        "graph": from_torch(module, (1, 8, 8), 4),
        "x": x,
        "camera": [x, x],
    }


def python_of(page: Path) -> list[str]:
    return [text for language, text in blocks(page) if language == "python"]


def lines_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def test_the_readme_shows_what_is_run() -> None:
    """Its example is that of `docs/from-python.md`, which is run; so it is not run twice."""
    (example,) = python_of(README)
    assert example == python_of(FROM_PYTHON)[0]
    assert len(lines_of(example)) <= 10


def test_a_students_way_to_lava_is_short() -> None:
    first = python_of(ROOT / "docs" / "your-teacher-and-student.md")[0]
    assert "kdsnn.run(" in first and '"lava"' in first and "assert result.ok" in first
    assert len(lines_of(first)) <= 25


@pytest.mark.parametrize("page", [page for page in with_code("python") if page != README], ids=lambda page: page.name)
def test_python_runs(
    page: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lava_python: Path
) -> None:
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for verb in QUICK:
        monkeypatch.setattr(kdsnn, verb, partial(getattr(kdsnn, verb), epochs=1, overwrite=True))
    names = known(page)
    for text in python_of(page):
        if named := re.match(r"# (\w+\.py)\n", text):
            Path(named[1]).write_text(text)
        exec(compile(text, page.name, "exec"), names)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All cells in one process, on few images; and what is stored was shown by the same cells, is whole and small."""
    tiny = load("digits")
    tiny = replace(
        tiny, x_train=tiny.x_train[:64], y_train=tiny.y_train[:64], x_test=tiny.x_test[:8], y_test=tiny.y_test[:8]
    )
    monkeypatch.setattr(kdsnn, "load_data", lambda name: tiny)
    for verb in QUICK:
        monkeypatch.setattr(kdsnn, verb, partial(getattr(kdsnn, verb), epochs=1))
    monkeypatch.chdir(tmp_path)
    stored, found = notebooks.read(path), notebooks.read(path)
    assert (stored["nbformat"], path.stat().st_size < 60_000) == (4, True)
    notebooks.run(found, {"__name__": "__main__"})
    for then, now in zip(notebooks.code_cells(stored), notebooks.code_cells(found), strict=True):
        assert then["execution_count"] == now["execution_count"]
        assert [shape_of(o) for o in then["outputs"]] == [shape_of(o) for o in now["outputs"]]
    assert {path.suffix for path in Path("exported").iterdir()} >= {".onnx", ".net", ".nir"}
    assert Path("report/report.html").exists()


def shape_of(output: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """What kind of output it is, and in what forms it is shown."""
    return output["output_type"], tuple(output.get("data", ()))


@pytest.mark.parametrize("page", with_code(""), ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_run(
    page: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lava_python: Path
) -> None:
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    ran = 0
    for language, text in blocks(page):
        if named := re.match(r"# (\w+\.py)\n", text):
            Path(named[1]).write_text(text)
        lines = text.replace("\\\n", " ").splitlines()
        if language or not any(line.startswith("kdsnn-deploy ") for line in lines):
            continue
        for line in filter(None, lines):
            program, *arguments = shlex.split(line, comments=True)
            assert program == "kdsnn-deploy" or program in NOT_RUN, f"{page.name}: {line}"
            if program == "kdsnn-deploy" and page.is_relative_to(RECORDS):
                verb = typer.main.get_command(app).commands[arguments[0]]  # type: ignore[attr-defined]
                known_options = {option for parameter in verb.params for option in parameter.opts}
                assert {a for a in arguments if a.startswith("--")} <= known_options, f"{page.name}: {line}"
                ran += 1
            elif program == "kdsnn-deploy":
                verb = arguments[0]
                code = cli([*arguments, *quick(arguments)])
                assert code in MAY_FAIL.get(verb, {0}), f"{page.name}: {line}: exit {code}"
                ran += 1
    assert ran


def test_the_readme_fits_the_width_of_its_page() -> None:
    """Where repositories are looked at, lines of code beyond 96 columns scroll, and so do tables of many columns."""
    assert [line for _, text in blocks(README) for line in text.splitlines() if len(line) > 96] == []
    rows = [line for line in README.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    assert rows and max(row.count("|") - 1 for row in rows) <= 6 and max(map(len, rows)) <= 96


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            other = page.parent / path if path else page
            assert other.exists(), f"{page.name}: {target}"
            if anchor:
                titles = re.findall(r"^#+ (.*)$", other.read_text(encoding="utf-8"), re.MULTILINE)
                slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
                assert anchor in slugs, f"{page.name}: {target}"


EXTENDING = ROOT / "docs" / "extending.md"


def test_the_guide_names_files_that_are_there_and_what_is_in_them() -> None:
    for section in EXTENDING.read_text(encoding="utf-8").split("\n## "):
        named = re.findall(r"`([\w./-]+)`", re.sub(r"^```.*?^```", "", section, flags=re.DOTALL | re.MULTILINE))
        files = [ROOT / name for name in named if "/" in name or name.endswith(".md")]
        assert [file for file in files if not file.exists()] == []
        text = "".join(file.read_text(encoding="utf-8") for file in files if file.is_file())
        names = {name for name in named if re.fullmatch(r"[A-Z]\w+|[a-z]+_\w+", name)} - {"SpikingGraph"}
        assert {name for name in names if not re.search(rf"\b{name}\b", text)} == set(), section.splitlines()[0]
