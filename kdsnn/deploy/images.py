"""The images that a verb works on: loading them, with noise if wanted, and making of them what networks take."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdsnn.errors import KdsnnError, notice

if TYPE_CHECKING:
    import numpy as np

    from exporters.graph import Array
    from kdsnn.data import DataSet


def load_data(
    data: Any, *, test: Any = None, noise: float = 0.0, noise_kind: str = "std", noise_on: str = "train,test"
) -> DataSet:
    """A data set from its name, from arrays, or from a torch `Dataset`.

    Args:
        data: a name of `kdsnn-deploy list data` ("digits", "npz:FILE", "mnist+rot"), arrays (images, labels) or (training
            images, their labels, test images, their labels), a torch `Dataset`, or a `DataSet`, which stays what it is.
        test: the test set, where `data` is a torch `Dataset` or a pair of arrays of training images only.
        noise: Gaussian noise on pixels in 0 to 1, rounded to 8 bits; 0 for none.
        noise_kind: whether `noise` is the standard deviation ("std") or the variance ("var").
        noise_on: which images get it, "train", "test" or "train,test".

    Raises:
        KdsnnError: an unknown name, a file, array or option that cannot be used.
    """
    from dataclasses import replace

    from kdsnn.data import DataSet, Noise, as_data, load

    added = Noise.on(noise_on, noise, noise_kind) if noise else None
    known = isinstance(data, DataSet)
    if isinstance(data, str):
        found = load(data, noise=added)
    else:
        found = data if known else as_data(data, test=test)
        found = replace(added.added(found), name=found.name) if added else found
    for text in found.notes if not known else ():
        notice(text)
    return found


def require_fit(name: str, shape: tuple[int, ...], data: DataSet) -> None:
    """Compare a network's input shape with the images of a data set.

    Raises:
        KdsnnError: they differ; a flat input takes images of as many pixels.
    """
    if data.input_shape != shape and (math.prod(data.input_shape),) != shape:
        raise KdsnnError(f"{name} takes input of shape {shape}, {data.name} has images of {data.input_shape}")


def pixels(images: Array) -> Array:
    """uint8 images → float32 pixels / 255, as the networks are trained on."""
    import numpy as np

    return (images / np.float32(255)).astype(np.float32)


def spread_over(total: int, most: int) -> Array:
    """At most `most` of the numbers 0…total − 1, spread evenly: data may be sorted by class."""
    import numpy as np

    found: Array = np.linspace(0, total - 1, min(most, total)).round().astype(int)
    return found


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
