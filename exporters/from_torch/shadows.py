"""Shadows: tensors without data ("meta") that go through every operation before the values do.

So shapes, types and strides, and the errors of what does not fit, are torch's own. A few operations for which torch does
that in Python, behind an import that takes longer than the lowering of a network, have their rule here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from exporters.from_torch.lowering import Lowering
from exporters.from_torch.symbolic import Symbolic
from exporters.graph import window_positions


def shadow_of(lowering: Lowering, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result of an operation without its data.

    Raises:
        LoweringError: shapes that do not fit a layer or a sum.
    """
    if name in RULES and not kwargs:
        found = RULES[name](lowering, *args)
        if found is not None:
            return found
    keywords = tree_map(_shadow, kwargs)
    if "device" in keywords:
        keywords["device"] = "meta"
    try:
        return func(*tree_map(_shadow, args), **keywords)
    except (RuntimeError, ValueError) as error:
        shapes = [tuple(a.shape[1:]) for a in args[:2] if isinstance(a, Symbolic)]
        if name in ("add", "sub", "mul") and len(shapes) == 2:
            raise lowering.error(
                f"it adds shapes {shapes[0]} and {shapes[1]}; a downsample is missing on one side"
            ) from error
        raise


def _shadow(a: Any) -> Any:
    if isinstance(a, Symbolic):
        return a.shadow
    if isinstance(a, Tensor):
        if a.is_floating_point():
            return torch.empty_strided(a.shape, a.stride(), dtype=a.dtype, device="meta")
        return a if a.ndim == 0 else a.to("meta")
    return a


def _convolution(
    lowering: Lowering, x: Tensor, weight: Tensor, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool,
    output_padding: Any, groups: int,
) -> Tensor | None:  # fmt: skip
    if transposed:
        return None
    if x.shape[1] != weight.shape[1] * groups:
        raise lowering.error(
            f"the weight expects {weight.shape[1] * groups} input channels, but {x.shape[1]} arrive", lowering.name
        )
    windows = (list(v) * (x.ndim - 2) if len(v) == 1 else v for v in (stride, padding, dilation))
    size = [window_positions(*axis) for axis in zip(x.shape[2:], weight.shape[2:], *windows, strict=True)]
    if min(size) < 1:
        kernel, given = ("×".join(map(str, t.shape[2:])) for t in (weight, x))
        raise lowering.error(f"its {kernel} window does not fit into its {given} input", lowering.name)
    return torch.empty(x.shape[0], weight.shape[0], *size, dtype=x.dtype, device="meta")


def _batch_norm(lowering: Lowering, x: Tensor, weight: Any, bias: Any, mean: Any, *rest: Any) -> tuple[Tensor, ...]:
    channels = x.shape[1] if x.ndim > 1 else 0
    if mean is not None and channels != len(mean):
        raise lowering.error(f"it normalizes {len(mean)} channels, but {channels} arrive", lowering.name)
    nothing = torch.empty(0, dtype=x.dtype, device="meta")
    return (torch.empty(x.shape, dtype=x.dtype, device="meta"), nothing, nothing)


def _mm(lowering: Lowering, a: Tensor, b: Tensor) -> Tensor:
    if a.shape[1] != b.shape[0]:
        raise lowering.error(f"the weight expects {b.shape[0]} inputs, but {a.shape[1]} arrive", lowering.name)
    return torch.empty(a.shape[0], b.shape[1], dtype=a.dtype, device="meta")


def _addmm(lowering: Lowering, bias: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return _mm(lowering, a, b)


def _pool(
    lowering: Lowering, x: Tensor, kernel: Any, stride: Any = (), padding: Any = (0,), *rest: Any
) -> Tensor | None:
    """Without dilation and ceil mode."""
    dilation = rest[0] if rest and not isinstance(rest[0], bool) else (1,)
    if set(dilation) != {1} or (rest and rest[-1] is True) or x.ndim != 4:
        return None
    pairs = ((int(v[0]), int(v[-1])) for v in (kernel, stride or kernel, padding))
    size = [window_positions(*axis) for axis in zip(x.shape[2:], *pairs, strict=True)]
    return torch.empty(*x.shape[:2], *size, dtype=x.dtype, device="meta") if min(size) > 0 else None


def _max_pool(lowering: Lowering, x: Tensor, *rest: Any) -> tuple[Tensor, Tensor] | None:
    found = _pool(lowering, x, *rest)
    return None if found is None else (found, torch.empty(found.shape, dtype=torch.int64, device="meta"))


def _elementwise(lowering: Lowering, a: Any, b: Any) -> Tensor | None:
    """Where the second does not change shape or type."""
    if not isinstance(a, Symbolic):
        return None
    if isinstance(b, Tensor):
        fits = b.dtype == a.dtype and b.ndim <= a.ndim
        if not fits or any(m not in (1, n) for n, m in zip(reversed(a.shape), reversed(b.shape), strict=False)):
            return None
        if b.shape == a.shape and b.stride() != a.stride():
            return None
    elif not isinstance(b, float | int):
        return None
    return torch.empty_strided(a.shape, a.stride(), dtype=a.dtype, device="meta") if a.is_floating_point() else None


def _reduced(lowering: Lowering, x: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    dims = [dim] if isinstance(dim, int) else list(dim or range(x.ndim))
    gone = {d % x.ndim for d in dims}
    shape = [1 if d in gone else n for d, n in enumerate(x.shape) if keepdim or d not in gone]
    return torch.empty(shape, dtype=x.dtype, device="meta")


RULES: dict[str, Callable[..., Any]] = {
    "convolution": _convolution,
    "native_batch_norm": _batch_norm,
    "mm": _mm,
    "addmm": _addmm,
    "mean": _reduced,
    "sum": _reduced,
    **dict.fromkeys(("add", "sub", "mul", "div"), _elementwise),
    "avg_pool2d": _pool,
    "max_pool2d_with_indices": _max_pool,
}
"""Operation → the shadow of its result, or None where torch shall tell."""
