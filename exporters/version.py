"""The program's version, as files and reports name it."""

from __future__ import annotations

import importlib.metadata


def version() -> str:
    """The version that is installed; "unknown" where the program runs from a source tree that never was."""
    try:
        return importlib.metadata.version("kdsnn-deploy")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
