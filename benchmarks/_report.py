"""The table of all benchmarks, as Markdown and as JSON, with the machine that it was measured on."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks._measure import Measured
from benchmarks._process import ROOT, BenchmarkError, python, run
from exporters.files import atomic_path
from hardware.lava import environment
from profilers.energy.models import Range

PACKAGES = ("torch", "numpy", "onnxruntime", "onnx", "spikingjelly")
BUSY = 0.5
"""Load per core beyond which other work disturbs the figures."""
INTRODUCTION = """\
`make bench` measures all of this in one run, and writes this page and, with every single value, a JSON file to
`benchmark-results/`; `python -m benchmarks NAME` measures one part. docs/results/speed.json is a copy of such a file, made
on a machine that did nothing else, and speed.md the page that `python -m benchmarks results` makes of it.

Times are wall-clock, memory is the peak of resident memory of a whole process: the median of several rounds, with the
smallest and the largest in brackets. In each round the candidates of a group run one after the other, so that what
disturbs the machine disturbs them alike; a ratio is the median of the ratios taken round by round, with its smallest and
largest, to the row whose ratio is 1. Every benchmark has a process of its own. `cnn2` is the paper's 2conv; weights are random,
with BatchNorm statistics that fit them. Where a note says how long processors were busy, its ratio tells work from waiting:
with several threads on a machine that others use, either side may mostly wait."""


@dataclass
class Report:
    """What was measured so far: `rows` and `failed` (why) by benchmark, in the order in which they ran."""

    head: dict[str, str]
    rows: dict[str, list[Measured]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Line:
    """A measurement as it is shown. `ratios` is None where there is none, and (1,) where it is the base of others."""

    benchmark: str
    measured: Measured
    ratios: tuple[float, ...] | None


def machine() -> dict[str, str]:
    """What figures depend on."""
    versions = ", ".join(f"{package} {_version(package)}" for package in PACKAGES)
    return {
        "date": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %z"),
        "processor": f"{_processor()}, {cores()} cores, {_threads()} threads",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": f"{versions}, lava-nc {environment.PINS['lava-nc']}, lava-dl {environment.PINS['lava-dl']}",
        "commit": _commit(),
    }


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def busy(load: float, cores: int) -> str | None:
    """The warning that goes with a load average taken before anything was measured."""
    if load <= BUSY * cores:
        return None
    return f"other work was running at the start (load average {load:.2f} on {cores} cores): do not quote these figures"


def lines(report: Report) -> Iterator[Line]:
    """Every row with its ratios.

    Raises:
        ValueError: a row relative to something that was not measured before it, or in other rounds.
    """
    for benchmark, rows in report.rows.items():
        bases = {(row.group, row.relative_to) for row in rows if row.relative_to}
        earlier: dict[tuple[str, str], Measured] = {}
        for row in rows:
            ratios: tuple[float, ...] | None = None
            if row.relative_to is not None:
                if (row.group, row.relative_to) not in earlier:
                    raise ValueError(
                        f"{row.group}: {row.name} is relative to {row.relative_to}, which does not precede it"
                    )
                ratios = row.ratios(earlier[row.group, row.relative_to])
            elif (row.group, row.name) in bases:
                ratios = (1.0,)
            earlier[row.group, row.name] = row
            yield Line(benchmark, row, ratios)


def shown(line: Line) -> tuple[str, str, str, str]:
    """Name, value with spread, ratio with spread, note."""
    # imported here, since it imports torch: a benchmark's process imports this module, and may measure what that takes
    from profilers.report.numbers import number, quantity, spread

    row, ratio = line.measured, ""
    value = quantity(row.median, row.unit)
    if len(row.values) > 1:
        value += f" ({spread(_range(row.values), row.unit)})"
    if line.ratios is not None:
        ratio = number(statistics.median(line.ratios))
        if len(line.ratios) > 1:
            ratio += f" ({spread(_range(line.ratios))})"
    return row.name, value, ratio, row.note


def markdown(report: Report, rows: list[Line] | None = None) -> str:
    """The whole page, of these rows if they are given."""
    text = ["# Speed", ""]
    text += [f"**{warning[0].upper()}{warning[1:]}.**\n" for warning in report.warnings]
    text += [INTRODUCTION, "", "| | |", "|---|---|"]
    text += [f"| {key} | {value} |" for key, value in report.head.items()]
    text += ["", "| measured | median (smallest–largest) | ratio | |", "|---|---:|---:|---|"]
    heading: tuple[str, str] | None = None
    for line in lines(report) if rows is None else rows:
        if heading != (heading := (line.benchmark, line.measured.group)):
            text.append(f"| **{line.benchmark}**: {line.measured.group} | | | |")
        text.append(f"| {' | '.join(shown(line))} |".replace("  ", " "))
    if report.failed:
        text += ["", "Not measured, or not all of it:", ""]
        text += [f"* {benchmark}: {reason}" for benchmark, reason in report.failed.items()]
    return "\n".join(text) + "\n"


def page(found: Mapping[str, Any]) -> str:
    """The page of a file that holds what `as_json` gives, with the ratios that it holds."""
    rows = [Line(row["benchmark"], _measured(row), row["ratios"] and tuple(row["ratios"])) for row in found["measured"]]
    return markdown(Report(found["head"], {}, found["failed"], found["warnings"]), rows)


def as_json(report: Report) -> dict[str, Any]:
    """Everything that the page says, and every single value."""
    return {
        "head": report.head,
        "warnings": report.warnings,
        "measured": [
            {
                "benchmark": line.benchmark,
                **asdict(line.measured),
                "median": line.measured.median,
                "ratios": line.ratios,
            }
            for line in lines(report)
        ],
        "failed": report.failed,
    }


def _measured(row: Mapping[str, Any]) -> Measured:
    """What was measured of a row of `as_json`."""
    return Measured(**{one.name: row[one.name] for one in fields(Measured)} | {"values": tuple(row["values"])})


def read(path: Path) -> Report:
    """A report as `write` has written it to a JSON file.

    Raises:
        ValueError: there is no such file, or it holds something else; one line.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
        rows: dict[str, list[Measured]] = {}
        for row in found["measured"]:
            rows.setdefault(row["benchmark"], []).append(_measured(row))
        report = Report(dict(found["head"]), rows, dict(found["failed"]), list(found["warnings"]))
        for _ in lines(report):
            pass
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is no JSON file of the benchmarks; give what `--out FOLDER` wrote") from error
    return report


def write(report: Report, folder: Path) -> Path:
    """Write DATE.md and DATE.json, whole or not at all; returns the page's path."""
    page = folder / f"{report.head['date'][:10]}.md"
    for path, text in ((page, markdown(report)), (page.with_suffix(".json"), json.dumps(as_json(report), indent=1))):
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return page


def _range(values: tuple[float, ...]) -> Range:
    return Range(min(values), statistics.median(values), max(values))


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _processor() -> str:
    with_model = Path("/proc/cpuinfo")
    if with_model.exists():
        for text in with_model.read_text().splitlines():
            key, _, value = text.partition(":")
            if key.strip() == "model name":
                return value.strip()
    if sys.platform == "darwin":
        return _said(["sysctl", "-n", "machdep.cpu.brand_string"])
    return platform.processor() or platform.machine()


def _threads() -> str:
    try:
        return run(python("import torch; print(torch.get_num_threads())")).output.strip()
    except BenchmarkError:
        return "unknown"


def _commit() -> str:
    return _said(["git", "describe", "--always", "--dirty", "--abbrev=7", "--exclude", "*"])


def _said(command: list[str]) -> str:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def load() -> float:
    """The load average of the last minute."""
    return os.getloadavg()[0]


def summary(head: Mapping[str, str]) -> str:
    return "\n".join(f"  {key}: {value}" for key, value in head.items())
