"""Lowering step 1: any torch network of spiking neurons → `SpikingGraph`, by running its own forward on symbolic values.

The network is not read but run: its forward gets a tensor of real shape and type without numbers, and whatever Python does
with shapes, loops, hooks or overridden methods works. What arrives at the operations of torch's ATen library is what the
network computes; the modules beside this one say what each operation does to symbolic values:

* `values`: every element is a sum of elements of the graph's nodes, each of one neuron, sample and time step, times factors,
  plus a constant. What only moves elements torch does to their numbers.
* `synapses`, `pools`: layers decode which node, step and sample each row of their input is of, and take selections, factors
  and shifts into their weights. BatchNorm, scaling and sums are linear (Jacob et al. 2018, section 3.2, for BatchNorm).
* `neurons`: SpikingJelly's, known by identity; `dynamics`: neurons that the network writes out, understood from their
  arithmetic.
* `steps`, `delays`: what neurons read of earlier steps, which becomes delays (recurrence too) or a current that leaks.
* `calling`, `readout`: how the network wants to be called, and what comes back.

Nothing is approximated. What a graph does not express is refused by module, and by file and line of the user's code.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any

from torch import nn

from exporters.from_torch.calling import Calling, LoweredModule, Task, run
from exporters.from_torch.declared import parsed
from exporters.from_torch.readout import Chosen
from exporters.from_torch.refusals import LoweringError, node_name
from exporters.graph import Encoding, Shape, SpikingGraph

__all__ = ["Calling", "LoweredModule", "LoweringError", "from_torch", "lower_module", "node_name"]


def from_torch(
    module: nn.Module,
    input_shape: Shape,
    T: int,
    *,
    encoding: Encoding = "direct",
    output: Chosen = None,
    neuron_as: Mapping[str, str] | None = None,
    **metadata: Any,
) -> SpikingGraph:
    """Lower a spiking torch network to a float `SpikingGraph` with float64 weights.

    BatchNorm (running statistics) is folded, Dropout and Identity vanish, residual sums become edges, max and average
    pools stay. The network may take frames (T, N, …) or (N, T, …), or an image (N, …), once with its own loop over time or
    once a step. The module is not changed.

    Args:
        module: the network. It returns spikes of neurons (firing-rate read-out) or currents of a layer (membrane
            read-out), per time step, or their mean or sum over time.
        input_shape: (C, H, W), (C, L) or (F,), without batch and time.
        T: number of time steps.
        encoding: "direct" (the analog sample at every step), "frames" (T analog frames) or "spikes" (T frames of 0 and 1).
        output: which of several outputs: an index, a key, or a path of them ("logits", "0.spikes").
        neuron_as: class name → "LIF:tau=2,v_threshold=1": what a neuron class is whose arithmetic is not understood; it is
            checked on random currents.
        metadata: JSON-able facts kept in the graph. "shared" (lists of nodes with the same weights) and "recognized"
            (neurons that had to be understood) are added where there are any.

    Raises:
        LoweringError: an unsupported module or operation, named, with the nearest supported form and the line.
        GraphError: the network does not fit the input shape, or holds NaN or infinite weights.
    """
    return lower_module(module, input_shape, T, encoding=encoding, output=output, neuron_as=neuron_as, **metadata).graph


def lower_module(
    module: nn.Module,
    input_shape: Shape,
    T: int,
    *,
    encoding: Encoding = "direct",
    output: Chosen = None,
    neuron_as: Mapping[str, str] | None = None,
    **metadata: Any,
) -> LoweredModule:
    """As `from_torch`, with how to call the module, so that it can be run beside the graph."""
    if encoding not in typing.get_args(Encoding):
        raise LoweringError(f'the encoding is {encoding!r}; it must be "direct", "frames" or "spikes"')
    if isinstance(T, bool) or not isinstance(T, int) or T < 1:
        raise LoweringError(f"T is {T!r}; the number of time steps must be a whole number of at least 1")
    shape = tuple(int(d) for d in input_shape)
    if len(shape) not in (1, 2, 3) or min(shape) < 1:
        raise LoweringError(f"the input shape {shape} must be (C, H, W), (C, L) or (F,), all positive")
    return run(Task(module, shape, T, encoding, output, parsed(neuron_as or {}), metadata))
