"""Comparisons, logic, and functions of what is 0 or 1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from exporters.from_torch.arithmetic import Operand, as_value, mul, put
from exporters.from_torch.dynamics import fired
from exporters.from_torch.factors import as_tensor, plain
from exporters.from_torch.lowering import Lowering
from exporters.from_torch.values import Affine, Gather, added, scaled

ONE = Affine((), (), 1.0)


def of_spikes(a: Affine, function: Callable[[Tensor], Tensor]) -> Affine | None:
    """A function of what takes two values in each place is a line through these two; None for other values."""
    if len(a.gathers) != 1 or not a.gathers[0].origin.is_binary:
        return None
    gather = a.gathers[0]
    low = as_tensor(a.shift)
    at_low, at_high = (function(t).to(torch.float64) for t in (low, low + as_tensor(gather.scale)))
    spikes = Affine(a.shape, (Gather(gather.origin, gather.index, 1.0, gather.label, gather.flat),))
    rise, base = plain(at_high - at_low), plain(at_low)
    return added(scaled(spikes, rise), Affine(tuple(at_low.shape), (), base))


def negated(a: Operand) -> Affine:
    """1 − a."""
    return added(ONE, scaled(as_value(a), -1.0))


def _comparison(name: str) -> Callable[..., Affine]:
    compare = getattr(torch, name)

    def handler(lowering: Lowering, shadow: Tensor, a: Operand, b: Operand) -> Affine:
        difference = added(as_value(a), scaled(as_value(b), -1.0))
        known = of_spikes(difference, lambda t: compare(t, 0.0))
        if known is not None:
            return known
        match name:
            case "ge" | "gt":
                return fired(lowering, difference, strict=name == "gt")
            case "le" | "lt":
                return negated(fired(lowering, difference, strict=name == "le"))
        raise lowering.unknown(name)

    return handler


def _function(name: str) -> Callable[..., Affine]:
    function = getattr(torch.ops.aten, name)

    def handler(lowering: Lowering, shadow: Tensor, a: Operand, *args: Any, **kwargs: Any) -> Affine:
        if isinstance(a, Affine) and not any(isinstance(x, Affine) for x in (*args, *kwargs.values())):
            known = of_spikes(a, lambda t: function(t, *args, **kwargs))
            if known is not None:
                return known
        raise lowering.unknown(name)

    return handler


def _heaviside(lowering: Lowering, shadow: Any, a: Affine, at_zero: Any) -> Affine:
    levels = [] if isinstance(at_zero, Affine) else np.unique(torch.as_tensor(at_zero).numpy()).tolist()
    if levels not in ([0.0], [1.0]):
        raise lowering.unknown("heaviside")
    return fired(lowering, a, strict=levels == [0.0])


def _truth(lowering: Lowering, name: str, x: Operand) -> Operand:
    """Whether each element is not 0, for values that hold spikes."""
    if not isinstance(x, Affine):
        return (torch.as_tensor(x) != 0).double()
    found = of_spikes(x, lambda t: t != 0)
    if found is None:
        raise lowering.unknown(name)
    return found


def _and(lowering: Lowering, shadow: Any, a: Operand, b: Operand) -> Affine:
    return mul(lowering, shadow, _truth(lowering, "minimum", a), _truth(lowering, "minimum", b))


def _or(lowering: Lowering, shadow: Any, a: Operand, b: Operand) -> Affine:
    a, b = _truth(lowering, "maximum", a), _truth(lowering, "maximum", b)
    return negated(mul(lowering, shadow, negated(a), negated(b)))


def _not(lowering: Lowering, shadow: Any, a: Operand) -> Affine:
    return negated(_truth(lowering, "logical_not", a))


def _extreme(name: str, combine: Callable[..., Affine]) -> Callable[..., Affine]:
    """The smaller or larger of two spikes, 0 or 1, is their AND or OR."""

    def handler(lowering: Lowering, shadow: Any, a: Operand, b: Operand) -> Affine:
        for x in (a, b):
            levels: list[Tensor] = []
            if isinstance(x, Affine) and of_spikes(x, lambda t, levels=levels: levels.append(t) or t) is None:  # type: ignore[misc]
                raise lowering.unknown(name)
            if not isinstance(x, Affine):
                levels = [torch.as_tensor(x)]
            if any(bool(((t != 0) & (t != 1)).any()) for t in levels):
                raise lowering.unknown(name)
        return combine(lowering, shadow, a, b)

    return handler


def _where(lowering: Lowering, shadow: Any, condition: Operand, a: Operand, b: Operand) -> Affine:
    """condition·a + (1 − condition)·b."""
    if isinstance(condition, Tensor):
        condition = condition.double()
        return added(mul(lowering, shadow, a, condition), mul(lowering, shadow, b, 1 - condition))
    return added(mul(lowering, shadow, a, condition), mul(lowering, shadow, b, negated(condition)))


def _masked_fill(lowering: Lowering, shadow: Any, a: Operand, mask: Operand, value: Any) -> Affine:
    return _where(lowering, shadow, mask, value, a)


def _put(
    lowering: Lowering, shadow: Any, a: Operand, indices: Sequence[Any], values: Any, accumulate: bool = False
) -> Affine:
    if (
        len(indices) == 1
        and isinstance(indices[0], Affine)
        and not accumulate
        and indices[0].shape == as_value(a).shape
    ):
        return _where(lowering, shadow, indices[0], values, a)  # v[spikes] = 0
    return put(lowering, shadow, a, indices, values, accumulate)


FUNCTIONS = [
    "relu", "clamp", "clamp_min", "clamp_max", "abs", "sign", "sgn", "square", "pow", "sqrt", "exp", "sigmoid",
    "tanh", "round", "floor", "ceil", "threshold", "hardtanh", "leaky_relu", "log1p", "erf",
]  # fmt: skip

HANDLERS: dict[str, Callable[..., Any]] = {
    **{name: _comparison(name) for name in ("ge", "gt", "le", "lt", "eq", "ne")},
    **{name: _function(name) for name in FUNCTIONS},
    "heaviside": _heaviside,
    **dict.fromkeys(("logical_and", "bitwise_and", "__and__"), _and),
    **dict.fromkeys(("logical_or", "bitwise_or", "__or__"), _or),
    "minimum": _extreme("minimum", _and),
    "maximum": _extreme("maximum", _or),
    **dict.fromkeys(("logical_not", "bitwise_not"), _not),
    "where": _where,
    "masked_fill": _masked_fill,
    "index_put": _put,
}
"""Operation → what it does to values."""
