"""Slips in a command line, said in one line as all other errors are: what, and what to choose from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from kdsnn.errors import KdsnnError, did_you_mean

UsageSlip: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "UsageError")
"""What typer raises; the library that it has it from differs by its version."""

LONGEST_VALUE = 100
"""Characters of what was typed that are quoted."""


MAY_STAND_BARE = ("--calibrate",)
"""Options that may have a value or none, which typer has no word for: without one they are given the empty text."""


class OneLineGroup(TyperGroup):
    """A group of commands that raises slips of its command line, and of its commands', as KdsnnError."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the group's own options; those of the command stay as they are but for `MAY_STAND_BARE`."""
        behind = [*args, "--"][1:] if args else []
        found: list[str] = super().parse_args(
            ctx,
            [f"{a}=" if a in MAY_STAND_BARE and after[:1] == "-" else a for a, after in zip(args, behind, strict=True)],
        )
        return found

    def make_context(self, *args: Any, **rest: Any) -> Any:
        """Read the group's own options."""
        with _as_errors():
            return super().make_context(*args, **rest)

    def invoke(self, ctx: Any) -> Any:
        """Read a command's options, and run it."""
        with _as_errors():
            return super().invoke(ctx)


@contextmanager
def _as_errors() -> Iterator[None]:
    try:
        yield
    except UsageSlip as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # which prints the help
            raise
        raise KdsnnError(worded(error)) from error


def worded(error: Any) -> str:
    """One line for what typer raises: the option with its value, what it takes, and where all of them are listed."""
    context, kind = error.ctx, type(error).__name__
    command = "kdsnn-deploy" if context is None else context.command_path
    parameter = getattr(error, "param", None)
    if kind == "NoSuchOption":
        known = [] if context is None else [o for p in context.command.params for o in (*p.opts, *p.secondary_opts)]
        what = f"{_brief(error.option_name)}: there is no such option{_hint(error.option_name, known)}"
    elif kind == "MissingParameter" and parameter is not None:
        what = f"{_called(parameter)} is missing{_choices_text(parameter) or _about(parameter)}"
    elif parameter is not None:
        what = _wrong_value(parameter, error)
    else:
        what = _unresolved(error.message, context)
    return f"{what}{' ' if what.endswith('?') else '; '}see {command} --help"


def _wrong_value(parameter: Any, error: Any) -> str:
    chosen = re.search(r"'(.*)' is not one of", error.message, re.DOTALL)
    if chosen and (choices := _choices(parameter)):
        return f"{_called(parameter)} {_brief(chosen[1])}: choose from {', '.join(choices)}{_hint(chosen[1], choices)}"
    found = error.__cause__.errors() if hasattr(error.__cause__, "errors") else []  # pydantic's, in newer versions
    given = f" {_brief(str(found[0]['input']))}" if found else ""
    text = error.message.partition(", unable to parse")[0].replace("Input should be", "it must be").rstrip(".")
    return f"{_called(parameter)}{given}: {text[:1].lower()}{text[1:]}"


def _unresolved(message: str, context: Any) -> str:
    """A command that there is not, an argument too many, an option without its value."""
    unknown = re.match(r"No such command '(.*?)'\.", message, re.DOTALL)
    if unknown and context is not None:
        known = list(context.command.commands)
        return f"{_brief(unknown[1])}: there is no such command, only {', '.join(known)}{_hint(unknown[1], known)}"
    text = _brief(message.rstrip("."), 3 * LONGEST_VALUE)
    return f"{text[:1].lower()}{text[1:]}"


def _called(parameter: Any) -> str:
    """An option as it is typed, an argument as the usage line has it."""
    if parameter.param_type_name == "option":
        return str(max(parameter.opts, key=len))
    return str(parameter.metavar or parameter.name.upper()).removesuffix("…")


def _choices(parameter: Any) -> list[str]:
    described = getattr(parameter, "type_descriptor", None) or getattr(parameter, "type", None)
    return [str(choice) for choice in getattr(described, "choices", None) or ()]


def _choices_text(parameter: Any) -> str:
    choices = _choices(parameter)
    return f": choose from {', '.join(choices)}" if choices else ""


def _about(parameter: Any) -> str:
    """What the help says of it."""
    text = (getattr(parameter, "help", None) or "").removesuffix(".")
    return f": {text[:1].lower()}{text[1:]}" if text else ""


def _hint(wrong: str, known: list[str]) -> str:
    near = did_you_mean(wrong, known)
    return f"; {near}?" if near else ""


def _brief(text: str, most: int = LONGEST_VALUE) -> str:
    shown = " ".join(text.split())
    shown = shown if shown.isprintable() else ascii(shown)[1:-1]
    return shown if len(shown) <= most else f"{shown[:most]}…"
