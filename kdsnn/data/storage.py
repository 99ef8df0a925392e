"""Where pixels live: in memory, or in a file on disk where they are too many."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from kdsnn.errors import KdsnnError

IN_MEMORY = 2 << 30
"""Bytes of one part (training or test) up to which its images are moved to the device whole."""

HELD = 64 << 20
"""Bytes of one part up to which its images are held in memory on the host; more lie in a temporary file that is mapped, so that
a command that looks at twenty images of a gigabyte needs memory for twenty."""

CHUNK = 1 << 20
"""Pixels that `mapped` hands out at a time, about."""


def empty(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Make a uint8 array to fill: in memory up to `HELD` bytes, else mapped onto a temporary file.

    The file has no name and vanishes with the array, however the process ends. Where the temporary folder (environment
    variable TMPDIR) has no room for it, up to `IN_MEMORY` bytes are held in memory after all; raises KdsnnError for more.
    """
    size = prod(shape)
    if size <= HELD:
        return np.empty(shape, np.uint8)
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < size:  # asked first, because writing to a mapped file on a full disk kills the process
        if size <= IN_MEMORY:
            return np.empty(shape, np.uint8)
        raise KdsnnError(
            f"The images need {size / 2**30:.1f} GiB of temporary disk space and {tempfile.gettempdir()} has "
            f"{free / 2**30:.1f}: make room there, or name another folder in TMPDIR."
        )
    with tempfile.TemporaryFile(prefix="kdsnn-") as file:
        return np.memmap(file, np.uint8, "w+", shape=shape)


def mapped(images: NDArray[np.uint8], function: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Apply `function` to all images (N, C, H, W), a chunk of images at a time; it must keep their shape.

    The chunks depend on the image shape alone, so a `function` that draws random numbers gives the same
    first images whatever N is.
    """
    result = empty(images.shape)
    step = max(1, CHUNK // prod(images.shape[1:]))
    for start in range(0, len(images), step):
        result[start : start + step] = function(images[start : start + step])
    return result


def picked(parts: Sequence[NDArray[np.uint8]], chosen: NDArray[np.intp]) -> NDArray[np.uint8]:
    """Pick the images that `chosen` numbers, over all `parts` (N, C, H, W) in turn, a chunk of images at a time."""
    shape = parts[0].shape[1:]
    result = empty((len(chosen), *shape))
    step = max(1, CHUNK // prod(shape))
    for start in range(0, len(chosen), step):
        wanted = chosen[start : start + step]
        first = 0
        for part in parts:
            here = (wanted >= first) & (wanted < first + len(part))
            result[start : start + step][here] = part[wanted[here] - first]
            first += len(part)
    return result
