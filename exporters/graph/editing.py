"""What several passes do to a graph: order its nodes, name new ones, put nodes and edges together, slide windows."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass, field

from exporters.graph.errors import GraphError
from exporters.graph.nodes import Node, Pair, Shape

Edge = tuple[str, str]


@dataclass(frozen=True)
class Draft:
    """A graph under construction: nodes and edges that `SpikingGraph.redrawn` makes a graph of."""

    nodes: dict[str, Node] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)

    def add(self, name: str, node: Node, sources: Iterable[str]) -> str:
        """Add a node behind its sources. Returns its name: the one given, or one like it that is free."""
        unique = unique_name(name, self.nodes)
        self.nodes[unique] = node
        self.edges.extend((source, unique) for source in sources)
        return unique


def unique_name(name: str, taken: Container[str]) -> str:
    """The name, or with the first number from 2 on that makes it one of its own."""
    unique, n = name, 2
    while unique in taken:
        unique, n = f"{name}_{n}", n + 1
    return unique


def topological_order(names: Iterable[str], edges: Iterable[Edge]) -> list[str]:
    """The nodes, each behind all that feed it, otherwise in the order given.

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


def window_positions(size: int, kernel: int, stride: int, padding: int, dilation: int = 1) -> int:
    """Number of positions of a window along one axis: floor((size + 2p − d(k − 1) − 1)/s) + 1."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def window_grid(size: Shape, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair = (1, 1)) -> Pair:
    """Positions (y, x) of a window that slides over (H, W); 0 or less where it does not fit."""
    h, w = (window_positions(*axis) for axis in zip(size, kernel, stride, padding, dilation, strict=True))
    return (h, w)
