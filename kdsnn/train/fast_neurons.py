"""A faster way through SpikingJelly's neurons on a CPU, with the same spikes and the same gradients.

SpikingJelly has fused kernels for CUDA; on a CPU it runs a dozen passes over memory per time step. Here
a layer is two passes per step forward and one backward, writing into tensors allocated once. The modules
stay SpikingJelly's: only their `forward` is exchanged, and only inside `fused`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import Tensor, nn


class Fire(torch.autograd.Function):
    """A layer of neurons over all time steps from rest, currents (T, …) → spikes (T, …).

        h[t] = λ v[t-1] + x[t],   s[t] = 1 where h[t] ≥ θ else 0,   v[t] = h[t] (1 - s[t]),   v[-1] = 0

    Backward with the reset left out of the gradient (detach_reset) and the ATan surrogate of slope α:

        ∂s/∂h = (α/2) / (1 + (π/2 α (h - θ))²),   ∂L/∂h[t] = ∂L/∂s[t] ∂s/∂h + λ (1 - s[t]) ∂L/∂h[t+1]

    h is float32 whatever the currents are; spikes and gradients have the currents' type.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, leak: float, threshold: float, alpha: float) -> Tensor:
        """`x` (T, …), λ, θ, α."""
        h = torch.empty_like(x, dtype=torch.float32)  # in the layout of x: a convolution behind it prefers its own
        spikes = torch.empty_like(h)
        h[0] = x[0]
        for t in range(1, len(x)):
            silent = torch.lt(h[t - 1], threshold, out=spikes[t])  # as scratch, overwritten below
            torch.addcmul(x[t].float(), h[t - 1], silent, value=leak, out=h[t])
        torch.ge(h, threshold, out=spikes)
        ctx.save_for_backward(h)
        ctx.constants = leak, threshold, alpha
        return spikes.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        """∂L/∂s (T, …) → ∂L/∂x (T, …)."""
        (h,) = ctx.saved_tensors
        leak, threshold, alpha = ctx.constants
        grad = h.sub(threshold).mul_(math.pi / 2 * alpha).square_().add_(1).reciprocal_().mul_(alpha / 2).mul_(grads[0])
        for t in range(len(h) - 2, -1, -1):
            grad[t].addcmul_(grad[t + 1], (h[t] < threshold).to(grad.dtype), value=leak)
        return grad.to(grads[0].dtype), None, None, None


@contextmanager
def fused(network: nn.Module) -> Iterator[None]:
    """Inside, the neurons of `network` that `Fire` can stand in for run through it while they are on a CPU.

    They start every call from rest and leave their membranes alone, so it is for code that resets the
    network before each batch.
    """
    nodes = [module for module in network.modules() if _fusible(module)]
    for node in nodes:
        node.forward = partial(_fire, node)
    try:
        yield
    finally:
        for node in nodes:
            del node.forward


def _fire(node: Any, x: Tensor) -> Tensor:
    if x.is_cuda:
        spikes: Tensor = type(node).forward(node, x)
    else:
        spikes = Fire.apply(  # type: ignore[no-untyped-call]
            x, _leak(node), node.v_threshold, node.surrogate_function.alpha
        )
    return spikes


def _leak(node: Any) -> float:
    return 1.0 if type(node) is neuron.IFNode else 1.0 - 1.0 / node.tau


def _fusible(node: Any) -> bool:
    """What `Kit` makes, exactly: any other neuron keeps its own way."""
    if type(node) is neuron.LIFNode:
        if node.decay_input or node.tau != 2.0:  # another leak rounds differently
            return False
    elif type(node) is not neuron.IFNode:
        return False
    function = node.surrogate_function
    usual = type(function) is surrogate.ATan and function.spiking and node.detach_reset
    return bool(usual and node.v_reset == 0.0 and node.step_mode == "m" and not node.store_v_seq)
