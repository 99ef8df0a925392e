"""What README and docs say that was measured is what the files of docs/results hold, and no figure is without one."""

from __future__ import annotations

import json
import re
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from benchmarks import results
from benchmarks._process import BenchmarkError

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / results.RESULTS).glob("*.json"))
SPAN = rf"(?<![\w.,–+−]){results.NUMBER}(?:(?:–|, | to | and ){results.NUMBER})*"
FIGURE = re.compile(rf"{SPAN} ?(?:(?:%|[nµm]?s|min|h|[kMG]B|times|points)(?!\w)|of \d+(?:,\d{{3}})+ (?=\S))(?!\0)")
"""What looks measured: numbers with one of these units, or so many of thousands."""

NOT_MEASURED: tuple[tuple[str, str, str], ...] = (
    ("", r"95 % (intervals?|percentile|Wilson)", "the level of intervals, which is chosen"),
    ("docs/check.md", "weights rounded by more than 5 %", "a limit of the check"),
    ("docs/energy-models.md", "9 to 20 % off on one large network", "published"),
    ("docs/energy-models.md", r"published figures for one step on Loihi 1|^0\.85 ms\. \[Step-time", "published"),
    ("docs/energy-models.md", "at 6.65 ms one chip takes", "published, and 104 mW times it"),
    ("docs/energy-models.md", r"^\| (T = |moving a |weights at half)", "tests/profilers/test_movement.py computes it"),
    ("docs/energy-models.md", "that is the step from 8-bit$|Not reproduced is 29.7 %", "published"),
    ("docs/nir.md", r"0\.1 ms", "the length of a step where a file gives none"),
    ("docs/nir.md", "at most 1 GB of numbers", "a limit of the reader"),
    ("docs/nir.md", "5 % less at τ = 20 dt", "computed from exp(−1/20)"),
    ("docs/numbers.md", r"91\.4 % of 359 images is 88\.0 to 93\.9 %", "an example of Wilson's interval"),
    ("docs/onnx.md", "at most 2 GB", "a limit of the reader"),
    ("docs/timing.md", r"^\| `loihi", "constants of the models' files, beside their sources"),
    ("docs/timing.md", r"2\.4 times too much for another|24\.3 % error in latency", "published"),
    ("docs/your-teacher-and-student.md", "20 % of every class", "how data are split"),
)
"""(page, or "" for all; what the line says; why no file holds its figures)."""


def loose(text: str) -> list[tuple[str, str]]:
    """(figure, its line) of what looks measured and has no file behind it: not code, no table of a file, no tie."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^<!--=.*?-->\n(?:\|.*\n)+", "", text, flags=re.MULTILINE)
    text = re.sub(r"<!--=.*?-->", "\0", text)
    found = [(figure[0], line) for line in text.splitlines() for figure in FIGURE.finditer(_without_code(line))]
    return found


def _without_code(line: str) -> str:
    return re.sub(r"`[^`]*`", "`", line)


def excused(page: str, figure: str, line: str) -> list[int]:
    """The places in `NOT_MEASURED` that say why a figure may be loose."""
    places = []
    for place, (where, pattern, _) in enumerate(NOT_MEASURED):
        if where in ("", page) and (said := re.search(pattern, line)) and (where or figure in said[0]):
            places.append(place)
    return places


def test_pages_say_what_the_files_hold() -> None:
    wrong = [str(path) for path, text in results.rebuilt(ROOT).items() if text != (ROOT / path).read_text("utf-8")]
    assert wrong == [], "run `python -m benchmarks results` and look at the difference"


def test_every_figure_has_a_file() -> None:
    used: set[int] = set()
    alone = []
    for page in results.written(ROOT):
        for figure, line in loose((ROOT / page).read_text("utf-8")):
            reasons = excused(page.as_posix(), figure, line)
            used |= set(reasons)
            alone += [] if reasons else [f"{page}: {figure}: {line.strip()}"]
    assert alone == [], "CONTRIBUTING.md tells how a figure is tied to a file"
    assert used == set(range(len(NOT_MEASURED)))  # no reason outlives its figure


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("It takes 3.1 s, or 4 % of\nit, 12 to 13 ms.", ["3.1 s", "4 %", "12 to 13 ms"]),
        ("1,200 times as long, 97.7 and 97.5 %", ["1,200 times", "97.7 and 97.5 %"]),
        ("0 of 150,016 spikes differ", ["0 of 150,016 "]),
        ("| a | 3.0 GB |", ["3.0 GB"]),
        ("3.1<!--=a.b--> s, 4 %<!--=c--> and 0<!--=d--> of 150,016<!--=e--> spikes", []),
        ("<!--=a|table-->\n| a | 3 % |\n| b | 4 % |\n\n5 %\n", ["5 %"]),
        ("```\n5 %\n```\nT = 4, 12 of 16 layers, `--val 3 %`, 3 samples, 4 minima", []),
    ],
)
def test_loose_figures_are_found(text: str, found: list[str]) -> None:
    assert [figure for figure, _ in loose(text)] == found


@cache
def expressions() -> list[str]:
    """Of all pages."""
    pages = [(ROOT / page).read_text("utf-8") for page in results.written(ROOT)]
    return [tie["expression"] for page in pages for tie in results.TIE.finditer(page)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_says_where_it_comes_from_and_is_used(path: Path) -> None:
    file = json.loads(path.read_text("utf-8"))
    head = file if "date" in file else file.get("head") or file["machine"]  # what `make bench` and the zoo write
    assert date.fromisoformat(head["date"][:10])
    assert head.get("machine") or head["processor"]
    assert file.get("commands") or path.stem in ("speed", "speed-before", "speed-avx512", "zoo")
    name = path.stem.replace("-", "_")
    assert name in ("zoo", "speed_before") or re.search(rf"\b{name}\b", " ".join(expressions()))


FIGURES: dict[str, Any] = {
    "a": {"count": 1234567, "share": 98.5, "rates": [1.0, 2.25], "date": "2026-11-23 02:17"},
    "t": {"columns": ["who", "how"], "formats": [None, ".2f %"], "rows": [["x", 1], ["x y", None], ["z", [2, 3]]]},
}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("T = 4, 5<!--=a.count--> spikes", "T = 4, 1,234,567<!--=a.count--> spikes"),
        ("is 3.1<!--=a.share--> %", "is 98.5<!--=a.share--> %"),
        ("is 3.1 %<!--=t|cell(\"x\", 1)-->.", "is 1.00 %<!--=t|cell(\"x\", 1)-->."),
        ("4, 7, 8<!--=a.rates|fixed(1)-->", "4, 1.0, 2.2<!--=a.rates|fixed(1)-->"),
        ("5 ms<!--=(a.share / 10)|quantity(\"s\")-->", "9.85 s<!--=(a.share / 10)|quantity(\"s\")-->"),
        ("on 1 May 2020<!--=a.date|day-->,", "on 23 November 2026<!--=a.date|day-->,"),
        ("−1<!--=0 - a.share-->", "−98.5<!--=0 - a.share-->"),
        ("<!--=t|table-->\n| old |\n\nx", "<!--=t|table-->\n| who | how |\n|---|---|\n| x | 1.00 % |\n| x y | – |\n| z | 2.00, 3.00 % |\n\nx"),
    ],
)  # fmt: skip
def test_figures_and_tables_are_replaced(before: str, after: str) -> None:
    assert results.filled(before, FIGURES, "page") == after
    assert results.filled(after, FIGURES, "page") == after


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("1<!--=b.count-->", "'b' is undefined"),
        ("1<!--=a.none-->", "no attribute 'none'"),
        ("1<!--=a-->", "this is no value"),
        ("one<!--=a.count-->", "cannot replace"),
        ("1 %<!--=a.count-->", "cannot replace"),
        ("1<!--=t|cell('n', 1)-->", "0 rows begin with 'n'"),
        ("1<!--=a.count|-->", "unexpected"),
        ("<!--=t|table-->\n\nno table", "a table for a table"),
        ("<!--=a.count-->\n| a |\n", "a table for a table"),
    ],
)
def test_what_cannot_be_replaced_is_named(text: str, why: str) -> None:
    with pytest.raises(BenchmarkError, match=r"^page, line 3: .*" + re.escape(why)):
        results.filled(f"a\n\n{text}", FIGURES, "page")


def test_rows_of_make_bench_are_found_by_name() -> None:
    rows = [
        {"benchmark": "race", "group": group, "name": "hare", "median": 2.0, "ratios": [1.0, 3.0, 2.5]}
        for group in ("short, wet", "short, dry", "long")
    ]
    speed = {"measured": rows}
    assert results.ratio(speed, "race: long", "hare") == 2.5 and results.median(speed, "race: long", "hare") == 2.0
    for group, name in (("race: short", "hare"), ("race: long", "tortoise"), ("long", "hare")):
        with pytest.raises(ValueError, match="rows"):
            results.ratio(speed, group, name)


def test_the_table_of_pairs_has_students_t() -> None:
    mine, other = [90.0, 91.5, 89.0, 92.0], [88.5, 91.0, 88.0, 90.0]
    pair = {"distilled": mine, "without a teacher": other, "teacher": 95.0, "test images": 5000}
    found = stats.ttest_rel(mine, other).confidence_interval(0.95)
    row = results.pairs({"date": "2026-11-29", "some": pair}).splitlines()[2]
    assert row.startswith("| some, 5,000 | 4 | 95.00 % | 90.62 ± 1.38 % |")
    assert row.endswith(f"| +1.25 points, {found.low:+.2f} to {found.high:+.2f} |")


def test_the_table_of_read_outs_has_every_difference() -> None:
    alone, response = [90.0, 91.5, 89.0, 92.0], [88.5, 91.0, 88.0, 90.0]
    temporal = [92.0, 92.5, 90.5, 93.0]
    two = {"without a teacher": alone, "response": response}
    table = {"some": {"rate": {**two, "temporal": temporal}, "raw": two}}
    spikes = {"some": {"rate": {"a": [1000, 1003], "b": [7]}, "raw": {"a": [2, 4]}}}
    first, second = results.against_alone(table, spikes).splitlines()[2:]
    intervals = [stats.ttest_rel(x, alone).confidence_interval(0.95) for x in (response, temporal)]
    lost, won = (f"{found.low:+.2f} to {found.high:+.2f}".replace("-", "−") for found in intervals)
    start = f"90.62 ± 1.38 % | 89.38 ± 1.38 % | −1.25, {lost}"
    assert first == f"| some | rate | {start} | 92.00 ± 1.08 % | +1.38, {won} | 1,002, 7 |"
    assert second == f"| some | raw | {start} | – | – | 3 |"
