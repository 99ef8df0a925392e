"""A profile gives back a `Report`, to be printed, shown in a notebook, taken apart or written to files."""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from profilers.report.closing_table import closing_table, frame, verdict_text
from profilers.report.data import ReportData
from profilers.report.time_tables import time_table
from profilers.report.writing import DEFAULT_FORMATS, write
from profilers.text_table import TextTable


@dataclass(frozen=True, repr=False)
class Report(ReportData):
    """A report prints as the command ends, with its verdict and the closing table, and has a method for what else readers do with it.

    The numbers are the fields of `ReportData`; `Report.from_json` reads back what `to_json` or `report.json` holds.
    """

    def closing_table(self) -> TextTable:
        """The table that the command ends with."""
        return closing_table(self)

    def time_table(self) -> TextTable | None:
        """Latency, throughput, energy and energy-delay product on chips; None where nothing was placed."""
        return time_table(self)

    def tables(self) -> tuple[TextTable, ...]:
        """What the command prints."""
        times = self.time_table()
        return (self.closing_table(), *([] if times is None else [times]))

    def __str__(self) -> str:
        return f"{verdict_text(self)}\n\n{self.closing_table()}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """A notebook shows the verdict and the closing table."""
        sentences = "".join(f"<p>{html.escape(one.paragraph)}</p>" for one in self.verdict)
        return sentences + self.closing_table().to_html()

    def to_frame(self) -> pd.DataFrame:
        """The frame has one row per network and run; `profilers.report.closing_table.frame` tells its columns."""
        return frame(self)

    def write(self, folder: Path | str, formats: Iterable[str] = DEFAULT_FORMATS) -> dict[str, Path]:
        """The report is written into a folder, as html, json, csv, markdown, latex or neurobench; returns the paths by file name.

        Raises:
            DeployError: an unknown format.
            OSError: the folder cannot be written; then a report that was there is still there, whole.
        """
        return write(self, Path(folder), formats)
