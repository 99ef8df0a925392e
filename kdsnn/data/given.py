"""Data sets that a Python program has at hand: numpy arrays, and torch's `Dataset`.

Frames over time are whole numbers or booleans (N, T, C, H, W), 0 or 1; of a `Dataset` (T, C, H, W) each.
Images are uint8 (N, C, H, W), (N, H, W, C) or (N, H, W), or floats in 0…1; of a `Dataset` each for itself, as a tensor
(C, H, W) or (H, W), an array or a PIL image, in a pair with its label. Pixels are 8 bit here: floats become the nearest
pixels, and a note says so where that changes them. Labels are whole numbers 0…K - 1.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdsnn.data.dataset import DataSet, brief
from kdsnn.data.images import GRAY, WIDER
from kdsnn.data.pixels import EXACT, Layout, are_numbered, channels_first, layout_of, nearest_levels
from kdsnn.data.splits import TEST_FRACTION, stratified_mask
from kdsnn.data.storage import CHUNK, empty
from kdsnn.errors import KdsnnError


@dataclass(frozen=True, eq=False)
class LabeledImages:
    """One part of a data set holds uint8 images (N, C, H, W), labels (N,), and the names of classes if it has any.

    `missed` is the largest distance of a float from its pixel, in levels.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    names: tuple[str, ...] = ()
    missed: float = 0.0


def as_data(data: Any, *, test: Any = None, name: str = "", seed: int = 0, layout: Layout | None = None) -> DataSet:
    """Make a `DataSet` of arrays (images, labels) or (x_train, y_train, x_test, y_test), or of a torch `Dataset` of
    pairs.

    Args:
        data: as above, see the module; a `DataSet` is returned as it is.
        test: the test set, arrays (images, labels) or a torch `Dataset`. Without one 20 % of every class become it.
        name: what to call the data set.
        seed: draws the split.
        layout: "NCHW" or "NHWC", of arrays whose shape leaves both possible.

    Raises:
        KdsnnError: what is no such thing; the message names the part and the image.
    """
    if isinstance(data, DataSet):
        if test is not None:
            raise KdsnnError(f"{data.name} has test images already: leave the test set out.")
        return data
    name = name or ("arrays" if isinstance(data, tuple) else type(data).__name__)
    if isinstance(data, tuple) and len(data) == 4:
        if test is not None:
            raise KdsnnError(f"{name}: four arrays hold the test images already: leave the test set out.")
        data, test = data[:2], data[2:]
    notes = []
    train = _part(f"{name}, training images", data, layout)
    if not train.names and not are_numbered(train.labels):
        raise KdsnnError(
            f"{name}: the labels must hold every number from 0 to K-1; they hold {brief(np.unique(train.labels))}: "
            "renumber them from 0."
        )
    classes = len(train.names) or int(train.labels.max()) + 1
    if test is None:
        chosen = stratified_mask(train.labels, TEST_FRACTION, seed)
        if not chosen.any():
            raise KdsnnError(f"{name} has too few images for a test set: give each class three or more, or a test set.")
        parts = [LabeledImages(train.images[mask], train.labels[mask]) for mask in (~chosen, chosen)]
        notes.append(f"{TEST_FRACTION:.0%} of every class are the test set, drawn with seed {seed}.")
    else:
        parts = [train, _part(f"{name}, test images", test, layout)]
    if (missed := max(train.missed, *(part.missed for part in parts))) > EXACT:
        notes.append(f"Pixels are 8 bit here: floats were rounded to multiples of 1/255, by up to {missed / 255:.4f}.")
    return DataSet(
        name=name,
        x_train=parts[0].images,
        y_train=parts[0].labels,
        x_test=parts[1].images,
        y_test=parts[1].labels,
        classes=classes,
        class_names=train.names,
        notes=tuple(notes),
    )


def _part(called: str, data: Any, layout: Layout | None) -> LabeledImages:
    if isinstance(data, tuple):
        if len(data) != 2:
            raise KdsnnError(
                f"{called}: a tuple of {len(data)} is given: give (images, labels), or four arrays in all."
            )
        return _of_arrays(called, _array(called, data[0]), _array(called, data[1]), layout)
    if isinstance(data, dict | str | bytes) or not (hasattr(data, "__getitem__") or hasattr(data, "__iter__")):
        raise KdsnnError(
            f"{called}: {type(data).__name__} is given: give arrays (images, labels), or a torch Dataset of "
            "(image, label) pairs."
        )
    return _of_items(called, data, layout)


def _of_arrays(called: str, images: NDArray[Any], labels: NDArray[Any], layout: Layout | None) -> LabeledImages:
    if images.ndim not in (3, 4, 5) or images.size == 0:
        raise KdsnnError(
            f"{called} have the shape {images.shape}: expected (N, H, W), (N, C, H, W) or (N, H, W, C), or (N, T, C, H, W) "
            "of frames over time, not empty."
        )
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != images.shape[:1]:
        raise KdsnnError(
            f"{called}: the labels are {labels.dtype} of shape {labels.shape}: expected whole numbers of shape "
            f"{images.shape[:1]}, one for each image."
        )
    if images.ndim == 5:
        return LabeledImages(_frames(called, images), labels.astype(np.int64))
    found = layout_of(images.shape) if images.ndim == 3 or layout is None else layout
    if found is None:
        raise KdsnnError(
            f"{called} of shape {images.shape} could be (N, C, H, W) or (N, H, W, C): say layout='NCHW' or 'NHWC'."
        )
    if images.dtype == np.uint8:
        return LabeledImages(channels_first(images, found), labels.astype(np.int64))
    pixels, missed = empty(images.shape), 0.0
    step = max(1, CHUNK // max(1, images[0].size))
    for start in range(0, len(images), step):
        pixels[start : start + step], worst = _levels(called, start, images[start : start + step])
        missed = max(missed, worst)
    return LabeledImages(channels_first(pixels, found), labels.astype(np.int64), missed=missed)


def _of_items(called: str, dataset: Any, layout: Layout | None) -> LabeledImages:
    images: list[NDArray[np.uint8]] = []
    store: NDArray[np.uint8] | None = None
    labels: list[int] = []
    missed = 0.0
    for i, item in enumerate(_items(called, dataset)):
        image, label = _pair(f"{called}: item {i}", item)
        values, chosen = _values(f"{called}: item {i}", image, layout)
        if values.ndim == 4:
            pixels, worst = (
                _frames(f"{called}: item {i}", values, "; give the data set itself, not a loader of batches"),
                0.0,
            )
        else:
            levels, worst = (values, 0.0) if values.dtype == np.uint8 else _levels(called, i, values[None])
            pixels = channels_first(levels.reshape(1, *values.shape), chosen)[0]
        if store is None and not images and hasattr(dataset, "__len__"):
            store = empty((len(dataset), *pixels.shape))
        first = store[0] if store is not None else images[0] if images else pixels
        if pixels.shape != first.shape:
            raise KdsnnError(
                f"{called}: item {i} is an image of {pixels.shape} and item 0 one of {first.shape} (C, H, W): all must "
                "have one shape."
            )
        if store is None:
            images.append(pixels)
        else:
            store[i] = pixels
        labels.append(label)
        missed = max(missed, worst)
    if not labels:
        raise KdsnnError(f"{called}: the data set is empty.")
    numbers = np.array(labels, np.int64)
    return LabeledImages(np.stack(images) if store is None else store, numbers, _class_names(dataset), missed)


def _items(called: str, dataset: Any) -> Iterator[Any]:
    """Yield the items of a map-style or iterable data set, in order."""
    mapped = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    try:
        source = (dataset[i] for i in range(len(dataset))) if mapped else iter(dataset)
    except Exception as error:  # whatever the user's own code raises
        raise KdsnnError(f"{called}: its items cannot be counted ({type(error).__name__}: {brief(error)}).") from error
    i = 0
    while True:
        try:
            item = next(source)
        except StopIteration:
            return
        except Exception as error:  # whatever the user's own code raises
            raise KdsnnError(f"{called}: item {i} cannot be had ({type(error).__name__}: {brief(error)}).") from error
        yield item
        i += 1


def _pair(called: str, item: Any) -> tuple[Any, int]:
    if not isinstance(item, tuple | list) or len(item) != 2:
        what = f"{type(item).__name__} of {len(item)}" if isinstance(item, tuple | list) else type(item).__name__
        raise KdsnnError(f"{called} is a {what}: expected a pair (image, label).")
    try:
        return item[0], int(np.int64(operator.index(item[1])))
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise KdsnnError(
            f"{called} has the label {brief(item[1])} ({type(item[1]).__name__}): expected a class number, counted from 0."
        ) from error


def _values(called: str, image: Any, layout: Layout | None) -> tuple[NDArray[Any], Layout]:
    """Return one image as an array, and its layout as if it were several."""
    if hasattr(image, "mode") and hasattr(image, "convert"):  # PIL's, which need not be imported to know one
        if image.mode.startswith(WIDER):
            raise KdsnnError(f"{called} has more than 8 bits a channel (mode {image.mode}): convert it to 8 bits.")
        gray = image.mode in GRAY
        try:
            return np.asarray(image.convert("L" if gray else "RGB"), np.uint8), "NHW" if gray else "NHWC"
        except Exception as error:  # a file that is decoded only now raises what its damage makes Pillow raise
            raise KdsnnError(
                f"{called} is an image that cannot be read ({brief(error)}): mend or remove it."
            ) from error
    values = _array(called, image)
    if values.ndim not in (2, 3, 4) or values.size == 0:
        raise KdsnnError(
            f"{called} is an image of shape {values.shape}: expected (C, H, W), (H, W, C) or (H, W), or (T, C, H, W) of "
            "frames over time, not empty; give the data set itself, not a loader of batches."
        )
    if values.ndim in (2, 4):
        return values, "NHW"
    found = layout or ("NCHW" if hasattr(image, "detach") else layout_of((1, *values.shape)))
    if found is None:
        raise KdsnnError(
            f"{called} is an image of shape {values.shape}, which could be (C, H, W) or (H, W, C): say layout='NCHW' or 'NHWC'."
        )
    return values, found


def _array(called: str, values: Any) -> NDArray[Any]:
    """Make an array of what may be a tensor, a list or an array."""
    try:
        array = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    except Exception as error:  # ragged lists, tensors of types that numpy does not know
        raise KdsnnError(f"{called}: a {type(values).__name__} is no array of numbers ({brief(error)}).") from error
    if array.dtype.kind not in "buif":
        raise KdsnnError(f"{called}: a {type(values).__name__} is no array of numbers but of {array.dtype}.")
    return array


def _levels(called: str, start: int, values: NDArray[Any]) -> tuple[NDArray[np.uint8], float]:
    """Make 8-bit pixels of floats (n, …), the first of them image number `start`, and say how far they were from
    pixels."""
    if not np.issubdtype(values.dtype, np.floating):
        raise KdsnnError(
            f"{called}: image {start} has pixels of {values.dtype}: give uint8 0 to 255, or as floats in 0 to 1."
        )
    flat = values.reshape(len(values), -1)
    inside = ((flat >= 0) & (flat <= 1)).all(1)
    if not inside.all():
        i = int(np.argmin(inside))
        raise KdsnnError(
            f"{called}: image {start + i} holds values from {flat[i].min():g} to {flat[i].max():g}: give uint8 0 to 255 or "
            "floats in 0 to 1; a normalization by mean and deviation belongs into the network."
        )
    return nearest_levels(values)


def _frames(called: str, values: NDArray[Any], hint: str = "") -> NDArray[np.uint8]:
    """Make uint8 of frames over time, whatever type their 0 and 1 have; `hint` ends the message for what is no such."""
    if not np.isin(values, (0, 1)).all():
        raise KdsnnError(
            f"{called} of shape {values.shape} holds values from {values.min():g} to {values.max():g}: frames over time "
            f"hold spikes, 0 or 1; of counts give (frames > 0){hint}."
        )
    return values.astype(np.uint8)


def _class_names(dataset: Any) -> tuple[str, ...]:
    """Return the `classes` of a data set of torchvision's kind, or of the one that a subset is taken from."""
    while not hasattr(dataset, "classes") and hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    names = getattr(dataset, "classes", None)
    return tuple(names) if isinstance(names, list | tuple) and all(isinstance(one, str) for one in names) else ()
