"""Biases that pass through a synaptic current which lasts, as NIR's `CubaLIF` has it.

In a `SpikingGraph`, as on Loihi, a bias goes straight to the membrane, and synaptic currents take in spikes alone. So what NIR
says is a neuron that fires at every step, with the biases as its weights.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from exporters.graph import IF, Array, Delay, Linear
from exporters.graph.currents import Current, GraphBuilder, SynapseTerm
from exporters.nir.check import NirError


def without_biases(name: str, x: Current) -> tuple[Current, Array | None]:
    """A current without its biases, and their sum (F,), if there are any.

    Raises:
        NirError: they reach a map, whose neurons no single neuron could feed alike but through as many weights.
    """
    biased = [p.synapse.bias for p in x.parts if isinstance(p, SynapseTerm) and p.synapse.bias is not None]
    if not biased:
        return x, None
    if len(x.shape) != 1:
        raise NirError(
            f"{name}: the biases of what feeds it would pass through its synaptic current (tau_syn), which Loihi's do not; "
            "use convolutions without bias before it"
        )
    parts = [
        replace(p, synapse=replace(p.synapse, bias=None)) if isinstance(p, SynapseTerm) else p for p in x.parts
    ]  # fmt: skip
    return Current(tuple(parts), x.shape), np.sum(biased, axis=0)


def always_firing(built: GraphBuilder) -> str:
    """A new neuron that fires at every step: a bias drives it over its threshold, its own spikes do so too."""
    back = built.add("always.back", Delay(np.ones(1, np.int64)), [])
    drive = built.add("always.drive", Linear(np.ones((1, 1), np.float32), np.ones(1, np.float32)), [back])
    always = built.add("always", IF(0.5), [drive])
    built.draft.edges.append((always, back))
    return always
