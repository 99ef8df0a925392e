"""Energy models as data: the file format, its validation, and the models that come with the package.

A model is one JSON file (`profilers/data/*.json` are examples):

    name, title      how commands and reports call it
    technology       node and voltage that the constants hold for
    precision        number format or chip
    arithmetic       "float" or "integer": which run of a network the model is for
    basis            "measured", "simulated" or "estimated"
    boundary         what the energy includes and what it does not
    sources          key → {citation, url}
    constants        key → {value, unit, source, optional low, high, note}; unit aJ, fJ, pJ, nJ, uJ, mJ or J
    ann, snn         list of terms {name, count, constants}: count × sum of constants; or a sentence that says
                     why such a network has no entry
    remarks          optional list of {text, source}: stated beside the numbers, never added to them

`COUNTS` lists what a term may count.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast

from exporters.errors import DeployError

COUNTS: Mapping[str, str] = MappingProxyType(
    {
        "macs": "dense multiply-accumulates of an ANN, or of an SNN's layers that spikes do not feed",
        "synops": "synaptic operations: spikes × synapses reached",
        "graded_ops": "non-zero real-valued inputs × synapses reached, at every time step",
        "spikes": "spikes of neurons",
        "active_updates": "membrane updates in which the neuron spikes",
        "inactive_updates": "all other membrane updates",
        "hops_ew": "east-west hops between tiles, from a placement",
        "hops_ns": "north-south hops between tiles, from a placement",
    }
)

_UNITS = {"J": 1.0, "mJ": 1e-3, "uJ": 1e-6, "µJ": 1e-6, "nJ": 1e-9, "pJ": 1e-12, "fJ": 1e-15, "aJ": 1e-18}
_DATA = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Range:
    """A number with its bounds."""

    low: float
    nominal: float
    high: float

    @classmethod
    def exactly(cls, value: float) -> Range:
        """A range without width."""
        return cls(float(value), float(value), float(value))

    def __add__(self, other: Range) -> Range:
        return Range(self.low + other.low, self.nominal + other.nominal, self.high + other.high)


@dataclass(frozen=True)
class Source:
    """Where a number comes from."""

    citation: str
    url: str


@dataclass(frozen=True)
class Constant:
    """Energy of one operation."""

    joules: Range
    source: Source
    note: str = ""


@dataclass(frozen=True)
class Term:
    """`count` (a key of `COUNTS`) × the sum of `constants`."""

    name: str
    count: str
    constants: tuple[str, ...]


@dataclass(frozen=True)
class Remark:
    """Something to know beside the numbers."""

    text: str
    source: Source


@dataclass(frozen=True)
class EnergyModel:
    """One model; the fields are those of the file, see the module's description."""

    name: str
    title: str
    technology: str
    precision: str
    arithmetic: Literal["float", "integer"]
    basis: Literal["measured", "simulated", "estimated"]
    boundary: str
    sources: Mapping[str, Source]
    constants: Mapping[str, Constant]
    ann: tuple[Term, ...] | str
    snn: tuple[Term, ...] | str
    remarks: tuple[Remark, ...] = ()


def built_in() -> dict[str, EnergyModel]:
    """The models that come with the package by name, in the order of their files' numbers."""
    models = [load(path) for path in sorted(_DATA.glob("*.json"))]
    return {model.name: model for model in models}


def load(path: Path) -> EnergyModel:
    """Read and check a model file.

    Raises:
        DeployError: the file cannot be read or is not a valid model; the message names file, place and remedy.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DeployError(f"{path}: cannot read this energy model ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DeployError(f"{path}: not a text file in UTF-8; an energy model is a JSON file") from error
    except json.JSONDecodeError as error:
        raise DeployError(f"{path}: not valid JSON at line {error.lineno}: {error.msg}") from error
    try:
        return _model(data)
    except _MalformedError as error:
        raise DeployError(f"{path}: {error}") from error


class _MalformedError(Exception):
    pass


def _model(data: Any) -> EnergyModel:
    texts = ("name", "title", "technology", "precision", "arithmetic", "basis", "boundary")
    model = _object(data, "the model", (*texts, "sources", "constants", "ann", "snn"), ("remarks",))
    fields = {key: _text(model[key], key) for key in texts}
    arithmetic = _choice(fields.pop("arithmetic"), "arithmetic", ("float", "integer"))
    basis = _choice(fields.pop("basis"), "basis", ("measured", "simulated", "estimated"))
    sources = {key: _source(value, f"sources.{key}") for key, value in _entries(model["sources"], "sources")}
    if not sources:
        raise _MalformedError("sources is empty; say where the numbers come from")
    constants = {
        key: _constant(value, f"constants.{key}", sources) for key, value in _entries(model["constants"], "constants")
    }
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
        ann=_terms(model["ann"], "ann", constants),
        snn=_terms(model["snn"], "snn", constants),
        remarks=tuple(remarks),
    )


def _source(value: Any, place: str) -> Source:
    source = _object(value, place, ("citation", "url"))
    url = _text(source["url"], f"{place}.url")
    if not url.startswith(("https://", "http://")):
        raise _MalformedError(f"{place}.url is {url!r}; give a link that starts with https://")
    return Source(_text(source["citation"], f"{place}.citation"), url)


def _constant(value: Any, place: str, sources: Mapping[str, Source]) -> Constant:
    constant = _object(value, place, ("value", "unit", "source"), ("low", "high", "note"))
    factor = _UNITS[_choice(constant["unit"], f"{place}.unit", tuple(_UNITS))]
    nominal = _number(constant["value"], f"{place}.value")
    low = _number(constant.get("low", nominal), f"{place}.low")
    high = _number(constant.get("high", nominal), f"{place}.high")
    if not low <= nominal <= high:
        raise _MalformedError(f"{place}: low {low} ≤ value {nominal} ≤ high {high} does not hold")
    note = _text(constant["note"], f"{place}.note") if "note" in constant else ""
    joules = Range(low * factor, nominal * factor, high * factor)
    return Constant(joules, sources[_key(constant["source"], f"{place}.source", sources)], note)


def _terms(value: Any, place: str, constants: Mapping[str, Constant]) -> tuple[Term, ...] | str:
    if isinstance(value, str):
        return _text(value, place)
    terms = []
    for where, entry in _items(value, place):
        term = _object(entry, where, ("name", "count", "constants"))
        count = _choice(term["count"], f"{where}.count", tuple(COUNTS))
        names = tuple(_key(name, spot, constants) for spot, name in _items(term["constants"], f"{where}.constants"))
        terms.append(Term(_text(term["name"], f"{where}.name"), count, names))
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
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
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
