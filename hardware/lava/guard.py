"""The guard is the life of one Lava run: its folder, its processes and its shared memory end with this process.

    python -I -S guard.py PARENT-PID COMMAND…

The client starts this script in a session of its own and holds the pipe to its standard input. The
guard makes the run's folder and says its name; upon one byte of input it starts COMMAND FOLDER and
says its process id and, once it and all its children are gone, its exit code. The guard itself ends
when its input ends or its parent dies. So however the client goes (done, exception, Ctrl-C, TERM,
KILL), every process of the run ends, its shared memory is unlinked and its folder deleted. It is
small and imports only the standard library, so that little can go wrong.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PREFIX = "kdsnn-lava-"
PR_SET_CHILD_SUBREAPER = 36


def main(parent: int, command: list[str]) -> None:
    """One run is guarded until standard input ends, the parent dies, or a signal arrives."""
    told_to_end = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: told_to_end.append(True))
    _adopt_orphans()
    folder = make_folder()
    worker = None
    try:
        say(f"folder {folder}")
        while os.getppid() == parent and not told_to_end:
            if select.select([0], [], [], 0.02 if worker else 0.2)[0]:
                if not os.read(0, 1):
                    break
                worker = start(command, folder)
                say(f"started {worker.pid}")
            if worker is not None and worker.poll() is not None:
                end_session(worker.pid)
                say(f"ended {worker.returncode}")
                worker = None
    finally:
        if worker is not None:
            end_session(worker.pid)
        remove(folder)


def start(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    """The worker is started as the leader of a session, whose id is its process id."""
    # one thread per process (Lava starts two per layer), and temporary files that vanish with the run
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    with (folder / "log").open("wb") as log:  # not a pipe: Lava's processes would hold it open
        return subprocess.Popen(
            [*command, str(folder)],
            cwd=folder,
            env={**os.environ, **single, "TMPDIR": str(folder), "HDF5_USE_FILE_LOCKING": "FALSE"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def make_folder() -> Path:
    """One run gets a fresh folder."""
    place = tempfile.gettempdir()
    if len(os.fsencode(place)) > 40 or not place.isprintable():
        # Python's process manager makes a socket in here, whose path has 100 bytes; and it is told in one line of text
        place = "/tmp"
    return Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))


def end_session(group: int) -> None:
    """Every process of a worker's group is ended; the function returns when none is left (or after 5 s).

    TERM first: Python's resource tracker ignores it, sees all others gone, unlinks their shared memory and ends.
    """
    for number, patience in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 2.0)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)
            os.killpg(group, signal.SIGCONT)  # a stopped process does not take a TERM
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if not _alive(group):
                return
            time.sleep(0.01)


def _alive(group: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-group, os.WNOHANG)[0]:
            pass
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # macOS says so of a group of zombies
        return False
    return True


def remove(folder: Path) -> None:
    """A run's folder is deleted, and whatever shared memory its processes could not unlink."""
    token = folder.name[len(PREFIX) :]
    for pattern in (f"kdsnn-{token}-*", f"sem.kdsnn-{token}-*"):
        for path in Path("/dev/shm").glob(pattern):
            path.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def say(line: str) -> None:
    """One line is said to the client, which may be gone."""
    with contextlib.suppress(BrokenPipeError):
        print(line, flush=True)


def _adopt_orphans() -> None:
    """On Linux the guard becomes the parent of processes whose own parent dies, so that none is left as a zombie."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(Exception):
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
