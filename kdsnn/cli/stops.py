"""Signals that stop a command unwind it like Ctrl-C, and are not lost on the way."""

from __future__ import annotations

import gc
import signal
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

SENT_AGAIN_AFTER = 0.01
"""Seconds after which a stop is sent once more of which Python has told that it got lost."""

LOOKED_AT_EVERY = 1.0
"""Seconds after which it is looked at again whether a stop has got lost."""


class _StopError(KeyboardInterrupt):
    """Raised by a signal; of a class of its own, of which one can know whether it still exists."""


@contextmanager
def unwinding_when_stopped() -> Iterator[Stops]:
    """Let a polite kill or a closed terminal unwind like Ctrl-C, so that temporary folders and processes go too.

    What is raised inside a destructor or a callback of a library is dropped there, which Python tells and native code does
    not. So it is looked at again and again whether it still is under way, and where it is not, the signal is sent once more.

    Gives the signals that have come; `nohup` stays what it is, and all signals are in the end.
    """
    stops, told = Stops(), sys.unraisablehook
    before: dict[int, Any] = {}

    def dropped(what: sys.UnraisableHookArgs) -> None:
        if not stops.dropped(what.exc_value):
            told(what)

    sys.unraisablehook = dropped
    try:
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # Windows has no terminals to hang up
            taken = getattr(signal, name, signal.SIGTERM)
            if signal.getsignal(taken) is not signal.SIG_IGN:
                before[taken] = signal.signal(taken, stops.stop)
        yield stops
    finally:
        stops.arrived()
        sys.unraisablehook = told
        for taken, handler in before.items():
            signal.signal(taken, handler)


@dataclass
class Stops:
    """Signals that have come, and the way of the last.

    Attributes:
        numbers: of the signals.
        over: whether the command has ended, so that a signal finds nothing to stop.
        raised: what the last one raised, while it exists.
        lost: whether Python has dropped that; `telling`: is about to, so that another one would go the same way.
    """

    numbers: list[int] = field(default_factory=list)
    over: bool = False
    raised: weakref.ref[_StopError] | None = None
    lost: bool = False
    telling: bool = False

    def arrived(self) -> None:
        """The command has ended, by itself or by a stop that has come to where it is dealt with."""
        self.over = True
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)

    def stop(self, number: int, frame: object) -> None:
        """Handle a signal: take a note of it and raise, while there is something to stop."""
        if self.over:
            return
        self.numbers.append(number)
        error = _StopError()
        self.raised = weakref.ref(error)
        self._look(LOOKED_AT_EVERY)
        raise error

    def dropped(self, error: BaseException | None) -> bool:
        """Python says that an error goes nowhere: was it ours?"""
        self.telling = True
        if mine := isinstance(error, _StopError):
            self.lost = True
            self._look(SENT_AGAIN_AFTER)
        self.telling = False
        return mine

    def _again(self, number: int, frame: object) -> None:
        if not self.lost:
            gc.collect()  # what has dropped it may hold it in a cycle
        if self.telling or not (self.lost or self.raised is None or self.raised() is None):
            self._look(SENT_AGAIN_AFTER if self.lost else LOOKED_AT_EVERY)
        else:
            self.lost = False
            signal.raise_signal(self.numbers[0])  # once: another handler than `stop` takes a note of it

    def _look(self, after: float) -> None:
        if hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, self._again)
            signal.setitimer(signal.ITIMER_REAL, after)
