"""The errors that kdsnn raises for anything a user can put right, and the notices of what a user should know."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from exporters.errors import UserError

__all__ = [
    "Caution", "KdsnnError", "Notice", "OptionError", "StoppedError", "UnfaithfulError", "UserError", "caution", "did_you_mean",
    "notice",
]  # fmt: skip


class KdsnnError(UserError):
    """What is wrong with data, a checkpoint, a configuration or a request: raised by `kdsnn`."""


class OptionError(KdsnnError):
    """What is wrong with the options of a verb, which Python and the command line spell differently.

    Args:
        text: the message, with the options that it names in braces: "{bits}: weights have 2 to 8 bits".
        values: those options, with the value to show, or None to show the name alone.
    """

    def __init__(self, text: str, **values: Any) -> None:
        self.text, self.values = text, values
        super().__init__(self.worded(_in_python))

    def worded(self, spell: Callable[[str, Any], str]) -> str:
        """The message with every option as `spell(name, value)` writes it."""
        names = "|".join(map(re.escape, self.values))
        return re.sub(rf"\{{({names})\}}", lambda m: spell(m[1], self.values[m[1]]), self.text) if names else self.text


LONGEST_VALUE = 200
"""Characters of a value that a message repeats; of a longer one, such as an array, the option is named alone."""


def _in_python(name: str, value: Any) -> str:
    text = str(value)
    return name if value is None or len(text) > LONGEST_VALUE or not text.isprintable() else f"{name}={text}"


class StoppedError(KeyboardInterrupt):
    """Somebody stopped work of which a part is done.

    Args:
        what: what was done and where it lies, in words.
        resumes: whether the rest can be gone on with.
    """

    def __init__(self, what: str, *, resumes: bool = True) -> None:
        self.what, self.resumes = what, resumes
        super().__init__(self.worded(_in_python))

    def worded(self, spell: Callable[[str, Any], str]) -> str:
        """What was done and how to go on, with the option as `spell(name, value)` writes it."""
        return f"{self.what}; continue with {spell('resume', None)}" if self.resumes else self.what


class UnfaithfulError(UserError):
    """The graph is not the network that it was made from: nothing is said or written about it."""


class Notice(UserWarning):
    """What a user should know though nothing is wrong: a warning, so that Python shows, filters or collects it as any other."""


class Caution(Notice):
    """What a user should know before trusting a result."""


def caution(text: str) -> None:
    """Warn the user of a result that says less than it seems to; the command line prints it as a warning."""
    warnings.warn(text, Caution, stacklevel=3)


def notice(text: str) -> None:
    """Tell the user something; the command line prints it as a remark on standard error."""
    warnings.warn(text, Notice, stacklevel=3)


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """ "did you mean NAME" with the name that is most like what was written; nothing where none is."""
    near = difflib.get_close_matches(wrong, list(known), 1)
    return f"did you mean {near[0]}" if near else ""
