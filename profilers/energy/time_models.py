"""Step-time models are data: what one time step of a chip takes, from what its cores do in it.

A model is one JSON file (`profilers/energy/step_times/*.json` are examples):

    name, title      how commands and reports call it
    target           the chip whose placement is timed
    basis            "measured", "simulated" or "estimated"
    boundary         what the time includes and what it does not
    layers           "pipelined": every layer does another time step at once, so that an inference takes T + layers of
                     them; "in turn": all layers do the same step one after the other, and T are enough
    nominal          "overlapping" or "in turn": whether the units of a core work at the same time. The low bound takes
                     the first, the high bound the second; the nominal value what is said here
    at_least         optional, true: a lower bound, nothing is known above it
    sources          key → {citation, url}
    constants        key → {value, unit, source, optional low, high, note}; unit s, ms, us, ns or ps. value, low and
                     high are numbers, or lists of [tiles, number]: straight lines between, the last number beyond
    core             list of units {unit, terms}; a term {name, count, constants} is count × the sum of constants, where
                     the count is one of `PER_CORE`, of one core in one step
    step             list of terms that come on top of the slowest core once per step; the count is one of `PER_STEP`
    remarks          optional list of {text, source}

docs/timing.md explains the format.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast

from exporters.errors import DeployError
from profilers.energy.model_files import (
    MalformedModelError,
    at_size,
    choice,
    constant,
    defined,
    entries,
    fields_of,
    items,
    read_json,
    text,
)
from profilers.energy.models import Citation, Range, Remark, remarks_of, sources_of

PER_CORE: Mapping[str, str] = MappingProxyType(
    {
        "synops": "synaptic operations: spikes that come in × synapses they reach on the core",
        "synops_conv": "synaptic operations in convolutions",
        "synops_linear": "synaptic operations in linear layers",
        "messages_in": "messages that the core receives",
        "updates": "compartments updated: all of them, at every step",
        "active_updates": "updates in which the neuron spikes",
        "inactive_updates": "all other updates",
        "spikes": "spikes of the core’s neurons",
        "messages_out": "messages that the core sends: one per spike and core that it feeds",
    }
)
"""What a core does in one step, by the names that a model's file uses."""

RECEIVING = frozenset({"synops", "synops_conv", "synops_linear", "messages_in"})
"""Of these, what spikes cause where they arrive, in the step in which they were sent; the rest is the neurons' doing."""

PER_STEP: Mapping[str, str] = MappingProxyType(
    {
        "steps": "1",
        "steps_one_chip": "1 if the network is on one chip, else 0",
        "steps_many_chips": "1 if the network is on several chips, else 0",
        "farthest_ew": "east-west tiles that the longest way of a message crosses",
        "farthest_ns": "north-south tiles that it crosses",
    }
)
"""What happens once per step."""

_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9, "ps": 1e-12}
_DATA = Path(__file__).parent / "step_times"


@dataclass(frozen=True)
class Duration:
    """One operation takes so many seconds. With `points`, (tiles, seconds), it depends on how many tiles are used, and
    `seconds` spans all of them."""

    seconds: Range
    source: Citation
    note: str = ""
    points: tuple[TileDuration, ...] = ()

    def at(self, tiles: float) -> Range:
        """With so many tiles it takes this: on straight lines between the points, constant outside."""
        if not self.points:
            return self.seconds
        return Range(
            *at_size([(p.tiles, (p.seconds.low, p.seconds.nominal, p.seconds.high)) for p in self.points], tiles)
        )


@dataclass(frozen=True)
class TileDuration:
    """With so many tiles, an operation takes so many seconds."""

    tiles: float
    seconds: Range


@dataclass(frozen=True)
class TimeTerm:
    """A term is `count` (a key of `PER_CORE` or `PER_STEP`) × the sum of `constants`."""

    name: str
    count: str
    constants: tuple[str, ...]


@dataclass(frozen=True)
class CoreUnit:
    """A unit of a core does its terms one after the other."""

    name: str
    terms: tuple[TimeTerm, ...]


@dataclass(frozen=True)
class TimeModel:
    """A step-time model has the fields of its file, which the module's description tells."""

    name: str
    title: str
    target: str
    basis: Literal["measured", "simulated", "estimated"]
    boundary: str
    pipelined: bool
    overlapping: bool
    at_least: bool
    sources: Mapping[str, Citation]
    constants: Mapping[str, Duration]
    core: tuple[CoreUnit, ...]
    step: tuple[TimeTerm, ...]
    remarks: tuple[Remark, ...] = ()


def built_in() -> dict[str, TimeModel]:
    """These models come with the package, by name, in the order of their files' numbers."""
    models = [load(path) for path in sorted(_DATA.glob("*.json"))]
    return {model.name: model for model in models}


def load(path: Path) -> TimeModel:
    """Read and check a model file.

    Raises:
        DeployError: the file cannot be read or is not a valid model; the message names file, place and remedy.
    """
    data = read_json(path, "step-time model")
    try:
        return _model(data)
    except MalformedModelError as error:
        raise DeployError(f"{path}: {error}") from error


def _model(data: Any) -> TimeModel:
    texts = ("name", "title", "target", "boundary")
    model = fields_of(
        data,
        "the model",
        (*texts, "basis", "layers", "nominal", "sources", "constants", "core", "step"),
        ("at_least", "remarks"),
    )
    sources = sources_of(model["sources"])
    constants = {
        key: _duration(value, f"constants.{key}", sources) for key, value in entries(model["constants"], "constants")
    }
    core = tuple(_unit(value, place, constants) for place, value in items(model["core"], "core"))
    step = _terms(model["step"], "step", PER_STEP, constants)
    if not core and not step:
        raise MalformedModelError("core and step are both empty; list what takes time")
    if not isinstance(at_least := model.get("at_least", False), bool):
        raise MalformedModelError(f"at_least is {at_least!r}; it must be true or false")
    basis = choice(model["basis"], "basis", ("measured", "simulated", "estimated"))
    return TimeModel(
        **{key: text(model[key], key) for key in texts},
        basis=cast(Literal["measured", "simulated", "estimated"], basis),
        pipelined=choice(model["layers"], "layers", ("pipelined", "in turn")) == "pipelined",
        overlapping=choice(model["nominal"], "nominal", ("overlapping", "in turn")) == "overlapping",
        at_least=at_least,
        sources=MappingProxyType(sources),
        constants=MappingProxyType(constants),
        core=core,
        step=step,
        remarks=remarks_of(model.get("remarks", []), sources),
    )


def _duration(value: Any, place: str, sources: Mapping[str, Citation]) -> Duration:
    found, bounds, sized = constant(value, place, _UNITS, sources, ("tiles", "tiles"))
    points = tuple(TileDuration(tiles, Range(*at)) for tiles, at in bounds)
    source, note = sources[found["source"]], found.get("note", "")
    if not sized:
        return Duration(points[0].seconds, source, note)
    spanned = Range(min(p.seconds.low for p in points), points[0].seconds.nominal, max(p.seconds.high for p in points))
    return Duration(spanned, source, note, points)


def _unit(value: Any, place: str, constants: Mapping[str, Duration]) -> CoreUnit:
    unit = fields_of(value, place, ("unit", "terms"))
    terms = _terms(unit["terms"], f"{place}.terms", PER_CORE, constants)
    if not terms:
        raise MalformedModelError(f"{place}.terms is empty; list what the unit does")
    for number, term in enumerate(terms):
        if sized := [name for name in term.constants if constants[name].points]:
            raise MalformedModelError(
                f"{place}.terms[{number}] is of one core, but {sized[0]} depends on the tiles; use it in step"
            )
    return CoreUnit(text(unit["unit"], f"{place}.unit"), terms)


def _terms(
    value: Any, place: str, counts: Mapping[str, str], constants: Mapping[str, Duration]
) -> tuple[TimeTerm, ...]:
    terms = []
    for where, entry in items(value, place):
        term = fields_of(entry, where, ("name", "count", "constants"))
        names = tuple(defined(name, spot, constants) for spot, name in items(term["constants"], f"{where}.constants"))
        if not names:
            raise MalformedModelError(f"{where}.constants is empty; name what one such operation takes")
        count = choice(term["count"], f"{where}.count", tuple(counts))
        terms.append(TimeTerm(text(term["name"], f"{where}.name"), count, names))
    return tuple(terms)
