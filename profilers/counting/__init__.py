"""This package counts spikes, synaptic operations, sizes and dense operations, by every convention in use."""
