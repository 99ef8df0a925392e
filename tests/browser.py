"""The browser in which pages are looked at, and what a run says at its end where there is none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

NAMES = (
    "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge", "chrome-headless-shell",
)  # fmt: skip
PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/snap/bin/chromium",
)
DOWNLOADED = "ms-playwright/chromium*/chrome-*/*chrome*"
"""Where Playwright puts the one that it downloads, in the user's cache folder."""
MISSING = "no Chromium on this machine"


def find() -> str | None:
    """The program: $KDSNN_BROWSER, one on the path, one where systems install it, or Playwright's own."""
    if chosen := os.environ.get("KDSNN_BROWSER"):
        return shutil.which(chosen)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    candidates = (*NAMES, *PLACES, *map(str, sorted(cache.glob(DOWNLOADED), reverse=True)))
    return next(filter(None, map(shutil.which, candidates)), None)


def remark(reasons: Iterable[str]) -> str | None:
    """What to say of tests that were skipped for these reasons: something where a browser was missing."""
    count = sum(MISSING in reason for reason in reasons)
    if not count:
        return None
    return (
        f"BROWSER TESTS SKIPPED: {count} of them, {MISSING}. Install one (the package chromium, or Google Chrome), or say where "
        "it is: KDSNN_BROWSER=/path/to/chromium"
    )


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The last line before the count of passed tests."""
    skipped = terminalreporter.stats.get("skipped", [])
    if said := remark(str(report.longrepr) for report in skipped):
        terminalreporter.write_line(said, red=True, bold=True)
