"""Neurons in whole numbers, as the registers of a chip hold them, to train with.

With S integer units per real unit, a step of the integer graph (`exporters.graph`, `hardware.emulator.membranes`) is

    A ← A·leak, cut off toward zero in units of 1/64;  A ← A + rint(S x);  spike = (A > V - 1);
    where it spikes, A ← A - V (reset by subtraction) or A ← 0.

So the level at which a neuron fires and what a spike takes away are two numbers, which `v_threshold` of SpikingJelly's
neurons cannot be at once: for whole A the level may lie anywhere above V - 1 and up to V, and for the fractions of a
leak it must be the lowest of these. Whole numbers up to 2^17 with six fractional bits are exact in float32, so that no
rounding of a membrane adds up over time.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from spikingjelly.activation_based import neuron, surrogate
from torch import Tensor

from exporters.graph.nodes import Reset
from exporters.graph.registers import FRACTION, MEMBRANE_REGISTER
from kdsnn.models.rounding import Rounded

MEMBRANE_MAX = MEMBRANE_REGISTER / FRACTION
BELOW = 1 - 1 / (2 * FRACTION)
"""How far below V the level lies: between V - 1, where nothing fires, and the next register above."""


class RegisterNode(neuron.BaseNode):  # type: ignore[misc]
    """These neurons take real currents (T, N, *) and give their spikes, with the membrane in integer units.

    Gradients pass as if nothing were rounded, and through the ATan surrogate in real units; a reset has none, as of the
    neurons that `Kit` makes.

    Args:
        leak: the share of the membrane that stays from step to step, a multiple of 1/4096; 1 for IF neurons.
        reset: "soft" takes V from the membrane, "hard" sets it to 0.

    Attributes:
        scale, threshold, start: S, V, and the membrane before the first step; `hold` sets them before a run.
    """

    v: Any  # a number before the first step of all

    def __init__(self, leak: float, reset: Reset) -> None:
        soft = reset == "soft"
        super().__init__(1.0, None if soft else 0.0, surrogate.ATan(), detach_reset=True, step_mode="m")
        self.leak = leak
        self.hold(1.0, 1, 0)

    def hold(self, scale: float, threshold: int, start: int) -> None:
        """Set what the registers are given."""
        self.scale, self.threshold, self.start = scale, threshold, start

    def multi_step_forward(self, x_seq: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Fire over all steps of the currents (T, N, *)."""
        currents = Rounded.apply(x_seq.float() * self.scale, 1.0, math.inf)  # type: ignore[no-untyped-call]
        v = self.v if isinstance(self.v, Tensor) else torch.full_like(currents[0], self.start)
        spikes = []
        for current in currents:
            if self.leak < 1:
                v = Decayed.apply(v, self.leak)  # type: ignore[no-untyped-call]
            v = (v + current).clamp(-MEMBRANE_MAX, MEMBRANE_MAX)
            spike = self.surrogate_function((v - (self.threshold - BELOW)) / self.scale)
            fired = spike.detach()
            v = v - fired * self.threshold if self.v_reset is None else v * (1 - fired)
            spikes.append(spike)
        self.v = v
        return torch.stack(spikes).to(x_seq.dtype)


class Decayed(torch.autograd.Function):
    """A decay is v → v·leak cut off toward zero in units of 1/64, with the gradient of not cutting off."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, leak: float) -> Tensor:
        """`v` in integer units, any shape."""
        ctx.leak = leak
        # 24 bits times 12 are exact in float64 only
        return (v.double() * (FRACTION * leak)).trunc_().div_(FRACTION).to(v.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Pass ∂L/∂(v·leak) on."""
        return grads[0] * ctx.leak, None
