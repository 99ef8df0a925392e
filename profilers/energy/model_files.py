"""Model files are read here: JSON objects of which every field is checked, so that a mistake is one line that names its place."""

from __future__ import annotations

import json
import sys
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from exporters.errors import DeployError


class MalformedModelError(Exception):
    """A field of a model file has a problem; the message says where and what."""


def read_json(path: Path, kind: str) -> Any:
    """The data of a model's file; `kind` is what it should be, as in "energy model".

    Raises:
        DeployError: the file cannot be read or is no JSON.
    """
    a_model = f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise DeployError(f"{path}: a folder or a device; give {a_model}'s JSON file")
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DeployError(f"{path}: cannot read this {kind} ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DeployError(f"{path}: not a text file in UTF-8; {a_model} is a JSON file") from error
    except json.JSONDecodeError as error:
        raise DeployError(f"{path}: not valid JSON at line {error.lineno}: {error.msg}") from error
    except (ValueError, RecursionError) as error:  # numbers of too many digits, too many brackets
        raise DeployError(f"{path}: JSON that Python cannot read ({error})") from error


Bounds = tuple[float, float, float]
"""Low, nominal and high."""


def constant(
    value: Any, place: str, units: Mapping[str, float], sources: Mapping[str, Any], size: tuple[str, str]
) -> tuple[dict[str, Any], list[tuple[float, Bounds]], bool]:
    """A constant of a file comes as its fields, its bounds at every size in the base unit, and whether it depends on a size.

    `size` is what the sizes are and their unit, such as ("bits of memory", "bits").

    Raises:
        MalformedModelError: a field is missing, unknown or out of order.
    """
    found = fields_of(value, place, ("value", "unit", "source"), ("low", "high", "note"))
    factor = units[choice(found["unit"], f"{place}.unit", tuple(units))]
    # a bound that is not given is the value, and so are its mistakes
    given = {key: key if key in found else "value" for key in ("low", "value", "high")}
    lines = {key: by_size(found[name], f"{place}.{name}", *size) for key, name in given.items()}
    points = []
    for at in sorted({at for sizes, _ in lines.values() for at in sizes}):
        low, nominal, high = (interpolated(at, *line) for line in lines.values())
        if not low <= nominal <= high:
            where = f" at {at:g} {size[1]}" if any(len(sizes) > 1 for sizes, _ in lines.values()) else ""
            raise MalformedModelError(
                f"{place}: low {low:.6g} ≤ value {nominal:.6g} ≤ high {high:.6g} does not hold{where}"
            )
        points.append((at, (low * factor, nominal * factor, high * factor)))
    if "note" in found:
        text(found["note"], f"{place}.note")
    defined(found["source"], f"{place}.source", sources)
    sized = not all(isinstance(found.get(key, 0), int | float) for key in ("low", "value", "high"))
    return found, points, sized


def at_size(points: Sequence[tuple[float, Bounds]], size: float) -> Bounds:
    """Bounds at a size lie on straight lines between the points, and are constant outside."""
    sizes = [at for at, _ in points]
    low, nominal, high = (interpolated(size, sizes, [bounds[i] for _, bounds in points]) for i in range(3))
    return low, nominal, high


def interpolated(at: float, sizes: Sequence[float], numbers: Sequence[float]) -> float:
    """The number at a size lies on the straight line between its neighbors, outside it is the last one's, as `numpy.interp` has it:
    importing numpy takes longer than reading all models."""
    right = bisect_right(sizes, at)
    if right in (0, len(sizes)):
        return numbers[0 if right == 0 else -1]
    left = right - 1
    slope = (numbers[right] - numbers[left]) / (sizes[right] - sizes[left])
    return slope * (at - sizes[left]) + numbers[left]


def citation(value: Any, place: str) -> tuple[str, str]:
    """A source is a citation and a link."""
    source = fields_of(value, place, ("citation", "url"))
    url = text(source["url"], f"{place}.url")
    if not url.startswith(("https://", "http://")):
        raise MalformedModelError(f"{place}.url is {url!r}; give a link that starts with https://")
    return text(source["citation"], f"{place}.citation"), url


def by_size(value: Any, place: str, what: str, unit: str) -> tuple[list[float], list[float]]:
    """A number, or [[size, number], …], becomes sizes (`what`, counted in `unit`) and the numbers there."""
    if not isinstance(value, list):
        return [0.0], [number(value, place)]
    if not value:
        raise MalformedModelError(f"{place} is empty; list [{what}, number], or give one number")
    sizes: list[float] = []
    numbers: list[float] = []
    for where, point in items(value, place):
        if not isinstance(point, list) or len(point) != 2:
            raise MalformedModelError(f"{where} must be [{what}, number]")
        size, found = (number(n, f"{where}[{index}]") for index, n in enumerate(point))
        if sizes and size <= sizes[-1]:
            raise MalformedModelError(f"{where}: the sizes must grow, but {size:g} {unit} follow {sizes[-1]:g}")
        sizes.append(size)
        numbers.append(found)
    return sizes, numbers


def fields_of(value: Any, place: str, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """An object has these fields and no other; it comes back as a dictionary."""
    found = dict(entries(value, place))
    if missing := [key for key in required if key not in found]:
        raise MalformedModelError(f"{place} lacks {', '.join(missing)}")
    if unknown := [key for key in found if key not in (*required, *optional)]:
        raise MalformedModelError(
            f"{place} has {', '.join(unknown)}, which means nothing here; known: {', '.join((*required, *optional))}"
        )
    return found


def entries(value: Any, place: str) -> list[tuple[str, Any]]:
    """The entries of an object, in its order."""
    if not isinstance(value, dict):
        raise MalformedModelError(f"{place} must be an object {{…}}")
    return list(value.items())


def items(value: Any, place: str) -> list[tuple[str, Any]]:
    """The items of a list, each with its place."""
    if not isinstance(value, list):
        raise MalformedModelError(f"{place} must be a list […]")
    return [(f"{place}[{index}]", item) for index, item in enumerate(value)]


def text(value: Any, place: str) -> str:
    """A text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise MalformedModelError(f"{place} must be a text that is not empty")
    return value


def number(value: Any, place: str) -> float:
    """A number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= sys.float_info.max:
        raise MalformedModelError(f"{place} is {value!r}; it must be a number of at least 0")
    return float(value)


def choice(value: Any, place: str, choices: tuple[str, ...]) -> str:
    """One of several texts."""
    if value not in choices:
        raise MalformedModelError(f"{place} is {value!r}; it must be one of {', '.join(choices)}")
    return str(value)


def defined(value: Any, place: str, known: Mapping[str, Any]) -> str:
    """The name of something that is defined elsewhere in the file."""
    if not isinstance(value, str) or value not in known:
        raise MalformedModelError(f"{place} is {value!r}, which is not defined; defined: {', '.join(known)}")
    return value
