"""Images on the device, as uint8 until the network takes them, and simple random changes of them.

This module and `policy` are those of this package that import torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from kdsnn.data import storage


def on_device(images: NDArray[Any], labels: NDArray[Any], device: torch.device) -> tuple[Tensor, Tensor]:
    """Images, uint8 (N, C, H, W), and labels, int64 (N,), as tensors on `device`, whatever their size."""
    return _whole(images, device), torch.from_numpy(labels).to(device)


@dataclass(frozen=True, eq=False)
class Streamed:
    """Images (N, C, H, W) too many for the device: they stay where they are, in memory or on disk.

    Takes indices like the tensor it stands for, and gives those images on the device. On a GPU this
    waits for the indices to reach the host.
    """

    source: NDArray[np.uint8]
    device: torch.device

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, indices: Tensor) -> Tensor:
        return _whole(self.source[indices.cpu().numpy()], self.device)


def placed(images: NDArray[np.uint8], device: torch.device) -> Tensor | Streamed:
    """uint8 images (N, C, H, W), to be picked by `placed(…)[indices]`, `indices` being int64 (n,) on `device`.

    Up to `storage.IN_MEMORY` bytes all of them move to `device`; more than that stream, batch by batch.
    """
    return _whole(images, device) if images.nbytes <= storage.IN_MEMORY else Streamed(images, device)


def _whole(images: NDArray[Any], device: torch.device) -> Tensor:
    # torch shares memory with the array, and cannot do so with a file that is mapped for reading
    images = np.require(images, requirements=["C", "W"])
    return torch.from_numpy(images).to(device)


def floats(images: Tensor) -> Tensor:
    """What a network sees of uint8 images: pixels / 255, float32, contiguous."""
    return images.to(torch.float32, memory_format=torch.contiguous_format) / 255


def shifted(images: Tensor, reach: int, generator: torch.Generator) -> Tensor:
    """Each image (N, C, H, W) moved by its own -reach…reach pixels in y and x; zeros move in."""
    if reach == 0:
        return images
    count, _, height, width = images.shape
    device = images.device
    offsets = torch.randint(0, 2 * reach + 1, (2, count, 1), generator=generator, device=device)
    rows = torch.arange(height, device=device) + offsets[0]
    columns = torch.arange(width, device=device) + offsets[1]
    padded = pad(images, (reach, reach, reach, reach)).permute(0, 2, 3, 1)
    one = torch.arange(count, device=device)[:, None, None]
    return padded[one, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def mirrored(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image (N, C, H, W) mirrored left to right, or not, with even odds."""
    chosen = torch.randint(0, 2, (len(images), 1, 1, 1), generator=generator, device=images.device)
    return torch.where(chosen.bool(), images.flip(-1), images)


def cut(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """A black square in each image (N, C, H, W), centred on a pixel of its own, as much of it as lies inside (Cutout)."""
    if side == 0:
        return images
    count, _, height, width = images.shape
    rows, columns = (_stretch(count, length, side, generator, images.device) for length in (height, width))
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0)


def _stretch(count: int, length: int, side: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Boolean (count, length): `side` neighbours in each row, around a random place."""
    centre = torch.randint(0, length, (count, 1), generator=generator, device=device)
    distance = torch.arange(length, device=device) - centre + side // 2
    return (distance >= 0) & (distance < side)
