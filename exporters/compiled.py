"""What compiled kernels have in common: numba compiles them, and threads share out their work.

Arrays that a network works on are larger than the caches, and torch's own operations pass over them one by one. A kernel does
what several operations do in one pass. The emulator and the trainer have kernels; each has the same operations of torch for
machines without numba, and for work too small to pay for a compiler.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
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
    """Run `kernel(first, last, *args)` on so many threads, each a share of the blocks.

    They are torch's own where it has OpenMP. Those wait for more work with all their might, for milliseconds after each
    operation of torch, and would keep a core from any other threads meanwhile.
    """
    workers = min(threads, blocks)
    # threads share a list's iterator; a generator's would be busy while one of them asks
    shares = iter([(blocks * i // workers, blocks * (i + 1) // workers) for i in range(workers)])
    failed: list[BaseException] = []

    def work(_: None = None) -> None:
        try:
            for first, last in shares:
                kernel(first, last, *args)
        except BaseException as error:  # nothing that is raised leaves a callback of C
            failed.append(error)

    team = _openmp() if workers > 1 and os.getpid() == _HOME else None
    waiting: list[Future[None]] = []
    if team is not None:
        team(_WORK(work), None, 0, 0)  # always all threads: libgomp ends those that a smaller team leaves out
    elif workers > 1:
        waiting = [_threads(os.getpid(), workers - 1).submit(work) for _ in range(workers - 1)]
    work()  # what is left
    wait(waiting)
    if failed:
        raise failed.pop()  # so that what is raised and this frame do not keep each other


_HOME = os.getpid()
"""A fork of this process has none of OpenMP's threads, and would wait for them for ever."""

_WORK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@cache
def _openmp() -> Any:
    """`GOMP_parallel(function, data, threads, flags)` of the OpenMP that torch brought; None where it has none."""
    try:
        found = ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError, TypeError):  # no such function; no such library on this system
        return None
    found.argtypes, found.restype = (_WORK, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    return found


@cache
def _threads(process: int, count: int) -> ThreadPoolExecutor:
    """Threads for one process: a fork has none of its parent's."""
    return ThreadPoolExecutor(count, thread_name_prefix="kernels")
