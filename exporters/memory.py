"""How much memory there is, so that what would need more is refused in one line and not ended by the system."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def installed(otherwise: int) -> int:
    """The machine has so many bytes of memory; `otherwise` where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return otherwise


def available() -> int | None:
    """So many bytes can still be taken: what the system has to give, and what the limits of this process (`ulimit -v`) and of its
    container leave of it; None where the system does not say."""
    found = []
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found.append(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")))
    with suppress(ImportError, OSError, ValueError):  # Windows has no such limits
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        if limit != resource.RLIM_INFINITY:
            found.append(limit - pages * os.sysconf("SC_PAGE_SIZE"))
    with suppress(OSError, ValueError):  # "max" where the container has no limit
        group = Path("/sys/fs/cgroup")
        found.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return max(0, min(found)) if found else None
