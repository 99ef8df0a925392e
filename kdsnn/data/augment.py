"""What happens to training images anew in every epoch, a batch at a time, on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdsnn.errors import KdsnnError

if TYPE_CHECKING:
    import torch

LARGEST = {"crop": 256, "cutout": 1 << 15}
"""Pixels. A batch is padded by `crop` on every side, which takes memory in proportion to its square."""


@dataclass(frozen=True)
class Augmentation:
    """An augmentation changes training images at random, each on its own and in this order.

    * `auto`: one operation of `kdsnn.data.policy`, of AutoAugment's strength.
    * `crop`: moved by up to that many pixels each way, black moving in (padding and random crop).
    * `flip`: mirrored left to right, or not.
    * `cutout`: a black square with sides of that many pixels, its center anywhere in the image.

    Raises KdsnnError when a number is negative or larger than `LARGEST` says.
    """

    crop: int = 0
    flip: bool = False
    cutout: int = 0
    auto: bool = False

    def __post_init__(self) -> None:
        for name, largest in LARGEST.items():
            if not 0 <= getattr(self, name) <= largest:
                raise KdsnnError(f"{name} is {getattr(self, name)}: it must be 0 or more pixels, at most {largest:,}.")

    def __str__(self) -> str:
        """It reads as what follows "training images are"."""
        parts = [
            f"moved by up to {self.crop} {'pixel' if self.crop == 1 else 'pixels'}" * bool(self.crop),
            "mirrored at random" * self.flip,
            f"hidden in a square of {self.cutout} pixels" * bool(self.cutout),
            "changed by one operation of AutoAugment's strength" * self.auto,
        ]
        return ", ".join(part for part in parts if part) or "shown as they are"

    def __bool__(self) -> bool:
        """It is true if anything changes at all; if not, every epoch shows the same images."""
        return bool(self.crop or self.flip or self.cutout or self.auto)

    def apply(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Change uint8 images (N, C, H, W), or frames (N, T, C, H, W), of which all of a sample change alike; those returned
        have the same shape, type and device.

        `generator` must be on that device; its state alone decides what happens. Nothing waits for the device.
        Raises KdsnnError where `auto`, which changes gray levels, meets frames.
        """
        from kdsnn.data.device import as_maps, cut, mirrored, shifted
        from kdsnn.data.policy import trivial

        if images.ndim == 5:
            if self.auto:
                raise KdsnnError("augmentation auto changes gray levels, and frames of events have none: leave it out.")
            return self.apply(as_maps(images), generator).reshape(images.shape)
        if self.auto:
            images = trivial(images, generator)
        images = shifted(images, self.crop, generator)
        if self.flip:
            images = mirrored(images, generator)
        return cut(images, self.cutout, generator)
