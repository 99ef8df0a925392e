"""Passes edit graphs alike: they order nodes, name new ones, put nodes and edges together, and slide windows."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass, field

from exporters.graph.errors import GraphError
from exporters.graph.nodes import Array, Node, Pair, Shape

Edge = tuple[str, str]


@dataclass(frozen=True)
class Draft:
    """A draft is a graph under construction: nodes and edges that `SpikingGraph.redrawn` makes a graph of."""

    nodes: dict[str, Node] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)

    def add(self, name: str, node: Node, sources: Iterable[str]) -> str:
        """The node is added behind its sources, under the name given or one like it that is free, which is returned."""
        unique = unique_name(name, self.nodes)
        self.nodes[unique] = node
        self.edges.extend((source, unique) for source in sources)
        return unique


def unique_name(name: str, taken: Container[str]) -> str:
    """A name that is taken gets the first number from 2 on that makes it one of its own."""
    unique, n = name, 2
    while unique in taken:
        unique, n = f"{name}_{n}", n + 1
    return unique


def topological_order(names: Iterable[str], edges: Iterable[Edge]) -> list[str]:
    """The order puts each node behind all that feed it, and otherwise keeps the one given.

    Nodes of cycles, and what lies behind these, are left out.

    Raises:
        GraphError: an edge from or to what is no node.
    """
    waiting = dict.fromkeys(names, 0)
    targets: dict[str, list[str]] = {name: [] for name in waiting}
    for a, b in edges:
        for end in (a, b):
            if end not in waiting:
                raise GraphError(f"the edge {a} → {b} names {end!r}, which is not a node of the graph")
        waiting[b] += 1
        targets[a].append(b)
    order = [name for name, count in waiting.items() if count == 0]
    for name in order:  # it grows while it is walked
        for target in targets[name]:
            waiting[target] -= 1
            if waiting[target] == 0:
                order.append(target)
    return order


def over_positions(bias: Array, shape: Shape) -> Array:
    """The bias gets a shape that adds to currents of the layer's output shape: (Cout,) becomes (Cout, 1, 1) where these
    are maps."""
    return bias.reshape(-1, *[1] * (len(shape) - 1)) if bias.ndim == 1 else bias


def window_positions(size: int, kernel: int, stride: int, padding: int, dilation: int = 1) -> int:
    """Along one axis a window has floor((size + 2p − d(k − 1) − 1)/s) + 1 positions."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def window_grid(size: Shape, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair = (1, 1)) -> Pair:
    """A window that slides over (H, W) has this many positions (y, x); 0 or less where it does not fit."""
    h, w = (window_positions(*axis) for axis in zip(size, kernel, stride, padding, dilation, strict=True))
    return (h, w)
