"""What is built from this tree: a wheel that is whole, a source distribution that can test itself, a page for an index."""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

import pytest

import kdsnn
from exporters.version import VERSION

ROOT = Path(__file__).parents[2]
PACKAGES = ("exporters", "hardware", "kdsnn", "profilers")
BESIDES = ("benchmarks", "docs", "tests")
TOP = (
    "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "MANIFEST.in", "Makefile", "README.md", "constraints.txt",
    "pyproject.toml", "setup.py",
)  # fmt: skip
NO_PART = shutil.ignore_patterns("__pycache__", "_build", "*.pyc", "*.egg-info", ".*")


@dataclass(frozen=True)
class Built:
    """Names of the files in each, and the wheel's metadata. `source` is where they were built."""

    source: Path
    wheel: frozenset[str]
    sdist: frozenset[str]
    metadata: Message


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Built in a copy and without an environment of its own: setuptools is there, and no network is needed."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in (*PACKAGES, *BESIDES):
        shutil.copytree(ROOT / name, source / name, ignore=NO_PART)
    for name in TOP:
        shutil.copy(ROOT / name, source)
    code = f"from setuptools import build_meta as b; b.build_sdist({str(out)!r}); b.build_wheel({str(out)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(out.glob("*.whl"))) as wheel:
        names = frozenset(wheel.namelist())
        metadata = wheel.read(f"kdsnn_deploy-{VERSION}.dist-info/METADATA").decode()
    with tarfile.open(next(out.glob("*.tar.gz"))) as sdist:
        files = (member.name.partition("/")[2] for member in sdist if member.isfile())
        return Built(source, names, frozenset(files), email.message_from_string(metadata))


def files_in(root: Path, *folders: str) -> set[str]:
    """What the copy has, and not what building left in it."""
    found = (file for folder in folders for file in (root / folder).rglob("*") if file.is_file())
    return {file.relative_to(root).as_posix() for file in found if "__pycache__" not in file.parts}


def test_the_wheel_holds_the_packages_and_nothing_else(built: Built) -> None:
    inside = {name for name in built.wheel if ".dist-info/" not in name}
    assert inside == files_in(built.source, *PACKAGES)
    assert {f"{package}/py.typed" for package in PACKAGES} <= inside
    assert any(name.endswith("licenses/LICENSE") for name in built.wheel)


def test_the_source_distribution_can_test_itself(built: Built) -> None:
    assert files_in(built.source, *PACKAGES, *BESIDES) - built.sdist == set()
    assert set(TOP) - built.sdist == set()
    assert not [name for name in built.sdist if "__pycache__" in name or "_build/" in name]


def test_one_place_says_the_version(built: Built) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "version" in project["dynamic"] and "version" not in project
    assert built.metadata["Version"] == VERSION == kdsnn.__version__
    assert f"\nversion: {VERSION}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    (newest, *_) = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest == VERSION


def test_an_index_can_show_the_description(built: Built) -> None:
    """It has no files, so a picture or a link that leads to one would be broken there."""
    text = built.metadata.get_payload()
    assert isinstance(text, str)
    assert built.metadata["Description-Content-Type"] == "text/markdown"
    assert text.lstrip().startswith("# kdsnn-deploy\n") and "```python\nimport kdsnn\n" in text
    assert "](docs/" in (ROOT / "README.md").read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)]*)\)", text)
    assert targets and all(target.startswith(("https://", "#")) for target in targets), targets
    assert "![" not in text


@pytest.mark.parametrize("name", ["exporters", "hardware.py", "profilers"])
def test_a_shadow_is_named_in_one_line(tmp_path: Path, name: str) -> None:
    shadow = tmp_path / name
    if shadow.suffix:
        shadow.touch()
    else:
        shadow.mkdir()
        (shadow / "__init__.py").touch()
    found = import_kdsnn(tmp_path)
    assert found.returncode == 1
    last = found.stderr.splitlines()[-1]
    assert last.startswith(
        f"ImportError: kdsnn needs the package {shadow.stem!r} that is installed with it in {ROOT}, but that is "
    )
    assert str(shadow) in last and last.endswith("or install kdsnn-deploy again")


def test_a_folder_of_data_is_no_shadow(tmp_path: Path) -> None:
    for package in PACKAGES:
        (tmp_path / package).mkdir()  # without __init__.py, as a user's folder called hardware has none
    found = import_kdsnn(tmp_path)
    assert found.returncode == 0, found.stderr


def import_kdsnn(first: Path) -> subprocess.CompletedProcess[str]:
    """`import kdsnn` in a folder, whose modules come before all others."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(first), str(ROOT)])}
    command = [sys.executable, "-c", "import kdsnn"]
    return subprocess.run(command, env=environment, cwd=first, capture_output=True, text=True, check=False)
