"""The command line where the disk is full, folders are read-only, there is no home, two commands meet, or it is stopped.

Every such command ends in one line and exit code 2, an old output stays whole, nothing is left half written and
nothing goes on running. Commands run in copies of this process, which spares importing torch each time; where a
disk must be full or read-only, that copy has mounts of its own.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import itertools
import os
import pickle
import pwd
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from exporters import netx
from exporters.files import atomic_path, atomic_paths
from kdsnn import checkpoint
from kdsnn.data import load
from kdsnn.deploy import places
from kdsnn.errors import KdsnnError
from kdsnn.train import loop
from kdsnn.train.history import EpochRecord
from kdsnn.train.resume import RunFiles
from tests.integration.copies import forked
from tests.integration.test_cli import COMMAND, cli, error_line

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs fork, /proc and mounts of its own")

T = TypeVar("T")
SMALL = ["cnn2", "--option", "channels=4,4", "--option", "hidden=16"]


# -- commands in processes of their own --------------------------------------------------------------


@dataclass
class Ended:
    """How a command ended. `left`: processes of its session that still run."""

    code: int
    out: str
    err: str
    left: list[int]

    def error(self) -> str:
        """Its one line of error; progress and remarks may stand before it."""
        assert self.code == 2, self
        *progress, last = self.err.splitlines()
        assert last.startswith("error: ") and all(
            line.startswith("note: ") or line.endswith((" %", "accuracy")) or " %  " in line for line in progress
        )
        assert not self.left
        return last


@dataclass
class Started:
    """A command at work; `log` holds what it prints, errors too."""

    pid: int
    out: int
    err: int

    def said(self) -> str:
        return os.pread(self.err, 2**20, 0).decode(errors="backslashreplace")

    def wait(self, seconds: float = 120) -> Ended:
        end = time.monotonic() + seconds
        while not (found := os.waitpid(self.pid, os.WNOHANG))[0]:
            if time.monotonic() > end:
                os.killpg(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise AssertionError(f"it hangs after {self.said()}")
            time.sleep(0.01)
        out = os.pread(self.out, 2**20, 0).decode(errors="backslashreplace")
        return Ended(os.waitstatus_to_exitcode(found[1]), out, self.said(), alive_in(self.pid))


def alive_in(session: int) -> list[int]:
    """Processes of a session that are not dead; they get a moment to be gone."""
    for _ in range(100):
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and os.getsid(int(entry.name)) == session:
                    state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                    found += [int(entry.name)] if state != "Z" else []
            except OSError:
                continue
        if not found:
            break
        time.sleep(0.02)
    return found


def start(*arguments: object, before: Callable[[], object] = lambda: None) -> Started:
    """Start a command in a copy of this process; `before` runs in it first."""
    out, err = os.memfd_create("out"), os.memfd_create("err")
    return Started(forked(arguments, out=out, err=err, before=before), out, err)


def command(*arguments: object, before: Callable[[], object] = lambda: None) -> Ended:
    return start(*arguments, before=before).wait()


def apart(scenario: Callable[[], T]) -> T:
    """Run `scenario` in a copy of this process whose mounts are its own; what it returns or raises comes back."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _own_mounts()
            answer: tuple[bool, object] = (True, scenario())
        except BaseException:
            answer = (False, traceback.format_exc())
        with os.fdopen(writer, "wb") as pipe:
            pickle.dump(answer, pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        good, value = pickle.load(pipe)
    os.waitpid(pid, 0)
    if not good:
        raise AssertionError(value)
    return value  # type: ignore[no-any-return]


NEW_MOUNTS, NEW_USER = 0x20000, 0x10000000
READ_ONLY, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 32, 4096, 16384, 1 << 18


def _own_mounts() -> None:
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(NEW_MOUNTS | (NEW_USER if user else 0)):
        raise OSError(ctypes.get_errno(), "unshare")
    if user:  # who is nobody may mount only as the root of a user namespace
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    _mount("none", "/", None, RECURSIVE | PRIVATE)


def _mount(what: object, where: object, kind: str | None, flags: int, options: str | None = None) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    texts = [None if x is None else os.fsencode(str(x)) for x in (what, where, kind, options)]
    if libc.mount(texts[0], texts[1], texts[2], flags, texts[3]):
        raise OSError(ctypes.get_errno(), f"mount {where}")


def small_disk(where: Path, size: str = "2m") -> None:
    _mount("disk", where, "tmpfs", 0, f"size={size},mode=1777")


def read_only(where: Path) -> None:
    _mount(where, where, None, BIND)
    kept = os.statvfs(where).f_flag & (os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC | os.ST_NOATIME | os.ST_NODIRATIME)
    _mount(where, where, None, BIND | REMOUNT | READ_ONLY | kept)  # only who is root may drop one of these


def fill(disk: Path, leave: int = 0) -> None:
    """Leave so many bytes of room, in whole pages."""
    ballast = disk / ".ballast"
    ballast.unlink(missing_ok=True)
    with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))
    os.truncate(ballast, ballast.stat().st_size - leave)


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".ballast"
    }


@pytest.fixture(scope="module")
def mounts() -> None:
    """Skips where this user may not mount anything, not even for itself (some containers, hardened kernels)."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            apart(lambda: small_disk(Path(folder)))
        except AssertionError as error:
            pytest.skip(f"cannot mount: {str(error).splitlines()[-1]}")


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint; making it and a report of it imports here, once, what the copies of this process need."""
    folder = tmp_path_factory.mktemp("student")
    path = folder / "student.safetensors"
    cli("distill", *SMALL, "--method", "none", "--epochs", 1, "--timesteps", 2, "--out", path)
    cli("profile", path, "--samples", 2, "--out", folder / "report")
    cli("export", path, "--to", "onnx", "--to", "netx", "--to", "nir", "--out", folder)
    return path


# -- a full disk -------------------------------------------------------------------------------------

WRITERS = {
    "student.net": "export STUDENT --to netx --out OUT",
    "student.onnx": "export STUDENT --to onnx --out OUT",
    "student.nir": "export STUDENT --to nir --out OUT",
    "report.html": "profile STUDENT --samples 2 --out OUT",
    "spikes.npz": "run STUDENT --samples 300 --save OUT/spikes.npz",
}


def words(text: str, student: Path, out: Path) -> list[str]:
    return [w.replace("STUDENT", str(student)).replace("OUT", str(out)) for w in text.split()]


@pytest.mark.usefixtures("mounts")
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_the_old_files(name: str, student: Path, tmp_path: Path) -> None:
    old = dict.fromkeys((name, "student.net.json", "report.json", "layers.csv"), b"old")

    def scenario() -> list[int]:
        small_disk(tmp_path)
        for n in old:
            (tmp_path / n).write_bytes(b"old")
        codes = []
        for leave in (0, 8192, 16384, 40960):
            fill(tmp_path, leave)
            done = command(*words(WRITERS[name], student, tmp_path))
            codes.append(done.code)
            if done.code == 0:
                break
            assert str(tmp_path) in done.error() and "No space left on device; make room" in done.error()
            assert content(tmp_path) == old
        (tmp_path / ".ballast").unlink()
        assert command(*words(WRITERS[name], student, tmp_path)).code == 0
        assert (tmp_path / name).stat().st_size > 1000
        return codes

    assert apart(scenario)[:1] == [2]


def test_a_file_that_may_not_grow_is_a_full_disk(student: Path, tmp_path: Path) -> None:
    """What needs no mounts: a limit on the size of files."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))

    for name in ("student.net", "student.nir", "report.html"):
        line = command(*words(WRITERS[name], student, tmp_path), before=limit).error()
        assert line == f"error: {tmp_path / name}: File too large; make room, or choose another place"
    assert content(tmp_path) == {}


@pytest.mark.usefixtures("mounts", "student")
@pytest.mark.parametrize("epoch", [3, 5])
def test_a_training_whose_disk_fills_up_goes_on_later(
    epoch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle the state does not fit, after the last epoch the checkpoint does not."""
    disk, whole = tmp_path / "disk", tmp_path / "whole"
    disk.mkdir()
    train = ["pretrain", *SMALL, "--epochs", 5, "--out"]
    assert command(*train, whole / "ann.safetensors").code == 0
    monkeypatch.setattr("kdsnn.train.RunFiles", functools.partial(RunFiles, every_seconds=0.0))
    record = loop._record

    def filling(files: RunFiles, history: tuple[EpochRecord, ...]) -> None:
        record(files, history)
        if len(history) == epoch:
            fill(disk)

    def scenario() -> None:
        small_disk(disk)
        out = disk / "ann.safetensors"
        out.write_bytes(b"old")
        line = command(*train, out, "--overwrite", before=lambda: setattr(loop, "_record", filling)).error()
        assert line.startswith(f"error: {disk}/ann.") and "No space left" in line and "--resume" in line
        assert out.read_bytes() == b"old"
        assert set(content(disk)) == {"ann.safetensors", "ann.training", "ann.csv", "ann.svg"}
        (disk / ".ballast").unlink()
        assert command(*train, out, "--resume").code == 0
        made, wanted = content(disk), content(whole)
        assert made.keys() == wanted.keys() and made["ann.safetensors"] == wanted["ann.safetensors"]
        assert len(made["ann.csv"].splitlines()) == 6

    apart(scenario)


@pytest.mark.usefixtures("mounts")
def test_a_full_or_missing_temporary_folder(student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = ("run", student, "--on", "torch,onnx", "--samples", 2)

    def full() -> None:
        small_disk(tmp_path)
        fill(tmp_path, 4096)
        assert "network.onnx: No space left on device" in command(*run).error()
        assert content(tmp_path) == {}

    def none() -> None:
        for folder in ("/tmp", "/var/tmp", "/usr/tmp", "/dev/shm", tmp_path):
            if Path(folder).is_dir():
                read_only(Path(folder))
        os.chdir("/proc")
        assert "No usable temporary directory" in (line := command(*run).error()) and "TMPDIR" in line
        assert command("evaluate", student).code == 0

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    apart(full)
    apart(none)


@pytest.mark.usefixtures("mounts")
def test_no_room_for_lava(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scenario() -> None:
        small_disk(tmp_path)
        assert "has 2 MB of room, the Lava environment needs about 700" in command("lava", "setup").error()
        assert {p.name for p in tmp_path.iterdir()} <= {f"py3.{sys.version_info.minor}.lock"}

    monkeypatch.setenv("KDSNN_LAVA_HOME", str(tmp_path))
    apart(scenario)


# -- places that cannot be written -------------------------------------------------------------------


@pytest.mark.usefixtures("mounts")
def test_read_only_folders(student: Path, tmp_path: Path) -> None:
    def scenario() -> None:
        read_only(tmp_path)
        os.chdir(tmp_path)
        for text in (
            *WRITERS.values(),
            "pretrain cnn2 --out OUT/x.safetensors",
            "distill cnn2 --out OUT/sub/x.safetensors",
        ):
            assert "Read-only file system; choose a place" in command(*words(text, student, tmp_path)).error()
        assert command("run", student, "--on", "onnx", "--samples", 2).code == 0  # the current folder is not needed

    apart(scenario)


def test_what_is_in_the_way(student: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "x.safetensors").mkdir()
    assert "this is a folder" in error_line("pretrain", "cnn2", "--out", tmp_path / "x.safetensors")
    assert "this is a folder" in error_line("run", student, "--samples", 1, "--save", tmp_path)
    assert "this is a device" in error_line("run", student, "--samples", 1, "--save", "/dev/null")
    assert Path("/dev/null").is_char_device()
    for verb in ("export", "profile"):
        assert "this is a file; give a folder" in error_line(verb, student, "--out", tmp_path / "file")
    assert "Not a directory" in error_line("run", student, "--save", tmp_path / "file" / "sub" / "x.npz")
    name = "x" * 250 + ".safetensors"
    assert "File name too long; choose a shorter name" in error_line("pretrain", "cnn2", "--out", tmp_path / name)
    assert "not valid UTF-8" in error_line("pretrain", "cnn2", "--out", tmp_path / "\udcff.safetensors")
    assert content(tmp_path) == {"file": b"old"}


def test_no_home_folder(student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", "KDSNN_LAVA_HOME", "USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)

    def nobody() -> None:
        def unknown(uid: int) -> None:
            raise KeyError(f"getpwuid(): uid not found: {uid}")

        pwd.getpwuid = unknown  # type: ignore[assignment]

    for arguments in (
        ["lava", "setup"],
        ["lava", "status"],
        ["demo", "--out", tmp_path],
        ["run", student, "--on", "lava"],
    ):
        assert "no home folder" in (line := command(*arguments, before=nobody).error()) and "KDSNN_LAVA_HOME" in line
    assert command("pretrain", *SMALL, "--epochs", 1, "--out", tmp_path / "x.safetensors", before=nobody).code == 0
    monkeypatch.setenv("HOME", "/dev/null/home")
    assert "/dev/null/home" in command("lava", "setup").error()


@pytest.mark.usefixtures("mounts", "lava_environment")
def test_lava_says_that_it_needs_shared_memory(student: Path) -> None:
    def scenario() -> None:
        small_disk(Path("/dev/shm"), "64k")
        assert "is /dev/shm full" in command("run", student, "--on", "lava", "--samples", 2).error()
        assert os.listdir("/dev/shm") == []  # noqa: PTH208
        read_only(Path("/dev/shm"))
        assert "is /dev/shm full" in command("run", student, "--on", "lava", "--samples", 2).error()
        for text in (WRITERS["student.net"], "pretrain cnn2 --epochs 1 --out OUT/x.safetensors"):
            assert command(*words(text, student, student.parent / "no-shared-memory")).code == 0

    apart(scenario)


# -- names and streams -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sp ace'\"\\", "ü漢字😀", "new\nline", "-%s[b]$HOME`*", "a" * 100 + "漢" * 40])
def test_names_of_all_kinds(name: str, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.chdir(folder)
    digits = load("digits")
    data = Path(f"{name}.npz")
    np.savez(
        data,
        x_train=digits.x_train[:64, 0],
        y_train=np.arange(64) % 10,
        x_test=digits.x_test[:9, 0],
        y_test=np.arange(9),
    )
    made = Path(f"{name}.safetensors")
    cli("pretrain", *SMALL, "--epochs", 1, "--data", f"npz:{data}", f"--out={made}")
    assert {made.name, f"{name}.csv", f"{name}.svg", data.name} == {p.name for p in folder.iterdir()}
    made.write_bytes(student.read_bytes())
    cli("export", "--out", folder / name, "--to", "netx", "--to", "onnx", "--to", "nir", "--", made)
    for suffix in ("net", "onnx", "nir"):
        cli(
            "run",
            "--samples",
            2,
            f"--data=npz:{data}",
            "--save",
            folder / name / "x.npz",
            "--",
            f"{name}/{name}.{suffix}",
        )
    cli("profile", "--samples", 2, "--out", folder / name, "--", made)
    assert not [p for p in folder.rglob("*") if p.name.startswith(".")]


def piped(
    *arguments: str, stdout: int | None = subprocess.PIPE, shell: str = "", **environment: str
) -> tuple[int, str, str]:
    """A light command in a process of its own, whose streams begin as the system hands them over."""
    whole = ["sh", "-c", f'exec "$@" {shell}', "sh", *COMMAND, *arguments]
    done = subprocess.run(
        whole, stdout=stdout, stderr=subprocess.PIPE, env={**os.environ, **environment}, text=True, check=False
    )
    return done.returncode, done.stdout or "", done.stderr


def test_any_terminal_and_any_encoding() -> None:
    arguments = ("list", "energy-models")
    code, out, err = piped(*arguments, PYTHONIOENCODING="ascii")
    assert (code, err) == (0, "") and "energy-models" in out and out.isascii()
    assert piped(*arguments, LC_ALL="C")[::2] == (0, "")
    assert piped(*arguments, TERM="dumb", COLUMNS="20", NO_COLOR="1")[::2] == (0, "")
    code, out, err = piped("lava", "setup", PYTHONIOENCODING="ascii", KDSNN_LAVA_HOME="/dev/null/ü漢\n")
    assert (code, out) == (2, "") and "/dev/null/\\xfc\\u6f22" in err and err.count("\n") == 1


def test_output_that_goes_nowhere() -> None:
    with Path("/dev/full").open("w") as full:
        code, _, err = piped("list", "targets", stdout=full.fileno())
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1
    assert err.endswith("No space left on device; make room, or choose another place\n")
    reader, writer = os.pipe()
    os.close(reader)
    assert piped("list", "targets", stdout=writer)[::2] == (141, "")
    os.close(writer)
    assert piped("list", "targets", shell=">&-")[::2] == (0, "")
    assert piped("list", "targets", shell="2>&- <&-")[0] == 0
    for shell in (">&- 2>&- <&-", "2>/dev/full"):
        assert piped("lava", "setup", shell=shell, KDSNN_LAVA_HOME="/dev/null/home")[0] == 2


# -- two at once -------------------------------------------------------------------------------------


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{condition} did not come true"
        time.sleep(0.01)


def test_two_trainings_into_one_file(student: Path, tmp_path: Path) -> None:
    out, lock = tmp_path / "x.safetensors", tmp_path / ".x.safetensors.lock"
    first = start("pretrain", *SMALL, "--epochs", 2000, "--out", out)
    try:
        until(lambda: lock.exists() and lock.read_text() and first.said())
        line = command("distill", *SMALL, "--method", "none", "--epochs", 1, "--out", out).error()
        assert (
            line
            == f"error: {out}: another command is writing it (process {first.pid}); wait for it, or choose another --out"
        )
        beside = command("pretrain", *SMALL, "--epochs", 1, "--out", tmp_path / "y.safetensors")
        assert beside.code == 0
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    assert lock.exists()  # of a process that is gone: no lock any more
    assert command("pretrain", *SMALL, "--epochs", 1, "--overwrite", "--out", out).code == 0
    checkpoint.load(out)
    assert not lock.exists()


def test_the_lock_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    """Processes that take it, let it go and delete its file, over and over: never two inside."""
    inside = tmp_path / "inside"

    def worker() -> None:
        entered = 0
        while entered < 40:
            try:
                with places.sole_writer(tmp_path / "x"):
                    inside.mkdir()  # fails where another is inside
                    inside.rmdir()
                entered += 1
            except KdsnnError:
                continue

    assert all(code == 0 for code in forks(worker, 4))
    assert list(tmp_path.iterdir()) == []


def test_files_that_belong_together_come_from_one_writer(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    numbers = itertools.count()

    def worker() -> None:
        for _ in range(40):
            text = f"{os.getpid()} {next(numbers)}"
            with atomic_paths(a, b) as temporaries:
                for temporary in temporaries:
                    temporary.write_text(text)
            descriptor = os.open(tmp_path, os.O_RDONLY)
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # as the writers do while they rename
            assert a.read_text() == b.read_text()
            os.close(descriptor)

    assert all(code == 0 for code in forks(worker, 4))
    assert {p.name for p in tmp_path.iterdir()} == {"a", "b"}


def forks(worker: Callable[[], None], count: int) -> list[int]:
    pids = []
    for _ in range(count):
        pid = os.fork()
        if pid == 0:
            try:
                worker()
                os._exit(0)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        pids.append(pid)
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def test_exports_and_reports_at_once(student: Path, tmp_path: Path) -> None:
    texts = [
        WRITERS["student.net"],
        f"{WRITERS['student.net']} --input-bits 4",  # another network of the same name; other weight bits have a name of their own
        WRITERS["report.html"],
        WRITERS["report.html"],
    ]
    for done in [one.wait() for one in [start(*words(text, student, tmp_path)) for text in texts]]:
        assert done.code == 0 or "another command is writing it" in done.error()
    netx.read(tmp_path / "student.net")  # refuses a file that does not belong to the facts beside it
    names = {"student.net", "student.net.json", "report.html", "report.json", "layers.csv"}
    assert {p.name for p in tmp_path.iterdir()} == names


# -- stopped -----------------------------------------------------------------------------------------

STOPPED = {
    "pretrain": "pretrain cnn2 --epochs 2000 --overwrite --out OUT/x.safetensors",
    "export": "export STUDENT --to onnx --to netx --to nir --quantized --out OUT",
    "profile": "profile STUDENT --out OUT",
    "run": "run STUDENT --on torch,onnx,emulator --samples 359 --save OUT/x.npz",
    "distill": "distill cnn2 --method none --twin --epochs 2000 --overwrite --out OUT/x.safetensors",
    "evaluate": "evaluate STUDENT",
    "check": "check STUDENT --target loihi1",
    "demo": "demo --overwrite --out OUT",
    "summary": "summary STUDENT",
    "benchmark": "benchmark STUDENT --on torch,onnx,emulator",
}


QUICK = ("evaluate", "check", "summary")
"""Verbs that are done in less than a second, how much less depends on the machine."""

STOPS = int(os.environ.get("KDSNN_STOPS", "6"))
"""How often each verb is stopped; a release is tried with 25 and more."""


@pytest.mark.parametrize("verb", STOPPED)
def test_stopped_at_any_moment(verb: str, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, temporary, through = tmp_path / "out", tmp_path / "tmp", tmp_path / "through"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))

    def before() -> None:
        from kdsnn.cli import app

        run = app.app

        def watched(**given: Any) -> None:
            try:
                run(**given)
            finally:
                through.touch()

        app.app = watched  # type: ignore[assignment]

    def at_work() -> Started:
        started = start(*words(STOPPED[verb], student, out), before=before)
        until(lambda: signal_taken(started.pid))
        return started

    seconds, moments, cut = 1.0, random.Random(verb), 0
    if verb in QUICK:
        whole, began = at_work(), time.monotonic()
        assert whole.wait(30).code == 0
        seconds = time.monotonic() - began
    for number, word, code in itertools.islice(
        itertools.cycle(((signal.SIGINT, "interrupted", 130), (signal.SIGTERM, "terminated", 143))), STOPS
    ):
        through.unlink(missing_ok=True)
        started = at_work()
        time.sleep(moments.random() * seconds)
        os.kill(started.pid, number)
        by_itself = through.exists()
        done = started.wait(30)
        cut += done.code != 0
        # a stop that is swallowed ends with 0 like work that is done; after that nobody holds a signal back
        if not (by_itself and done.code in (0, -number)):
            said = (done.err.splitlines() or [""])[-1].partition("; ")[0]
            assert (done.code, said) == (code, word) and "Traceback" not in done.err, (done, by_itself)
        assert not done.left and list(temporary.iterdir()) == []
        assert not [p for p in out.rglob("*") if p.name.startswith(".")]
    print(f"{verb}: {cut} of {STOPS} stopped at work, the others had ended")
    assert cut  # else no moment was one


class Dropping:
    """Its destructor takes its time, and what is raised there goes nowhere."""

    def __init__(self, begun: Path) -> None:
        self.begun = begun

    def __del__(self) -> None:
        self.begun.touch()
        time.sleep(60)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_that_gets_lost_in_a_destructor_is_sent_once_more(number: int, code: int, tmp_path: Path) -> None:
    begun = tmp_path / "begun"

    def long() -> list[dict[str, str]]:
        Dropping(begun)  # gone at once
        time.sleep(60)
        return []

    def before() -> None:
        from kdsnn.deploy import catalogs

        catalogs.CATALOGS["data"] = long  # type: ignore[index]

    started = start("list", "data", before=before)
    until(begun.exists)
    os.kill(started.pid, number)
    done = started.wait(30)
    assert done.code == code
    assert "Exception ignored" not in done.err and done.err.startswith(("interrupted", "terminated"))


def signal_taken(pid: int) -> bool:
    """Whether the command line has taken over SIGTERM, which it does first of all."""
    line = next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("SigCgt"))
    return bool(int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


# -- whole files --------------------------------------------------------------------------------------


def test_a_link_stays_a_link_and_a_failed_block_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    link = tmp_path / "link.txt"
    link.symlink_to(tmp_path / "far" / "file.txt")
    with atomic_path(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink() and (tmp_path / "far" / "file.txt").read_text() == "new"
    with pytest.raises(ValueError, match="no"), atomic_paths(link, tmp_path / "b") as (first, _):
        first.write_text("half")
        raise ValueError("no")
    assert link.read_text() == "new" and not (tmp_path / "b").exists() and len(list(tmp_path.rglob("*"))) == 3
    with pytest.raises(OSError, match="No space left") as caught, atomic_path(link):
        raise OSError(28, "No space left on device")
    assert caught.value.filename == str(link)
