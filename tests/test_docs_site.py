"""The site builds from the pages and the docstrings without a warning, and its API pages hold what they promise."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import hardware.chips
import kdsnn
import profilers.counting
from exporters import graph, passes

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    options = ["-b", "html", "-q", "-W", "--keep-going", "-d", str(folder / "doctrees")]
    command = [sys.executable, "-m", "sphinx", *options, str(DOCS), str(folder / "html")]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder / "html"


def test_every_page_is_there(site: Path) -> None:
    found = (*DOCS.rglob("*.md"), *DOCS.glob("*.ipynb"))
    pages = [page.relative_to(DOCS) for page in found if "_build" not in page.parts]
    assert len(pages) > 20
    assert all((site / page.with_suffix(".html")).exists() for page in pages)


def test_the_api_holds_every_verb_and_result(site: Path) -> None:
    page = (site / "api" / "kdsnn.html").read_text(encoding="utf-8")
    assert [name for name in kdsnn.__all__ if f'id="kdsnn.{name}"' not in page] == []


def test_the_api_holds_every_node_and_every_module_of_a_package(site: Path) -> None:
    page = (site / "api" / "exporters.graph.html").read_text(encoding="utf-8")
    nodes = [
        "SpikingGraph",
        *(name for name in graph.__all__ if name in ("IF", "LIF", "Conv2d", "Linear", "MaxPool2d")),
    ]
    assert len(nodes) == 6 and all(f'id="exporters.graph.{name}"' in page for name in nodes)
    for package in (passes, hardware.chips, profilers.counting):
        page = (site / "api" / f"{package.__name__}.html").read_text(encoding="utf-8")
        for _, name, _ in pkgutil.iter_modules(package.__path__):
            assert f'id="module-{package.__name__}.{name}"' in page, name


def test_it_needs_no_network(site: Path) -> None:
    for page in site.rglob("*.html"):
        if page.parent.name != "_downloads":
            text = page.read_text(encoding="utf-8")
            assert 'src="http' not in text and 'rel="stylesheet" type="text/css" href="http' not in text, page.name
