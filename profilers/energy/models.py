"""Energy models are data: this module has the file format, its validation, and the models that come with the package.

A model is one JSON file (`profilers/energy/data/*.json` are examples):

    name, title      how commands and reports call it
    technology       node and voltage that the constants hold for
    precision        number format or chip
    arithmetic       "float" or "integer": which run of a network the model is for
    target           the chip whose placement is counted (`hardware.chips.limits`), needed where a term counts what a
                     placement gives: hops, messages, chips × seconds
    word_bits        optional: bits per word of memory, needed where a constant depends on the memory's size
    basis            "measured", "simulated" or "estimated"
    boundary         what the energy includes and what it does not
    sources          key → {citation, url}
    constants        key → {value, unit, source, optional low, high, note}; unit aJ, fJ, pJ, nJ, uJ, mJ or J.
                     value, low and high are numbers, or lists of [bits of memory, number]: the energy of one
                     access to a memory of that size, straight lines between, the last number beyond
    ann, snn         list of terms {name, count, constants}: count × sum of constants; or a sentence that says
                     why such a network has no entry
    remarks          optional list of {text, source}: stated beside the numbers, never added to them

`profilers.energy.count_names.COUNTS` lists what a term may count. docs/energy-models.md explains the format with an
example.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast

import numpy as np

from exporters.errors import DeployError
from profilers.energy.count_names import COUNTS, FROM_PLACEMENT, SIZED

_UNITS = {"J": 1.0, "mJ": 1e-3, "uJ": 1e-6, "µJ": 1e-6, "nJ": 1e-9, "pJ": 1e-12, "fJ": 1e-15, "aJ": 1e-18}
_DATA = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Range:
    """A range is a number with its bounds."""

    low: float
    nominal: float
    high: float

    @classmethod
    def exactly(cls, value: float) -> Range:
        """A number without bounds of its own is a range without width."""
        return cls(float(value), float(value), float(value))

    def __add__(self, other: Range) -> Range:
        return Range(self.low + other.low, self.nominal + other.nominal, self.high + other.high)

    def __mul__(self, other: Range | float) -> Range:
        """Ranges multiply bound by bound; both must be of numbers that are not negative."""
        if not isinstance(other, Range):
            other = Range.exactly(other)
        return Range(self.low * other.low, self.nominal * other.nominal, self.high * other.high)


@dataclass(frozen=True)
class Citation:
    """A citation says where a number comes from."""

    citation: str
    url: str


@dataclass(frozen=True)
class Point:
    """One access to a memory of `bits` bits takes so many joules."""

    bits: float
    joules: Range


@dataclass(frozen=True)
class Constant:
    """One operation takes so many joules.

    With `points`, sorted by size, it depends on the size of the memory; `joules` then spans all of them, its
    nominal value is that of the smallest memory.
    """

    joules: Range
    source: Citation
    note: str = ""
    points: tuple[Point, ...] = ()

    def at(self, bits: float) -> Range:
        """At a memory of this size an access takes so much: on straight lines between the points, constant outside."""
        if not self.points:
            return self.joules
        sizes = [point.bits for point in self.points]
        low, nominal, high = (
            float(np.interp(bits, sizes, [getattr(point.joules, bound) for point in self.points]))
            for bound in ("low", "nominal", "high")
        )
        return Range(low, nominal, high)


@dataclass(frozen=True)
class EnergyTerm:
    """A term is `count` (a key of `count_names.COUNTS`) × the sum of `constants`."""

    name: str
    count: str
    constants: tuple[str, ...]


@dataclass(frozen=True)
class Remark:
    """A remark is to be known beside the numbers."""

    text: str
    source: Citation


@dataclass(frozen=True)
class EnergyModel:
    """A model has the fields of its file, which the module's description tells."""

    name: str
    title: str
    technology: str
    precision: str
    arithmetic: Literal["float", "integer"]
    basis: Literal["measured", "simulated", "estimated"]
    boundary: str
    sources: Mapping[str, Citation]
    constants: Mapping[str, Constant]
    ann: tuple[EnergyTerm, ...] | str
    snn: tuple[EnergyTerm, ...] | str
    remarks: tuple[Remark, ...] = ()
    word_bits: int | None = None
    target: str = ""


def built_in() -> dict[str, EnergyModel]:
    """These models come with the package, by name, in the order of their files' numbers."""
    models = [load(path) for path in sorted(_DATA.glob("*.json"))]
    return {model.name: model for model in models}


def load(path: Path) -> EnergyModel:
    """Read and check a model file.

    Raises:
        DeployError: the file cannot be read or is not a valid model; the message names file, place and remedy.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise DeployError(f"{path}: a folder or a device; give an energy model's JSON file")
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DeployError(f"{path}: cannot read this energy model ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DeployError(f"{path}: not a text file in UTF-8; an energy model is a JSON file") from error
    except json.JSONDecodeError as error:
        raise DeployError(f"{path}: not valid JSON at line {error.lineno}: {error.msg}") from error
    except (ValueError, RecursionError) as error:  # numbers of too many digits, too many brackets
        raise DeployError(f"{path}: JSON that Python cannot read ({error})") from error
    try:
        return _model(data)
    except _MalformedError as error:
        raise DeployError(f"{path}: {error}") from error


class _MalformedError(Exception):
    pass


def _model(data: Any) -> EnergyModel:
    texts = ("name", "title", "technology", "precision", "arithmetic", "basis", "boundary")
    model = _object(
        data, "the model", (*texts, "sources", "constants", "ann", "snn"), ("remarks", "word_bits", "target")
    )
    fields = {key: _text(model[key], key) for key in texts}
    arithmetic = _choice(fields.pop("arithmetic"), "arithmetic", ("float", "integer"))
    basis = _choice(fields.pop("basis"), "basis", ("measured", "simulated", "estimated"))
    sources = {key: _source(value, f"sources.{key}") for key, value in _entries(model["sources"], "sources")}
    if not sources:
        raise _MalformedError("sources is empty; say where the numbers come from")
    constants = {
        key: _constant(value, f"constants.{key}", sources) for key, value in _entries(model["constants"], "constants")
    }
    word_bits = _word_bits(model.get("word_bits"), constants)
    ann, snn = _terms(model["ann"], "ann", constants), _terms(model["snn"], "snn", constants)
    remarks = []
    for place, value in _items(model.get("remarks", []), "remarks"):
        remark = _object(value, place, ("text", "source"))
        source = sources[_key(remark["source"], f"{place}.source", sources)]
        remarks.append(Remark(_text(remark["text"], f"{place}.text"), source))
    return EnergyModel(
        **fields,
        arithmetic=cast(Literal["float", "integer"], arithmetic),
        basis=cast(Literal["measured", "simulated", "estimated"], basis),
        sources=MappingProxyType(sources),
        constants=MappingProxyType(constants),
        ann=ann,
        snn=snn,
        remarks=tuple(remarks),
        word_bits=word_bits,
        target=_target(model.get("target"), arithmetic, ann, snn),
    )


def _target(value: Any, arithmetic: str, ann: tuple[EnergyTerm, ...] | str, snn: tuple[EnergyTerm, ...] | str) -> str:
    if not isinstance(ann, str) and (placed := [term.count for term in ann if term.count in FROM_PLACEMENT]):
        raise _MalformedError(f"ann counts {placed[0]}, which only the placement of a spiking network gives")
    if value is None:
        if not isinstance(snn, str) and (placed := [term.count for term in snn if term.count in FROM_PLACEMENT]):
            raise _MalformedError(f"snn counts {placed[0]}, which a placement gives; name its chip in target")
        return ""
    if arithmetic == "float":
        raise _MalformedError("arithmetic is 'float', but on target runs the quantized network; write 'integer'")
    return _text(value, "target")


def _source(value: Any, place: str) -> Citation:
    source = _object(value, place, ("citation", "url"))
    url = _text(source["url"], f"{place}.url")
    if not url.startswith(("https://", "http://")):
        raise _MalformedError(f"{place}.url is {url!r}; give a link that starts with https://")
    return Citation(_text(source["citation"], f"{place}.citation"), url)


def _constant(value: Any, place: str, sources: Mapping[str, Citation]) -> Constant:
    constant = _object(value, place, ("value", "unit", "source"), ("low", "high", "note"))
    factor = _UNITS[_choice(constant["unit"], f"{place}.unit", tuple(_UNITS))]
    # a bound that is not given is the value, and so are its mistakes
    given = {key: key if key in constant else "value" for key in ("low", "value", "high")}
    lines = {key: _by_size(constant[name], f"{place}.{name}") for key, name in given.items()}
    points = []
    for bits in sorted({bits for sizes, _ in lines.values() for bits in sizes}):
        low, nominal, high = (float(np.interp(bits, *line)) for line in lines.values())
        if not low <= nominal <= high:
            where = f" at {bits:g} bits" if any(len(sizes) > 1 for sizes, _ in lines.values()) else ""
            raise _MalformedError(
                f"{place}: low {low:.6g} ≤ value {nominal:.6g} ≤ high {high:.6g} does not hold{where}"
            )
        points.append(Point(bits, Range(low * factor, nominal * factor, high * factor)))
    note = _text(constant["note"], f"{place}.note") if "note" in constant else ""
    source = sources[_key(constant["source"], f"{place}.source", sources)]
    if all(isinstance(constant.get(key, 0), int | float) for key in ("low", "value", "high")):
        return Constant(points[0].joules, source, note)
    joules = Range(min(p.joules.low for p in points), points[0].joules.nominal, max(p.joules.high for p in points))
    return Constant(joules, source, note, tuple(points))


def _by_size(value: Any, place: str) -> tuple[list[float], list[float]]:
    """A number, or [[bits, number], …], becomes sizes in bits and the numbers there."""
    if not isinstance(value, list):
        return [0.0], [_number(value, place)]
    if not value:
        raise _MalformedError(f"{place} is empty; list [bits of memory, number], or give one number")
    sizes: list[float] = []
    numbers: list[float] = []
    for where, point in _items(value, place):
        if not isinstance(point, list) or len(point) != 2:
            raise _MalformedError(f"{where} must be [bits of memory, number]")
        bits, number = (_number(n, f"{where}[{index}]") for index, n in enumerate(point))
        if sizes and bits <= sizes[-1]:
            raise _MalformedError(f"{where}: the sizes must grow, but {bits:g} bits follow {sizes[-1]:g}")
        sizes.append(bits)
        numbers.append(number)
    return sizes, numbers


def _word_bits(value: Any, constants: Mapping[str, Constant]) -> int | None:
    sized = [key for key, constant in constants.items() if constant.points]
    if value is None:
        if sized:
            raise _MalformedError(
                f"constants.{sized[0]} depends on the size of a memory; give word_bits, the bits per word"
            )
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= sys.float_info.max:
        raise _MalformedError(f"word_bits is {value!r}; it must be a whole number of at least 1")
    return value


def _terms(value: Any, place: str, constants: Mapping[str, Constant]) -> tuple[EnergyTerm, ...] | str:
    if isinstance(value, str):
        return _text(value, place)
    terms = []
    for where, entry in _items(value, place):
        term = _object(entry, where, ("name", "count", "constants"))
        count = _choice(term["count"], f"{where}.count", tuple(COUNTS))
        names = tuple(_key(name, spot, constants) for spot, name in _items(term["constants"], f"{where}.constants"))
        if not names:
            raise _MalformedError(f"{where}.constants is empty; name what one such operation costs")
        if count not in SIZED and (by_size := [name for name in names if constants[name].points]):
            raise _MalformedError(
                f"{where} counts {count}, which has no memory size, but {by_size[0]} depends on one; "
                f"use it with {', '.join(sorted(SIZED))}"
            )
        terms.append(EnergyTerm(_text(term["name"], f"{where}.name"), count, names))
    if not terms:
        raise _MalformedError(f"{place} is empty; list its terms, or write a sentence that says why there are none")
    return tuple(terms)


def _object(value: Any, place: str, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    entries = dict(_entries(value, place))
    if missing := [key for key in required if key not in entries]:
        raise _MalformedError(f"{place} lacks {', '.join(missing)}")
    if unknown := [key for key in entries if key not in (*required, *optional)]:
        raise _MalformedError(
            f"{place} has {', '.join(unknown)}, which means nothing here; known: {', '.join((*required, *optional))}"
        )
    return entries


def _entries(value: Any, place: str) -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        raise _MalformedError(f"{place} must be an object {{…}}")
    return list(value.items())


def _items(value: Any, place: str) -> list[tuple[str, Any]]:
    if not isinstance(value, list):
        raise _MalformedError(f"{place} must be a list […]")
    return [(f"{place}[{index}]", item) for index, item in enumerate(value)]


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _MalformedError(f"{place} must be a text that is not empty")
    return value


def _number(value: Any, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= sys.float_info.max:
        raise _MalformedError(f"{place} is {value!r}; it must be a number of at least 0")
    return float(value)


def _choice(value: Any, place: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise _MalformedError(f"{place} is {value!r}; it must be one of {', '.join(choices)}")
    return str(value)


def _key(value: Any, place: str, known: Mapping[str, Any]) -> str:
    if not isinstance(value, str) or value not in known:
        raise _MalformedError(f"{place} is {value!r}, which is not defined; defined: {', '.join(known)}")
    return value
