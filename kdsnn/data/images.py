"""Encoded images (PNG, JPEG, …) to arrays."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdsnn.data.dataset import brief
from kdsnn.data.storage import empty
from kdsnn.errors import KdsnnError

Source = Path | bytes
Named = tuple[str, Source]
"""What to call an image in an error message, and its file or its encoded bytes."""

GREY = ("1", "L", "LA")
WIDER = ("I", "F")  # and their variants, like I;16: more than 8 bits a pixel


def decode(parts: list[Callable[[], Iterator[Named]]], suggestion: str) -> list[NDArray[np.uint8]]:
    """All images of each part as one uint8 array (N, C, H, W).

    C is 1 where every image of every part is grey, else 3: a palette becomes colours, transparency is
    dropped and a grey image among coloured ones is repeated in all three channels. Each of `parts` is
    called twice, because the headers tell sizes and colours before anything is decoded. Raises KdsnnError naming the
    first image that cannot be read, has another size than the first one, or more than 8 bits a pixel;
    `suggestion` completes that message.
    """
    size: tuple[int, int] | None = None
    first, grey, counts = "", True, [0] * len(parts)
    for part, images in enumerate(parts):
        for name, source in images():
            found, mode = _header(name, source, suggestion)
            if size is None:
                size, first = found, name
            elif found != size:
                raise KdsnnError(
                    f"{name} is {_by(found)} pixels and {first} is {_by(size)}: all images must have one size: {suggestion}."
                )
            grey = grey and mode in GREY
            counts[part] += 1
    width, height = size or (0, 0)
    arrays = [empty((count, 1 if grey else 3, height, width)) for count in counts]
    for array, images in zip(arrays, parts, strict=True):
        for index, (name, source) in enumerate(images()):
            array[index] = _pixels(name, source, "L" if grey else "RGB", suggestion)
    return arrays


def _header(name: str, source: Source, suggestion: str) -> tuple[tuple[int, int], str]:
    """((width, height), mode) without decoding the pixels."""
    from PIL import Image

    try:
        with Image.open(source if isinstance(source, Path) else io.BytesIO(source)) as image:
            size, mode = image.size, image.mode
    except Exception as error:  # Pillow's plug-ins raise whatever a damaged file makes them raise
        raise _unreadable(name, error, suggestion) from error
    if mode.startswith(WIDER):
        raise KdsnnError(f"{name} has more than 8 bits a pixel (mode {mode}): convert it to 8 bits: {suggestion}.")
    return size, mode


def _pixels(name: str, source: Source, mode: str, suggestion: str) -> NDArray[np.uint8]:
    """uint8 (C, H, W)."""
    from PIL import Image

    try:
        with Image.open(source if isinstance(source, Path) else io.BytesIO(source)) as image:
            pixels = np.asarray(image if image.mode == mode else image.convert(mode), np.uint8)
    except Exception as error:
        raise _unreadable(name, error, suggestion) from error
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _unreadable(name: str, error: Exception, suggestion: str) -> KdsnnError:
    from PIL import UnidentifiedImageError

    # Pillow's own message would name a buffer in memory
    reason = "not an image Pillow knows" if isinstance(error, UnidentifiedImageError) else brief(error)
    return KdsnnError(f"{name} cannot be read ({reason}): {suggestion}.")


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"
