"""What a chip has room for is data: one JSON file per target in `hardware/chips/data`, or a user's own.

    name, title      how commands call it
    graded_spikes    whether a spike can carry a number (a pixel)
    memory           how a core keeps synapses, see `SynapseMemory` and `hardware.chips.memory`
    sources          key → {citation, url}
    limits           key → {value, unit, source, confidence, optional note}

Confidence: "A" read in the primary artifact, "B" two or more transcriptions of a primary table agree,
"inference" derived here, and the note says from what. A limit that nobody has published is left out,
and nothing is checked against it. `docs/check.md` tells what each limit means.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

from exporters.errors import DeployError

_DATA = Path(__file__).parent / "data"
_CONFIDENCE = ("A", "B", "inference")
_LARGEST = 2**31 - 1
"""A limit has at most this value: products of two of them still fit into 64 bits."""

Storage = Literal["lists", "weights"]
Axis = Literal["rows", "columns"]


@dataclass(frozen=True)
class LimitSource:
    """A number comes from here."""

    citation: str
    url: str


@dataclass(frozen=True)
class Limit:
    """A limit is one number of a chip."""

    value: int
    unit: str
    source: LimitSource
    confidence: str
    note: str = ""


@dataclass(frozen=True)
class SynapseMemory:
    """A core keeps the synapses of its neurons in this way; `hardware.chips.memory` counts by it.

    Attributes:
        limit: the key, among the limits, of how many words of this memory a core has.
        word_bits: bits of one word.
        unit: what a word is called in messages.
        storage: "lists": a list of synapses for each source, as Loihi 1 has them; "weights": one entry per synapse.
        shared_along: the axes of the map along which synapses that differ by a shift only are kept once: none for a copy per synapse,
            both for one kernel per core.
        stores_zeros: whether synapses of weight 0 take room, and their spikes are sent, too.
    """

    limit: str
    word_bits: int
    unit: str
    storage: Storage
    shared_along: frozenset[Axis]
    stores_zeros: bool = False


@dataclass(frozen=True)
class Target:
    """A target is a chip; its fields are those of its file, see the module's description."""

    name: str
    title: str
    graded_spikes: bool
    memory: SynapseMemory
    limits: Mapping[str, Limit]

    def __reduce__(self) -> tuple[Any, ...]:
        """A target is pickled and copied by its fields, of which mappings that cannot change are no such thing."""
        return type(self), (self.name, self.title, self.graded_spikes, self.memory, dict(self.limits))

    def __getitem__(self, key: str) -> int:
        """Every target has this limit, and this is its value."""
        return self.limits[key].value

    def get(self, key: str) -> int | None:
        """A limit has this value, or None where nothing is published."""
        return self.limits[key].value if key in self.limits else None

    @cached_property
    def room(self) -> Mapping[str, int]:
        """A core has so much of each resource; what is not published is left out."""
        known = {
            "neurons": self["compartments"],
            "memory": self[self.memory.limit],
            "input axons": self.get("input_axons"),
            "output axons": self.get("output_axons"),
        }
        return MappingProxyType({name: limit for name, limit in known.items() if limit is not None})

    @property
    def counts_axons(self) -> bool:
        """Axons count where anything is known that they could be held against."""
        return "input axons" in self.room or "output axons" in self.room

    @property
    def has_populations(self) -> bool:
        """On some chips the spikes of a line of neurons can share an axon, which then takes `population_entries`."""
        return "population_entries" in self.limits


def targets() -> dict[str, Target]:
    """These targets come with the package, by name."""
    found = [load(path) for path in sorted(_DATA.glob("*.json"))]
    return {target.name: target for target in found}


def target(name: str) -> Target:
    """A target is found by its name, or read from a JSON file.

    Raises:
        DeployError: there is none of that name, or the file is not a target.
    """
    known = targets()
    if name in known:
        return known[name]
    if name.endswith(".json") or Path(name).is_file():
        return load(Path(name))
    raise DeployError(f"there is no target {name!r}; choose from {', '.join(known)}, or give a .json file of your own")


# -- reading a file ----------------------------------------------------------------------------------

_COMMON = (
    "compartments", "soft_reset_compartments", "weight_bits", "threshold_bits", "bias_bits", "cores_per_chip",
    "max_chips",
)  # fmt: skip
_REQUIRED: Mapping[Storage, tuple[str, ...]] = {
    "lists": (*_COMMON, "synapses_per_entry", "entry_prefix_bits", "min_index_bits", "list_end_bits"),
    "weights": _COMMON,
}
_OPTIONAL: Mapping[Storage, tuple[str, ...]] = {
    "lists": ("words_per_list",),
    "weights": ("synapse_overhead_bits",),
}
_OPTIONAL_ANYWHERE = (
    "neuron_bytes", "stored_weight_bits", "input_axons", "output_axons", "population_entries", "population_size",
    "cores_per_tile", "mesh_columns", "decay_bits", "delay_bits", "message_bits",
)  # fmt: skip
_TOGETHER = (("population_entries", "population_size"), ("cores_per_tile", "mesh_columns"))
_MAY_BE_ZERO = {"entry_prefix_bits", "min_index_bits", "list_end_bits", "synapse_overhead_bits"}


class _TargetFileError(ValueError):
    """A target file has a problem; the message says where in it, and what."""


def load(path: Path) -> Target:
    """A target file is read and checked.

    Raises:
        DeployError: it cannot be read or is not a target; the message names file and field.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise DeployError(f"{path}: no such file") from error
    except OSError as error:
        raise DeployError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, numbers of too many digits, too many brackets
        raise DeployError(f"{path}: not a readable JSON file ({error})") from error
    try:
        return _target(data)
    except _TargetFileError as error:
        raise DeployError(f"{path}: {error}") from error


def _target(data: Any) -> Target:
    _fields("the target", data, required=("name", "title", "graded_spikes", "memory", "sources", "limits"))
    sources = {key: _source(f"sources.{key}", entry) for key, entry in _mapping("sources", data["sources"]).items()}
    entries = _mapping("limits", data["limits"])
    memory = _memory(data["memory"], entries)
    _known_limits(entries, memory)
    limits = {key: _limit(key, entry, sources) for key, entry in entries.items()}
    return Target(
        _text("name", data["name"]),
        _text("title", data["title"]),
        _truth("graded_spikes", data["graded_spikes"]),
        memory,
        MappingProxyType(limits),
    )


def _memory(data: Any, limits: Mapping[str, Any]) -> SynapseMemory:
    _fields("memory", data, ("limit", "word_bits", "unit", "storage", "shared_along"), optional=("stores_zeros",))
    limit = _text("memory.limit", data["limit"])
    if limit not in limits:
        raise _TargetFileError(f"memory.limit: {limit!r} is not among the limits")
    storage, shared = data["storage"], data["shared_along"]
    if storage not in get_args(Storage):
        raise _TargetFileError(f"memory.storage: {storage!r} must be one of {', '.join(get_args(Storage))}")
    if not isinstance(shared, list) or not all(axis in get_args(Axis) for axis in shared):
        raise _TargetFileError(f"memory.shared_along: {shared!r} must be a list of {', '.join(get_args(Axis))}, or []")
    return SynapseMemory(
        limit,
        _number("memory.word_bits", data["word_bits"], least=1),
        _text("memory.unit", data["unit"]),
        storage,
        frozenset(shared),
        _truth("memory.stores_zeros", data.get("stores_zeros", False)),
    )


def _known_limits(entries: Mapping[str, Any], memory: SynapseMemory) -> None:
    """Limits must not be missing, nor be there for nobody to read: a typo must not pass for an unpublished number."""
    required = _REQUIRED[memory.storage]
    if missing := [key for key in required if key not in entries]:
        raise _TargetFileError(f"limits: {', '.join(missing)} missing")
    known = {*required, *_OPTIONAL[memory.storage], *_OPTIONAL_ANYWHERE, memory.limit}
    for key in entries:
        if key not in known:
            raise _TargetFileError(f"limits.{key}: {_why_unknown(key, known, memory.storage)}")
    for pair in _TOGETHER:
        if len(given := [key for key in pair if key in entries]) == 1:
            (other,) = set(pair) - set(given)
            raise _TargetFileError(f"limits.{given[0]}: it says nothing without {other}")


def _why_unknown(key: str, known: Iterable[str], storage: Storage) -> str:
    elsewhere = [name for names in (*_REQUIRED.values(), *_OPTIONAL.values()) for name in names]
    if key in elsewhere:
        return f'nothing reads it with storage "{storage}"'
    alike = difflib.get_close_matches(key, sorted(known), n=1)
    return "not a limit that is known" + (f"; is {alike[0]} meant?" if alike else "")


def _limit(key: str, entry: Any, sources: Mapping[str, LimitSource]) -> Limit:
    place = f"limits.{key}"
    _fields(place, entry, required=("value", "unit", "source", "confidence"), optional=("note",))
    value = _number(f"{place}: value", entry["value"], least=0 if key in _MAY_BE_ZERO else 1)
    if entry["confidence"] not in _CONFIDENCE:
        raise _TargetFileError(f"{place}: confidence {entry['confidence']!r} must be one of {', '.join(_CONFIDENCE)}")
    if not isinstance(entry["source"], str) or entry["source"] not in sources:
        raise _TargetFileError(f"{place}: source {entry['source']!r} is not among the sources")
    note = _text(f"{place}.note", entry["note"]) if "note" in entry else ""
    return Limit(value, _text(f"{place}.unit", entry["unit"]), sources[entry["source"]], entry["confidence"], note)


def _source(place: str, entry: Any) -> LimitSource:
    _fields(place, entry, required=("citation", "url"))
    return LimitSource(_text(f"{place}.citation", entry["citation"]), _text(f"{place}.url", entry["url"]))


def _mapping(place: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _TargetFileError(f"{place}: it must be an object, not {value!r:.60}")
    return value


def _fields(place: str, value: Any, required: Iterable[str], optional: Iterable[str] = ()) -> None:
    """The value must be an object that lacks no field and has none that nothing would read."""
    found = _mapping(place, value)
    for key in required:
        if key not in found:
            raise _TargetFileError(f"{place} lacks {key!r}")
    if unknown := sorted(found.keys() - {*required, *optional}):
        raise _TargetFileError(f"{place}: the field {unknown[0]!r} is not known")


def _text(place: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _TargetFileError(f"{place}: {value!r} must be text")
    return value


def _truth(place: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _TargetFileError(f"{place}: {value!r} must be true or false")
    return value


def _number(place: str, value: Any, *, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise _TargetFileError(f"{place} {value!r} must be a whole number of at least {least}")
    if value > _LARGEST:
        raise _TargetFileError(f"{place} {value} is larger than {_LARGEST:,}, the most that is counted with")
    return value
