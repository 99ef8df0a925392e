r"""Text where a terminal or a file cannot hold all of it: × becomes x there, and not \xd7; what would steer a terminal is spelled out."""

from __future__ import annotations

import codecs
import sys
from unicodedata import category

ERRORS = "kdsnn-words"
"""The name of the error handler, for `TextIOWrapper.reconfigure(errors=…)`."""

WORDS = {
    "×": "x", "÷": "/", "·": "*", "−": "-", "–": "-", "—": "-", "±": "+-", "≈": "~", "≤": "<=", "≥": ">=", "…": "...",
    "→": "->", "←": "<-", "’": "'", "‘": "'", "“": '"', "”": '"', "µ": "u", "μ": "u", "τ": "tau", "α": "alpha",
    "ε": "epsilon", "σ": "sigma", "Δ": "delta", "²": "^2", "³": "^3", "¹": "^1", "√": "sqrt ", "∞": "inf",
    "⌈": "ceil(", "⌉": ")", "─": "-", "│": "|", "\xa0": " ", "\u202f": " ",
}  # fmt: skip
"""Signs that this program prints, and what stands for them. Letters are no signs: a file's name stays exact as an escape."""


def _words(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    wrong = error.object[error.start : error.end]
    return "".join(WORDS.get(c) or c.encode("ascii", "backslashreplace").decode() for c in wrong), error.end


codecs.register_error(ERRORS, _words)


def shown(text: str) -> str:
    """A text as standard output shows it, so that what is as wide as it looks can be aligned."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return spelled_out(text).encode(encoding, ERRORS).decode(encoding)


def spelled_out(text: str) -> str:
    r"""A text with control characters as escapes, \x1b: a name out of anybody's file neither colors nor clears a terminal."""
    return "".join(c.encode("unicode_escape").decode() if category(c) == "Cc" else c for c in text)
