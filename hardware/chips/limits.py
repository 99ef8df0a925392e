"""What a chip has room for, as data: one JSON file per target in `hardware/data`.

    name, title      how commands call it
    graded_spikes    whether a spike can carry a number (a pixel)
    sharing          how convolution kernels are kept, see `hardware.chips.cores`: "lines" or "kernel"
    sources          key → {citation, url}
    limits           key → {value, unit, source, confidence, optional note}

Confidence: "A" read in the primary artifact, "B" two or more transcriptions of a primary table agree,
"inference" derived here, and the note says from what. A limit that nobody has published is left out,
and nothing is checked against it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from exporters.errors import DeployError

_DATA = Path(__file__).parent / "data"
_CONFIDENCE = ("A", "B", "inference")


@dataclass(frozen=True)
class Source:
    """Where a number comes from."""

    citation: str
    url: str


@dataclass(frozen=True)
class Limit:
    """One number of a chip."""

    value: int
    unit: str
    source: Source
    confidence: str
    note: str = ""


@dataclass(frozen=True)
class Target:
    """A chip; the fields are those of its file, see the module's description."""

    name: str
    title: str
    graded_spikes: bool
    sharing: Literal["lines", "kernel"]
    limits: Mapping[str, Limit]

    def __getitem__(self, key: str) -> int:
        """The value of a limit that every target has."""
        return self.limits[key].value

    def get(self, key: str) -> int | None:
        """The value of a limit, None where nothing is published."""
        return self.limits[key].value if key in self.limits else None


def targets() -> dict[str, Target]:
    """The targets that come with the package, by name."""
    found = [load(path) for path in sorted(_DATA.glob("*.json"))]
    return {target.name: target for target in found}


def target(name: str) -> Target:
    """One target by name.

    Raises:
        DeployError: there is none of that name.
    """
    known = targets()
    if name not in known:
        raise DeployError(f"there is no target {name!r}; choose from {', '.join(known)}")
    return known[name]


def load(path: Path) -> Target:
    """Read a target file.

    Raises:
        DeployError: it cannot be read or is not a target; the message names file and place.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DeployError(f"{path}: not a readable JSON file ({error})") from error
    place = "the target"
    try:
        if data["sharing"] not in ("lines", "kernel"):
            raise ValueError("sharing must be lines or kernel")
        sources = {key: Source(str(s["citation"]), str(s["url"])) for key, s in data["sources"].items()}
        limits = {}
        for key, entry in data["limits"].items():
            place = f"limits.{key}"
            limits[key] = _limit(entry, sources)
        place = "limits"
        missing = [key for key in _REQUIRED[data["sharing"]] if key not in limits]
        if missing:
            raise ValueError(f"{', '.join(missing)} missing")
        place = "the target"
        return Target(
            str(data["name"]),
            str(data["title"]),
            bool(data["graded_spikes"]),
            data["sharing"],
            MappingProxyType(limits),
        )
    except KeyError as error:
        raise DeployError(f"{path}: {place} lacks {error}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise DeployError(f"{path}: {place}: {error}") from error


_COMMON = (
    "compartments", "soft_reset_compartments", "weight_bits", "threshold_bits", "bias_bits", "cores_per_chip",
    "max_chips",
)  # fmt: skip
_REQUIRED: Mapping[str, tuple[str, ...]] = {
    "lines": (
        *_COMMON, "synaptic_words", "synapses_per_entry", "entry_prefix_bits", "min_index_bits", "words_per_list",
        "input_axons", "output_axons", "population_entries", "population_size",
    ),
    "kernel": (*_COMMON, "memory_bytes", "neuron_bytes"),
}  # fmt: skip


def _limit(entry: Mapping[str, Any], sources: Mapping[str, Source]) -> Limit:
    value = entry["value"]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"value {value!r} must be a whole number of at least 1")
    if entry["confidence"] not in _CONFIDENCE:
        raise ValueError(f"confidence {entry['confidence']!r} must be one of {', '.join(_CONFIDENCE)}")
    if entry["source"] not in sources:
        raise ValueError(f"source {entry['source']!r} is not among the sources")
    note = str(entry.get("note", ""))
    return Limit(value, str(entry["unit"]), sources[entry["source"]], str(entry["confidence"]), note)
