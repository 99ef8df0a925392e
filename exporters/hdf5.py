"""HDF5 files may be hostile, so they are looked through before any number in them is read.

A compressed dataset of a few bytes, or one that was never written, can unfold to any size, a link can lead
into another file, a group can contain itself. What may unfold follows from the file and the machine: beyond `ALWAYS_READ`
bytes a dataset may declare only what deflate can have packed into the bytes that it has, and all of them together only
what memory holds twice. Whatever this program writes, it reads: a network that is written has been in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import h5py

from exporters.memory import installed

ALWAYS_READ = 2**30
"""Bytes of numbers that are read however little of the file they take."""
DEFLATE = 1032
"""Deflate packs at most so many bytes into one (RFC 1951: 258 bytes in two bits)."""
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
            if item.dtype.kind == "c":
                return f"{name}: its numbers are complex"
            declared = item.size * item.dtype.itemsize if item.size else 0
            total += declared
            if total > ALWAYS_READ and declared > DEFLATE * (stored := item.id.get_storage_size()):
                return f"{name}: its numbers would take more than {declared >> 20:,} MB, and {stored:,} bytes of them are in the file"
            if total > (room := max(ALWAYS_READ, installed(ALWAYS_READ) // 2)):
                return f"{name}: its numbers would take more than the {room >> 20:,} MB that this machine has for them"
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
