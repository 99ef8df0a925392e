"""Frames that were cut elsewhere, one file for each sample: SpikingJelly's folders `frames_number_8_split_by_time` and the like.

Each `.npz` holds an array `frames` (T, 2, H, W) of counts of events, or (T, W) of SHD, which becomes (T, 1, 1, W).
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdsnn.data.dataset import DataSet, brief
from kdsnn.data.events.cutting import MOST_FRAMES, FrameCut, held, held_counts
from kdsnn.data.events.layouts import Layout
from kdsnn.data.storage import empty
from kdsnn.errors import KdsnnError

LARGEST = 1 << 28
"""Values of a sample."""


def are_frames(layout: Layout) -> bool:
    """Say whether the first file of a layout holds frames, and no events."""
    return holds_frames(layout.train[0].path)


def holds_frames(path: Path) -> bool:
    """Say whether a file holds frames, and no events."""
    if path.suffix.lower() != ".npz" or not path.is_file():
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return "frames.npy" in archive.namelist()
    except Exception:  # damage is named by what reads it
        return False


def load_frames(folder: Path, layout: Layout, cut: FrameCut | None) -> DataSet:
    """Read frames of counts: 0 and 1 of them, or pixels as `cut` says.

    Raises KdsnnError naming the folder or file: files of several shapes, or `cut` asks for another number of frames.
    """
    first = frames_in(layout.train[0].path)
    if cut is not None and (len(first) != cut.T or cut.by == "window"):
        raise KdsnnError(
            f"{folder} holds samples of {len(first)} frames, cut elsewhere: ask for +frames{len(first)}, or for nothing."
        )
    counts = 0 if cut is None else cut.counts

    def read(paths: list[Path]) -> NDArray[np.uint8]:
        result = empty((len(paths), *first.shape))
        for index, path in enumerate(paths):
            frames = frames_in(path)
            if frames.shape != first.shape:
                raise KdsnnError(
                    f"{path}: its frames have the shape {frames.shape}, those of {layout.train[0].path} {first.shape}: cut all "
                    "recordings into the same number of frames."
                )
            result[index] = held_counts(frames, counts) if counts else frames > 0
        return result

    x_train, x_test = (read([one.path for one in part]) for part in (layout.train, layout.test))
    note = f"Samples of {len(first)} frames, cut elsewhere, {held(counts)}."
    return DataSet(
        f"events:{folder}", x_train, layout.y_train, x_test, layout.y_test, len(layout.names), layout.names,
        (*layout.notes, note), graded=counts > 0,
    )  # fmt: skip


def frames_in(path: Path) -> NDArray[np.int64]:
    """Read the frames of one file: counts (T, C, H, W). Raises KdsnnError naming it."""
    if not path.is_file():
        raise KdsnnError(f"{path}: it is no file: remove it.")
    try:
        with zipfile.ZipFile(path) as archive, archive.open("frames.npy") as file:
            np.lib.format.read_magic(file)
            shape, _, kind = np.lib.format.read_array_header_1_0(file)
        if int(np.prod([float(side) for side in shape])) > LARGEST or kind.kind not in "buif":
            raise ValueError(f"frames are {kind} of shape {shape}")
        with np.load(path, allow_pickle=False) as arrays:
            frames = arrays["frames"]
        with np.errstate(invalid="ignore"):  # compared below
            whole: NDArray[np.int64] = frames.astype(np.int64)
    except Exception as error:  # zipfile, zlib and numpy's header parser raise a dozen kinds on damaged files
        raise KdsnnError(f"{path}: no array of frames that can be read ({brief(error)}): make it again.") from error
    whole = whole[:, None, None] if whole.ndim == 2 else whole
    if (
        whole.ndim != 4
        or not whole.size
        or len(whole) > MOST_FRAMES
        or (whole != frames.reshape(whole.shape)).any()
        or whole.min() < 0
    ):
        raise KdsnnError(
            f"{path}: frames of shape {frames.shape}: expected counts of events, (T, 2, H, W) or (T, W), T at most {MOST_FRAMES}."
        )
    return whole
