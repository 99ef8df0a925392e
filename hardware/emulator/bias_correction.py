"""At few bits, every layer of a quantized network hands on a somewhat different mean, and the layers behind it drift further: biases
take that back, layer after layer.

This is the empirical bias correction of Nagel et al. 2019 (arXiv 1906.04721, appendix D): on sample data, the mean current of each
channel into a membrane is brought back to what it was in the float network. Every layer is measured behind layers that are corrected
already, so that a layer corrects what is its own; all at once, each would take back what those in front take back as well.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from exporters.graph import AnySynapse, Array, SpikingGraph
from exporters.graph.bounds import input_bounds
from exporters.graph.registers import BIAS_LIMIT, CURRENT_LIMIT
from exporters.passes.membranes import Membrane, neuron_depths
from exporters.passes.register_bounds import largest_current
from hardware.emulator.observers import ChannelMeans
from hardware.emulator.plan import add
from hardware.emulator.running import exact_arithmetic, layer_by_layer, prepare

Told = Callable[[int, int], None]
"""Told how many samples of how many have run, all layers together."""


def correct_biases(
    graph: SpikingGraph, currents: Mapping[str, Array], frames: Array, progress: Told | None = None
) -> SpikingGraph:
    """The biases of an integer graph change until mean currents are what they were.

    Args:
        graph: what `exporters.passes.quantize.quantize` makes.
        currents: of the float graph, `Calibration.currents` has them.
        frames: what `graph.encode` returns; the samples that the currents were measured on.
        progress: told how far it is.

    Currents that persist are left as they are: a bias passes them by. So is a membrane that is read out, where a changed bias
    could leave its register.
    """
    levels = _levels(graph, currents)
    for i, ends in enumerate(levels):

        def told(done: int, before: int = i * len(frames)) -> None:
            if progress is not None:
                progress(before + done, len(levels) * len(frames))

        arrived = mean_currents(graph, ends, frames, told)
        together = {graph.sources(end): end for end in ends}  # what shares its layers shares their biases
        for end in together.values():
            scale = graph.neurons.get(end, graph.output).scale
            graph = graph.with_nodes(_corrected(graph, end, scale * currents[end] - arrived[end]))
    return graph


def mean_currents(
    graph: SpikingGraph, ends: Collection[str], frames: Array, progress: Callable[[int], None] | None = None
) -> dict[str, Array]:
    """Samples run as far as to these neurons (or the output), and no further: the mean current into each, per channel (or
    feature) over samples, steps and positions, float64 (C,), biases included, in the graph's units."""
    emulation = prepare(graph)
    sources = {name for end in ends for name in graph.sources(end)}
    arrived = ChannelMeans()
    with torch.inference_mode(), exact_arithmetic():
        for batch in emulation.batches(frames, progress):
            found: dict[str, Tensor] = {}
            for name, values in layer_by_layer(emulation.plan, batch, keep=False):
                if name in sources:
                    found[name] = values
                if len(found) == len(sources):
                    break
            for end in ends:
                arrived.add(end, add(*(found[name] for name in graph.sources(end))))
    return arrived.means()


def _levels(graph: SpikingGraph, ends: Iterable[str]) -> list[list[str]]:
    """The ends whose biases can be corrected, those that nothing before them changes first."""
    depth = neuron_depths(graph)
    found: dict[float, list[str]] = {}
    for end in ends:
        if end not in graph.neurons or not graph.neurons[end].current_leak:
            found.setdefault(depth[end] if end in graph.neurons else np.inf, []).append(end)
    return [names for _, names in sorted(found.items())]


def _corrected(graph: SpikingGraph, end: str, missing: Array) -> dict[str, AnySynapse]:
    """One of the layers that feed an end, with what is missing per channel in its bias; none where each feeds others too, or
    where a register would not hold it."""
    sources = graph.sources(end)
    own = [s for s in sources if all(graph.sources(target) == sources for target in graph.targets(s))]
    if not own:
        return {}
    name = next((s for s in own if graph.synapses[s].bias is not None), own[0])
    synapse = graph.synapses[name]
    bias = np.zeros(len(missing), np.int32) if synapse.bias is None else synapse.bias
    whole = np.rint(missing).astype(np.int64).reshape(-1, *[1] * (bias.ndim - 1))
    if not whole.any():
        return {}
    changed = replace(synapse, bias=np.clip(bias + whole, -BIAS_LIMIT, BIAS_LIMIT).astype(np.int32))
    if end == graph.output_name:  # the only register that takes in biases too
        layers = {s: graph.synapses[s] for s in sources} | {name: changed}
        if largest_current(graph, Membrane(sources, (end,)), layers, input_bounds(graph)) > CURRENT_LIMIT:
            return {}
    return {name: changed}
