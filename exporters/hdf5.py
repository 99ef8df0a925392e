"""HDF5 files may be hostile, so they are looked through before any number in them is read.

A compressed dataset of a few bytes, or one that was never written, can unfold to any size, a link can lead
into another file, a group can contain itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import h5py

MAX_BYTES = 2**30
MAX_OBJECTS = 100_000
MAX_DEPTH = 40


def flaw(file: h5py.File) -> str | None:
    """The flaw is why a file should not be read, None if it may be; h5py raises a dozen kinds where it is damaged."""
    total = 0
    for count, (name, depth, item) in enumerate(_walk(file, 0)):
        if count > MAX_OBJECTS:
            return f"it holds more than {MAX_OBJECTS} objects"
        if depth > MAX_DEPTH:
            return "its groups are nested too deeply"
        if item is None:
            return f"{name} is a link, which is not followed"
        if isinstance(item, h5py.Dataset):
            if item.external or item.is_virtual:
                return f"{name}: its numbers are in another file, which is not followed"
            total += item.size * item.dtype.itemsize if item.size else 0
            if total > MAX_BYTES:
                return f"{name}: its numbers would take more than {MAX_BYTES >> 20} MB with those before it"
    return None


def _walk(group: h5py.Group, depth: int) -> Iterator[tuple[str, int, Any]]:
    """The walk gives (name, depth, object) of all that is in a group, None for a link, until the caller stops."""
    for key in group:
        name = f"{group.name}/{key}"
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            yield name, depth, None
            continue
        item = group[key]
        yield name, depth, item
        if isinstance(item, h5py.Group):
            yield from _walk(item, depth + 1)
