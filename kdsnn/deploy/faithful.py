"""The comparison that comes before every answer: the graph against the module that it was made from."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from kdsnn.deploy.author import run_author
from kdsnn.deploy.images import random_samples
from kdsnn.deploy.proof import Proof, prove
from kdsnn.errors import UnfaithfulError

if TYPE_CHECKING:
    from torch import nn

    from exporters.from_torch import Calling
    from exporters.graph import Array, SpikingGraph

LARGE = 2**17
"""Neurons of one layer times time steps from which on one random sample is compared, and not two: it holds spikes enough."""


def proven(
    name: str, module: nn.Module, graph: SpikingGraph, calling: Calling, x: Array | None = None, *, seed: int = 0
) -> Proof:
    """Compare a graph with its module on a few random samples, or on samples x, in float64 where the module can.

    Raises:
        UnfaithfulError: they differ other than by rounding; names layer, sample, step and neuron.
    """
    if x is None:
        largest = max((math.prod(graph.shapes[layer]) for layer in graph.neurons), default=0) * graph.T
        x = random_samples(graph, 1 if largest > LARGE else 2, seed)
    ran = run_author(module, graph, calling, x, double=True)
    proof = prove(graph, x, ran.spikes, ran.output, roundoff=ran.roundoff, factor=calling.factor)
    if not proof.ok:
        raise UnfaithfulError(
            f"{name}: what was lowered is not this network: {proof.first}; please report this with the module"
        )
    return proof
