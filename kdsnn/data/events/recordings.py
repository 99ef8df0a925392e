"""`events:DIR`: recordings of event cameras in one sub-folder per class, as the images of `folder:DIR` lie."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdsnn.data.dataset import DataSet
from kdsnn.data.events.cutting import FrameCut, extent
from kdsnn.data.events.files import READERS, read
from kdsnn.data.folder import FileKind, class_files
from kdsnn.data.storage import empty

RECORDINGS = FileKind("events", "files of events", frozenset(READERS))


def load_recordings(folder: Path, seed: int, cut: FrameCut | None = None) -> DataSet:
    """Read the recordings below `folder` and cut each into frames.

    The sensor is as large as the events of all files take up: no format read here says its size. `seed` draws the test set
    where there is none.

    Raises KdsnnError naming the folder or file and the remedy.
    """
    cut = cut or FrameCut()
    found = class_files(folder, seed, RECORDINGS)
    extents = [extent(str(path), partial(read, path)) for path in (*found.train, *found.test)]
    size = max(height for height, _ in extents), max(width for _, width in extents)
    way = "equal time" if cut.by == "time" else "an equal number of events"
    note = (
        f"Each recording is cut into {cut.T} frames of {way}, 1 where a pixel emitted an event; the events take up "
        f"{size[1]}×{size[0]} pixels (width × height)."
    )
    return DataSet(
        name=f"events:{folder}",
        x_train=_cut(found.train, cut, size),
        y_train=found.y_train,
        x_test=_cut(found.test, cut, size),
        y_test=found.y_test,
        classes=len(found.names),
        class_names=found.names,
        notes=(*found.notes, note),
    )


def _cut(paths: list[Path], cut: FrameCut, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Cut every recording: (N, T, 2, H, W)."""
    result = empty((len(paths), cut.T, 2, *size))
    for index, path in enumerate(paths):
        result[index] = cut.frames(str(path), partial(read, path), size)
    return result
