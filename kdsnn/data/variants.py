"""Variants of data sets: of another size or number of channels, and MNIST's variants.

* `HxW`, such as `32x32`: resized, see `kdsnn.data.images.resized`.
* `events`: frames over time of what a simulated event camera sees, see `kdsnn.data.events.camera`; 8 frames, or as many as
  `events16` says; of 0 and 1, or graded, of counts of events, with `-counts` behind it.
* `rgb`: gray images in three equal channels. `gray`: colored ones in one, 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601).

MNIST's variants (Larochelle et al., ICML 2007, section 4) are made from any gray images with a seed:

* `rot`: each image turned about its center by its own angle, uniform in 0…2π; bilinear, black moves in.
* `back-rand`: a background of independent pixels, uniform in 0…255.
* `back-image`: a background cut out of a photograph.
* `rot-back-image`: `rot`, then `back-image`, which stays upright.

These are regenerations of the procedure, not the original files, which can no longer be had and whose
details are not all published. Known differences: image and background are joined by their maximum;
photographs are scikit-learn's two sample images (`china.jpg`, `flower.jpg`, in gray) in place of twenty
from the web; a patch is taken if its pixels / 255 have a standard deviation of at least 0.10, in place
of an unpublished threshold, and a mean of at most 0.70, because white sky hides the strokes. The original benchmark also has its own split, which `12k-50k` makes: all
images pooled, 62,000 drawn, 12,000 for training and 50,000 for the test.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from kdsnn.data.dataset import DataSet
from kdsnn.data.events.camera import seen_frames, seen_shape
from kdsnn.data.events.cleaning import cleaning_in
from kdsnn.data.events.cutting import FRAMES, counts_in, cut_in, held, require_frames
from kdsnn.data.images import Size, require_size, resized
from kdsnn.data.storage import CHUNK, empty, mapped, picked
from kdsnn.errors import KdsnnError

Images = NDArray[np.uint8]
Variant = Callable[[DataSet, int], DataSet]
"""(data set, seed) → data set."""

LUMA = (0.299, 0.587, 0.114)
LEAST_CONTRAST = 0.10
MOST_BRIGHTNESS = 0.70
TRAINING, TEST = 12_000, 50_000
REGENERATED = "Regenerated after Larochelle et al. (2007): not the original files of MNIST's variants."


def rotation(data: DataSet, seed: int) -> DataSet:
    """Make the variant `rot`, see the module."""

    def turner(rng: np.random.RandomState) -> Callable[[Images], Images]:
        return lambda images: rotated(images, rng.uniform(0, 2 * np.pi, len(images)))

    return _each_part(data, turner, (seed, 0), f"Rotated by random angles (seed {seed}).")


def random_background(data: DataSet, seed: int) -> DataSet:
    """Make the variant `back-rand`, see the module."""

    def filler(rng: np.random.RandomState) -> Callable[[Images], Images]:
        def fill(images: Images) -> Images:
            background: Images = rng.randint(0, 256, images.shape, np.uint8)
            return np.maximum(images, background)

        return fill

    return _each_part(data, filler, (seed, 1), f"Random background (seed {seed}).")


def image_background(data: DataSet, seed: int) -> DataSet:
    """Make the variant `back-image`, see the module."""
    _, height, width = data.input_shape
    windows, valid = _patches(data.name, height, width)

    def filler(rng: np.random.RandomState) -> Callable[[Images], Images]:
        def fill(images: Images) -> Images:
            photo, y, x = valid[rng.randint(0, len(valid), len(images))].T
            background: Images = windows[photo, y, x][:, None]
            return np.maximum(images, background)

        return fill

    return _each_part(data, filler, (seed, 2), f"Backgrounds from two photographs (seed {seed}).")


def rotation_with_image_background(data: DataSet, seed: int) -> DataSet:
    """Make the variant `rot-back-image`, see the module."""
    return image_background(rotation(data, seed), seed)


def benchmark_split(data: DataSet, seed: int) -> DataSet:
    """Make the split `12k-50k`, see the module; raises KdsnnError when there are too few images."""
    have, wanted = len(data.y_train) + len(data.y_test), TRAINING + TEST
    if have < wanted:
        raise KdsnnError(
            f"{data.name}: its {have:,} images are too few for a split of 12,000 and 50,000: leave +12k-50k away."
        )
    chosen = np.random.RandomState([seed, 3]).permutation(have)[:wanted]
    x = picked([data.x_train, data.x_test], chosen)
    y = np.concatenate([data.y_train, data.y_test])[chosen]
    return replace(
        data,
        x_train=x[:TRAINING],
        y_train=y[:TRAINING],
        x_test=x[TRAINING:],
        y_test=y[TRAINING:],
        notes=(*data.notes, f"12,000 training and 50,000 test images drawn from all (seed {seed})."),
    )


def in_color(data: DataSet, seed: int) -> DataSet:
    """Make the variant `rgb`, see the module."""
    return _recolored(data, 3, lambda images: images, "Gray images are repeated in three channels.")


def in_gray(data: DataSet, seed: int) -> DataSet:
    """Make the variant `gray`, see the module."""

    def gray(images: Images) -> Images:
        weighted = np.einsum("nchw,c->nhw", images.astype(np.float64), LUMA)
        result: Images = np.rint(weighted).astype(np.uint8)[:, None]
        return result

    return _recolored(data, 1, gray, "Colors are made gray (ITU-R BT.601).")


def of_size(data: DataSet, size: Size) -> DataSet:
    """Make the variant `HxW`, see the module."""
    data.require_images("resizing")
    note = f"Images are resized to {size[0]}×{size[1]} pixels (height × width)."
    if data.input_shape[1:] != size:
        data = replace(data, x_train=resized(data.x_train, size), x_test=resized(data.x_test, size))
    return replace(data, notes=(*data.notes, note))


def seen_by_camera(data: DataSet, seed: int, T: int = FRAMES, counts: int = 0) -> DataSet:
    """Make the variant `events`, of T frames, see the module; colored images are made gray first. `counts`: as of a
    `FrameCut`."""
    data.require_images("a simulated camera")
    data = in_gray(data, seed) if data.input_shape[0] == 3 else data
    if data.input_shape[0] != 1:
        raise KdsnnError(f"{data.name} has {data.input_shape[0]} channels: a simulated camera sees images of 1 or 3.")
    size = seen_shape(data.input_shape[1:])

    def seen(images: Images, part: int) -> Images:
        rng = np.random.RandomState([seed, 4, part])
        result = empty((len(images), T, 2, *size))
        step = max(1, CHUNK // (size[0] * size[1]))
        for start in range(0, len(images), step):
            result[start : start + step] = seen_frames(images[start : start + step, 0], T, rng, counts)
        return result

    note = (
        f"Seen by a simulated event camera in three saccades (seed {seed}): {T} frames of 2×{size[0]}×{size[1]}"
        f"{f', {held(counts)}' if counts else ''}."
    )
    x_train, x_test = (seen(x, part) for part, x in enumerate((data.x_train, data.x_test)))
    return replace(data, x_train=x_train, x_test=x_test, notes=(*data.notes, note), graded=counts > 0)


def not_cut(data: DataSet, seed: int) -> DataSet:
    """Raise KdsnnError: recordings are cleaned and cut where they are read, right behind their folder; here is too late."""
    raise KdsnnError(
        f"{data.name}: +frames…, once, +denoise…, +down… and +crop… are for recordings, events:DIR or nmnist:DIR and the like, and stand right "
        "behind it."
    )


VARIANTS: Mapping[str, Variant] = MappingProxyType(
    {
        "rgb": in_color,
        "gray": in_gray,
        "rot": rotation,
        "back-rand": random_background,
        "back-image": image_background,
        "rot-back-image": rotation_with_image_background,
        "12k-50k": benchmark_split,
        "events": seen_by_camera,
    }
)
"""What can follow a `+` in the name of a data set, beside a size."""


def size_in(variant: str) -> Size | None:
    """Read "32x48" as (32, 48); None for a variant that is no size. Raises KdsnnError for a size that images cannot have."""
    sides = re.fullmatch(r"(\d{1,6})x(\d{1,6})", variant)
    return None if sides is None else require_size((int(sides[1]), int(sides[2])))


def variant_of(name: str) -> Variant | None:
    """Find what makes the variant `name`; None where there is no such variant.

    Raises KdsnnError as `size_in` does, and for a number of frames that is too large.
    """
    if frames := re.fullmatch(r"events(\d{1,6})?(?:-(.*))?", name):
        T, counts = require_frames(name, int(frames[1] or FRAMES)), counts_in(name, frames[2])
        return lambda data, seed: seen_by_camera(data, seed, T, counts)
    if cut_in(name) or cleaning_in(name):
        return not_cut
    size = size_in(name)
    return VARIANTS.get(name) if size is None else lambda data, seed: of_size(data, size)


def rotated(images: Images, angles: NDArray[np.float64]) -> Images:
    """Turn images (N, C, H, W) counter-clockwise about their centers by `angles` (N,), in radians.

    Bilinear; black moves in; an angle of 0 changes nothing.
    """
    count, channels, height, width = images.shape
    cos, sin = (f(angles).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
    cy, cx = (height - 1) / 2, (width - 1) / 2
    dy, dx = np.ogrid[0:height, 0:width]
    dy, dx = (dy - cy).astype(np.float32), (dx - cx).astype(np.float32)
    # where each pixel of the result comes from; everything more than a pixel outside is black anyway
    y = np.clip(cos * dy + sin * dx + cy, -1, height)
    x = np.clip(cos * dx - sin * dy + cx, -1, width)
    y0, x0 = np.floor(y), np.floor(x)
    fy, fx = (y - y0)[:, None], (x - x0)[:, None]
    padded = np.pad(images, ((0, 0), (0, 0), (1, 2), (1, 2))).reshape(count, channels, -1)
    row = width + 3
    corner = ((y0 + 1) * row + x0 + 1).astype(np.intp).reshape(count, 1, -1)

    def at(offset: int) -> NDArray[np.float32]:
        return np.take_along_axis(padded, corner + offset, axis=2).reshape(images.shape).astype(np.float32)

    upper = at(0) + fx * (at(1) - at(0))
    lower = at(row) + fx * (at(row + 1) - at(row))
    result: Images = np.rint(upper + fy * (lower - upper)).astype(np.uint8)
    return result


def _each_part(
    data: DataSet,
    drawing: Callable[[np.random.RandomState], Callable[[Images], Images]],
    seed: tuple[int, int],
    note: str,
) -> DataSet:
    """Change training and test images, each part with a random stream of its own (RandomState's never changes)."""
    data.require_images("a variant of MNIST")
    if data.input_shape[0] != 1:
        raise KdsnnError(
            f"{data.name} has {data.input_shape[0]} channels: the variants of MNIST need gray images (one channel): "
            f"put +gray before them."
        )
    x_train, x_test = (
        mapped(x, drawing(np.random.RandomState([*seed, part]))) for part, x in enumerate((data.x_train, data.x_test))
    )
    notes = dict.fromkeys((*data.notes, note, REGENERATED))  # the last one once, however many variants
    return replace(data, x_train=x_train, x_test=x_test, notes=tuple(notes))


def _recolored(data: DataSet, channels: int, change: Callable[[Images], Images], note: str) -> DataSet:
    """Give images `channels` channels, the other number of 1 and 3 that they must have, a chunk of images at a time."""
    data.require_images("a change of colors")
    have, wanted = data.input_shape[0], 4 - channels
    if have == channels:
        return data
    if have != wanted:
        raise KdsnnError(f"{data.name} has {have} channels: only images of {wanted} are given {channels}.")

    def changed(images: Images) -> Images:
        result = empty((len(images), channels, *images.shape[2:]))
        step = max(1, CHUNK // images[0].size)
        for start in range(0, len(images), step):
            result[start : start + step] = change(images[start : start + step])
        return result

    return replace(data, x_train=changed(data.x_train), x_test=changed(data.x_test), notes=(*data.notes, note))


def _patches(name: str, height: int, width: int) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """Take all windows of the photographs, (photo, y, x, height, width), and the (photo, y, x) of the fit ones."""
    import sklearn.datasets

    colors = np.stack(sklearn.datasets.load_sample_images().images).astype(np.float64)
    photos = np.rint(colors @ LUMA).astype(np.uint8)
    if height > photos.shape[1] or width > photos.shape[2]:
        raise KdsnnError(
            f"{name}: images of {height}×{width} are larger than the background photographs "
            f"({photos.shape[1]}×{photos.shape[2]}): use back-rand."
        )
    gray = photos.astype(np.int64)
    mean = _window_sums(gray, height, width) / (height * width)
    variance = _window_sums(gray**2, height, width) / (height * width) - mean**2
    windows = sliding_window_view(photos, (height, width), axis=(1, 2))  # type: ignore[call-overload]
    return windows, np.argwhere((variance >= (255 * LEAST_CONTRAST) ** 2) & (mean <= 255 * MOST_BRIGHTNESS))


def _window_sums(values: NDArray[np.int64], height: int, width: int) -> NDArray[np.int64]:
    """Sum over every height×width window of (P, H, W), from sums over the rectangles that start in the corner."""
    sums = np.pad(values, ((0, 0), (1, 0), (1, 0))).cumsum(1).cumsum(2)
    right, left = sums[:, :, width:], sums[:, :, :-width]
    windows: NDArray[np.int64] = right[:, height:] - right[:, :-height] - left[:, height:] + left[:, :-height]
    return windows
