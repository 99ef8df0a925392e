"""Energy models multiply these counts: mean operations per sample of a spiking run, and of the ANNs beside it.

Names are those of `count_names.COUNTS`. Memory accesses carry the size of the memory they go to. What is read,
written and addressed follows Lemaire et al. 2022 (arXiv 2210.13107, equations 1 to 16): an ANN reads one input and
one weight per multiply-accumulate from memory, nothing is reused; a spike is read from a queue, and reads one
weight and updates one membrane per synapse.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from exporters.errors import DeployError
from profilers.counting.activity import Activity, NeuronActivity, SynapseActivity
from profilers.counting.sizes import LayerShape
from profilers.energy.count_names import SIZED
from profilers.energy.models import Range

Kind = Literal["ann", "snn"]


@dataclass(frozen=True)
class Access:
    """One memory of `words` words is accessed so often."""

    words: int
    count: Range


@dataclass(frozen=True)
class Counts:
    """Counts are mean operations per sample, by the names of `count_names.COUNTS`.

    spikes_per_synapse: SynOps per dense MAC of the spike-fed layers, see `Activity.spikes_per_synapse`.
    accesses: those of `count_names.SIZED`, memory by memory.
    """

    kind: Kind
    values: Mapping[str, Range]
    spikes_per_synapse: float | None = None
    accesses: Mapping[str, tuple[Access, ...]] = field(default_factory=dict)


_Entry = tuple[str, Range, int]  # name, count, words of the memory (0 where the name has none)

_DENSE = ("macs", "neuron_updates", "bias_adds", "address_adds")
_DENSE_MEMORY = ("input_reads", "output_writes", "weight_reads", "bias_reads")
_SPIKING = (
    *("macs", "stepped_macs", "synops", "synops_conv", "synops_linear", "synops_lemaire", "rate_macs"),
    *("graded_ops", "graded_conv", "graded_linear"),
    *("spikes", "neuron_updates", "active_updates", "inactive_updates", "leak_macs", "bias_adds"),
    *("address_adds", "spike_address_adds", "spike_address_macs", "spike_reads", "spike_writes"),
)


def ann_counts(macs: int) -> Counts:
    """A dense ANN may be known by its multiply-accumulates (`flops.ModuleCounts.macs`) and nothing else."""
    return Counts("ann", {"macs": Range.exactly(macs)})


def dense_ann(shapes: Iterable[LayerShape]) -> Counts:
    """A dense ANN of these weighted layers does every multiply-accumulate.

    For the ANN of a student's own shape pass `[s.shape for s in activity.synapses.values()]`.
    """
    return _collect("ann", (entry for shape in shapes for entry in _ann_layer(shape, float(shape.macs))))


def zero_skipping_ann(shapes: Mapping[str, LayerShape], active: Mapping[str, float]) -> Counts:
    """Hardware that skips zero activations does fewer of an ANN's multiplications.

    Inputs are read all the same (how else to know that they are zero), weights only where needed.

    Args:
        shapes: weighted layers by name (`zero_skipping.ActiveMacs.shapes`).
        active: multiply-accumulates per sample whose activation is not zero, by layer.

    Raises:
        DeployError: the two name different layers.
    """
    if shapes.keys() != active.keys():
        raise DeployError(f"layers {sorted(shapes)} and counts of {sorted(active)}: both must name the same layers")
    return _collect("ann", (entry for name, shape in shapes.items() for entry in _ann_layer(shape, active[name])))


def quantized_twin(activity: Activity) -> Counts:
    """The twin is the same network as an ANN, its ReLUs quantized to ⌈log2(T + 1)⌉ bits, one pass, bit by bit.

    T spikes carry T + 1 levels, and so do that many bits (Yan, Bai & Wong 2024, arXiv 2409.08290). A bit-serial
    multiply-accumulate is one accumulate per bit; the analog input is multiplied as in the SNN, once. Dense, twin
    and SNN that always spikes differ by T / ⌈log2(T + 1)⌉. Low: zero activations skipped, as many as could be:
    the same paper bounds the share of non-zero activations from below by the SNN's firing rate.
    """
    bits = twin_bits(activity.T)
    dense = float(bits * activity.spike_fed_macs)
    fewest = bits * float(activity.rate_macs.sum(axis=1).mean()) / activity.T
    once = sum(s.macs for s in activity.synapses.values() if s.role != "spikes")
    return Counts("snn", {"macs": Range.exactly(once), "synops": Range(min(fewest, dense), dense, dense)})


def twin_bits(T: int) -> int:
    """An activation with as many levels as T spikes have takes ⌈log2(T + 1)⌉ bits."""
    return T.bit_length()


def snn_counts(activity: Activity) -> Counts:
    """A spiking run does this much per sample, on the mean.

    SynOps are those over all synapses. Multiply-accumulates of the analog input, and what goes with them, range
    from once per sample (a chip that reuses them) to every step; the latter, what the deployed network does, is
    nominal. Placement decides about hops, messages and chips: see `placed`.
    """
    T = activity.T
    synapses = (entry for layer in activity.synapses.values() for entry in _synapses(layer, T))
    neurons = (entry for layer in activity.neurons.values() for entry in _neurons(layer, T))
    return _collect("snn", (*synapses, *neurons), activity.spikes_per_synapse)


def placed(
    counts: Counts,
    *,
    hops_ew: Range | float | None = None,
    hops_ns: Range | float | None = None,
    messages: Range | float | None = None,
    chips: Range | float | None = None,
    seconds: Range | float | None = None,
    extra_updates: float = 0.0,
) -> Counts:
    """A placement or a stopwatch adds what only it knows; what stays None is named in `EnergyEstimate.left_out`.

    Args:
        counts: of an SNN.
        hops_ew, hops_ns: hops between tiles per sample, by direction.
        messages: one per spike and core that it is sent to, per sample.
        chips, seconds: how many chips are on, for how long per sample. Both or neither.
        extra_updates: silent updates per sample of compartments beyond one per neuron.

    Raises:
        DeployError: chips without seconds, or the other way round.
    """
    if (chips is None) != (seconds is None):
        raise DeployError("static energy needs both the number of chips and the seconds per sample; give both")
    found = {"hops_ew": hops_ew, "hops_ns": hops_ns, "messages": messages}
    values = {name: _range(value) for name, value in found.items() if value is not None}
    if chips is not None and seconds is not None:
        values["chip_seconds"] = _range(chips) * _range(seconds)
    if extra_updates:
        for name in ("neuron_updates", "inactive_updates"):
            values[name] = counts.values[name] + Range.exactly(extra_updates)
    return replace(counts, values={**counts.values, **values})


# -- inside ------------------------------------------------------------------------------------------


def _range(value: Range | float) -> Range:
    return value if isinstance(value, Range) else Range.exactly(value)


def _mean(values: np.ndarray[Any, Any]) -> Range:
    return Range.exactly(values.sum(axis=1).mean())


def _collect(kind: Kind, entries: Iterable[_Entry], spikes_per_synapse: float | None = None) -> Counts:
    values = dict.fromkeys(_SPIKING if kind == "snn" else _DENSE, Range.exactly(0))
    accesses: dict[str, list[Access]] = {name: [] for name in (SIZED if kind == "snn" else _DENSE_MEMORY)}
    for name, count, words in entries:
        if name in SIZED:
            accesses[name].append(Access(words, count))
        else:
            values[name] += count
    return Counts(kind, values, spikes_per_synapse, {name: tuple(found) for name, found in sorted(accesses.items())})


def _ann_layer(shape: LayerShape, macs: float) -> Iterator[_Entry]:
    yield from _dense(shape, Range.exactly(1), macs)
    yield "neuron_updates", Range.exactly(shape.outputs), 0
    yield "output_writes", Range.exactly(shape.outputs), shape.outputs


def _dense(shape: LayerShape, passes: Range, macs: float) -> Iterator[_Entry]:
    """A layer that multiplies counts as in Lemaire's table, column FNN; `macs` are those of one pass that are done."""
    yield "macs", passes * macs, 0
    yield "weight_reads", passes * macs, shape.weights
    yield "input_reads", passes * (shape.macs if shape.convolution else shape.inputs), shape.inputs
    if shape.convolution:
        yield "address_adds", passes * (shape.inputs + shape.outputs + shape.kernel_words), 0
    else:  # inputs + outputs in SpikingJelly's reading of the paper, their product in that of the authors' lab
        ends, product = float(shape.inputs + shape.outputs), float(shape.inputs * shape.outputs)
        yield "address_adds", passes * Range(min(ends, product), product, max(ends, product)), 0
    if shape.biases:
        yield "bias_adds", passes * shape.outputs, 0
        yield "bias_reads", passes * shape.outputs, shape.biases


def _synapses(layer: SynapseActivity, T: int) -> Iterator[_Entry]:
    shape, kind = layer.shape, "conv" if layer.shape.convolution else "linear"
    yield "stepped_macs", Range.exactly(T * shape.macs), 0
    if layer.role != "spikes":
        passes = Range(1, T, T) if layer.role == "static" else Range.exactly(T)
        yield from _dense(shape, passes, float(shape.macs))
        yield "graded_ops", _mean(layer.operations), 0
        yield f"graded_{kind}", _mean(layer.operations), 0
        return
    events, read = _mean(layer.events), _mean(layer.weight_reads)
    yield "synops", _mean(layer.operations), 0
    yield f"synops_{kind}", _mean(layer.operations), 0
    yield "synops_lemaire", _mean(layer.operations_lemaire), 0
    yield "rate_macs", _mean(layer.rate_macs), 0
    yield "spike_reads", events, 0
    yield "spike_weight_reads", read, shape.weights
    yield "spike_membrane_accesses", read, shape.outputs
    yield "spike_address_adds", read, 0
    if shape.convolution:
        yield "spike_address_macs", events * 2, 0
    if shape.biases:
        yield "bias_adds", Range.exactly(T * shape.outputs), 0
        yield "bias_reads", Range.exactly(T * shape.outputs), shape.biases


def _neurons(layer: NeuronActivity, T: int) -> Iterator[_Entry]:
    spikes, updates = _mean(layer.spikes), Range.exactly(T * layer.neurons)
    yield "spikes", spikes, 0
    yield "spike_writes", spikes, 0
    yield "neuron_updates", updates, 0
    yield "active_updates", spikes, 0
    yield "inactive_updates", Range.exactly(updates.nominal - spikes.nominal), 0
    yield "membrane_accesses", updates, layer.neurons
    if layer.leaky:
        yield "leak_macs", updates, 0
