"""A sweep of `profile` gives back a `Sweep`, to be printed, shown in a notebook, taken apart or written to files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, cast

import pandas as pd

from exporters.errors import DeployError
from exporters.files import atomic_paths
from profilers.report import sweep_page, sweep_picture, sweep_tables
from profilers.report.sentences import Sentence
from profilers.report.sweep import SweepData
from profilers.text_table import TextTable

FORMATS: Mapping[str, str] = MappingProxyType(
    {"html": "sweep.html", "json": "sweep.json", "csv": "sweep.csv", "svg": "sweep.svg"}
)
"""Format → file name."""


@dataclass(frozen=True, repr=False)
class Sweep(SweepData):
    """A sweep prints as the table that the command ends with, and has a method for what else readers do with it."""

    verdict: ClassVar[tuple[Sentence, ...]] = ()
    """No sentences: a sweep shows, and judges nobody."""

    def tables(self) -> tuple[TextTable, ...]:
        """Every point with its costs; and what these cost at the accuracy of a trained quantized ANN, where there is one."""
        equal = sweep_tables.equal_text_table(self)
        return (sweep_tables.point_table(self), *([] if equal is None else [equal]))

    def __str__(self) -> str:
        return "\n".join(map(str, self.tables()))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """A notebook shows the picture and the tables."""
        return sweep_picture.standalone(self) + "".join(one.to_html() for one in self.tables())

    def to_frame(self) -> pd.DataFrame:
        """The frame has one row per point, and all costs (`profilers.report.sweep`) with their bounds and fronts."""
        return sweep_tables.frame(self)

    def to_dict(self) -> dict[str, Any]:
        """The sweep becomes what JSON would give back; each point names the costs on whose front it is."""
        front = sweep_tables.fronts(self)
        found = cast(dict[str, Any], json.loads(json.dumps(asdict(self), allow_nan=False)))
        for index, point in enumerate(found["points"]):
            point["front"] = [name for name, places in front.items() if index in places]
        return found

    def to_json(self) -> str:
        """The JSON text has every number of the sweep."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def write(self, folder: Path | str, formats: Iterable[str] = tuple(FORMATS)) -> dict[str, Path]:
        """The sweep is written into a folder, as html, json, csv or svg, all or none; returns the paths by file name.

        Raises:
            DeployError: an unknown format.
            OSError: the folder cannot be written; then a sweep that was there is still there, whole.
        """
        make = {
            "html": sweep_page.render,
            "json": Sweep.to_json,
            "csv": lambda sweep: str(sweep.to_frame().to_csv(index=False)),
            "svg": sweep_picture.standalone,
        }
        texts = {FORMATS[name]: make[name](self) for name in known_sweep_formats(formats)}
        with atomic_paths(*(Path(folder) / name for name in texts)) as temporaries:
            for temporary, text in zip(temporaries, texts.values(), strict=True):
                temporary.write_text(text, encoding="utf-8")
        return {name: Path(folder) / name for name in texts}


def known_sweep_formats(formats: Iterable[str]) -> list[str]:
    """Each format comes once, in the order given.

    Raises:
        DeployError: one that a sweep is not written in.
    """
    wanted = list(dict.fromkeys(formats))
    if unknown := [name for name in wanted if name not in FORMATS]:
        raise DeployError(f"a sweep is not written as {unknown[0]!r}; choose from {', '.join(FORMATS)}")
    return wanted
