"""A faster way through SpikingJelly's neurons on a CPU, with the same spikes and the same gradients.

SpikingJelly has fused kernels for CUDA; on a CPU it runs a dozen passes over memory per time step. Here
a layer is two passes per step forward and one backward, writing into tensors allocated once. The modules
stay SpikingJelly's: only their `forward` is exchanged, and only inside `fused`.

A network of this project resets before each batch, calls every layer once and never looks at a membrane. Any other
module may call a layer again or read `v`, so its layers keep their membranes, with gradients, and once a layer has one
it goes on in SpikingJelly's own way.
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

from kdsnn.models import StagedNetwork


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


@contextmanager
def fused(network: nn.Module) -> Iterator[None]:
    """Inside, the neurons of `network` that `Fire` can stand in for run through it while they are on a CPU and at rest.

    Those of this project's networks leave their membranes alone and start every call from rest, so it is for code that
    resets the network before each batch.
    """
    ours = {part for whole in network.modules() if isinstance(whole, StagedNetwork) for part in whole.modules()}
    nodes = [module for module in network.modules() if _fusible(module)]
    for node in nodes:
        node.forward = partial(_fire, node, node not in ours)
    try:
        yield
    finally:
        for node in nodes:
            del node.forward


def _fire(node: Any, kept: bool, x: Tensor) -> Tensor:
    at_rest = isinstance(node.v, float) and node.v == 0.0
    if x.is_cuda or x.dtype == torch.float64 or not at_rest:
        own: Tensor = type(node).forward(node, x)
        return own
    leak, alpha = _leak(node), node.surrogate_function.alpha
    spikes, v = Fire.apply(x, leak, node.v_threshold, alpha, kept)  # type: ignore[no-untyped-call]
    if kept:
        node.v = v
    fired: Tensor = spikes
    return fired


def _leak(node: Any) -> float:
    return 1.0 if type(node) is neuron.IFNode else 1.0 - 1.0 / node.tau


def _fusible(node: Any) -> bool:
    """Say whether a node is exactly what `Kit` makes: any other neuron keeps its own way."""
    if type(node) is neuron.LIFNode:
        if node.decay_input or node.tau != 2.0:  # another leak rounds differently
            return False
    elif type(node) is not neuron.IFNode:
        return False
    if vars(node).keys() & _PATCHED or getattr(node, "_neuron_precision", None) is not None:
        return False
    function = node.surrogate_function
    usual = type(function) is surrogate.ATan and function.spiking and node.detach_reset
    return bool(usual and node.v_reset == 0.0 and node.step_mode == "m" and not node.store_v_seq)


_PATCHED = frozenset(
    ["forward", "multi_step_forward", "multi_step_functional_forward", "single_step_functional_forward"]
)
"""What a user may have exchanged on an instance; it then no longer does what its class says."""
