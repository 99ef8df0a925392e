"""Reading `.nir` files (HDF5) that may be broken or hostile, and unfolding their sub-graphs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
from nir.serialization import hdf2dict

from exporters.errors import DeployError
from exporters.hdf5 import flaw

MAX_DEPTH = 40


class NirError(DeployError):
    """A NIR file that cannot be read, or that holds what a SpikingGraph cannot express; names the node."""


@dataclass(frozen=True, eq=False)
class Unfolded:
    """A NIR graph without sub-graphs: a node of one has its names joined by dots, ends of inner graphs pass through.

    Attributes:
        nodes: name → node.
        edges: (from, to), order kept.
        metadata: of the outer graph.
        inner_ends: names of Input and Output nodes of sub-graphs.
    """

    nodes: dict[str, Any]
    edges: list[tuple[str, str]]
    metadata: dict[str, Any]
    inner_ends: frozenset[str]


def load(path: Path) -> Unfolded:
    """Read a file of any nir from 1.0.4 on.

    Raises:
        NirError: no such file, damaged, or asking for too much; in one line.
    """
    if not path.is_file():
        raise NirError(f"{path}: no such file")
    try:
        with h5py.File(path, "r") as file:
            if not isinstance(file.get("node"), h5py.Group):
                raise NirError("it has no 'node' group; this is not a NIR file")
            if (what := flaw(file)) is not None:
                raise NirError(what)
            content = hdf2dict(file["node"])
        _without_type_checks(content)
        with np.errstate(all="ignore"):  # nir divides by a stride of 0 aloud
            graph = nir.dict2NIRNode(content)
        if not isinstance(graph, nir.NIRGraph):
            raise NirError("it holds a single node, not a graph")
        return unfold(graph)
    except NirError as error:
        raise NirError(f"{path.name}: {error}") from error
    except OSError as error:
        raise NirError(f"{path.name}: not a readable NIR (HDF5) file; it is truncated or of another kind") from error
    except Exception as error:  # nir asserts, and raises whatever a missing field leads to
        lines = str(error).strip().splitlines()
        reason = lines[0][:160] if lines else type(error).__name__
        raise NirError(
            f"{path.name}: it is damaged inside or holds a node that nir does not know ({reason})"
        ) from error


def unfold(graph: Any, prefix: str = "", depth: int = 0) -> Unfolded:
    """A `nir.NIRGraph` with its sub-graphs put in place of the nodes that held them."""
    if depth > MAX_DEPTH:
        raise NirError("its sub-graphs are nested too deeply")
    nodes: dict[str, Any] = {}
    edges: list[tuple[str, str]] = []
    inner_ends: set[str] = set()
    entry: dict[str, list[str]] = {}
    exit_: dict[str, list[str]] = {}
    for key, node in graph.nodes.items():
        name = prefix + key
        entry[key] = exit_[key] = [name]
        if isinstance(node, nir.NIRGraph):
            inner = unfold(node, f"{name}.", depth + 1)
            nodes |= inner.nodes
            edges += inner.edges
            own = {f"{name}.{k}" for k in node.nodes}
            entry[key] = [n for n in own if isinstance(inner.nodes.get(n), nir.Input)]
            exit_[key] = [n for n in own if isinstance(inner.nodes.get(n), nir.Output)]
            inner_ends |= inner.inner_ends | set(entry[key]) | set(exit_[key])
            if not entry[key] or not exit_[key]:
                raise NirError(f"{name}: this sub-graph has no Input or no Output node")
        else:
            nodes[name] = node
    for a, b in graph.edges:
        for end in (a, b):
            if end not in entry:
                raise NirError(f"the edge {a} → {b} names {prefix}{end}, which is not a node")
        edges += [(source, target) for source in exit_[a] for target in entry[b]]
    return Unfolded(nodes, edges, dict(graph.metadata or {}), frozenset(inner_ends))


def require_fed(file: Unfolded) -> None:
    """Every node but the inputs has a source.

    Raises:
        NirError: names one that has none.
    """
    fed = {b for _, b in file.edges}
    for name, node in file.nodes.items():
        if name not in fed and (not isinstance(node, nir.Input) or name in file.inner_ends):
            raise NirError(f"{name}: nothing feeds this node; it needs an Input node before it")


def _without_type_checks(content: dict[str, Any]) -> None:
    """nir's own shape inference is wrong for groups and oblong kernels; a SpikingGraph does its own."""
    if content.get("type") == "NIRGraph":
        content["type_check"] = False
        for node in content.get("nodes", {}).values():
            _without_type_checks(node)
