"""Single files of samples that a network is to classify, made what it was trained on: images, arrays, recordings of events.

* An image (PNG, JPEG, …) is decoded as those of a folder are, and goes through the same variants (`+32x32`, `+gray`, `+rgb`)
  in the same order as the training images. Where there were none, it must have the network's size, unless one is asked for;
  a gray image becomes three equal channels where the network takes three, and a colored one whose channels are equal one.
* A `.npy` file holds one sample or several (N, …): images (H, W), (C, H, W) or (H, W, C) of uint8 or of floats in 0…1,
  frames over time (T, C, H, W). Floats become the nearest 8-bit pixels, as those of training do.
* A recording (`.bin`, `.aedat`, `.npz`, `.h5`, a `.npy` of fields x, y, t, p) is cleaned and cut as those of training were.

Random variants (`+rot`, `+back-rand`, …) and noise are the training set's: a file is taken as it is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from kdsnn.data.dataset import DataSet, brief
from kdsnn.data.events.cleaning import cleaning_in
from kdsnn.data.events.cutting import FrameCut, Stream, counts_in, held_counts
from kdsnn.data.events.files import READERS, read
from kdsnn.data.events.recordings import Reading, reading_of
from kdsnn.data.events.stored_frames import frames_in, holds_frames
from kdsnn.data.folder import SUFFIXES
from kdsnn.data.images import Size, decode
from kdsnn.data.pixels import channels_first, layout_of, nearest_levels
from kdsnn.data.variants import size_in, variant_of
from kdsnn.errors import KdsnnError, OptionError

LARGEST_FILE = 1 << 28
"""Values of an array: more are no sample."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class SampleShape:
    """What a network takes.

    Attributes:
        shape: of an image or a frame, (C, H, W), or (F,) for images of as many values.
        over_time: whether it reads frames.
        T: of how many, None where any number will do.
        graded: whether frames hold pixels, not 0 and 1.
        variants: of the name of the data that it was trained on, in order.
        recordings: whether that were recordings, whose cut the variants say.
        image_size: to which images are resized before anything else.
    """

    shape: tuple[int, ...]
    over_time: bool = False
    T: int | None = None
    graded: bool = False
    variants: tuple[str, ...] = ()
    recordings: bool = False
    image_size: Size | None = None


def read_samples(path: Path, wanted: SampleShape) -> Pixels:
    """Read the samples of a file as a data set holds them: uint8 (n, C, H, W), or (n, T, C, H, W) over time.

    Raises KdsnnError, which names the file: there is none, it is damaged or of another kind, or its samples do not fit.
    """
    suffix = path.suffix.lower()
    if not path.is_file():
        raise KdsnnError(f"{path}: {'it is a folder or a device' if path.exists() else 'no such file'}: give a file.")
    if suffix == ".npy" and (array := _array(path)).dtype.names is None:
        return _of_array(path, array, wanted)
    if suffix in READERS:
        return _frames(path, wanted)
    if suffix in SUFFIXES:
        if wanted.over_time:
            raise KdsnnError(
                f"{path}: the network reads frames over time, and this is an image: give a recording of events, or frames as .npy."
            )
        return _of_image(path, wanted)
    known = ", ".join(sorted({*SUFFIXES, *READERS}))
    raise KdsnnError(f"{path}: neither an image, an array nor a recording of events: give one of {known}.")


# -- images ------------------------------------------------------------------------------------------


def _of_image(path: Path, wanted: SampleShape) -> Pixels:
    first = size_in(wanted.variants[0]) if wanted.variants else None
    (found,) = decode([lambda: iter([(str(path), path)])], "convert or remove it", wanted.image_size or first)
    return _fitted(path, found, wanted)


def _fitted(path: Path, images: Pixels, wanted: SampleShape) -> Pixels:
    """Images (n, C, H, W) go through what the training images went through, and must fit the network then."""
    asked = () if wanted.image_size is None else ("x".join(map(str, wanted.image_size)),)
    for name in (*asked, *wanted.variants):
        variant = variant_of(name) if name in ("gray", "rgb") or size_in(name) else None
        if variant is not None:
            nothing = np.zeros(len(images), np.int64)
            images = variant(DataSet(str(path), images, nothing, images, nothing, classes=1), 0).x_test
    if len(wanted.shape) != 3:
        if math.prod(images.shape[1:]) != math.prod(wanted.shape):
            raise KdsnnError(
                f"{path}: {_shown(images.shape[1:])} are {math.prod(images.shape[1:])} values, and the network takes "
                f"{math.prod(wanted.shape)}: convert it."
            )
        return images
    channels, *size = wanted.shape
    if images.shape[1] != channels:
        images = _recolored(path, images, channels)
    if list(images.shape[2:]) != size:
        raise OptionError(
            f"{path}: it is {images.shape[2]}×{images.shape[3]} pixels (height × width), and the network takes "
            f"{size[0]}×{size[1]}: give {{image_size}} {size[0]},{size[1]} to resize it",
            image_size=None,
        )
    return images


def _recolored(path: Path, images: Pixels, channels: int) -> Pixels:
    if channels == 3 and images.shape[1] == 1:
        return images.repeat(3, axis=1)
    if channels == 1 and images.shape[1] == 3:
        if (images == images[:, :1]).all():
            return images[:, :1]
        raise KdsnnError(f"{path}: it has colors, and the network takes gray images: convert it.")
    raise KdsnnError(f"{path}: it has {images.shape[1]} channels, and the network takes {channels}: convert it.")


# -- arrays ------------------------------------------------------------------------------------------


def _array(path: Path) -> NDArray[Any]:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(found, np.ndarray) or found.dtype.hasobject:
            raise ValueError("no array")
    except Exception as error:  # numpy's header parser raises a dozen kinds on damaged files
        raise KdsnnError(f"{path}: not a readable .npy file ({brief(error)}): write it again.") from error
    return found


def _of_array(path: Path, array: NDArray[Any], wanted: SampleShape) -> Pixels:
    if array.dtype.kind not in "buif" or not 0 < array.size <= LARGEST_FILE:
        raise KdsnnError(f"{path}: {array.dtype} of shape {array.shape} is no sample: give numbers.")
    values = np.asarray(array)
    if not wanted.over_time:
        return _fitted(path, _levels(path, _as_images(path, values, wanted.shape)), wanted)
    T, *shape = (wanted.T, *wanted.shape)
    frames = values if values.ndim == len(wanted.shape) + 2 else values[None]
    if frames.ndim != len(wanted.shape) + 2 or list(frames.shape[2:]) != shape or T not in (None, frames.shape[1]):
        own = ", ".join(map(str, ("T" if T is None else T, *shape)))
        raise KdsnnError(f"{path}: it has the shape {array.shape}, and the network reads frames ({own}): write these.")
    frames = frames if len(shape) == 3 else frames.reshape(*frames.shape[:2], 1, 1, -1)
    if wanted.graded:
        return _levels(path, frames)
    if not np.isin(frames, (0, 1)).all():
        raise KdsnnError(
            f"{path}: it holds values from {frames.min():g} to {frames.max():g}, and frames over time hold spikes, 0 or 1: "
            "store (frames > 0)."
        )
    return frames.astype(np.uint8)


def _as_images(path: Path, values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """See an array as images (n, C, H, W): those of the network's shape as they are, others by where channels can be."""
    for found in (values[None], values):
        if found.shape[1:] == shape:
            return found if len(shape) == 3 else found.reshape(len(found), 1, 1, -1)
    if values.ndim in (2, 3, 4):
        plain = values[None] if values.ndim == 2 or (values.ndim == 3 and _is_one(values, shape)) else values
        if (layout := layout_of(plain.shape)) is not None:
            return channels_first(plain, layout)
    raise KdsnnError(
        f"{path}: it has the shape {values.shape}, and the network takes {_shown(shape)}: write that, or (N, …) of it."
    )


def _is_one(values: NDArray[Any], shape: tuple[int, ...]) -> bool:
    """Whether three axes are one image of channels, and not several of none."""
    return (values.shape[0] in (1, 3)) != (values.shape[2] in (1, 3)) and values.shape[1:] != shape[1:]


def _levels(path: Path, values: NDArray[Any]) -> Pixels:
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind != "f" or not ((values >= 0) & (values <= 1)).all():
        raise KdsnnError(f"{path}: pixels are uint8 of 0 to 255, or floats in 0 to 1: store those.")
    return nearest_levels(values)[0]


# -- frames over time --------------------------------------------------------------------------------


def _frames(path: Path, wanted: SampleShape) -> Pixels:
    if not wanted.over_time:
        raise KdsnnError(f"{path}: the network takes images, and this is a recording of events: give an image.")
    reading = _reading(path, wanted)
    cut = reading.cut or FrameCut(wanted.T or FrameCut().T)
    if len(wanted.shape) != 3 or wanted.shape[0] not in (1, 2):
        raise KdsnnError(
            f"{path}: frames of events have 1 or 2 channels, and the network reads {_shown(wanted.shape)}."
        )
    if wanted.T not in (None, cut.T):
        raise KdsnnError(f"{path}: it is cut into {cut.T} frames, and the network reads {wanted.T}.")
    if holds_frames(path):
        counts = frames_in(path)
        if counts.shape[1:] != wanted.shape or wanted.T not in (None, len(counts)):
            own = f"{'T' if wanted.T is None else wanted.T}×{_shown(wanted.shape)}"
            raise KdsnnError(f"{path}: it holds frames of {_shown(counts.shape)}, and the network reads {own}.")
        return held_counts(counts, cut.counts)[None] if cut.counts else (counts > 0).astype(np.uint8)[None]
    stream: Stream = partial(read, path)
    size = _sensor(path, wanted, [name for name, _ in reading.cleaning])
    for _, cleaning in reading.cleaning:
        stream, size = cleaning(stream, size)
    return cut.frames(str(path), stream, size, cast(Literal[1, 2], wanted.shape[0]))[None]


def _reading(path: Path, wanted: SampleShape) -> Reading:
    """How recordings are read, by the name of the data that the network was trained on."""
    if wanted.recordings:
        return reading_of(wanted.variants)[0]
    counts = 0
    for name in wanted.variants:
        if (found := re.fullmatch(r"events\d*-(.*)", name)) is not None:
            counts = counts_in(name, found[1])
    if wanted.graded and not counts:
        raise KdsnnError(
            f"{path}: the network reads graded frames, and how many events make a pixel of 255 is not known: give frames as .npy."
        )
    return Reading(cut=FrameCut(wanted.T or FrameCut().T, counts=counts))


def _sensor(path: Path, wanted: SampleShape, cleaning: Sequence[str]) -> Size:
    """The size of the sensor whose cleaned frames the network reads."""
    height, width = wanted.shape[1:]
    for name in reversed(cleaning):
        if name.startswith("crop"):
            raise KdsnnError(
                f"{path}: the network was trained on +{name}, a part of a sensor whose size is not known here: give frames as .npy."
            )
        if name.startswith("down") and cleaning_in(name) is not None:
            height, width = height * int(name[4:]), width * int(name[4:])
    return height, width


def _shown(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))
