"""The counts of one run become the plain numbers that a report holds of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from exporters.errors import DeployError
from exporters.graph import SpikingGraph, layer_names
from profilers.counting import neurobench
from profilers.counting.activity import Activity, NeuronActivity, SynapseActivity
from profilers.counting.confusion import Confusion
from profilers.counting.conventions import by_every_convention
from profilers.counting.sizes import MEMBRANE_BITS, GraphSize, LayerSize, graph_size
from profilers.counting.statistics import Statistic, columns, statistic
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
    """Synapses and the neurons behind them are one layer, in the order of its synapses."""
    neurons_of = {layer: name for name, layer in layer_names(graph).items()}
    means = _means(activity)
    for name in graph.nodes:
        firing = neurons_of.get(name, "")
        synapses = {name: activity.synapses[name]} if name in activity.synapses else {}
        neurons = {firing: activity.neurons[firing]} if firing in activity.neurons else {}
        if not synapses and firing != name:  # no layer begins here
            continue
        kind = " + ".join(type(graph.nodes[part]).__name__ for part in (*synapses, *neurons))
        layer = LayerReport(name, kind, _counts(activity, words, neurons, synapses))
        if synapses:
            layer = _with_synapses(layer, synapses[name], size.layers[name], means[name])
        if neurons:
            layer = _with_neurons(layer, neurons[firing], differing.get(firing), means[firing])
        yield layer


def _means(activity: Activity) -> dict[str, Statistic]:
    """Spikes of neurons and operations of synapses, node by node; all share the bootstrap's draws, which take the time."""
    counts = {name: neurons.spikes for name, neurons in activity.neurons.items()}
    counts |= {name: synapses.operations for name, synapses in activity.synapses.items()}
    if not counts:
        return {}
    per_sample = np.stack([values.sum(axis=1) for values in counts.values()], axis=1)
    return dict(zip(counts, columns(per_sample), strict=True))


def _with_neurons(
    layer: LayerReport, activity: NeuronActivity, differing: float | None, spikes: Statistic
) -> LayerReport:
    return replace(
        layer,
        neurons=activity.neurons,
        spikes=spikes.mean,
        spikes_low=spikes.low,
        spikes_high=spikes.high,
        rate=activity.rate,
        differing=differing,
    )


def _with_synapses(
    layer: LayerReport, activity: SynapseActivity, size: LayerSize, operations: Statistic
) -> LayerReport:
    return replace(
        layer,
        role=activity.role,
        macs=activity.macs,
        connections=activity.connections,
        events=_mean(activity.events),
        operations=operations.mean,
        operations_low=operations.low,
        operations_high=operations.high,
        operations_nonzero=_mean(activity.operations_nonzero),
        rate_macs=_mean(activity.rate_macs),
        parameters=size.parameters,
        weight_bits=size.weight_bits,
    )


def _counts(
    activity: Activity,
    words: WordSizes,
    neurons: Mapping[str, NeuronActivity],
    synapses: Mapping[str, SynapseActivity],
) -> Counts:
    """These are the counts of a network of which only these neurons and synapses do anything."""
    part = Activity(activity.T, activity.samples, neurons, synapses)
    return with_movement(snn_counts(part), snn_movement(part, words))


def _by_step(values: np.ndarray[Any, Any]) -> tuple[float, ...]:
    return tuple(values.mean(axis=0).tolist())


def _mean(values: np.ndarray[Any, Any]) -> float:
    return float(values.sum(axis=1).mean())
