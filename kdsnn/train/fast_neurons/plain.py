"""The plain way through a layer of neurons, in torch's own operations: wherever the compiled kernels are not."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


class Fire(torch.autograd.Function):
    """A layer of neurons fires over all time steps from rest, currents (T, …) → spikes (T, …).

        h[t] = λ v[t-1] + x[t],   s[t] = 1 where h[t] ≥ θ else 0,   v[t] = h[t] (1 - s[t]),   v[-1] = 0

    Backward with the reset left out of the gradient (detach_reset) and the ATan surrogate of slope α:

        ∂s/∂h = (α/2) / (1 + (π/2 α (h - θ))²),   ∂L/∂h[t] = ∂L/∂s[t] ∂s/∂h + λ (1 - s[t]) ∂L/∂h[t+1]

    h is float32 whatever the currents are; spikes and gradients have the currents' type. Where the membrane is kept,
    v[T-1] (…) comes with the spikes, and ∂v/∂h = 1 - s.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, leak: float, threshold: float, alpha: float, kept: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Run on `x` (T, …) with λ, θ, α, and keep the membrane or not."""
        h = torch.empty_like(x, dtype=torch.float32)  # in the layout of x: a convolution behind it prefers its own
        spikes = torch.empty_like(h)
        h[0] = x[0]
        for t in range(1, len(x)):
            silent = torch.lt(h[t - 1], threshold, out=spikes[t])  # as scratch, overwritten below
            torch.addcmul(x[t].float(), h[t - 1], silent, value=leak, out=h[t])
        torch.ge(h, threshold, out=spikes)
        ctx.save_for_backward(h)
        ctx.constants, ctx.type = (leak, threshold, alpha), x.dtype
        ctx.set_materialize_grads(False)
        v = torch.where(h[-1] < threshold, h[-1], 0.0).to(x.dtype) if kept else None
        return spikes.to(x.dtype), v

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """Make ∂L/∂x (T, …) of ∂L/∂s (T, …) and ∂L/∂v[T-1] (…)."""
        (h,) = ctx.saved_tensors
        leak, threshold, alpha = ctx.constants
        of_spikes, of_membrane = grads
        if of_spikes is None:
            grad = torch.zeros_like(h)
        else:
            grad = (
                h.sub(threshold)
                .mul_(math.pi / 2 * alpha)
                .square_()
                .add_(1)
                .reciprocal_()
                .mul_(alpha / 2)
                .mul_(of_spikes)
            )
        if of_membrane is not None:
            grad[-1].addcmul_(of_membrane.to(grad.dtype), (h[-1] < threshold).to(grad.dtype))
        for t in range(len(h) - 2, -1, -1):
            grad[t].addcmul_(grad[t + 1], (h[t] < threshold).to(grad.dtype), value=leak)
        return grad.to(ctx.type), None, None, None, None
