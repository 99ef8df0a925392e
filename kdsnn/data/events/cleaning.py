"""What is done to recordings before they are cut: noise filtered out, a sensor of fewer pixels, a part of the sensor.

* `denoise5000`: the background-activity filter (Delbruck 2008, as in jAER): an event is kept only if one of the eight pixels
  around its own emitted an event, of either polarity, in the 5000 units of time up to it.
* `down2`: 2×2 pixels become one, whose events are those of all four.
* `crop32x48`: 32 rows and 48 columns in the middle of the sensor; where rows are left over in an odd number, one more is cut
  off below, of columns one more on the right.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from kdsnn.data.events.cutting import Events, Stream
from kdsnn.errors import KdsnnError

Size = tuple[int, int]
"""(height, width) of a sensor."""

Cleaning = Callable[[Stream, Size], tuple[Stream, Size]]
"""(stream, size of its sensor) → the same of what is left. Raises KdsnnError where it does not fit the sensor."""

AROUND = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]


def cleaning_in(variant: str) -> Cleaning | None:
    """Read "denoise5000", "down2" or "crop32x48"; None for what is none of them. Raises KdsnnError for a number that there
    cannot be."""
    if found := re.fullmatch(r"denoise(\d{1,12})", variant):
        return partial(_denoised, _at_least_one(variant, int(found[1])))
    if found := re.fullmatch(r"down(\d{1,6})", variant):
        return partial(_smaller, _at_least_one(variant, int(found[1])))
    if found := re.fullmatch(r"crop(\d{1,6})x(\d{1,6})", variant):
        return partial(
            _cropped, variant, (_at_least_one(variant, int(found[1])), _at_least_one(variant, int(found[2])))
        )
    return None


def _at_least_one(variant: str, number: int) -> int:
    if number < 1:
        raise KdsnnError(f"+{variant}: its numbers must be 1 or more.")
    return number


def _smaller(factor: int, stream: Stream, size: Size) -> tuple[Stream, Size]:
    def read() -> Iterator[Events]:
        for events in stream():
            yield replace(events, x=events.x // factor, y=events.y // factor)

    return read, (-(-size[0] // factor), -(-size[1] // factor))


def _cropped(variant: str, kept: Size, stream: Stream, size: Size) -> tuple[Stream, Size]:
    if kept[0] > size[0] or kept[1] > size[1]:
        raise KdsnnError(
            f"+{variant}: the sensor has {size[0]}×{size[1]} pixels (height × width): keep as many or fewer."
        )
    top, left = ((whole - part) // 2 for whole, part in zip(size, kept, strict=True))

    def read() -> Iterator[Events]:
        for events in stream():
            y, x = events.y - top, events.x - left
            inside = (y >= 0) & (y < kept[0]) & (x >= 0) & (x < kept[1])
            yield Events(x[inside], y[inside], events.t[inside], events.p[inside])

    return read, kept


def _denoised(within: int, stream: Stream, size: Size) -> tuple[Stream, Size]:
    def read() -> Iterator[Events]:
        before = _no_events()
        for events in stream():
            if not len(events):
                continue
            both = Events(*(np.concatenate(pair) for pair in zip(_parts(before), _parts(events), strict=True)))
            kept = np.flatnonzero(_is_supported(both, within)[len(before) :])
            before = _latest(both, int(events.t[-1]) - within)
            yield Events(*(part[kept] for part in _parts(events)))

    return read, size


def _is_supported(events: Events, within: int) -> NDArray[np.bool_]:
    """Tell of each event whether a pixel around its own emitted one at most `within` before it: (n,).

    Sorted by pixel, and by their order within it, the last event of a neighbor before event k is found by bisection.
    """
    number, width = len(events), int(events.x.max()) + 3
    pixel = (events.y + 1) * width + events.x + 1
    order = np.arange(number)
    keys = np.sort(pixel * number + order)
    found = np.zeros(number, np.bool_)
    for dy, dx in AROUND:
        neighbor = pixel + dy * width + dx
        key = keys[np.searchsorted(keys, neighbor * number + order) - 1]
        found |= (
            (key // number == neighbor)
            & (key < neighbor * number + order)
            & (events.t - events.t[key % number] <= within)
        )
    return found


def _latest(events: Events, since: int) -> Events:
    """Keep the last event of every pixel, in order, if it is not before `since`."""
    width = int(events.x.max()) + 1
    _, back = np.unique((events.y * width + events.x)[::-1], return_index=True)
    kept = np.sort(len(events) - 1 - back)
    kept = kept[events.t[kept] >= since]
    return Events(*(part[kept] for part in _parts(events)))


def _parts(events: Events) -> tuple[NDArray[np.int64], ...]:
    return events.x, events.y, events.t, events.p


def _no_events() -> Events:
    return Events(*(np.zeros(0, np.int64) for _ in range(4)))
