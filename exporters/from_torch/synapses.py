"""Layers of synapses: what reads a value becomes weights that read nodes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from exporters.from_torch.decode import Read, UndecodableError, by_step, grouped, joint, reads_of, shift_of
from exporters.from_torch.folding import (
    CutError,
    UnfoldableError,
    chosen_outputs,
    fold_convolution,
    fold_linear,
    response,
)
from exporters.from_torch.lowering import Lowering, as_bytes, as_shift, float64, key_of
from exporters.from_torch.steps import shift_for
from exporters.from_torch.unknown import unknown_of
from exporters.from_torch.values import NOTHING, Affine, Gather, Origin, added, elements
from exporters.graph import AnySynapse, Array, Conv2d, Flatten, GraphError, Linear, Shape
from exporters.graph.currents import (
    LARGEST_DIAGONAL,
    Current,
    Signal,
    SynapseTerm,
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
        out: shape of the features that it gives.

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
    reads, shift = rows_of(lowering, value, name)
    gathers = []
    for read in _smaller_at_once(lowering, known, layer, reads) if isinstance(layer, Linear) else ():
        origin = _through(lowering, known, layer, read, shape)
        gathers.append(Gather(origin, rows_index(origin, read.rows, out)))
        reads = [other for other in reads if other is not read]
    reads, shift = signals(lowering, reads, shift, name)
    for group in grouped(reads):
        read = joint(group)
        factor = 1.0
        if isinstance(
            read.scale, float
        ):  # it waits for who reads the layer: a mean over time is no business of weights
            factor, read = read.scale, replace(read, scale=1.0)
        key = (known, read.origin.nodes, as_bytes(read.features), as_bytes(read.scale))
        if key not in lowering.origins:
            lowering.origins[key] = _current_of(lowering, name, layer, read, shape, weights)
        origin = lowering.origins[key]
        gathers.append(Gather(origin, rows_index(origin, read.rows, out), factor))
    total = Affine((value.shape[0], *out), tuple(gathers))
    if np.any(shift):
        total = added(total, as_shift(evened(response(name, layer, shift, shape)), out))
    if bias is not None:
        total = added(total, as_shift(float64(bias), out))
    return total


def _smaller_at_once(lowering: Lowering, known: Hashable, layer: Linear, reads: Sequence[Read]) -> list[Read]:
    """Those of its reads that are linear layers, with no neurons between, if there are no more weights as one with them.

    What was one layer once stays that: at later steps it may have got nodes for others that read it.
    """
    count, hidden = layer.weight.shape
    found = []
    for together in by_step(reads):
        merged = [read for read in together if _through_key(known, read) in lowering.origins]
        rest = [read for read in together if read not in merged]
        terms = [read.origin.term for read in rest if read.origin.term is not None and not read.origin.nodes]
        linear = [term.synapse.weight for term in terms if isinstance(term.synapse, Linear)]
        before, after = sum(w.size for w in linear), sum(count * w.shape[1] for w in linear)
        found += merged
        if len(linear) == len(rest) and before + count * hidden >= after:
            found += rest
    return found


def _through_key(known: Hashable, read: Read) -> Hashable:
    return ("through", known, id(read.origin), as_bytes(read.features), as_bytes(read.scale))


def _through(lowering: Lowering, known: Hashable, layer: Linear, read: Read, shape: Shape) -> Origin:
    """Linear layers one after the other as one: the product of their weights."""
    term = read.origin.term
    assert term is not None and isinstance(term.synapse, Linear)
    key = _through_key(known, read)
    if key not in lowering.origins:
        own = fold_linear(layer, read.features, read.scale, read.origin.size, shape)
        product = replace(own, weight=own.weight @ term.synapse.weight)
        lowering.notes[lowering.name] = f"its weights hold those of {term.name}: no neurons lie between them"
        lowering.origins[key] = Origin(
            lowering.name,
            (len(product.weight),),
            read.origin.steps,
            lowering.samples,
            term=SynapseTerm(lowering.name, product, term.nodes),
            weights=(known, read.origin.weights, as_bytes(read.features), as_bytes(read.scale)),
        )
    return lowering.origins[key]


def _current_of(
    lowering: Lowering, name: str, layer: AnySynapse, read: Read, shape: Shape, weights: Hashable
) -> Origin:
    """Synapses that read an origin's own nodes, as an origin of their currents."""
    inner, nodes = read.origin.shape, read.origin.nodes
    try:
        if isinstance(layer, Linear):
            folded: AnySynapse = fold_linear(layer, read.features, read.scale, read.origin.size, shape)
            nodes, inner = flattened(lowering, read), (read.origin.size,)
        else:
            try:
                folded = fold_convolution(name, layer, read.features, read.scale, shape, inner)
            except CutError:
                folded, nodes, inner = layer, _cut(lowering, name, read, shape), shape
    except UnfoldableError as error:
        raise lowering.error(str(error), name) from error
    except GraphError as error:
        raise lowering.error(str(error).removeprefix(f"{name}: "), name) from error
    return Origin(
        name,
        infer_shape(name, folded, inner),
        read.origin.steps,
        lowering.samples,
        term=SynapseTerm(name, folded, nodes),
        weights=(weights, as_bytes(read.features), as_bytes(read.scale)),
    )


def _cut(lowering: Lowering, name: str, read: Read, shape: Shape) -> tuple[str, ...]:
    """What a layer reads as a node of its own: synapses of weight 1 (or the factor)."""
    label = f"{name}.cut"
    same = identity(label, shape)
    assert isinstance(same, Conv2d)
    term = SynapseTerm(
        label, fold_convolution(label, same, read.features, read.scale, shape, read.origin.shape), read.origin.nodes
    )
    return (lowering.builder.add(term.name, term.synapse, term.nodes),)


def rows_index(origin: Origin, rows: Tensor, shape: Shape) -> Tensor:
    """The index (B, *shape) of rows of an origin, all features in order; of nothing where a row holds nothing."""
    count = len(rows)
    if count and rows[0] != NOTHING and torch.equal(rows, elements(int(rows[0]), (count,))):
        return elements(int(rows[0]) * origin.size, (count, *shape))
    index = rows[:, None] * origin.size + torch.arange(origin.size)
    return torch.where(rows[:, None] == NOTHING, NOTHING, index).view(count, *shape)


def evened(constants: Array) -> Array:
    """A constant current of a whole map as one number for each channel, where it is the same all over."""
    if constants.ndim == 3 and bool((constants == constants[:, :1, :1]).all()):
        return constants[:, 0, 0]
    return constants


def flattened(lowering: Lowering, read: Read) -> tuple[str, ...]:
    """The nodes of an origin, behind a Flatten if they are maps."""
    origin = read.origin
    if len(origin.shape) == 1:
        return origin.nodes
    key = ("flatten", origin.nodes)
    if key not in lowering.origins:
        node = lowering.builder.add(read.flat or f"{lowering.where}.flatten", Flatten(), origin.nodes)
        lowering.origins[key] = Origin(node, (origin.size,), origin.steps, lowering.samples, (node,))
    return lowering.origins[key].nodes


# -- what a value is made of -------------------------------------------------------------------------


def rows_of(lowering: Lowering, value: Affine, name: str) -> tuple[list[Read], float | Array]:
    """The rows of a value (B, *features), and what is added to each.

    Raises:
        LoweringError: they are not rows of single steps and samples, or hold the membrane of neurons, or what no graph has.
    """
    if (unknown := unknown_of([value])) is not None:
        raise unknown
    try:
        reads, shift = reads_of(value), shift_of(value)
    except UndecodableError as error:
        raise lowering.error(f"{error}; a layer must see the features of one sample at one step", name) from error
    if any(read.origin.gates is not None for read in reads):
        raise lowering.error("it reads the membrane of neurons; only their spikes go on in a graph", name)
    return reads, shift


def signals(lowering: Lowering, reads: list[Read], shift: float | Array, name: str) -> tuple[list[Read], float | Array]:
    """The rows of a value as reads of nodes: currents get theirs, with their sums, factors and shifts in them.

    A shift goes with what is the same at every step or of the last one: that is there from the first step on, as the shift is.
    """
    found: list[Read] = []
    for together in by_step(reads):
        with_shift = not found and all(bool((read.rows != NOTHING).all()) for read in together)
        at_once = _currents_at_once(lowering, together, shift if with_shift else 0.0, name)
        if at_once is not None:
            found.append(at_once)
            shift = 0.0 if with_shift else shift
            continue
        for read in together:
            origin = read.origin
            if not origin.nodes:
                assert origin.term is not None
                alone = replace(read, features=None, scale=1.0)
                origin.nodes = tuple(place(lowering, Current((origin.term,), origin.shape), [alone]))
        found += together
    return found, shift


def _currents_at_once(lowering: Lowering, reads: list[Read], shift: float | Array, name: str) -> Read | None:
    """A sum of currents as one read of nodes; None where it is none, or each has to be read by itself."""
    if all(read.origin.nodes for read in reads):
        return None
    in_order = len({read.origin.shape for read in reads}) == 1 and all(read.features is None for read in reads)
    if not in_order or len(grouped([replace(read, scale=1.0) for read in reads])) > 1:
        return None
    try:
        origin = composite(lowering, reads, shift, name)
    except GraphError:
        return None  # a factor within a channel: the layer that reads it may take it in
    moving = max(reads, key=lambda read: read.origin.steps)
    return Read(origin, moving.shape, moving.rows, None, flat=reads[0].flat)


def composite(lowering: Lowering, reads: Sequence[Read], shift: float | Array, name: str) -> Origin:
    """A sum of currents as nodes; the same sum is the same nodes."""
    key = key_of(reads, shift)
    if key not in lowering.origins:
        shape = reads[0].origin.shape
        nodes = tuple(placed_current(lowering, reads, shift_for(shift, reads[0].shape, shape), name, shape))
        steps = max(read.origin.steps for read in reads)
        lowering.origins[key] = Origin(reads[0].origin.name, shape, steps, lowering.samples, nodes)
    return lowering.origins[key]


def place(lowering: Lowering, what: Current, reads: Sequence[Read]) -> list[str]:
    """The nodes of a sum of currents, whose weights are remembered by what they are of."""
    nodes = lowering.builder.place(what)
    for node, read in zip(nodes, reads, strict=True):
        if read.origin.weights is not None:
            lowering.weights_of[node] = (read.origin.weights, as_bytes(read.features), as_bytes(read.scale))
    return nodes


def placed_current(
    lowering: Lowering,
    reads: Sequence[Read],
    shift: float | Array,
    name: str,
    shape: Shape,
    gain: Array | None = None,
) -> list[str]:
    """The nodes of what arrives at neurons of a shape, or at the output.

    See `current`. `gain` (C,) multiplies all of it.
    """
    what = current(lowering, reads, shift, name, shape)
    if gain is not None:
        parts = [replace(p, synapse=scaled_outputs(p.synapse, gain)) for p in what.parts if isinstance(p, SynapseTerm)]
        if len(parts) < len(what.parts):
            raise lowering.error(
                "maps and flat currents meet before neurons that scale them; flatten before the layers", name
            )
        what = Current(tuple(parts), shape)
    return place(lowering, what, _sums_of_signals(reads))


def current(lowering: Lowering, reads: Sequence[Read], shift: float | Array, name: str, shape: Shape) -> Current:
    """What arrives at neurons of a shape, or at the output: synapses alone, the shift as the bias of the first of them.

    Raises:
        GraphError: something is scaled differently within a channel.
        LoweringError: it is rearranged in a way that no layer expresses, or depends on nothing.
    """
    parts: list[SynapseTerm | Signal] = []
    for read in _sums_of_signals(reads):
        try:
            parts.append(_onto(lowering, read, name, shape))
        except UnfoldableError as error:
            raise lowering.error(str(error), name) from error
    first = next((i for i, part in enumerate(parts) if isinstance(part, SynapseTerm)), None)
    if first is None:
        raise lowering.error("what arrives does not depend on the input", name)
    bias = _bias(shift, shape)
    if bias is not None:
        term = parts[first]
        assert isinstance(term, SynapseTerm)
        parts[first] = replace(term, synapse=replace(term.synapse, bias=bias))
    return Current(tuple(parts), shape)


def _bias(shift: float | Array, shape: Shape) -> Array | None:
    """The shift as a bias: (C,), or (C, H, W) where it differs within a channel; None where it is nothing."""
    if not np.any(shift):
        return None
    return np.ascontiguousarray(evened(np.broadcast_to(np.asarray(shift, np.float64), shape)))


def _sums_of_signals(reads: Sequence[Read]) -> list[Read]:
    """Signals that differ in nothing but their nodes as one, currents each by itself; in the order of the first of each."""
    found: list[Read] = []
    groups = grouped([read for read in reads if read.origin.term is None])
    for read in reads:
        if read.origin.term is not None:
            found.append(read)
        else:
            found += [joint(group) for group in groups if group[0] is read]
    return found


def _onto(lowering: Lowering, read: Read, name: str, shape: Shape) -> SynapseTerm | Signal:
    """One read as synapses onto neurons of a shape, or as the flattened map of such."""
    origin = read.origin
    if origin.term is None:
        return _one_to_one(lowering, read, name, shape)
    term, inner = origin.term, origin.shape
    if read.features is not None:
        term = replace(term, synapse=chosen_outputs(term.synapse, read.features, inner))
        inner = (len(term.synapse.weight), *inner[1:])
    if not (isinstance(read.scale, float) and read.scale == 1):
        scale = read.scale
        if isinstance(scale, np.ndarray) and len(inner) != scale.ndim:
            scale = np.broadcast_to(scale, read.shape).reshape(inner)
        term = replace(term, synapse=scaled_outputs(term.synapse, per_channel(term.name, "its current", scale, inner)))
    if inner == shape:
        return term
    if len(shape) == 3:
        raise UnfoldableError(f"the current of {term.name} is flat, and its neurons are a map; leave it flat")
    node = lowering.builder.add(term.name, term.synapse, term.nodes)
    return Signal((lowering.builder.add(read.flat or f"{node}.flatten", Flatten(), (node,)),))


def _one_to_one(lowering: Lowering, read: Read, name: str, shape: Shape) -> SynapseTerm:
    """Signals as a current: synapses from each neuron to its counterpart."""
    origin, label = read.origin, f"{read.label or name}.identity"
    if read.features is None and origin.shape == shape:
        return SynapseTerm(label, identity(label, shape, read.scale), origin.nodes)
    if len(shape) == 3:
        same = identity(label, shape)
        assert isinstance(same, Conv2d)
        folded = fold_convolution(label, same, read.features, read.scale, shape, origin.shape)
        return SynapseTerm(label, folded, origin.nodes)
    if max(shape[0], origin.size) > LARGEST_DIAGONAL:
        raise UnfoldableError(f"{shape[0]} of {origin.size} neurons reach it without a layer in between")
    weights = fold_linear(Linear(np.eye(shape[0])), read.features, read.scale, origin.size, shape)
    return SynapseTerm(label, weights, flattened(lowering, read))
