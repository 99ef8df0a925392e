"""Neurons take in the currents that reach them, over all time steps, with Lava's registers where the graph is integer.

The registers are those of `PyLifModelBitAcc` (lava-nc 0.10): six fractional bits, currents that wrap at 24 bits, membranes
that saturate at 23. Tensors here hold them in units of the integer weights, except where `FRACTION` turns them into registers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from exporters.graph import Neuron
from exporters.graph.registers import CURRENT_REGISTER, DECAY_ONE, FRACTION, MEMBRANE_REGISTER

MEMBRANE_MAX = MEMBRANE_REGISTER / FRACTION
"""Lava's membrane register saturates here, in units of the integer weights (23 bits, 6 fractional)."""


def fire(node: Neuron, x: Tensor, v: Tensor, T: int, *, integer: bool, saturates: bool, dtype: torch.dtype) -> Tensor:
    """Neurons integrate and fire over the time axis of x, (T or 1, N, *shape) to spikes (T, N, *shape) of type
    `dtype`; their membranes v (N, *shape) are those before the first step, and become those after the last."""
    spikes = _empty_steps(x, T, dtype)
    compare, threshold = torch.gt if integer else torch.ge, level(node, integer=integer)
    # a comparison cannot write bytes into what the membrane is then multiplied with
    room = None if spikes.dtype == v.dtype else torch.empty_like(v)
    for t in range(T):
        if node.leak < 1:
            _leak(v, node.leak, integer=integer)
        v += x[t if len(x) > 1 else 0]
        if saturates:
            v.clamp_(-MEMBRANE_MAX, MEMBRANE_MAX)
        fired = spikes[t] if room is None else room
        compare(v, threshold, out=fired)
        if room is not None:
            spikes[t].copy_(fired)
        if node.reset == "hard":
            v.addcmul_(v, fired, value=-1)  # v − v·spike: several times faster than a masked fill, and as exact
        else:
            v.sub_(fired, alpha=node.threshold)
    return spikes.view(torch.uint8) if spikes.dtype == torch.int8 else spikes


def level(node: Neuron, *, integer: bool) -> float:
    """Membranes that reach this fire; of an integer graph, those above it.

    Lava compares registers, v > (V − 1)·64: for whole numbers that is v ≥ V, and a membrane that saturates or leaks to a fraction
    between V − 1 and V fires too.
    """
    return node.threshold - 1 if integer else node.threshold


def integrate(x: Tensor, T: int, *, leak: float, integer: bool) -> Tensor:
    """Neurons that never fire have this membrane after each step: (T, N, F)."""
    v = torch.zeros_like(x[0])
    steps = []
    for t in range(T):
        if leak < 1:
            _leak(v, leak, integer=integer)
        v += x[t if len(x) > 1 else 0]
        if integer:
            v.clamp_(-MEMBRANE_MAX, MEMBRANE_MAX)
        steps.append(v.clone())
    return torch.stack(steps)


def current_at_rest(x: Tensor, *, integer: bool) -> Tensor:
    """A current that persists starts at 0, (N, *shape): Lava's register where the graph is integer."""
    return torch.zeros_like(x[0], dtype=torch.float64 if integer else x.dtype)


def persist(x: Tensor, u: Tensor, leak: float, T: int, *, integer: bool) -> Tensor:
    """Currents stay from step to step: u ← leak·u + x over the time axis of x, (T or 1, N, *shape) to (T, N,
    *shape); u (N, *shape) is that before the first step, and becomes that after the last."""
    steps = []
    for t in range(T):
        step = x[t if len(x) > 1 else 0]
        # the register's sum is an int32 of Lava's before it is turned around
        u.copy_(_turned(_int32(_decayed(u, leak) + step.double() * FRACTION)) if integer else u * leak + step)
        steps.append(u.clone())
    return torch.stack(steps) / FRACTION if integer else torch.stack(steps)


def wrap_sum(x: Tensor, bits: int) -> Tensor:
    """The register of a synapse layer's sum wraps modulo 2^bits; float64."""
    half = 2 ** (bits - 1)
    wrapped: Tensor = torch.remainder(x.double() + half, 2 * half) - half
    return wrapped


def wrap_current(x: Tensor) -> Tensor:
    """The register of a current that does not persist turns around once."""
    return _turned(x * FRACTION) / FRACTION


def _turned(u: Tensor) -> Tensor:
    """The current register of `PyLifModelBitAcc` has 24 bits and turns around once, not modulo."""
    u = torch.where(u > CURRENT_REGISTER, u - 2 * CURRENT_REGISTER, u)
    return torch.where(u <= -CURRENT_REGISTER, u + 2 * CURRENT_REGISTER, u)


def _int32(x: Tensor) -> Tensor:
    return torch.remainder(x + 2**31, 2**32) - 2**31


def _decayed(register: Tensor, leak: float) -> Tensor:
    """A float64 register decays by Loihi's 12 bits: |r|·(4096 − decay) >> 12, the sign kept."""
    return (register * register_factor(leak)).trunc_()  # 24 bits times 12: nothing rounds but at the end


def register_factor(leak: float) -> float:
    """Registers leak by this: whole 4096ths."""
    return round(leak * DECAY_ONE) / DECAY_ONE


def _leak(v: Tensor, leak: float, *, integer: bool) -> None:
    if integer and math.frexp(leak)[0] == 0.5:  # a power of two, as of τ = 2: exact in any float, in place
        v.mul_(FRACTION * leak).trunc_().div_(FRACTION)
    elif integer:
        v.copy_(_decayed(v.double() * FRACTION, leak).div_(FRACTION))
    else:
        v.mul_(leak)


def _empty_steps(x: Tensor, T: int, dtype: torch.dtype) -> Tensor:
    """Spikes (T, N, *shape) get room, each step laid out in memory as those of x."""
    nhwc = x.ndim == 5 and x[0].is_contiguous(memory_format=torch.channels_last)
    # as int8: torch turns floats into uint8 several times slower
    room = torch.empty(
        (T * x.shape[1], *x.shape[2:]),
        dtype=torch.int8 if dtype == torch.uint8 else dtype,
        device=x.device,
        memory_format=torch.channels_last if nhwc else torch.contiguous_format,
    )
    return room.view(T, *x.shape[1:])
