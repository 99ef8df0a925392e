"""A profile gives back a `Report`, to be printed, shown in a notebook, taken apart or written to files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path

import pandas as pd

from profilers.report.closing_table import as_text, closing_table, frame
from profilers.report.data import ReportData
from profilers.report.writing import DEFAULT_FORMATS, write


@dataclass(frozen=True, repr=False)
class Report(ReportData):
    """A report prints as the closing table of the command does, and has a method for what else readers do with it.

    The numbers are the fields of `ReportData`; `Report.from_json` reads back what `to_json` or `report.json` holds.
    """

    def __str__(self) -> str:
        return as_text(*closing_table(self))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """A notebook shows the closing table."""
        title, headings, rows = closing_table(self)
        with pd.option_context("display.max_colwidth", None):  # pandas would cut long names
            table = pd.DataFrame(rows, columns=headings).to_html(index=False, border=0)
        return f"<p>{escape(title)}</p>\n{table}"

    def to_frame(self) -> pd.DataFrame:
        """The frame has one row per network and run; `profilers.report.closing_table.frame` tells its columns."""
        return frame(self)

    def write(self, folder: Path | str, formats: Iterable[str] = DEFAULT_FORMATS) -> dict[str, Path]:
        """The report is written into a folder, as html, json, csv, markdown or latex; returns the paths by file name.

        Raises:
            DeployError: an unknown format.
            OSError: the folder cannot be written; then a report that was there is still there, whole.
        """
        return write(self, Path(folder), formats)
