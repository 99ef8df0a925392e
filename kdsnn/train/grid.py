"""Quantization-aware training: a spiking network that sees its weights, biases and thresholds as a chip will.

Layers whose currents meet in one membrane share one scale S, integer units per real unit (`exporters.passes.quantize`
says why). With u_l the size of one unit that layer l reads (1 for spikes, 1/255 for pixels, 1/k for the average of
k) and q = 2^(bits-1) - 1:

    S = q / c,   k_l = clip(rint(S u_l W_l), -q, q),   Ŵ_l = k_l / (S u_l),   b̂ = rint(S b) / S,   V = ceil(S θ)

c ≤ max_l max |u_l W_l| is where weights are clipped, so at least one k is q, and whoever scales Ŵ by its largest
weight finds S, k, rint(S b) and V again: what was trained is what is deployed. Gradients pass as if there were no
rounding and no clipping (Bengio et al. 2013, arXiv 1308.3432, "straight-through").

A float membrane that holds integers / S never comes near a level between two of them, so the neurons here
compare with a level half a unit below V / S: rounding errors of float32 then cannot change a spike.

Neurons that reset by subtraction take V from the membrane, not the level, and membranes that do not start at 0 start at
rint(S start); both train with the registers themselves (`kdsnn.models.register_neurons`). The network that is written,
of floats, then has V / S as threshold, less the little that its rounding could add, and its IF neurons start a quarter
of a unit higher, which deployment rounds away: they fire as those of training. Leaking ones, whose membranes have fractions,
fire on the chip in the last unit below V too, as in training, but not in that network of floats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, assert_never

import numpy as np
import torch
from torch import Tensor, nn

from exporters.from_torch import from_torch
from exporters.graph import (
    IF,
    LIF,
    AvgPool2d,
    Conv2d,
    Delay,
    Encoding,
    Flatten,
    Input,
    Linear,
    MaxPool2d,
    Node,
    Output,
    SpikingGraph,
)
from exporters.passes.membranes import membranes_of, register_leaks
from exporters.passes.quantize import integer_start, quantize, require_bits
from kdsnn.errors import KdsnnError
from kdsnn.models import StagedNetwork, Tap
from kdsnn.models.folded import FoldedNetwork, Weights
from kdsnn.models.register_neurons import BELOW, RegisterNode
from kdsnn.models.rounding import Rounded, best_clip

PIXEL = 1 / 255
FLOAT32 = 2**-22
"""No less may a threshold lie below V / S, as a share of it, lest rounding S to float32 makes it V + 1."""
SPARE = 0.25
"""So many units above a whole number lie the membranes of a network of floats whose neurons reset by subtraction."""


@dataclass(frozen=True)
class ClippedMembrane:
    """A clipped membrane is synapses whose currents meet, and the neurons (or output) where they do: they share one
    scale.

    `clip` is where their weights are clipped, in units of the mean absolute one.
    """

    synapses: tuple[str, ...]
    ends: tuple[str, ...]
    clip: float


@dataclass(frozen=True)
class Integers:
    """A chip is given these integers, as training saw them: int64 weights and biases (None: there is none) by layer,
    V and the start of the membrane by neurons."""

    weights: Mapping[str, Tensor]
    biases: Mapping[str, Tensor | None]
    thresholds: Mapping[str, int]
    starts: Mapping[str, int]


class QuantizedNetwork(FoldedNetwork):
    """This is a folded network in training: its parameters are real numbers, its outputs those of the network on the
    grid.

    Args:
        graph: the float network.
        taps: see `Network`.
        bits: of a weight, sign included, 2 to 8.

    Raises:
        DeployError: other bits, or currents that reach something other than neurons.
        KdsnnError: as `FoldedNetwork`; a layer that reads spikes and averages at once, or one that rounds to nothing.
    """

    def __init__(self, graph: SpikingGraph, taps: tuple[Tap, ...], bits: int) -> None:
        require_bits(bits)
        super().__init__(graph, taps)
        self.bits = bits
        self.largest = 2 ** (bits - 1) - 1
        self.units = _units(graph)
        self.membranes = tuple(
            ClippedMembrane(one.synapses, one.ends, self._best_clip(one.synapses)) for one in membranes_of(graph)
        )
        self.firing = {name: neurons.threshold for name, neurons in graph.neurons.items()}
        for name, neurons in graph.neurons.items():
            if neurons.reset == "soft" or neurons.start:
                self.set_submodule(name, RegisterNode(register_leaks(neurons)[0], neurons.reset))
        for name in _votes(graph):
            self.get_submodule(name).requires_grad_(False)
        for name, parts in self._on_grid().items():
            if not parts["weight"].any():
                raise KdsnnError(
                    f"{name}: in {bits} bits all its weights round to zero beside those it is summed with; use more bits"
                )

    def forward(self, x: Tensor) -> Tensor:
        """Run on a sequence of T images."""
        return self._run(x, None, self._on_grid())

    def forward_static(self, x: Tensor, T: int) -> Tensor:
        """Run on images that stay the same for T steps."""
        return self._run(x.unsqueeze(0), T, self._on_grid())

    @torch.no_grad()
    def deployed(self) -> FoldedNetwork:
        """Make the network on the grid, for good: with rounded parameters and levels."""
        grid = self._on_grid()
        changed: dict[str, Node] = {}
        for name, node in self.nodes.items():
            if isinstance(node, Conv2d | Linear):
                arrays = {part: tensor.cpu().double().numpy() for part, tensor in grid[name].items()}
                changed[name] = replace(node, weight=arrays["weight"], bias=arrays.get("bias"))
            elif isinstance(node, IF | LIF):
                module: Any = self.get_submodule(name)
                threshold, start = _of_floats(module) if isinstance(module, RegisterNode) else (module.v_threshold, 0.0)
                changed[name] = replace(node, threshold=threshold, start=start)
        made = FoldedNetwork(SpikingGraph({**self.nodes, **changed}, self._edges(), T=1), self.taps)
        return made.to(next(self.parameters()).device).train(self.training)

    @torch.no_grad()
    def integers(self) -> Integers:
        """Compute the integers behind the grid."""
        weights: dict[str, Tensor] = {}
        biases: dict[str, Tensor | None] = {}
        thresholds: dict[str, int] = {}
        grid = self._on_grid()
        for membrane, scale in zip(self.membranes, self._scales(), strict=True):
            for name in membrane.synapses:
                weights[name] = torch.round(grid[name]["weight"].double() * scale * self.units[name]).long().cpu()
                bias = grid[name].get("bias")
                biases[name] = None if bias is None else torch.round(bias.double() * scale).long().cpu()
            thresholds |= {end: _threshold(scale, self.firing[end]) for end in membrane.ends if end in self.firing}
        held = {end: self.get_submodule(end) for end in thresholds}
        starts = {end: node.start if isinstance(node, RegisterNode) else 0 for end, node in held.items()}
        return Integers(weights, biases, thresholds, starts)

    def _on_grid(self) -> Weights:
        """Compute the parameters on the grid; the neurons' levels are set on the way."""
        found: dict[str, dict[str, Tensor]] = {}
        for membrane, scale in zip(self.membranes, self._scales(), strict=True):
            for name in membrane.synapses:
                module: Any = self.get_submodule(name)
                found[name] = {"weight": Rounded.apply(module.weight, scale * self.units[name], self.largest)}  # type: ignore[no-untyped-call]
                if module.bias is not None:
                    found[name]["bias"] = Rounded.apply(module.bias, scale, math.inf)  # type: ignore[no-untyped-call]
            for end in membrane.ends:
                if end in self.firing:
                    self._set_level(end, scale)
        return found

    def _set_level(self, name: str, scale: float) -> None:
        """Give neurons their threshold, and where they start."""
        node: Any = self.get_submodule(name)
        threshold = _threshold(scale, self.firing[name])
        if isinstance(node, RegisterNode):
            node.hold(scale, threshold, integer_start(scale * self.nodes[name].start, threshold))  # type: ignore[union-attr]
        else:
            node.v_threshold = (threshold - (BELOW if hasattr(node, "tau") else 0.5)) / scale

    @torch.no_grad()
    def _scales(self) -> list[float]:
        """Compute S of every membrane; it is read from the device once."""
        clips = []
        for membrane in self.membranes:
            weights = [self._weight(name) for name in membrane.synapses]
            mean = torch.stack([w.abs().sum() for w in weights]).sum() / sum(w.numel() for w in weights)
            clips.append(torch.minimum(mean * membrane.clip, torch.stack([w.abs().amax() for w in weights]).amax()))
        # weights that are NaN make no scale; the training loop is the one to notice them
        return [self.largest / clip if 0 < clip < math.inf else 1.0 for clip in torch.stack(clips).tolist()]

    def _weight(self, name: str) -> Tensor:
        """Scale a layer's weights to the integers it reads."""
        weight: Tensor = self.get_submodule(name).weight  # type: ignore[assignment]
        return weight.detach() * self.units[name]

    def _best_clip(self, synapses: Sequence[str]) -> float:
        """Find the clip with the least squared error of the weights, in units of their mean."""
        weights = torch.cat([self._weight(name).flatten() for name in synapses]).double()
        if not weights.any():
            raise KdsnnError(f"{synapses[0]}: all its weights are zero; train the student again")
        return best_clip(weights, self.largest, lowest=-self.largest) / float(weights.abs().mean())


def quantized(
    student: nn.Module, input_shape: tuple[int, ...], T: int, bits: int, *, encoding: Encoding = "direct"
) -> QuantizedNetwork:
    """Fold a trained student's BatchNorm and put its weights on a grid of `bits` bits, to train on.

    `encoding`: "direct" where it reads images, "spikes" where frames of 0 and 1, "frames" where graded ones.

    Raises:
        DeployError: it cannot be lowered, or other bits; KdsnnError: as `QuantizedNetwork`.
    """
    taps = student.taps if isinstance(student, StagedNetwork) else ()
    return QuantizedNetwork(from_torch(student.eval(), input_shape, T, encoding=encoding), taps, bits)


def deviations(
    trained: QuantizedNetwork, deployed: FoldedNetwork, input_shape: tuple[int, ...], T: int
) -> tuple[str, ...]:
    """Name the layers in which a chip would be given other integers than training saw.

    There are some only where a register of the chip, not the weights, sets the scale: a first layer in 8 bits.

    Raises:
        DeployError: the network cannot be quantized any more.
    """
    encoding = next(node.encoding for node in trained.nodes.values() if isinstance(node, Input))
    graph, _ = quantize(from_torch(deployed, input_shape, T, encoding=encoding), bits=trained.bits)
    seen = trained.integers()

    def same(name: str) -> bool:
        if name not in seen.weights:
            return False
        synapse, weight, bias = graph.synapses[name], seen.weights[name].numpy(), seen.biases[name]
        ours = np.zeros(len(weight)) if bias is None else bias.numpy()
        theirs = np.zeros(len(weight)) if synapse.bias is None else synapse.bias
        return np.array_equal(synapse.weight, weight) and np.array_equal(theirs, ours)

    differ = [name for name in graph.synapses if not same(name)]
    differ += [
        name
        for name, node in graph.neurons.items()
        if (node.threshold, node.start) != (seen.thresholds.get(name), seen.starts.get(name))
    ]
    return tuple(differ)


def _votes(graph: SpikingGraph) -> list[str]:
    """Name the layers that only count votes for the output: each neuron has one class and all weigh the same."""
    found = []
    for name in graph.sources(graph.output_name):
        node = graph.nodes[name]
        if isinstance(node, Linear) and node.bias is None:
            cast = node.weight != 0
            if (cast.sum(0) <= 1).all() and len(np.unique(node.weight[cast])) == 1:
                found.append(name)
    return found


def _of_floats(node: RegisterNode) -> tuple[float, float]:
    """Compute the threshold and the start of the neurons of floats that stand for registers."""
    spare = SPARE if node.leak == 1 and node.v_reset is None else 0.0
    if node.v_reset is None:
        threshold = node.threshold * (1 - FLOAT32)
    else:
        threshold = node.threshold - (0.5 if node.leak == 1 else BELOW)
    return threshold / node.scale, (node.start + spare) / node.scale


def _threshold(scale: float, threshold: float) -> int:
    return max(1, math.ceil(scale * threshold))


def _units(graph: SpikingGraph) -> dict[str, float]:
    """Tell how large one unit is of what each synapse layer reads."""
    gives: dict[str, set[float]] = {}
    reads: dict[str, float] = {}
    for name, node in graph.nodes.items():
        arriving = set().union(*(gives[source] for source in graph.sources(name)))
        match node:
            case Input(encoding=encoding):
                gives[name] = {1.0 if encoding == "spikes" else PIXEL}
            case Conv2d() | Linear():
                if len(arriving) > 1:
                    raise KdsnnError(
                        f"{name}: it reads spikes and averages at once, which training on a grid does not know"
                    )
                reads[name] = arriving.pop()
                gives[name] = {1.0}
            case IF() | LIF():
                gives[name] = {1.0}
            case AvgPool2d(divisor=divisor):
                gives[name] = {unit / divisor for unit in arriving}
            case MaxPool2d() | Flatten() | Output():
                gives[name] = arriving
            case Delay():
                raise AssertionError("no folded network has delays")
            case _:
                assert_never(node)
    return reads
