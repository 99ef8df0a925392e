"""A network is recurrent where it has loops; each is closed by delays, which carry spikes into later steps.

Within one step a loop is computed from its delays on, so these stand first in it, and what feeds them comes behind them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from exporters.graph.editing import Edge, cycle_of, topological_order
from exporters.graph.errors import GraphError
from exporters.graph.nodes import Delay, Node


def time_order(nodes: Mapping[str, Node], edges: Sequence[Edge]) -> tuple[list[str], tuple[tuple[str, ...], ...]]:
    """The order puts each node behind all that feed it at the same step; the nodes of a loop stand side by side in it.

    Returns:
        The names in order, and the loops, each the names in it, in order: what feeds one another, all ways around.

    Raises:
        GraphError: a loop without a delay of at least one step, or an edge from or to what is no node.
    """
    groups = cyclic_parts(nodes, edges)
    group = {name: name for name in nodes} | {name: part[0] for part in groups for name in part}
    outer = [(group[a], group[b]) for a, b in edges if group[a] != group[b]]
    order: list[str] = []
    loops = []
    parts = {part[0]: part for part in groups}
    for first in topological_order(dict.fromkeys(group.values()), outer):
        if first not in parts:
            order.append(first)
            continue
        loop = _loop({name: nodes[name] for name in parts[first]}, edges)
        loops.append(tuple(loop))
        order += loop
    return order, tuple(loops)


def cyclic_parts(names: Iterable[str], edges: Sequence[Edge]) -> list[tuple[str, ...]]:
    """The parts are the largest sets of nodes that feed one another, all ways around (strongly connected); a node alone is
    one if it feeds itself. Both the parts and the names in each keep the order given.

    Raises:
        GraphError: an edge from or to what is no node.
    """
    names = list(names)
    ordered = set(topological_order(names, edges))
    left = [name for name in names if name not in ordered]
    between = [(a, b) for a, b in edges if a not in ordered and b not in ordered]
    backward = [(b, a) for a, b in between]
    looping = {a for a, b in between if a == b}
    parts = []
    placed: set[str] = set()
    for name in left:
        if name not in placed:
            part = _reached(name, between) & _reached(name, backward)
            placed |= part
            if len(part) > 1 or name in looping:
                parts.append(tuple(n for n in left if n in part))
    return parts


def _reached(name: str, edges: Iterable[Edge]) -> set[str]:
    """What lies behind a node, and the node itself."""
    targets: dict[str, list[str]] = {}
    for a, b in edges:
        targets.setdefault(a, []).append(b)
    found, waiting = {name}, [name]
    while waiting:
        new = set(targets.get(waiting.pop(), ())) - found
        found |= new
        waiting += new
    return found


def _loop(nodes: Mapping[str, Node], edges: Iterable[Edge]) -> list[str]:
    inner = [(a, b) for a, b in edges if a in nodes and b in nodes]
    same_step = [(a, b) for a, b in inner if not is_later(nodes[b])]
    order = topological_order(nodes, same_step)
    if len(order) < len(nodes):
        listed = ", ".join(cycle_of(nodes, same_step))
        raise GraphError(f"the graph has a cycle through {listed} within one step; a Delay of at least 1 must close it")
    return order


def is_later(node: Node) -> bool:
    """Whether a node is a delay, and nothing that arrives at it leaves it within the same step."""
    return isinstance(node, Delay) and bool((node.steps >= 1).all())
