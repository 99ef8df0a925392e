"""The version of this program, in the one place that says it; `pyproject.toml` reads it from here."""

VERSION = "0.2.0"
