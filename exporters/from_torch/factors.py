"""Numbers that stand for many: one for all elements of a value, or a tensor that broadcasts to its shape."""

from __future__ import annotations

import torch
from torch import Tensor

Factor = float | Tensor
"""A number, or a float64 tensor that broadcasts to the value's shape and has as many axes."""


def aligned(factor: Tensor, ndim: int) -> Tensor:
    """The factor with axes of size 1 put before its own."""
    return factor.reshape((1,) * (ndim - factor.ndim) + tuple(factor.shape))


def compact(factor: Tensor) -> Tensor:
    """The factor without the repetitions along axes that it is expanded over."""
    for dim, (size, stride) in enumerate(zip(factor.shape, factor.stride(), strict=True)):
        if stride == 0 and size > 1:
            factor = factor.narrow(dim, 0, 1)
    return factor


def plain(factor: Factor) -> Factor:
    """A number where the factor is one, repeated."""
    if isinstance(factor, float):
        return factor
    if factor.numel() == 0:
        return 0.0
    first = factor[(0,) * factor.ndim]
    return float(first) if bool((factor == first).all()) else compact(factor)


def times(a: Factor, b: Factor, ndim: int) -> Factor:
    """The product, for values of so many axes."""
    return _both(a, ndim) * _both(b, ndim)


def plus(a: Factor, b: Factor, ndim: int) -> Factor:
    """The sum, for values of so many axes."""
    return _both(a, ndim) + _both(b, ndim)


def minus(a: Factor, b: Factor, ndim: int) -> Factor:
    """The difference, for values of so many axes."""
    return _both(a, ndim) - _both(b, ndim)


def _both(factor: Factor, ndim: int) -> Factor:
    return aligned(factor, ndim) if isinstance(factor, Tensor) else factor


def as_tensor(factor: Factor) -> Tensor:
    """The factor as float64."""
    return torch.as_tensor(factor, dtype=torch.float64)
