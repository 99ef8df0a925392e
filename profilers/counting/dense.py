"""Sizes and dense operation counts: of a torch module (the ANN teacher) and of a `SpikingGraph`."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import thop
import torch
from thop.profile import register_hooks
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from exporters.errors import DeployError
from exporters.graph import Array, Shape, SpikingGraph
from profilers.counting.sizes import layer_shape

MEMBRANE_BITS = 24
"""Membrane word of an integer neuron: Loihi keeps 23 bits and a sign (Davies et al. 2018, IEEE Micro 38(1))."""


@dataclass(frozen=True)
class ModuleCounts:
    """One sample through a torch module.

    Attributes:
        thop: what `thop.profile` returns. It is called FLOPs in papers (KDSNN's among them) but counts
            multiply-accumulates of convolutions and linear layers + 4 per element of an affine BatchNorm,
            plus pooling and softmax *modules*; ReLU is free.
        macs: multiply-accumulates of convolutions and matrix products, nothing else, padding included.
        parameters: all parameters.
        parameters_without_batchnorm: without BatchNorm's scales and shifts, which folding removes.
    """

    thop: int
    macs: int
    parameters: int
    parameters_without_batchnorm: int


def count_module(module: nn.Module, input_shape: Shape) -> ModuleCounts:
    """Count one sample of `input_shape` (without batch) through `module`, in evaluation mode, on the CPU.

    Works on a deep copy: thop leaves hooks and buffers behind. Layers that subclass torch's own
    (SpikingJelly's do, and thop would take them for zero) count as the layer they extend.

    Raises:
        DeployError: the module cannot run on such a sample.
    """
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    parameters = sum(p.numel() for p in module.parameters())
    normalizing = sum(p.numel() for p in {p for m in norms for p in m.parameters()})
    try:
        replica = copy.deepcopy(module).cpu().float().eval()
        part: Any
        for part in replica.modules():
            if getattr(part, "step_mode", "s") == "m":  # SpikingJelly's (T, N, …) layers hide the channels from thop
                part.step_mode = "s"
        sample = torch.zeros(1, *input_shape)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            replica(sample)
        operations, _ = thop.profile(replica, (sample,), custom_ops=_inherited_hooks(replica), verbose=False)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DeployError(
            f"{type(module).__name__} does not run on a sample of shape {input_shape}: {reason}"
        ) from error
    # the counter calls a multiply-accumulate two operations
    return ModuleCounts(int(operations), counter.get_total_flops() // 2, parameters, parameters - normalizing)


def _inherited_hooks(module: nn.Module) -> dict[type, Any]:
    leaves = {type(m) for m in module.modules() if not list(m.children())}
    unknown = [kind for kind in leaves if kind not in register_hooks]
    found = {kind: next((register_hooks[b] for b in kind.__mro__ if b in register_hooks), None) for kind in unknown}
    return {kind: hook for kind, hook in found.items() if hook is not None}


@dataclass(frozen=True)
class LayerSize:
    """One weighted layer. `macs`: dense, of one pass. `bits_per_weight`: see `graph_size`."""

    weights: int
    biases: int
    macs: int
    bits_per_weight: int

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return self.weights + self.biases

    @property
    def weight_bits(self) -> int:
        """Memory of the weights, each stored once, in bits."""
        return self.weights * self.bits_per_weight


@dataclass(frozen=True)
class GraphSize:
    """A `SpikingGraph` at rest. `layers`: weighted layers in topological order. `state_bits`: all membranes."""

    layers: Mapping[str, LayerSize]
    neurons: int
    state_bits: int

    @property
    def parameters(self) -> int:
        """Weights and biases, BatchNorm folded in."""
        return sum(layer.parameters for layer in self.layers.values())

    @property
    def weight_bits(self) -> int:
        """Memory of the weights in bits."""
        return sum(layer.weight_bits for layer in self.layers.values())

    @property
    def macs(self) -> int:
        """Dense multiply-accumulates of one pass through all layers."""
        return sum(layer.macs for layer in self.layers.values())


def graph_size(graph: SpikingGraph) -> GraphSize:
    """Parameters, memory and dense MACs.

    A float graph stores weights as they are (32 bits for float32) and 32-bit membranes. An integer graph stores
    each layer's weights in the narrowest two's complement word that holds them all, and 24-bit membranes.
    """
    layers = {}
    for name, node in graph.synapses.items():
        biases = 0 if node.bias is None else node.bias.size
        layers[name] = LayerSize(node.weight.size, biases, layer_shape(graph, name).macs, _bits(node.weight))
    neurons = sum(math.prod(graph.shapes[name]) for name in graph.neurons)
    membrane = MEMBRANE_BITS if graph.is_integer else 32
    return GraphSize(MappingProxyType(layers), neurons, neurons * membrane)


def _bits(weight: Array) -> int:
    if not np.issubdtype(weight.dtype, np.integer):
        return int(weight.dtype.itemsize) * 8
    low, high = int(weight.min()), int(weight.max())
    return 1 + max((~low if low < 0 else low).bit_length(), (high if high >= 0 else ~high).bit_length())
