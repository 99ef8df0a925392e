"""The counts of one run become the plain numbers that a report holds of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from exporters.errors import DeployError
from exporters.graph import SpikingGraph
from profilers.counting import neurobench
from profilers.counting.activity import Activity, NeuronActivity, SynapseActivity
from profilers.counting.confusion import Confusion
from profilers.counting.conventions import by_every_convention
from profilers.counting.sizes import MEMBRANE_BITS, GraphSize, LayerSize, graph_size
from profilers.counting.statistics import statistic
from profilers.energy.movement import WordSizes, ann_movement, as_ann, snn_budget, snn_movement, with_movement
from profilers.energy.operations import Counts, dense_ann, quantized_twin, snn_counts, twin_bits
from profilers.report.data import LayerReport, NetworkRun


def summarize(
    graph: SpikingGraph,
    activity: Activity,
    accuracy_by_step: Sequence[float] = (),
    differing: Mapping[str, float] | None = None,
    mixed: Mapping[str, int] | None = None,
    confusion: Confusion | None = None,
) -> NetworkRun:
    """Sum up one counted run of `graph`.

    Args:
        graph: what ran.
        activity: what was counted.
        accuracy_by_step: fraction of right answers after the first 1, 2, … T steps, if there were labels.
        differing: neuron layer → spikes per sample that differ from those of another run.
        mixed: what `counting.neurobench.MixedInputs` counted beside it.
        confusion: which classes were taken for which, if there were labels.

    Raises:
        DeployError: accuracies for another number of steps.
    """
    if len(accuracy_by_step) not in (0, activity.T):
        raise DeployError(f"{len(accuracy_by_step)} accuracies for T = {activity.T} steps; give one per step, or none")
    size = graph_size(graph)
    words = word_sizes(graph, size)
    return NetworkRun(
        arithmetic="integer" if graph.is_integer else "float",
        T=activity.T,
        samples=activity.samples,
        accuracy=float(accuracy_by_step[-1]) if len(accuracy_by_step) else None,
        spikes=statistic(activity.spikes),
        synops=statistic(activity.synops),
        synops_nonzero=statistic(activity.synops_nonzero),
        rate_macs=statistic(activity.rate_macs),
        rate=activity.rate,
        spikes_per_synapse=activity.spikes_per_synapse,
        macs_once=activity.macs_once,
        macs_repeated=activity.macs_repeated,
        dense_macs=size.macs,
        neurons=size.neurons,
        parameters=size.parameters,
        weight_bits=size.weight_bits,
        state_bits=size.state_bits,
        events_in_by_step=() if activity.events_in is None else _by_step(activity.events_in),
        spikes_by_step=_by_step(activity.spikes),
        synops_by_step=_by_step(activity.synops),
        macs_by_step=_by_step(activity.graded_operations),
        accuracy_by_step=tuple(map(float, accuracy_by_step)),
        conventions=by_every_convention(activity),
        layers=tuple(_layers(graph, activity, size, words, differing or {})),
        counts=with_movement(snn_counts(activity), snn_movement(activity, words)),
        dense_counts=with_movement(
            dense_ann(synapse.shape for synapse in activity.synapses.values()),
            ann_movement(as_ann(activity, words, twin_bits(activity.T))),
        ),
        twin_counts=quantized_twin(activity),
        budget=snn_budget(activity, words),
        neurobench=neurobench.metrics(graph, size, activity, mixed or {}),
        confusion=confusion,
    )


def word_sizes(graph: SpikingGraph, size: GraphSize) -> WordSizes:
    """Words of an integer graph are as `graph_size` tells, its pixels as many bits as their scale; floats have 32."""
    weights = {name: layer.bits_per_weight for name, layer in size.layers.items()}
    if not graph.is_integer:
        return WordSizes(weights, inputs=32, membranes=32)
    return WordSizes(weights, (graph.input.scale or 1).bit_length(), MEMBRANE_BITS)


def _layers(
    graph: SpikingGraph, activity: Activity, size: GraphSize, words: WordSizes, differing: Mapping[str, float]
) -> Iterator[LayerReport]:
    for name, node in graph.nodes.items():
        kind = type(node).__name__
        if name in activity.neurons:
            counts = _counts(activity, words, neurons={name: activity.neurons[name]})
            yield _neurons(name, kind, counts, activity.neurons[name], differing.get(name))
        elif name in activity.synapses:
            counts = _counts(activity, words, synapses={name: activity.synapses[name]})
            yield _synapses(name, kind, counts, activity.synapses[name], size.layers[name])


def _neurons(name: str, kind: str, counts: Counts, activity: NeuronActivity, differing: float | None) -> LayerReport:
    return LayerReport(
        name,
        kind,
        counts,
        neurons=activity.neurons,
        spikes=_mean(activity.spikes),
        rate=activity.rate,
        differing=differing,
    )


def _synapses(name: str, kind: str, counts: Counts, activity: SynapseActivity, size: LayerSize) -> LayerReport:
    return LayerReport(
        name,
        kind,
        counts,
        role=activity.role,
        macs=activity.macs,
        connections=activity.connections,
        events=_mean(activity.events),
        operations=_mean(activity.operations),
        operations_nonzero=_mean(activity.operations_nonzero),
        rate_macs=_mean(activity.rate_macs),
        parameters=size.parameters,
        weight_bits=size.weight_bits,
    )


def _counts(
    activity: Activity,
    words: WordSizes,
    neurons: Mapping[str, NeuronActivity] | None = None,
    synapses: Mapping[str, SynapseActivity] | None = None,
) -> Counts:
    """These are the counts of a network of which only these layers do anything."""
    part = Activity(activity.T, activity.samples, neurons or {}, synapses or {})
    return with_movement(snn_counts(part), snn_movement(part, words))


def _by_step(values: np.ndarray[Any, Any]) -> tuple[float, ...]:
    return tuple(values.mean(axis=0).tolist())


def _mean(values: np.ndarray[Any, Any]) -> float:
    return float(values.sum(axis=1).mean())
