"""The error of a graph that cannot be built, and the check that raises it."""

from __future__ import annotations

from exporters.errors import DeployError


class GraphError(DeployError):
    """The graph cannot be built: the message names the node and what to do."""


def require(ok: bool, name: str, problem: str) -> None:
    """Raise GraphError, naming the node, unless `ok`."""
    if not ok:
        raise GraphError(f"{name}: {problem}")
