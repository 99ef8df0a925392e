"""The symbolic values of `from_torch`: signals and currents, and the algebra of weights that folds them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from exporters.errors import DeployError
from exporters.graph import AnySynapse, Array, Input, Linear, Output, Pair, Shape, SpikingGraph


class LoweringError(DeployError):
    """A module that the SpikingGraph cannot express; the message names it and the nearest form that works."""


@dataclass(frozen=True, eq=False)
class Signal:
    """The sum of some nodes' outputs; with `scale` and `shift` (C,) per channel a BatchNorm on top of it.

    `repeated`: an adaptive pool to a larger size repeats each pixel; then these are the shape (C, H, W)
    before and the repeats (y, x), until a linear layer folds them into its weights.
    """

    nodes: tuple[str, ...]
    shape: Shape
    scale: Array | None = None
    shift: Array | None = None
    repeated: tuple[Shape, Pair] | None = None


@dataclass(frozen=True, eq=False)
class Term:
    """One set of synapses: a bias-free layer reading a signal."""

    name: str
    synapse: AnySynapse
    source: Signal


@dataclass(frozen=True, eq=False)
class Current:
    """A sum of synapses plus a constant per output channel, float64 (C,)."""

    terms: tuple[Term, ...]
    bias: Array
    shape: Shape


Value = Signal | Current


def scaled(synapse: AnySynapse, scale: Array) -> AnySynapse:
    """The layer with its output channels multiplied by scale (C,)."""
    return replace(synapse, weight=synapse.weight * scale.reshape(-1, *[1] * (synapse.weight.ndim - 1)))


def fold_into_inputs(layer: AnySynapse, scale: Array, shift: Array, shape: Shape) -> tuple[Array, Array]:
    """Weights that read x as the layer reads scale·x + shift, and the bias (Cout,) that the shift adds."""
    weight = layer.weight
    if isinstance(layer, Linear):
        return weight * scale, weight @ shift
    per_group = weight.shape[1]
    group = np.arange(len(weight)) // (len(weight) // layer.groups)
    channel = group[:, None] * per_group + np.arange(per_group)  # (Cout, Cin/groups): which input each reads
    shifted = (weight.sum(axis=(2, 3)) * shift[channel]).sum(axis=1)
    return weight * scale[channel][:, :, None, None], shifted


def fold_repeats(layer: Linear, value: Signal) -> tuple[Linear, Signal]:
    """A linear layer over repeated pixels as one over the pixels: the weights of a pixel's repeats add up."""
    assert value.repeated is not None
    (channels, height, width), (y, x) = value.repeated
    size = channels * height * y * width * x
    if layer.weight.shape[1] != size:  # as for any other layer, its reader says that it does not fit
        return layer, Signal(value.nodes, (size,))
    weight = layer.weight.reshape(-1, channels, height, y, width, x).sum(axis=(3, 5))
    return replace(layer, weight=weight.reshape(len(weight), -1)), Signal(value.nodes, (channels * height * width,))


def synapse_shape(layer: AnySynapse, shape: Shape, name: str) -> Shape:
    """The output shape; the graph's own validation says what is wrong when the input does not fit."""
    probe = SpikingGraph(
        {"input": Input(shape), name: layer, "output": Output("membrane")}, (("input", name), (name, "output")), 1
    )
    return probe.shapes[name]
