"""Files of events, read in pieces: N-MNIST's `.bin`, numpy's `.npy` and `.npz`, HDF5, and AEDAT (`kdsnn.data.events.aedat`).

* `.bin`: 5 bytes an event, x, y, then 24 bits of which the first is the polarity and 23 are the time in µs, most
  significant byte first (Orchard et al. 2015, the format of N-MNIST and N-Caltech101). An entry at y = 240 is no event but
  says that the clock has run over: 2¹³ µs are added to all times behind it, as tonic reads it.
* `.h5`, `.hdf5`: datasets of the same names as `.npz` has, at the root or in one group, such as `events`.
* `.npy`: one array with fields x, y, t and p (or `polarity`, `ts`, `timestamp`); `.npz`: arrays of these names.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdsnn.data.dataset import brief
from kdsnn.data.events import aedat
from kdsnn.data.events.aedat import read_aedat
from kdsnn.data.events.cutting import Events
from kdsnn.errors import KdsnnError

OVERFLOW_ROW, OVERFLOW = 240, 1 << 13
LARGEST = 1 << 14
"""Columns and rows of a sensor: a coordinate beyond is damage."""

NAMES = {"x": ("x",), "y": ("y",), "t": ("t", "ts", "timestamp"), "p": ("p", "polarity", "pol")}
"""What the parts of an event are called in numpy's files."""


def read_bin(path: Path) -> Iterator[Events]:
    """Read N-MNIST's format, see the module."""
    clock = 0
    with path.open("rb") as file:
        while data := file.read(5 * aedat.PIECE):
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


READERS: Mapping[str, Callable[[Path], Iterator[Events]]] = MappingProxyType(
    {
        ".bin": read_bin,
        ".npy": read_npy,
        ".npz": read_npz,
        ".aedat": read_aedat,
        ".aedat4": read_aedat,
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
    for start in range(0, next(iter(shapes))[0], aedat.PIECE):
        parts = {name: np.asarray(column[start : start + aedat.PIECE]) for name, column in columns.items()}
        with np.errstate(invalid="ignore"):  # compared below
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
