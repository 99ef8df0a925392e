"""Results as tables: the same rows for the command line, for `print`, for pandas and for a notebook.

A result is a frozen dataclass that derives from `Result` and says what its tables are and what its rows hold as plain
values. The command line draws the tables to the terminal's width; `print` draws them as wide as they are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from profilers.text_table import TextTable, table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Result", "TextTable", "table"]


class Result(ABC):
    """What a verb returns: it prints as the command's tables do, and gives its numbers to pandas and JSON."""

    @abstractmethod
    def tables(self) -> tuple[TextTable, ...]:
        """What is printed."""

    @abstractmethod
    def rows(self) -> list[dict[str, Any]]:
        """The main table's rows as plain values, for `to_frame`."""

    def to_dict(self) -> Mapping[str, Any]:
        """Everything that the result says, as JSON can hold it."""
        return {"rows": self.rows()}

    def to_frame(self) -> pd.DataFrame:
        """The main table as a pandas frame of numbers, one row a line."""
        import pandas as pd

        return pd.DataFrame(self.rows())

    def __str__(self) -> str:
        return "\n".join(map(str, self.tables()))

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return "".join(one.to_html() for one in self.tables())
