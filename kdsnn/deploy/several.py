"""Options that take one whole number or several: 4, (2, 4, 8), "2,4,8" or "1-4"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdsnn.errors import OptionError

Several = int | str | Sequence[int] | None
"""One whole number, several in a sequence, or as text with commas and ranges; None where nothing is said."""

MOST = 64
"""Values that one option takes: more than that is a slip, such as a range of seeds."""


def several(option: str, given: Several, low: int, high: int) -> tuple[int, ...]:
    """The numbers that are given, each once and by size; none where nothing is.

    Args:
        option: what it is called, for the message.
        given: as `Several`.
        low, high: the least and the largest that is allowed.

    Raises:
        OptionError: not whole numbers, out of bounds, or more than `MOST`.
    """
    if given is None:
        return ()
    found = _parts(given)
    if not found or any(not low <= first <= last <= high for first, last in found):
        shown = ",".join(map(str, given)) if isinstance(given, Sequence) and not isinstance(given, str) else str(given)
        raise OptionError(
            f"{{{option}}}: it must be whole numbers from {low} to {high:,}, such as {low}, {low},{low + 2} or {low}-{low + 3}",
            **{option: shown[:100]},
        )
    if (count := sum(last - first + 1 for first, last in found)) > MOST:
        raise OptionError(
            f"{{{option}}}: {count:,} values; at most {MOST} are set beside each other", **{option: given}
        )
    return tuple(sorted({number for first, last in found for number in range(first, last + 1)}))


def _parts(given: int | str | Sequence[int]) -> list[tuple[int, int]]:
    """Ranges (first, last); none where a text or a value is no whole number."""
    if isinstance(given, str):
        ends = [part.strip().split("-") for part in given.split(",")]
        if any(len(part) > 2 or not all(end.strip().isdecimal() for end in part) for part in ends):
            return []
        return [(int(part[0]), int(part[-1])) for part in ends]
    values: list[Any] = list(given) if isinstance(given, Sequence) else [given]
    if any(isinstance(value, bool) or not isinstance(value, int) for value in values):
        return []
    return [(value, value) for value in values]
