"""The proof that a graph is the author's network: every layer is fed the module's own spikes and must give its spikes.

A spiking network is chaotic: one spike that differs, because a sum was rounded otherwise, makes others differ behind it,
until after some layers everything does. So networks are not compared at their ends. Each neuron layer of the graph gets
the spikes that the module's own layers before it fired, and its membranes are reset by the spikes that the module's own
layer fired; then a difference cannot spread, and each one that is left is that layer's own. A spike may differ only where
the membrane lies so close to the threshold that rounding decides: within

    S · (n + t) · ε · M,    n terms of a sum, t steps so far, M = Σ |w·s| + |b| over these steps plus the threshold,

the error bound of a sum in floating point with unit roundoff ε (Higham 2002, section 4.2), widened by S for what the module
computes otherwise: BatchNorm by itself, sums in other orders. Such ties are counted; any other difference is an error that
names the layer, the step and the neuron.

What a layer computes is written here once more, apart from the emulator, so that a mistake there does not prove itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, assert_never

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from exporters.graph import (
    IF,
    LIF,
    Array,
    AvgPool2d,
    Conv2d,
    Delay,
    Flatten,
    Input,
    Linear,
    MaxPool2d,
    Neuron,
    Node,
    Output,
    SpikingGraph,
    Synapse,
)
from exporters.graph.editing import over_positions
from hardware.emulator.layers import delayed
from kdsnn.deploy.tables import Result
from profilers.text_table import TextTable, table

SLACK = 16.0
"""S: how much wider than the bound of one sum a tie may be."""

FLOAT32 = 2.0**-24
"""ε of float32."""

STATELESS = Conv2d | Linear | MaxPool2d | AvgPool2d | Flatten
"""Nodes that compute nothing but their input."""


@dataclass(frozen=True)
class LayerProof:
    """What was found at one neuron layer, or at the output.

    Attributes:
        name: the layer.
        compared: its spikes, or output values, on all samples and steps.
        ties: spikes that differ where rounding decides.
        differences: spikes that differ otherwise: none, or the graph is another network.
        first: where the first of these is, "sample, step, neuron", with membrane and threshold.
    """

    name: str
    compared: int
    ties: int
    differences: int
    first: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Proof(Result):
    """What comparing a graph with the module it was made from gave, layer by layer.

    Attributes:
        samples: how many were compared.
        layers: one entry per neuron layer, and the output where it is no neuron layer.
    """

    samples: int
    layers: tuple[LayerProof, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing differs but ties."""
        return not self.differences

    @property
    def ties(self) -> int:
        """Spikes that differ where rounding decides."""
        return sum(layer.ties for layer in self.layers)

    @property
    def differences(self) -> int:
        """Spikes and output values that differ otherwise."""
        return sum(layer.differences for layer in self.layers)

    @property
    def compared(self) -> int:
        """Spikes and output values in all."""
        return sum(layer.compared for layer in self.layers)

    @property
    def first(self) -> str:
        """The first layer that differs and where, or nothing."""
        return next((f"{layer.name}, {layer.first}" for layer in self.layers if layer.differences), "")

    def tables(self) -> tuple[TextTable, ...]:
        """One line per layer."""
        rows = [[x.name, f"{x.compared:,}", str(x.ties), str(x.differences), x.first] for x in self.layers]
        title = f"the graph against the module, layer by layer on its own spikes, {self.samples} samples"
        return (table(title, ["layer", "spikes", "ties", "differences", "first difference"], rows),)

    def rows(self) -> list[dict[str, Any]]:
        """One row per layer."""
        return [asdict(layer) for layer in self.layers]


def prove(
    graph: SpikingGraph, x: Array, spikes: Mapping[str, Array], output: Array, *, roundoff: float, factor: float = 1.0,
    coarse: bool = False,
) -> Proof:  # fmt: skip
    """Compare a float graph with what its module did.

    Args:
        graph: in floating point.
        x: samples as the graph consumes them, (N, *shape), or (N, T, *shape) where its input is over time.
        spikes: neuron layer → the module's spikes (N, T, *shape). Neurons that are missing (a gate that has no module of its
            own) run by themselves.
        output: what the module gives at every step (N, T, F), currents of a plain sum and else membranes, or its score (N, 1, F).
        factor: what the module's output is of the graph's: 1, or another where it scales.
        roundoff: ε of the type that the module computed in, 2⁻²⁴ for float32, 2⁻⁵³ for float64.
        coarse: hold spikes of float32 against float32 membranes first, twice as fast; a tie that both decide alike is then not counted.

    Returns:
        What was found at each neuron layer that is in `spikes`, and at the output.
    """
    forced = _Forced(graph, x, spikes, roundoff, coarse=coarse)
    return Proof(len(x), tuple(forced.layers(output, factor)))


class _Forced:
    """The graph on the module's own spikes, in float64.

    If `coarse`, spikes of a module that computed in float32 are first held against float32 membranes, which are as far from those of float64
    as the bound allows at most: a layer that fires as they say has no difference in float64 either. Any other layer is computed in
    float64 again.
    """

    def __init__(
        self, graph: SpikingGraph, x: Array, spikes: Mapping[str, Array], roundoff: float, *, coarse: bool
    ) -> None:
        self.graph, self.roundoff = graph, roundoff
        coarse = coarse and roundoff >= FLOAT32 and graph.neurons.keys() <= spikes.keys()
        self.dtype = torch.float32 if coarse else torch.float64
        frames = torch.from_numpy(np.asarray(x)).to(self.dtype)
        # time first; one step stands for all where nothing changes
        self.x = frames.movedim(1, 0) if graph.input.over_time else frames.unsqueeze(0)
        self.spikes = {name: torch.from_numpy(np.asarray(s)).movedim(1, 0) for name, s in spikes.items()}
        self.guessed: dict[str, Tensor] = {}
        self.values: dict[str, Tensor] = {}

    def layers(self, output: Array, factor: float) -> list[LayerProof]:
        """Walk through the graph and compare wherever the module's own values are known."""
        found = []
        loops = {loop[0]: loop for loop in self.graph.loops}
        for name, node in self.graph.nodes.items():
            if name in loops:
                self._find_spikes(loops[name])
            match node:
                case IF() | LIF() if name in self.spikes:
                    own = self.spikes[name]
                    membranes = self._membranes(name, node, self._arriving(name, self.values), own)
                    samples = ((membranes >= node.threshold) != own.bool()).flatten(2).any(2).any(0).nonzero()[:, 0]
                    found.append(self._compared(name, node, samples))
                    self.values[name] = own.to(self.dtype)
                case Output():
                    found.append(self._read_out(name, output, factor))
                case _:
                    self.values[name] = self._value(name, node)
        return found

    def _value(self, name: str, node: Node) -> Tensor:
        """What a node gives by itself, (T, N, *shape) or (1, N, *shape) where nothing changes."""
        match node:
            case Input():
                return self.x
            case IF() | LIF():
                current = self._arriving(name, self.values)
                return (self._membranes(name, node, current, None) >= node.threshold).to(self.dtype)
            case Delay():
                return self._delayed(name, node)
            case Conv2d() | Linear() | MaxPool2d() | AvgPool2d() | Flatten():
                return _computed(node, self._arriving(name, self.values))
            case Output():
                raise TypeError("what comes out is compared, and goes nowhere")
            case _:
                assert_never(node)

    def _membranes(self, name: str, node: Neuron, current: Tensor, own: Tensor | None) -> Tensor:
        return _membranes(node, current, self._late_bias(name, node).to(current.dtype), own, self.graph.T)

    def _delayed(self, name: str, node: Delay) -> Tensor:
        """What a delay gives out; where it closes a loop, of spikes that come behind it here, and are known all the same."""
        known = {**self.spikes, **self.guessed} if self.graph.closes_loop(name) else self.values
        arrived = self._arriving(name, known).to(self.dtype)
        return delayed(arrived.expand(self.graph.T, *arrived.shape[1:]), node.steps)

    def _find_spikes(self, loop: Sequence[str]) -> None:
        """What those neurons of a loop fire that are no module of their own: from silence on, over and over.

        What closes a loop comes a step later, so that each time one more step is as it must be, until nothing changes.
        """
        nodes, T = self.graph.nodes, self.graph.T
        unknown = [name for name in loop if name in self.graph.neurons and name not in self.spikes]
        found = {n: torch.zeros((T, self.x.shape[1], *self.graph.shapes[n]), dtype=torch.float64) for n in unknown}
        while any(self.guessed.get(n) is None or not torch.equal(self.guessed[n], found[n]) for n in unknown):
            self.guessed |= found
            for name in loop:
                known = self.spikes.get(name)
                self.values[name] = self._value(name, nodes[name]) if known is None else known.double()
            found = {n: self.values[n] for n in unknown}

    def _late_bias(self, name: str, node: Neuron) -> Tensor:
        """The biases that do not pass through a current that persists."""
        if not node.current_leak:
            return torch.zeros((), dtype=torch.float64)
        synapses = [self.graph.synapses[source] for source in self.graph.sources(name)]
        shape = self.graph.shapes[name]
        biases = [_tensor(over_positions(s.bias, shape)) for s in synapses if s.bias is not None]
        return sum(biases, torch.zeros((), dtype=torch.float64))

    def _arriving(self, name: str, values: Mapping[str, Tensor]) -> Tensor:
        first, *others = (values[source] for source in self.graph.sources(name))
        return sum(others, first)

    def _exactly_arriving(self, name: str, samples: Tensor) -> Tensor:
        """What arrives at a node for some samples, in float64."""
        first, *others = (self._exactly(source, samples) for source in self.graph.sources(name))
        return sum(others, first)

    def _exactly(self, name: str, samples: Tensor) -> Tensor:
        """What a node gives for some samples, in float64: its own values, or computed again from the spikes that it reads."""
        node = self.graph.nodes[name]
        if self.dtype == torch.float64 or not isinstance(node, STATELESS):
            return self.values[name][:, samples].double()
        return _computed(node, self._exactly_arriving(name, samples))

    def _compared(self, name: str, node: Neuron, samples: Tensor) -> LayerProof:
        """What a layer does on those samples on which it differs."""
        compared = self.spikes[name].numel()
        if not len(samples):
            return LayerProof(name, compared, 0, 0)
        own = self.spikes[name][:, samples].bool()
        membranes = self._membranes(name, node, self._exactly_arriving(name, samples), own)
        differ = (membranes >= node.threshold) != own
        bound = self._bound(name, node.threshold + abs(node.start), membranes.shape, samples)
        wrong = differ & ((membranes - node.threshold).abs() > bound)
        ties, count = int((differ & ~wrong).sum()), int(wrong.sum())
        if not count:
            return LayerProof(name, compared, ties, 0)
        t, n, *where = wrong.nonzero()[0].tolist()
        at = (t, n, *where)
        verb = "fires" if own[at] else "is silent"
        first = (
            f"sample {int(samples[n])}, step {t + 1}, neuron {tuple(where)}: the module's {verb}, the graph's membrane is "
            f"{float(membranes[at]):.6g} at threshold {node.threshold:g}"
        )
        return LayerProof(name, compared, ties, count, first)

    def _read_out(self, name: str, output: Array, factor: float) -> LayerProof:
        """What comes out, step by step, or as its mean where the module returns no more; spikes of a rate are known already."""
        theirs = torch.from_numpy(np.asarray(output, np.float64)).movedim(1, 0)
        samples = torch.arange(self.x.shape[1])
        ours = self._exactly_arriving(name, samples)
        ours = factor * ours.expand(self.graph.T, *ours.shape[1:])
        whole, node = ours.shape, self.graph.output
        if not node.sums:
            ours = _leaking(ours, node.leak)
        if len(theirs) != len(ours):
            ours = ours.mean(0, keepdim=True) if node.sums or node.score == "mean" else ours[-1:] / len(ours)
        if theirs.shape != ours.shape:
            shapes = f"the module gives {tuple(theirs.shape[2:])}, the graph {tuple(ours.shape[2:])}"
            return LayerProof(name, theirs.numel(), 0, theirs.numel(), shapes)
        # a mean or a scale is rounded once more
        wrong = (ours - theirs).abs() > SLACK * self.roundoff * (1 + theirs.abs())
        if wrong.any():  # what the sums before it are rounded by is worth finding out
            bound = abs(factor) * self._bound(name, 0.0, whole, samples)[-len(theirs) :]
            wrong = (ours - theirs).abs() > bound + SLACK * self.roundoff * (1 + theirs.abs())
        first = ""
        if wrong.any():
            t, n, *where = wrong.nonzero()[0].tolist()
            at = (t, n, *where)
            first = f"sample {n}, step {t + 1}, output {tuple(where)}: {float(theirs[at]):.6g}, the graph's {float(ours[at]):.6g}"
        return LayerProof(name, theirs.numel(), 0, int(wrong.sum()), first)

    def _bound(self, name: str, threshold: float, shape: torch.Size, samples: Tensor) -> Tensor:
        """How far rounding can move the membranes of a layer on some samples, (T, N, *shape)."""
        before = [self._magnitude(source, samples) for source in self.graph.sources(name)]
        arriving = sum((values for values, _ in before[1:]), before[0][0]).expand(shape)
        steps = torch.arange(1, shape[0] + 1, dtype=torch.float64).view(-1, *[1] * (len(shape) - 1))
        count = max(terms for _, terms in before) + len(before)
        return SLACK * (count + steps) * self.roundoff * (arriving.cumsum(0) + threshold)

    def _magnitude(self, name: str, samples: Tensor) -> tuple[Tensor, int]:
        """Σ |w·s| + |b| at a node, and how many terms its longest sum has: only needed where spikes differ, and only back to
        the spikes that a layer reads."""
        node = self.graph.nodes[name]
        if not isinstance(node, STATELESS):
            return self.values[name][:, samples].abs().double(), 1
        before = [self._magnitude(source, samples) for source in self.graph.sources(name)]
        arriving = sum((values for values, _ in before[1:]), before[0][0])
        return _computed(_absolute(node), arriving), max(terms for _, terms in before) + _terms(node)


def _membranes(node: Neuron, current: Tensor, bias: Tensor, own: Tensor | None, T: int) -> Tensor:
    """Membranes before firing (T, N, *shape), reset by the module's own spikes where these are known.

    `bias` is that part of the current which does not persist where the rest does.
    """
    v = torch.full(current.shape[1:], node.start, dtype=current.dtype)
    u = torch.zeros_like(v)
    found = torch.empty((T, *current.shape[1:]), dtype=current.dtype)
    for t in range(T):
        u = node.current_leak * u + (current[min(t, len(current) - 1)] - bias)
        v = node.leak * v + (u + bias)
        found[t] = v
        spikes = (v >= node.threshold) if own is None else own[t].bool()
        v = torch.where(spikes, torch.zeros(()) if node.reset == "hard" else v - node.threshold, v)
    return found


def _leaking(current: Tensor, leak: float) -> Tensor:
    """The membranes (T, N, *shape) of a read-out that never fires."""
    v = torch.zeros_like(current[0])
    steps = []
    for x in current:
        v = leak * v + x
        steps.append(v)
    return torch.stack(steps)


def _computed(node: Synapse | MaxPool2d | AvgPool2d | Flatten, x: Tensor) -> Tensor:
    """What a node without state gives for x (T, N, *shape)."""
    flat = x.flatten(0, 1)
    match node:
        case Conv2d():
            made = F.conv2d(
                flat, _tensor(node.weight).to(x.dtype), None, node.stride, node.padding, node.dilation, node.groups
            )
        case Linear():
            made = F.linear(flat, _tensor(node.weight).to(x.dtype))
        case MaxPool2d():
            made = F.max_pool2d(flat, node.kernel, node.stride, node.padding)
        case AvgPool2d():
            made = F.avg_pool2d(flat, node.kernel, node.stride, node.padding, divisor_override=node.divisor)
        case Flatten():
            made = flat.flatten(1)
        case _:
            raise TypeError(f"{type(node).__name__} has state")
    if isinstance(node, Synapse) and node.bias is not None:
        made += _tensor(over_positions(node.bias, tuple(made.shape[1:]))).to(x.dtype)
    return made.view(*x.shape[:2], *made.shape[1:])


def _absolute(node: Any) -> Any:
    if not isinstance(node, Synapse):
        return node
    return replace(node, weight=np.abs(node.weight), bias=None if node.bias is None else np.abs(node.bias))


def _terms(node: Any) -> int:
    match node:
        case Synapse():
            return math.prod(node.weight.shape[1:]) + 1
        case AvgPool2d():
            return math.prod(node.kernel)
        case _:
            return 1


def _tensor(array: Array) -> Tensor:
    return torch.from_numpy(np.array(array, np.float64))
