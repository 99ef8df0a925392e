"""The form every data set takes, wherever it comes from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdsnn.errors import KdsnnError


@dataclass(frozen=True, eq=False)
class DataSet:
    """A data set is labeled samples, split into training and test: 8-bit images, or frames of events over time.

    `x_train`, `x_test`: uint8; a `numpy.memmap` where the samples are too many for memory.

    * Images, (N, C, H, W), 0…255. A network sees pixels / 255 as float32 and no mean/std normalization: the first
      BatchNorm does that job, and 8-bit pixels stay exact integers on a chip.
    * Frames over time, (N, T, C, H, W), 0 or 1: what an event camera saw in each of T time steps. A spiking network sees
      frame t at step t, an ANN the mean of the frames. `graded` frames hold 8-bit pixels, 0…255, and are seen as those of
      images are.

    `y_train`, `y_test`: int64, (N,), 0…classes - 1. `name` is the spec that `load` took. `class_names` are those of the
    source, in the order of the labels, or empty; `notes` says in whole sentences what was done to the source's samples.
    `noise` holds the arguments of `load_data` for the noise that was added, or is empty.

    Raises KdsnnError at construction when the arrays do not fit this description.
    """

    name: str
    x_train: NDArray[np.uint8]
    y_train: NDArray[np.int64]
    x_test: NDArray[np.uint8]
    y_test: NDArray[np.int64]
    classes: int
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    graded: bool = False
    noise: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for part, x, y in (("train", self.x_train, self.y_train), ("test", self.x_test, self.y_test)):
            self._check(part, x, y)
        if self.x_train.shape[1:] != self.x_test.shape[1:]:
            raise KdsnnError(
                f"{self.name}: x_train has samples of shape {self.x_train.shape[1:]} and x_test of shape "
                f"{self.x_test.shape[1:]}: bring both to the same shape."
            )
        if self.graded and self.T is None:
            raise KdsnnError(f"{self.name}: graded is said of frames over time, and it holds images.")
        if self.class_names and len(self.class_names) != self.classes:
            raise KdsnnError(f"{self.name}: {len(self.class_names)} class names for {self.classes} classes.")

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """One image, or one frame, has the shape (C, H, W)."""
        channels, height, width = self.x_train.shape[-3:]
        return channels, height, width

    @property
    def T(self) -> int | None:  # noqa: N802 - as everywhere
        """One sample has so many frames; None where it is a still image."""
        return None if self.x_train.ndim == 4 else self.x_train.shape[1]

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """One sample has the shape (C, H, W), or (T, C, H, W) over time."""
        return self.x_train.shape[1:]

    def require_images(self, what: str) -> None:
        """Raise KdsnnError for frames over time, to which `what` cannot be done."""
        if self.T is not None:
            raise KdsnnError(
                f"{self.name} holds frames over time, and {what} is for images: leave it out, or put it before +events."
            )

    def _check(self, part: str, x: NDArray[Any], y: NDArray[Any]) -> None:
        if x.dtype != np.uint8 or x.ndim not in (4, 5) or x.size == 0:
            raise KdsnnError(
                f"{self.name}: x_{part} is {x.dtype} of shape {x.shape}: expected uint8 of shape (N, C, H, W), or "
                "(N, T, C, H, W) over time, not empty."
            )
        if y.dtype != np.int64 or y.shape != (len(x),):
            raise KdsnnError(
                f"{self.name}: y_{part} is {y.dtype} of shape {y.shape}: expected int64 of shape ({len(x)},), "
                f"one label for each sample of x_{part}."
            )
        if y.min() < 0 or y.max() >= self.classes:
            raise KdsnnError(
                f"{self.name}: labels in y_{part} run from {y.min()} to {y.max()}: expected 0 to {self.classes - 1} "
                f"({self.classes} classes, numbered from 0)."
            )


def brief(value: object) -> str:
    """Write `value` as one line, cut to a readable length and without addresses, for quoting in an error message."""
    line = re.sub(r" at 0x[0-9a-f]+", "", " ".join(str(value).split()))
    return line if len(line) <= 100 else line[:97] + "..."
