"""Large arrays in a `.net` file: chains of residual networks are mostly zeros, and those are neither packed nor unpacked.

An array is stored in chunks, packed by HDF5's own filters, as any HDF5 library reads it. What a chunk of zeros is packed to is
known: it is written as that, and what is read as that is zeros.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from exporters.graph import Array, Shape

PACKED = 2**16
"""Bytes from which on an array is stored packed."""
CHUNK = 2**18
"""So many numbers are packed at a time, at most (1 MB)."""
MOST_CHUNKS, LARGEST_CHUNK = 2**16, 2**26
"""An array of more chunks, or with more bytes in one, is left to HDF5 alone: a file may be hostile."""


def store(group: h5py.Group, key: str, values: Array, dtype: type[np.generic]) -> None:
    """An array becomes a dataset of numbers of this type."""
    if values.size * np.dtype(dtype).itemsize <= PACKED:
        group.create_dataset(key, data=values.astype(dtype))
        return
    chunk = _chunk(values.shape)
    stored = group.create_dataset(
        key, values.shape, dtype, chunks=chunk, compression="gzip", compression_opts=1, shuffle=True
    )
    zeros = _packed_zeros(stored)
    for start in itertools.product(*(range(0, size, step) for size, step in zip(values.shape, chunk, strict=True))):
        where = tuple(slice(first, first + step) for first, step in zip(start, chunk, strict=True))
        part = values[where]
        if part.any():
            stored[where] = part.astype(dtype)
        else:
            stored.id.write_direct_chunk(start, zeros)


def numbers(dataset: h5py.Dataset) -> Array:
    """The numbers of a dataset: in int16 or int32 if it is stored in chunks and all of them are whole and fit, else as they are."""
    if dataset.chunks is None or not _is_usual(dataset):
        return np.asarray(dataset[()])
    found: Array = np.zeros(dataset.shape, np.int16)
    for where in _filled(dataset):
        part = dataset[where]
        with np.errstate(invalid="ignore"):  # NaN, infinities and what is too large
            whole = part.astype(np.int32)
        if not np.array_equal(whole, part):
            return np.asarray(dataset[()])
        if found.dtype == np.int16 and whole.size and max(int(whole.max()), ~int(whole.min())) >= 2**15:
            found = found.astype(np.int32)
        found[where] = whole
    return found


def _filled(dataset: h5py.Dataset) -> Iterator[tuple[slice, ...]]:
    """The parts of a dataset in which there may be numbers other than 0, one chunk each."""
    zeros = _packed_zeros(dataset) if _is_ours(dataset) else None
    for start in itertools.product(*map(range, itertools.repeat(0), dataset.shape, dataset.chunks)):
        if zeros is not None:
            info = dataset.id.get_chunk_info_by_coord(start)
            if info.size == len(zeros) and dataset.id.read_direct_chunk(start) == (0, zeros):
                continue
        yield tuple(slice(first, first + step) for first, step in zip(start, dataset.chunks, strict=True))


def _is_usual(dataset: h5py.Dataset) -> bool:
    """Whether a dataset holds numbers in chunks of a size that somebody means."""
    count = math.prod(-(-size // step) for size, step in zip(dataset.shape, dataset.chunks, strict=True))
    room = math.prod(dataset.chunks) * dataset.dtype.itemsize
    return dataset.dtype.kind in "fi" and 0 < count <= MOST_CHUNKS and room <= LARGEST_CHUNK


def _is_ours(dataset: h5py.Dataset) -> bool:
    """Whether a dataset is packed as `store` does."""
    settings: Any = dataset.id.get_create_plist()
    filters = [settings.get_filter(k)[:3] for k in range(settings.get_nfilters())]
    return [f[0] for f in filters] == [h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE] and filters[1][2] == (1,)


def _packed_zeros(dataset: h5py.Dataset) -> bytes:
    """A chunk of zeros of a dataset that is packed as `store` does: shuffled bytes of 0 are bytes of 0."""
    return zlib.compress(bytes(math.prod(dataset.chunks) * dataset.dtype.itemsize), 1)


def _chunk(shape: Shape) -> Shape:
    """Whole kernels, and as many of them as `CHUNK` holds in a square of outputs and inputs; a vector in a row."""
    if len(shape) == 1:
        return (min(shape[0], CHUNK),)
    inner = shape[2:]
    side = max(1, math.isqrt(CHUNK // max(1, math.prod(inner))))
    return (min(shape[0], side), min(shape[1], side), *inner)
