"""`Report`: what a profile gives back, to be printed, shown in a notebook, taken apart or written to files."""

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
    """A report with what its readers do with it; it prints as the closing table of the command does.

    The numbers are the fields of `ReportData`; `Report.from_json` reads back what `to_json` or the file `report.json` holds.
    """

    def __str__(self) -> str:
        return as_text(*closing_table(self))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """The closing table for a notebook."""
        title, headings, rows = closing_table(self)
        with pd.option_context("display.max_colwidth", None):  # pandas would cut long names
            table = pd.DataFrame(rows, columns=headings).to_html(index=False, border=0)
        return f"<p>{escape(title)}</p>\n{table}"

    def to_frame(self) -> pd.DataFrame:
        """One row per network and run; `profilers.report.closing_table.frame` names the columns."""
        return frame(self)

    def write(self, folder: Path | str, formats: Iterable[str] = DEFAULT_FORMATS) -> dict[str, Path]:
        """Write the report into a folder, in some of html, json, csv, markdown and latex; returns the paths by file name.

        Raises:
            DeployError: an unknown format.
            OSError: the folder cannot be written; then a report that was there is still there, whole.
        """
        return write(self, Path(folder), formats)
