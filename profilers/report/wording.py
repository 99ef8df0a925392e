"""What the words of a report mean, and where its conventions and thresholds come from."""

from __future__ import annotations

from dataclasses import dataclass

from profilers.energy.models import Citation
from profilers.report.data import Report


@dataclass(frozen=True)
class Threshold:
    """What another study found to decide between SNN and ANN, in spikes per synapse per inference."""

    label: str
    low: float
    high: float
    source: Citation


CONVENTIONS = (
    (
        "SynOps",
        "Every spike × the synapses that it reaches, exact at borders, summed over layers and all T steps, per sample. "
        "“Non-zero weights only” skips synapses whose weight is 0, as NeuroBench’s effective accumulates do.",
    ),
    (
        "Intervals",
        "“95 % CI” is the bootstrap confidence interval of the mean over samples (percentiles); it says how well the "
        "samples pin down the mean, not how samples differ. That of an accuracy is Wilson’s score interval.",
    ),
    (
        "Pools",
        "An average pool is folded into the weights of the next layer, as on hardware: a spike that enters it causes "
        "one operation per folded synapse. A max-pool is a layer of OR neurons, and the spikes that leave it count.",
    ),
    (
        "Roles",
        "The structure of the network decides whether a layer does synaptic operations (fed by spikes) or "
        "multiply-accumulates (fed by the analog input). MACs of the analog input are given for one pass, whose "
        "result a chip may reuse, and for all T steps.",
    ),
    (
        "Rate × MACs",
        "Mean firing rate of a layer’s input × its dense MACs, padding included. It is what many papers report as "
        "SynOps.",
    ),
    (
        "Spikes",
        "All spikes of all neurons over T steps. The KDSNN paper’s “SynOps” column is of this size; it is not "
        "comparable with MACs or FLOPs.",
    ),
    (
        "Drift",
        "Share of neurons and steps at which the quantized run spikes and the float run does not, or the other way "
        "round, on the same samples.",
    ),
    (
        "FLOPs (thop)",
        "What thop.profile returns, the paper’s convention: multiply-accumulates + 4 per BatchNorm element. A "
        "multiply-accumulate is one operation.",
    ),
    (
        "As placed",
        "A model of a chip prices the chain of layers that runs there: OR neurons of max-pools, relays of skip connections "
        "and the updates of the second compartment of a neuron that resets by subtraction count too. A spike is one "
        "message to each core that it feeds and crosses tiles along one axis, then the other; spikes are taken to be "
        "spread evenly over a layer’s neurons. Messages from the host and of the read-out are not counted.",
    ),
    (
        "Static power",
        "Watts per chip × chips of the placement × seconds per image. The seconds are given by the user (or time per step × "
        "T), for images that follow each other without a gap; without them static power is left out, not estimated.",
    ),
    ("Spikes per synapse", "SynOps ÷ dense MACs of the layers fed by spikes, per inference."),
    (
        "Memory",
        "Weights stored once (float32, or the narrowest two’s complement word that holds a layer’s integers); "
        "membranes of 32 bits in float, 24 bits in integers.",
    ),
)

_SOURCES = (
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
    Citation("thop: PyTorch-OpCounter", "https://github.com/Lyken17/pytorch-OpCounter"),
)

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


def sources(report: Report) -> list[Citation]:
    """Every source (by its link) once, in order of appearance: of energy models, thresholds, conventions."""
    found = [source for model in report.energies for source in model.sources]
    found += [threshold.source for threshold in THRESHOLDS]
    once: dict[str, Citation] = {}
    for source in (*found, *_SOURCES):
        once.setdefault(source.url, source)
    return list(once.values())
