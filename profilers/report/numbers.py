"""Numbers are written as people read them: three digits, engineering prefixes, thousands separators, units."""

from __future__ import annotations

import math

from profilers.energy.models import Range

_PREFIXES = {-18: "a", -15: "f", -12: "p", -9: "n", -6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T", 15: "P"}
SPACE = "\u00a0"  # a number and its unit stay on one line


def quantity(
    value: float,
    unit: str = "",
    digits: int = 3,
    *,
    plain_below: float = 10_000,
    trim: bool = False,
    space: str = SPACE,
) -> str:
    """A quantity has `digits` significant digits and an engineering prefix: `4.12e-6, "J"` is "4.12 µJ".

    Args:
        value: what is written.
        unit: with one there is always a prefix; without one, values below `plain_below` are written by `number`.
        digits: how many are significant.
        plain_below: 0 gives every number a prefix.
        trim: leave out zeros at the end, "1.2 M" for "1.20 M".
        space: what stands between number and unit; by default a line does not break there.
    """
    if not unit and abs(value) < plain_below:
        return number(value, digits)
    scaled, prefix = _engineering(value, value, digits)
    text = _significant(scaled, digits)
    if trim and "." in text:
        text = text.rstrip("0").rstrip(".")
    return f"{text}{space}{prefix}{unit}".removesuffix(space)


def number(value: float, digits: int = 3) -> str:
    """A number has at least `digits` significant digits, and thousands separators; whole numbers keep every digit."""
    if float(value).is_integer():
        return f"{int(value):,}"
    return _significant(value, digits)


def spread(bounds: Range, unit: str = "") -> str:
    """A range has the prefix of its larger end, "3.1–9.4 nJ"; it is a single number if both ends read the same."""
    if not unit:
        return _span(_significant(bounds.low, 3), _significant(bounds.high, 3))
    return _scaled_span(bounds.low, bounds.high, unit)


def interval(low: float, high: float, like: float | None = None) -> str:
    """An interval of counts, "84.4–85.6 k", has the digits that tell its ends apart.

    It is in the unit in which `quantity` writes the number that it belongs to, `like`: plain below 10,000. Without
    one it is in that of its upper end.
    """
    like = high if like is None else like
    text = ""
    for digits in (3, 4, 5, 6):
        plain = _span(number(low, digits), number(high, digits)) if abs(like) < 10_000 else ""
        text = plain or _scaled_span(low, high, "", digits, like)
        if "–" in text:
            break
    return text


def deviation(std: float, like: float) -> str:
    """A standard deviation, "± 6.12 k", is in the unit of the mean that it belongs to."""
    if abs(like) < 10_000:
        return f"±{SPACE}{number(std)}"
    scaled, prefix = _engineering(std, like, 3)
    return f"±{SPACE}{_significant(scaled, 3)}{SPACE}{prefix}"


def _scaled_span(low: float, high: float, unit: str, digits: int = 3, like: float | None = None) -> str:
    like = high if like is None else like
    low_scaled, prefix = _engineering(low, like, digits)
    high_scaled, _ = _engineering(high, like, digits)
    return f"{_span(_significant(low_scaled, digits), _significant(high_scaled, digits))}{SPACE}{prefix}{unit}"


def _span(low: str, high: str) -> str:
    return low if low == high else f"{low}–{high}"


def percent(fraction: float, digits: int = 1, *, space: str = SPACE) -> str:
    """A fraction 0.9722 is "97.2 %", with `digits` behind the point and `space` before the sign."""
    return f"{100 * fraction:.{digits}f}{space}%"


def memory(bits: float) -> str:
    """Bits are written as bytes: "12.3 kB"."""
    return quantity(bits / 8, "B")


def _engineering(value: float, scale_by: float, digits: int) -> tuple[float, str]:
    if scale_by == 0:
        return value, ""
    # round first: 999.9996 is 1.00 k, not 1000
    rounded = float(f"{abs(scale_by):.{digits - 1}e}")
    exponent = min(15, max(-18, 3 * math.floor(math.log10(rounded) / 3 + 1e-12)))
    return value / 10.0**exponent, _PREFIXES[exponent]


def _significant(value: float, digits: int) -> str:
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(float(f"{abs(value):.{digits - 1}e}")) + 1e-12)
    return f"{value:,.{max(0, digits - 1 - magnitude)}f}"
