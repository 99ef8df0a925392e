"""The cores of a placed network do this much at every time step: counts per core, exact, from the spikes of a run.

Synaptic operations are those over the synapses that the chip holds: weights of 0 take part only where the chip stores
them. A spike is one message to each core that it feeds, as in `hardware.chips.placement`. Time steps are the
network's own: where a chip pipelines layers, the cores of the next layer do the same step one chip step later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F

from exporters.errors import DeployError
from exporters.graph import Array, Conv2d, Linear, SpikingGraph
from exporters.passes.kernels import merge_groups
from hardware.chips.axons import FanOut
from hardware.chips.blocks import Block, as_grid
from hardware.chips.limits import Target
from hardware.chips.placement import PlacedLayer, Placement, position, source_of
from hardware.emulator import exact_arithmetic

_EXACT_IN_FLOAT32 = 2**24


@dataclass(frozen=True, eq=False)
class LayerWork:
    """The cores of one layer do this, as integers (N, T, cores) per sample, time step and core.

    Attributes:
        layer: its name, that of its synapses.
        first_core: the number of its first core.
        convolution: whether its synapses are a convolution; else they are dense.
        compartments: (cores,) that each core updates at every step.
        synops: synaptic operations.
        spikes: of the core's own neurons.
        messages_in, messages_out: that the core receives and sends.
    """

    layer: str
    first_core: int
    convolution: bool
    compartments: Array
    synops: Array
    spikes: Array
    messages_in: Array
    messages_out: Array

    def first_steps(self, t: int) -> LayerWork:
        """What the cores did in the first t time steps."""
        counted = ("synops", "spikes", "messages_in", "messages_out")
        return replace(self, **{name: getattr(self, name)[:, :t] for name in counted})


class CoreCounter:
    """A counter counts while the emulator runs the chain that was placed: it is passed as `observe`.

    What comes from the host or from the input is counted where it arrives; the read-out by the host is not.
    """

    def __init__(self, placement: Placement, chain: SpikingGraph) -> None:
        self._chain = chain
        self._layers = placement.layers
        self._target = placement.target
        self._sources = {layer.name: source_of(chain, layer.name) for layer in placement.layers}
        self._reach = {layer.name: _Reach(chain, layer, placement.target) for layer in placement.layers}
        self._arrived: dict[str, list[tuple[Array, Array]]] = {layer.name: [] for layer in placement.layers}
        self._fired: dict[str, list[tuple[Array, Array]]] = {layer.neurons_name: [] for layer in placement.layers}

    def __call__(self, name: str, values: torch.Tensor) -> None:
        """Count one batch of a node's output: (T, N, *shape), or (1, N, *shape) if constant over time."""
        for layer in self._layers:
            if self._sources[layer.name] == name:
                events = self._events(values)
                synops = self._reach[layer.name].synops(events)
                self._arrived[layer.name].append(self._by_sample(synops, _listeners(layer.incoming, events), values))
            if layer.neurons_name == name and name in self._chain.neurons:
                events = self._events(values)
                grid = as_grid(layer.shape)
                sent = events * torch.from_numpy(layer.outgoing.feeds.ravel()).to(events)
                found = [_block_sums(e.reshape(-1, *grid), layer.blocks) for e in (events, sent)]
                self._fired[name].append(self._by_sample(found[0], found[1], values))

    def result(self) -> tuple[LayerWork, ...]:
        """What was counted so far, layer after layer.

        Raises:
            DeployError: nothing was run.
        """
        return tuple(self._layer(layer) for layer in self._layers)

    def _layer(self, layer: PlacedLayer) -> LayerWork:
        if not self._arrived[layer.name]:
            raise DeployError(
                f"no run to count: {self._sources[layer.name]} was never observed; pass the counter as observe="
            )
        synops, messages_in = (np.concatenate(parts) for parts in zip(*self._arrived[layer.name], strict=True))
        fired = self._fired[layer.neurons_name]
        silent = np.zeros_like(synops)
        spikes, messages_out = (
            (np.concatenate(parts) for parts in zip(*fired, strict=True)) if fired else (silent, silent)
        )
        return LayerWork(
            layer.name, layer.first_core, isinstance(self._chain.nodes[layer.name], Conv2d),
            np.array([used.compartments for used in layer.usage]), synops, spikes, messages_in, messages_out,
        )  # fmt: skip

    @staticmethod
    def _events(values: torch.Tensor) -> torch.Tensor:
        """Non-zero values, flat, as float32, which holds them and what they are multiplied with: (T·N, F)."""
        return (values.detach() != 0).reshape(values.shape[0] * values.shape[1], -1).to(torch.float32)

    def _by_sample(self, first: torch.Tensor, second: torch.Tensor, values: torch.Tensor) -> tuple[Array, Array]:
        """Counts (T·N, cores) by sample and step, (N, T, cores); what is constant over time is repeated."""
        steps, samples = values.shape[:2]

        def turned(counts: torch.Tensor) -> Array:
            found = counts.round().to(torch.int64).reshape(steps, samples, -1).transpose(0, 1).cpu().numpy()
            return np.broadcast_to(found, (samples, self._chain.T, found.shape[2]))

        return turned(first), turned(second)


def farthest(placement: Placement) -> tuple[int, int] | None:
    """The longest way of a message between two cores crosses so many tiles (east-west, north-south); None where the mesh is
    not published. Messages from the host are not counted."""
    if position(placement.target, 0) is None:
        return None
    longest = (0, 0)
    for sending, receiving in zip(placement.layers, placement.layers[1:], strict=False):
        there = np.array([position(placement.target, receiving.first_core + i) for i in range(receiving.cores)])
        for core, block in enumerate(sending.blocks, sending.first_core):
            away = np.abs(there - np.array(position(placement.target, core)))[sending.outgoing.listeners(block)]
            if len(away) and (most := away[away.sum(axis=1).argmax()]).sum() > sum(longest):
                longest = (int(most[0]), int(most[1]))
    return longest


def tiles(placement: Placement) -> int | None:
    """The cores lie on so many tiles of all chips; None where tiles are not published."""
    per_tile, per_chip = placement.target.get("cores_per_tile"), placement.target["cores_per_chip"]
    if per_tile is None:
        return None
    full, rest = divmod(placement.cores, per_chip)
    return full * -(-per_chip // per_tile) + -(-rest // per_tile)


class _Reach:
    """The synapses from each source into each block of a layer, counted by a convolution or a product."""

    def __init__(self, chain: SpikingGraph, layer: PlacedLayer, target: Target) -> None:
        synapse = chain.nodes[layer.name]
        assert isinstance(synapse, Conv2d | Linear)
        exists: Array = np.asarray(synapse.weight != 0) | target.memory.stores_zeros
        self._spans = sorted({block.channels for block in layer.blocks})
        self._blocks = [
            Block((k, k + 1), block.rows, block.columns)
            for block in layer.blocks
            for k in [self._spans.index(block.channels)]
        ]
        self._conv = synapse if isinstance(synapse, Conv2d) else None
        self._shape = chain.in_shape(layer.name)
        if isinstance(synapse, Conv2d):
            exists = merge_groups(exists, synapse.groups, 1)
        summed = np.stack([exists[slice(*span)].sum(axis=0, dtype=np.int64) for span in self._spans])
        largest = summed.reshape(len(summed), -1).sum(axis=1).max()
        self._kernel = torch.from_numpy(summed).to(torch.float32 if largest < _EXACT_IN_FLOAT32 else torch.float64)

    def synops(self, events: torch.Tensor) -> torch.Tensor:
        """Events (B, sources) cause so many synaptic operations on each core: (B, cores)."""
        kernel = self._kernel.to(events.device)
        x = events.to(kernel.dtype)
        with exact_arithmetic():
            if self._conv is None:
                grid = (x @ kernel.T)[:, :, None, None]
            else:
                conv = self._conv
                x = x.reshape(-1, *self._shape)
                grid = F.conv2d(x, kernel, None, conv.stride, conv.padding, conv.dilation)
        return _block_sums(grid, self._blocks)


def _block_sums(grid: torch.Tensor, blocks: Sequence[Block]) -> torch.Tensor:
    """Values (B, C, H, W) add up over each block: (B, blocks), float64."""
    sums = (grid[(slice(None), *block.slices)].sum(dim=(1, 2, 3), dtype=torch.float64) for block in blocks)
    return torch.stack(list(sums), dim=1)


def _listeners(fan_out: FanOut, events: torch.Tensor) -> torch.Tensor:
    """Events (B, sources) are messages to each core: (B, cores)."""
    kind, listens = fan_out.kind, fan_out.listens
    # float32 adds up as many events as it has neurons exactly
    dtype = events.dtype if events.shape[1] < _EXACT_IN_FLOAT32 else torch.float64
    of_kind = torch.zeros((len(events), len(listens)), dtype=dtype, device=events.device)
    of_kind.index_add_(1, torch.from_numpy(kind).to(events.device), events.to(dtype))
    with exact_arithmetic():
        return (of_kind @ torch.from_numpy(listens).to(of_kind)).to(torch.float64)
