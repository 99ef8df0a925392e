"""What a report holds of chips: the cores of a placement, and what keeps a network off a chip."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerCores:
    """A layer takes so many cores. `limit` is the resource that decides how many, `utilization` its use, 0 to 1."""

    layer: str
    cores: int
    limit: str
    utilization: float


@dataclass(frozen=True)
class PlacementReport:
    """The first student needs these cores on a chip, layer after layer.

    `target` names the chip; `chips` of `cores_per_chip` cores each. `note`: what the placement leaves out.
    """

    target: str
    cores_per_chip: int
    chips: int
    rows: tuple[LayerCores, ...]
    note: str = ""

    @property
    def cores(self) -> int:
        """All layers together take so many cores."""
        return sum(row.cores for row in self.rows)


@dataclass(frozen=True)
class FitProblem:
    """One thing keeps a network off a chip: where, what, and what to change."""

    layer: str
    what: str
    change: str


@dataclass(frozen=True)
class ChipFit:
    """A student was held against a chip, called `title`; it fits where there are no problems."""

    student: str
    target: str
    title: str
    problems: tuple[FitProblem, ...]
