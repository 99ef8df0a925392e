"""What compiled kernels have in common: numba compiles them, and threads share out their work.

Arrays that a network works on are larger than the caches, and torch's own operations pass over them one by one. A kernel does
what several operations do in one pass. The emulator and the trainer have kernels; each has the same operations of torch for
machines without numba, and for work too small to pay for a compiler.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any


def jit(function: Callable[..., Any]) -> Any:
    """Compile when first called, and keep the result on disk where that is allowed. Raises ImportError without numba."""
    import numba

    try:
        return numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    except RuntimeError:  # neither the folder of this file nor the user's cache can be written
        return numba.njit(nogil=True, error_model="numpy")(function)


def inline(function: Callable[..., Any]) -> Any:
    """Let kernels call a function: a plain one, because a compiled one would make every process's kernels new to the
    cache. Raises ImportError without numba."""
    import numba.extending

    return numba.extending.register_jitable(function)


def spread(kernel: Callable[..., None], blocks: int, threads: int, *args: Any) -> None:
    """Run `kernel(first, last, *args)` on so many threads, each a share of the blocks."""
    workers = min(threads, blocks)
    bounds = [blocks * i // workers for i in range(workers + 1)]
    waiting = [
        _threads(os.getpid(), workers - 1).submit(kernel, bounds[i], bounds[i + 1], *args) for i in range(1, workers)
    ]
    kernel(bounds[0], bounds[1], *args)
    for future in waiting:
        future.result()


@cache
def _threads(process: int, count: int) -> ThreadPoolExecutor:
    """Threads for one process: a fork has none of its parent's."""
    return ThreadPoolExecutor(count, thread_name_prefix="kernels")
