"""Functions that no graph has, of which the network in the end uses nothing.

Surrogate gradients are often written straight through: f(v) + (spike − f(v)).detach(), which is the spike, whatever f
is. So a function without a spiking form is refused only where something reads it; until then it is elements of an
origin of its own, which sums and constant factors may cancel. The same function of the same value is the same elements.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from torch import Tensor

from exporters.from_torch.factors import Factor
from exporters.from_torch.lowering import Lowering
from exporters.from_torch.refusals import LoweringError
from exporters.from_torch.values import Affine, Origin, fresh

WITHOUT_FORM = frozenset(
    [
        "relu", "clamp", "clamp_min", "clamp_max", "abs", "sign", "sgn", "square", "pow", "sqrt", "exp", "sigmoid", "tanh",
        "round", "floor", "ceil", "threshold", "hardtanh", "leaky_relu", "log1p", "erf", "atan", "reciprocal", "log", "sin", "cos",
        "minimum", "maximum", "mul", "div", "where", "masked_fill",
    ]
)  # fmt: skip
"""Operations whose refusal waits until their result is read."""

PASSED_ON = WITHOUT_FORM | {"add", "sub", "rsub", "neg", "cat", "stack", "copy_", "_to_copy"}
"""Operations that may have such a result among their operands, beside those that only move elements."""


def unknown_of(values: Sequence[Affine]) -> LoweringError | None:
    """Why values cannot be read, where they hold the result of a function that no graph has."""
    return next((g.origin.unknown for v in values for g in v.gathers if g.origin.unknown is not None), None)


def unknown_value(
    lowering: Lowering, name: str, args: Sequence[Any], shape: Sequence[int], why: LoweringError
) -> Affine:
    """The result of a function that no graph has, by the name of its operation and what it is of.

    Its shape is as given; `why` is raised by what reads it.
    """
    why = why.with_traceback(None)  # its frames would keep everything
    key = (name, tuple(shape), *(_told(a) for a in args))
    if key not in lowering.unknowns:
        origin = Origin(name, tuple(shape), 1, 1, unknown=why)
        lowering.unknowns[key] = origin, tuple(args)  # kept, so that no other numbers take their place in memory
    return fresh(lowering.unknowns[key][0], 0, shape)


def _told(a: Any) -> Hashable:
    """What tells an operand from others."""
    if isinstance(a, Affine):
        return (a.shape, *((id(g.origin), _place(g.index), _factor(g.scale)) for g in a.gathers), _factor(a.shift))
    if isinstance(a, Tensor):
        return _factor(a)
    return a if isinstance(a, Hashable) else repr(a)


def _factor(factor: Factor) -> Hashable:
    return (tuple(factor.shape), factor.numpy().tobytes()) if isinstance(factor, Tensor) else factor


def _place(index: Tensor) -> Hashable:
    return (index.data_ptr(), tuple(index.shape), index.stride())
