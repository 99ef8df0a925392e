"""AutoAugment-strength augmentation without a search: TrivialAugment (Müller & Hutter, ICCV 2021), batched.

Every image undergoes one of 14 operations, drawn evenly, at a strength drawn evenly from AutoAugment's
ranges. All geometric operations are one affine map and all tonal ones are one table lookup, so that a batch
passes three times over the device, not 14; nothing loops over images or waits for the device.
"""

from __future__ import annotations

import math
from enum import IntEnum

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, pad


class Operation(IntEnum):
    """An operation changes an image at strength s, 0…1; those marked ± go either way."""

    IDENTITY = 0
    ROTATE = 1  # ± 30° s
    SHEAR_X = 2  # ± 0.3 s
    SHEAR_Y = 3
    TRANSLATE_X = 4  # ± 0.45 s of the side
    TRANSLATE_Y = 5
    BRIGHTNESS = 6  # pixels times 1 ± 0.9 s
    CONTRAST = 7  # distance to the image's mean times 1 ± 0.9 s
    POSTERIZE = 8  # 8 - round(4 s) bits kept
    SOLARIZE = 9  # levels from 256 (1 - s) on inverted
    AUTOCONTRAST = 10  # each channel stretched to 0…255
    EQUALIZE = 11  # each channel's histogram flattened
    COLOR = 12  # distance to gray times 1 ± 0.9 s
    SHARPNESS = 13  # distance to a blurred image times 1 ± 0.9 s


def trivial(images: Tensor, generator: torch.Generator) -> Tensor:
    """Apply one random operation to each of the uint8 images (N, C, H, W); shape, type and device stay."""
    count, device = len(images), images.device
    operation = torch.randint(0, len(Operation), (count,), generator=generator, device=device)
    strength = torch.rand(count, generator=generator, device=device)
    sign = torch.randint(0, 2, (count,), generator=generator, device=device) * 2 - 1
    return applied(images, operation, strength * sign)


def applied(images: Tensor, operation: Tensor, strength: Tensor) -> Tensor:
    """Apply `operation` (N,), an `Operation` for each of `images` (N, C, H, W), uint8, at signed `strength` (N,),
    -1…1."""
    chosen = operation[:, None, None, None]
    geometric = (chosen >= Operation.ROTATE) & (chosen <= Operation.TRANSLATE_Y)
    tonal = (chosen >= Operation.BRIGHTNESS) & (chosen <= Operation.EQUALIZE)
    filtered = chosen >= Operation.COLOR
    result = torch.where(geometric, _moved(images, operation, strength), images)
    result = torch.where(tonal, _toned(images, operation, strength), result)
    return torch.where(filtered, _filtered(images, operation, strength), result)


def _moved(images: Tensor, operation: Tensor, strength: Tensor) -> Tensor:
    """Rotate, shear and translate about the center; bilinear, black moves in."""
    height, width = images.shape[2:]

    def amount(one: Operation, most: float) -> Tensor:
        return torch.where(operation == one, most * strength, 0)

    angle = amount(Operation.ROTATE, math.radians(30))
    # affine_grid counts both axes from -1 to 1: what leads from one axis to the other carries their ratio
    x_per_y, y_per_x = height / width, width / height
    row_x = (
        angle.cos(),
        (amount(Operation.SHEAR_X, 0.3) - angle.sin()) * x_per_y,
        amount(Operation.TRANSLATE_X, 2 * 0.45),
    )
    row_y = (
        (amount(Operation.SHEAR_Y, 0.3) + angle.sin()) * y_per_x,
        angle.cos(),
        amount(Operation.TRANSLATE_Y, 2 * 0.45),
    )
    theta = torch.stack([torch.stack(row_x, 1), torch.stack(row_y, 1)], 1)
    grid = affine_grid(theta, list(images.shape), align_corners=False)
    return _pixels(grid_sample(images.float(), grid, align_corners=False))


def _toned(images: Tensor, operation: Tensor, strength: Tensor) -> Tensor:
    """Replace each level by another, which is looked up once in a table (N, C, 256)."""
    count, channels = images.shape[:2]
    flat = images.reshape(count, channels, -1)
    levels = torch.arange(256, device=images.device, dtype=torch.float32)
    chosen = operation[:, None, None]
    factor = (1 + 0.9 * strength)[:, None, None]
    force = strength.abs()[:, None, None]

    mean = _gray(images.float()).mean((2, 3))[:, :, None]
    low, high = (f(flat, dim=2, keepdim=True).float() for f in (torch.amin, torch.amax))
    step = 2 ** (4 * force).round()
    table = levels.expand(count, channels, 256)
    for one, other in (
        (Operation.BRIGHTNESS, levels * factor),
        (Operation.CONTRAST, mean + (levels - mean) * factor),
        (Operation.POSTERIZE, (levels / step).floor() * step),
        (Operation.SOLARIZE, torch.where(levels >= 256 * (1 - force), 255 - levels, levels)),
        (Operation.AUTOCONTRAST, torch.where(high > low, (levels - low) * 255 / (high - low).clamp(min=1), levels)),
        (Operation.EQUALIZE, _equalizing(flat, levels)),
    ):
        table = torch.where(chosen == one, other, table)
    return _pixels(table).gather(2, flat.long()).reshape(images.shape)


def _equalizing(flat: Tensor, levels: Tensor) -> Tensor:
    """Write Pillow's `ImageOps.equalize` as a table (N, C, 256) for pixels (N, C, H·W)."""
    count, channels, size = flat.shape
    plane = torch.arange(count * channels, device=flat.device)[:, None] * 256
    bins = (flat.reshape(count * channels, size) + plane).reshape(-1)
    histogram = torch.zeros(count * channels * 256, dtype=torch.int64, device=flat.device)
    histogram = histogram.scatter_add_(0, bins, torch.ones_like(bins)).reshape(count, channels, 256)
    brightest = histogram.gather(2, flat.amax(2, keepdim=True).long())
    step = (size - brightest) // 255
    below = histogram.cumsum(2) - histogram
    # too few pixels below the brightest level to be spread over 255: left alone
    return torch.where(step > 0, (step // 2 + below) // step.clamp(min=1), levels).float()


def _filtered(images: Tensor, operation: Tensor, strength: Tensor) -> Tensor:
    """Change color or sharpness: away from, or toward, the gray or the blurred image."""
    pixels = images.float()
    # Pillow's SMOOTH kernel, 5 in the center and 1 around it, as three rows and three columns (ten times faster
    # than average pooling on a CPU); border pixels are repeated outwards
    wide = pad(pixels, (1, 1, 1, 1), mode="replicate")
    wide = wide[:, :, :-2] + wide[:, :, 1:-1] + wide[:, :, 2:]
    blurred = (wide[..., :-2] + wide[..., 1:-1] + wide[..., 2:] + 4 * pixels) / 13
    plain = torch.where((operation == Operation.COLOR)[:, None, None, None], _gray(pixels), blurred)
    return _pixels(plain + (pixels - plain) * (1 + 0.9 * strength)[:, None, None, None])


def _gray(pixels: Tensor) -> Tensor:
    """Make (N, 1, H, W) of (N, C, H, W): the luma of three channels, the mean of any other number."""
    if pixels.shape[1] != 3:
        return pixels.mean(1, keepdim=True)
    red, green, blue = (pixels[:, channel : channel + 1] for channel in range(3))
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _pixels(values: Tensor) -> Tensor:
    return values.round().clamp(0, 255).to(torch.uint8)
