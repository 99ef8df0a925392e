"""How long work tells how far it is: one callback for a whole verb."""

from __future__ import annotations

import time
from collections.abc import Hashable
from typing import Protocol

FIRST_SECONDS = 2.0
"""From then on there is an estimate of how long the whole run takes."""


class Progress(Protocol):
    """A callback that is told which piece of work is under way and how much of it is done."""

    def __call__(self, title: str, done: float, total: float, note: str = "") -> None:
        """The piece called `title` is at `done` of `total`; `note` is shown beside it. Pieces follow one another."""
        ...


def silent(title: str, done: float, total: float, note: str = "") -> None:
    """Progress that nobody watches."""


class Part:
    """Progress of a part of a run, of which the whole is estimated elsewhere."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def __call__(self, title: str, done: float, total: float, note: str = "") -> None:
        """As `Progress`."""
        self.progress(title, done, total, note)


class Estimated:
    """Progress over several pieces of about the same work, with the time that they all still take in its note.

    Where a piece is when it is first heard of lies behind it: it starts there, or is resumed.
    """

    def __init__(self, progress: Progress, pieces: int) -> None:
        self.progress, self.pieces = progress, pieces
        self.first: dict[Hashable, float] = {}
        self.at: dict[Hashable, float] = {}
        self.started: float | None = None

    def __call__(self, title: str, done: float, total: float, note: str = "") -> None:
        """As `Progress`."""
        self.progress(title, done, total, self.noted(title, done / total, note))

    def noted(self, piece: Hashable, fraction: float, note: str = "") -> str:
        """The note with the time that is left, once there is enough to tell it from; `piece` is at `fraction`, 0…1."""
        now = time.monotonic()
        if self.started is None and fraction:  # what is done first takes longer than what follows: not counted
            self.started = now
            self.first[piece] = fraction
        self.first.setdefault(piece, fraction)
        self.at[piece] = fraction
        done = sum(self.at.values()) - sum(self.first.values())
        left = self.pieces - sum(self.at.values())
        if self.started is None or now - self.started < FIRST_SECONDS or done <= 0 or left <= 1e-9:
            return note
        told = f"about {duration((now - self.started) / done * left)} left in all"
        return f"{note}; {told}" if note else told


def duration(seconds: float) -> str:
    """A time as people say it: "40 s", "12 min", "3.5 h", "2.5 days"."""
    for unit, size, below, digits in (("s", 1, 100, 0), ("min", 60, 100, 0), ("h", 3600, 48, 1)):
        if seconds / size < below:
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds / 86400:.1f} days"
