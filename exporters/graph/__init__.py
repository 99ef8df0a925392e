"""`SpikingGraph`: the network between training and hardware.

A small, typed, immutable graph in discrete time. Every pass after training takes a
graph and returns a graph or a file; nothing downstream looks at a torch module again. Names and
meaning follow NIR (Pedersen et al. 2024, Nat. Commun. 15:8122) where NIR has the concept; several
edges into one node add, so a residual sum needs no node of its own.

Semantics, per time step `t` of `T` (before the first step of every sample all state is zero, but for
membranes with a `start`):

* `Input` emits the sample: encoding "direct" repeats the same analog frame at every step (direct
  coding), "frames" and "spikes" emit frame `t` of a `T`-step sequence, of graded values or of 0 and 1.
* `Conv2d`, `Linear`, the pools and `Flatten` are memoryless; a bias is added at *every* step.
* `Delay` gives out at step t what arrived at step t − steps, and 0 before. Where it closes a loop, the network is
  recurrent; a loop without one is refused.
* `IF`:  v ← v + x;  spike = (v ≥ threshold);  where it spikes, v ← 0 (hard reset) or
  v ← v − threshold (soft reset).  `LIF` first multiplies v by `leak`. In an integer graph
  spike = (v > threshold − 1), which differs only where Loihi's leak or saturation leaves v fractional.
* With a `current_leak` (slayer's CUBA neuron) synaptic current persists: u ← current_leak·u + Σ w·x, and v takes
  in u + b. The biases b do not pass through u: on Loihi they drive the membrane directly.
* `Output` reads spikes ("rate": mean over time is the score) or currents ("membrane": a neuron that
  never fires integrates them, v ← leak·v + x; its value after `t` steps divided by `t` is the score, or with
  score "mean" its mean over these steps).

Arrays are numpy in PyTorch's layout: kernels OIHW, shapes CHW, C-order flatten.
"""

from __future__ import annotations

from exporters.graph.editing import unique_name, window_positions
from exporters.graph.errors import GraphError
from exporters.graph.layer_names import layer_names
from exporters.graph.nodes import (
    IF,
    LIF,
    AnyNeuron,
    AnyPool,
    AnySynapse,
    Array,
    AvgPool2d,
    Conv2d,
    Delay,
    Encoding,
    Flatten,
    Input,
    Linear,
    MaxPool2d,
    Neuron,
    Node,
    Output,
    Pair,
    Pool,
    Shape,
    SignalKind,
    Synapse,
)
from exporters.graph.spiking_graph import SpikingGraph, chain

__all__ = [
    "IF",
    "LIF",
    "AnyNeuron",
    "AnyPool",
    "AnySynapse",
    "Array",
    "AvgPool2d",
    "Conv2d",
    "Delay",
    "Encoding",
    "Flatten",
    "GraphError",
    "Input",
    "Linear",
    "MaxPool2d",
    "Neuron",
    "Node",
    "Output",
    "Pair",
    "Pool",
    "Shape",
    "SignalKind",
    "SpikingGraph",
    "Synapse",
    "chain",
    "layer_names",
    "unique_name",
    "window_positions",
]
