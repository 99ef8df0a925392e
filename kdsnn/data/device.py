"""Images on the device, as uint8 until the network takes them. The one module of this package that imports torch."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad


def on_device(images: NDArray[Any], labels: NDArray[Any], device: torch.device) -> tuple[Tensor, Tensor]:
    """Images, uint8 (N, C, H, W), and labels, int64 (N,), as tensors on `device`."""
    return torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device)


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
