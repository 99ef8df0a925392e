"""Gaussian pixel noise, the perturbation of KDSNN's Table 2 for CIFAR."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Real
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kdsnn.data.dataset import DataSet
from kdsnn.data.storage import mapped
from kdsnn.errors import KdsnnError

PARTS = ("train", "test")


@dataclass(frozen=True)
class Noise:
    """The noise is zero-mean and Gaussian on pixels / 255, independent for every pixel and drawn once with `seed`.

    `sigma` is its standard deviation (`kind` "std") or its variance ("var"); the paper writes σ without
    saying which, and its accuracies fit the variance better. `train` and `test` say which part gets it.
    Noisy pixels are clipped to 0…1 and rounded to 8 bits, so that they are still exact integers on a
    chip; clipping makes the noise on black and white pixels one-sided.
    Raises KdsnnError when a value is out of its range.
    """

    sigma: float
    kind: Literal["std", "var"] = "std"
    train: bool = True
    test: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.sigma, Real) or not 0 <= self.sigma < math.inf:
            raise KdsnnError(f"noise is {self.sigma}: it must be 0 or more, in units of the pixel range.")
        if self.kind not in ("std", "var"):
            raise KdsnnError(f"noise kind is {self.kind}: it must be std or var.")
        if not 0 <= self.seed < 2**32:
            raise KdsnnError(f"noise seed is {self.seed}: it must be 0 to 2^32 - 1.")

    @classmethod
    def on(cls, parts: str, sigma: float, kind: str = "std", seed: int = 0) -> Noise:
        """Make noise on parts given as text: "train", "test" or "train,test". Raises KdsnnError for any other."""
        named = [part.strip() for part in parts.split(",")]
        if wrong := [part for part in named if part not in PARTS]:
            raise KdsnnError(f"noise on '{wrong[0]}': it must be train, test or train,test.")
        return cls(sigma, kind, "train" in named, "test" in named, seed)  # type: ignore[arg-type]  # __post_init__ checks

    @property
    def std(self) -> float:
        """The standard deviation is in units of the pixel range."""
        return self.sigma if self.kind == "std" else math.sqrt(self.sigma)

    def added(self, data: DataSet) -> DataSet:
        """Add the noise to the parts of `data` that are to have it, and a note that says so."""
        parts = [part for part in PARTS if getattr(self, part)]
        if not parts or self.sigma == 0:
            return data
        data.require_images("noise on pixels")
        note = (
            f"Gaussian noise of standard deviation {self.std:g} ({self.kind} {self.sigma:g}, seed {self.seed}) "
            f"on {' and '.join(parts)} images, clipped and rounded to 8 bits."
        )
        return replace(
            data,
            x_train=mapped(data.x_train, self._adder("train")) if self.train else data.x_train,
            x_test=mapped(data.x_test, self._adder("test")) if self.test else data.x_test,
            notes=(*data.notes, note),
            noise={"noise": self.sigma, "noise_kind": self.kind, "noise_on": ",".join(parts)},
        )

    def _adder(self, part: str) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
        # a stream for each part: the test images do not depend on whether the training images are noisy
        rng = np.random.RandomState([self.seed, PARTS.index(part)])

        def add(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
            noisy = rng.standard_normal(images.shape)
            with np.errstate(over="ignore"):  # what overflows is clipped like all that is too bright
                noisy *= 255 * self.std
            noisy += images
            return np.rint(np.clip(noisy, 0, 255, out=noisy), out=noisy).astype(np.uint8)

        return add
