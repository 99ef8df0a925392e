"""A report cites this literature: where its counting comes from, and what other studies found about break-even."""

from __future__ import annotations

from dataclasses import dataclass

from profilers.energy.models import Citation
from profilers.report.data import ReportData


@dataclass(frozen=True)
class Threshold:
    """A threshold is what another study found to decide between SNN and ANN, in spikes per synapse per inference."""

    label: str
    low: float
    high: float
    source: Citation


THRESHOLDS = (
    Threshold(
        "Dampfhoffer et al. 2023",
        0.15,
        1.38,
        Citation(
            "M. Dampfhoffer et al., “Are SNNs really more energy-efficient than ANNs?”, IEEE TETCI 7(3):731–741, 2023",
            "https://doi.org/10.1109/TETCI.2022.3214509",
        ),
    ),
    Threshold(
        "Davidson & Furber 2021",
        1.72,
        1.72,
        Citation(
            "S. Davidson, S. B. Furber, “Comparison of artificial and spiking neural networks on digital hardware”, "
            "Front. Neurosci. 15:651141, 2021",
            "https://doi.org/10.3389/fnins.2021.651141",
        ),
    ),
    Threshold(
        "Yan et al. 2026, 5.7 % at T = 5",
        0.285,
        0.285,
        Citation(
            "Z. Yan et al., “Reconsidering the energy efficiency of spiking neural networks inference from analytical "
            "perspectives”, arXiv 2409.08290 version 4, 2026",
            "https://arxiv.org/abs/2409.08290v4",
        ),
    ),
)

_ALWAYS = (
    Citation(
        "J. Yik et al., “The NeuroBench framework for benchmarking neuromorphic computing algorithms and systems”, "
        "Nat. Commun. 16:1545, 2025",
        "https://doi.org/10.1038/s41467-025-56739-4",
    ),
    Citation(
        "Q. Xu et al., “Constructing deep spiking neural networks from artificial neural networks with knowledge "
        "distillation” (KDSNN), CVPR 2023",
        "https://arxiv.org/abs/2304.05627",
    ),
    Citation(
        "G. Shen et al., “Are conventional SNNs really efficient? A perspective from network quantization”, CVPR 2024",
        "https://arxiv.org/abs/2311.10802",
    ),
    Citation("thop: PyTorch-OpCounter", "https://github.com/Lyken17/pytorch-OpCounter"),
)
"""What every report cites."""


def sources(report: ReportData) -> list[Citation]:
    """Every source (by its link) comes once, in order of appearance: of energy and step-time models, thresholds, counting."""
    found = [source for model in report.energies for source in model.sources]
    found += [source for s in report.students for d in s.deployments for time in d.times for source in time.sources]
    found += [d.simulated.source for s in report.students for d in s.deployments if d.simulated]
    found += [threshold.source for threshold in THRESHOLDS]
    once: dict[str, Citation] = {}
    for source in (*found, *_ALWAYS):
        once.setdefault(source.url, source)
    return list(once.values())
