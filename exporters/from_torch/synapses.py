"""Layers of synapses and pools: what reads a value becomes nodes that read nodes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from exporters.from_torch.decode import Read, UndecodableError, grouped, joint, reads_of, shift_of
from exporters.from_torch.folding import (
    UnfoldableError,
    channels_of,
    chosen_outputs,
    fold_convolution,
    fold_linear,
    response,
)
from exporters.from_torch.lowering import Lowering, as_bytes, as_shift, float64, key_of
from exporters.from_torch.values import NOTHING, Affine, Gather, Source, added, as_run, constant, elements
from exporters.graph import AnyPool, AnySynapse, Array, AvgPool2d, Conv2d, Flatten, GraphError, Linear, Shape
from exporters.graph.currents import (
    LARGEST_DIAGONAL,
    Current,
    Signal,
    Term,
    identity,
    per_channel,
    scaled_outputs,
)
from exporters.graph.inference import infer_shape


def synapse(
    lowering: Lowering,
    value: Affine,
    weight: Tensor,
    bias: Tensor | None,
    make: Callable[[Array], AnySynapse],
    geometry: Hashable,
    out: Shape,
) -> Affine:
    """What a layer gives for a value (B, *features): (B, *out), currents of synapses that have no node yet.

    Args:
        lowering: the state.
        value: what it reads.
        weight: its weights, which `make` makes a layer of.
        bias: (Cout,) or none.
        make: called with the weights in float64.
        geometry: what else tells the layer from others.
        out: features that it gives.

    Raises:
        LoweringError: what it reads cannot be folded into its weights.
        GraphError: the layer does not fit its input.
    """
    name = lowering.name
    lowering.progress += 1
    weights = lowering.identified(weight)
    known = (name, weights, geometry)
    if known not in lowering.layers:
        lowering.layers[known] = make(float64(weight))
    layer, shape = lowering.layers[known], value.shape[1:]
    reads, shift = signals(lowering, value, name)
    gathers = []
    for group in grouped(reads):
        read, factor = joint(group), 1.0
        if isinstance(read.scale, float):  # it waits for the layer's own readers: a mean over time is not the weights' business
            read, factor = replace(read, scale=1.0), read.scale
        key = (known, read.source.nodes, as_bytes(read.features), as_bytes(read.scale))
        if key not in lowering.sources:
            lowering.sources[key] = _layer_source(lowering, name, layer, read, shape, weights)
        source = lowering.sources[key]
        if source.size != int(np.prod(out)):
            raise lowering.error(f"its output has shape {source.shape}, where torch gives {out}")
        gathers.append(Gather(source, rows_index(source, read.rows, out), factor))
    total = Affine((value.shape[0], *out), tuple(gathers))
    if np.any(shift):
        total = added(total, as_shift(_evened(response(name, layer, shift, shape)), out))
    if bias is not None:
        total = added(total, as_shift(float64(bias), out))
    return total


def _layer_source(
    lowering: Lowering, name: str, layer: AnySynapse, read: Read, shape: Shape, weights: Hashable
) -> Source:
    """Synapses that read a source's own nodes."""
    inner, nodes = read.source.shape, read.source.nodes
    try:
        if isinstance(layer, Linear):
            folded: AnySynapse = fold_linear(layer, read.features, read.scale, read.source.size, shape)
            nodes = flattened(lowering, read)
            inner = (read.source.size,)
        else:
            folded = fold_convolution(name, layer, read.features, read.scale, shape, inner)
    except UnfoldableError as error:
        raise lowering.error(str(error), name) from error
    except GraphError as error:
        raise lowering.error(str(error).removeprefix(f"{name}: "), name) from error
    out = infer_shape(name, folded, inner)
    return Source(
        name, out, read.source.steps, lowering.samples, term=Term(name, folded, nodes), weights=(weights, read.scale)
    )


def rows_index(source: Source, rows: Tensor, shape: Shape) -> Tensor:
    """The index (B, *shape) of rows of a source, all features in order."""
    count = len(rows)
    if count and int(rows[-1]) - int(rows[0]) == count - 1 and torch.equal(rows, elements(int(rows[0]), (count,))):
        return elements(int(rows[0]) * source.size, (count, *shape))
    return (rows[:, None] * source.size + torch.arange(source.size)).view(count, *shape)


def _evened(constants: Array) -> Array:
    """A constant current of a whole map as one number for each channel, where it is the same all over."""
    if constants.ndim == 3 and bool((constants == constants[:, :1, :1]).all()):
        return constants[:, 0, 0]
    return constants


def flattened(lowering: Lowering, read: Read) -> tuple[str, ...]:
    """The nodes of a source, behind a Flatten if they are maps."""
    source = read.source
    if len(source.shape) == 1:
        return source.nodes
    key = ("flatten", source.nodes)
    if key not in lowering.sources:
        node = lowering.builder.add(read.flat or f"{lowering.where}.flatten", Flatten(), source.nodes)
        lowering.sources[key] = Source(node, (source.size,), source.steps, lowering.samples, (node,))
    return lowering.sources[key].nodes


# -- what a value is made of -------------------------------------------------------------------------


def rows_of(lowering: Lowering, value: Affine, name: str) -> tuple[list[Read], float | Array]:
    """The rows of a value (B, *features), and what is added to each.

    Raises:
        LoweringError: they are not rows of single steps and samples.
    """
    try:
        reads, shift = reads_of(value), shift_of(value)
    except UndecodableError as error:
        raise lowering.error(f"{error}; a layer must see the features of one sample at one step", name) from error
    if any(read.source.gates is not None for read in reads):
        raise lowering.error("it reads the membrane of neurons; only their spikes go on in a graph", name)
    return reads, shift


def signals(lowering: Lowering, value: Affine, name: str) -> tuple[list[Read], float | Array]:
    """The rows of a value as reads of nodes: currents get theirs, with their sums, factors and shifts in them."""
    reads, shift = rows_of(lowering, value, name)
    if all(read.source.nodes for read in reads):
        return reads, shift
    in_order = len({read.source.shape for read in reads}) == 1 and all(read.features is None for read in reads)
    if in_order and len(grouped([replace(read, scale=1.0) for read in reads])) == 1:
        try:
            source = composite(lowering, reads, shift, name)
        except GraphError:
            pass  # a factor within a channel: the layer that reads it may take it in
        else:
            moving = max(reads, key=lambda read: read.source.steps)
            return [Read(source, moving.rows, None, 1.0, flat=reads[0].flat)], 0.0
    for source in (read.source for read in reads):
        if not source.nodes:
            assert source.term is not None
            source.nodes = tuple(place(lowering, Current((source.term,), source.shape)))
            lowering.weights_of[source.nodes[0]] = source.weights
    return reads, shift


def composite(lowering: Lowering, reads: Sequence[Read], shift: float | Array, name: str) -> Source:
    """A sum of currents as nodes; the same sum is the same nodes."""
    key = key_of(reads, shift)
    if key not in lowering.sources:
        shape = reads[0].source.shape
        nodes = tuple(place(lowering, current(lowering, reads, shift, name, shape)))
        steps = max(read.source.steps for read in reads)
        lowering.sources[key] = Source(reads[0].source.name, shape, steps, lowering.samples, nodes)
    return lowering.sources[key]


def place(lowering: Lowering, what: Current) -> list[str]:
    """The nodes of a sum of currents."""
    return lowering.builder.place(what)


def current(
    lowering: Lowering,
    reads: Sequence[Read],
    shift: float | Array,
    name: str,
    shape: Shape,
) -> Current:
    """What arrives at neurons of a shape, or at the output: synapses alone, the shift as the bias of the first of them.

    Raises:
        GraphError: something is scaled differently within a channel.
        LoweringError: it is rearranged in a way that no layer expresses, or depends on nothing.
    """
    parts: list[Term | Signal] = []
    for read in _sums_of_signals(reads):
        try:
            parts.append(_onto(lowering, read, name, shape))
        except UnfoldableError as error:
            raise lowering.error(str(error), name) from error
    first = next((i for i, part in enumerate(parts) if isinstance(part, Term)), None)
    if first is None:
        raise lowering.error("what arrives does not depend on the input", name)
    bias = _bias(shift, shape)
    if bias is not None:
        term = parts[first]
        assert isinstance(term, Term)
        parts[first] = replace(term, synapse=replace(term.synapse, bias=bias))
    return Current(tuple(parts), shape)


def amplified(what: Current, gain: Array) -> Current:
    """A sum of currents with all its channels multiplied by gain (C,)."""
    parts = []
    for part in what.parts:
        assert isinstance(part, Term), "flattened currents are not amplified"
        parts.append(replace(part, synapse=scaled_outputs(part.synapse, gain)))
    return Current(tuple(parts), what.shape)


def _bias(shift: float | Array, shape: Shape) -> Array | None:
    """The shift as a bias: (C,), or (C, H, W) where it differs within a channel; None where it is nothing."""
    if not np.any(shift):
        return None
    full = np.broadcast_to(np.asarray(shift, np.float64), shape)
    return np.ascontiguousarray(_evened(full))


def _sums_of_signals(reads: Sequence[Read]) -> list[Read]:
    """Signals that differ in nothing but their nodes as one, currents each by itself; in the order of the first of each."""
    found: list[Read] = []
    groups = grouped([read for read in reads if read.source.term is None])
    for read in reads:
        if read.source.term is not None:
            found.append(read)
        else:
            found += [joint(group) for group in groups if group[0] is read]
    return found


def _onto(lowering: Lowering, read: Read, name: str, shape: Shape) -> Term | Signal:
    """One read as synapses onto neurons of a shape, or as the flattened map of such."""
    source = read.source
    if source.term is None:
        return _one_to_one(lowering, read, name, shape)
    term, inner = source.term, source.shape
    if read.features is not None:
        term = replace(term, synapse=chosen_outputs(term.synapse, read.features, inner))
        inner = (len(term.synapse.weight), *inner[1:])
    if not (isinstance(read.scale, float) and read.scale == 1):
        scale = read.scale
        if isinstance(scale, np.ndarray) and len(inner) != scale.ndim:
            scale = np.broadcast_to(scale, read.features.shape if read.features is not None else shape).reshape(inner)
        factors = per_channel(term.name, "its current", scale, inner)
        term = replace(term, synapse=scaled_outputs(term.synapse, factors))
    if inner == shape:
        return term
    if len(shape) == 3:
        raise UnfoldableError(f"the current of {term.name} is flat, and its neurons are a map; leave it flat")
    node = lowering.builder.add(term.name, term.synapse, term.nodes)
    return Signal((lowering.builder.add(read.flat or f"{node}.flatten", Flatten(), (node,)),))


def _one_to_one(lowering: Lowering, read: Read, name: str, shape: Shape) -> Term:
    """Signals as a current: synapses from each neuron to its counterpart."""
    source, label = read.source, f"{read.label or name}.identity"
    if read.features is None and source.shape == shape:
        return Term(label, identity(label, shape, read.scale), source.nodes)
    if len(shape) == 3:
        same = identity(label, shape)
        assert isinstance(same, Conv2d)
        folded = fold_convolution(label, same, read.features, read.scale, shape, source.shape)
        return Term(label, folded, source.nodes)
    if max(shape[0], source.size) > LARGEST_DIAGONAL:
        raise UnfoldableError(f"{shape[0]} of {source.size} neurons reach it without a layer in between")
    return Term(
        label,
        fold_linear(Linear(np.eye(shape[0])), read.features, read.scale, source.size, shape),
        flattened(lowering, read),
    )


# -- pools -------------------------------------------------------------------------------------------


def pool(lowering: Lowering, value: Affine, node: AnyPool, out: Shape) -> Affine:
    """What a pool gives for a value (B, C, H, W): (B, *out).

    Factors of a channel and (where nothing is padded) shifts pass through it; channels may be chosen and repeated.

    Raises:
        LoweringError: a max-pool over currents, over what is scaled by negative numbers, or over maps that overlap.
    """
    name = lowering.name
    lowering.progress += 1
    shape = value.shape[1:]
    is_max = not isinstance(node, AvgPool2d)
    if is_max and any(g.source.term is not None for g in value.gathers):
        raise lowering.error("a max-pool over membrane currents has no spiking form; put the neurons before it", name)
    reads, shift = signals(lowering, value, name)
    groups = grouped(reads)
    if is_max and len(groups) > 1 and not _are_apart(groups):
        raise lowering.error("a max-pool over sums of signals that differ in more than their neurons has no counterpart", name)
    total = Affine((value.shape[0], *out))
    for group in groups:
        read = joint(group)
        total = added(total, _pooled(lowering, name, node, read, shape, out, is_max=is_max))
    if np.any(shift):
        full = torch.from_numpy(np.broadcast_to(np.asarray(shift, np.float64), shape).copy())[None]
        if is_max:
            if not bool((full == full[..., :1, :1]).all()):
                raise lowering.error("a max-pool over a shift that differs within a channel has no counterpart", name)
            moved = full[..., :1, :1].expand(1, *out)
        elif not any(node.padding) and bool((full == full[..., :1, :1]).all()):
            moved = (full[..., :1, :1] * (np.prod(node.kernel) / _divisor(node))).expand(1, *out)
        else:
            moved = F.avg_pool2d(full, node.kernel, node.stride, node.padding, divisor_override=_divisor(node))
        total = added(total, constant(moved))
    return total


def _divisor(node: AnyPool) -> int:
    return node.divisor if isinstance(node, AvgPool2d) else 1


def _are_apart(groups: Sequence[Sequence[Read]]) -> bool:
    """Whether no two groups hold anything at the same place, as after a concatenation."""
    held = [g[0].features != NOTHING if g[0].features is not None else None for g in groups]
    if any(h is None for h in held):
        return False
    return bool((np.sum([np.asarray(h, int) for h in held], axis=0) <= 1).all())


def _pooled(
    lowering: Lowering, name: str, node: AnyPool, read: Read, shape: Shape, out: Shape, *, is_max: bool
) -> Affine:
    source = read.source
    try:
        channels = channels_of(read.features, shape, source.shape)
        factors = per_channel(name, "what it pools", read.scale, shape)
    except UnfoldableError as error:
        if not is_max and len(source.shape) == 1:
            return _pooled_flat(lowering, name, node, read, shape, out)
        raise lowering.error(str(error), name) from error
    if is_max and bool((factors <= 0).any()):
        raise lowering.error("a BatchNorm stands between spikes and this max-pool that turns them around", name)
    key = ("pool", name, type(node), node.kernel, node.stride, node.padding, _divisor(node), source.nodes)
    if key not in lowering.sources:
        made = lowering.builder.add(name, node, source.nodes)
        inner = infer_shape(made, node, source.shape)
        pooled = Source(made, inner, source.steps, lowering.samples, (made,))
        pooled.is_binary = is_max and source.is_binary
        lowering.sources[key] = pooled
    pooled = lowering.sources[key]
    index = rows_index(pooled, read.rows, pooled.shape)
    if channels is not None:
        taken = index[:, torch.from_numpy(np.maximum(channels, 0))]
        index = torch.where(torch.from_numpy(channels == NOTHING)[None, :, None, None], NOTHING, taken)
    scale = torch.from_numpy(np.ascontiguousarray(factors)).reshape(1, -1, 1, 1)
    level = float(scale[0, 0, 0, 0])
    return Affine(
        (len(read.rows), *out),
        (Gather(pooled, as_run(index), level if bool((scale == level).all()) else scale),),
    )


def _pooled_flat(
    lowering: Lowering, name: str, node: AnyPool, read: Read, shape: Shape, out: Shape
) -> Affine:
    """An average over groups of flat neurons, as voting layers take it: a dense layer."""
    size = read.source.size
    if size > LARGEST_DIAGONAL:
        raise lowering.error(f"it averages {size} flat neurons, which would be a needlessly large layer", name)
    key = ("flat pool", name, node.kernel, node.stride, node.padding, read.source.nodes, as_bytes(read.features), as_bytes(read.scale))
    if key not in lowering.sources:
        same = fold_linear(Linear(np.eye(int(np.prod(shape)))), read.features, read.scale, size, shape)
        columns = torch.from_numpy(np.ascontiguousarray(same.weight.T)).reshape(size, *shape)
        given = F.avg_pool2d(columns, node.kernel, node.stride, node.padding, divisor_override=_divisor(node))
        weight = np.ascontiguousarray(given.reshape(size, -1).numpy().T)
        term = Term(name, Linear(weight), read.source.nodes)
        lowering.sources[key] = Source(name, (len(weight),), read.source.steps, lowering.samples, term=term)
    source = lowering.sources[key]
    return Affine((len(read.rows), *out), (Gather(source, rows_index(source, read.rows, out)),))
