"""The report sets teacher, student and undistilled twin side by side, with counts, energies and their sources.

`summarize` turns one counted run into plain numbers, `build` assembles them with the energy models into a
frozen `Report`, `write` puts it into a folder in any of `FORMATS`. `profilers.profiling` runs the networks.
"""

from __future__ import annotations

from profilers.report.assemble import build
from profilers.report.closing_table import closing_table, verdict_text
from profilers.report.counted_run import summarize
from profilers.report.data import (
    ComparisonReport,
    DensityPoint,
    DensitySweep,
    Deployment,
    LayerReport,
    NetworkRun,
    SimulatedRun,
    Student,
    Teacher,
)
from profilers.report.few_bit import FewBitAnn
from profilers.report.on_chips import ChipFit, FitProblem, LayerCores, PlacementReport
from profilers.report.result import Report
from profilers.report.sentences import Sentence
from profilers.report.writing import DEFAULT_FORMATS, FORMATS, known_formats, layer_table, write

__all__ = [
    "DEFAULT_FORMATS",
    "FORMATS",
    "ChipFit",
    "ComparisonReport",
    "DensityPoint",
    "DensitySweep",
    "Deployment",
    "FewBitAnn",
    "FitProblem",
    "LayerCores",
    "LayerReport",
    "NetworkRun",
    "PlacementReport",
    "Report",
    "Sentence",
    "SimulatedRun",
    "Student",
    "Teacher",
    "build",
    "closing_table",
    "known_formats",
    "layer_table",
    "summarize",
    "verdict_text",
    "write",
]
