"""What a symbolic tensor holds: for every element a sum of elements of the new graph's nodes, scaled, plus a constant.

An element of a node is one number: of one neuron (or pixel), one sample, one time step. Which elements a value is made of
stands in index tensors of the value's own shape, so that whatever a network does to the layout (views, permutations,
slices, concatenation, repetition) is done to them by torch itself and needs no rule here. Arithmetic is float64.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from exporters.from_torch.factors import Factor, aligned, as_tensor, compact, plain, plus, times
from exporters.from_torch.refusals import LoweringError
from exporters.graph import Shape
from exporters.graph.currents import SynapseTerm

NOTHING = -1
"""In an index: no element, which is a zero."""
MOST_GATHERS = 1024
"""Of one value: a sum over more elements than this is not kept as a sum."""


@dataclass(eq=False)
class Origin:
    """An origin is a space of elements (steps, samples, *shape), numbered in C order, that nodes of the graph fill.

    Attributes:
        name: for messages.
        shape: of the nodes, (C, H, W) or (F,).
        steps: T, or 1 for what is the same at every step.
        samples: of the batch that is pushed through.
        nodes: names of the nodes whose sum it is; empty while it is but a `term`.
        term: synapses that have no node yet.
        weights: what tells the weights of these from others.
        is_binary: whether every element is 0 or 1.
        gates: of what is a membrane where its neuron fires and else 0, the spikes of that neuron.
        unknown: why nothing may read it, where no graph has what it is.
    """

    name: str
    shape: Shape
    steps: int
    samples: int
    nodes: tuple[str, ...] = ()
    term: SynapseTerm | None = None
    weights: Hashable = None
    is_binary: bool = False
    gates: Origin | None = None
    unknown: LoweringError | None = None
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = math.prod(self.shape)

    @property
    def is_static(self) -> bool:
        """Whether it is the same at every step."""
        return self.steps == 1


@dataclass(frozen=True, eq=False)
class Gather:
    """For every element of a value, one element of an origin (or none) times a factor.

    `label` is where it was added to currents, `flat` where its map was flattened: nodes made for it are named so.
    """

    origin: Origin
    index: Tensor
    scale: Factor = 1.0
    label: str = ""
    flat: str = ""


@dataclass(frozen=True, eq=False)
class Affine:
    """A value is the sum of its gathers plus a shift."""

    shape: Shape
    gathers: tuple[Gather, ...] = ()
    shift: Factor = 0.0

    @property
    def is_constant(self) -> bool:
        """Whether it depends on no node."""
        return not self.gathers


_runs: dict[int, Tensor] = {}
"""Where 0, 1, 2, … stand in memory, by address: the last one is the longest."""


def elements(start: int, shape: Sequence[int]) -> Tensor:
    """The numbers start, start + 1, … in C order of the shape: a view, so that it costs nothing and is recognized at once."""
    count = math.prod(shape)
    numbers = next(reversed(_runs.values()), None)
    if numbers is None or start + count > len(numbers):
        numbers = torch.arange(max(1 << 20, 2 * (start + count)))
        _runs[numbers.untyped_storage().data_ptr()] = numbers
    return numbers[start : start + count].view(*shape)


def forget_runs() -> None:
    """Give back the memory that `elements` took."""
    _runs.clear()


def is_run(index: Tensor) -> bool:
    """Whether an index is what `elements` gives, without looking at the numbers."""
    return index.is_contiguous() and index.untyped_storage().data_ptr() in _runs


def same_place(a: Gather, b: Gather, *, closely: bool = False) -> bool:
    """Whether two gathers read the same elements: as far as a glance tells, or (closely) number by number."""
    if a.origin is not b.origin or a.index.shape != b.index.shape:
        return False
    if is_run(a.index) and is_run(b.index):
        return a.index.storage_offset() == b.index.storage_offset()
    if a.index.data_ptr() == b.index.data_ptr() and a.index.stride() == b.index.stride():
        return True
    return closely and torch.equal(a.index, b.index)


def place_of(gather: Gather) -> Hashable:
    """What tells the elements that a gather reads from those of others of its shape, as far as a glance does."""
    index = gather.index
    if is_run(index):
        return (id(gather.origin), index.storage_offset())
    return (id(gather.origin), index.data_ptr(), index.stride())


def as_run(index: Tensor) -> Tensor:
    """The index as `elements` gives it, if its numbers are such a run."""
    if is_run(index) or index.numel() == 0:
        return index
    first, last = int(index[(0,) * index.ndim]), int(index[(-1,) * index.ndim])
    if first < 0 or last - first != index.numel() - 1:
        return index
    run = elements(first, index.shape)
    return run if torch.equal(run, index) else index


def fresh(origin: Origin, start: int, shape: Sequence[int], scale: Factor = 1.0) -> Affine:
    """The elements of an origin from a number on, in its own order."""
    return Affine(tuple(shape), (Gather(origin, elements(start, shape), scale),))


def constant(values: Tensor) -> Affine:
    """A value that depends on no node."""
    return Affine(tuple(values.shape), (), plain(values.detach().to("cpu", torch.float64)))


def real(value: Affine, dtype: torch.dtype) -> Tensor:
    """The numbers of a value that depends on no node."""
    assert value.is_constant
    shift = value.shift
    return as_tensor(shift).expand(value.shape).to(dtype).clone()


# -- algebra -----------------------------------------------------------------------------------------


def broadcast(a: Sequence[int], b: Sequence[int]) -> Shape:
    """The shape of a sum or product of values of two shapes."""
    return np.broadcast_shapes(tuple(a), tuple(b))  # torch has it in Python, behind a long import


def expanded(value: Affine, shape: Shape) -> Affine:
    """The value broadcast to a shape."""
    if value.shape == shape:
        return value
    ndim = len(shape)
    gathers = tuple(
        replace(
            g,
            index=g.index.expand(shape),
            scale=aligned(g.scale, ndim) if isinstance(g.scale, Tensor) else g.scale,
        )
        for g in value.gathers
    )
    shift = aligned(value.shift, ndim) if isinstance(value.shift, Tensor) else value.shift
    return Affine(shape, gathers, shift)


def added(a: Affine, b: Affine, label: str = "") -> Affine:
    """The sum. Where currents meet spikes, these are labeled with where they met."""
    shape = broadcast(a.shape, b.shape)
    a, b = expanded(a, shape), expanded(b, shape)
    gathers = list(a.gathers)
    places: dict[Hashable, int] = {}
    for i, gather in enumerate(gathers):
        places.setdefault(place_of(gather), i)
    for gather in b.gathers:
        i = places.setdefault(place_of(gather), len(gathers))
        if i < len(gathers):
            gathers[i] = replace(gathers[i], scale=plus(gathers[i].scale, gather.scale, len(shape)))
        else:
            gathers.append(gather)
    kept = [g for g in gathers if not (isinstance(g.scale, float) and g.scale == 0)]
    if label and len({g.origin.term is None for g in kept}) == 2:
        kept = [replace(g, label=label) if g.origin.term is None and not g.label else g for g in kept]
    return Affine(shape, tuple(kept), plus(a.shift, b.shift, len(shape)))


def scaled(value: Affine, factor: Factor) -> Affine:
    """The value times constants."""
    if isinstance(factor, Tensor):
        shape = broadcast(value.shape, factor.shape)
        value = expanded(value, shape)
        factor = plain(aligned(factor, len(shape)))
    if isinstance(factor, float) and factor == 1:
        return value
    if isinstance(factor, float) and factor == 0:
        return Affine(value.shape)
    ndim = len(value.shape)
    gathers = tuple(replace(g, scale=times(g.scale, factor, ndim)) for g in value.gathers)
    return Affine(value.shape, gathers, times(value.shift, factor, ndim))


def laid_out(value: Affine, move: Callable[[Tensor], Tensor], *, flat: str = "") -> Affine:
    """The value after something that only moves elements, done to its indices and factors.

    `flat` names what merged the last axes.
    """
    gathers = []
    shape: Shape = ()
    for g in value.gathers:
        index = as_run(move(g.index))
        shape = tuple(index.shape)
        scale = g.scale
        if isinstance(scale, Tensor):
            scale = compact(move(scale.expand(value.shape)))
        gathers.append(replace(g, index=index, scale=scale, flat=g.flat or flat))
    shift = value.shift
    if isinstance(shift, Tensor):
        shift = compact(move(shift.expand(value.shape)))
        shape = tuple(shift.shape) if not gathers else shape
    if not gathers:
        shape = tuple(move(torch.empty(value.shape, dtype=torch.bool)).shape)
    return Affine(shape, tuple(gathers), shift)


def tidied(value: Affine) -> Affine:
    """The value without gathers that hold nothing, and with its constants as short as they can be."""
    gathers = tuple(g for g in value.gathers if bool((g.index != NOTHING).any()))
    gathers = tuple(replace(g, scale=plain(g.scale)) if isinstance(g.scale, Tensor) else g for g in gathers)
    shift = plain(value.shift) if isinstance(value.shift, Tensor) else value.shift
    return Affine(value.shape, gathers, shift)


def padded(value: Affine, pad: Sequence[int], fill: float) -> Affine:
    """The value with constants around it, as `torch.constant_pad_nd` puts them."""

    def around(tensor: Tensor, with_: float) -> Tensor:
        return torch.constant_pad_nd(tensor, list(pad), with_)

    shape = tuple(torch.constant_pad_nd(torch.empty(value.shape, dtype=torch.bool), list(pad)).shape)
    gathers = tuple(
        replace(
            g,
            index=around(g.index, NOTHING),
            scale=around(g.scale.expand(value.shape), 1.0) if isinstance(g.scale, Tensor) else g.scale,
        )
        for g in value.gathers
    )
    shift = value.shift
    if isinstance(shift, Tensor) or shift != fill:
        shift = around(as_tensor(shift).expand(value.shape), fill)
    return Affine(shape, gathers, shift)


def concatenated(values: Sequence[Affine], dim: int) -> Affine:
    """The values one after another along an axis. What reads the same origin becomes one gather."""
    ndim = len(values[0].shape)
    dim %= ndim
    merged: list[list[Gather | None]] = []
    for i, value in enumerate(values):
        free = list(range(len(merged)))
        for gather in _newest_first(value.gathers):
            for k in free:
                others = [g for g in merged[k] if g is not None]
                if others[0].origin is gather.origin:
                    merged[k][i] = gather
                    free.remove(k)
                    break
            else:
                row: list[Gather | None] = [None] * len(values)
                row[i] = gather
                merged.append(row)
    gathers = []
    for row in merged:
        first = next(g for g in row if g is not None)
        index = torch.cat(
            [
                torch.full((), NOTHING).expand(v.shape) if g is None else g.index
                for g, v in zip(row, values, strict=True)
            ],
            dim,
        )
        scales = [None if g is None else g.scale for g in row]
        gathers.append(replace(first, index=as_run(index), scale=_joined(scales, values, dim)))
    shape = list(values[0].shape)
    shape[dim] = sum(v.shape[dim] for v in values)
    return Affine(tuple(shape), tuple(gathers), _joined([v.shift for v in values], values, dim))


def _newest_first(gathers: Sequence[Gather]) -> Sequence[Gather]:
    """The gathers, those of one origin from its last elements to its first: values of steps that follow one another, in which
    earlier ones live on, then hold in each gather what is as much earlier."""
    if len({id(g.origin) for g in gathers}) == len(gathers):
        return gathers
    return sorted(gathers, key=lambda g: -int(g.index.max()))


def _joined(factors: Sequence[Factor | None], values: Sequence[Affine], dim: int) -> Factor:
    """Factors of values that follow one another; None is a factor that does not matter."""
    known = [f for f in factors if f is not None]
    if all(isinstance(f, float) for f in known) and len(set(known)) == 1:
        return known[0]
    ndim = len(values[0].shape)
    tensors = [aligned(as_tensor(1.0 if f is None else f), ndim) for f in factors]
    sizes = [max(t.shape[d] for t in tensors) for d in range(ndim)]
    parts = []
    for tensor, value in zip(tensors, values, strict=True):
        sizes[dim] = value.shape[dim]
        parts.append(tensor.expand(sizes))
    return torch.cat(parts, dim)


def summed(value: Affine, dims: Sequence[int], *, keepdim: bool) -> Affine:
    """The sum over some axes: every element of them becomes a gather of its own.

    Raises:
        OverflowError: these would be too many.
    """
    dims = sorted({d % len(value.shape) for d in dims})
    count = math.prod(value.shape[d] for d in dims)
    if count * len(value.gathers) > MOST_GATHERS:
        raise OverflowError(f"it sums {count} elements")
    total: Affine | None = None
    for places in itertools.product(*(range(value.shape[d]) for d in dims)):

        def taken(tensor: Tensor, places: tuple[int, ...] = places) -> Tensor:
            for d, place in reversed(list(zip(dims, places, strict=True))):
                tensor = tensor.narrow(d, place, 1) if keepdim else tensor.select(d, place)
            return tensor

        part = laid_out(value, taken)
        total = part if total is None else added(total, part)
    assert total is not None
    return total
