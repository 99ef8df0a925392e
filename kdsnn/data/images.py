"""Encoded images (PNG, JPEG, …) to arrays, and the resizing of images."""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdsnn.data.dataset import brief
from kdsnn.data.storage import empty
from kdsnn.errors import KdsnnError, OptionError

Size = tuple[int, int]
"""(height, width), in pixels."""

LONGEST_SIDE = 1 << 14
"""Of an image, in pixels: a size that is longer is a slip."""

Source = Path | bytes
Named = tuple[str, Source]
"""What to call an image in an error message, and its file or its encoded bytes."""

GRAY = ("1", "L", "LA")
WIDER = ("I", "F")  # and their variants, like I;16: more than 8 bits a pixel
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
"""What a file may hold, whatever its name ends in. Pillow knows more, among them PostScript, which it has Ghostscript execute."""


def decode(
    parts: list[Callable[[], Iterator[Named]]], suggestion: str, size: Size | None = None
) -> list[NDArray[np.uint8]]:
    """Decode all images of each part into one uint8 array (N, C, H, W).

    With `size` each is resized to it as `resized` does; without, all must have one size.

    C is 1 where every image of every part is gray, else 3: a palette becomes colors, transparency is
    dropped and a gray image among colored ones is repeated in all three channels. Of an animation or
    of several pages it is the first. Each of `parts` is
    called twice, because the headers tell sizes and colors before anything is decoded. Raises KdsnnError naming the
    first image that cannot be read, has another size than the first one, more than 8 bits a channel, or more
    pixels than Pillow thinks safe (89 million); `suggestion` completes that message.
    """
    with _strict():
        return _decode(parts, suggestion, size)


def _decode(
    parts: list[Callable[[], Iterator[Named]]], suggestion: str, wanted: Size | None
) -> list[NDArray[np.uint8]]:
    size: tuple[int, int] | None = None
    first, gray, counts = "", True, [0] * len(parts)
    for part, images in enumerate(parts):
        for name, source in images():
            found, mode = _header(name, source, suggestion)
            if size is None:
                size, first = found, name
            elif found != size and wanted is None:
                raise OptionError(
                    f"{name} is {_by(found)} pixels and {first} is {_by(size)}: all images must have one size: give "
                    f"{{image_size}} H,W to resize them, or {suggestion}.",
                    image_size=None,
                )
            gray = gray and mode in GRAY
            counts[part] += 1
    height, width = wanted or (size or (0, 0))[::-1]
    arrays = [empty((count, 1 if gray else 3, height, width)) for count in counts]
    for array, images in zip(arrays, parts, strict=True):
        for index, (name, source) in enumerate(images()):
            array[index] = _pixels(name, source, "L" if gray else "RGB", suggestion, (height, width))
    return arrays


def _header(name: str, source: Source, suggestion: str) -> tuple[tuple[int, int], str]:
    """Read ((width, height), mode) without decoding the pixels."""
    try:
        with _opened(source) as image:
            size, mode, wide = image.size, image.mode, _is_wide(image)
    except Exception as error:  # Pillow's plug-ins raise whatever a damaged file makes them raise
        raise _unreadable(name, error, suggestion) from error
    if wide:
        raise KdsnnError(f"{name} has more than 8 bits a channel (mode {mode}): convert it to 8 bits: {suggestion}.")
    return size, mode


@contextmanager
def _strict() -> Iterator[None]:
    """Pillow's remarks are hidden, about odd metadata and the like; an image too large to be meant is an error."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _opened(source: Source) -> Any:
    from PIL import Image

    return Image.open(source if isinstance(source, Path) else io.BytesIO(source), formats=FORMATS)


@contextmanager
def _muted(image: Any) -> Iterator[None]:
    """While a TIFF is decoded, nothing reaches standard error: libtiff tells of damage there itself, past Python."""
    if image.format != "TIFF":
        yield
        return
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _is_wide(image: Any) -> bool:
    """Say whether a channel has more than 8 bits; Pillow says so in the mode of gray images only, and rounds colored
    ones."""
    if image.mode.startswith(WIDER):
        return True
    for decoder, _, _, arguments in image.tile:
        if ";16" in str(arguments) or (
            decoder.startswith("ppm") and max(a for a in arguments if isinstance(a, int)) > 255
        ):
            return True
    return False


def _pixels(name: str, source: Source, mode: str, suggestion: str, size: Size) -> NDArray[np.uint8]:
    """Decode one image, uint8 (C, H, W)."""
    try:
        with _opened(source) as image, _muted(image):
            pixels = _of_size(image if image.mode == mode else image.convert(mode), size)
    except Exception as error:
        raise _unreadable(name, error, suggestion) from error
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _unreadable(name: str, error: Exception, suggestion: str) -> KdsnnError:
    from PIL import UnidentifiedImageError

    # Pillow's own message would name a buffer in memory
    if isinstance(error, UnidentifiedImageError):
        reason = "not an image Pillow knows"
    else:  # the decoders number what they find
        reason = re.sub(r"^decoder error -\d+$", "its data is damaged", brief(error))
    return KdsnnError(f"{name} cannot be read ({reason}): {suggestion}.")


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"


def resized(images: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Resize images (N, C, H, W) to `size`, (H, W), channel by channel: bilinear, and where they become smaller over all
    the pixels that one covers (Pillow's BILINEAR). They are stretched where the proportions differ, not cropped."""
    from PIL import Image

    result = empty((*images.shape[:2], *size))
    for i, image in enumerate(images):
        for c, channel in enumerate(image):
            result[i, c] = _of_size(Image.fromarray(np.ascontiguousarray(channel)), size)
    return result


def require_size(size: int | tuple[int, int]) -> Size:
    """Read the size of images, (H, W), or one number for both; raises OptionError when they cannot have it."""
    pair = tuple(size) if isinstance(size, tuple | list) else (size, size)
    if len(pair) != 2 or not all(isinstance(side, int) and 1 <= side <= LONGEST_SIDE for side in pair):
        raise OptionError(
            f"{{image_size}}: it must be H,W or one number for both, from 1 to {LONGEST_SIDE:,}",
            image_size=",".join(map(str, pair))[:100],
        )
    return pair


def _of_size(image: Any, size: Size) -> NDArray[np.uint8]:
    """Make an array of Pillow's image, resized where it has another size: uint8 (H, W) or (H, W, C)."""
    from PIL import Image

    if image.size != size[::-1]:
        image = image.resize(size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(image, np.uint8)
