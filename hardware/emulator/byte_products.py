"""Synapse layers that multiply bytes: spikes and pixels times 8-bit weights, added up in int32 by the processor's own
instructions, four times as many at once as in float32.

The kernels behind this are those torch keeps for quantized networks. They are no part of its public interface, and on
processors without VNNI they may saturate where two products are added in 16 bits. So a layer uses them where they were
tried: with its own sizes, frames and threads, and the largest numbers that it can meet. Elsewhere floats are multiplied, to the same result.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import assert_never
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from exporters.graph import AnySynapse, Array, Conv2d, Linear, Pair, Shape

LARGEST_BYTE = 255
"""No larger number than this travels as a byte."""

Multiply = Callable[[Tensor, Tensor | None], Tensor]
"""A layer on bytes is (uint8 frames (M, *in_shape), float32 bias or None) → float32 currents (M, *out_shape)."""


@dataclass(frozen=True, eq=False)
class ByteProduct:
    """A synapse layer on bytes.

    Attributes:
        multiply: the layer. Its currents are exact where `is_exact`, while no sum reaches 2²⁴ (`exporters.graph.bounds.sum_bound`).
        tried: (number of frames, number of threads) → whether a trial came out exact.
    """

    multiply: Multiply
    tried: Callable[[int, int], bool]

    def is_exact(self, frames: int) -> bool:
        """The kernel that torch takes for so many frames at once is tried when first asked about: was it exact?"""
        return self.tried(frames, torch.get_num_threads())


_made: WeakKeyDictionary[AnySynapse, dict[tuple[Shape, float], ByteProduct | None]] = WeakKeyDictionary()
"""What `byte_product` made is kept: arranging millions of weights for the processor takes as long as several
samples."""


def byte_product(synapse: AnySynapse, in_shape: Shape, largest: float) -> ByteProduct | None:
    """The layer on bytes, for frames of whole numbers from 0 to `largest`; None where this machine or the layer
    cannot."""
    made = _made.setdefault(synapse, {})
    if (in_shape, largest) not in made:
        made[in_shape, largest] = _make(synapse, in_shape, largest)
    return made[in_shape, largest]


def _make(synapse: AnySynapse, in_shape: Shape, largest: float) -> ByteProduct | None:
    match synapse:
        case Conv2d():
            possible = _is_ordinary(synapse, in_shape)
        case Linear():
            possible = in_shape[0] >= 64
        case _:
            assert_never(synapse)
    if not possible or largest > LARGEST_BYTE or torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return None
    found = _as_bytes(synapse.weight)
    if found is None:
        return None
    weight, step = found
    shape = tuple(weight.shape)
    try:
        match synapse:
            case Conv2d():
                geometry = (synapse.stride, synapse.padding, synapse.dilation, synapse.groups)
                tried = functools.partial(_convolves_exactly, in_shape, shape, *geometry, int(largest))
                return ByteProduct(_convolution(weight, step, in_shape, *geometry), tried)
            case Linear():
                return ByteProduct(_dense(weight, step), functools.partial(_multiplies_exactly, shape, int(largest)))
            case _:
                assert_never(synapse)
    except (AttributeError, RuntimeError):  # another version of torch, or one built without these kernels
        return None


def _as_bytes(weight: Array) -> tuple[Tensor, int] | None:
    """Integer weights as int8 times a power of two: what Lava calls the weight exponent is divided out."""
    step, largest = 1, max(int(weight.max()), -int(weight.min()))
    if largest > 127:
        weight = weight.astype(np.int64)
        bits = int(np.bitwise_or.reduce(np.abs(weight), axis=None))
        step = bits & -bits
        if largest // step > 127:
            return None
        weight = weight // step
    return torch.from_numpy(weight.astype(np.int8)), step


def _is_ordinary(node: Conv2d, in_shape: Shape) -> bool:
    """Geometries that networks are made of: dense or depthwise, not dilated, windows at least half in the image.

    A wrong result is found by trial, a crash is not: where a window lies in the padding alone, oneDNN 3.12 reads
    beyond its buffers. It is also wrong where groups have several outputs or rows and columns of the result a single
    one, for some numbers of frames; these are left out beforehand too.
    """
    kernel = node.weight.shape[2:]
    depthwise = node.weight.shape[:2] == (node.groups, 1)
    return (
        (node.groups == 1 or depthwise)
        and node.dilation == (1, 1)
        and all(2 * p <= k <= n for p, k, n in zip(node.padding, kernel, in_shape[1:], strict=True))
        and all(n + 2 * p - k >= s for n, p, k, s in zip(in_shape[1:], node.padding, kernel, node.stride, strict=True))
    )


def _scales(outputs: int, step: int) -> tuple[Tensor, Tensor]:
    """What a weight of 1 is worth and where its zero is, per output channel, whatever torch's default type is."""
    return torch.full((outputs,), float(step), dtype=torch.float32), torch.zeros(outputs, dtype=torch.int32)


def _convolution(
    weight: Tensor, step: int, in_shape: Shape, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Multiply:
    onednn = torch.ops.onednn
    geometry = (list(stride), list(padding), list(dilation), groups)
    scales, zeros = _scales(len(weight), step)
    packed = onednn.qconv_prepack(weight, scales, 1.0, 0, *geometry, [1, *in_shape])

    def convolve(x: Tensor, bias: Tensor | None) -> Tensor:
        y: Tensor = onednn.qconv2d_pointwise(
            x, 1.0, 0, packed, scales, zeros, bias, *geometry, 1.0, 0, torch.float32, "none", [], ""
        )
        return y

    return convolve


def _dense(weight: Tensor, step: int) -> Multiply:
    onednn = torch.ops.onednn  # without VNNI torch._int_mm is slower than float32
    scales, zeros = _scales(len(weight), step)
    packed = onednn.qlinear_prepack(weight, None)

    def multiply(x: Tensor, bias: Tensor | None) -> Tensor:
        y: Tensor = onednn.qlinear_pointwise(
            x, 1.0, 0, packed, scales, zeros, bias, 1.0, 0, torch.float32, "none", [], ""
        )
        return y

    return multiply


@functools.cache
def _convolves_exactly(
    in_shape: Shape,
    weight_shape: Shape,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    largest: int,
    frames: int,
    threads: int,
) -> bool:
    """Torch's convolution of bytes is tried here for this geometry and this many frames on as many threads: is it
    exact?"""
    geometry = (stride, padding, dilation, groups)

    def is_exact(weight: Tensor, x: Tensor, bias: Tensor) -> bool:
        expected = F.conv2d(x.double(), 2 * weight.double(), bias.double(), *geometry)
        return _agrees(lambda many: _convolution(weight, 2, in_shape, *geometry)(many, bias), x, expected, frames)

    return all(is_exact(*trial) for trial in _trials(weight_shape, in_shape, largest))


@functools.cache
def _multiplies_exactly(weight_shape: Shape, largest: int, frames: int, threads: int) -> bool:
    """Torch's matrix product of bytes is tried here for a layer of this size and this many frames: is it exact?"""

    def is_exact(weight: Tensor, x: Tensor, bias: Tensor) -> bool:
        expected = F.linear(x.double(), 2 * weight.double(), bias.double())
        return _agrees(lambda many: _dense(weight, 2)(many, bias), x, expected, frames)

    return all(is_exact(*trial) for trial in _trials(weight_shape, weight_shape[1:], largest))


def _agrees(layer: Callable[[Tensor], Tensor], x: Tensor, expected: Tensor, frames: int) -> bool:
    """The layer must give what is expected of a few frames x, repeated to `frames`."""
    repeated = torch.arange(frames) % len(x)
    try:
        return torch.equal(layer(x[repeated]), expected.float()[repeated])
    except (AttributeError, RuntimeError):
        return False


def _trials(weight_shape: Shape, in_shape: Shape, largest: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """A trial is weights, frames and biases in which neighboring products add up to the most they can, and whole sums
    stay exact in float32.

    The largest numbers are at random places and of random signs. Among a few inputs none might then have a neighbor of its own sign,
    so for these all weights are also of one sign.
    """
    generator = torch.Generator().manual_seed(0)
    sign = torch.randint(0, 2, weight_shape, dtype=torch.int8, generator=generator).mul_(2).sub_(1)
    x = torch.randint(0, 2, (3, *in_shape), dtype=torch.uint8, generator=generator).mul_(largest)
    bias = torch.randint(-999, 1000, weight_shape[:1], generator=generator).float()
    yield 127 * sign, x, bias
    if math.prod(weight_shape[1:]) <= 128:  # 2 · 127 · 255 · 128 < 2²³
        everywhere = torch.full((1, *in_shape), largest, dtype=torch.uint8)
        for one_sign in (torch.ones_like(sign), -torch.ones_like(sign)):
            yield 127 * one_sign, everywhere, bias
