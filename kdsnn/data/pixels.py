"""What arrays of images say: where their channels are, which 8-bit pixels their floats mean, which classes their
labels name."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kdsnn.errors import KdsnnError

Layout = Literal["NHW", "NCHW", "NHWC"]
CHANNELS = range(1, 5)
"""Channels of an image that are recognized as such."""

EXACT = 1 / 8
"""Levels by which a float may miss an 8-bit pixel: even float16 carries one to a sixteenth."""


def layout_of(shape: tuple[int, ...]) -> Layout | None:
    """Tell the layout of images, (N, H, W), or (N, C, H, W) or (N, H, W, C) with 1 to 4 channels; None where both
    could be meant."""
    if len(shape) != 4:
        return "NHW"
    first, last = shape[1] in CHANNELS, shape[3] in CHANNELS
    if first == last:
        return None
    return "NCHW" if first else "NHWC"


def channels_first(pixels: NDArray[np.uint8], layout: Layout) -> NDArray[np.uint8]:
    """View images of any layout as (N, C, H, W)."""
    if layout == "NHW":
        return pixels[:, None]
    return pixels.transpose(0, 3, 1, 2) if layout == "NHWC" else pixels


def nearest_levels(values: NDArray[Any]) -> tuple[NDArray[np.uint8], float]:
    """Round floats in 0…1 to the nearest 8-bit pixels, and give the largest distance from one, in levels."""
    levels = values.astype(np.float64) * 255
    rounded = np.rint(levels)
    return rounded.astype(np.uint8), float(np.abs(levels - rounded).max(initial=0.0))


def are_numbered(labels: NDArray[np.int64]) -> bool:
    """Say whether the labels are all of 0…K - 1 for some K."""
    classes = np.unique(labels)
    return len(classes) > 0 and classes[0] == 0 and classes[-1] == len(classes) - 1


def require_spikes(called: str, frames: NDArray[Any]) -> None:
    """Raise KdsnnError for frames over time, whole numbers, that hold anything but 0 and 1."""
    if frames.size and (frames.max() > 1 or frames.min() < 0):
        raise KdsnnError(
            f"{called} holds values from {frames.min()} to {frames.max()}: frames over time hold spikes, 0 or 1; of counts "
            "store (frames > 0)."
        )
