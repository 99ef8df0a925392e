"""Which version of this program runs."""

from __future__ import annotations


def version() -> str:
    """The installed version, or "unknown" in a source tree that was never installed."""
    import importlib.metadata  # takes longer than all else that a command line needs to answer

    try:
        return importlib.metadata.version("kdsnn-deploy")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
