"""Processes of their own: a command with its time and its peak memory, and a benchmark apart from the others."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks._measure import Measured

ROOT = Path(__file__).parent.parent
CLI = str(Path(sys.executable).with_name("kdsnn-deploy"))
_PEAK_UNIT = 1 if sys.platform == "darwin" else 1024
_LONGEST_END = 20.0


class BenchmarkError(Exception):
    """A benchmark, or what it runs, could not be measured: the message says what and why, in one line."""


@dataclass(frozen=True)
class Finished:
    """A command that ended well: wall-clock `seconds`, `peak` resident bytes, what it printed to standard output."""

    seconds: float
    peak: int
    output: str


def python(code: str) -> list[str]:
    """The command that runs a line of Python; it may import `benchmarks`."""
    return [sys.executable, "-c", code]


def run(command: Sequence[str]) -> Finished:
    """Run a command from the project's folder to its end.

    Raises:
        BenchmarkError: it cannot be started, or ends with anything but 0.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        started = time.perf_counter()
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, cwd=ROOT)
        except OSError as error:
            raise BenchmarkError(f"{command[0]} cannot be started: {error.strerror}") from error
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            last = (errors.read().strip().splitlines() or ["it says nothing"])[-1]
            raise BenchmarkError(f"{' '.join(command)} ended with exit code {process.returncode}: {last}")
        output.seek(0)
        return Finished(seconds, usage.ru_maxrss * _PEAK_UNIT, output.read())


def peak(command: Sequence[str]) -> int:
    """Peak resident bytes of a command.

    Raises:
        BenchmarkError: as `run`; or it needed no more than this process, which hides it: a child's peak starts at
            the size of the process that it was forked from.
    """
    found, own = run(command).peak, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _PEAK_UNIT
    if found <= own:
        raise BenchmarkError(f"{' '.join(command)}: its peak is hidden by the {own} bytes of the process that measures")
    return found


def stay_small() -> None:
    """Processes are forked from here on from one that is as small as this one is now: their peaks start at its size."""
    forkserver.ensure_running()


def measure_apart(module: str, quick: bool) -> Iterator[Measured]:
    """What `rows(quick)` of a module yields, in a fresh process: nothing that ran before weighs on it or is lost with it.

    Raises:
        BenchmarkError: it raised, or its process died.
    """
    context = multiprocessing.get_context("forkserver")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(module, quick, sender), daemon=True)
    process.start()
    sender.close()
    try:
        while True:
            try:
                found = receiver.recv()
            except EOFError:
                process.join()
                raise BenchmarkError(f"its process ended with exit code {process.exitcode}") from None
            if found is None:
                process.join(_LONGEST_END)
                return
            if isinstance(found, str):
                raise BenchmarkError(found)
            yield found
    finally:
        process.terminate()
        process.join(_LONGEST_END)
        process.kill()
        process.join()
        receiver.close()


def _send(module: str, quick: bool, sender: Connection) -> None:
    """In the other process: every row as it is measured, then None, or a line that says what went wrong."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # unwinds, so that processes and folders go too
    try:
        for row in importlib.import_module(module).rows(quick):
            sender.send(row)
        sender.send(None)
    except KeyboardInterrupt:
        return
    except Exception as error:
        traceback.print_exc()
        lines = str(error).strip().splitlines() or [""]
        sender.send(lines[0] if isinstance(error, BenchmarkError) else f"{type(error).__name__}: {lines[0]}")
