"""Files of events, read in pieces: N-MNIST's `.bin`, numpy's `.npy` and `.npz`, HDF5, and AEDAT 3.1.

* `.bin`: 5 bytes an event, x, y, then 24 bits of which the first is the polarity and 23 are the time in µs, most
  significant byte first (Orchard et al. 2015, the format of N-MNIST and N-Caltech101). An entry at y = 240 is no event but
  says that the clock has run over: 2¹³ µs are added to all times behind it, as tonic reads it.
* `.aedat` of version 3.1 (iniVation, "AEDAT 3.1"): lines that begin with `#`, the last of them `#!END-HEADER`, then
  packets. A header of 28 bytes, little-endian, says the type (1: polarity events), the bytes of an event (8), the overflows of
  its clock (2³¹ µs each) and the number of events; an event is 32 bits, from bit 31 down 15 of x, 15 of y, the polarity and
  whether it is valid, and a time in µs. What is no polarity event, or not valid, is left out.
* `.h5`, `.hdf5`: datasets of the same names as `.npz` has, at the root or in one group, such as `events`.
* `.npy`: one array with fields x, y, t and p (or `polarity`, `ts`, `timestamp`); `.npz`: arrays of these names.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdsnn.data.dataset import brief
from kdsnn.data.events.cutting import Events
from kdsnn.errors import KdsnnError

PIECE = 1 << 18
"""Events that are read at once."""

OVERFLOW_ROW, OVERFLOW = 240, 1 << 13
LARGEST = 1 << 14
"""Columns and rows of a sensor: a coordinate beyond is damage."""

POLARITY = 1
PACKET = struct.Struct("<hhiiiiii")
"""Type, source, size of an event, offset of its time, overflows of the clock, capacity, number of events, number valid."""

LONGEST_LINE = LARGEST_EVENT = 1 << 22
"""Bytes of a line of a header, and of one event of any type (an image is one): more is damage."""

NAMES = {"x": ("x",), "y": ("y",), "t": ("t", "ts", "timestamp"), "p": ("p", "polarity", "pol")}
"""What the parts of an event are called in numpy's files."""


def read_bin(path: Path) -> Iterator[Events]:
    """Read N-MNIST's format, see the module."""
    clock = 0
    with path.open("rb") as file:
        while data := file.read(5 * PIECE):
            if len(data) % 5:
                raise KdsnnError(f"{path}: its last event is cut short, a file has 5 bytes for each: copy it again.")
            x, y, *time = np.frombuffer(data, np.uint8).reshape(-1, 5).T.astype(np.int64)
            over = y == OVERFLOW_ROW
            ran = clock + OVERFLOW * np.cumsum(over)
            clock = int(ran[-1])
            t = ((time[0] & 0x7F) << 16 | time[1] << 8 | time[2]) + ran
            yield Events(*(part[~over] for part in (x, y, t, time[0] >> 7)))


def read_npy(path: Path) -> Iterator[Events]:
    """Read one array with fields, see the module."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.dtype.names is None or array.ndim != 1:
        raise KdsnnError(
            f"{path}: an array of {array.dtype} of shape {array.shape}: it needs fields x, y, t and p, (N,)."
        )
    columns = {name: array[field] for name, field in _fields(path, array.dtype.names).items()}
    yield from _pieces(path, columns)


def read_npz(path: Path) -> Iterator[Events]:
    """Read four arrays, see the module."""
    with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as archive:
        columns = {name: archive[field] for name, field in _fields(path, tuple(archive.files)).items()}
    yield from _pieces(path, columns)


def read_hdf5(path: Path) -> Iterator[Events]:
    """Read datasets of HDF5, see the module."""
    import h5py

    from exporters.hdf5 import flaw

    with h5py.File(path, "r") as file:
        if (found := flaw(file)) is not None:
            raise KdsnnError(f"{path}: {found}: store plain datasets x, y, t and p.")
        groups = [file, *(file[name] for name in file if file.get(name, getclass=True) is h5py.Group)]
        named = [
            (group, [name for name in group if group.get(name, getclass=True) is h5py.Dataset]) for group in groups
        ]
        group, names = max(named, key=lambda one: len(one[1]))
        yield from _pieces(path, {name: group[field] for name, field in _fields(path, tuple(names)).items()})


def read_aedat(path: Path) -> Iterator[Events]:
    """Read AEDAT 3.1, see the module."""
    with path.open("rb") as file:
        if not file.readline(LONGEST_LINE).startswith(b"#!AER-DAT3.1"):
            raise KdsnnError(f"{path}: it is not of AEDAT 3.1: convert it to .npy with fields x, y, t and p.")
        while not (line := file.readline(LONGEST_LINE)).startswith(b"#!END-HEADER"):
            if not line.startswith(b"#"):
                raise KdsnnError(f"{path}: its header has no end, #!END-HEADER: copy it again.")
            if line.startswith(b"#Format:") and b"RAW" not in line:
                raise KdsnnError(f"{path}: its packets are not of format RAW: convert it to .npy.")
        while head := file.read(PACKET.size):
            kind, size, overflows, number = _packet(path, head)
            for start in range(0, number, PIECE):
                count = min(PIECE, number - start)
                data = file.read(count * size)
                if len(data) < count * size:
                    raise KdsnnError(f"{path}: its last packet is cut short: copy it again.")
                if kind == POLARITY:
                    word, time = np.frombuffer(data, "<u4").reshape(-1, 2).T.astype(np.int64)
                    parts = (word >> 17, word >> 2 & 0x7FFF, time + (overflows << 31), word >> 1 & 1)
                    yield Events(*(part[word & 1 == 1] for part in parts))


def _packet(path: Path, head: bytes) -> tuple[int, int, int, int]:
    """Read a packet's header: type, bytes of an event, overflows of the clock, number of events."""
    if len(head) < PACKET.size:
        raise KdsnnError(f"{path}: its last packet is cut short: copy it again.")
    kind, _, size, _, overflows, _, number, _ = PACKET.unpack(head)
    if not 0 < size <= LARGEST_EVENT or number < 0 or overflows < 0 or (kind == POLARITY and size != 8):
        raise KdsnnError(f"{path}: a packet says that it has {number} events of {size} bytes: the file is damaged.")
    return kind, size, overflows, number


READERS: Mapping[str, Callable[[Path], Iterator[Events]]] = MappingProxyType(
    {
        ".bin": read_bin,
        ".npy": read_npy,
        ".npz": read_npz,
        ".aedat": read_aedat,
        ".h5": read_hdf5,
        ".hdf5": read_hdf5,
    }
)
"""Suffix → what reads such files."""


def read(path: Path) -> Iterator[Events]:
    """Read the events of a file in pieces.

    Raises KdsnnError, which names the file: it is damaged, or no file of events.
    """
    if not path.is_file():  # a pipe would be waited for
        raise KdsnnError(f"{path}: it is no file: give a file of events ({', '.join(READERS)}).")
    try:
        for events in READERS[path.suffix.lower()](path):
            _require_sound(path, events)
            yield events
    except KdsnnError:
        raise
    except Exception as error:  # zipfile, zlib and numpy's header parser raise a dozen kinds on damaged files
        raise KdsnnError(
            f"{path}: not a readable file of events ({brief(error)}): copy it again or remove it."
        ) from error


def _fields(path: Path, found: tuple[str, ...]) -> dict[str, str]:
    fields = {}
    for name, known in NAMES.items():
        matching = [field for field in found if field.lower() in known]
        if len(matching) != 1:
            raise KdsnnError(
                f"{path}: it holds {brief(', '.join(found)) or 'nothing'}: it needs x, y, t and p, each once ({name} is "
                f"{' or '.join(known)})."
            )
        fields[name] = matching[0]
    return fields


def _pieces(path: Path, columns: Mapping[str, NDArray[Any]]) -> Iterator[Events]:
    shapes = {column.shape for column in columns.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1:
        raise KdsnnError(f"{path}: its x, y, t and p have the shapes {brief(shapes)}: all must be (N,).")
    for name, column in columns.items():
        if column.dtype.kind not in "buif":
            raise KdsnnError(f"{path}: its {name} are {column.dtype}: they must be numbers.")
    for start in range(0, next(iter(shapes))[0], PIECE):
        parts = {name: np.asarray(column[start : start + PIECE]) for name, column in columns.items()}
        whole = {name: part.astype(np.int64) for name, part in parts.items()}
        for name, part in parts.items():
            if name != "t" and part.dtype.kind == "f" and (whole[name] != part).any():
                raise KdsnnError(f"{path}: its {name} are no whole numbers.")
        if parts["t"].dtype.kind == "f":
            raise KdsnnError(
                f"{path}: its times are {parts['t'].dtype}: store them as whole numbers, of microseconds say."
            )
        whole["p"] = (whole["p"] + 1) // 2 if (whole["p"] == -1).any() else whole["p"]
        yield Events(**whole)


def _require_sound(path: Path, events: Events) -> None:
    """Raise KdsnnError where events cannot be what a sensor saw."""
    if not len(events):
        return
    for name, values, most in (("x", events.x, LARGEST), ("y", events.y, LARGEST), ("p", events.p, 2)):
        if values.min() < 0 or values.max() >= most:
            raise KdsnnError(
                f"{path}: its {name} run from {values.min()} to {values.max()}: expected 0 to {most - 1}: the file is "
                "damaged, or of another kind."
            )
    if events.t.min() < 0:
        raise KdsnnError(f"{path}: its times begin at {events.t.min()}: they must be 0 or more.")
