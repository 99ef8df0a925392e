"""What happens to training images anew in every epoch, a batch at a time, on the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kdsnn.errors import KdsnnError

if TYPE_CHECKING:
    import torch

Mix = Callable[["torch.Tensor", "torch.Tensor", "torch.Generator"], tuple["torch.Tensor", "torch.Tensor"]]
"""(uint8 frames (N, T, C, H, W), labels (N,), generator) → frames, and labels float32 (N, K) that sum to 1."""

LARGEST = {"crop": 256, "roll": 1 << 15, "cutout": 1 << 15}
"""Pixels. A batch is padded by `crop` on every side, which takes memory in proportion to its square."""


@dataclass(frozen=True)
class Augmentation:
    """An augmentation changes training images at random, each on its own and in this order.

    * `auto`: one operation of `kdsnn.data.policy`, of AutoAugment's strength.
    * `crop`: moved by up to that many pixels each way, black moving in (padding and random crop).
    * `roll`: moved by up to that many pixels each way, what leaves on one side coming in on the other.
    * `flip`: mirrored left to right, or not.
    * `cutout`: a black square with sides of that many pixels, its center anywhere in the image.
    * `drop`: of frames over time, EventDrop (Gu et al., IJCAI 2021): one of four, drawn evenly: nothing is dropped; frames that
      follow each other; a rectangle in all frames; single spikes. A share of all frames, of both sides, or of the spikes
      is, drawn evenly from 0 to `drop`, at most 1.
    * `mix`: of frames over time, this share of the samples, at most 1, has another's events in a part of time and space, and
      both labels, each by its share of the events (`kdsnn.data.mixing`, after EventMix).

    Raises KdsnnError when a number is negative or larger than `LARGEST` says.
    """

    crop: int = 0
    flip: bool = False
    cutout: int = 0
    auto: bool = False
    roll: int = 0
    drop: float = 0.0
    mix: float = 0.0

    def __post_init__(self) -> None:
        for name, largest in LARGEST.items():
            if not 0 <= getattr(self, name) <= largest:
                raise KdsnnError(f"{name} is {getattr(self, name)}: it must be 0 or more pixels, at most {largest:,}.")
        for name in ("drop", "mix"):
            if not 0 <= getattr(self, name) <= 1:
                raise KdsnnError(f"{name} is {getattr(self, name)}: it must be a share of 0 to 1.")

    def __str__(self) -> str:
        """It reads as what follows "training images are"."""
        parts = [
            f"moved by up to {self.crop} {'pixel' if self.crop == 1 else 'pixels'}" * bool(self.crop),
            f"rolled by up to {self.roll} {'pixel' if self.roll == 1 else 'pixels'}" * bool(self.roll),
            "mirrored at random" * self.flip,
            f"hidden in a square of {self.cutout} pixels" * bool(self.cutout),
            f"without up to {self.drop:.0%} of their frames, area or spikes" * bool(self.drop),
            f"mixed with others' events, {self.mix:.0%} of them" * bool(self.mix),
            "changed by one operation of AutoAugment's strength" * self.auto,
        ]
        return ", ".join(part for part in parts if part) or "shown as they are"

    def __bool__(self) -> bool:
        """It is true if anything changes at all; if not, every epoch shows the same images."""
        return self != Augmentation()

    def apply(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Change uint8 images (N, C, H, W), or frames (N, T, C, H, W), of which all of a sample change alike; those returned
        have the same shape, type and device.

        `generator` must be on that device; its state alone decides what happens. Nothing waits for the device. What `mixes`
        makes is not done here, because it changes labels too.
        Raises KdsnnError where `auto`, which changes gray levels, meets frames, or `drop` or `mix` images.
        """
        from kdsnn.data.device import as_maps, cut, dropped, mirrored, rolled, shifted
        from kdsnn.data.policy import trivial

        if images.ndim == 5:
            if self.auto:
                raise KdsnnError("augmentation auto changes gray levels, and frames of events have none: leave it out.")
            changed = replace(self, drop=0.0, mix=0.0).apply(as_maps(images), generator).reshape(images.shape)
            return dropped(changed, self.drop, generator)
        if self.drop:
            raise KdsnnError("augmentation drop leaves out frames and spikes, and images have none: leave it out.")
        if self.mix:
            raise KdsnnError("augmentation mix joins the events of two samples, and images have none: leave it out.")
        if self.auto:
            images = trivial(images, generator)
        images = shifted(images, self.crop, generator)
        images = rolled(images, self.roll, generator)
        if self.flip:
            images = mirrored(images, generator)
        return cut(images, self.cutout, generator)

    def mixes(self, classes: int) -> Mix | None:
        """What mixes samples of so many classes, after `apply`; None if nothing does."""
        from kdsnn.data.mixing import mixed

        if not self.mix:
            return None
        return lambda frames, labels, generator: mixed(frames, labels, classes, self.mix, generator)
