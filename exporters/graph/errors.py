"""A graph that cannot be built raises an error that names the node."""

from __future__ import annotations

from exporters.errors import DeployError


class GraphError(DeployError):
    """The graph cannot be built: the message names the node and what to do."""


def require(ok: bool, name: str, problem: str) -> None:
    """The check raises GraphError, which names the node, unless `ok`."""
    if not ok:
        raise GraphError(f"{name}: {problem}")
