"""Measure everything and write one table: `python -m benchmarks`, which is `make bench`.

    python -m benchmarks [--out FOLDER] [--quick]         all measurements; benchmark-results/DATE.md and .json
    python -m benchmarks NAME … [--out FOLDER]            some of them; written only where --out says
    python -m benchmarks compare BEFORE.json AFTER.json   how the ratios of two such files differ, as Markdown
    python -m benchmarks SWEEP [OPTION …]                 a sweep, which prints a table of its own

A measurement has `rows(quick)`, which yields `Measured`s, and runs in a process of its own. A sweep has `main()`: it
compares spikes or sizes over many networks, or trains, and takes from minutes to days; `compare` alone measures nothing.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import _report
from benchmarks._measure import Measured
from benchmarks._process import BenchmarkError, measure_apart, stay_small

MEASUREMENTS = {
    name: f"benchmarks.{name}"
    for name in (
        "startup", "front_end", "emulator", "lava_in_time", "onnx_latency", "counting", "training_throughput", "export",
        "growth", "memory",
    )
}  # fmt: skip
SWEEPS = (
    "check_students", "compare", "kdsnn_tables", "lava_parity", "neurobench_metrics", "nir_peers", "onnx_students", "results",
    "step_times", "zoo",
)  # fmt: skip
RESULTS = Path("benchmark-results")
LONGEST_WAIT = 120.0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 1 if something could not be measured, 130 if it was interrupted."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments and arguments[0] in SWEEPS:
        sys.argv = list(arguments)
        importlib.import_module(f"benchmarks.{arguments[0]}").main()
        return 0
    parser = argparse.ArgumentParser(
        "benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"Measurements: {', '.join(MEASUREMENTS)}. Sweeps: {', '.join(SWEEPS)}.",
    )  # fmt: skip
    parser.add_argument("names", nargs="*", metavar="NAME", help="measurements; all by default")
    parser.add_argument("--out", type=Path, help=f"folder of the table; {RESULTS} if everything is measured")
    parser.add_argument(
        "--quick", action="store_true", help="smallest sizes, one round: shows that it runs, nothing else"
    )
    given = parser.parse_args(arguments)
    for name in given.names:
        if name not in MEASUREMENTS:
            parser.error(f"there is no measurement {name!r}; choose from {', '.join(MEASUREMENTS)}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill ends like Ctrl-C
    stay_small()  # to print a row imports torch
    chosen = {name: MEASUREMENTS[name] for name in given.names} or MEASUREMENTS
    if not (given.names or given.quick):
        wait_for_quiet()
    return measure_all(chosen, out=given.out or (None if given.names else RESULTS), quick=given.quick)


def wait_for_quiet() -> None:
    """Let the load average sink: in a fresh clone the installation has only just ended. Busy for longer is a warning."""
    until = time.monotonic() + LONGEST_WAIT
    while (warning := _report.busy(_report.load(), _report.cores())) and time.monotonic() < until:
        print(f"waiting, at most {until - time.monotonic():.0f} s more: {warning}", file=sys.stderr)
        time.sleep(10)


def measure_all(modules: Mapping[str, str], *, out: Path | None, quick: bool) -> int:
    """Measure, print and write, after every benchmark anew: what was measured is there, however this ends."""
    before = _report.load()
    report = _report.Report(_report.machine())
    if quick:
        report.warnings.append("measured with --quick, which measures next to nothing: do not quote these figures")
    if warning := _report.busy(before, _report.cores()):
        report.warnings.append(warning)
    for warning in report.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(_report.summary(report.head), flush=True)
    report.failed = dict.fromkeys(modules, "not reached")
    began, page, interrupted = time.monotonic(), None, False
    for name, module in modules.items():
        print(f"\n== {name}", flush=True)
        started = time.monotonic()
        try:
            for row in measure_apart(module, quick):
                _add(report, name, row)
            del report.failed[name]
        except BenchmarkError as error:
            report.failed[name] = str(error)
            print(f"  failed: {error}", flush=True)
        except KeyboardInterrupt:
            report.failed[name], interrupted = "interrupted", True
        print(f"  ({time.monotonic() - started:.0f} s)", flush=True)
        took = f"{(time.monotonic() - began) / 60:.1f} min"
        report.head["load average"] = f"{before:.2f} at the start, {_report.load():.2f} at the end, after {took}"
        if out is not None:
            page = _report.write(report, out)
        if interrupted:
            break
    print(f"\n{_report.markdown(report)}")
    if page is not None:
        print(f"written to {page} and {page.with_suffix('.json')}")
    return 130 if interrupted else int(bool(report.failed))


def _add(report: _report.Report, name: str, row: Measured) -> None:
    """Keep a row and print it."""
    rows = report.rows.setdefault(name, [])
    if not rows or rows[-1].group != row.group:
        print(f" {row.group}")
    rows.append(row)
    try:
        *_, line = _report.lines(report)
    except ValueError as error:
        rows.pop()
        raise BenchmarkError(str(error)) from error
    title, value, ratio, note = _report.shown(line)
    print(f"  {title:<40} {value:<32} {ratio:<24} {note}".rstrip(), flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
