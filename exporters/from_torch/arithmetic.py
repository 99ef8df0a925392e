"""Sums, constant factors, and the layouts that torch does not do to indices by itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from exporters.from_torch.factors import Factor
from exporters.from_torch.lowering import Lowering
from exporters.from_torch.pools import pool
from exporters.from_torch.products import product
from exporters.from_torch.symbolic import overwritten
from exporters.from_torch.values import (
    Affine,
    added,
    concatenated,
    constant,
    expanded,
    laid_out,
    padded,
    scaled,
    summed,
)
from exporters.graph import AvgPool2d

Operand = Affine | Tensor | float | int
"""A value, or what does not depend on the input."""


def as_value(x: Operand) -> Affine:
    """Any operand as a value."""
    if isinstance(x, Affine):
        return x
    return constant(x) if isinstance(x, Tensor) else Affine((), (), float(x))


def as_factor(x: Tensor | float) -> Factor:
    """A constant operand as a factor."""
    if isinstance(x, Tensor) and x.ndim:
        return x.detach().to("cpu", torch.float64)
    return float(x)


def add(lowering: Lowering, shadow: Any, a: Operand, b: Operand, *, alpha: float = 1) -> Affine:
    """a + alpha·b."""
    return added(as_value(a), scaled(as_value(b), float(alpha)), f"{lowering.where}.add")


def sub(lowering: Lowering, shadow: Any, a: Operand, b: Operand, *, alpha: float = 1) -> Affine:
    """a − alpha·b."""
    return add(lowering, shadow, a, b, alpha=-alpha)


def _rsub(lowering: Lowering, shadow: Any, a: Operand, b: Operand, alpha: float = 1) -> Affine:
    return add(lowering, shadow, b, a, alpha=-alpha)


def _neg(lowering: Lowering, shadow: Any, a: Affine) -> Affine:
    return scaled(a, -1.0)


def mul(lowering: Lowering, shadow: Any, a: Operand, b: Operand) -> Affine:
    """a·b: of constants, or of the two that `product` knows."""
    if isinstance(a, Affine) and isinstance(b, Affine):
        return product(lowering, a, b)
    if isinstance(a, Affine):
        assert not isinstance(b, Affine)
        return scaled(a, as_factor(b))
    if isinstance(b, Affine):
        return scaled(b, as_factor(a))
    return constant(torch.as_tensor(a) * torch.as_tensor(b))


def _div(lowering: Lowering, shadow: Any, a: Operand, b: Operand, *, rounding_mode: str | None = None) -> Affine:
    if isinstance(b, Affine) or rounding_mode is not None:
        raise lowering.unknown("div")
    return scaled(as_value(a), 1 / as_factor(b))


def _addcmul(lowering: Lowering, shadow: Any, a: Operand, b: Operand, c: Operand, *, value: float = 1) -> Affine:
    return add(lowering, shadow, a, mul(lowering, shadow, b, c), alpha=value)


def _lerp(lowering: Lowering, shadow: Any, a: Operand, b: Operand, weight: Operand) -> Affine:
    return add(lowering, shadow, a, mul(lowering, shadow, sub(lowering, shadow, b, a), weight))


def _sum(lowering: Lowering, shadow: Any, a: Affine, dim: Any = None, keepdim: bool = False, **_: Any) -> Affine:
    return _reduced(lowering, a, dim, keepdim=keepdim, divide=False)


def _mean(lowering: Lowering, shadow: Any, a: Affine, dim: Any = None, keepdim: bool = False, **_: Any) -> Affine:
    return _reduced(lowering, a, dim, keepdim=keepdim, divide=True)


def _reduced(lowering: Lowering, a: Affine, dim: Any, *, keepdim: bool, divide: bool) -> Affine:
    dims = [dim] if isinstance(dim, int) else list(dim or range(len(a.shape)))
    dims = sorted({d % len(a.shape) for d in dims})
    count = math.prod(a.shape[d] for d in dims)
    if len(a.shape) >= 4 and dims == [len(a.shape) - 2, len(a.shape) - 1] and count > 1:
        return _over_pixels(lowering, a, count if divide else 1, keepdim=keepdim)
    try:
        total = summed(a, dims, keepdim=keepdim)
    except OverflowError as error:
        if len(dims) == len(a.shape):
            raise lowering.error(
                "its forward makes one number of all that it computes, as a decision would need it; a graph is the same for "
                "every input"
            ) from error
        raise lowering.error(f"{error}, more than a sum of signals can hold; use a pool or a linear layer") from error
    return scaled(total, 1 / count) if divide else total


def _over_pixels(lowering: Lowering, a: Affine, divisor: int, *, keepdim: bool) -> Affine:
    """The sum or mean over whole maps (…, C, H, W), as a pool of their size."""
    *rows, c, h, w = a.shape
    maps = laid_out(a, lambda t: t.reshape(-1, c, h, w))
    pooled = pool(lowering, maps, AvgPool2d((h, w), (h, w), (0, 0), divisor), (c, 1, 1))
    shape = (*rows, c, 1, 1) if keepdim else (*rows, c)
    return laid_out(pooled, lambda t: t.reshape(shape))


def _cat(lowering: Lowering, shadow: Any, tensors: Sequence[Operand], dim: int = 0) -> Affine:
    values = [as_value(t) for t in tensors]
    return concatenated([v for v in values if v.shape != (0,)], dim)


def _stack(lowering: Lowering, shadow: Any, tensors: Sequence[Operand], dim: int = 0) -> Affine:
    return concatenated([laid_out(as_value(t), lambda t: t.unsqueeze(dim)) for t in tensors], dim)


def _pad(lowering: Lowering, shadow: Any, a: Affine, pad: Sequence[int], value: float = 0) -> Affine:
    return padded(a, pad, float(value))


def _filled(fill: float) -> Callable[..., Affine]:
    def made(lowering: Lowering, shadow: Tensor, *args: Any, **_: Any) -> Affine:
        return Affine(tuple(shadow.shape), (), fill)

    return made


def _full(lowering: Lowering, shadow: Tensor, *args: Any, **_: Any) -> Affine:
    return Affine(tuple(shadow.shape), (), float(args[-1]))


def _fill(lowering: Lowering, shadow: Tensor, a: Operand, value: Operand) -> Affine:
    return expanded(as_value(value), tuple(shadow.shape))


def put(
    lowering: Lowering, shadow: Any, a: Operand, indices: Sequence[Any], values: Operand, accumulate: bool = False
) -> Affine:
    """The value with others in places that are known."""
    old = as_value(a)
    if accumulate or any(isinstance(i, Affine) for i in indices):
        raise lowering.error("it writes to places that it computes, which no layer does; use slices")
    numbers = torch.arange(math.prod(old.shape)).view(old.shape)
    places = torch.ops.aten.index(numbers, list(indices))
    return overwritten(old, places, expanded(as_value(values), tuple(places.shape)))


HANDLERS: dict[str, Callable[..., Any]] = {
    "add": add,
    "sub": sub,
    "rsub": _rsub,
    "neg": _neg,
    "mul": mul,
    "div": _div,
    "addcmul": _addcmul,
    "lerp": _lerp,
    "sum": _sum,
    "mean": _mean,
    "cat": _cat,
    "stack": _stack,
    "constant_pad_nd": _pad,
    **{name: _filled(0.0) for name in ("zeros_like", "new_zeros", "empty_like", "new_empty")},
    **{name: _filled(1.0) for name in ("ones_like", "new_ones")},
    "full_like": _full,
    "fill": _fill,
    "new_full": _full,
}
"""Operation → what it does to values."""
