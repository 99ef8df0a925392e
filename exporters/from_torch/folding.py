"""What a layer would do to rearranged, scaled and shifted input, done by its weights instead: exactly, in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from exporters.from_torch.values import NOTHING
from exporters.graph import AnySynapse, Array, Conv2d, Linear, Pair, Shape
from exporters.graph.currents import per_channel, read_channels, scaled_inputs
from exporters.graph.editing import window_grid
from exporters.passes.kernels import merge_groups

MOST_COPIES = 64
"""Copies of a map, side by side, that one convolution reads at once."""


class UnfoldableError(Exception):
    """No weights do the same; the message says why."""


ENLARGED = (
    "before it the pixels of its map are moved, mirrored, enlarged or averaged; no layer on the original map does that, but a "
    "convolution whose stride is a multiple of the enlargement"
)


class CutError(UnfoldableError):
    """A part of a map is cut off where the layer's padding wants zeros: it must be cut off before."""


@dataclass(frozen=True, eq=False)
class MapCopy:
    """A copy of a whole map stands inside a larger one; `channels` (C,) says which of its channels stands in each, or NOTHING."""

    channels: Array
    top: int
    left: int


@dataclass(frozen=True, eq=False)
class SampledMap:
    """A map whose pixel (y, x) of channel c is that at ⌊up·y⌋ + first[c] of another, and so along x, where up may be 1/2 or 2.

    Attributes:
        channels: (C,) which channel each is of.
        skipped: pixels of the other from one to the next, (y, x); 1 where they are repeated.
        repeated: how often each is there, (y, x).
        first: (2, C) where the first of each channel is.
    """

    channels: Array
    skipped: Pair
    repeated: Pair
    first: Array


def fold_linear(layer: Linear, features: Array | None, scale: float | Array, size: int, shape: Shape) -> Linear:
    """The dense layer that reads `size` features as this one reads scale · a choice of them, of a shape."""
    weight = layer.weight
    if isinstance(scale, np.ndarray):
        weight = weight * np.broadcast_to(scale, shape).reshape(-1)
    elif scale != 1.0:
        weight = weight * scale
    if features is None:
        return replace(layer, weight=weight)
    chosen = features.reshape(-1)
    held = np.flatnonzero(chosen != NOTHING)
    folded = torch.zeros(len(weight), size, dtype=torch.float64)
    if len(held) < len(chosen):
        chosen, weight = chosen[held], weight[:, held]
    folded.index_add_(1, torch.from_numpy(chosen), torch.from_numpy(np.ascontiguousarray(weight)))
    return replace(layer, weight=folded.numpy())


def fold_convolution(
    name: str, layer: Conv2d, features: Array | None, scale: float | Array, shape: Shape, inner: Shape
) -> Conv2d:
    """The convolution that reads a map of shape `inner` as this one reads scale · a rearrangement of it, of a shape.

    Raises:
        UnfoldableError: no convolution does that.
        GraphError: a factor that differs within a channel.
    """
    if features is None and shape == inner:
        return scaled_inputs(name, layer, scale, shape)
    if features is None:
        features = np.arange(math.prod(shape)).reshape(shape)
    if len(inner) != 3:
        raise UnfoldableError("it reads as a map what is flat; a graph does not give flat neurons a shape again")
    held = features.reshape(shape) != NOTHING
    if isinstance(scale, np.ndarray):  # where nothing is read, no factor matters
        factors = np.broadcast_to(scale, shape)
        first = np.where(held.any(axis=(1, 2)), held.reshape(len(held), -1).argmax(axis=1), 0)
        scale = np.where(held, factors, factors.reshape(len(factors), -1)[np.arange(len(held)), first][:, None, None])
    sampled = sampled_map(features.reshape(shape), inner, layer.stride)
    if sampled is not None:
        layer = scaled_inputs(name, layer, scale, shape)
        return _on_samples(
            replace(layer, weight=merge_groups(layer.weight, layer.groups, 1), groups=1), sampled, shape, inner
        )
    placed = map_copies(features.reshape(shape), inner)
    for axis in (0, 1):
        starts = [(copy.top, copy.left)[axis] for copy in placed]
        if layer.padding[axis] and any(at < 0 or at + inner[axis + 1] > shape[axis + 1] for at in starts):
            raise CutError("it cuts its map, and pads with zeros where that went on")
    in_order = len(placed) == 1 and shape[0] == inner[0] and bool((placed[0].channels == np.arange(shape[0])).all())
    layer = scaled_inputs(name, layer, scale, shape)
    if not in_order and layer.groups > 1:
        layer = replace(layer, weight=merge_groups(layer.weight, layer.groups, 1), groups=1)
    parts = [(_on_channels(layer, p.channels, inner[0]) if not in_order else layer.weight, p) for p in placed]
    return _on_places(layer, parts, shape, inner)


def map_copies(features: Array, inner: Shape) -> list[MapCopy]:
    """A rearrangement (C, H, W) of a map (c, h, w) as whole copies of it side by side.

    Raises:
        UnfoldableError: it is none, as an enlarged map is not.
    """
    _, h, w = inner
    rows, columns = np.indices(features.shape[1:])
    channel, y, x = features // (h * w), features // w % h, features % w
    held = features != NOTHING
    offsets = np.stack([rows - y, columns - x], axis=-1)
    found = np.unique(offsets[held], axis=0)
    if len(found) > MOST_COPIES:
        raise UnfoldableError(ENLARGED)
    placed = []
    for top, left in found:
        here = held & (offsets == (top, left)).all(axis=-1)
        window = (rows >= top) & (rows < top + h) & (columns >= left) & (columns < left + w)
        channels = np.where(here.any(axis=(1, 2)), np.where(here, channel, -1).max(axis=(1, 2)), NOTHING)
        expected = window & (channels != NOTHING)[:, None, None]
        if not (
            (here == expected).all()
            and (np.where(here, channel, channels[:, None, None]) == channels[:, None, None]).all()
        ):
            raise UnfoldableError(ENLARGED)
        placed.append(MapCopy(channels, int(top), int(left)))
    return placed


def sampled_map(features: Array, inner: Shape, stride: Pair) -> SampledMap | None:
    """A rearrangement (C, H, W) of a map (c, h, w) as each pixel repeated (nearest `Upsample`), or as each channel every second,
    third, … of its pixels (`PixelUnshuffle`, `x[..., ::2, ::2]`); None where it is neither, or a convolution of this stride cannot
    follow it."""
    size, other = features.shape[1:], inner[1:]
    if size == other or (features == NOTHING).any():
        return None
    repeated = tuple(max(1, n // m) for n, m in zip(size, other, strict=True))
    skipped = tuple(max(1, m // n) for n, m in zip(size, other, strict=True))
    if any(s % r for s, r in zip(stride, repeated, strict=True)):
        return None
    if any(n * k != m * r for n, m, k, r in zip(size, other, skipped, repeated, strict=True)):
        return None
    h, w = other
    corner = features[:, 0, 0]
    channels, first = corner // (h * w), np.stack([corner // w % h, corner % w])
    rows, columns = (np.arange(n) * k // r for n, k, r in zip(size, skipped, repeated, strict=True))
    y, x = rows + first[0][:, None], columns + first[1][:, None]
    expected = channels[:, None, None] * (h * w) + y[:, :, None] * w + x[:, None, :]
    is_inside = all((first[axis] < skipped[axis]).all() for axis in (0, 1))
    if not (is_inside and (features == expected).all()):
        return None
    return SampledMap(channels, (skipped[0], skipped[1]), (repeated[0], repeated[1]), first)


def _on_samples(layer: Conv2d, sampled: SampledMap, shape: Shape, inner: Shape) -> Conv2d:
    """The convolution of the other map that does what a layer without groups does to a sampled one.

    Output i reads rows i·stride − padding + dilation·k, which are rows i·stride·skipped/repeated + offset of the other; what
    lies outside one lies outside the other.
    """
    kernel = layer.weight.shape[2:]
    wanted = window_grid(shape[1:], kernel, layer.stride, layer.padding, layer.dilation)
    geometry = zip(kernel, layer.padding, layer.dilation, sampled.skipped, sampled.repeated, strict=True)
    taps = [(np.arange(k) * d - p) * skip // repeat for k, p, d, skip, repeat in geometry]
    stride = [s * k // r for s, k, r in zip(layer.stride, sampled.skipped, sampled.repeated, strict=True)]
    starts = [-int(t[0]) for t in taps]
    reach = [int(t[-1] + skip) + start for t, skip, start in zip(taps, sampled.skipped, starts, strict=True)]
    axes = [_axis(inner[1 + a], reach[a], stride[a], [starts[a]], wanted[a]) for a in (0, 1)]
    padding, size = zip(*axes, strict=True)
    weight = np.zeros((len(layer.weight), inner[0], *size))
    for top, left in np.unique(sampled.first, axis=1).T:
        here = (sampled.first == [[top], [left]]).all(axis=0)
        part = _on_channels(layer, np.where(here, sampled.channels, NOTHING), inner[0])
        for ky, kx in np.ndindex(*kernel):
            weight[:, :, taps[0][ky] + top + padding[0], taps[1][kx] + left + padding[1]] += part[:, :, ky, kx]
    return Conv2d(weight, layer.bias, (stride[0], stride[1]), (padding[0], padding[1]))


def _on_channels(layer: Conv2d, channels: Array, count: int) -> Array:
    """Weights (Cout, count, kH, kW) that read each channel as those of a copy read it."""
    held = channels != NOTHING
    weight = np.zeros((count, len(layer.weight), *layer.weight.shape[2:]))
    np.add.at(weight, channels[held], layer.weight[:, held].transpose(1, 0, 2, 3))
    return np.ascontiguousarray(weight.transpose(1, 0, 2, 3))


def _on_places(layer: Conv2d, parts: list[tuple[Array, MapCopy]], shape: Shape, inner: Shape) -> Conv2d:
    """One kernel for copies at different places, and the padding with which it gives the same map."""
    kernel = layer.weight.shape[2:]
    wanted = window_grid(shape[1:], kernel, layer.stride, layer.padding, layer.dilation)
    tops = [layer.padding[0] + copy.top for _, copy in parts]
    lefts = [layer.padding[1] + copy.left for _, copy in parts]
    if len(parts) == 1 and min(tops[0], lefts[0]) >= 0:
        padding = (tops[0], lefts[0])
        if window_grid(inner[1:], kernel, layer.stride, padding, layer.dilation) == wanted:
            return replace(layer, weight=parts[0][0], padding=padding)
    (dy, dx), (sy, sx) = layer.dilation, layer.stride
    pad_y, size_y = _axis(inner[1], dy * (kernel[0] - 1) + 1, sy, tops, wanted[0])
    pad_x, size_x = _axis(inner[2], dx * (kernel[1] - 1) + 1, sx, lefts, wanted[1])
    weight = np.zeros((*parts[0][0].shape[:2], size_y, size_x))
    for (part, _), top, left in zip(parts, tops, lefts, strict=True):
        y, x = pad_y - top, pad_x - left
        weight[:, :, y : y + dy * (kernel[0] - 1) + 1 : dy, x : x + dx * (kernel[1] - 1) + 1 : dx] += part
    return replace(layer, weight=weight, padding=(pad_y, pad_x), dilation=(1, 1))


def _axis(size: int, reach: int, stride: int, corners: list[int], wanted: int) -> Pair:
    """Padding and kernel size, along one axis, that hold a window of a reach at each corner and give the wanted positions."""
    padding = max(0, *corners)
    while True:
        least = max(padding - corner + reach for corner in corners)
        largest = size + 2 * padding - stride * (wanted - 1)  # of kernels with so many positions
        if largest >= least:
            return padding, max(least, largest - stride + 1)
        padding += 1


def response(name: str, layer: AnySynapse, shift: float | Array, shape: Shape) -> Array:
    """What a layer without bias gives for constant input of a shape: (Cout,), or a whole map where borders differ."""
    if isinstance(layer, Linear):
        return np.asarray(layer.weight @ np.broadcast_to(np.asarray(shift, np.float64), shape).reshape(-1))
    values = np.broadcast_to(np.asarray(shift, np.float64), shape)
    is_even = bool((values == values[:, :1, :1]).all())
    if is_even and not any(layer.padding):
        channels = per_channel(name, "what it reads", values, shape)
        return np.asarray((layer.weight.sum(axis=(2, 3)) * channels[read_channels(layer)]).sum(axis=1))
    given = F.conv2d(
        torch.from_numpy(np.ascontiguousarray(values))[None],
        torch.from_numpy(np.ascontiguousarray(layer.weight)),
        None, layer.stride, layer.padding, layer.dilation, layer.groups,
    )  # fmt: skip
    return given[0].numpy()


def chosen_outputs(layer: AnySynapse, features: Array, inner: Shape) -> AnySynapse:
    """The layer that gives a choice of this one's outputs; `features` has the shape of what is chosen.

    Raises:
        UnfoldableError: pixels of a map, rather than channels, are chosen or moved.
    """
    if isinstance(layer, Linear):
        chosen = features.reshape(-1)
    else:
        c, h, w = inner
        if features.size % (h * w):
            raise UnfoldableError("it takes some pixels of a current's map, which no layer of synapses does")
        maps = features.reshape(-1, h * w)
        chosen = np.where(maps[:, 0] == NOTHING, NOTHING, maps[:, 0] // (h * w))
        expected = np.where((chosen == NOTHING)[:, None], NOTHING, chosen[:, None] * (h * w) + np.arange(h * w))
        if not (maps == expected).all():
            raise UnfoldableError("it moves the pixels of a current's map, which no layer of synapses does")
        if layer.groups > 1 and not (len(chosen) == c and (chosen == np.arange(c)).all()):
            layer = replace(layer, weight=merge_groups(layer.weight, layer.groups, 1), groups=1)
    kept = np.where((chosen != NOTHING).reshape(-1, *[1] * (layer.weight.ndim - 1)), layer.weight[chosen], 0)
    return replace(layer, weight=kept)


def channels_of(features: Array | None, shape: Shape, inner: Shape) -> Array | None:
    """Which channel of a map of shape `inner` stands in each channel of one of `shape`, whole and in place; None for all in order.

    Raises:
        UnfoldableError: pixels are moved too, or it is no map.
    """
    if features is None and shape == inner:
        return None
    if len(inner) != 3:
        raise UnfoldableError("it reads as a map what is flat; a graph does not give flat neurons a shape again")
    if features is None:
        features = np.arange(math.prod(shape))
    placed = map_copies(features.reshape(shape), inner)
    if len(placed) != 1 or (placed[0].top, placed[0].left) != (0, 0) or shape[1:] != inner[1:]:
        raise UnfoldableError("it pools a map that was enlarged, cut or put beside others; pool it before that")
    return placed[0].channels
