"""The grid of a layer's neurons is cut into blocks, one to a core."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from exporters.graph import Shape

Span = tuple[int, int]
"""A span is a half-open range."""


@dataclass(frozen=True)
class Block:
    """A block is a box of a layer's grid: ranges of channels, rows and columns."""

    channels: Span
    rows: Span
    columns: Span

    @property
    def neurons(self) -> int:
        """The block holds so many neurons."""
        (a, b), (c, d), (e, f) = self.channels, self.rows, self.columns
        return (b - a) * (d - c) * (f - e)

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """This indexes an array of the layer's shape."""
        return slice(*self.channels), slice(*self.rows), slice(*self.columns)


def as_grid(shape: Shape) -> Shape:
    """A map (C, H, W) is a grid, and a flat layer (F,) is one of (F, 1, 1)."""
    return shape if len(shape) == 3 else (shape[0], 1, 1)


def pieces(size: int, step: int) -> list[Span]:
    """The range 0…size is cut into pieces of `step`, of which the last may be shorter."""
    return [(start, min(start + step, size)) for start in range(0, size, step)]


def blocks(grid: Shape, step: Shape) -> list[Block]:
    """A grid is cut into boxes of a size, channels slowest."""
    cuts: Sequence[list[Span]] = [pieces(n, s) for n, s in zip(grid, step, strict=True)]
    return [Block(c, y, x) for c in cuts[0] for y in cuts[1] for x in cuts[2]]


def middle_block(grid: Shape, step: Shape) -> Block:
    """This is the first of `middle_blocks`."""
    rows, columns = (_middle_piece(n, s) for n, s in zip(grid[1:], step[1:], strict=True))
    return Block((0, min(step[0], grid[0])), rows, columns)


def middle_blocks(grid: Shape, step: Shape) -> list[Block]:
    """These of `blocks(grid, step)` are in the middle of the map, one for each range of channels."""
    first = middle_block(grid, step)
    return [Block(channels, first.rows, first.columns) for channels in pieces(grid[0], step[0])]


def _middle_piece(size: int, step: int) -> Span:
    start = -(-size // step) // 2 * step
    return start, min(start + step, size)
