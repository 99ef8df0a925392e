"""What each ATen operation does to symbolic values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from exporters.from_torch.dynamics import fired, product
from exporters.from_torch.lowering import Lowering
from exporters.from_torch.symbolic import HANDLERS
from exporters.from_torch.synapses import pool, synapse
from exporters.from_torch.values import (
    Affine,
    Factor,
    Gather,
    added,
    concatenated,
    constant,
    expanded,
    laid_out,
    padded,
    scaled,
    summed,
)
from exporters.graph import AvgPool2d, Conv2d, Linear, MaxPool2d, Pair, Shape

Operand = Affine | Tensor | float | int


def handles(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a function the handler of operations."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            HANDLERS[name] = function
        return function

    return register


def as_value(x: Operand) -> Affine:
    """Any operand as a value."""
    if isinstance(x, Affine):
        return x
    return constant(x) if isinstance(x, Tensor) else Affine((), (), float(x))


def as_factor(x: Tensor | float) -> Factor:
    """A constant operand as a factor."""
    if isinstance(x, Tensor):
        return float(x) if x.ndim == 0 else x.detach().to("cpu", torch.float64)
    return float(x)


# -- sums and constant factors -----------------------------------------------------------------------


@handles("add")
def _add(lowering: Lowering, shadow: Tensor, a: Operand, b: Operand, *, alpha: float = 1) -> Affine:
    return added(as_value(a), scaled(as_value(b), float(alpha)), f"{lowering.where}.add")


@handles("sub")
def _sub(lowering: Lowering, shadow: Tensor, a: Operand, b: Operand, *, alpha: float = 1) -> Affine:
    return _add(lowering, shadow, a, b, alpha=-alpha)


@handles("rsub")
def _rsub(lowering: Lowering, shadow: Tensor, a: Operand, b: Operand, alpha: float = 1) -> Affine:
    return _add(lowering, shadow, b, a, alpha=-alpha)


@handles("neg")
def _neg(lowering: Lowering, shadow: Tensor, a: Affine) -> Affine:
    return scaled(a, -1.0)


@handles("mul")
def _mul(lowering: Lowering, shadow: Tensor, a: Operand, b: Operand) -> Affine:
    if isinstance(a, Affine) and isinstance(b, Affine):
        return product(lowering, a, b)
    value, factor = (a, b) if isinstance(a, Affine) else (b, a)
    assert isinstance(value, Affine) and not isinstance(factor, Affine)
    return scaled(value, as_factor(factor))


@handles("div")
def _div(lowering: Lowering, shadow: Tensor, a: Operand, b: Operand, *, rounding_mode: str | None = None) -> Affine:
    if isinstance(b, Affine) or not isinstance(a, Affine) or rounding_mode is not None:
        raise lowering.unknown("div")
    factor = as_factor(b)
    return scaled(a, 1 / factor)


@handles("addcmul")
def _addcmul(lowering: Lowering, shadow: Tensor, a: Operand, b: Operand, c: Operand, *, value: float = 1) -> Affine:
    return _add(lowering, shadow, a, _mul(lowering, shadow, b, c), alpha=value)


@handles("lerp")
def _lerp(lowering: Lowering, shadow: Tensor, a: Operand, b: Operand, weight: Operand) -> Affine:
    return _add(lowering, shadow, a, _mul(lowering, shadow, _sub(lowering, shadow, b, a), weight))


@handles("sum", "mean")
def _sum(lowering: Lowering, shadow: Tensor, a: Affine, dim: Any = None, keepdim: bool = False, **_: Any) -> Affine:
    raise AssertionError("replaced below by one function for each")


def _reduced(lowering: Lowering, a: Affine, dim: Any, *, keepdim: bool, divide: bool) -> Affine:
    dims = [dim] if isinstance(dim, int) else list(dim or range(len(a.shape)))
    dims = sorted({d % len(a.shape) for d in dims})
    count = math.prod(a.shape[d] for d in dims)
    if len(a.shape) >= 4 and dims == [len(a.shape) - 2, len(a.shape) - 1] and count > 1:
        return _over_pixels(lowering, a, count if divide else 1, keepdim=keepdim)
    try:
        total = summed(a, dims, keepdim=keepdim)
    except OverflowError as error:
        raise lowering.error(f"{error}, more than a sum of signals can hold; use a pool or a linear layer") from error
    return scaled(total, 1 / count) if divide else total


def _over_pixels(lowering: Lowering, a: Affine, divisor: int, *, keepdim: bool) -> Affine:
    """The sum or mean over whole maps (…, C, H, W), as a pool of their size."""
    *rows, c, h, w = a.shape
    maps = laid_out(a, lambda t: t.reshape(-1, c, h, w))
    pooled = pool(lowering, maps, AvgPool2d((h, w), (h, w), (0, 0), divisor), (c, 1, 1))
    shape = (*rows, c, 1, 1) if keepdim else (*rows, c)
    return laid_out(pooled, lambda t: t.reshape(shape))


HANDLERS["sum"] = lambda lowering, shadow, a, dim=None, keepdim=False, **_: _reduced(
    lowering, a, dim, keepdim=keepdim, divide=False
)
HANDLERS["mean"] = lambda lowering, shadow, a, dim=None, keepdim=False, **_: _reduced(
    lowering, a, dim, keepdim=keepdim, divide=True
)


# -- layouts that torch does not do to indices by itself --------------------------------------------------


@handles("cat")
def _cat(lowering: Lowering, shadow: Tensor, tensors: Sequence[Operand], dim: int = 0) -> Affine:
    return concatenated([as_value(t) for t in tensors if tuple(getattr(t, "shape", ())) != (0,)], dim)


@handles("stack")
def _stack(lowering: Lowering, shadow: Tensor, tensors: Sequence[Operand], dim: int = 0) -> Affine:
    return concatenated([laid_out(as_value(t), lambda t: t.unsqueeze(dim)) for t in tensors], dim)


@handles("constant_pad_nd")
def _pad(lowering: Lowering, shadow: Tensor, a: Affine, pad: Sequence[int], value: float = 0) -> Affine:
    return padded(a, pad, float(value))


@handles("upsample_nearest1d", "upsample_nearest2d", "_upsample_nearest_exact1d", "_upsample_nearest_exact2d")
def _upsample(lowering: Lowering, shadow: Tensor, a: Affine, *args: Any) -> Affine:
    size = tuple(shadow.shape[2:])

    def enlarged(t: Tensor) -> Tensor:
        for d, (n, m) in enumerate(zip(t.shape[2:], size, strict=True), start=2):
            if m % n:
                raise lowering.error(f"it enlarges {n} pixels to {m}, which is no whole multiple")
            t = t.repeat_interleave(m // n, d)
        return t

    return laid_out(a, enlarged)


@handles("zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full", "new_empty")
def _made(lowering: Lowering, shadow: Tensor, a: Affine, *args: Any, **_: Any) -> Affine:
    raise AssertionError("replaced below by one function for each")


for _name, _fill in (("zeros", 0.0), ("ones", 1.0), ("empty", 0.0)):
    for _form in (f"{_name}_like", f"new_{_name}"):
        HANDLERS[_form] = lambda lowering, shadow, *args, fill=_fill, **_: Affine(tuple(shadow.shape), (), fill)
for _form in ("full_like", "new_full"):
    HANDLERS[_form] = lambda lowering, shadow, *args, **_: Affine(tuple(shadow.shape), (), float(args[-1]))


# -- layers ------------------------------------------------------------------------------------------


@handles("convolution")
def _convolution(
    lowering: Lowering, shadow: Tensor, a: Operand, weight: Operand, bias: Operand | None, stride: Sequence[int],
    padding: Sequence[int], dilation: Sequence[int], transposed: bool, output_padding: Sequence[int], groups: int,
) -> Affine:  # fmt: skip
    if not isinstance(a, Affine) or not isinstance(weight, Tensor) or isinstance(bias, Affine):
        raise lowering.error("the weights of its convolution depend on the input, which those of a graph do not")
    if weight.ndim not in (3, 4):
        raise lowering.error("only one- and two-dimensional convolutions have a counterpart")
    if transposed and (set(stride) != {1} or any(output_padding)):
        raise lowering.error("a transposed convolution with stride enlarges its map, which no convolution does; use stride 1")
    flat = weight.ndim == 3
    value = laid_out(a, lambda t: t.unsqueeze(2)) if flat else a
    geometry = [_pair(v, 1 if i != 1 else 0, flat=flat) for i, v in enumerate((stride, padding, dilation))]
    kernel = weight.shape[2:]
    if transposed:
        reach = _pair([d * (k - 1) for d, k in zip(dilation, kernel, strict=True)], 0, flat=flat)
        before = geometry[1]
        geometry[1] = (reach[0] - before[0], reach[1] - before[1])
        if min(geometry[1]) < 0:
            raise lowering.error("a transposed convolution that is padded by more than its kernel has no counterpart")

    def layer(w: Any) -> Conv2d:
        w = w[:, :, None] if flat else w
        if transposed:  # (Cin, Cout/groups, …), turned around, to (Cout, Cin/groups, …)
            cin, each = w.shape[:2]
            w = w.reshape(groups, cin // groups, each, *w.shape[2:]).swapaxes(1, 2)
            w = w.reshape(groups * each, cin // groups, *w.shape[3:])[:, :, ::-1, ::-1].copy()
        return Conv2d(w, None, geometry[0], geometry[1], geometry[2], groups)

    out: Shape = tuple(shadow.shape[1:])
    out = (out[0], 1, out[1]) if flat else out
    found = synapse(lowering, value, weight, bias, layer, ("conv", *geometry, groups, transposed), out)  # type: ignore[arg-type]
    return laid_out(found, lambda t: t.squeeze(2)) if flat else found


def _pair(values: Sequence[int], before: int, *, flat: bool) -> Pair:
    """Two numbers: of one axis, `before` for the axis of size 1 that is put before it."""
    if flat:
        return (before, int(values[0]))
    return (int(values[0]), int(values[-1]))


@handles("mm")
def _mm(lowering: Lowering, shadow: Tensor, a: Operand, b: Operand) -> Affine:
    return _dense(lowering, a, b, None)


@handles("addmm")
def _addmm(
    lowering: Lowering, shadow: Tensor, bias: Operand, a: Operand, b: Operand, *, beta: float = 1, alpha: float = 1
) -> Affine:
    if isinstance(bias, Tensor) and bias.ndim == 1 and (beta, alpha) == (1, 1):
        return _dense(lowering, a, b, bias)
    return added(scaled(as_value(bias), float(beta)), scaled(_dense(lowering, a, b, None), float(alpha)))


@handles("bmm")
def _bmm(lowering: Lowering, shadow: Tensor, a: Operand, b: Operand) -> Affine:
    if not isinstance(a, Affine) or not isinstance(b, Tensor) or not bool((b == b[:1]).all()):
        raise lowering.unknown("bmm")
    batch, rows, _ = a.shape
    flat = laid_out(a, lambda t: t.reshape(batch * rows, -1))
    found = _dense(lowering, flat, b[0], None)
    return laid_out(found, lambda t: t.reshape(batch, rows, -1))


def _dense(lowering: Lowering, a: Operand, b: Operand, bias: Tensor | None) -> Affine:
    """a @ b + bias, with b constant."""
    if not isinstance(a, Affine) or not isinstance(b, Tensor):
        raise lowering.unknown("bmm")
    return synapse(lowering, a, b, bias, lambda w: Linear(w.T), "linear", (b.shape[1],))


@handles("native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "miopen_batch_norm")
def _batch_norm(lowering: Lowering, shadow: Any, a: Affine, weight: Any, bias: Any, mean: Any, var: Any, *rest: Any) -> Any:
    training = rest[0] if len(rest) == 3 or isinstance(rest[0], bool) else False
    if training or mean is None or var is None:
        raise lowering.error(
            "this BatchNorm keeps no running statistics, but takes those of each batch; set track_running_stats=True",
            lowering.name,
        )
    eps = float(rest[-1])
    mean, var = (t.detach().double().cpu() for t in (mean, var))
    scale = 1 / torch.sqrt(var + eps)
    if weight is not None:
        scale = scale * weight.detach().double().cpu()
    shift = -mean * scale
    if bias is not None:
        shift = shift + bias.detach().double().cpu()
    axes = (1, -1, *[1] * (len(a.shape) - 2))
    value = added(scaled(a, scale.reshape(axes)), Affine(tuple(scale.reshape(axes).shape), (), shift.reshape(axes)))
    statistics = ["the statistics of a batch have no counterpart"] * (len(shadow) - 1)
    return (value, *statistics)


@handles("batch_norm")
def _batch_norm_whole(lowering: Lowering, shadow: Tensor, a: Affine, weight: Any, bias: Any, mean: Any, var: Any, training: bool, momentum: float, eps: float, *_: Any) -> Any:
    return _batch_norm(lowering, (shadow,), a, weight, bias, mean, var, training, momentum, eps)[0]


# -- pools -------------------------------------------------------------------------------------------


def _window(lowering: Lowering, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> tuple[Pair, Pair, Pair]:
    pairs = [(int(v[0]), int(v[-1])) for v in (kernel, stride or kernel, padding)]
    return pairs[0], pairs[1], pairs[2]


def _fits(lowering: Lowering, node: MaxPool2d | AvgPool2d, a: Affine, shadow: Tensor, ceil_mode: bool, what: str) -> None:
    """Ceil mode is nothing where windows fit."""
    if not ceil_mode:
        return
    for size, k, s, p, got in zip(a.shape[2:], node.kernel, node.stride, node.padding, shadow.shape[2:], strict=True):
        if (size + 2 * p - k) // s + 1 != got:
            raise lowering.error(f"{what} with ceil_mode has no counterpart here; use none", lowering.name)


@handles("max_pool2d_with_indices")
def _max_pool(
    lowering: Lowering, shadow: Any, a: Affine, kernel: Sequence[int], stride: Sequence[int] = (),
    padding: Sequence[int] = (0,), dilation: Sequence[int] = (1,), ceil_mode: bool = False,
) -> Any:  # fmt: skip
    node = MaxPool2d(*_window(lowering, kernel, stride, padding))
    if set(dilation) != {1}:
        raise lowering.error("max-pool with ceil_mode or dilation has no counterpart; use neither", lowering.name)
    _fits(lowering, node, a, shadow[0], ceil_mode, "max-pool")
    value = pool(lowering, a, node, tuple(shadow[0].shape[1:]))
    return value, "the places of a max-pool's largest values have no counterpart"


@handles("max_pool2d")
def _max_pool_alone(lowering: Lowering, shadow: Tensor, a: Affine, *args: Any) -> Affine:
    found: Affine = _max_pool(lowering, (shadow,), a, *args)[0]
    return found


@handles("avg_pool2d")
def _avg_pool(
    lowering: Lowering, shadow: Tensor, a: Affine, kernel: Sequence[int], stride: Sequence[int] = (),
    padding: Sequence[int] = (0,), ceil_mode: bool = False, count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Affine:  # fmt: skip
    window = _window(lowering, kernel, stride, padding)
    node = AvgPool2d(*window, int(divisor_override or math.prod(window[0])))
    if any(window[2]) and not count_include_pad and divisor_override is None:
        raise lowering.error(
            "average-pool with ceil_mode or count_include_pad=False has no counterpart; use neither", lowering.name
        )
    _fits(lowering, node, a, shadow, ceil_mode, "average-pool")
    return pool(lowering, a, node, tuple(shadow.shape[1:]))


@handles("_adaptive_avg_pool2d", "adaptive_max_pool2d")
def _adaptive(lowering: Lowering, shadow: Any, a: Affine, size: Sequence[int]) -> Any:
    is_max = not isinstance(shadow, Tensor)
    out = tuple((shadow[0] if is_max else shadow).shape[1:])
    given = a.shape[2:]
    if not any(m % n for m, n in zip(out[1:], given, strict=True)):
        value = _upsample(lowering, shadow[0] if is_max else shadow, a)
    elif any(n % m for m, n in zip(out[1:], given, strict=True)):
        raise lowering.error(
            f"adaptive pooling of {given} to {out[1:]} has windows of unequal size; use AvgPool2d", lowering.name
        )
    else:
        kernel = (given[0] // out[1], given[1] // out[2])
        node = MaxPool2d(kernel, kernel) if is_max else AvgPool2d(kernel, kernel, (0, 0), math.prod(kernel))
        value = pool(lowering, a, node, out)
    return (value, "the places of a max-pool's largest values have no counterpart") if is_max else value


# -- functions of spikes -----------------------------------------------------------------------------


def _of_spikes(lowering: Lowering, name: str, a: Affine, function: Callable[[Tensor], Tensor]) -> Affine | None:
    """A function of what takes two values in each place is a line through these two; None for other values."""
    if len(a.gathers) != 1 or not a.gathers[0].source.is_binary:
        return None
    gather = a.gathers[0]
    low = torch.as_tensor(a.shift, dtype=torch.float64)
    high = low + torch.as_tensor(gather.scale, dtype=torch.float64)
    at_low, at_high = (function(t).to(torch.float64) for t in (low, high))
    base = scaled(Affine(a.shape, (Gather(gather.source, gather.index, 1.0, gather.label, gather.flat),)), _short(at_high - at_low))
    return added(base, Affine(tuple(at_low.shape), (), _short(at_low)))


def _short(t: Tensor) -> Factor:
    return float(t) if t.ndim == 0 else t


def _comparison(name: str, function: Callable[[Tensor, Any], Tensor]) -> None:
    def handler(lowering: Lowering, shadow: Tensor, a: Operand, b: Operand) -> Affine:
        difference = added(as_value(a), scaled(as_value(b), -1.0))
        known = _of_spikes(lowering, name, difference, lambda t: function(t, 0.0))
        if known is not None:
            return known
        if name in ("ge", "gt"):
            return fired(lowering, difference, strict=name == "gt")
        if name in ("le", "lt"):  # not above
            return added(Affine((), (), 1.0), scaled(fired(lowering, difference, strict=name == "le"), -1.0))
        raise lowering.unknown(name)

    HANDLERS[name] = handler


for _name in ("ge", "gt", "le", "lt", "eq", "ne"):
    _comparison(_name, getattr(torch, _name))


def _unary(name: str) -> None:
    def handler(lowering: Lowering, shadow: Tensor, a: Operand, *args: Any, **kwargs: Any) -> Affine:
        plain = not any(isinstance(x, Affine) for x in (*args, *kwargs.values()))
        if isinstance(a, Affine) and plain:
            known = _of_spikes(lowering, name, a, lambda t: getattr(torch, name)(t, *args, **kwargs))
            if known is not None:
                return known
        raise lowering.unknown(name)

    HANDLERS[name] = handler


for _name in (
    "relu clamp clamp_min clamp_max abs sign square pow sqrt exp sigmoid tanh round floor ceil logical_not bitwise_not "
    "threshold hardtanh".split()
):
    _unary(_name)


@handles("heaviside")
def _heaviside(lowering: Lowering, shadow: Tensor, a: Affine, at_zero: Any) -> Affine:
    level = as_factor(at_zero)
    if not isinstance(level, float) or level not in (0.0, 1.0):
        raise lowering.unknown("heaviside")
    return fired(lowering, a, strict=level == 0.0)


@handles("logical_and", "bitwise_and", "__and__")
def _and(lowering: Lowering, shadow: Tensor, a: Operand, b: Operand) -> Affine:
    return _mul(lowering, shadow, a, b)


@handles("logical_or", "bitwise_or", "__or__", "maximum")
def _or(lowering: Lowering, shadow: Tensor, a: Operand, b: Operand) -> Affine:
    for x in (a, b):
        if isinstance(x, Affine) and _of_spikes(lowering, "or", x, lambda t: t) is None:
            raise lowering.unknown("maximum")
    one = Affine((), (), 1.0)
    neither = _mul(lowering, shadow, added(one, scaled(as_value(a), -1.0)), added(one, scaled(as_value(b), -1.0)))
    return added(one, scaled(neither, -1.0))


@handles("minimum")
def _minimum(lowering: Lowering, shadow: Tensor, a: Operand, b: Operand) -> Affine:
    for x in (a, b):
        if isinstance(x, Affine) and _of_spikes(lowering, "and", x, lambda t: t) is None:
            raise lowering.unknown("minimum")
    return _mul(lowering, shadow, a, b)


@handles("where")
def _where(lowering: Lowering, shadow: Tensor, condition: Operand, a: Operand, b: Operand) -> Affine:
    if isinstance(condition, Tensor):
        condition = condition.double()
        chosen = _mul(lowering, shadow, a, condition) if isinstance(a, Affine) else as_value(_mask(a, condition))
        other = _mul(lowering, shadow, b, 1 - condition) if isinstance(b, Affine) else as_value(_mask(b, 1 - condition))
        return added(chosen, other)
    rest = added(Affine((), (), 1.0), scaled(as_value(condition), -1.0))
    return added(_mul(lowering, shadow, a, condition), _mul(lowering, shadow, b, rest))


def _mask(x: Any, mask: Tensor) -> Tensor:
    return torch.as_tensor(x, dtype=torch.float64) * mask


@handles("masked_fill")
def _masked_fill(lowering: Lowering, shadow: Tensor, a: Operand, mask: Operand, value: Any) -> Affine:
    return _where(lowering, shadow, mask, value, a)


@handles("index_put")
def _index_put(lowering: Lowering, shadow: Tensor, a: Operand, indices: Sequence[Any], values: Operand, accumulate: bool = False) -> Affine:
    mask = indices[0] if len(indices) == 1 else None
    if isinstance(mask, Affine) and mask.shape == as_value(a).shape and not accumulate and not isinstance(values, Affine):
        return _where(lowering, shadow, mask, values, a)
    raise lowering.error("it writes to places that it computes, which no layer does; use slices")


@handles("_to_copy")
def _copy(lowering: Lowering, shadow: Tensor, a: Affine, **_: Any) -> Affine:
    return expanded(a, a.shape)
