"""What the numbers of a NIR node say: layers, shapes, constants per neuron."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import nir
import numpy as np

from exporters.graph import AnySynapse, Array, Conv2d, Linear, Pair, Shape
from exporters.nir.check import NirError


def pair(value: Any) -> Pair:
    """One number or two as two."""
    values = np.ravel(np.asarray(value))
    return (int(values[0]), int(values[-1]))


def just_above(threshold: float) -> float:
    """The smallest float32 above a threshold: NIR's v > θ is v ≥ this for every membrane that float32 holds, integers among them."""
    with np.errstate(over="ignore"):  # beyond float32 it is infinite
        nearest = np.float32(threshold)
    return float(nearest if float(nearest) > threshold else np.nextafter(nearest, np.float32(np.inf)))


def just_below(threshold: float) -> float:
    """The largest float32 below a threshold: to fire above it is, for membranes that float32 holds, to fire at `threshold`."""
    return -just_above(-threshold)


def snapped(gain: Array) -> Array:
    """One where it is one but for the rounding of r·dt."""
    return np.where(np.isclose(gain, 1.0, rtol=1e-6, atol=0), 1.0, gain)


def fit(name: str, values: Any, shape: Shape) -> Array:
    """A neuron's constants, given per neuron, per channel or once, as float64 of the layer's shape."""
    array = np.asarray(values, np.float64)
    if not np.isfinite(array).all():
        raise NirError(f"{name}: a constant is NaN or infinite")
    if array.size == 1:
        return np.full(shape, float(array.flat[0]))
    if array.size == math.prod(shape):
        return array.reshape(shape)
    if array.shape[0] == shape[0] and array.size == shape[0]:
        return np.broadcast_to(array.reshape(-1, *[1] * (len(shape) - 1)), shape)
    raise NirError(f"{name}: its constants have shape {array.shape}, but {shape} arrives")


def synapse_of(name: str, node: Any, *, integer: bool, groups: int) -> AnySynapse:
    """The layer of a NIR node with weights; `groups`: of a convolution whose kernels are written out block-diagonally."""
    weight, bias = np.asarray(node.weight), getattr(node, "bias", None)
    bias = None if bias is None or not np.any(bias) else np.asarray(bias).reshape(-1)
    if integer:
        weight = weight.astype(np.int32)
        bias = None if bias is None else bias.astype(np.int32)
    if weight.dtype.kind != "i":
        weight = weight.astype(np.promote_types(weight.dtype, np.float32))
    if isinstance(node, nir.Linear | nir.Affine):
        return Linear(weight, bias)
    stride, dilation, padding = (getattr(node, k) for k in ("stride", "dilation", "padding"))
    if isinstance(node, nir.Conv1d):
        weight = weight[:, :, None]
        stride, dilation = (1, int(np.ravel(stride)[0])), (1, int(np.ravel(dilation)[0]))
        padding = padding if isinstance(padding, str) else (0, int(np.ravel(padding)[0]))
    kernel = weight.shape[2:]
    if isinstance(padding, str):
        total = [0, 0] if padding == "valid" else [d * (k - 1) for d, k in zip(pair(dilation), kernel, strict=True)]
        if any(t % 2 for t in total):
            raise NirError(f"{name}: padding 'same' with an even kernel pads unevenly, which cannot be mapped")
        padding = (total[0] // 2, total[1] // 2)
    conv = Conv2d(weight, bias, pair(stride), pair(padding), pair(dilation), int(np.ravel(node.groups)[0]))
    return regrouped(conv, groups)


def sample_shape(declared: Shape, readers: Sequence[Any]) -> Shape:
    """The shape of one sample: (F,) where only dense layers read it along the last axis, else three axes at most."""
    features = {np.shape(r.weight)[-1:] for r in readers if isinstance(r, nir.Linear | nir.Affine)}
    is_flat = features == {declared[-1:]} and all(isinstance(r, nir.Linear | nir.Affine) for r in readers)
    return declared[-1:] if is_flat else declared[-3:]


def regrouped(conv: Conv2d, groups: int) -> Conv2d:
    """The grouped convolution that was written out as block-diagonal kernels, if that is what it is."""
    weight = conv.weight
    if conv.groups != 1 or groups <= 1 or weight.shape[0] % groups or weight.shape[1] % groups:
        return conv
    per_group, out = weight.shape[1] // groups, len(weight) // groups
    kept = np.concatenate([weight[g * out : (g + 1) * out, g * per_group : (g + 1) * per_group] for g in range(groups)])
    return replace(conv, weight=kept, groups=groups) if np.count_nonzero(kept) == np.count_nonzero(weight) else conv
