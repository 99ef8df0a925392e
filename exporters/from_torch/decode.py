"""Reading an index: which step and sample each row of a value comes from, and which features of a node it holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from exporters.from_torch.factors import Factor, plain
from exporters.from_torch.values import NOTHING, Affine, Gather, Origin, is_run
from exporters.graph import Array, Shape


class UndecodableError(Exception):
    """An index does not say one step, one sample and the same features for every row; the message says what it mixes."""


@dataclass(frozen=True, eq=False)
class Read:
    """A read is what the rows of a value hold of one origin.

    Attributes:
        origin: what is read.
        shape: of a row.
        rows: int64 (B,), the number of each row's space of features: step·samples + sample, or the sample of what is static;
            NOTHING for a row that holds nothing, as the first ones of what comes later do.
        features: int64 of the row's shape, the feature that each element is, or NOTHING; None where it is all in order.
        scale: a number, or float64 that broadcasts to the row's shape.
        label, flat: see `Gather`.
    """

    origin: Origin
    shape: Shape
    rows: Tensor
    features: Array | None
    scale: float | Array = 1.0
    label: str = ""
    flat: str = ""


@dataclass(frozen=True, eq=False)
class Arrival:
    """What arrives at neurons at every step t is step t − lag of something, and nothing before there is such a step."""

    read: Read
    lag: int


def decoded(gather: Gather, shape: Shape) -> Read | None:
    """A gather of a value (B, *features) as rows of its origin; None where it holds nothing.

    Raises:
        UndecodableError: rows that mix steps or samples, or that hold different features.
    """
    origin, index = gather.origin, gather.index
    count = math.prod(shape[1:])
    start = index.storage_offset()
    if is_run(index) and count == origin.size and start % origin.size == 0:
        rows = torch.arange(start // origin.size, start // origin.size + shape[0])
        return Read(origin, shape[1:], rows, None, _of_a_row(gather.scale), gather.label, gather.flat)
    flat = index.reshape(shape[0], count)
    full = int((flat != NOTHING).any(1).int().argmax())
    held = flat[full] != NOTHING
    if not bool(held.any()):
        return None
    column = int(held.int().argmax())
    rows = torch.div(flat[:, column], origin.size, rounding_mode="floor")  # of nothing it is nothing
    features = torch.where(held, flat[full] - rows[full] * origin.size, NOTHING)
    expected = torch.where(held & (rows != NOTHING)[:, None], features + rows[:, None] * origin.size, NOTHING)
    inside = bool(((features < origin.size) & ((features >= 0) | ~held)).all())
    if not inside or not torch.equal(flat, expected):
        raise UndecodableError(_mixture(flat, origin))
    in_order = count == origin.size and torch.equal(features, torch.arange(count))
    kept = None if in_order else features.reshape(shape[1:]).numpy()
    return Read(origin, shape[1:], rows, kept, _of_a_row(gather.scale, rows), gather.label, gather.flat)


def _of_a_row(scale: Factor, rows: Tensor | None = None) -> float | Array:
    """The factors of one row, which must be those of every row that holds something."""
    if isinstance(scale, float):
        return scale
    if rows is not None and len(scale) > 1:
        held = plain(scale[rows != NOTHING])
        if isinstance(held, float):
            return held
        scale = held
    if scale.shape[0] > 1 and not bool((scale == scale[:1]).all()):
        raise UndecodableError("it is scaled differently at different steps or for different samples")
    return scale[0].numpy()


def _mixture(flat: Tensor, origin: Origin) -> str:
    """What is wrong with rows that cannot be read."""
    spaces = torch.div(flat, origin.size, rounding_mode="floor")
    held = flat != NOTHING
    steps = torch.div(spaces, origin.samples, rounding_mode="floor")
    samples = spaces % origin.samples
    for what, values in (("time steps", steps), ("samples of the batch", samples)):
        rows = [set(values[i][held[i]].tolist()) for i in range(min(len(flat), 64))]
        if any(len(row) > 1 for row in rows):
            return f"it mixes {what} with features"
    return "its rows hold different features of the same layer"


def reads_of(value: Affine) -> list[Read]:
    """The gathers of a value (B, *features) as rows of their origins.

    Raises:
        UndecodableError: see `decoded`.
    """
    return [r for g in value.gathers if (r := decoded(g, value.shape)) is not None]


def shift_of(value: Affine) -> float | Array:
    """The constant that is added to every row: a number, or float64 that broadcasts to the row's shape.

    Raises:
        UndecodableError: it differs between rows.
    """
    shift = value.shift
    if isinstance(shift, float):
        return shift
    if shift.shape[0] > 1 and not bool((shift == shift[:1]).all()):
        raise UndecodableError("what is added to it differs between steps or samples")
    return shift[0].numpy()


def same_numbers(a: float | Array | None, b: float | Array | None) -> bool:
    """Whether two factors, features or shifts are equal."""
    if a is None or b is None or isinstance(a, float) or isinstance(b, float):
        return type(a) is type(b) and a == b
    return a.shape == b.shape and bool((a == b).all())


def grouped(reads: Sequence[Read]) -> list[list[Read]]:
    """Reads that differ in their origin alone, together: a layer reads the sum of these at once."""
    groups: list[list[Read]] = []
    for read in reads:
        for group in groups:
            first = group[0]
            if (
                first.origin.shape == read.origin.shape
                and same_numbers(first.scale, read.scale)
                and same_numbers(first.features, read.features)
                and same_rows(first, read)
            ):
                group.append(read)
                break
        else:
            groups.append([read])
    return groups


def by_step(reads: Sequence[Read]) -> list[list[Read]]:
    """Reads of the same steps together: first what is the same at every step, then the last steps, then earlier ones."""
    groups: dict[float, list[Read]] = {}
    for read in reads:
        groups.setdefault(math.inf if read.origin.is_static else int(read.rows[-1]), []).append(read)
    return [groups[last] for last in sorted(groups, reverse=True)]


def same_rows(a: Read, b: Read) -> bool:
    """Whether two reads hold the same steps and samples, row by row; what is static holds every step."""
    if a.origin.steps == b.origin.steps:
        return torch.equal(a.rows, b.rows)
    if bool((a.rows == NOTHING).any()) or bool((b.rows == NOTHING).any()):
        return False
    return torch.equal(a.rows % a.origin.samples, b.rows % b.origin.samples)


def joint(group: Sequence[Read]) -> Read:
    """A group as one read of an origin that is the sum of theirs."""
    if len(group) == 1:
        return group[0]
    steps = max(read.origin.steps for read in group)
    moving = next(read for read in group if read.origin.steps == steps)
    nodes = tuple(name for read in group for name in read.origin.nodes)
    origin = Origin(moving.origin.name, moving.origin.shape, steps, moving.origin.samples, nodes)
    return replace(moving, origin=origin, label=group[0].label, flat=group[0].flat)
