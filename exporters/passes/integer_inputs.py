"""Synapses are made to read whole numbers; `quantize` and `make_exact` start from such networks."""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from exporters.errors import DeployError
from exporters.graph import AvgPool2d, Delay, Flatten, Input, MaxPool2d, Neuron, Output, SpikingGraph, Synapse
from exporters.graph.editing import Draft

Part = tuple[str, float]
"""A part is a node of integers, and the real value of one of its units."""


def integer_inputs(graph: SpikingGraph, input_scale: int) -> SpikingGraph:
    """The network computes the same with every synapse reading integers: pixels 0…input_scale, spikes, and sums of
    spikes.

    The factor that makes real values of them (1/input_scale, an average pool's divisor) moves into the
    weights. A layer that reads spikes and averages at once becomes one layer for each, into the same neurons.

    Raises:
        DeployError: a max-pool over a mixture of spikes and averages.
    """
    draft = Draft()
    parts: dict[str, list[Part]] = {}  # node → the nodes that now stand for it: real value = Σ unit × integer
    for name, node in graph.nodes.items():
        by_unit: dict[float, list[str]] = {}
        for source in graph.earlier(name):
            for part, unit in parts[source]:
                by_unit.setdefault(unit, []).append(part)
        match node:
            case Input():
                real = node.is_graded and node.scale is None
                whole = replace(node, scale=input_scale) if real else node
                parts[name] = [(draft.add(name, whole, []), 1 / input_scale if real else 1.0)]
            case AvgPool2d():
                sums = replace(node, divisor=1)
                parts[name] = [(draft.add(name, sums, read), unit / node.divisor) for unit, read in by_unit.items()]
            case Delay() if graph.closes_loop(name):
                parts[name] = [(draft.add(name, node, graph.sources(name)), 1.0)]  # of neurons, which keep their names
            case Flatten() | MaxPool2d() | Delay():
                if isinstance(node, MaxPool2d) and len(by_unit) > 1:
                    raise DeployError(
                        f"{name}: it takes the maximum of spikes plus averages, which no integer grid expresses"
                    )
                parts[name] = [(draft.add(name, node, read), unit) for unit, read in by_unit.items()]
            case Synapse():
                copies: list[Part] = []
                for unit, read in by_unit.items():
                    bias = None if copies else node.bias  # once, however many signals the layer reads
                    weight = node.weight if unit == 1 else node.weight * unit
                    copies.append((draft.add(name, replace(node, weight=weight, bias=bias), read), 1.0))
                parts[name] = copies
            case Neuron() | Output():
                parts[name] = [(draft.add(name, node, [p for read in by_unit.values() for p in read]), 1.0)]
            case _:
                assert_never(node)
    return graph.redrawn(draft.nodes, draft.edges)
