"""Figures on the pages come from the files of docs/results: `python -m benchmarks results` brings them up to date.

    python -m benchmarks results            write every figure anew, and the pages of the speed
    python -m benchmarks results --check    say which pages and files disagree, with exit code 1

A comment behind a figure says what it is, as an expression of Jinja over the files, each under its name (`-` as `_`):

    Lava's simulator takes 1,200<!--=speed|ratio("emulator: cnn2 (1, 28, 28), T = 4, per s", "Lava, stock")--> times as long

What stands in front of it and looks like it is replaced: a number, a list or a range, with its unit if the expression gives
one. Where the comment has a line of its own, the table below is replaced. CONTRIBUTING.md tells how one adds a result.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from benchmarks import _report, compare, zoo
from benchmarks._process import ROOT, BenchmarkError
from exporters.files import atomic_path

RESULTS = Path("docs") / "results"
SPEED = RESULTS / "speed.md"
"""Written whole, from the JSON file beside it, which is a copy of what `make bench` writes."""
CHANGES = RESULTS / "speed-changes.md"
"""Written whole, from that file and speed-before.json: the same measurements of an earlier version on the same machine."""
ZOO = Path("docs") / "zoo.md"
"""Written by `python -m benchmarks zoo`."""

NUMBER = r"[+−]?\d+(?:,\d{3})*(?:\.\d+)?"
UNIT = r"(?:%|[kMGT]?B|[kMG]|[munpµ]?[sJ])"
TIE = re.compile(r"<!--=(?P<expression>.*?)-->(?P<table>\n(?:\|.*\n)+)?")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "benchmarks results", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit code 1 where pages and files disagree"
    )
    given = parser.parse_args(arguments)
    try:
        pages = rebuilt(ROOT)
    except BenchmarkError as error:
        parser.exit(2, f"{error}\n")
    changed = {path: text for path, text in pages.items() if text != (ROOT / path).read_text(encoding="utf-8")}
    for path, text in changed.items():
        print(f"{path} {'is not' if given.check else 'was not'} what the files say")
        if not given.check:
            with atomic_path(ROOT / path) as temporary:
                temporary.write_text(text, encoding="utf-8")
    if given.check and changed:
        sys.exit(1)


def rebuilt(root: Path) -> dict[Path, str]:
    """Every page with figures, relative to `root`, as the files want it.

    Raises:
        BenchmarkError: an expression that means nothing, or one with nothing to replace in front of it; it names the line.
    """
    files = read(root)
    found = {page: filled((root / page).read_text(encoding="utf-8"), files, str(page)) for page in written(root)}
    found[ZOO] = filled(zoo.page(files["zoo"]), files, str(ZOO))
    changes = compare.page(*(_report.read(root / RESULTS / f"{name}.json") for name in ("speed-before", "speed")))
    return found | {SPEED: _report.page(files["speed"]), CHANGES: changes}


def written(root: Path) -> list[Path]:
    """README.md and the pages of docs/, relative to `root`, but for those that are written whole."""
    found = [page.relative_to(root) for page in sorted((root / "docs").rglob("*.md")) if "_build" not in page.parts]
    return [Path("README.md"), *(page for page in found if page not in (SPEED, CHANGES))]


def read(root: Path) -> dict[str, Any]:
    """The files of docs/results by their names, as expressions know them."""
    files = sorted((root / RESULTS).glob("*.json"))
    return {file.stem.replace("-", "_"): json.loads(file.read_text(encoding="utf-8")) for file in files}


def filled(text: str, files: Mapping[str, Any], name: str) -> str:
    """A page with its figures and tables as the files have them.

    Raises:
        BenchmarkError: as `rebuilt` does.
    """
    done, at = "", 0
    for tie in TIE.finditer(text):
        done, at, expression = done + text[at : tie.start()], tie.end(), tie["expression"]
        try:
            new = plain(ENVIRONMENT.compile_expression(expression, undefined_to_none=False)(**files))
            if alone := not done or done.endswith("\n"):
                if not (tie["table"] and new.startswith("|")):
                    raise ValueError("a table for a table is needed where the comment has a line of its own")
            elif old := re.search(rf"(?<![\w.,])(?:{shape(new)})$", done):
                done = done[: old.start()] + new
            else:
                raise ValueError(f"“{new}” cannot replace “{done[-20:]}”")
        except (jinja2.TemplateError, ValueError, TypeError, LookupError, AttributeError) as error:
            line = text[: tie.start()].count("\n") + 1
            raise BenchmarkError(f"{name}, line {line}: {expression}: {error}") from error
        done += f"<!--={expression}-->" + (f"\n{new}" if alone else tie["table"] or "")
    return done + text[at:]


def shape(figure: str) -> str:
    """What a figure like this looks like: its numbers and units may be others.

    Raises:
        ValueError: there is no number in it.
    """
    if not re.search(NUMBER, figure):
        raise ValueError(f"“{figure}” is no figure")
    kinds = {"number": NUMBER, "unit": f" {UNIT}", "month": "[A-Z][a-z]+"}
    parts = re.compile(rf"(?P<number>{NUMBER})|(?P<unit> {UNIT}(?!\w))|(?P<month>[A-Z][a-z]+)|.")
    return parts.sub(lambda part: kinds.get(part.lastgroup or "", re.escape(part[0])), figure)


# -- what expressions are made of ------------------------------------------------------------------------------


def plain(value: object) -> str:
    """As a page has it: lists with commas, thousands separated, the sign of minus, spaces that may break."""
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value))
    if value is None or isinstance(value, dict):
        raise ValueError("this is no value")
    text = f"{value:,}" if isinstance(value, int | float) else str(value)
    return re.sub(r"(?<!\w)-(?=\d)", "−", text.replace("\u00a0", " "))


def fixed(value: Any, digits: int, sign: str = "") -> Any:
    """With so many digits behind the point; of a list every number."""
    return [fixed(one, digits, sign) for one in value] if isinstance(value, list) else f"{value:{sign},.{digits}f}"


def day(date: str) -> str:
    """2026-11-23, whatever follows, as 23 November 2026."""
    at = datetime.date.fromisoformat(date[:10])
    return f"{at.day} {at:%B %Y}"


def quantity(value: float, unit: str = "", digits: int = 3) -> str:
    """With the prefix that it needs."""
    from profilers.report import numbers

    return numbers.quantity(value, unit, digits, plain_below=0)


def number(value: float, digits: int = 3) -> str:
    from profilers.report import numbers

    return numbers.number(value, digits)


def shown(table: Mapping[str, Any]) -> Iterator[list[str]]:
    """The cells of a table's rows: None is –, text as it stands, a number by the format of its column, as `.2f %`."""
    formats = table.get("formats") or [""] * len(table["columns"])
    for row in table["rows"]:
        yield [_cell(value, form or "") for value, form in zip(row, formats, strict=True)]


def _cell(value: Any, form: str) -> str:
    if value is None or isinstance(value, str):
        return "–" if value is None else value
    spec, _, unit = form.partition(" ")
    numbers = value if isinstance(value, list) else [value]
    return plain(", ".join(format(one, spec or ",") for one in numbers) + (f" {unit}" if unit else ""))


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head, *lines = [f"| {' | '.join(row)} |\n".replace("  ", " ") for row in (columns, *rows)]
    return "".join([head, f"|{'---|' * len(columns)}\n", *lines])


def as_table(table: Mapping[str, Any]) -> str:
    return markdown(table["columns"], list(shown(table)))


def _row(table: Mapping[str, Any], start: str) -> int:
    names = [cells[0] for cells in shown(table)]
    rows = [names.index(start)] if start in names else [at for at, name in enumerate(names) if name.startswith(start)]
    if len(rows) != 1:
        raise ValueError(f"{len(rows)} rows begin with {start!r}")
    return rows[0]


def cell(table: Mapping[str, Any], row: str, column: int) -> str:
    """As the table shows it, in the one row of this name, or that begins like it; columns count from 0."""
    return list(shown(table))[_row(table, row)][column]


def value(table: Mapping[str, Any], row: str, column: int) -> Any:
    """As the file has it."""
    return table["rows"][_row(table, row)][column]


def measured(speed: Mapping[str, Any], group: str, name: str) -> dict[str, Any]:
    """The one row of `make bench` of this name, in a group that begins like `BENCHMARK: GROUP`."""
    rows = [
        row
        for row in speed["measured"]
        if row["name"] == name and f"{row['benchmark']}: {row['group']}".startswith(group)
    ]
    if len(rows) != 1:
        raise ValueError(f"{len(rows)} rows {name!r} of groups that begin with {group!r}")
    found: dict[str, Any] = rows[0]
    return found


def ratio(speed: Mapping[str, Any], group: str, name: str) -> float:
    return float(statistics.median(measured(speed, group, name)["ratios"]))


def ratios(speed: Mapping[str, Any], names: Mapping[str, str], groups: Mapping[str, str]) -> str:
    """A table of ratios: a row for each candidate and a column for each group, under the names that they are given."""
    rows = [
        [title, *(fixed(ratio(speed, group, name), 2) for group in groups.values())] for title, name in names.items()
    ]
    return markdown(["", *groups], rows)


def median(speed: Mapping[str, Any], group: str, name: str) -> float:
    return float(measured(speed, group, name)["median"])


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds."""
    from kdsnn.deploy.seeds import spread_of

    found = spread_of(values)
    return f"{found.mean:.2f} ± {found.std:.2f}"


def _gain(mine: Sequence[float], other: Sequence[float]) -> Any:
    from kdsnn.deploy.seeds import spread_of

    return spread_of([a - b for a, b in zip(mine, other, strict=True)])


def _difference(mine: Sequence[float], other: Sequence[float], unit: str = "") -> str:
    """Mean and 95 % interval of Student's t of paired differences."""
    gain = _gain(mine, other)
    return plain(f"{gain.mean:+.2f}{unit}, {gain.low:+.2f} to {gain.high:+.2f}")


def pairs(paired: Mapping[str, Any]) -> str:
    """The table of students and twins, with Student's t of their paired differences."""
    columns = "variant, test images | seeds | teacher | distilled | without a teacher | difference, 95 % interval"
    rows = []
    for name, one in paired.items():
        if isinstance(one, dict) and "without a teacher" in one:
            mine, other = one["distilled"], one["without a teacher"]
            row = [f"{name}, {one['test images']:,}", str(len(mine)), f"{one['teacher']:.2f} %"]
            rows.append([*row, f"{spread(mine)} %", f"{spread(other)} %", _difference(mine, other, " points")])
    return markdown(columns.split(" | "), rows)


def against_alone(table: Mapping[str, Any], spikes: Mapping[str, Any]) -> str:
    """The table of what stands before the softmax × what is learnt from, per variant, each with its difference from alone.

    Args:
        table: variant → read-out → what is learnt from → accuracies over seeds, percent.
        spikes: the same of spikes per image.
    """
    columns = "variant | before the softmax | without a teacher | response | difference, 95 % interval"
    columns += " | temporal | difference, 95 % interval | spikes of each"
    rows = []
    for name, readouts in table.items():
        for readout, found in readouts.items():
            alone = found["without a teacher"]
            row = [name, readout, f"{spread(alone)} %"]
            for method in ("response", "temporal"):
                values = found.get(method)
                row += ["–", "–"] if values is None else [f"{spread(values)} %", _difference(values, alone)]
            rows.append([*row, ", ".join(f"{statistics.mean(one):,.0f}" for one in spikes[name][readout].values())])
    return markdown(columns.split(" | "), rows)


ENVIRONMENT = jinja2.Environment(undefined=jinja2.StrictUndefined)
ENVIRONMENT.filters |= {
    "fixed": fixed, "quantity": quantity, "number": number, "table": as_table, "cell": cell, "value": value,
    "ratio": ratio, "ratios": ratios, "median": median, "mean": statistics.mean, "spread": spread, "pairs": pairs,
    "against_alone": against_alone,
    "day": day, "gain": lambda pair: _gain(pair["distilled"], pair["without a teacher"]).mean,
}  # fmt: skip
