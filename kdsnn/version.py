"""Which version of this program runs."""

from __future__ import annotations

from exporters.version import VERSION

__version__ = VERSION


def version() -> str:
    """The version of the files that run, whatever is installed besides."""
    return VERSION
