"""Layers that run through the compiled kernels: tensors in, tensors out, gradients as autograd wants them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from exporters.compiled import spread
from kdsnn.train.fast_neurons.dynamics import Dynamics

SMALLEST = 2**20
"""Values in a layer, over all steps, from which on the kernels pay: below, torch's own operations take a millisecond
or two, and a run of nothing but small layers should not wait seconds for a compiler."""

BLOCKS = 32
"""Sums are made by this many blocks and then of these, so that no result depends on the number of threads."""

LONGEST_ROW = 512
"""Values of several pixels side by side fill a row up to this length: a loop over few channels would be all
beginning and end."""

_NUMBERS = {torch.float32: "float32", torch.float64: "float64", torch.bfloat16: "bfloat16"}


@cache
def kernels() -> ModuleType | None:
    """Import the kernels; None where numba is missing, or does not work with what else is installed."""
    try:
        from kdsnn.train.fast_neurons import kernels as found
    except Exception:  # numba raises ImportError, and others, for a numpy or a processor that it does not know
        return None
    return found


def usable(x: Tensor) -> bool:
    """Say whether the kernels take these currents (T, …), and pay."""
    if x.device.type != "cpu" or x.dtype not in _NUMBERS or x.numel() < SMALLEST or torch.compiler.is_compiling():
        return False
    return kernels() is not None


def channels_innermost(x: Tensor) -> bool:
    """Say whether maps (T, N, C, H, W) lie in memory pixel by pixel, all channels of one side by side."""
    return x.dim() == 5 and x.permute(_INNERMOST).is_contiguous()


_INNERMOST, _BACK = (0, 1, 3, 4, 2), (0, 1, 4, 2, 3)


@dataclass(frozen=True, eq=False)
class BatchMoments:
    """A batch's BatchNorm says y = γ (x - mean) · inverse + β; both float64 (C,), inverse = 1/√(variance + ε)."""

    mean: np.ndarray
    inverse: np.ndarray


@dataclass(frozen=True, eq=False)
class Plan:
    """A plan says what a layer does with its currents, which are (T, …), or (1, …) where all of T steps see the same.

    Attributes:
        dynamics: the neurons.
        steps: T.
        batch: BatchNorm before them, over the batch.
        pooled: a 2×2 maximum of stride 2 behind them.
        kept: the membrane after the last step is wanted too.
    """

    dynamics: Dynamics
    steps: int
    batch: BatchMoments | None = None
    pooled: bool = False
    kept: bool = False

    def kind(self, dtype: torch.dtype) -> Any:
        """Name the kernels for such currents."""
        d, number = self.dynamics, _NUMBERS[dtype]
        found: Any = kernels()
        return found.Kind(number, d.charge, d.slope, d.soft, d.detached, self.pooled, self.batch is not None)


class Layer(torch.autograd.Function):
    """A layer is BatchNorm over the batch (or none), neurons over all time steps from rest, and a maximum (or none).

    Currents (T, …) or (1, …) → spikes (T, …) of the same type and layout, and the membrane v[T-1] (…) or None.
    Gradients go to currents, γ and β.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor | None, beta: Tensor | None, plan: Plan) -> Any:
        """Run on `x` by `plan`; γ and β (C,), None for 1 and 0."""
        ctx.save_for_backward(x, gamma, beta)
        ctx.plan = plan
        ctx.set_materialize_grads(False)
        rows = _Rows.of(x, plan)
        shape = list(rows.memory.shape)
        shape[0] = plan.steps
        if plan.pooled:
            shape[2:4] = shape[2] // 2, shape[3] // 2
        spikes = torch.empty(shape, dtype=x.dtype)
        v = torch.empty(shape[1:] if plan.kept else 0, dtype=x.dtype)
        out = rows.array(spikes, plan.steps)
        left = rows.array(v, 1)[0] if plan.kept else _none(out)
        kernel = kernels().forward(plan.kind(x.dtype))  # type: ignore[union-attr]
        spread(kernel, BLOCKS, torch.get_num_threads(), BLOCKS, rows.array(rows.memory, len(x)), *_affine(rows, gamma, beta, plan),
               *rows.constants(plan), *rows.size, out, left)  # fmt: skip
        return rows.restored(spikes), rows.restored(v[None])[0] if plan.kept else None

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """Make the gradients of `forward`'s arguments."""
        plan: Plan = ctx.plan
        x, gamma, beta = ctx.saved_tensors
        rows = _Rows.of(x, plan)
        of_spikes, of_membrane = grads
        if of_spikes is None:
            size = (x.shape[-2] // 2, x.shape[-1] // 2) if plan.pooled else x.shape[3:]
            of_spikes = x.new_zeros(plan.steps, *x.shape[1:3], *size)
        given = rows.array(rows.ordered(of_spikes.to(x.dtype)), plan.steps)
        carried = _none(given) if of_membrane is None else rows.array(rows.ordered(of_membrane[None].to(x.dtype)), 1)[0]
        # a maximum leaves an odd last row or column out: no gradient comes from there
        left_out = plan.pooled and (x.shape[-2] % 2 or x.shape[-1] % 2)
        dx = (torch.zeros_like if left_out else torch.empty_like)(rows.memory)
        currents, target = rows.array(rows.memory, len(x)), rows.array(dx, len(x))
        found = np.empty((BLOCKS, 2, rows.length))
        real = rows.real
        mean, inverse = (
            (np.zeros(1, real), np.ones(1, real))
            if plan.batch is None
            else (rows.tiled(plan.batch.mean), rows.tiled(plan.batch.inverse))
        )
        kernel = kernels().backward(plan.kind(x.dtype))  # type: ignore[union-attr]
        spread(kernel, BLOCKS, torch.get_num_threads(), currents, *_affine(rows, gamma, beta, plan), *rows.constants(plan),
               real(plan.dynamics.alpha), *rows.size, given, carried, mean, inverse, target, found)  # fmt: skip
        if plan.batch is None:
            return rows.restored(dx), None, None, None
        of_beta, of_gamma = rows.folded(found)
        _normalize(rows, currents, target, plan.batch, gamma, of_beta, of_gamma)
        dtype = x.dtype if gamma is None else gamma.dtype
        both = (torch.from_numpy(of_gamma).to(dtype), torch.from_numpy(of_beta).to(dtype))
        return rows.restored(dx), *(both if gamma is not None else (None, None)), None


def statistics(x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Compute mean and (biased) variance of maps (T, N, C, H, W) with channels innermost, float64 (C,)."""
    rows = _Rows.along_channels(x)
    values = rows.array(rows.memory, 1)[0]
    found = np.empty((BLOCKS, 2, rows.length))
    spread(kernels().sums(_NUMBERS[x.dtype]), BLOCKS, torch.get_num_threads(), values, found)  # type: ignore[union-attr]
    shift = rows.memory.flatten()[: rows.length].double().numpy()
    total, squares = found.sum(0)
    means = (shift + total / len(values)).reshape(-1, rows.channels)
    variances = (squares - total * total / len(values)).reshape(-1, rows.channels) / len(values)
    return means.mean(0), (variances + np.square(means - means.mean(0))).mean(0).clip(0)


@dataclass(frozen=True, eq=False)
class _Rows:
    """Currents as the kernels see them: `memory` is the tensor in the order of its memory, `length` a row's length.

    `channels` is how many values of γ and β there are, 1 without BatchNorm; `size` is (H, W) for a maximum.
    """

    memory: Tensor
    innermost: bool
    length: int
    channels: int
    size: tuple[int, int]

    @classmethod
    def of(cls, x: Tensor, plan: Plan) -> _Rows:
        if plan.batch is not None and not plan.pooled:
            return cls.along_channels(x)
        innermost = plan.pooled or channels_innermost(x[:1])
        memory = (x.permute(_INNERMOST) if innermost else x).contiguous()
        if plan.pooled:
            channels = x.shape[2]
            return cls(memory, True, channels, channels if plan.batch else 1, (x.shape[3], x.shape[4]))
        return cls(memory, innermost, _longest(x[0].numel(), 1), 1, (1, 1))

    @classmethod
    def along_channels(cls, x: Tensor) -> _Rows:
        channels = x.shape[2]
        memory = x.permute(_INNERMOST).contiguous()
        return cls(memory, True, _longest(x[0].numel() // channels, channels), channels, (1, 1))

    @property
    def real(self) -> Any:
        return np.float64 if self.memory.dtype == torch.float64 else np.float32

    def ordered(self, x: Tensor) -> Tensor:
        return (x.permute(_INNERMOST) if self.innermost else x).contiguous()

    def restored(self, memory: Tensor) -> Tensor:
        return memory.permute(_BACK) if self.innermost else memory

    def array(self, memory: Tensor, steps: int) -> np.ndarray:
        """View (steps, …) in the order of its memory as rows (steps, M, L)."""
        flat = memory.detach().reshape(steps, -1, self.length)
        if flat.dtype == torch.bfloat16:
            return flat.view(torch.int16).numpy().view(np.uint16)
        found: np.ndarray = flat.numpy()
        return found

    def tiled(self, values: np.ndarray) -> np.ndarray:
        """Repeat values (C,) along a row, in the type that is computed in."""
        return np.tile(values, self.length // self.channels).astype(self.real)

    def folded(self, found: np.ndarray) -> np.ndarray:
        """Sum (blocks, 2, L) over blocks and over a channel's places in a row: (2, C)."""
        summed: np.ndarray = found.sum(0).reshape(2, -1, self.channels).sum(1)
        return summed

    def constants(self, plan: Plan) -> tuple[Any, Any]:
        return self.real(plan.dynamics.threshold), self.real(plan.dynamics.tau)


def _longest(pixels: int, channels: int) -> int:
    """The longest row of whole pixels that divides them all and is no longer than it should be."""
    return channels * next(n for n in range(max(1, LONGEST_ROW // channels), 0, -1) if pixels % n == 0)


def _affine(rows: _Rows, gamma: Tensor | None, beta: Tensor | None, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """Compute y = a x + b, rows (L,)."""
    if plan.batch is None:
        return np.ones(rows.length, rows.real), np.zeros(rows.length, rows.real)
    a = plan.batch.inverse if gamma is None else plan.batch.inverse * gamma.detach().double().numpy()
    b = -plan.batch.mean * a
    return rows.tiled(a), rows.tiled(b if beta is None else b + beta.detach().double().numpy())


def _normalize(
    rows: _Rows, x: np.ndarray, dx: np.ndarray, batch: BatchMoments, gamma: Tensor | None, of_beta: np.ndarray,
    of_gamma: np.ndarray,
) -> None:  # fmt: skip
    """Turn ∂L/∂y in `dx` into ∂L/∂x = γ inverse (∂L/∂y - mean ∂L/∂y - x̂ mean(x̂ ∂L/∂y)), in place."""
    count = x.size // rows.channels
    p = batch.inverse if gamma is None else batch.inverse * gamma.detach().double().numpy()
    q = -p * batch.inverse * of_gamma / count
    r = -p * of_beta / count - q * batch.mean
    number = _NUMBERS[rows.memory.dtype]
    flat = (array.reshape(-1, rows.length) for array in (x, dx))
    spread(kernels().normalized(number), BLOCKS, torch.get_num_threads(), BLOCKS, *flat, *map(rows.tiled, (p, q, r)))  # type: ignore[union-attr]


def _none(like: np.ndarray) -> np.ndarray:
    """No membrane: what a kernel sees where none is wanted."""
    return np.empty((0, like.shape[-1]), like.dtype)
