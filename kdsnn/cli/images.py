"""Loading the images that a command asks for, with noise if wanted, and making of them what networks take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from exporters.graph import Array
    from kdsnn.data import DataSet


def load_images(
    spec: str, sigma: float = 0.0, kind: str = "std", on: str = "train,test", *, quiet: bool = False
) -> DataSet:
    """The data set `spec`; its notes (regenerated variants, noise, skipped files) go to standard error unless `quiet`.

    Raises:
        KdsnnError: an unknown name, a file or option that cannot be used.
    """
    from kdsnn.cli.console import say
    from kdsnn.data import Noise, load

    data = load(spec, noise=Noise.on(on, sigma, kind) if sigma else None)
    if not quiet:
        for note in data.notes:
            say(f"note: {note}")
    return data


def pixels(images: Array) -> Array:
    """uint8 images → float32 pixels / 255, as the networks are trained on."""
    import numpy as np

    return (images / np.float32(255)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Pixels:
    """The `pixels` of many images, made where a slice of them is read: as floats they may be too many for the memory.

    Attributes:
        images: uint8 (N, C, H, W), in memory or on disk.
        shape: of a sample as the network takes it, with as many values as an image.
    """

    images: Array
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, part: slice) -> np.ndarray:
        return pixels(self.images[part]).reshape(-1, *self.shape)
