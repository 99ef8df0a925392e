"""How much memory a piece of work takes at its peak: of this process, and of those that it started."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

FORGET_PEAK = "5"
"""Written to `/proc/self/clear_refs`, it makes the kernel forget the peak so far (proc(5))."""


@contextmanager
def watched() -> Iterator[Callable[[], int | None]]:
    """Watch the block's memory: what is yielded tells the bytes of resident memory at the peak above what this process had before,
    and the peaks of the processes that it has started and that still run. None where the system does not tell (not Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text(FORGET_PEAK, encoding="ascii")
        before: int | None = _of("self", "VmRSS")
    except OSError:
        before = None

    def peak() -> int | None:
        if before is None:
            return None
        own = max(0, _of("self", "VmHWM") - before)
        return own + sum(_of(child, "VmHWM") for child in _started())

    yield peak


def _of(process: str, entry: str) -> int:
    """Bytes of an entry of `/proc/PROCESS/status`; 0 where the process is gone."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    found = next((line.split()[1] for line in lines if line.startswith(f"{entry}:")), "0")
    return 1024 * int(found)


def _started() -> list[str]:
    """The numbers of all processes below this one."""
    children: dict[str, list[str]] = {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            stat = Path(entry.path, "stat").read_text(encoding="ascii", errors="replace")
        except OSError:  # ended meanwhile
            continue
        parent = stat.rpartition(")")[2].split()[1]
        children.setdefault(parent, []).append(entry.name)
    found, waiting = [], [str(os.getpid())]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found
