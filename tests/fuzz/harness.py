"""Running commands on hostile input, and the one property they all have.

Whatever is thrown at it, a command succeeds with a result, or ends with exit code 2 and one line that says what is
wrong. It shows no traceback and no warning of a library, ends, and writes nothing but its output.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import json
import os
import re
import resource
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random, SystemRandom

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from exporters.files import atomic_path
from kdsnn.cli.app import main
from kdsnn.errors import Notice, UserError

CORPUS = Path(__file__).parent / "corpus"

PATIENCE = 600
"""Seconds after which a command counts as hanging: far more than any takes on a busy machine."""


def examples(count: int) -> settings:
    """The same `count` examples every time; as many as KDSNN_FUZZ_EXAMPLES says, and others each time, if that is set."""
    more = os.environ.get("KDSNN_FUZZ_EXAMPLES")
    return settings(
        max_examples=int(more or count),
        derandomize=more is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def damaged(content: bytes, data: st.DataObject, *, times: int = 4, header: int = 80) -> bytes:
    """A file damaged in up to `times` places, every other of them within its first `header` bytes."""
    hurt = bytearray(content)
    for _ in range(data.draw(st.integers(1, times))):
        at = data.draw(st.integers(0, min(header, len(hurt)) - 1) | st.integers(0, len(hurt) - 1))
        kind = data.draw(st.sampled_from(("flip", "set", "cut out", "cut off")))
        if kind == "flip":
            hurt[at] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "set":
            hurt[at : at + 4] = data.draw(st.binary(min_size=4, max_size=4))
        elif kind == "cut out":
            del hurt[at : at + data.draw(st.integers(1, 8))]
        else:
            del hurt[max(at, 1) :]
        hurt = hurt or bytearray(b"\0")
    return bytes(hurt)


def for_seeds(count: int, holds: Callable[[Random], object]) -> None:
    """Try something that is drawn from seeds 0, 1, …; as many as KDSNN_FUZZ_EXAMPLES says, from another one on each time, if that is
    set. There is nothing to shrink: the seed of a failure is told with it."""
    more = os.environ.get("KDSNN_FUZZ_EXAMPLES")
    first = 0 if more is None else SystemRandom().randrange(2**40)
    for seed in range(first, first + int(more or count)):
        try:
            holds(Random(seed))
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


def tried(kind: str, call: Callable[[], object]) -> str:
    """Call, hold it to the property, and count it; the one line of a refusal, or nothing where there is a result."""
    began, said = time.process_time(), ""
    try:
        with _not_forever(), _no_warnings(Notice):
            call()
    except (UserError, OSError) as error:  # the latter where a file cannot be written, as the docstrings say
        said = str(error)
        assert isinstance(error, UserError) or error.strerror, repr(error)
        assert len(said) > 10 and "\n" not in said and "0x7f" not in said, said
    tell(kind, "refused" if said else "a result", time.process_time() - began)
    return said


_told: dict[str, dict[str, float]] = {}


def tell(kind: str, outcome: str, seconds: float = 0.0) -> None:
    """A mutation is counted; where KDSNN_FUZZ_RECORD names a file, it adds up what came of all, run after run."""
    counts = _told.setdefault(kind, {})
    for name, more in (("mutations", 1), (outcome, 1), ("seconds", seconds)):
        counts[name] = round(counts.get(name, 0) + more, 3)
    if sum(one["mutations"] for one in _told.values()) >= 500:
        record()


@atexit.register
def record() -> None:
    """What was counted since the last time is added to the file."""
    if "KDSNN_FUZZ_RECORD" not in os.environ or not _told:
        return
    path = Path(os.environ["KDSNN_FUZZ_RECORD"])
    found = json.loads(path.read_text()) if path.exists() else {}
    for kind, counts in _told.items():
        before = found.setdefault(kind, {})
        found[kind] = {name: round(before.get(name, 0) + counts.get(name, 0), 3) for name in {**before, **counts}}
    with atomic_path(path) as part:
        part.write_text(json.dumps(found, indent=1) + "\n")
    _told.clear()


@contextlib.contextmanager
def memory_limited(room: int) -> Iterator[None]:
    """Commands may have so many bytes beyond what this process has taken: what asks for more must say so in one line."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    status = Path("/proc/self/status")  # on Linux, where the limit counts what is no file's
    taken = 1024 * int(re.search(r"VmData:\s+(\d+)", status.read_text())[1]) if status.exists() else 0  # type: ignore[index]
    resource.setrlimit(resource.RLIMIT_DATA, (taken + room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and what it printed."""

    code: int
    stdout: str
    stderr: str

    @property
    def error(self) -> str:
        """The line that says what is wrong."""
        assert self.code == 2, f"exit {self.code}\n{self.stdout}\n{self.stderr}"
        return self.stderr.rstrip().splitlines()[-1]


PROGRESS = re.compile(r"(?:note|warning): .*|.*: \d+ %( .*)?")


STEERING = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
"""Characters that steer a terminal."""


def command(*arguments: object) -> Outcome:
    """Run a command in this process and hold it to the property; any other exception than SystemExit comes through."""
    out, err = io.StringIO(), io.StringIO()
    before = sys.argv
    sys.argv = ["kdsnn-deploy", *map(str, arguments)]
    code: object = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _not_forever(), _no_warnings():
            main()
    except SystemExit as end:
        code = 0 if end.code is None else end.code
    finally:
        sys.argv = before
    told = f"kdsnn-deploy {' '.join(map(repr, map(str, arguments)))}\nexit {code!r}\n{out.getvalue()}\n{err.getvalue()}"
    assert code in (0, 1, 2), told
    lines = [line for line in err.getvalue().splitlines() if not PROGRESS.fullmatch(line)]
    if arguments and arguments[0] == "predict":  # a line for every file
        assert bool(lines) == (code != 0) and all(re.fullmatch(r"error: \S.{10,}", line) for line in lines), told
    elif code != 2:
        assert not lines, told
    else:
        assert len(lines) == 1 and re.fullmatch(r"error: \S.{10,}", lines[0]), told
    assert "Traceback" not in told and "0x7f" not in told, told
    assert not STEERING.search(out.getvalue() + err.getvalue()), told
    return Outcome(int(str(code)), out.getvalue(), err.getvalue())


@contextlib.contextmanager
def untouched(folder: Path) -> Iterator[None]:
    """No file below `folder` comes, goes or changes."""
    before = _contents(folder)
    yield
    assert _contents(folder) == before


def _contents(folder: Path) -> dict[str, tuple[int, int]]:
    found = [p for p in folder.rglob("*") if "__pycache__" not in p.parts]  # Python's own, where a factory is imported
    kept = [p for p in found if not p.is_dir() or p.is_symlink()]
    return {str(p): (0, 0) for p in found} | {str(p): (p.lstat().st_size, p.lstat().st_mtime_ns) for p in kept}


@contextlib.contextmanager
def _not_forever() -> Iterator[None]:
    def hangs(number: int, frame: object) -> None:
        raise AssertionError(f"no end after {PATIENCE} seconds")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _no_warnings(*fine: type[Warning]) -> Iterator[None]:
    """What Python would show on standard error unasked, but for some."""
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")
        for unseen in fine:
            warnings.simplefilter("ignore", unseen)
        for unseen in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", unseen)
        yield
    assert not shown, [str(w.message) for w in shown]
