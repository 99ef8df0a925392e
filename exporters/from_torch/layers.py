"""Convolutions, linear layers, BatchNorm and pools, as ATen has them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from exporters.from_torch.arithmetic import Operand, as_value
from exporters.from_torch.decode import UndecodableError, reads_of
from exporters.from_torch.lowering import Lowering
from exporters.from_torch.pools import pool
from exporters.from_torch.synapses import synapse
from exporters.from_torch.values import Affine, added, laid_out, scaled
from exporters.graph import AnyPool, Array, AvgPool2d, Conv2d, Linear, MaxPool2d, Pair, Shape, window_positions

NO_PLACES = "the places of a max-pool's largest values have no counterpart"
NO_STATISTICS = "the statistics of a batch have no counterpart"


def _planes(a: Affine, flat_axes: Sequence[int]) -> tuple[Affine, int] | None:
    """A value (A, B, D, H, W) as rows of maps (·, ·, ·, ·), with one of the axes along which a window is flat among the rows.

    Along such an axis nothing is mixed; which of them is time or samples tells the value.
    """
    for axis in flat_axes:
        rows = laid_out(a, lambda t, axis=axis: t.movedim(axis, 1).flatten(0, 1))  # type: ignore[misc]
        try:
            reads_of(rows)
        except UndecodableError:
            continue
        return rows, axis
    return None


def _stacked(value: Affine, axis: int, count: int) -> Affine:
    """Rows of maps that `_planes` made, with their axis put back."""
    return laid_out(value, lambda t: t.reshape(-1, count, *t.shape[1:]).movedim(1, axis))


def _convolution_3d(
    lowering: Lowering, shadow: Tensor, a: Affine, weight: Tensor, bias: Any, *windows: Any, groups: int
) -> Affine:
    """Three axes, along one of which the kernel is 1: a convolution of planes."""
    stride, padding, _ = windows
    flat = [d for d in range(3) if weight.shape[d + 2] == 1 and stride[d] == 1 and not padding[d]]
    found = _planes(a, [d + 2 for d in flat])
    if found is None:
        raise lowering.error(
            "of convolutions over three axes only those of planes have a counterpart, with a kernel of 1 over time"
        )
    rows, axis = found
    out = [s for d, s in enumerate(shadow.shape) if d != axis]
    given = torch.empty(rows.shape[0], *out[1:], device="meta")
    s, p, d = ([w[i] for i in range(3) if i + 2 != axis] for w in windows)
    planes = _convolution(lowering, given, rows, weight.select(axis, 0), bias, s, p, d, False, [0, 0], groups)
    return _stacked(planes, axis, a.shape[axis])


def _convolution(
    lowering: Lowering, shadow: Tensor, a: Operand, weight: Operand, bias: Any, stride: Sequence[int],
    padding: Sequence[int], dilation: Sequence[int], transposed: bool, output_padding: Sequence[int], groups: int,
) -> Affine:  # fmt: skip
    if not isinstance(a, Affine) or not isinstance(weight, Tensor) or isinstance(bias, Affine):
        raise lowering.error("the weights of its convolution depend on the input, which those of a graph do not")
    if weight.ndim == 5 and not transposed:
        return _convolution_3d(lowering, shadow, a, weight, bias, stride, padding, dilation, groups=groups)
    if weight.ndim not in (3, 4):
        raise lowering.error("only one- and two-dimensional convolutions have a counterpart")
    if transposed and (set(stride) != {1} or any(output_padding)):
        raise lowering.error(
            "a transposed convolution with stride enlarges its map, which no layer here does; use stride 1"
        )
    flat = weight.ndim == 3
    strides, pads, dilations = _pair(stride, 1, flat=flat), _pair(padding, 0, flat=flat), _pair(dilation, 1, flat=flat)
    if transposed:  # stride 1: the kernel turned around, over as much padding as it reaches beyond what was cut off
        reach = _pair([d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)], 0, flat=flat)
        pads = (reach[0] - pads[0], reach[1] - pads[1])
        if min(pads) < 0:
            raise lowering.error("a transposed convolution that cuts off more than its kernel has no counterpart")

    def layer(w: Array) -> Conv2d:
        w = w[:, :, None] if flat else w
        return Conv2d(_turned(w, groups) if transposed else w, None, strides, pads, dilations, groups)

    out: Shape = tuple(shadow.shape[1:])
    geometry = ("convolution", strides, pads, dilations, groups, transposed)
    if not flat:
        return synapse(lowering, a, weight, bias, layer, geometry, out)
    rows = laid_out(a, lambda t: t.unsqueeze(2))
    found = synapse(lowering, rows, weight, bias, layer, geometry, (out[0], 1, out[1]))
    return laid_out(found, lambda t: t.squeeze(2))


def _pair(values: Sequence[int], before: int, *, flat: bool) -> Pair:
    """Two numbers: of one axis, `before` for the axis of size 1 that is put before it."""
    return (before, int(values[0])) if flat else (int(values[0]), int(values[-1]))


def _turned(weight: Array, groups: int) -> Array:
    """The weights of a transposed convolution (Cin, Cout/groups, kH, kW) as those of one: (Cout, Cin/groups, kH, kW)."""
    inputs, each, *kernel = weight.shape
    grouped = weight.reshape(groups, inputs // groups, each, *kernel).swapaxes(1, 2)
    return grouped.reshape(groups * each, inputs // groups, *kernel)[:, :, ::-1, ::-1].copy()


def _mm(lowering: Lowering, shadow: Any, a: Operand, b: Operand) -> Affine:
    return _dense(lowering, a, b, None)


def _addmm(
    lowering: Lowering, shadow: Any, bias: Operand, a: Operand, b: Operand, *, beta: float = 1, alpha: float = 1
) -> Affine:
    if isinstance(bias, Tensor) and bias.ndim == 1 and (beta, alpha) == (1, 1):
        return _dense(lowering, a, b, bias)
    return added(scaled(as_value(bias), float(beta)), scaled(_dense(lowering, a, b, None), float(alpha)))


def _bmm(lowering: Lowering, shadow: Any, a: Operand, b: Operand) -> Affine:
    if not isinstance(a, Affine) or not isinstance(b, Tensor) or not bool((b == b[:1]).all()):
        raise lowering.unknown("bmm")
    batch, rows, _ = a.shape
    found = _dense(lowering, laid_out(a, lambda t: t.reshape(batch * rows, -1)), b[0], None)
    return laid_out(found, lambda t: t.reshape(batch, rows, -1))


def _dense(lowering: Lowering, a: Operand, b: Operand, bias: Tensor | None) -> Affine:
    """a @ b + bias, where b does not depend on the input."""
    if isinstance(a, Tensor) and isinstance(b, Affine):
        raise lowering.error("it multiplies its input by a matrix from the left, which mixes time steps or samples")
    if not isinstance(a, Affine) or not isinstance(b, Tensor):
        raise lowering.unknown("bmm")
    return synapse(lowering, a, b.t(), bias, Linear, "linear", (b.shape[1],))


def _batch_norm(
    lowering: Lowering, shadow: Any, a: Affine, weight: Any, bias: Any, mean: Any, var: Any, *rest: Any
) -> tuple[Any, ...]:
    """y = (x − mean)/√(var + eps)·weight + bias with the running statistics: a factor and a shift of each channel."""
    training = bool(rest[0]) if len(rest) == 3 else False
    if training and mean is not None:
        raise lowering.error(
            "this norm is in training mode where the network is in eval mode, and takes the statistics of each batch; a module in a "
            "plain list is not reached by eval(): put it into an nn.ModuleList",
            lowering.name,
        )
    if training or mean is None or var is None:
        raise lowering.error(
            "this norm keeps no running statistics, but takes those of each batch or sample; use a BatchNorm with "
            "track_running_stats=True",
            lowering.name,
        )
    mean, var = (t.detach().double().cpu() for t in (mean, var))
    scale = 1 / torch.sqrt(var + float(rest[-1]))
    if weight is not None:
        scale = scale * weight.detach().double().cpu()
    shift = -mean * scale
    if bias is not None:
        shift = shift + bias.detach().double().cpu()
    if not bool((scale.isfinite() & shift.isfinite()).all()):
        raise lowering.error(
            "its statistics or weights make NaN or infinite numbers (a negative variance, say); retrain or repair it",
            lowering.name,
        )
    axes = (1, -1, *[1] * (len(a.shape) - 2))
    scale, shift = scale.reshape(axes), shift.reshape(axes)
    return added(scaled(a, scale), Affine(tuple(shift.shape), (), shift)), NO_STATISTICS, NO_STATISTICS


def _cudnn_batch_norm(
    lowering: Lowering, shadow: Any, a: Affine, weight: Any, bias: Any, mean: Any, var: Any, training: bool,
    factor: float, eps: float,
) -> tuple[Any, ...]:  # fmt: skip
    found = _batch_norm(lowering, shadow, a, weight, bias, mean, var, training, factor, eps)
    return (*found, *[NO_STATISTICS] * (len(shadow) - 3))


# -- pools -------------------------------------------------------------------------------------------


def _window(kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> tuple[Pair, Pair, Pair]:
    pairs = [(int(v[0]), int(v[-1])) for v in (kernel, stride or kernel, padding)]
    return pairs[0], pairs[1], pairs[2]


def _require_whole_windows(lowering: Lowering, node: AnyPool, a: Affine, out: Sequence[int], what: str) -> None:
    """Ceil mode adds windows that reach beyond the map, unless all of them fit."""
    for size, k, s, p, got in zip(a.shape[2:], node.kernel, node.stride, node.padding, out, strict=True):
        if (size + 2 * p - k) // s + 1 != got:
            raise lowering.error(
                f"{what} with ceil_mode has no counterpart where windows reach beyond the map", lowering.name
            )


def _max_pool(
    lowering: Lowering, shadow: Any, a: Affine, kernel: Sequence[int], stride: Sequence[int] = (),
    padding: Sequence[int] = (0,), dilation: Sequence[int] = (1,), ceil_mode: bool = False,
) -> tuple[Any, ...]:  # fmt: skip
    window = _window(kernel, stride, padding)
    if set(dilation) != {1} and window[0] != (1, 1):
        raise lowering.error("max-pool with dilation has no counterpart; use none", lowering.name)
    node = MaxPool2d(*window)
    _require_whole_windows(lowering, node, a, shadow[0].shape[2:], "max-pool")
    return pool(lowering, a, node, tuple(shadow[0].shape[1:])), NO_PLACES


def _avg_pool(
    lowering: Lowering, shadow: Tensor, a: Affine, kernel: Sequence[int], stride: Sequence[int] = (),
    padding: Sequence[int] = (0,), ceil_mode: bool = False, count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Affine:  # fmt: skip
    window = _window(kernel, stride, padding)
    if any(window[2]) and not count_include_pad and divisor_override is None:
        raise lowering.error(
            "average-pool with count_include_pad=False has no counterpart; use it without", lowering.name
        )
    node = AvgPool2d(*window, int(divisor_override or math.prod(window[0])))
    _require_whole_windows(lowering, node, a, shadow.shape[2:], "average-pool")
    return pool(lowering, a, node, tuple(shadow.shape[1:]))


def _flat(window: Sequence[Any], stride: Sequence[Any], padding: Sequence[Any]) -> list[int]:
    """The axes of (A, B, D, H, W) along which a window over three axes does nothing."""
    kernel, step, pad = (list(v) * (3 if len(v) == 1 else 1) for v in (window, stride or window, padding))
    return [d + 2 for d in range(3) if (kernel[d], step[d], pad[d]) == (1, 1, 0)]


def _over_planes(
    lowering: Lowering, a: Affine, axes: Sequence[int], pooled: Callable[[Affine, list[int]], Affine]
) -> Affine:
    # where the first of the three axes is the channels, which a pool keeps apart too, the axis before it is among the rows
    found = _planes(a, [*axes, *[1] * (2 in axes)])
    if found is None:
        raise lowering.error(
            "of pools over three axes only those of planes have a counterpart, with a window of 1 over time"
        )
    rows, axis = found
    return _stacked(pooled(rows, [d for d in range(3) if d + 2 != max(axis, 2)]), axis, a.shape[axis])


def _pool_3d(
    lowering: Lowering, shadow: Any, a: Affine, kernel: Sequence[int], stride: Sequence[int] = (),
    padding: Sequence[int] = (0,), *rest: Any,
) -> Any:  # fmt: skip
    is_max = not isinstance(shadow, Tensor)

    def pooled(rows: Affine, kept: list[int]) -> Affine:
        full = [list(v) * (3 if len(v) == 1 else 1) for v in (kernel, stride or kernel, padding)]
        k, s, p = ([v[d] for d in kept] for v in full)
        size = [window_positions(*axis) for axis in zip(rows.shape[2:], k, s, p, strict=True)]
        given = torch.empty(*rows.shape[:2], *size, device="meta")
        if not is_max:
            return _avg_pool(lowering, given, rows, k, s, p, *rest)
        dilation = list(rest[0]) * (3 if len(rest[0]) == 1 else 1) if rest else [1, 1, 1]
        found: Affine = _max_pool(lowering, (given,), rows, k, s, p, [dilation[d] for d in kept], *rest[1:])[0]
        return found

    value = _over_planes(lowering, a, _flat(kernel, stride, padding), pooled)
    return (value, NO_PLACES) if is_max else value


def _adaptive_avg_pool_3d(lowering: Lowering, shadow: Tensor, a: Affine, size: Sequence[int]) -> Affine:
    flat = [d for d in (2, 3, 4) if shadow.shape[d] == a.shape[d]]

    def pooled(rows: Affine, kept: list[int]) -> Affine:
        given = torch.empty(*rows.shape[:2], *(shadow.shape[d + 2] for d in kept), device="meta")
        return _adaptive_avg_pool(lowering, given, rows, [])

    return _over_planes(lowering, a, flat, pooled)


def _adaptive_avg_pool(lowering: Lowering, shadow: Tensor, a: Affine, size: Sequence[int]) -> Affine:
    return _adaptive(lowering, shadow, a, lambda k: AvgPool2d(k, k, (0, 0), math.prod(k)))


def _adaptive_max_pool(lowering: Lowering, shadow: Any, a: Affine, size: Sequence[int]) -> tuple[Any, ...]:
    return _adaptive(lowering, shadow[0], a, lambda k: MaxPool2d(k, k)), NO_PLACES


def _adaptive(lowering: Lowering, shadow: Tensor, a: Affine, make: Callable[[Pair], AnyPool]) -> Affine:
    out: Shape = tuple(shadow.shape[1:])
    given = a.shape[2:]
    if not any(m % n for m, n in zip(out[1:], given, strict=True)):
        return laid_out(a, lambda t: F.interpolate(t.double(), out[1:], mode="nearest").to(t.dtype))
    if any(n % m for m, n in zip(out[1:], given, strict=True)):
        raise lowering.error(
            f"adaptive pooling of {given} to {out[1:]} has windows of unequal size; use AvgPool2d", lowering.name
        )
    return pool(lowering, a, make((given[0] // out[1], given[1] // out[2])), out)


HANDLERS: dict[str, Callable[..., Any]] = {
    "convolution": _convolution,
    "mm": _mm,
    "addmm": _addmm,
    "bmm": _bmm,
    "native_batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "cudnn_batch_norm": _cudnn_batch_norm,
    "max_pool2d_with_indices": _max_pool,
    "avg_pool2d": _avg_pool,
    "_adaptive_avg_pool2d": _adaptive_avg_pool,
    "adaptive_max_pool2d": _adaptive_max_pool,
    "avg_pool3d": _pool_3d,
    "max_pool3d_with_indices": _pool_3d,
    "_adaptive_avg_pool3d": _adaptive_avg_pool_3d,
}
"""Operation → what it does to values."""
