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


@dataclass(frozen=True, eq=False)
class Streamed:
    """Streamed images (N, C, H, W) are too many for the device: they stay where they are, in memory or on disk.

    They take indices like the tensor they stand for, and give those images on the device. Indices on the host
    spare a GPU from being waited for.
    """

    source: NDArray[np.uint8]
    device: torch.device

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, indices: Tensor) -> Tensor:
        picked = torch.from_numpy(np.ascontiguousarray(self.source[indices.cpu().numpy()]))
        if self.device.type == "cuda":  # from pinned memory the copy runs beside the work that is queued there
            picked = picked.pin_memory()
        return picked.to(self.device, non_blocking=True)


def placed(images: NDArray[np.uint8], device: torch.device) -> Tensor | Streamed:
    """Place uint8 images (N, C, H, W), or frames (N, T, C, H, W), where `pick` takes them from.

    Up to `storage.IN_MEMORY` bytes all of them move to `device`; more than that stream, batch by batch.
    """
    return _whole(images, device) if images.nbytes <= storage.IN_MEMORY else Streamed(images, device)


def pick(images: Tensor | Streamed, indices: Tensor, host: Tensor | None = None) -> Tensor:
    """Pick those of the `placed` images that `indices`, int64 (n,) on the device, names: uint8 (n, C, H, W).

    `host`: the same indices on the host, where they are at hand, so that a stream need not wait for the device.
    """
    return images[indices if host is None or isinstance(images, Tensor) else host]


def _whole(images: NDArray[Any], device: torch.device) -> Tensor:
    # torch shares memory with the array, and cannot do so with a file that is mapped for reading
    images = np.require(images, requirements=["C", "W"])
    return torch.from_numpy(images).to(device)


def floats(images: Tensor, graded: bool) -> Tensor:
    """A network sees uint8 images as pixels / 255, and frames (N, T, C, H, W) of 0 and 1 as they are, but those of a data
    set that is `graded` as pixels / 255 too: float32, contiguous."""
    values = images.to(torch.float32, memory_format=torch.contiguous_format)
    return values if images.ndim == 5 and not graded else values / 255


def shifted(images: Tensor, reach: int, generator: torch.Generator) -> Tensor:
    """Move each image (N, C, H, W) by its own -reach…reach pixels in y and x; zeros move in."""
    if reach == 0:
        return images
    if images.ndim == 5:
        return shifted(as_maps(images), reach, generator).reshape(images.shape)
    count, _, height, width = images.shape
    device = images.device
    offsets = torch.randint(0, 2 * reach + 1, (2, count, 1), generator=generator, device=device)
    rows = torch.arange(height, device=device) + offsets[0]
    columns = torch.arange(width, device=device) + offsets[1]
    padded = pad(images, (reach, reach, reach, reach)).permute(0, 2, 3, 1)
    one = torch.arange(count, device=device)[:, None, None]
    return padded[one, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def rolled(images: Tensor, reach: int, generator: torch.Generator) -> Tensor:
    """Move each image (N, C, H, W) by its own -reach…reach pixels in y and x; what leaves comes in on the other side."""
    if reach == 0:
        return images
    count, _, height, width = images.shape
    device = images.device
    offsets = torch.randint(-reach, reach + 1, (2, count, 1), generator=generator, device=device)
    rows = (torch.arange(height, device=device) - offsets[0]) % height
    columns = (torch.arange(width, device=device) - offsets[1]) % width
    one = torch.arange(count, device=device)[:, None, None]
    return images.permute(0, 2, 3, 1)[one, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def dropped(frames: Tensor, most: float, generator: torch.Generator) -> Tensor:
    """Drop from each sample of frames (N, T, C, H, W), drawn evenly, nothing; frames that follow each other; a rectangle of
    all frames; or single spikes: a share of the frames, the sides or the spikes that is drawn evenly from 0…most
    (EventDrop)."""
    if most == 0:
        return frames
    count, T, _, height, width = frames.shape
    device = frames.device
    kind = torch.randint(0, 4, (count, 1, 1, 1, 1), generator=generator, device=device)
    share = most * torch.rand(count, 1, generator=generator, device=device)
    time, rows, columns = (_some_in_a_row(length, share, generator) for length in (T, height, width))
    spikes = torch.rand(frames.shape, generator=generator, device=device) < share[:, :, None, None, None]
    gone = torch.where(kind == 1, time[:, :, None, None, None], (kind == 3) & spikes)
    return frames.masked_fill(gone | ((kind == 2) & (rows[:, :, None] & columns[:, None, :])[:, None, None]), 0)


def _some_in_a_row(length: int, share: Tensor, generator: torch.Generator) -> Tensor:
    """Mark round(share · length) neighbors in each row, all of them inside: boolean (count, length)."""
    number = torch.round(share * length)
    start = torch.floor(torch.rand(share.shape, generator=generator, device=share.device) * (length - number + 1))
    place = torch.arange(length, device=share.device)
    return (place >= start) & (place < start + number)


def as_maps(images: Tensor) -> Tensor:
    """View frames over time (N, T, C, H, W) as images of T·C channels, so that all frames of a sample change alike."""
    return images.flatten(1, -3)


def mirrored(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image (N, C, H, W) left to right, or not, with even odds."""
    chosen = torch.randint(0, 2, (len(images), 1, 1, 1), generator=generator, device=images.device)
    return torch.where(chosen.bool(), images.flip(-1), images)


def cut(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Cut a black square into each image (N, C, H, W), centered on a pixel of its own, as much of it as lies inside
    (Cutout)."""
    if side == 0:
        return images
    count, _, height, width = images.shape
    rows, columns = (_stretch(count, length, side, generator, images.device) for length in (height, width))
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0)


def _stretch(count: int, length: int, side: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Mark `side` neighbors in each row, around a random place: boolean (count, length)."""
    center = torch.randint(0, length, (count, 1), generator=generator, device=device)
    distance = torch.arange(length, device=device) - center + side // 2
    return (distance >= 0) & (distance < side)
