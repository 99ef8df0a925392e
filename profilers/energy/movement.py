"""What is moved while networks run, in bits, and their bit budgets.

One dataflow is counted, the same for all networks: layer by layer, output stationary. A sum stays where it is added up until it
is complete; nothing else is kept, so that every multiply-accumulate and every synaptic operation reads its weight.
Activations of an ANN are moved to each of their multiply-accumulates, zeros too, as a bus without addresses does; a spike is moved
to each synapse that it reaches, one bit. A membrane is read and written back once per neuron and step, and an output is written
once. Yan et al. (arXiv 2409.08290) count so per neuron; hardware that keeps weights or broadcasts activations moves less, of
an ANN more so than of an SNN.

The bit budget of a network (Shen et al., CVPR 2024) is operations × bits of a weight × bits of an activation × time steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from profilers.counting.activity import Activity, SynapseActivity
from profilers.counting.sizes import LayerShape
from profilers.energy.models import Range
from profilers.energy.operations import Counts


@dataclass(frozen=True)
class WordSizes:
    """Words have so many bits: weights by layer, real-valued inputs (pixels), membranes."""

    weights: Mapping[str, int]
    inputs: int
    membranes: int


@dataclass(frozen=True)
class AnnLayer:
    """A weighted layer of an ANN passes once. `done`: multiply-accumulates per sample that are not skipped."""

    shape: LayerShape
    done: float
    weight_bits: int
    input_bits: int
    output_bits: int


@dataclass(frozen=True)
class BitBudget:
    """A sample takes so many operations × bits: `dense` all of them at every step, `done` those that are not skipped."""

    dense: float
    done: float


def with_movement(counts: Counts, moved: Mapping[str, Range]) -> Counts:
    """Counts with what is moved besides."""
    return replace(counts, values={**counts.values, **moved})


def ann_movement(layers: Iterable[AnnLayer]) -> dict[str, Range]:
    """An ANN moves so many bits per sample, by the names of `count_names.COUNTS`; and does so many `bit_macs`."""
    found = dict.fromkeys(("bit_macs", "weight_bits", "activation_bits", "result_bits"), 0.0)
    for layer in layers:
        found["bit_macs"] += layer.done * layer.input_bits
        found["weight_bits"] += layer.done * layer.weight_bits
        found["activation_bits"] += layer.shape.macs * layer.input_bits
        found["result_bits"] += layer.shape.outputs * layer.output_bits
    return {name: Range.exactly(bits) for name, bits in found.items()}


def snn_movement(activity: Activity, words: WordSizes) -> dict[str, Range]:
    """A spiking run moves so many bits per sample.

    Layers that read the analog input range from one pass, whose result is kept, to one per step, as in
    `operations.snn_counts`. Spikes are moved once per synaptic operation (`synops`), and written once (`spike_writes`).
    """
    names = ("bit_macs", "weight_bits", "activation_bits", "spike_weight_bits")
    found = dict.fromkeys(names, Range.exactly(0))
    for name, layer in activity.synapses.items():
        weight_bits = words.weights[name]
        if layer.role == "spikes":
            found["spike_weight_bits"] += Range.exactly(_mean_operations(layer) * weight_bits)
            continue
        passes = Range(1, activity.T, activity.T) if layer.role == "static" else Range.exactly(activity.T)
        found["bit_macs"] += passes * layer.macs * words.inputs
        found["weight_bits"] += passes * layer.macs * weight_bits
        found["activation_bits"] += passes * layer.macs * words.inputs
    found["membrane_bits"] = Range.exactly(2 * activity.neuron_updates * words.membranes)
    return found


def ann_budget(layers: Iterable[AnnLayer]) -> BitBudget:
    """The bit budget of an ANN."""
    every = [(layer, layer.weight_bits * layer.input_bits) for layer in layers]
    return BitBudget(
        sum(layer.shape.macs * bits for layer, bits in every), sum(layer.done * bits for layer, bits in every)
    )


def snn_budget(activity: Activity, words: WordSizes) -> BitBudget:
    """The bit budget of a spiking run, whose activations have one bit; layers on the analog input multiply at every step."""
    dense = done = 0.0
    for name, layer in activity.synapses.items():
        bits = words.weights[name] * (1 if layer.role == "spikes" else words.inputs)
        dense += activity.T * layer.macs * bits
        done += bits * (_mean_operations(layer) if layer.role == "spikes" else activity.T * layer.macs)
    return BitBudget(dense, done)


def as_ann(activity: Activity, words: WordSizes, activation_bits: int) -> list[AnnLayer]:
    """The layers of an ANN of a student's shape: weights of the same bits, activations of `activation_bits`."""
    return [
        AnnLayer(
            layer.shape,
            float(layer.macs),
            words.weights[name],
            activation_bits if layer.role == "spikes" else words.inputs,
            activation_bits,
        )
        for name, layer in activity.synapses.items()
    ]


def _mean_operations(layer: SynapseActivity) -> float:
    return float(layer.operations.sum(axis=1).mean())
