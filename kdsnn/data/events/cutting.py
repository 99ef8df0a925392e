"""Streams of events, and how they are cut into the frames of time steps."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

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
    """A cut makes T frames of a stream: of equal time, of an equal number of events, or of a length that is given.

    The last frame takes the remainder, as in SpikingJelly: with N events from t₀ to t₁, event k at time t is in frame
    min(T - 1, (t - t₀) div max(1, (t₁ - t₀) div T)) by time, and min(T - 1, k div max(1, N div T)) by number. In windows of a
    given length it is in frame (t - t₀) div length, and left out where there is none.

    Attributes:
        T: frames of a sample.
        by: what is equal.
        length: of a frame by "window", in the units of the file's times.
        counts: 0 where a frame holds 0 and 1, whether there was an event; else `held_counts` says what it holds.
    """

    T: int = FRAMES
    by: Literal["time", "number", "window"] = "time"
    length: int = 0
    counts: int = 0

    def __str__(self) -> str:
        """It reads as what follows "cut into"."""
        ways = {"time": "equal time", "number": "an equal number of events", "window": f"{self.length:,} µs each"}
        return f"{self.T} frames of {ways[self.by]}, {held(self.counts)}"

    def frames(
        self, called: str, stream: Stream, size: tuple[int, int], polarities: Literal[1, 2] = 2
    ) -> NDArray[np.uint8]:
        """Cut a stream of a sensor of `size`, (height, width): (T, polarities, height, width), 1 where a pixel emitted an
        event of the polarity, else 0; or pixels that say of how many. With one polarity all events count as of it.

        Raises KdsnnError, which begins with `called`: no events, events outside the sensor, or times that go back.
        """
        total, first, last = _span(called, stream)
        lengths = {"time": (last - first) // self.T, "number": total // self.T, "window": self.length}
        length = max(1, lengths[self.by])
        number = np.zeros((self.T, polarities, *size), np.uint32 if self.counts else np.uint8)
        done = 0
        for events in stream():
            where = np.arange(done, done + len(events)) if self.by == "number" else events.t - first
            done += len(events)
            if len(events) and (events.x.max() >= size[1] or events.y.max() >= size[0]):
                raise KdsnnError(
                    f"{called}: an event at x={events.x.max()}, y={events.y.max()} lies outside the sensor of "
                    f"{size[1]}×{size[0]} pixels (width × height): mend or remove the file."
                )
            frame = where // length
            p = events.p if polarities == 2 else np.zeros_like(events.p)
            if self.by == "window":
                kept = frame < self.T
                place = (frame[kept], p[kept], events.y[kept], events.x[kept])
            else:
                place = (np.minimum(frame, self.T - 1), p, events.y, events.x)
            if self.counts:
                np.add.at(number, place, 1)
            else:
                number[place] = 1
        return held_counts(number, self.counts) if self.counts else number


COUNTED = 15
"""Events of a pixel and frame that stand for 1, unless the name of the data says more."""

DIVISORS = tuple(k for k in range(2, 256) if 255 % k == 0)
"""Other numbers of events that may stand for 1: those of which k make exactly k / divisor of a pixel of 255."""


def held_counts(counts: NDArray[Any], divisor: int) -> NDArray[np.uint8]:
    """Write counts of events as pixels: k events are min(k, divisor) / divisor of 255, exactly, which a network sees as
    min(k, divisor) / divisor."""
    pixels: NDArray[np.uint8] = (np.minimum(counts, divisor) * (255 // divisor)).astype(np.uint8)
    return pixels


def held(counts: int) -> str:
    """Say what a pixel of a frame holds."""
    if not counts:
        return "1 where a pixel emitted an event"
    return f"in which k events of a pixel are k/{counts}, and 1 from {counts} on"


def cut_in(variant: str) -> FrameCut | None:
    """Read "frames16", "frames16-by-number" or "frames16-of-5000", each also with "-counts" or "-counts51" behind it; None
    for what is no cut. Raises KdsnnError for numbers that there cannot be."""
    found = re.fullmatch(r"frames(\d{1,6})(?:-(by-number)|-of-(\d{1,12}))?(?:-(.*))?", variant)
    if found is None:
        return None
    T = require_frames(variant, int(found[1]))
    counts = counts_in(variant, found[4])
    if found[3] is None:
        return FrameCut(T, "number" if found[2] else "time", counts=counts)
    if int(found[3]) == 0:
        raise KdsnnError(f"+{variant}: frames must be of 1 or more, in the units of the files' times (µs, in most).")
    return FrameCut(T, "window", int(found[3]), counts)


def counts_in(variant: str, text: str | None) -> int:
    """Read what frames hold: nothing (0), "counts" or "counts51". Raises KdsnnError for anything else."""
    if text is None:
        return 0
    if text in ("difference", "polarity-difference"):
        raise KdsnnError(
            f"+{variant}: a difference of polarities has a sign, and a chip here is given pixels of 0 to 255: use -counts, "
            "of whose two channels a first layer can take the difference."
        )
    found = re.fullmatch(r"counts(\d{0,6})", text)
    divisor = int(found[1] or COUNTED) if found else 0
    if divisor not in DIVISORS:
        raise KdsnnError(
            f"+{variant}: frames hold 0 and 1, or with -counts, or -countsN, counts of events, of which N stand for 1: N is "
            f"one of {', '.join(map(str, DIVISORS))}."
        )
    return divisor


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
