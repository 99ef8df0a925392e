"""Counting conventions differ by 5× on the same spikes, so a run is counted in every one, each under its own name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from profilers.counting.activity import Activity
from profilers.counting.statistics import Statistic, columns


@dataclass(frozen=True)
class Convention:
    """A convention gives one count per sample, over all layers and T steps. `source` says who counts so, if anybody."""

    key: str
    name: str
    what: str
    source: str
    statistic: Statistic


_CONVENTIONS: tuple[tuple[str, str, str, str, Callable[[Activity], NDArray[Any] | int]], ...] = (
    (
        "synops",
        "SynOps, all synapses",
        "every spike × the synapses it reaches, exact at borders",
        "Davies et al. 2018; SpikingJelly’s SynOpCounter; sinabs",
        lambda activity: activity.synops,
    ),
    (
        "synops_nonzero",
        "SynOps, non-zero weights",
        "the same without synapses whose weight is zero",
        "NeuroBench’s Effective_ACs (Yik et al. 2025)",
        lambda activity: activity.synops_nonzero,
    ),
    (
        "rate_macs",
        "Rate × MACs",
        "firing rate of a layer’s input × its dense MACs × T, borders ignored",
        "most papers (Rathi & Roy 2021; Kundu et al. 2021)",
        lambda activity: activity.rate_macs,
    ),
    (
        "synops_lemaire",
        "SynOps, Lemaire’s",
        "spikes × output channels × ⌈kernel / stride⌉ along both axes, borders ignored",
        "Lemaire et al. 2022",
        lambda activity: activity.synops_lemaire,
    ),
    (
        "spikes",
        "Spikes (KDSNN calls these SynOps)",
        "spikes of all neurons, without any fan-out",
        "Xu et al. 2023 (KDSNN), table 3",
        lambda activity: activity.spikes,
    ),
    (
        "macs_once",
        "MACs of the analog input, once",
        "dense MACs of layers not fed by spikes; the first result is kept for all steps",
        "",
        lambda activity: activity.macs_once,
    ),
    (
        "macs_repeated",
        "MACs of the analog input, every step",
        "the same on a chip that repeats the input at every step",
        "",
        lambda activity: activity.macs_repeated,
    ),
    (
        "effective_macs",
        "Effective MACs of the analog input, every step",
        "the same without zero inputs and zero weights, exact at borders",
        "NeuroBench’s Effective_MACs (Yik et al. 2025)",
        lambda activity: activity.effective_macs,
    ),
    (
        "neuron_updates",
        "Neuron updates",
        "membranes updated: every neuron at every step",
        "Davies et al. 2018",
        lambda activity: activity.neuron_updates,
    ),
    (
        "dense_macs",
        "MACs of an ANN of this shape",
        "dense MACs of all layers, padding included",
        "thop, fvcore",
        lambda activity: sum(layer.macs for layer in activity.synapses.values()),
    ),
)
"""Key, name, what is counted, who counts so, and the count: (N, T), or a number that is the same for every sample."""


def by_every_convention(activity: Activity) -> tuple[Convention, ...]:
    """One run is counted by all conventions, which share the bootstrap's draws."""
    per_sample = []
    for *_, count in _CONVENTIONS:
        counts = count(activity)
        per_sample.append(np.full(activity.samples, counts) if isinstance(counts, int) else counts.sum(axis=1))
    statistics = columns(np.stack(per_sample, axis=1))
    return tuple(
        Convention(key, name, what, source, statistic)
        for (key, name, what, source, _), statistic in zip(_CONVENTIONS, statistics, strict=True)
    )
