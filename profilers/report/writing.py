"""A report is written as files, all together or none: every format has a file name and a text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType

import pandas as pd

from exporters.errors import DeployError
from exporters.files import atomic_paths
from profilers.report import html, latex, markdown, neurobench_file
from profilers.report.data import LayerReport, ReportData

DEFAULT_FORMATS = ("html", "json", "csv")


def write(report: ReportData, folder: Path, formats: Iterable[str] = DEFAULT_FORMATS) -> dict[str, Path]:
    """Write the report in some of `FORMATS` into a folder; returns the paths by file name.

    Raises:
        DeployError: an unknown format.
        OSError: the folder cannot be written; then a report that was there is still there, whole.
    """
    texts = {FORMATS[name][0]: FORMATS[name][1](report) for name in known_formats(formats)}
    with atomic_paths(*(folder / name for name in texts)) as temporaries:
        for temporary, text in zip(temporaries, texts.values(), strict=True):
            temporary.write_text(text, encoding="utf-8")
    return {name: folder / name for name in texts}


def known_formats(formats: Iterable[str]) -> list[str]:
    """Each format comes once, in the order given.

    Raises:
        DeployError: an unknown one.
    """
    wanted = list(dict.fromkeys(formats))
    if unknown := [name for name in wanted if name not in FORMATS]:
        raise DeployError(f"no report format {unknown[0]!r}; choose from {', '.join(FORMATS)}")
    return wanted


def layer_table(report: ReportData) -> pd.DataFrame:
    """The frame has one row per student, run and layer; the columns of `LayerReport` follow "student" and "run"."""
    columns = [f.name for f in fields(LayerReport) if f.name != "counts"]
    rows = [
        {"student": student.name, "run": "quantized" if run.arithmetic == "integer" else "float"}
        | {column: getattr(layer, column) for column in columns}
        for student in report.students
        for run in (student.float_run, student.quantized_run)
        if run is not None
        for layer in run.layers
    ]
    whole = ["neurons", "macs", "connections", "parameters", "weight_bits"]
    return pd.DataFrame(rows, columns=["student", "run", *columns]).astype(dict.fromkeys(whole, "Int64"))


FORMATS: Mapping[str, tuple[str, Callable[[ReportData], str]]] = MappingProxyType(
    {
        "html": ("report.html", html.render),
        "json": ("report.json", ReportData.to_json),
        "csv": ("layers.csv", lambda report: str(layer_table(report).to_csv(index=False))),
        "markdown": ("report.md", markdown.render),
        "latex": ("report.tex", latex.render),
        "neurobench": ("neurobench.json", neurobench_file.render),
    }
)
"""Format → file name and what makes its text."""
