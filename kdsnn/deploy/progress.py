"""How long work tells how far it is: one callback for a whole verb."""

from __future__ import annotations

import time
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
    """Progress over several pieces of about the same work, with the time that they all still take in its note."""

    def __init__(self, progress: Progress, pieces: int) -> None:
        self.progress, self.left = progress, float(pieces)
        self.title: str | None = None
        self.at = self.done = self.started = 0.0

    def __call__(self, title: str, done: float, total: float, note: str = "") -> None:
        """As `Progress`."""
        now, fraction = time.monotonic(), done / total
        if (
            self.title is None and not done
        ):  # what is done first takes longer than what follows: time is taken from there
            self.progress(title, done, total, note)
            return
        if self.title is None:  # what a resumed piece has behind it was not done now
            self.started, self.left = now, self.left - fraction
        elif title == self.title:
            self.done, self.left = self.done + fraction - self.at, self.left - (fraction - self.at)
        else:
            self.done, self.left = self.done + fraction, self.left - fraction
        self.title, self.at = title, fraction
        spent = now - self.started
        if spent >= FIRST_SECONDS and self.done > 0 and self.left > 1e-9:
            left = f"about {duration(spent / self.done * self.left)} left in all"
            note = f"{note}; {left}" if note else left
        self.progress(title, done, total, note)


def duration(seconds: float) -> str:
    """A time as people say it: "40 s", "12 min", "3.5 h", "2.5 days"."""
    for unit, size, below, digits in (("s", 1, 100, 0), ("min", 60, 100, 0), ("h", 3600, 48, 1)):
        if seconds / size < below:
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds / 86400:.1f} days"
