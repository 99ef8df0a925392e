"""A stop that is asked for while a network trains waits until a step is done, so that what is saved is whole."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

PATIENCE = 1.0
"""Seconds within which a second signal is the first one again: a launcher passes on what the terminal has sent already."""

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class StopAskedError(KeyboardInterrupt):
    """Raised by `Stop.check`; at the end of `stoppable` it gives way to what the signal does by itself."""


@dataclass
class Stop:
    """A stop remembers the signal that asked for it (None: nobody has), and when (seconds, monotonic)."""

    number: int | None = None
    since: float = 0.0

    def check(self) -> None:
        """Raise StopAskedError when a stop was asked for: to be called where everything is in order."""
        if self.number is not None:
            raise StopAskedError


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Inside, Ctrl-C and polite kills only take a note; at the end they do what they would have done at once.

    A second one after `PATIENCE` does not wait. Signals that are ignored stay ignored, and in a thread that is not the
    main one, which gets no signals, nothing changes.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(number: int, frame: object) -> None:
        now = time.monotonic()
        if stop.number is None:
            stop.number, stop.since = number, now
        elif now - stop.since >= PATIENCE:
            restore()
            signal.raise_signal(number)

    try:
        for name in SIGNALS:  # Windows has no terminals to hang up
            number = getattr(signal, name, None)
            # None: a handler that was not installed from Python, and could not be put back
            if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, ask)
        yield stop
    finally:
        restore()
        if stop.number is not None:
            signal.raise_signal(stop.number)
