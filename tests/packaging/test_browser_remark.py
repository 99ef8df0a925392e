"""Where there is no browser a run of the suite says so at its end, and not only to who asks for reasons."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import browser

ROOT = Path(__file__).parents[2]
TESTS = """
import pytest
from tests import browser
from tests.browser import pytest_terminal_summary

@pytest.mark.skipif(browser.find() is None, reason=browser.MISSING)
def test_page(): pass

@pytest.mark.skip(reason="of something else")
def test_other(): pass
"""


@pytest.mark.parametrize("there", [False, True])
def test_the_last_lines_name_what_was_skipped(tmp_path: Path, there: bool) -> None:
    (tmp_path / "conftest.py").write_text("from tests.browser import pytest_terminal_summary\n", encoding="utf-8")
    (tmp_path / "test_pages.py").write_text(TESTS, encoding="utf-8")
    chosen = shutil.which("true") if there else str(tmp_path / "none")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "KDSNN_BROWSER": str(chosen), "PYTEST_ADDOPTS": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    remark, count = done.stdout.splitlines()[-2:]
    assert count.startswith("1 passed, 1 skipped" if there else "2 skipped")
    assert remark.startswith("BROWSER TESTS SKIPPED: 1 of them, no Chromium on this machine.") != there


def test_playwrights_own_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "ms-playwright" / "chromium-1200" / "chrome-linux" / "chrome"
    own.parent.mkdir(parents=True)
    own.write_text("#!/bin/sh\n", encoding="utf-8")
    own.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("KDSNN_BROWSER", raising=False)
    monkeypatch.setattr(browser, "PLACES", ())
    assert browser.find() == str(own)
