"""Calibrated quantization minimizes the expected squared error of a membrane's current, and corrects the bias that goes
with it.

Quantized weights Ŵ/s change the current of an output channel by e = Σᵢ Dᵢ·xᵢ + d, with D = Ŵ/s − W, xᵢ the inputs and d
the change of the bias. With mean mᵢ and variance σᵢ² of the inputs, and inputs uncorrelated with one another,

    E[e²] = Σᵢ Dᵢ²·σᵢ² + (Σᵢ Dᵢ·mᵢ + d)²

The second term is the shift of the mean current. It vanishes for d = −Σᵢ Dᵢ·mᵢ, so that is what the bias takes up (bias
correction, Nagel et al. 2019, arXiv 1906.04721, section 4.2), as far as the bias's own rounding lets it. The first term
remains and decides where weights are clipped.

Rounding and cutting also make weights smaller on the whole. What is left of the current's variation is

    g = Σᵢ (Ŵᵢ/s)·Wᵢ·σᵢ² / Σᵢ Wᵢ²·σᵢ²

the slope of the quantized current over the current as it was. Neurons that get g times the variation fire less, and the layers
behind them get less again; thresholds and biases are therefore set at the scale g·s, at which the slope is 1.

Inputs are correlated in truth, above all neighboring pixels; the rounding errors D of different weights are not, so the
cross terms Dᵢ·Dⱼ·cov(xᵢ, xⱼ) cancel out on average. Direct-coded pixels are the same at every step: their error adds up
over T by the same factor at every scale, so it changes no choice. Zeros that padding adds are not counted in the
moments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from exporters.errors import DeployError
from exporters.graph import Array, Conv2d, SpikingGraph, Synapse


@dataclass(frozen=True, eq=False)
class InputMoments:
    """The moments are of what a synapse layer reads, per input channel (Conv2d) or feature (Linear): float64 (Cin,).

    Attributes:
        mean: over samples, time steps and positions. For spikes, the firing rate.
        variance: of the same values.
    """

    mean: Array
    variance: Array


def require_moments(graph: SpikingGraph, moments: Mapping[str, InputMoments]) -> None:
    """The check raises DeployError unless there are finite moments for every input channel of every synapse layer."""
    for name, synapse in graph.synapses.items():
        if name not in moments:
            raise DeployError(
                f"{name}: the calibration has nothing for this layer; calibrate the network it belongs to"
            )
        channels = (graph.in_shape(name)[0],)
        mean, variance = moments[name].mean, moments[name].variance
        if not mean.shape == variance.shape == channels:
            raise DeployError(
                f"{name}: the calibration has {mean.shape} means and {variance.shape} variances for {channels[0]} input "
                f"{'channels' if isinstance(synapse, Conv2d) else 'features'}; calibrate the network it belongs to"
            )
        if not (np.isfinite(mean).all() and np.isfinite(variance).all() and (variance >= 0).all()):
            raise DeployError(f"{name}: the calibration holds NaN, infinite values or negative variances")


def mean_change(change: Array, synapse: Synapse, moments: InputMoments) -> Array:
    """A change D of the weights, in PyTorch's layout, changes the mean current by Σᵢ Dᵢ·mᵢ per output channel (Cout,)."""
    groups, outputs, inputs = _split(synapse)
    per_channel = change.reshape(groups, outputs, inputs, -1).sum(axis=3)
    return np.asarray((per_channel @ moments.mean.reshape(groups, inputs, 1)).reshape(-1))


def weighted_product(a: Array, b: Array, synapse: Synapse, moments: InputMoments) -> float:
    """The result is Σ a·b·σ² over all weights of a layer; both are in the layout of the weights."""
    groups, outputs, inputs = _split(synapse)
    per_channel = (a * b).reshape(groups, outputs, inputs, -1).sum(axis=(1, 3))
    return float(per_channel.reshape(-1) @ moments.variance)


def weighted_squares(values: Array, synapse: Synapse, moments: InputMoments) -> float:
    """The result is Σ values²·σ²."""
    return weighted_product(values, values, synapse, moments)


def clipping_error(synapse: Synapse, limit: float, moments: InputMoments) -> float:
    """Cutting weights at ±`limit` alone adds this to Σ Dᵢ²·σᵢ²: a lower bound of it that only grows as the limit falls."""
    return weighted_squares(np.maximum(np.abs(synapse.weight) - limit, 0), synapse, moments)


def _split(synapse: Synapse) -> tuple[int, int, int]:
    """The layer splits into groups, of so many output channels and so many input channels each."""
    groups = synapse.groups if isinstance(synapse, Conv2d) else 1
    return groups, synapse.weight.shape[0] // groups, synapse.weight.shape[1]
