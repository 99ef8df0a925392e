"""`make bench`: the table that is made of measurements, and what happens when one of them fails. No time is asserted."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import _process, _report
from benchmarks import compare as before_after
from benchmarks.__main__ import MEASUREMENTS, SWEEPS, main, measure_all, wait_for_quiet
from benchmarks._measure import Measured, alternate, compare
from benchmarks._report import Report

ROOT = Path(__file__).parent.parent
HEAD = {"date": "2026-11-23 10:00 +0000", "processor": "abacus"}

GOOD = """
from benchmarks._measure import Measured
def rows(quick):
    yield Measured("race", "hare", (1.0, 2.0, 4.0))
    yield Measured("race", "tortoise", (3.0, 2.0, 8.0), relative_to="hare", note=f"quick is {quick}")
"""
RAISES = GOOD + "    raise OSError('no such peer\\nsecond line')\n"
DIES = "import os\n" + GOOD + "    os._exit(7)\n"
NONSENSE = """
from benchmarks._measure import Measured
def rows(quick):
    yield Measured("race", "hare", (1.0, 2.0))
    yield Measured("race", "tortoise", (3.0,), relative_to="hare")
"""
INTERRUPTS = (
    "import multiprocessing, os, signal, time\n"
    + GOOD
    + "    time.sleep(0.5)\n    os.kill(multiprocessing.parent_process().pid, signal.SIGINT)\n    time.sleep(60)\n"
)


def cells(page: str, name: str) -> list[list[str]]:
    """The rows of the table that start with `name`."""
    split = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("|")
    ]
    return [row for row in split if row[0] == name]


def functions(file: Path) -> set[str]:
    return {node.name for node in ast.parse(file.read_text("utf-8")).body if isinstance(node, ast.FunctionDef)}


def test_every_benchmark_is_listed() -> None:
    files = {f.stem: f for f in (ROOT / "benchmarks").glob("*.py") if not f.name.startswith("_")}
    assert set(files) == {*MEASUREMENTS, *SWEEPS}
    assert all("rows" in functions(files[name]) for name in MEASUREMENTS)
    assert all("main" in functions(files[name]) for name in SWEEPS)


def test_ratios_are_medians_of_the_rounds() -> None:
    rows = [
        Measured("race, per lap", "hare", (0.001, 0.002, 0.004)),
        Measured("race, per lap", "tortoise", (0.003, 0.002, 0.008), relative_to="hare", note="wins"),
        Measured("weight", "hare", (3e6,), "B"),
    ]
    report = Report(HEAD, {"fable": rows}, {"peer": "cannot be installed"})
    page = _report.markdown(report).replace("\u00a0", " ")
    # the ratio of the medians would be 1.5
    assert cells(page, "tortoise") == [["tortoise", "3.00 ms (2.00–8.00 ms)", "2 (1.00–3.00)", "wins"]]
    assert cells(page, "hare") == [["hare", "2.00 ms (1.00–4.00 ms)", "1", ""], ["hare", "3.00 MB", "", ""]]
    assert len(cells(page, "**fable**: race, per lap")) == len(cells(page, "**fable**: weight")) == 1
    assert cells(page, "processor") == [["processor", "abacus"]]
    assert "* peer: cannot be installed" in page
    found = _report.as_json(report)
    assert [row["ratios"] for row in found["measured"]] == [(1.0,), (3.0, 1.0, 2.0), None]
    assert [row["median"] for row in found["measured"]] == [0.002, 0.003, 3e6]


@pytest.mark.parametrize(
    "rows",
    [
        [Measured("race", "tortoise", (1.0,), relative_to="hare"), Measured("race", "hare", (1.0,))],
        [Measured("race", "hare", (1.0, 2.0)), Measured("race", "tortoise", (1.0,), relative_to="hare")],
        [Measured("other", "hare", (1.0,)), Measured("race", "tortoise", (1.0,), relative_to="hare")],
    ],
    ids=["base later", "other rounds", "other group"],
)
def test_ratios_need_their_base(rows: list[Measured]) -> None:
    with pytest.raises(ValueError):
        _report.markdown(Report(HEAD, {"fable": rows}))


@pytest.mark.parametrize("values", [(), (float("nan"),), (1.0, float("inf"))])
def test_no_measurement(values: tuple[float, ...]) -> None:
    with pytest.raises(ValueError):
        Measured("race", "hare", values)


def test_candidates_take_turns() -> None:
    calls: list[str] = []

    def candidate(name: str) -> Callable[[], float]:
        return lambda: calls.append(name) or float(len(calls))  # type: ignore[func-returns-value]

    found = alternate({"a": candidate("a"), "b": candidate("b")}, rounds=3)
    assert calls == ["a", "b"] * 4
    assert found == {"a": (3.0, 5.0, 7.0), "b": (4.0, 6.0, 8.0)}


def test_times_are_of_one_call_per_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def takes(seconds: float) -> Callable[[], None]:
        return lambda: now.__setitem__(0, now[0] + seconds)

    long, short = compare("work", {"long": takes(8), "short": takes(0.001)}, rounds=3, per={"long": 4, "short": 0.5})
    assert long.values == pytest.approx((2.0,) * 3) and long.relative_to is None
    assert short.values == pytest.approx((0.002,) * 3) and short.relative_to == "long"
    assert long.note == short.note == ""
    monkeypatch.setattr(time, "process_time", lambda: now[0] / 4)  # the rest was waiting
    long, short = compare("work", {"long": takes(8), "short": takes(1)}, rounds=3, processor=True)
    assert (long.note, short.note) == ("2e+03 ms of a processor, 1.00", "250 ms of a processor, 0.12")


def test_what_fails_is_named_and_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    modules = {"fine": GOOD, "raises": RAISES, "dies": DIES, "nonsense": NONSENSE, "last": GOOD}
    for name, text in modules.items():
        (tmp_path / f"bench_{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(_report, "machine", lambda: dict(HEAD))
    out = tmp_path / "out"
    assert measure_all({name: f"bench_{name}" for name in modules}, out=out, quick=False) == 1
    page = (out / "2026-11-23.md").read_text("utf-8")
    assert sorted(f.name for f in out.iterdir()) == ["2026-11-23.json", "2026-11-23.md"]
    assert page in capfd.readouterr().out
    assert "* raises: OSError: no such peer\n" in page
    assert "* dies: its process ended with exit code 7\n" in page
    assert "* nonsense: " in page and "* fine" not in page and "* last" not in page
    assert (
        len(cells(page, "tortoise")) == 4
    )  # what was measured before a failure stays; rounds that do not match do not
    assert cells(page, "tortoise")[-1][-1] == "quick is False"
    assert set(json.loads((out / "2026-11-23.json").read_text())["failed"]) == {"raises", "dies", "nonsense"}
    assert measure_all({"fine": "bench_fine"}, out=None, quick=True) == 0


def test_interrupted_it_writes_what_it_has(tmp_path: Path) -> None:
    for name, text in {"fine": GOOD, "interrupts": INTERRUPTS, "never": GOOD}.items():
        (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "script.py").write_text(
        "from pathlib import Path\nfrom benchmarks import _report\nfrom benchmarks.__main__ import measure_all\n"
        f"_report.machine = lambda: {HEAD!r}\n"
        "if __name__ == '__main__':\n"
        "    names = {name: name for name in ('fine', 'interrupts', 'never')}\n"
        "    raise SystemExit(measure_all(names, out=Path('out'), quick=True))\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 128 + signal.SIGINT, done.stderr
    page = (tmp_path / "out" / "2026-11-23.md").read_text("utf-8")
    assert len(cells(page, "tortoise")) == 2
    assert "* interrupts: interrupted\n* never: not reached\n" in page
    assert "Traceback" not in done.stderr


def test_commands_that_fail_say_why() -> None:
    with pytest.raises(_process.BenchmarkError, match="exit code 3: the last word"):
        _process.run(_process.python("import sys; print('the last word', file=sys.stderr); sys.exit(3)"))
    with pytest.raises(_process.BenchmarkError, match="no-such-program"):
        _process.run(["no-such-program"])
    assert _process.run(_process.python("print(6 * 7)")).output == "42\n"


def test_peak_memory_is_that_of_the_child() -> None:
    code = (
        "from benchmarks._process import BenchmarkError, peak, python\n"
        "print(peak(python('x = bytearray(300_000_000)')))\n"
        "x = bytearray(300_000_000)\n"
        "try: peak(python('pass'))\n"
        "except BenchmarkError as error: print(error)\n"
    )
    # behind a shell: what this process has used stays the peak of what it starts itself
    peak, refusal = _process.run(["sh", "-c", '"$@"; exit $?', "sh", *_process.python(code)]).output.splitlines()
    assert 300_000_000 < int(peak) < 400_000_000
    assert "hidden" in refusal


def test_other_work_is_warned_of() -> None:
    assert _report.busy(1.0, 2) is None
    assert "1.01 on 2 cores" in (_report.busy(1.01, 2) or "")


def test_it_waits_for_quiet_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    now, loads = [0.0], iter([9.0, 5.0, 0.1])
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    monkeypatch.setattr(_report, "cores", lambda: 2)
    monkeypatch.setattr(_report, "load", lambda: next(loads))
    wait_for_quiet()
    assert now[0] == 20
    monkeypatch.setattr(_report, "load", lambda: 9.0)
    wait_for_quiet()
    assert 20 + 60 < now[0] < 20 + 300


def test_unknown_names_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["emulators"])
    assert end.value.code == 2
    assert "choose from" in capsys.readouterr().err


def written(folder: Path, rows: list[Measured], **head: str) -> str:
    report = Report(HEAD | {"system": "wood"} | head, {"fable": rows}, {}, ["it rained"])
    return str(_report.write(report, folder).with_suffix(".json"))


def race(hare: tuple[float, ...], tortoise: tuple[float, ...], **more: Any) -> list[Measured]:
    return [Measured("race", "hare", hare), Measured("race", "tortoise", tortoise, relative_to="hare"), *more.values()]


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    report = Report(dict(HEAD), {"fable": race((0.001, 0.002), (0.003, 0.004))}, {"peer": "missing"}, ["it rained"])
    page = _report.write(report, tmp_path)
    assert _report.read(page.with_suffix(".json")) == report


def test_before_and_after(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    others = {
        "snail": Measured("race", "snail", (6.0, 6.6, 7.2), relative_to="hare"),
        "fox": Measured("hunt", "fox", (1,)),
    }
    before = written(tmp_path / "a", race((1.0, 1.1, 1.2), (3.0, 3.3, 3.6), **others))  # ratios of exactly 3 and 6
    others = {
        "snail": Measured("race", "snail", (14.0, 9.0, 12.0), relative_to="hare"),
        "owl": Measured("hunt", "owl", (1,)),
    }
    after = written(tmp_path / "b", race((2.0, 2.0, 2.0), (2.0, 3.0, 2.4), **others))  # 1, 1.5, 1.2 and 7, 4.5, 6
    before_after.main([before, after])
    page = capsys.readouterr().out.replace("\u00a0", " ")
    # the times went from 1.1 s to 2 s and from 3.3 s to 2.4 s: a ratio may fall by more than either
    assert cells(page, "tortoise") == [
        [
            "tortoise",
            "3 (3.00)",
            "1.20 (1.00–1.50)",
            "**0.400**",
            "3.30 s (3.00–3.60 s)",
            "2.40 s (2.00–3.00 s)",
            "no change",
        ]
    ]
    assert cells(page, "snail")[0][1:4] == ["6 (6.00)", "6 (4.50–7.00)", "no change"]
    assert cells(page, "hare") == [["hare", "1", "1", "", "1.10 s (1.00–1.20 s)", "2.00 s (2.00 s)", "**1.82**"]]
    assert "Of 2 ratios 1 became smaller and 0 larger; of 1 the rounds overlap" in page
    assert "Only before:\n\n* fable: hunt: fox\n" in page and "Only after:\n\n* fable: hunt: owl\n" in page
    assert "**Before: it rained.**" in page and "machines differ" not in page


def test_other_machines_are_compared_by_ratios_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = written(tmp_path / "a", race((1.0,), (3.0,), alone=Measured("hunt", "fox", (1.0,))))
    after = written(tmp_path / "b", race((2.0,), (12.0,), alone=Measured("hunt", "fox", (1.0,))), processor="quipu")
    before_after.main([before, after])
    page = capsys.readouterr().out
    assert cells(page, "tortoise") == [["tortoise", "3", "6", "**2**"]]
    assert cells(page, "fox") == [] and "machines differ" in page
    assert cells(page, "processor") == [["processor", "abacus", "quipu"]]


def test_ratios_to_other_rows_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hare, tortoise = Measured("race", "hare", (1.0,)), Measured("race", "tortoise", (2.0,))
    before = written(tmp_path / "a", [hare, tortoise, Measured("race", "snail", (4.0,), relative_to="hare")])
    after = written(tmp_path / "b", [hare, tortoise, Measured("race", "snail", (4.0,), relative_to="tortoise")])
    before_after.main([before, after])
    page = capsys.readouterr().out
    assert "Of 0 ratios" in page and "\n* fable: race: snail\n" in page
    assert cells(page, "snail")[0][1:4] == ["", "", ""]


@pytest.mark.parametrize("text", [None, "[1]", '{"measured": []}', "no JSON", '{"measured": [{"group": "race"}]}'])
def test_other_files_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None
) -> None:
    path = tmp_path / "other.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SystemExit) as end:
        before_after.main([str(path), str(path)])
    assert end.value.code == 2
    assert str(path) in capsys.readouterr().err.splitlines()[-1]


def test_a_real_one_from_end_to_end(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "onnx_latency", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("*.json")
    found = json.loads(path.read_text("utf-8"))
    names = {row["name"] for row in found["measured"] if row["values"][0] > 0}
    forms = {f"onnx {form}, {kind}" for form in ("sequence", "loop") for kind in ("float", "integer")}
    assert names == {"SpikingJelly, float", "emulator, float", "emulator, integer", *forms}
    assert {"date", "processor", "system", "versions", "commit", "load average"} == set(found["head"])
    assert any("--quick" in warning for warning in found["warnings"])
    assert done.stdout.endswith(f"written to {path.with_suffix('.md')} and {path}\n")
