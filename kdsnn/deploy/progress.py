"""How long work tells how far it is: one callback for a whole verb."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """A callback that is told which piece of work is under way and how much of it is done."""

    def __call__(self, title: str, done: float, total: float, note: str = "") -> None:
        """The piece called `title` is at `done` of `total`; `note` is shown beside it. Pieces follow one another."""
        ...


def silent(title: str, done: float, total: float, note: str = "") -> None:
    """Progress that nobody watches."""
