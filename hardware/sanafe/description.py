"""A placed chain becomes SANA-FE's YAML: its neurons and every synapse, what they are mapped to, and the chip.

One file holds all three sections, which SANA-FE reads as its architecture and as its network. What the host sends (the
spikes of a layer that reads pixels, or a sample's own spikes) are the neurons of the group `input`, whose spike trains
are set for each sample. Spikes are exact: SANA-FE's Loihi neuron computes what Loihi's registers do (six fractional
bits, leak truncated toward zero), with thresholds written so that its comparison and its reset are Loihi's.

One thing differs: SANA-FE adds a bias from the first step on, and layer k sees its first spike k steps later. So one
neuron of the host sends, at the right step, a spike that takes out what the bias has done until then; where a neuron
would have fired by that time, its bias comes as a spike in every one of its own steps.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from exporters.errors import DeployError
from exporters.graph import Array, Conv2d, Linear, Neuron, Shape, SpikingGraph
from exporters.graph.bounds import input_bounds, is_signed, sum_bound
from exporters.graph.registers import CURRENT_LIMIT, DECAY_ONE, FRACTION, MEMBRANE_REGISTER, SILENT
from exporters.passes.chain import ChainLayer, chain_layers
from exporters.passes.membranes import resets_by_subtraction
from hardware.chips.blocks import as_grid
from hardware.chips.placement import PlacedLayer, Placement, source_of
from hardware.sanafe.architecture import SENDERS, architecture, mesh_of

MOST_SYNAPSES = 1_000_000
"""SANA-FE expands every synapse of a convolution; more than this is refused."""

INPUT, LEAD = "input", "lead"
"""Groups of the host: what it sends of a sample, and what it sends because of biases."""

_NEVER = 1e30
_BELOW = 2.0**-20
"""A threshold lies this much below V where reset subtracts it: below any step of a membrane, so that the rest is cut off."""
_PER_EDGE = 50_000


@dataclass(frozen=True)
class DescribedLayer:
    """Neurons are this group of SANA-FE's; they do the network's step t (from 1) at the chip's step t + delay.

    `membrane`: whether they never fire and are read out.
    """

    group: str
    neurons_name: str
    shape: Shape
    delay: int
    membrane: bool


@dataclass(frozen=True)
class Description:
    """A network as SANA-FE is given it.

    Attributes:
        text: of the YAML file.
        source: the node of the chain whose spikes the group `input` sends, with their shape.
        shape: of these.
        layers: in order.
        T: steps of the network; the chip takes `steps`.
        synapses: written out, those of biases apart.
    """

    text: str
    source: str
    shape: Shape
    layers: tuple[DescribedLayer, ...]
    T: int
    synapses: int

    @property
    def steps(self) -> int:
        """The chip takes so many steps for one sample."""
        return self.T + len(self.layers)


def describe(chain: SpikingGraph, placement: Placement, name: str = "network") -> Description:
    """A chain that was placed on Loihi 1 is described.

    Raises:
        DeployError: SANA-FE has no such neurons, cannot be proven to compute the same, or would run out of memory; the message
            names the layer.
    """
    steps = {step.name: step for step in chain_layers(chain)}
    source = source_of(chain, placement.layers[0].name)
    shape = chain.shapes[source]
    _require_exact(chain, [steps[layer.name] for layer in placement.layers])
    size = int(np.prod(shape))
    mesh = mesh_of(placement, size + 2 * len(placement.layers))
    groups = [_group(INPUT, {}, [(0, size - 1, {})])]
    edges: list[str] = []
    mappings = [_mapping(INPUT, n, mesh.host_address(n), n % SENDERS) for n in range(size)]
    lead = _Lead(chain.T)
    before, synapses, layers = INPUT, 0, []
    for k, layer in enumerate(placement.layers):
        step, group = steps[layer.name], f"layer{k + 1}"
        pairs = synapse_list(chain, layer.name)
        synapses += len(pairs[0])
        if synapses > MOST_SYNAPSES:
            raise DeployError(
                f"{layer.name}: up to here the network has {synapses:,} synapses, all of which SANA-FE holds one by one; "
                f"{MOST_SYNAPSES:,} are the most that are written. Give a smaller network"
            )
        node = chain.nodes[layer.neurons_name]
        bias = lead.add(group, step, _biases(chain, layer), k + 1, node.start if isinstance(node, Neuron) else 0.0)
        groups.append(_group(group, _attributes(chain, step), _runs(bias)))
        edges += _edges(before, group, *pairs)
        mappings += _core_mappings(
            group, layer, [mesh.address(placement.target, layer.first_core + i) for i in range(layer.cores)]
        )
        layers.append(
            DescribedLayer(group, layer.neurons_name, chain.shapes[layer.neurons_name], k + 1, step.threshold == SILENT)
        )
        before = group
    if lead.neurons:
        groups.append(_group(LEAD, {}, lead.neurons))
    edges += lead.edges
    mappings += [_mapping(LEAD, n, mesh.host_address(size + n), (size + n) % SENDERS) for n in range(len(lead.neurons))]
    network = [f"network:\n  name: {json.dumps(name)}\n  groups:\n", *groups, "  edges:\n", *edges]
    # SANA-FE reads no number in quotes
    chip = re.sub('"([0-9]+)":', r"\1:", json.dumps(architecture(mesh, placement.target["compartments"])))
    head = f"architecture: {chip}\n"
    text = "".join([_comment(chain, placement), head, *network, "mappings:\n", *mappings])
    return Description(text, source, shape, tuple(layers), chain.T, synapses)


def synapse_list(chain: SpikingGraph, name: str) -> tuple[Array, Array, Array]:
    """The synapses of a layer whose weight is not 0: source and neuron, numbered in C order, and weight, one entry each."""
    synapse = chain.nodes[name]
    if isinstance(synapse, Linear):
        neuron, source = np.nonzero(synapse.weight)
        return source, neuron, synapse.weight[neuron, source]
    assert isinstance(synapse, Conv2d)
    _, height, width = chain.in_shape(name)
    out, rows, columns = chain.shapes[name]
    o, i, a, b = np.nonzero(synapse.weight)
    channel = i + o // (out // synapse.groups) * synapse.weight.shape[1]
    y, x = np.arange(rows)[:, None], np.arange(columns)[None]
    found: list[tuple[Array, Array, Array]] = []
    for k in range(len(o)):
        sy = y * synapse.stride[0] - synapse.padding[0] + a[k] * synapse.dilation[0]
        sx = x * synapse.stride[1] - synapse.padding[1] + b[k] * synapse.dilation[1]
        inside = (sy >= 0) & (sy < height) & (sx >= 0) & (sx < width)
        source = (channel[k] * height + sy) * width + sx
        neuron = (o[k] * rows + y) * columns + x
        weight = synapse.weight[o[k], i[k], a[k], b[k]]
        found.append((source[inside], neuron[inside], np.full(int(inside.sum()), weight)))
    empty = (np.zeros(0, np.int64),) * 3
    sources, neurons, weights = (np.concatenate(parts) for parts in zip(*(found or [empty]), strict=True))
    return sources, neurons, weights


class _Lead:
    """What the host sends because of biases, see the module's description: per layer one neuron that spikes once, and one
    that spikes in each of the layer's own steps."""

    def __init__(self, T: int) -> None:
        self._T = T
        self.neurons: list[tuple[int, int, dict[str, object]]] = []
        self.edges: list[str] = []

    def add(self, group: str, step: ChainLayer, bias: Array, delay: int, start: float) -> Array:
        """A layer's biases, flat: those that SANA-FE adds itself come back, the others are sent."""
        membrane = np.zeros(bias.shape)
        fires = np.zeros(bias.shape, bool)
        for idle in range(delay):
            if idle:
                membrane = decayed(membrane, step.decay)
            membrane = membrane + bias
            fires |= membrane > step.threshold - 1
        own = np.where(fires, 0, bias)
        once = decayed(np.full(bias.shape, float(start)), step.decay) - np.where(
            fires, 0, decayed(membrane, step.decay)
        )
        self._send(group, once, [False] * (delay - 1) + [True])
        self._send(group, np.where(fires, bias, 0), [False] * (delay - 1) + [True] * self._T)
        return own

    def _send(self, group: str, weights: Array, spikes: Sequence[bool]) -> None:
        reached = np.flatnonzero(weights)
        if not len(reached):
            return
        number = len(self.neurons)
        self.neurons.append((number, number, {"spikes": [int(spike) for spike in spikes]}))
        self.edges += _edges(LEAD, group, np.full(len(reached), number), reached, weights[reached])


def decayed(membrane: Array, decay: int) -> Array:
    """Membranes leak as Loihi's register does, in units of the integer weights."""
    register = np.abs(membrane) * FRACTION * (DECAY_ONE - decay) / DECAY_ONE
    return np.asarray(np.floor(register) * np.sign(membrane) / FRACTION)


# -- what can be expressed -----------------------------------------------------------------------------


def _require_exact(chain: SpikingGraph, steps: Sequence[ChainLayer]) -> None:
    bounds = input_bounds(chain)
    for step in steps:
        node = chain.nodes[step.neuron_name]
        soft, signed = resets_by_subtraction(node), is_signed(chain, step.name)
        if step.time is not None:
            raise DeployError(
                f"{step.name}: its spikes are delayed or come back, which the description for SANA-FE does not say"
            )
        if step.current_decay != DECAY_ONE:
            raise DeployError(
                f"{step.neuron_name}: SANA-FE rounds a current that persists differently; it has no such neurons"
            )
        if soft and step.decay:
            raise DeployError(
                f"{step.neuron_name}: leaking neurons that reset by subtraction cannot be written for SANA-FE exactly"
            )
        if sum_bound(step.synapse, bounds[step.name], bias=False, signed=signed) > CURRENT_LIMIT:
            raise DeployError(f"{step.name}: its current can leave Loihi's register, which SANA-FE does not have")
        most = chain.T * sum_bound(step.synapse, bounds[step.name], signed=signed)
        if (soft or step.threshold == SILENT) and most > MEMBRANE_REGISTER / FRACTION:
            raise DeployError(
                f"{step.neuron_name}: its membrane can reach the end of Loihi's register, which SANA-FE does not have"
            )


def _attributes(chain: SpikingGraph, step: ChainLayer) -> dict[str, object]:
    soft = resets_by_subtraction(chain.nodes[step.neuron_name])
    silent = step.threshold == SILENT
    soma = {
        "threshold": _NEVER if silent else step.threshold - (_BELOW if soft else 1),
        "reset_mode": "soft" if soft else "hard",
        "leak_decay": (DECAY_ONE - step.decay) / DECAY_ONE,
        "reverse_threshold": -MEMBRANE_REGISTER / FRACTION,
        "reverse_reset_mode": "saturate",
    }
    unit = "conv" if isinstance(step.synapse, Conv2d) else "dense"
    return {"synapse_hw_name": unit, "soma_hw_name": "lif", "log_potential": silent, "soma": soma}


def _biases(chain: SpikingGraph, layer: PlacedLayer) -> Array:
    synapse = chain.synapses[layer.name]
    shape = chain.shapes[layer.name]
    if synapse.bias is None:
        return np.zeros(int(np.prod(shape)))
    bias = synapse.bias.reshape(-1, *[1] * (len(shape) - 1)) if synapse.bias.ndim == 1 else synapse.bias
    return np.broadcast_to(bias, shape).astype(np.float64).ravel()


# -- text ----------------------------------------------------------------------------------------------


def _comment(chain: SpikingGraph, placement: Placement) -> str:
    layers = len(placement.layers)
    return (
        f"# SANA-FE 2: architecture, network and mappings in one file, given as both: sim FILE FILE {chain.T + layers}\n"
        f"# T = {chain.T} steps, {layers} layers on {placement.cores} cores of {placement.target.title}; the group `{INPUT}` "
        "gets the spikes of a sample (attribute spikes)\n"
    )


def _group(name: str, attributes: Mapping[str, object], neurons: Sequence[tuple[int, int, dict[str, object]]]) -> str:
    whole = {"log_spikes": True, **attributes}
    rows = (
        f"        - {first if first == last else f'{first}..{last}'}: {json.dumps(own)}\n"
        for first, last, own in neurons
    )
    return f"    - name: {name}\n      attributes: {json.dumps(whole)}\n      neurons:\n{''.join(rows)}"


def _runs(bias: Array) -> list[tuple[int, int, dict[str, object]]]:
    """Neurons that follow one another and have the same bias are one entry: (first, last, attributes)."""
    starts = np.flatnonzero(np.diff(bias, prepend=np.nan) != 0)
    ends = [*(starts[1:] - 1), len(bias) - 1]
    return [
        (int(a), int(b), {"soma": {"bias": float(bias[a])}} if bias[a] else {})
        for a, b in zip(starts, ends, strict=True)
    ]


def _edges(before: str, after: str, sources: Array, neurons: Array, weights: Array) -> Iterator[str]:
    for start in range(0, len(sources), _PER_EDGE):
        part = slice(start, start + _PER_EDGE)
        pairs = np.stack([sources[part], neurons[part]], axis=1).tolist()
        kind = {"type": "sparse", "source_target_pairs": pairs, "weight": weights[part].tolist()}
        yield f"    - {before} -> {after}: {json.dumps(kind)}\n"


def _mapping(group: str, neuron: int, core: str, sender: int) -> str:
    return f'  - {group}.{neuron}: {{core: {core}, soma: "sender[{sender}]"}}\n'


def _core_mappings(group: str, layer: PlacedLayer, cores: Sequence[str]) -> Iterator[str]:
    """Neurons of one core that follow one another are one line."""
    grid = as_grid(layer.shape)
    core_of = np.empty(grid, np.int64)
    for number, block in enumerate(layer.blocks):
        core_of[block.slices] = number
    flat = core_of.ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=-1) != 0)
    for first, last in zip(starts, [*(starts[1:] - 1), len(flat) - 1], strict=True):
        yield f"  - {group}.{first}..{last}: {{core: {cores[flat[first]]}}}\n"
