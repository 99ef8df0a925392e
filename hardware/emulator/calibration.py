"""A network is measured on sample data: quantization chooses by these numbers, and they tell how far it then drifted.

`calibrate` runs the emulator once and returns plain numbers. Measured on the float graph they go into `exporters.passes.quantize`; measured on the
integer graph as well, `drift` sets both side by side, layer by layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from exporters.graph import Array, SpikingGraph
from exporters.graph.registers import CURRENT_LIMIT
from exporters.passes.moments import InputMoments
from exporters.passes.quantize import LayerScale
from hardware.emulator.observers import ChannelMeans, channel_sums
from hardware.emulator.plan import add
from hardware.emulator.running import run


@dataclass(frozen=True, eq=False)
class Calibration:
    """This was measured on one graph, per layer in topological order.

    Attributes:
        samples: how many.
        inputs: synapse layer → mean and variance of what it reads, per input channel, in the graph's units.
        rates: neuron layer → spikes per neuron and step.
        peaks: neuron layer → largest |current| in one step, biases included; membrane read-out → largest
            |membrane|. In units of the graph's weights.
        currents: neuron layer or membrane read-out → mean current per channel or feature, biases included unless the current
            persists. In units of the graph's weights.
    """

    samples: int
    inputs: Mapping[str, InputMoments]
    rates: Mapping[str, float]
    peaks: Mapping[str, float]
    currents: Mapping[str, Array]


@dataclass(frozen=True)
class LayerDrift:
    """A synapse layer after quantization did this on the calibration data.

    Attributes:
        name: the synapse layer.
        neurons: the (first) neuron layer or read-out it feeds.
        peak: largest |current| into these in one step (of a read-out: its largest |membrane|), integer units.
        register_used: `peak` as a share of the 131,071 that Lava's registers hold. Quantized graphs never pass 1.
        rate_float: spikes per neuron and step of the float network, None for a membrane read-out.
        rate_quantized: the same of the quantized network.
    """

    name: str
    neurons: str
    peak: float
    register_used: float
    rate_float: float | None
    rate_quantized: float | None


def calibrate(
    graph: SpikingGraph,
    frames: Array,
    *,
    device: str | torch.device = "cpu",
    batch_size: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Calibration:
    """Samples run through a float or integer graph and are measured.

    Args:
        graph: for `quantize`, what `make_exact(graph, input_scale=2**input_bits - 1)` returns.
        frames: what `graph.encode` returns, (N, *shape) or (N, T, *shape).
        device: where to compute.
        batch_size: samples at a time; chosen from the largest layer by default.
        progress: called with the number of samples done.

    Raises:
        DeployError: frames of the wrong shape, or none.
    """
    meter = _Meter(graph)
    run(graph, frames, observe=meter, progress=progress, device=device, batch_size=batch_size)
    moments = {}
    for name, (total, squares) in meter.sums.items():
        mean = total / meter.counts[name]
        moments[name] = InputMoments(mean, np.maximum(squares / meter.counts[name] - mean**2, 0))
    rates = {name: meter.spikes[name] / meter.counts[name] for name in graph.neurons}
    return Calibration(len(frames), moments, rates, dict(meter.peaks), meter.currents.means())


def drift(
    graph: SpikingGraph, scales: Sequence[LayerScale], before: Calibration, after: Calibration
) -> tuple[LayerDrift, ...]:
    """Each row of `scales` gets one here: `before` is the float network's calibration, `after` the quantized
    `graph`'s."""
    rows = []
    for scale in scales:
        end = next(e for e in graph.targets(scale.name) if e in after.peaks)
        peak = after.peaks[end]
        rows.append(
            LayerDrift(scale.name, end, peak, peak / CURRENT_LIMIT, before.rates.get(end), after.rates.get(end))
        )
    return tuple(rows)


class _Meter:
    """The observer measures. Sums are kept in float64, which holds sums of integers up to 2⁵³ exactly."""

    def __init__(self, graph: SpikingGraph) -> None:
        self.sums: dict[str, tuple[Array, Array]] = {}
        self.spikes: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        self.peaks: dict[str, float] = {}
        self.currents = ChannelMeans()
        self._graph = graph
        self._fired: dict[str, Array] = {}  # spikes of the batch, per channel or feature
        read = Counter(source for name in graph.nodes for source in graph.earlier(name))
        self._uses = {name: read[name] for name in graph.nodes}
        self._waiting = dict(self._uses)
        self._held: dict[str, Tensor] = {}

    def __call__(self, name: str, values: Tensor) -> None:
        graph = self._graph
        if values.dtype == torch.uint8:  # sums of bytes would wrap
            values = values.float()
        sources = graph.earlier(name)
        if name in graph.synapses:
            self._moments(name, sources)
        elif name in graph.neurons:
            self._fired[name] = channel_sums(values)
            self.spikes[name] = self.spikes.get(name, 0.0) + float(self._fired[name].sum())
            self.counts[name] = self.counts.get(name, 0) + values.numel()
            self._peak(name, self._current(name, sources))
        elif name == graph.output_name and graph.output.readout == "membrane":
            self._current(name, sources)
            self._peak(name, values)
        for source in sources:  # keep of a batch only what a later layer still reads
            self._waiting[source] -= 1
            if self._waiting[source] == 0:
                del self._held[source]
                self._waiting[source] = self._uses[source]
        if self._uses[name]:
            self._held[name] = values

    def _moments(self, name: str, sources: Sequence[str]) -> None:
        read = add(*(self._held[s] for s in sources))  # (T, N, channel or feature, …)
        if len(sources) == 1 and sources[0] in self._fired:
            total = squares = self._fired[sources[0]]  # of zeros and ones
        else:
            read = read.double()
            other = [axis for axis in range(read.ndim) if axis != 2]
            total, squares = read.sum(other).cpu().numpy(), read.square().sum(other).cpu().numpy()
        before = self.sums.get(name, (0.0, 0.0))
        self.sums[name] = (before[0] + total, before[1] + squares)
        self.counts[name] = self.counts.get(name, 0) + read.numel() // read.shape[2]

    def _current(self, name: str, sources: Sequence[str]) -> Tensor:
        current = add(*(self._held[s] for s in sources))
        self.currents.add(name, current)
        return current

    def _peak(self, name: str, values: Tensor) -> None:
        low, high = torch.aminmax(values)
        self.peaks[name] = max(self.peaks.get(name, 0.0), -float(low), float(high))
