"""This module counts what a spiking network does: spikes, synaptic operations, multiply-accumulates.

`ActivityCounter` watches a run and returns `Activity`: exact integers per sample and time step.

Conventions, side by side because tools disagree by 5× on the same spikes:

* *Roles come from the graph, never from values.* A layer fed by spikes does synaptic operations; a layer fed
  by anything else does multiply-accumulates.
* *Synaptic operations* (SynOps) are fan-out weighted and exact at borders: every spike × the synapses it
  reaches (`profilers.counting.fanout`, also for average pools), over all `T` steps. Once for all synapses, once for
  those of non-zero weight only (NeuroBench's effective ACs, Yik et al. 2025, Nat. Commun. 16:1545).
* *Rate × MACs* is the papers' shortcut: mean firing rate of the layer's input × its dense MACs. Borders make
  it differ from SynOps.
* *Lemaire's* SynOps (Lemaire et al. 2022, arXiv 2210.13107) give every spike of a convolution the same fan-out,
  output channels × kernel / stride, rounded up per axis, wherever it is.
* *Dense MACs* are output elements × weights per output, padding included, as thop and fvcore count.
* *Spikes* are a number of their own. The KDSNN paper (arXiv 2304.05627, table 3) prints them as "SynOps".

Connections without weights (a residual sum or a pool that feeds neurons directly) do no counted work until a
lowering pass turns them into synapses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal, assert_never
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from exporters.errors import DeployError
from exporters.graph import (
    IF,
    LIF,
    AvgPool2d,
    Conv2d,
    Delay,
    Flatten,
    Input,
    Linear,
    MaxPool2d,
    Output,
    SpikingGraph,
)
from profilers.counting.fanout import Connection, connections_into, fan_out, lemaire_fan_out
from profilers.counting.sizes import LayerShape, layer_shape

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

Role = Literal["spikes", "static", "changing"]
"""What feeds a layer: spikes, a real-valued signal that is the same at every step, or one that changes."""

_CHUNK = 1 << 22  # elements counted in one go
_EXACT_IN_FLOAT32 = 1 << 24


@dataclass(frozen=True, eq=False)
class NeuronActivity:
    """One neuron layer fired `spikes` (N, T), per sample and step. A `leaky` one (LIF) multiplies at every update."""

    neurons: int
    spikes: Ints
    leaky: bool = False

    @property
    def rate(self) -> float:
        """The rate is in spikes per neuron and time step, averaged over samples."""
        return float(self.spikes.mean()) / self.neurons


@dataclass(frozen=True, eq=False)
class SynapseActivity:
    """One weighted layer did this; arrays are (N, T), per sample and time step.

    Attributes:
        role: what feeds the layer.
        shape: sizes of the layer.
        connections: synapses that exist (borders excluded, average pools folded in).
        events: non-zero values that arrive, before average pooling.
        operations: events × the synapses they reach. SynOps if `role` is "spikes", else multiply-accumulates
            with zero inputs skipped.
        operations_nonzero: the same over synapses of non-zero weight (effective ACs and MACs of NeuroBench).
        rate_macs: input rate × dense MACs, the papers' shortcut.
        operations_lemaire: events × Lemaire's fan-out.
        weight_reads: weights that Lemaire's model reads for the events: all positions of the kernel, stride or not.
    """

    role: Role
    shape: LayerShape
    connections: int
    events: Ints
    operations: Ints
    operations_nonzero: Ints
    rate_macs: Floats
    operations_lemaire: Ints
    weight_reads: Ints

    @property
    def macs(self) -> int:
        """Dense multiply-accumulates are those of one pass, padding included."""
        return self.shape.macs


@dataclass(frozen=True, eq=False)
class Activity:
    """One run of a network did this, per layer in topological order. Totals are (N, T) arrays.

    `events_in`: values other than 0 that the input sends, (N, T); None where it is one image at every step.
    """

    T: int
    samples: int
    neurons: Mapping[str, NeuronActivity]
    synapses: Mapping[str, SynapseActivity]
    events_in: Ints | None = None

    def _sum(self, arrays: list[Ints]) -> Ints:
        return sum(arrays, np.zeros((self.samples, self.T), np.int64))

    @cached_property
    def spikes(self) -> Ints:
        """All neuron layers together fire so many spikes, (N, T)."""
        return self._sum([n.spikes for n in self.neurons.values()])

    @cached_property
    def synops(self) -> Ints:
        """SynOps go over all synapses of the spike-fed layers, (N, T)."""
        return self._sum([s.operations for s in self.synapses.values() if s.role == "spikes"])

    @cached_property
    def synops_nonzero(self) -> Ints:
        """These SynOps go over synapses of non-zero weight only, (N, T)."""
        return self._sum([s.operations_nonzero for s in self.synapses.values() if s.role == "spikes"])

    @cached_property
    def synops_lemaire(self) -> Ints:
        """These SynOps are counted as Lemaire et al. do, (N, T)."""
        return self._sum([s.operations_lemaire for s in self.synapses.values() if s.role == "spikes"])

    @cached_property
    def effective_macs(self) -> Ints:
        """The layers not fed by spikes do so many operations, zero inputs and weights skipped, at every step, (N, T).

        NeuroBench's Effective_MACs, except that NeuroBench takes a layer whose values happen to be binary for spiking.
        """
        return self._sum([s.operations_nonzero for s in self.synapses.values() if s.role != "spikes"])

    @cached_property
    def graded_operations(self) -> Ints:
        """The layers not fed by spikes do so many operations, zero inputs skipped, at every step, (N, T)."""
        return self._sum([s.operations for s in self.synapses.values() if s.role != "spikes"])

    @cached_property
    def rate_macs(self) -> Floats:
        """Rate × MACs is summed over the spike-fed layers, (N, T)."""
        parts = [s.rate_macs for s in self.synapses.values() if s.role == "spikes"]
        return sum(parts, np.zeros((self.samples, self.T)))

    @property
    def spike_fed_macs(self) -> int:
        """One dense pass through the spike-fed layers takes so many MACs: what an ANN of this shape does there."""
        return sum(s.macs for s in self.synapses.values() if s.role == "spikes")

    @property
    def macs_once(self) -> int:
        """A sample takes so many MACs if layers with a constant input are computed once and their result is reused."""
        return sum(s.macs * (1 if s.role == "static" else self.T) for s in self.synapses.values() if s.role != "spikes")

    @property
    def macs_repeated(self) -> int:
        """A sample takes so many MACs on a chip that repeats the input at every one of the `T` steps."""
        return sum(s.macs * self.T for s in self.synapses.values() if s.role != "spikes")

    @property
    def neuron_updates(self) -> int:
        """A sample takes so many membrane updates: every neuron at every step."""
        return self.T * sum(n.neurons for n in self.neurons.values())

    @property
    def rate(self) -> float:
        """The rate of the whole network is in spikes per neuron and time step; it is 0 without neurons."""
        return float(self.spikes.sum(axis=1).mean()) / max(1, self.neuron_updates)

    @property
    def spikes_per_synapse(self) -> float | None:
        """SynOps per dense MAC and inference are the measure that decides break-even; None without such layers.

        "Spikes per synapse per inference" of Dampfhoffer et al. 2023 (doi 10.1109/TETCI.2022.3214509).
        """
        if self.spike_fed_macs == 0:
            return None
        return float(self.synops.sum(axis=1).mean()) / self.spike_fed_macs


def layer_role(graph: SpikingGraph, layer: str) -> Role:
    """The structure of the graph alone decides what feeds a weighted layer."""
    if graph.in_signal(layer) == "spikes":
        return "spikes"
    waiting = list(graph.sources(layer))
    while waiting:
        name = waiting.pop()
        if graph.signals[name] == "spikes":
            return "changing"
        waiting.extend(graph.sources(name))
    return "changing" if graph.input.over_time else "static"


@dataclass(frozen=True, eq=False)
class _Maps:
    """Maps of a graph: `connections`, layer → the ways into it; `fan_out`, source → columns over its elements, 1 per event, then two
    per connection; `columns`, (layer, index of connection) → the first of its two columns; `binary`, see `_binary`."""

    connections: Mapping[str, list[Connection]]
    fan_out: Mapping[str, list[Floats]]
    columns: Mapping[tuple[str, int], int]
    binary: set[str]
    _matrices: dict[tuple[str, bool], list[torch.Tensor]] = field(default_factory=dict)

    def matrices(self, source: str, channels_last: bool) -> list[torch.Tensor]:
        """A source's columns come as `_blocks`, over its elements in C order or with the channels last."""
        key = (source, channels_last)
        if key not in self._matrices:
            columns = self.fan_out[source]
            self._matrices[key] = _blocks([np.moveaxis(c, 0, -1) for c in columns] if channels_last else columns)
        return self._matrices[key]


_known: WeakKeyDictionary[SpikingGraph, _Maps] = WeakKeyDictionary()


def _maps(graph: SpikingGraph) -> _Maps:
    if graph not in _known:
        connections = {layer: connections_into(graph, layer) for layer in graph.synapses}
        counted = [*graph.neurons, *([graph.input_name] if graph.input.over_time else [])]
        fan_outs: dict[str, list[Floats]] = {source: [np.ones(graph.shapes[source])] for source in counted}
        columns: dict[tuple[str, int], int] = {}
        for layer, ways in connections.items():
            for index, way in enumerate(ways):
                found = fan_outs.setdefault(way.source, [np.ones(graph.shapes[way.source])])
                columns[layer, index] = len(found)
                found.extend(fan_out(graph, way))
        _known[graph] = _Maps(connections, fan_outs, columns, _binary(graph))
    return _known[graph]


class ActivityCounter:
    """A counter counts while a runner calls it: `counter(name, values)` for every node, batch by batch.

    Fan-out maps are worked out once per graph; counting a batch is one product of the events with these maps
    per event source. Nodes that send no counted events are ignored, so a runner may simply report everything.
    """

    def __init__(self, graph: SpikingGraph) -> None:
        self._graph = graph
        self._maps = _maps(graph)
        self._seen: dict[str, list[Ints]] = {source: [] for source in self._maps.fan_out}

    def __call__(self, name: str, values: torch.Tensor) -> None:
        """Count one batch of a node's output, floats or bytes (T, N, *shape), or (1, N, *shape) if constant over time.

        Raises:
            DeployError: the shape does not fit the graph.
        """
        if name not in self._seen:
            return
        steps, samples = values.shape[:2]
        if steps not in (1, self._graph.T) or tuple(values.shape[2:]) != self._graph.shapes[name]:
            expected = f"({self._graph.T} or 1, N, {', '.join(map(str, self._graph.shapes[name]))})"
            raise DeployError(f"{name}: values of shape {tuple(values.shape)} to count; expected {expected}")
        # the emulator's convolutions of bytes leave channels last: the maps are turned once, not every batch
        channels_last = values.ndim == 5 and values.movedim(2, -1).is_contiguous()
        if channels_last:
            values = values.movedim(2, -1)
        blocks = [block.to(values.device) for block in self._maps.matrices(name, channels_last)]
        sizes = [block.shape[1] for block in blocks]
        frames = values.detach().reshape(steps * samples, sum(sizes))
        parts = torch.split(frames, max(1, _CHUNK // frames.shape[1]))
        # of zeros and ones, what is not zero need not be looked for
        events = ((part if name in self._maps.binary else part != 0).to(blocks[0].dtype) for part in parts)
        counts = torch.cat([_products(torch.split(part, sizes, dim=1), blocks) for part in events])
        by_sample = counts.reshape(steps, samples, len(blocks[0])).transpose(0, 1).cpu().numpy()
        self._seen[name].append(np.broadcast_to(by_sample, (samples, self._graph.T, by_sample.shape[2])))

    def join(self, gather: Callable[[Any], list[Any]]) -> None:
        """Join what the counters of several processes have counted; `gather` gives everyone's value to everyone, in order."""
        everyone = gather(self._seen)
        self._seen = {name: [part for one in everyone for part in one[name]] for name in self._seen}

    def result(self) -> Activity:
        """The activity is everything counted so far.

        Raises:
            DeployError: nothing was run, or some layers saw more samples than others.
        """
        seen = {name: np.concatenate(parts) for name, parts in self._seen.items() if parts}
        missing = [name for name in self._seen if name not in seen]
        if missing:
            raise DeployError(f"no run to count: {missing[0]} was never observed; pass the counter as observe=")
        sizes = {name: len(counts) for name, counts in seen.items()}
        if len(set(sizes.values())) > 1:
            raise DeployError(f"the layers saw different numbers of samples ({sizes}); count whole batches")
        graph = self._graph
        neurons = {
            name: NeuronActivity(int(np.prod(graph.shapes[name])), seen[name][:, :, 0], _leaks(node))
            for name, node in graph.neurons.items()
        }
        synapses = {layer: self._synapse(layer, seen) for layer in graph.synapses}
        samples = next(iter(sizes.values()))
        events_in = seen[graph.input_name][:, :, 0] if graph.input.over_time else None
        return Activity(graph.T, samples, MappingProxyType(neurons), MappingProxyType(synapses), events_in)

    def _synapse(self, layer: str, seen: Mapping[str, Ints]) -> SynapseActivity:
        graph = self._graph
        shape = layer_shape(graph, layer)
        existing = 0
        totals = np.zeros((*next(iter(seen.values())).shape[:2], 3), np.int64)
        rate_macs = np.zeros(totals.shape[:2])
        lemaire, weight_reads = np.zeros((2, *totals.shape[:2]), np.int64)
        for index, connection in enumerate(self._maps.connections[layer]):
            first, counts = self._maps.columns[layer, index], seen[connection.source]
            events = counts[:, :, 0]
            totals += counts[:, :, [0, first, first + 1]]
            rate_macs += events * (shape.macs / int(np.prod(graph.shapes[connection.source])))
            existing += int(self._maps.fan_out[connection.source][first].sum())
            reached, read = lemaire_fan_out(graph, connection)
            lemaire += events * reached
            weight_reads += events * read
        events, operations, operations_nonzero = np.moveaxis(totals, 2, 0)
        return SynapseActivity(
            role=layer_role(graph, layer),
            shape=shape,
            connections=existing,
            events=events,
            operations=operations,
            operations_nonzero=operations_nonzero,
            rate_macs=rate_macs,
            operations_lemaire=lemaire,
            weight_reads=weight_reads,
        )


def _products(parts: Sequence[torch.Tensor], blocks: Sequence[torch.Tensor]) -> torch.Tensor:
    # the small matrix on the left: six times faster than the other way round
    first, *others = ((block @ part.T).T.to(torch.int64) for part, block in zip(parts, blocks, strict=True))
    return sum(others, first)


def _leaks(node: IF | LIF) -> bool:
    match node:
        case IF():
            return False
        case LIF():
            return True
        case _:
            assert_never(node)


def _binary(graph: SpikingGraph) -> set[str]:
    """These nodes can only have values of zero or one: neurons, and maxima of such values (but not of their sums)."""
    found: set[str] = set()
    for name, node in graph.nodes.items():
        match node:
            case IF() | LIF():
                found.add(name)
            case MaxPool2d():
                sources = graph.sources(name)
                if len(sources) == 1 and sources[0] in found:
                    found.add(name)
            case Delay():
                sources = graph.sources(name)
                if len(sources) == 1 and (graph.closes_loop(name) or sources[0] in found):
                    found.add(name)
            case Input() | Conv2d() | Linear() | AvgPool2d() | Flatten() | Output():
                pass
            case _:
                assert_never(node)
    return found


def _blocks(columns: list[Floats]) -> list[torch.Tensor]:
    """The (K, F) matrix of the columns is cut along F into blocks, so that sums of whole numbers stay exact.

    That is below 2²⁴ in float32. It is several times faster than float64 (2⁵³), which takes over where eight
    blocks are not enough.
    """
    stacked = np.stack([c.reshape(-1) for c in columns])
    for pieces in (1, 2, 4, 8):
        blocks = np.array_split(stacked, pieces, axis=1)
        if all(block.sum(axis=1).max() < _EXACT_IN_FLOAT32 for block in blocks):
            return [torch.from_numpy(block).to(torch.float32) for block in blocks]
    return [torch.from_numpy(stacked)]
