"""Pools: nodes that read nodes, through which factors of channels and shifts pass."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from exporters.from_torch.decode import Read, grouped, joint
from exporters.from_torch.factors import plain
from exporters.from_torch.folding import UnfoldableError, channels_of, fold_linear
from exporters.from_torch.lowering import Lowering, as_bytes
from exporters.from_torch.synapses import flattened, rows_index, rows_of, signals
from exporters.from_torch.values import NOTHING, Affine, Gather, Origin, added, as_run, constant
from exporters.graph import AnyPool, Array, AvgPool2d, Linear, Shape
from exporters.graph.currents import LARGEST_DIAGONAL, SynapseTerm, per_channel
from exporters.graph.inference import infer_shape


def pool(lowering: Lowering, value: Affine, node: AnyPool, out: Shape) -> Affine:
    """What a pool gives for a value (B, C, H, W): (B, *out). Channels may be chosen and repeated.

    Raises:
        LoweringError: a max-pool over currents, over what is scaled by negative numbers, or over maps that overlap; or a
            map that was enlarged or cut.
    """
    name = lowering.name
    lowering.progress += 1
    is_max = not isinstance(node, AvgPool2d)
    if is_max and any(g.origin.term is not None for g in value.gathers):
        raise lowering.error("a max-pool over membrane currents has no spiking form; put the neurons before it", name)
    reads, shift = signals(lowering, *rows_of(lowering, value, name), name)
    groups = grouped(reads)
    if is_max and len(groups) > 1 and not _are_apart(groups):
        raise lowering.error(
            "a max-pool over signals that are scaled or rearranged differently has no counterpart", name
        )
    total = Affine((value.shape[0], *out))
    for group in groups:
        total = added(total, _pooled(lowering, name, node, joint(group), value.shape[1:], out))
    if np.any(shift):
        total = added(total, constant(_pooled_shift(lowering, name, node, shift, value.shape[1:], out)))
    return total


def _pooled_shift(
    lowering: Lowering, name: str, node: AnyPool, shift: float | Array, shape: Shape, out: Shape
) -> Tensor:
    """What a pool makes of constants, (1, *out)."""
    full = torch.from_numpy(np.broadcast_to(np.asarray(shift, np.float64), shape).copy())[None]
    corner = full[..., :1, :1]
    is_even = bool((full == corner).all())
    if isinstance(node, AvgPool2d):
        if is_even and not any(node.padding):
            return (corner * (math.prod(node.kernel) / node.divisor)).expand(1, *out)
        return F.avg_pool2d(full, node.kernel, node.stride, node.padding, divisor_override=node.divisor)
    if not is_even:
        raise lowering.error("a max-pool over a shift that differs within a channel has no counterpart", name)
    return corner.expand(1, *out)


def _are_apart(groups: Sequence[Sequence[Read]]) -> bool:
    """Whether no two groups hold anything at the same place, as after a concatenation."""
    held = [group[0].features for group in groups]
    total = sum((features != NOTHING).astype(int) if features is not None else 2 for features in held)
    return bool(np.max(total) <= 1)


def _pooled(lowering: Lowering, name: str, node: AnyPool, read: Read, shape: Shape, out: Shape) -> Affine:
    """What a pool makes of one read."""
    origin, is_max = read.origin, not isinstance(node, AvgPool2d)
    try:
        channels = channels_of(read.features, shape, origin.shape)
    except UnfoldableError as error:
        is_flat = len(origin.shape) == 1 or math.prod(shape) == max(shape)
        if isinstance(node, AvgPool2d) and is_flat:
            return _pooled_flat(lowering, name, node, read, shape, out)
        raise lowering.error(str(error), name) from error
    factors = per_channel(name, "what it pools", read.scale, shape)
    if is_max and bool((factors <= 0).any()):
        raise lowering.error(
            "a BatchNorm (or a factor) before this max-pool turns spikes around; put it behind the pool", name
        )
    divisor = node.divisor if isinstance(node, AvgPool2d) else 0
    key = ("pool", name, node.kernel, node.stride, node.padding, divisor, origin.nodes)
    if key not in lowering.origins:
        made = lowering.builder.add(name, node, origin.nodes)
        inner = infer_shape(made, node, origin.shape)
        is_binary = is_max and origin.is_binary
        lowering.origins[key] = Origin(made, inner, origin.steps, lowering.samples, (made,), is_binary=is_binary)
    pooled = lowering.origins[key]
    index = rows_index(pooled, read.rows, pooled.shape)
    if channels is not None:
        taken = index[:, torch.from_numpy(np.maximum(channels, 0))]
        index = torch.where(torch.from_numpy(channels == NOTHING)[None, :, None, None], NOTHING, taken)
    scale = plain(torch.from_numpy(factors.copy()).reshape(1, -1, 1, 1))
    return Affine((len(read.rows), *out), (Gather(pooled, as_run(index), scale),))


def _pooled_flat(lowering: Lowering, name: str, node: AvgPool2d, read: Read, shape: Shape, out: Shape) -> Affine:
    """An average over groups of flat neurons, or of maps that were flattened, as voting layers take it: a dense layer."""
    size = read.origin.size
    if size > LARGEST_DIAGONAL:
        raise lowering.error(f"it averages {size} flat neurons, which would be a needlessly large layer", name)
    key = (
        "flat pool", name, node.kernel, node.stride, node.padding, node.divisor, read.origin.nodes,
        as_bytes(read.features), as_bytes(read.scale),
    )  # fmt: skip
    if key not in lowering.origins:
        same = fold_linear(Linear(np.eye(math.prod(shape))), read.features, read.scale, size, shape)
        columns = torch.from_numpy(np.ascontiguousarray(same.weight.T)).reshape(size, *shape)
        given = F.avg_pool2d(columns, node.kernel, node.stride, node.padding, divisor_override=node.divisor)
        weight = np.ascontiguousarray(given.reshape(size, -1).numpy().T)
        term = SynapseTerm(name, Linear(weight), flattened(lowering, read))
        lowering.origins[key] = Origin(name, (len(weight),), read.origin.steps, lowering.samples, term=term)
    origin = lowering.origins[key]
    return Affine((len(read.rows), *out), (Gather(origin, rows_index(origin, read.rows, out)),))
