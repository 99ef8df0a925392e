"""Loops of NIR files, which a step closes that files do not say.

In NIR a connection may go back without a `Delay`. Nothing can compute that within one step, so programs that run in steps deliver
what goes back one step later: nirtorch keeps it for its next call, snnTorch's recurrent layers read their spikes of the step
before. `closed` says that step in a file that was read; `left_out` finds the delays that a file to be written need not say, since
`closed` brings them back, and so do others.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import nir
import numpy as np

from exporters.graph import Delay, SpikingGraph
from exporters.graph.editing import Edge, unique_name
from exporters.graph.loops import cyclic_parts
from exporters.nir.check import NirError, Unfolded
from exporters.nir.delays import Lag
from exporters.nir.neurons import PREFIX


def closed(file: Unfolded) -> tuple[Unfolded, list[Edge]]:
    """The file with a `Lag` of one step on each connection that goes back without one, and these connections.

    Raises:
        NirError: a loop that says not which of its connections goes back, or with delays of which some are 0; by name.
    """
    edges = [(a, b) for a, b in file.edges if not (isinstance(lag := file.nodes[b], Lag) and lag.is_later)]
    back = going_back(file.nodes, edges)
    late = set(back)
    nodes, others = dict(file.nodes), [edge for edge in file.edges if edge not in late]
    for a, b in back:
        for name in {a, b}:
            lag = nodes[name]
            if isinstance(lag, Lag) and lag.steps.any():
                raise NirError(
                    f"{name}: it closes a loop, but some of its delays are 0; there each must be a step at least"
                )
        name = unique_name(f"{a}.back", nodes)
        nodes[name] = Lag(np.asarray(1, np.int64), said=False)
        others += [(a, name), (name, b)]
    return replace(file, nodes=nodes, edges=others), back


def going_back(names: Iterable[str], edges: Sequence[Edge]) -> list[Edge]:
    """The edges that close a loop: those from within it to the one node at which it is entered, and so on within the rest.

    Raises:
        NirError: a loop that nothing enters, or that is entered at several nodes, where any could come first.
    """
    names = list(names)
    found: list[Edge] = []
    for part in cyclic_parts(names, edges):
        inside = set(part)
        entered = {b: None for a, b in edges if b in inside and a not in inside}
        listed = ", ".join(part[:6])
        if not entered:
            raise NirError(f"nothing feeds the loop of {listed}; it needs a path from the Input node")
        if len(entered) > 1:
            raise NirError(
                f"the loop of {listed} is entered at {' and '.join(entered)}, so the file does not say which of its "
                "connections takes a step; put a Delay of one step there"
            )
        (entry,) = entered
        found += [(a, b) for a, b in edges if b == entry and a in inside]
        rest = [(a, b) for a, b in edges if b in inside and b != entry]
        around = dict.fromkeys([a for a, _ in rest] + list(part))
        found += going_back(around, rest)
    return found


# -- this program's own files --------------------------------------------------------------------------


def left_out(graph: SpikingGraph) -> list[str]:
    """The delays of one step that a file need not say, since a reader finds each where it was."""
    found: list[str] = []
    for name, node in graph.nodes.items():
        if isinstance(node, Delay) and graph.closes_loop(name) and (node.steps == 1).all():
            tried = [*found, name]
            found = tried if _is_found(graph, tried) else found
    return found


def bare(edges: Sequence[Edge], names: Iterable[str]) -> list[Edge]:
    """The edges of a graph without some of its nodes, whose sources feed their targets instead."""
    for name in names:
        into, out = [a for a, b in edges if b == name], [b for a, b in edges if a == name]
        # these come first: nirtorch gives out what it ran last, and runs what stands last at the end
        edges = [*((a, b) for a in into for b in out), *(edge for edge in edges if name not in edge)]
    return list(edges)


def _is_found(graph: SpikingGraph, names: list[str]) -> bool:
    edges = bare(graph.edges, names)
    if len(set(edges)) < len(edges):
        return False
    try:
        back = set(going_back(graph.nodes, [(a, b) for a, b in edges if not graph.closes_loop(b)]))
    except NirError:
        return False
    for name in names:
        targets = graph.targets(name)
        here = {(a, b) for a in graph.sources(name) for b in targets}
        behind = {(a, b) for a in targets for b in graph.targets(a)}
        if here <= back:
            back -= here
        elif behind <= back and all(graph.sources(a) == (name,) for a in targets):
            back -= behind
        else:
            return False
    return not back


def as_said(graph: SpikingGraph, names: Iterable[str], begins: Mapping[str, str], ends: Mapping[str, str]) -> str:
    """What the metadata say of delays that are left out, JSON; `begins`, `ends`: of each node, its first and last in the file."""
    rows = [
        {"name": name, "from": [ends[a] for a in graph.sources(name)], "to": [begins[b] for b in graph.targets(name)]}
        for name in names
    ]
    return json.dumps(rows)


def with_said_loops(file: Unfolded, said: Any, dt: float) -> Unfolded:
    """The file with the delays that its metadata say were left out.

    Raises:
        NirError: the edges are not there any more.
    """
    nodes, edges = dict(file.nodes), list(file.edges)
    for row in json.loads(str(said)):
        name = str(row["name"])
        key = unique_name(name, nodes)
        gone = [(a, b) for a in row["from"] for b in row["to"]]
        if not set(gone) <= set(edges):
            raise NirError(
                f"its metadata tell of a delay {name!r} on connections that it does not have; remove the metadata"
            )
        edges = [edge for edge in edges if edge not in set(gone)]
        nodes[key] = nir.Delay(np.array([dt]), metadata={f"{PREFIX}name": name})
        edges += [*((a, key) for a in row["from"]), *((key, b) for b in row["to"])]
    return replace(file, nodes=nodes, edges=edges)
