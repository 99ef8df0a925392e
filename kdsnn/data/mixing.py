"""Two samples of events become one, which belongs to both classes (after EventMix, Shen et al., Information Sciences 2023)."""

from __future__ import annotations

import torch
from torch import Tensor

BLOBS = 3
NARROWEST, WIDEST = 0.1, 0.5
"""Standard deviations of a blob, as shares of T, height and width."""
PROBED = 512
"""Places at which the level is estimated above which a share of all places lies."""


def mixed(
    frames: Tensor, labels: Tensor, classes: int, share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mix samples of a batch with partners drawn from it.

    A sample keeps its events in a random region of time and space, both polarities alike, and has its partner's elsewhere.
    The region is where a sum of three Gaussians is largest, of random centers and widths; its share of all places is drawn
    evenly. A class is worth as much of the label as events come from its sample.

    Args:
        frames: uint8 (N, T, C, H, W).
        labels: int64 (N,).
        classes: K.
        share: of the samples, drawn one by one, that are mixed; 0 to 1.
        generator: on the device of `frames`; it alone decides what happens.

    Returns:
        Frames as before, and labels float32 (N, K), which sum to 1.
    """
    count, T, _, height, width = frames.shape
    device = frames.device
    partner = torch.randperm(count, generator=generator, device=device)
    alone = torch.rand(count, generator=generator, device=device) >= share
    own = _region(count, (T, height, width), generator) | alone[:, None, None, None]
    found = torch.where(own[:, :, None], frames, frames[partner])
    kept = _events(frames * own[:, :, None])
    weight = (kept / _events(found).clamp_min(1)).where(_events(found) > 0, 1.0)[:, None]
    told = (labels[:, None] == torch.arange(classes, device=device)).float()
    return found, weight * told + (1 - weight) * told[partner]


def _events(frames: Tensor) -> Tensor:
    """Count the events of samples (N, …); of graded frames, in units of their values."""
    return frames.flatten(1).sum(1, dtype=torch.int64).float()


def _region(count: int, sides: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """Draw a region for each sample: boolean (count, T, H, W)."""
    device = generator.device
    center, spread = torch.rand(2, count, BLOBS, 3, generator=generator, device=device)
    spread = NARROWEST + (WIDEST - NARROWEST) * spread
    bumps = []
    for axis, side in enumerate(sides):
        place = (torch.arange(side, device=device) + 0.5) / side
        distance = (place - center[:, :, axis, None]) / spread[:, :, axis, None]
        bumps.append(torch.exp(-distance.square() / 2))
    field = torch.einsum("nkt,nkh,nkw->nthw", *bumps)
    flat = field.flatten(1)
    probes = torch.randint(0, flat.shape[1], (count, PROBED), generator=generator, device=device)
    rank = torch.randint(0, PROBED, (count, 1), generator=generator, device=device)
    level = flat.gather(1, probes).sort(1).values.gather(1, rank)
    return field >= level[:, :, None, None]
