"""An energy model may count these operations, and calls them by these names."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

COUNTS: Mapping[str, str] = MappingProxyType(
    {
        "macs": "dense multiply-accumulates of an ANN, or of an SNN's layers that spikes do not feed",
        "stepped_macs": "dense multiply-accumulates of all layers, at every time step",
        "synops": "synaptic operations: spikes × synapses reached",
        "synops_conv": "synaptic operations in convolutions",
        "synops_linear": "synaptic operations in linear layers",
        "synops_lemaire": "synaptic operations as Lemaire et al. count them: a fixed fan-out, stride rounded up",
        "rate_macs": "firing rate of a layer's input × its dense multiply-accumulates",
        "graded_ops": "non-zero real-valued inputs × synapses reached, at every time step",
        "graded_conv": "the same in convolutions",
        "graded_linear": "the same in linear layers",
        "spikes": "spikes of neurons",
        "neuron_updates": "membrane updates: every neuron at every step; of an ANN, outputs of weighted layers",
        "active_updates": "membrane updates in which the neuron spikes",
        "inactive_updates": "all other membrane updates",
        "leak_macs": "membrane updates of leaky neurons, one multiplication each",
        "bias_adds": "biases added",
        "address_adds": "additions to find addresses in layers that spikes do not feed",
        "spike_address_adds": "additions to find addresses for spikes",
        "spike_address_macs": "multiply-accumulates to find addresses for spikes",
        "spike_reads": "spikes read from the queue of a layer's input",
        "spike_writes": "spikes written to the queue of a layer's output",
        "input_reads": "reads of real-valued inputs of a layer",
        "output_writes": "writes of real-valued outputs of a layer",
        "weight_reads": "reads of weights in layers that spikes do not feed",
        "spike_weight_reads": "reads of weights for spikes",
        "bias_reads": "reads of biases",
        "membrane_accesses": "membranes read and written back, once per neuron and step",
        "spike_membrane_accesses": "membranes read and written back, once per spike and synapse",
        "bit_macs": "multiply-accumulates × bits of their input: accumulates where one bit is multiplied at a time",
        "weight_bits": "bits of weights read: one weight per multiply-accumulate",
        "spike_weight_bits": "bits of weights read: one weight per synaptic operation",
        "activation_bits": "bits of real-valued inputs moved to each of their multiply-accumulates, zeros too",
        "membrane_bits": "bits of membranes read and written back, once per neuron and step",
        "result_bits": "bits of real-valued outputs written",
        "hops_ew": "east-west hops between tiles, from a placement",
        "hops_ns": "north-south hops between tiles, from a placement",
        "messages": "messages between cores: one per spike and core that it is sent to, from a placement",
        "chip_seconds": "chips × seconds per sample: chips from a placement, seconds as given by the user",
    }
)

SIZED = frozenset(
    {
        "input_reads",
        "output_writes",
        "weight_reads",
        "spike_weight_reads",
        "bias_reads",
        "membrane_accesses",
        "spike_membrane_accesses",
    }
)
"""Counts whose every access is known with the size of the memory it goes to."""

PER_SPIKE = frozenset(
    {
        "synops",
        "synops_conv",
        "synops_linear",
        "synops_lemaire",
        "rate_macs",
        "spikes",
        "spike_address_adds",
        "spike_address_macs",
        "spike_reads",
        "spike_writes",
        "spike_weight_reads",
        "spike_membrane_accesses",
        "spike_weight_bits",
        "hops_ew",
        "hops_ns",
        "messages",
    }
)
"""Counts that are zero if no neuron spikes."""

FROM_PLACEMENT = frozenset({"hops_ew", "hops_ns", "messages", "chip_seconds"})
"""Counts that only a placement on a chip gives; chip_seconds takes the seconds per sample besides."""

OF_WEIGHT_BITS = frozenset({"weight_bits", "spike_weight_bits"})
"""Counts of which a network with weights of fewer bits has fewer, spike for spike."""
