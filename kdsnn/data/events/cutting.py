"""Streams of events, and how they are cut into the frames of time steps."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kdsnn.errors import KdsnnError

FRAMES, MOST_FRAMES = 8, 256
"""Of a sample, unless the name of the data says more; and the most that it may say."""


@dataclass(frozen=True, eq=False)
class Events:
    """Events are some of a stream, in order: columns `x` and rows `y` from 0, times `t` in whole units (µs, in most
    files), polarity `p` 0 or 1; int64 (n,) each."""

    x: NDArray[np.int64]
    y: NDArray[np.int64]
    t: NDArray[np.int64]
    p: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.t)


Stream = Callable[[], Iterator[Events]]
"""A stream is read from its beginning, in pieces, whenever it is called."""


@dataclass(frozen=True)
class FrameCut:
    """A cut makes T frames of a stream: of equal time, or of an equal number of events.

    The last frame takes the remainder, as in SpikingJelly: with N events from t₀ to t₁, event k at time t is in frame
    min(T - 1, (t - t₀) div max(1, (t₁ - t₀) div T)) by time, and min(T - 1, k div max(1, N div T)) by number.
    """

    T: int = FRAMES
    by: Literal["time", "number"] = "time"

    def frames(self, called: str, stream: Stream, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Cut a stream of a sensor of `size`, (height, width): (T, 2, height, width), 1 where a pixel emitted an event of
        the polarity, else 0.

        Raises KdsnnError, which begins with `called`: no events, events outside the sensor, or times that go back.
        """
        total, first, last = _span(called, stream)
        length = max(1, (last - first) // self.T if self.by == "time" else total // self.T)
        found = np.zeros((self.T, 2, *size), np.uint8)
        done = 0
        for events in stream():
            where = events.t - first if self.by == "time" else np.arange(done, done + len(events))
            done += len(events)
            if len(events) and (events.x.max() >= size[1] or events.y.max() >= size[0]):
                raise KdsnnError(
                    f"{called}: an event at x={events.x.max()}, y={events.y.max()} lies outside the sensor of "
                    f"{size[1]}×{size[0]} pixels (width × height): mend or remove the file."
                )
            found[np.minimum(where // length, self.T - 1), events.p, events.y, events.x] = 1
        return found


def cut_in(variant: str) -> FrameCut | None:
    """Read "frames16" or "frames16-by-number"; None for what is no cut. Raises KdsnnError for a number of frames that
    there cannot be."""
    found = re.fullmatch(r"frames(\d{1,6})(-by-number)?", variant)
    if found is None:
        return None
    return FrameCut(require_frames(variant, int(found[1])), "number" if found[2] else "time")


def require_frames(variant: str, T: int) -> int:
    """Return T. Raises KdsnnError where a sample cannot have so many frames."""
    if not 1 <= T <= MOST_FRAMES:
        raise KdsnnError(f"+{variant}: there must be 1 to {MOST_FRAMES} frames.")
    return T


def extent(called: str, stream: Stream) -> tuple[int, int]:
    """Find the (height, width) that the events of a stream take up. Raises KdsnnError where there are none."""
    height = width = 0
    for events in stream():
        if len(events):
            height, width = max(height, int(events.y.max()) + 1), max(width, int(events.x.max()) + 1)
    if not height:
        raise _empty(called)
    return height, width


def _span(called: str, stream: Stream) -> tuple[int, int, int]:
    """Count the events, and find the first time and the last."""
    total, first, last = 0, 0, 0
    for events in stream():
        if not len(events):
            continue
        first = first if total else int(events.t[0])
        before = np.concatenate([[last if total else first], events.t[:-1]])
        if (events.t < before).any():
            at = int(np.argmax(events.t < before))
            raise KdsnnError(
                f"{called}: the time goes back at event {total + at}, from {before[at]} to {events.t[at]}: sort the events "
                "by their time."
            )
        total, last = total + len(events), int(events.t[-1])
    if not total:
        raise _empty(called)
    return total, first, last


def _empty(called: str) -> KdsnnError:
    return KdsnnError(f"{called}: it holds no events: remove the file.")
