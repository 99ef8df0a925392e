"""How the host works while a network trains: threads and memory."""

from __future__ import annotations

import ctypes
import math
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from kdsnn.data import DataSet

# mallopt's parameters and their defaults, malloc.h of glibc
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
DEFAULT_TRIM, DEFAULT_MMAPS = 128 * 1024, 65536


@contextmanager
def few_threads(data: DataSet, batch_size: int) -> Iterator[None]:
    """Use one thread where a batch is tiny: there threads mostly wait for one another (on a busy machine ten times
    slower).

    By size alone, so that results stay repeatable.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1 if batch_size * math.prod(data.input_shape) < 2**15 else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def memory_kept() -> Iterator[None]:
    """Keep freed memory for the next batch instead of handing it back to the system.

    By default glibc maps every large tensor anew, and the system clears its pages on first touch: that is a
    quarter of a training step on a CPU. Does nothing where the C library is another.
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        libc.mallopt(M_MMAP_MAX, DEFAULT_MMAPS)
        libc.mallopt(M_TRIM_THRESHOLD, DEFAULT_TRIM)
        libc.malloc_trim(0)
