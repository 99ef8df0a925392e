"""An observer looks on while the emulator runs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from exporters.graph import Array, SpikingGraph

Observer = Callable[[str, Tensor], None]
"""An observer is called with (node name, values) for every node of every batch, in the graph's order.

Values have shape (T, N, *shape), or (1, N, *shape) where they are the same at every step: a
direct-coded input and what is computed from it before the first neuron. They are floats, or bytes (uint8) where
those hold them, laid out in memory as it suits; sum bytes only after widening them.
"""


class Recorder:
    """The recorder keeps the spikes of neuron layers: `spikes[name]` is (N, T, *shape) uint8."""

    def __init__(self, graph: SpikingGraph) -> None:
        self._parts: dict[str, list[Array]] = {name: [] for name in graph.neurons}

    def __call__(self, name: str, values: Tensor) -> None:
        """One batch of one node is kept."""
        if name in self._parts:
            self._parts[name].append(values.movedim(0, 1).to(torch.uint8).cpu().numpy())

    @property
    def spikes(self) -> dict[str, Array]:
        """Each neuron layer has spikes (N, T, *shape) uint8, all batches together."""
        return {name: np.concatenate(parts) for name, parts in self._parts.items()}


class ChannelMeans:
    """What comes under a name, batch by batch, has a mean per channel or feature."""

    def __init__(self) -> None:
        self._sums: dict[str, Array] = {}
        self._counts: dict[str, int] = {}

    def add(self, name: str, values: Tensor) -> None:
        """One batch (T, N, channel or feature, …) is counted in."""
        self._sums[name] = self._sums.get(name, 0.0) + channel_sums(values)
        self._counts[name] = self._counts.get(name, 0) + values.numel() // values.shape[2]

    def means(self) -> dict[str, Array]:
        """Name → mean over samples, steps and positions, float64 (C,)."""
        return {name: total / self._counts[name] for name, total in self._sums.items()}


def channel_sums(values: Tensor) -> Array:
    """Values (T, N, channel or feature, …) add up per channel or feature: float64 (C,)."""
    if values.dtype == torch.uint8:
        values = values.float()
    # one map's spikes add up exactly in float32 too, which is several times faster
    maps = values.sum(list(range(3, values.ndim))) if values.ndim > 3 else values
    return np.asarray(maps.sum((0, 1), dtype=torch.float64).cpu().numpy())
