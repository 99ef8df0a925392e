"""`events:DIR`: recordings of event cameras and other sensors, cleaned if wanted, and cut into frames.

How they lie in DIR is recognized, see `kdsnn.data.events.layouts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdsnn.data.dataset import DataSet
from kdsnn.data.events.cleaning import Cleaning, Size, cleaning_in
from kdsnn.data.events.cutting import FrameCut, cut_in, extent
from kdsnn.data.events.layouts import Layout, Recording, layout_of
from kdsnn.data.events.public import public_layout
from kdsnn.data.events.stored_frames import are_frames, load_frames
from kdsnn.data.storage import empty
from kdsnn.errors import KdsnnError

LARGEST_SAMPLE = 1 << 28
"""Bytes of the frames of a sample: 145 frames of a sensor of 1280×720. More are of a damaged coordinate."""


@dataclass(frozen=True)
class Reading:
    """A reading says what is done to recordings: `cleaning`, in this order, each with the name of its variant, then the
    cut; `cut` None is that of `FrameCut()`, but what frames that were cut before are not asked for."""

    cleaning: tuple[tuple[str, Cleaning], ...] = ()
    cut: FrameCut | None = None

    @property
    def changes(self) -> str:
        """The names of the cleaning, to stand behind a file's name in a message."""
        return "".join(f" +{name}" for name, _ in self.cleaning)


def reading_of(variants: Sequence[str]) -> tuple[Reading, list[str]]:
    """Read the variants that stand right behind a folder of recordings, one of them at most a cut, and return what follows
    them. Raises KdsnnError for a number in them that there cannot be."""
    reading = Reading()
    for index, variant in enumerate(variants):
        if (cut := cut_in(variant)) is not None and reading.cut is None:
            reading = replace(reading, cut=cut)
        elif (cleaning := cleaning_in(variant)) is not None:
            reading = replace(reading, cleaning=(*reading.cleaning, (variant, cleaning)))
        else:
            return reading, list(variants[index:])
    return reading, []


def load_recordings(folder: Path, seed: int, reading: Reading | None = None, public: str | None = None) -> DataSet:
    """Read the recordings below `folder` and cut each into frames.

    The sensor is as large as the events of all files take up, unless the layout says its size. `seed` draws the test set
    where there is none. `public` insists on one of `kdsnn.data.events.public`.

    Raises KdsnnError naming the folder or file and the remedy.
    """
    reading = reading or Reading()
    found = layout_of(folder, seed) if public is None else public_layout(public, folder, seed)
    if are_frames(found):
        if reading.cleaning:
            raise KdsnnError(f"{folder} holds frames, cut elsewhere, and{reading.changes} is for events: leave it out.")
        return load_frames(folder, found, reading.cut)
    cut = reading.cut or FrameCut()
    size = seen = found.size or _extent((*found.train, *found.test))
    for _, cleaning in reading.cleaning:
        _, size = cleaning(lambda: iter(()), size)
    if cut.T * found.polarities * size[0] * size[1] > LARGEST_SAMPLE:
        raise KdsnnError(
            f"{folder}: {cut.T} frames of {size[1]}×{size[0]} pixels (width × height) are too much for a sample: make fewer, or "
            "mend the file whose events lie so far out."
        )
    left = (
        ""
        if size == seen
        else f", of which +{'+'.join(name for name, _ in reading.cleaning)} leaves {size[1]}×{size[0]}"
    )
    note = f"Each recording is cut into {cut}; the events take up {seen[1]}×{seen[0]} pixels (width × height){left}."
    return DataSet(
        name=f"events:{folder}",
        x_train=_cut(found.train, reading, cut, seen, size, found),
        y_train=found.y_train,
        x_test=_cut(found.test, reading, cut, seen, size, found),
        y_test=found.y_test,
        classes=len(found.names),
        class_names=found.names,
        notes=(*found.notes, note),
        graded=cut.counts > 0,
    )


def _extent(recordings: Sequence[Recording]) -> Size:
    extents = [extent(one.called, one.stream) for one in recordings]
    return max(height for height, _ in extents), max(width for _, width in extents)


def _cut(
    recordings: Sequence[Recording], reading: Reading, cut: FrameCut, seen: Size, size: Size, layout: Layout
) -> NDArray[np.uint8]:
    """Clean and cut every recording: (N, T, polarities, H, W)."""
    result = empty((len(recordings), cut.T, layout.polarities, *size))
    for index, one in enumerate(recordings):
        stream, left = one.stream, seen
        for _, cleaning in reading.cleaning:
            stream, left = cleaning(stream, left)
        result[index] = cut.frames(one.called + reading.changes, stream, left, layout.polarities)
    return result
