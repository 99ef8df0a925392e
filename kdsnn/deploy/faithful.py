"""The comparison that comes before every answer: the graph against the module that it was made from."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from kdsnn.deploy.author import AuthorRun, own_type, run_author
from kdsnn.deploy.images import random_samples
from kdsnn.deploy.proof import Proof, prove
from kdsnn.errors import KdsnnError, UnfaithfulError

if TYPE_CHECKING:
    from torch import nn

    from exporters.from_torch import Calling
    from exporters.graph import Array, SpikingGraph
    from kdsnn.deploy.lowered import Lowered
    from profilers.profiling import Samples

LARGE = 2**17
"""Neurons of one layer times time steps from which on one random sample is compared, and not more: it holds spikes enough."""

FEW = 8
"""Of the user's own samples so many are compared at most: a network that is another one differs on the first."""


def few_samples(graph: SpikingGraph) -> int:
    """How many of the user's samples are compared: `FEW`, or fewer that have millions of spikes together."""
    from profilers.counting.sizes import samples_within

    return min(FEW, samples_within(2**23, graph))


def proven(
    name: str, module: nn.Module, graph: SpikingGraph, calling: Calling, x: Array | None = None, *, seed: int = 0,
    double: bool = True,
) -> Proof:  # fmt: skip
    """Compare a graph with its module on a few random samples, or on samples x; `double`: in float64 where the module can.

    Raises:
        UnfaithfulError: they differ other than by rounding; names layer, sample, step and neuron.
        KdsnnError: they do since the module is no function of a sample: of chance, say, or of how many samples are in the batch.
    """
    if x is None:
        x = random_samples(graph, _random_count(graph), seed)
    ran = run_author(module, graph, calling, x, double=double)
    proof = prove(graph, x, ran.spikes, ran.output, roundoff=ran.roundoff, factor=calling.factor, coarse=not double)
    if not proof.ok:
        if not _alike(ran, run_author(module, graph, calling, x, double=double)):
            raise KdsnnError(
                f"{name}: run twice on the same samples it gives different results: its forward draws random numbers, or keeps "
                "something that no reset puts back; a graph is one network"
            )
        if not _alike(ran, _in_other_batches(module, graph, calling, x, double=double)):
            raise KdsnnError(
                f"{name}: what it gives for a sample depends on the batch that the sample is in, or on its size; a graph is the same "
                "for every batch: let nothing in its forward compute with the size or with other samples"
            )
        raise UnfaithfulError(
            f"{name}: what was lowered is not this network: {proof.first}; please report this with the module"
        )
    return proof


def _random_count(graph: SpikingGraph) -> int:
    """How many random samples are compared: not as many as were lowered, so that it shows where a network counts them."""
    from exporters.from_torch.calling import batch_size

    largest = max((math.prod(graph.shapes[layer]) for layer in graph.neurons), default=0) * graph.T
    return 1 if largest > LARGE else 3 if batch_size(graph.T, graph.input.shape) == 2 else 2


def _in_other_batches(module: nn.Module, graph: SpikingGraph, calling: Calling, x: Array, *, double: bool) -> AuthorRun:
    """What the module gives where every sample is a batch of its own, or a single one comes twice."""
    if len(x) > 1:
        return run_author(module, graph, replace(calling, alone=True), x, double=double)
    twice = run_author(module, graph, calling, np.concatenate([x, x]), double=double)
    return replace(twice, spikes={name: spikes[:1] for name, spikes in twice.spikes.items()}, output=twice.output[:1])


def _alike(a: AuthorRun, b: AuthorRun) -> bool:
    """Whether two runs of a module are the same but for the rounding of what comes out."""
    same = a.spikes.keys() == b.spikes.keys() and all((a.spikes[name] == b.spikes[name]).all() for name in a.spikes)
    return same and a.output.shape == b.output.shape and bool(np.allclose(a.output, b.output, rtol=1e-5, atol=1e-6))


def drift_of(graph: SpikingGraph, other: SpikingGraph) -> str:
    """In words: what another form of a float graph changes in what it does with a few random samples."""
    from hardware import emulator

    x = random_samples(graph, few_samples(graph), 0)
    recorders = [emulator.Recorder(g) for g in (graph, other)]
    runs = [emulator.run(g, g.encode(x), observe=r) for g, r in zip((graph, other), recorders, strict=True)]
    ours, theirs = (r.spikes for r in recorders)
    differ = sum(int((ours[name] != theirs[name]).sum()) for name in ours)
    spikes = sum(values.size for values in ours.values())
    scores = [run.scores().reshape(len(x), -1).argmax(axis=1) for run in runs]
    classes = int((scores[0] != scores[1]).sum())
    return (
        f"on {len(x)} random samples weights on the grid change {differ:,} of {spikes:,} spikes ({differ / spikes:.2%}) "
        f"and the class of {classes}"
    )


def proven_on(network: Lowered, x: Samples) -> None:
    """Compare a lowered network with its module on the first few of the user's samples, real-valued as `run` takes them.

    In float64 it was compared when it was lowered; what samples bring to light is no matter of rounding, so this is in float32 where
    the module is, in half of the time.

    Raises:
        UnfaithfulError: as `proven`.
    """
    if network.module is not None and network.graph is not None and network.calling is not None:
        few, double = x[: few_samples(network.graph)], own_type(network.module) != torch.float32
        proven(network.name, network.module, network.graph, network.calling, few, double=double)
