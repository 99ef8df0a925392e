"""Rounding to a grid in training, with the gradient of not rounding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Rounded(torch.autograd.Function):
    """Rounding is x → clip(rint(x s), -limit, limit) / s, with the gradient of x → x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, limit: float) -> Tensor:
        """Round `x` of any shape."""
        return torch.round(x * scale).clamp_(-limit, limit).div_(scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """Pass ∂L/∂x̂ on as ∂L/∂x."""
        return grads[0], None, None


def best_clip(values: Tensor, steps: int, *, lowest: int) -> float:
    """Find where to clip values so that rounding them to a grid errs least, in squares.

    Args:
        values: of any shape, float64; one at least is not 0.
        steps: of the grid between 0 and the clip.
        lowest: of the grid, in steps: -`steps` where values have a sign, 0 where they have none.
    """
    top = float(values.abs().max())

    def error(clip: float) -> float:
        scale = steps / clip
        rounded = torch.round(values * scale).clamp(lowest, steps) / scale
        return float((rounded - values).square().sum())

    return min((top * n / 64 for n in range(1, 65)), key=error)
