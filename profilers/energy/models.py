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

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast

from exporters.errors import DeployError
from profilers.energy.count_names import COUNTS, FROM_PLACEMENT, SIZED
from profilers.energy.model_files import (
    MalformedModelError,
    at_size,
    choice,
    citation,
    constant,
    defined,
    entries,
    fields_of,
    items,
    read_json,
    text,
)

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
        return Range(*at_size([(p.bits, (p.joules.low, p.joules.nominal, p.joules.high)) for p in self.points], bits))


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
    data = read_json(path, "energy model")
    try:
        return _model(data)
    except MalformedModelError as error:
        raise DeployError(f"{path}: {error}") from error


def _model(data: Any) -> EnergyModel:
    texts = ("name", "title", "technology", "precision", "arithmetic", "basis", "boundary")
    model = fields_of(
        data, "the model", (*texts, "sources", "constants", "ann", "snn"), ("remarks", "word_bits", "target")
    )
    fields = {key: text(model[key], key) for key in texts}
    arithmetic = choice(fields.pop("arithmetic"), "arithmetic", ("float", "integer"))
    basis = choice(fields.pop("basis"), "basis", ("measured", "simulated", "estimated"))
    sources = sources_of(model["sources"])
    constants = {
        key: _constant(value, f"constants.{key}", sources) for key, value in entries(model["constants"], "constants")
    }
    word_bits = _word_bits(model.get("word_bits"), constants)
    ann, snn = _terms(model["ann"], "ann", constants), _terms(model["snn"], "snn", constants)
    return EnergyModel(
        **fields,
        arithmetic=cast(Literal["float", "integer"], arithmetic),
        basis=cast(Literal["measured", "simulated", "estimated"], basis),
        sources=MappingProxyType(sources),
        constants=MappingProxyType(constants),
        ann=ann,
        snn=snn,
        remarks=remarks_of(model.get("remarks", []), sources),
        word_bits=word_bits,
        target=_target(model.get("target"), arithmetic, ann, snn),
    )


def sources_of(value: Any) -> dict[str, Citation]:
    """What the field `sources` of a model file names, energy or step-time."""
    sources = {key: Citation(*citation(entry, f"sources.{key}")) for key, entry in entries(value, "sources")}
    if not sources:
        raise MalformedModelError("sources is empty; say where the numbers come from")
    return sources


def remarks_of(value: Any, sources: Mapping[str, Citation]) -> tuple[Remark, ...]:
    """What the field `remarks` of such a file says."""
    remarks = []
    for place, entry in items(value, "remarks"):
        remark = fields_of(entry, place, ("text", "source"))
        source = sources[defined(remark["source"], f"{place}.source", sources)]
        remarks.append(Remark(text(remark["text"], f"{place}.text"), source))
    return tuple(remarks)


def _target(value: Any, arithmetic: str, ann: tuple[EnergyTerm, ...] | str, snn: tuple[EnergyTerm, ...] | str) -> str:
    if not isinstance(ann, str) and (placed := [term.count for term in ann if term.count in FROM_PLACEMENT]):
        raise MalformedModelError(f"ann counts {placed[0]}, which only the placement of a spiking network gives")
    if value is None:
        if not isinstance(snn, str) and (placed := [term.count for term in snn if term.count in FROM_PLACEMENT]):
            raise MalformedModelError(f"snn counts {placed[0]}, which a placement gives; name its chip in target")
        return ""
    if arithmetic == "float":
        raise MalformedModelError("arithmetic is 'float', but on target runs the quantized network; write 'integer'")
    return text(value, "target")


def _constant(value: Any, place: str, sources: Mapping[str, Citation]) -> Constant:
    found, bounds, sized = constant(value, place, _UNITS, sources, ("bits of memory", "bits"))
    points = [Point(bits, Range(*at)) for bits, at in bounds]
    source, note = sources[found["source"]], found.get("note", "")
    if not sized:
        return Constant(points[0].joules, source, note)
    joules = Range(min(p.joules.low for p in points), points[0].joules.nominal, max(p.joules.high for p in points))
    return Constant(joules, source, note, tuple(points))


def _word_bits(value: Any, constants: Mapping[str, Constant]) -> int | None:
    sized = [key for key, constant in constants.items() if constant.points]
    if value is None:
        if sized:
            raise MalformedModelError(
                f"constants.{sized[0]} depends on the size of a memory; give word_bits, the bits per word"
            )
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= sys.float_info.max:
        raise MalformedModelError(f"word_bits is {value!r}; it must be a whole number of at least 1")
    return value


def _terms(value: Any, place: str, constants: Mapping[str, Constant]) -> tuple[EnergyTerm, ...] | str:
    if isinstance(value, str):
        return text(value, place)
    terms = []
    for where, entry in items(value, place):
        term = fields_of(entry, where, ("name", "count", "constants"))
        count = choice(term["count"], f"{where}.count", tuple(COUNTS))
        names = tuple(defined(name, spot, constants) for spot, name in items(term["constants"], f"{where}.constants"))
        if not names:
            raise MalformedModelError(f"{where}.constants is empty; name what one such operation costs")
        if count not in SIZED and (by_size := [name for name in names if constants[name].points]):
            raise MalformedModelError(
                f"{where} counts {count}, which has no memory size, but {by_size[0]} depends on one; "
                f"use it with {', '.join(sorted(SIZED))}"
            )
        terms.append(EnergyTerm(text(term["name"], f"{where}.name"), count, names))
    if not terms:
        raise MalformedModelError(f"{place} is empty; list its terms, or write a sentence that says why there are none")
    return tuple(terms)
