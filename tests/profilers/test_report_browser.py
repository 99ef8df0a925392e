"""The page in a real browser: wide and narrow, light and dark, without network."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import profilers_example as example
import pytest

from profilers import report
from profilers.report import sweep_page
from tests import browser

BROWSER = browser.find()
pytestmark = pytest.mark.skipif(BROWSER is None, reason=browser.MISSING)

# What the page looks like is asked from inside it. The report itself holds no script and forbids all of them, so
# a frame shows it in a harness page, which listens for errors there and writes what it finds into the DOM.
HARNESS = """<!doctype html><meta charset="utf-8"><style>body {{ margin: 0 }} iframe {{ border: 0; display: block }}</style>
<pre id="found"></pre>
<script>
const errors = [];
function measure(width) {{
  return new Promise(done => {{
    const frame = document.createElement("iframe");
    frame.style.width = width + "px";
    frame.style.height = "800px";
    frame.onload = () => {{
      const page = frame.contentDocument, view = frame.contentWindow;
      page.querySelectorAll("details").forEach(d => d.open = true);
      const root = page.scrollingElement;
      const clipped = [...page.querySelectorAll("h1, h2, h3, p, .tile, dd, li, pre, figcaption, figure > svg")]
        .filter(e => {{ const box = e.getBoundingClientRect(); return box.width && (box.left < -1 || box.right > width + 1); }})
        .map(e => e.outerHTML.slice(0, 80));
      const texts = [...page.querySelectorAll("svg.chart > text, svg.clip")].filter(e => {{
        const box = e.getBoundingClientRect(), chart = e.closest("svg").getBoundingClientRect();
        return box.width && (box.left < chart.left - 8 || box.right > chart.right + 8);
      }}).map(e => e.textContent);
      done({{
        width: view.innerWidth, scroll: root.scrollWidth, height: root.scrollHeight, clipped, texts,
        ground: view.getComputedStyle(page.body).backgroundColor, text: view.getComputedStyle(page.body).color,
        dark: view.matchMedia("(prefers-color-scheme: dark)").matches,
        charts: page.querySelectorAll("svg.chart").length,
        misfit: [...page.querySelectorAll(".misfit")].map(e => view.getComputedStyle(e).color)[0],
        answers: [...page.querySelectorAll(".misfit, .answer .short")].map(e => Math.round(e.getBoundingClientRect().bottom)),
        fetched: view.performance.getEntriesByType("resource").map(e => e.name),
      }});
      frame.remove();
    }};
    frame.src = "report.html";
    document.body.append(frame);
  }});
}}
(async () => {{
  const found = [];
  for (const width of {widths}) found.push(await measure(width));
  document.getElementById("found").textContent = JSON.stringify(found);
}})();
</script>"""

WIDTHS = (1280, 390, 320)


def browse(folder: Path, *, dark: bool, widths: tuple[int, ...] = WIDTHS) -> tuple[list[dict[str, object]], list[str]]:
    """Measurements of `report.html` at every width, and what the console said."""
    (folder / "harness.html").write_text(HARNESS.format(widths=json.dumps(widths)), encoding="utf-8")
    done = subprocess.run(
        [
            str(BROWSER), "--headless=new", "--disable-gpu", "--no-first-run", "--disable-extensions", "--disable-sync",
            "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
            *(["--no-sandbox"] if os.geteuid() == 0 else []),
            # nothing resolves: a page that needs the network shows it here
            "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder / 'profile'}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--allow-file-access-from-files",
            "--enable-logging=stderr", "--virtual-time-budget=20000", "--window-size=1400,900",
            "--dump-dom", (folder / "harness.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    found = re.search(r'<pre id="found">(.+?)</pre>', done.stdout, re.DOTALL)
    assert found, f"the browser showed nothing (exit {done.returncode}): {done.stderr[-2000:]}"
    return json.loads(found[1]), re.findall(r"CONSOLE.*", done.stderr)


def brightness(color: object) -> float:
    red, green, blue = (int(part) for part in re.findall(r"\d+", str(color))[:3])
    return (red + green + blue) / 3


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report with every part, and names that are long and cannot be broken at a space."""
    folder = tmp_path_factory.mktemp("browser")
    report.write(example.wide(), folder, ["html"])
    return folder


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_nothing_sticks_out_and_nothing_complains(page: Path, dark: bool) -> None:
    measured, console = browse(page, dark=dark)
    assert console == []
    for width, found in zip(WIDTHS, measured, strict=True):
        assert found["width"] == width
        assert found["scroll"] <= width, f"{width} px: the page is {found['scroll']} px wide"
        assert found["clipped"] == [] and found["texts"] == []
        assert found["charts"] >= 7 and found["height"] > 2000
        assert found["fetched"] == []
        assert found["dark"] is dark
        assert len(found["answers"]) == 4 and (width < 1280 or max(found["answers"]) < 800)  # above the fold
        red, green, blue = map(int, re.findall(r"\d+", str(found["misfit"]))[:3])
        assert red > 150 and red > 1.5 * max(green, blue)
        ground, text = brightness(found["ground"]), brightness(found["text"])
        assert (ground < 60 and text > 180) if dark else (ground > 220 and text < 80)


def test_a_sweep_fits_a_phone_and_shows_a_chart_per_cost(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(sweep_page.render(example.sweep()), encoding="utf-8")
    measured, console = browse(tmp_path, dark=False, widths=(1280, 390))
    assert console == []
    for found in measured:
        assert found["scroll"] <= found["width"] and found["clipped"] == [] and found["texts"] == []
        assert found["charts"] == 3 + 2 and found["fetched"] == []  # costs, and the legend's marks
    assert int(str(measured[1]["height"])) > int(str(measured[0]["height"])) + 250  # one column instead of two


def test_the_measurement_sees_what_sticks_out_and_what_complains(page: Path, tmp_path: Path) -> None:
    """The other test must be able to fail."""
    text = (page / "report.html").read_text(encoding="utf-8")
    broken = '<p style="width: 2000px">wide</p><img src="https://example.org/x.png" alt="">'
    (tmp_path / "report.html").write_text(text.replace("<footer>", f"{broken}<footer>"), encoding="utf-8")
    measured, console = browse(tmp_path, dark=False, widths=(390,))
    assert all(int(str(found["scroll"])) >= 2000 and found["clipped"] for found in measured)
    assert any("Content Security Policy" in line for line in console)
