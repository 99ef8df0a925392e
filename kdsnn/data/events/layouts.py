"""How recordings lie in a folder, recognized by what is in it.

* `trials_to_train.txt`, or a sub-folder `DvsGesture` with it: DVS-Gesture (Amir et al., CVPR 2017), as it is unpacked. The
  two lists `trials_to_train.txt` and `trials_to_test.txt` name files `userNN_LIGHT.aedat`; `userNN_LIGHT_labels.csv` beside
  such a file says the class (1 to 11) and the first and last time of each gesture in it. The sensor has 128×128 pixels.
* `NAME_train.h5` and `NAME_test.h5`: SHD and SSC (Cramer et al., IEEE TNNLS 33:2744, 2022). `spikes/times`, in seconds, and
  `spikes/units`, 0 to 699, hold one array for each sample, `labels` its class, `extra/keys` the classes' names. A frame is
  (1, 1, 700): one polarity, one row.
* Anything else: one sub-folder for each class, in `train` and `test` or in the folder itself, as images lie in `folder:DIR`.
  So lie N-MNIST, N-Caltech101, CIFAR10-DVS (`.aedat`), and what SpikingJelly made of any of its data sets (`.npz`).
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kdsnn.data.dataset import brief
from kdsnn.data.events.cutting import Events, Stream
from kdsnn.data.events.files import READERS, read
from kdsnn.data.folder import FileKind, class_files
from kdsnn.errors import KdsnnError

RECORDINGS = FileKind("events", "files of events", "file of events", frozenset(READERS))

GESTURES = (
    "hand clapping", "right hand wave", "left hand wave", "right arm clockwise", "right arm counter clockwise",
    "left arm clockwise", "left arm counter clockwise", "arm roll", "air drums", "air guitar", "other gestures",
)  # fmt: skip
TRIALS = ("trials_to_train.txt", "trials_to_test.txt")
GESTURE_SIZE = (128, 128)
LONGEST_LIST = 1 << 20
"""Bytes of a list of files or of gestures; more is none."""

UNITS = 700
MICROSECONDS = 1e6
LONGEST = 1e6
"""Seconds of a sample: more is damage."""


@dataclass(frozen=True)
class Recording:
    """A recording is a stream, and the text that names it in a message."""

    called: str
    stream: Stream
    path: Path


@dataclass(frozen=True, eq=False)
class Layout:
    """A layout holds the recordings of a folder in two parts with their labels (N,), the classes' names, and notes.

    `size` is the sensor's, (height, width), or None where the events show it; `polarities` is 1 where events have none.
    """

    train: list[Recording]
    y_train: NDArray[np.int64]
    test: list[Recording]
    y_test: NDArray[np.int64]
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    polarities: Literal[1, 2] = 2


def layout_of(folder: Path, seed: int) -> Layout:
    """Find the recordings of a folder, see the module; `seed` draws the test set where there is none.

    Raises KdsnnError naming the folder or file and the remedy.
    """
    for place in (folder, folder / "DvsGesture"):
        if (place / TRIALS[0]).is_file():
            return _gestures(place)
    try:
        pairs = [path.name for path in sorted(folder.glob("*_train.h5")) if _other_part(path).is_file()]
    except OSError:  # said by what looks for class folders
        pairs = []
    if len(pairs) == 1:
        return spikes_of(folder / pairs[0])
    if pairs:
        raise KdsnnError(f"{folder} holds {' and '.join(pairs)}: give each data set a folder of its own.")
    found = class_files(folder, seed, RECORDINGS)
    train, test = ([Recording(str(p), partial(read, p), p) for p in paths] for paths in (found.train, found.test))
    return Layout(train, found.y_train, test, found.y_test, found.names, found.notes)


def _other_part(path: Path) -> Path:
    return path.with_name(path.name.replace("_train.h5", "_test.h5"))


def _gestures(folder: Path) -> Layout:
    parts: list[tuple[list[Recording], NDArray[np.int64]]] = []
    for trials in TRIALS:
        found: list[Recording] = []
        labels: list[int] = []
        for name in _lines(folder / trials):
            path = folder / name
            if path.name != name or path.suffix != ".aedat" or not path.is_file():
                raise KdsnnError(f"{folder / trials}: {brief(name)} is no .aedat file in {folder}: mend the list.")
            times = _gesture_times(path.with_name(f"{path.stem}_labels.csv"))
            pieces = lru_cache(maxsize=1)(partial(_pieces, path, tuple((start, end) for _, start, end in times)))
            for index, (label, start, end) in enumerate(times):
                called = f"{path} from {start} to {end} µs"
                found.append(Recording(called, partial(_one_piece, pieces, index), path))
                labels.append(label - 1)
        parts.append((found, np.array(labels, np.int64)))
        if not found:
            raise KdsnnError(f"{folder / trials}: it names no recordings: copy it again.")
    (train, y_train), (test, y_test) = parts
    return Layout(train, y_train, test, y_test, GESTURES, size=GESTURE_SIZE)


def _lines(path: Path) -> list[str]:
    try:
        with path.open(encoding="ascii") as file:
            return [line for line in map(str.strip, file.read(LONGEST_LIST).splitlines()) if line]
    except (OSError, ValueError) as error:
        raise KdsnnError(f"{path}: it cannot be read ({brief(error)}): copy it again.") from error


def _gesture_times(path: Path) -> list[tuple[int, int, int]]:
    """Read (class, first time, last time) of each gesture of a file."""
    found = []
    for row in csv.reader(_lines(path)[1:]):
        try:
            label, start, end = map(int, row)
        except ValueError:
            label = start = end = 0
        if not 1 <= label <= len(GESTURES) or not 0 <= start < end:
            raise KdsnnError(
                f"{path}: {brief(','.join(row))} is no gesture: expected a class of 1 to {len(GESTURES)}, and the times in µs "
                "from which and up to which it lasts."
            )
        found.append((label, start, end))
    return found


def _pieces(path: Path, times: tuple[tuple[int, int], ...]) -> list[list[Events]]:
    """Read a file once, and keep the events of each stretch of time."""
    found: list[list[Events]] = [[] for _ in times]
    for events in read(path):
        for kept, (start, end) in zip(found, times, strict=True):
            inside = (events.t >= start) & (events.t < end)
            if inside.any():
                kept.append(Events(*(part[inside] for part in (events.x, events.y, events.t, events.p))))
    return found


def _one_piece(pieces: Callable[[], list[list[Events]]], index: int) -> Iterator[Events]:
    yield from pieces()[index]


def spikes_of(path: Path) -> Layout:
    """Read SHD or SSC, of which `path` is the training part. Raises KdsnnError naming a file that is damaged."""
    (train, y_train, names), (test, y_test, _) = (_spike_file(one) for one in (path, _other_part(path)))
    if not names:
        names = tuple(str(k) for k in range(int(max(y_train.max(), y_test.max())) + 1))
    return Layout(train, y_train, test, y_test, names, size=(1, UNITS), polarities=1)


def _spike_file(path: Path) -> tuple[list[Recording], NDArray[np.int64], tuple[str, ...]]:
    import h5py

    from exporters.hdf5 import flaw

    try:
        file = h5py.File(path, "r")  # open as long as its recordings are at hand
        if (found := flaw(file)) is not None:
            raise KdsnnError(f"{path}: {found}: copy it again.")
        times, units, labels = file["spikes/times"], file["spikes/units"], np.asarray(file["labels"][()])
        names = tuple(bytes(key).decode() for key in file["extra/keys"][()]) if "extra/keys" in file else ()
        sound = times.shape == units.shape == labels.shape and labels.ndim == 1 and labels.dtype.kind in "iu"
        kinds = [h5py.check_vlen_dtype(array.dtype) for array in (times, units)]
    except KdsnnError:
        raise
    except Exception as error:  # h5py raises a dozen kinds on damaged files
        raise _no_spikes(path, error) from error
    if not sound or not len(labels) or None in kinds or kinds[0].kind != "f" or kinds[1].kind not in "iu":
        raise _no_spikes(path, "an array is missing, or they are not of one length")
    if labels.min() < 0 or labels.max() >= (len(names) or 1000):
        raise KdsnnError(f"{path}: its labels run from {labels.min()} to {labels.max()}: copy it again.")
    called = [f"{path}: sample {index}" for index in range(len(labels))]
    return (
        [Recording(text, partial(_spike_row, text, times, units, i), path) for i, text in enumerate(called)],
        labels.astype(np.int64), names,
    )  # fmt: skip


def _no_spikes(path: Path, why: object) -> KdsnnError:
    return KdsnnError(
        f"{path}: no file of spikes/times, spikes/units and labels that can be read ({brief(why)}): copy it again."
    )


def _spike_row(called: str, times: Any, units: Any, index: int) -> Iterator[Events]:
    """Read one sample, in the order of its times, in µs."""
    try:
        seconds, unit = np.asarray(times[index], np.float64), np.asarray(units[index], np.int64)
    except Exception as error:
        raise KdsnnError(f"{called}: it cannot be read ({brief(error)}): copy the file again.") from error
    good = seconds.shape == unit.shape and bool(((seconds >= 0) & (seconds < LONGEST)).all())
    if not good or not bool(((unit >= 0) & (unit < UNITS)).all()):
        raise KdsnnError(
            f"{called}: it needs as many times, in seconds from 0, as units, 0 to {UNITS - 1}: copy the file again."
        )
    order = np.argsort(seconds, kind="stable")
    nothing = np.zeros(len(unit), np.int64)
    yield Events(unit[order], nothing, np.rint(seconds[order] * MICROSECONDS).astype(np.int64), nothing)
