"""One run counted by every convention in use, each under its own name: tools disagree by 5× on the same spikes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from profilers.counting.activity import Activity
from profilers.counting.statistics import Statistic, columns


@dataclass(frozen=True)
class Convention:
    """One count per sample, over all layers and T steps. `source`: who counts so, empty if nobody in particular."""

    key: str
    name: str
    what: str
    source: str
    statistic: Statistic


def side_by_side(activity: Activity) -> tuple[Convention, ...]:
    """The counts of one run by all conventions; all share the bootstrap's draws."""
    dense = sum(layer.macs for layer in activity.synapses.values())
    rows: list[tuple[str, str, str, str, NDArray[Any] | int]] = [
        (
            "synops",
            "SynOps, all synapses",
            "every spike × the synapses it reaches, exact at borders",
            "Davies et al. 2018; SpikingJelly’s SynOpCounter; sinabs",
            activity.synops,
        ),
        (
            "synops_nonzero",
            "SynOps, non-zero weights",
            "the same without synapses whose weight is zero",
            "NeuroBench’s Effective_ACs (Yik et al. 2025)",
            activity.synops_nonzero,
        ),
        (
            "rate_macs",
            "Rate × MACs",
            "firing rate of a layer’s input × its dense MACs × T, borders ignored",
            "most papers (Rathi & Roy 2021; Kundu et al. 2021)",
            activity.rate_macs,
        ),
        (
            "synops_lemaire",
            "SynOps, Lemaire’s",
            "spikes × output channels × ⌈kernel / stride⌉ along both axes, borders ignored",
            "Lemaire et al. 2022",
            activity.synops_lemaire,
        ),
        (
            "spikes",
            "Spikes (KDSNN calls these SynOps)",
            "spikes of all neurons, without any fan-out",
            "Xu et al. 2023 (KDSNN), table 3",
            activity.spikes,
        ),
        (
            "macs_once",
            "MACs of the analog input, once",
            "dense MACs of layers not fed by spikes; the first result is kept for all steps",
            "",
            activity.macs_once,
        ),
        (
            "macs_repeated",
            "MACs of the analog input, every step",
            "the same on a chip that repeats the input at every step",
            "",
            activity.macs_repeated,
        ),
        (
            "effective_macs",
            "Effective MACs of the analog input, every step",
            "the same without zero inputs and zero weights, exact at borders",
            "NeuroBench’s Effective_MACs (Yik et al. 2025)",
            activity.effective_macs,
        ),
        (
            "neuron_updates",
            "Neuron updates",
            "membranes updated: every neuron at every step",
            "Davies et al. 2018",
            activity.neuron_updates,
        ),
        (
            "dense_macs",
            "MACs of an ANN of this shape",
            "dense MACs of all layers, padding included",
            "thop, fvcore",
            dense,
        ),
    ]
    per_sample = [
        np.full(activity.samples, counts) if isinstance(counts, int) else counts.sum(axis=1) for *_, counts in rows
    ]
    statistics = columns(np.stack(per_sample, axis=1))
    return tuple(
        Convention(key, name, what, source, statistic)
        for (key, name, what, source, _), statistic in zip(rows, statistics, strict=True)
    )
