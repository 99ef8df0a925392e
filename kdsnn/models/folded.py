"""A spiking network node by node as a chip holds it: BatchNorm folded away, every set of synapses by itself.

It is built from a `SpikingGraph`, which `exporters.from_torch` makes of a trained student and `kdsnn.models.layer_list` of
the layers that a quantized checkpoint lists. It runs as any `Network` does, has the names of the graph's nodes, and can
be distilled, exported and lowered like one. An identity shortcut is a depthwise 1×1 convolution here; where several
BatchNorms read one sum, each has synapses of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, assert_never

import numpy as np
import torch
from spikingjelly.activation_based import layer
from spikingjelly.activation_based.functional import reset_net
from torch import Tensor, nn
from torch.func import functional_call

from exporters.graph import (
    IF,
    LIF,
    AvgPool2d,
    Conv2d,
    Delay,
    Flatten,
    Input,
    Linear,
    MaxPool2d,
    Node,
    Output,
    SpikingGraph,
)
from kdsnn.errors import KdsnnError
from kdsnn.models.kit import Kit
from kdsnn.models.layer_list import graph_of, layer_list
from kdsnn.models.network import StagedNetwork, Tap

Weights = Mapping[str, Mapping[str, Tensor]]
"""Synapse layer → its parameters ("weight", "bias")."""


class FoldedNetwork(StagedNetwork):
    """A folded network runs the nodes of a graph: (T, N, C, H, W) → (T, N, classes), see `Network`.

    Attributes:
        nodes: what it was made of, in order of execution. Of synapses only the shapes count here: what they weigh are
            the parameters.
        sources: node → the nodes whose outputs add up to its input.

    Raises:
        KdsnnError: neurons whose current persists; delays; a read-out that is no plain sum.
        ValueError: two nodes whose names leave no room for both, such as "a" and "a.b" in this order.
    """

    def __init__(self, graph: SpikingGraph, taps: tuple[Tap, ...] = ()) -> None:
        super().__init__()
        if not graph.output.sums:
            raise KdsnnError(
                f"{graph.output_name}: fine-tuning knows membranes only that sum their currents, and this one leaks or is read "
                "at every step; quantize the student as it is"
            )
        root = nn.Module()
        for name, node in graph.nodes.items():
            if not isinstance(node, Input | Output):
                _place(root, name, _module_of(name, node))
        children = dict(root.named_children())
        # an optimizer numbers parameters in this order, in which the student's own networks register theirs
        for name in sorted(children, key=lambda name: (name != "stem", name != "body")):
            self.add_module(name, children[name])
        self.nodes = {name: _without_weights(node) for name, node in graph.nodes.items()}
        self.sources = {name: graph.sources(name) for name in graph.nodes}
        self.taps = taps
        self.spiking = True

    def description(self) -> tuple[dict[str, Any], ...]:
        """List the layers as JSON can hold them, without their weights; `described` is the way back."""
        return layer_list(SpikingGraph(self.nodes, self._edges(), T=1))

    def forward(self, x: Tensor) -> Tensor:
        """Run on a sequence of T images."""
        return self._run(x, None, {})

    def forward_static(self, x: Tensor, T: int) -> Tensor:
        """Run on images that stay the same for T steps: (N, C, H, W) → (T, N, classes); up to the first neurons
        once."""
        return self._run(x.unsqueeze(0), T, {})

    def _run(self, x: Tensor, T: int | None, weights: Weights) -> Tensor:
        """`weights` stand in for the layers' own. `T`: what is one step long is repeated before neurons and the
        output."""
        values: dict[str, Tensor] = {}
        for name, node in self.nodes.items():
            if isinstance(node, Input):
                values[name] = x
                continue
            arriving = values[self.sources[name][0]]
            for source in self.sources[name][1:]:
                arriving = arriving + values[source]
            if T is not None and isinstance(node, IF | LIF | Output):
                arriving = arriving.expand(T, *arriving.shape[1:])
            if isinstance(node, Output):
                return arriving
            module = self.get_submodule(name)
            if name in weights:
                values[name] = functional_call(module, dict(weights[name]), (arriving,))
            else:
                values[name] = module(arriving)
        raise AssertionError("a graph has an output")

    def _edges(self) -> tuple[tuple[str, str], ...]:
        return tuple((source, name) for name, sources in self.sources.items() for source in sources)


def described(
    layers: Sequence[Mapping[str, Any]], taps: tuple[Tap, ...], input_shape: tuple[int, int, int], classes: int
) -> FoldedNetwork:
    """Build the network that a checkpoint lists, its weights still 0; `layers` are as in `kdsnn.models.layer_list`.

    Raises:
        UserError, ValueError, TypeError, KeyError, RuntimeError: they make no network for such images and classes.
    """
    graph = graph_of(layers, input_shape, T=1)
    network = FoldedNetwork(graph, taps)
    with torch.no_grad():  # tried once, because arguments that a graph takes can still be of a type that torch does not
        network.eval().forward_static(torch.zeros(1, *input_shape, dtype=torch.float32), 1)
    reset_net(network)
    if graph.shapes[graph.output_name] != (classes,):
        raise ValueError(f"its layers end in {graph.shapes[graph.output_name]}, not in {classes} classes")
    return network


class MapBiasConv2d(layer.Conv2d):  # type: ignore[misc]
    """The bias of this convolution is a whole map (C, H, W) of its output."""

    def __init__(self, *args: Any, bias_shape: tuple[int, ...], **rest: Any) -> None:
        super().__init__(*args, bias=False, **rest)
        self.bias = nn.Parameter(torch.zeros(bias_shape))

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        current: Tensor = super()._conv_forward(input, weight, None)
        return current if bias is None else current + bias


def _without_weights(node: Node) -> Node:
    """Replace the node's arrays by some that keep the shapes and take no memory."""
    if not isinstance(node, Conv2d | Linear):
        return node
    shape = None if node.bias is None else node.bias.shape
    nothing = np.int8(0)
    bias = None if shape is None else np.broadcast_to(nothing, shape)
    return replace(node, weight=np.broadcast_to(nothing, node.weight.shape), bias=bias)


def _place(root: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module at a dotted path, with plain containers on the way."""
    *containers, last = path.split(".")
    for name in containers:
        if name not in dict(root.named_children()):
            root.add_module(name, nn.Module())
        root = root.get_submodule(name)
    if last in dict(root.named_children()):
        raise ValueError(f"layer {path} does not follow from those before it: others lie within it")
    root.add_module(last, module)


def _module_of(name: str, node: Node) -> nn.Module:
    """Make the SpikingJelly layer that computes what a node does, in multi-step mode."""
    match node:
        case Conv2d():
            return _conv(node)
        case Linear(weight=weight, bias=bias):
            return _filled(layer.Linear(weight.shape[1], weight.shape[0], bias is not None, step_mode="m"), node)
        case MaxPool2d(kernel=kernel, stride=stride, padding=padding):
            return _module(layer.MaxPool2d(kernel, stride, padding, step_mode="m"))
        case AvgPool2d(kernel=kernel, stride=stride, padding=padding, divisor=divisor):
            return _module(layer.AvgPool2d(kernel, stride, padding, divisor_override=divisor, step_mode="m"))
        case Flatten():
            return _module(layer.Flatten(step_mode="m"))
        case IF() | LIF():
            return _neurons(name, node)
        case Delay():
            raise KdsnnError(f"{name}: fine-tuning on a grid knows no delays; quantize the student as it is")
        case Input() | Output():
            raise ValueError(f"{name}: no layer stands for where a network begins or ends")
        case _:
            assert_never(node)


def _conv(node: Conv2d) -> nn.Module:
    outputs, inputs, *kernel = node.weight.shape
    shape = (inputs * node.groups, outputs, tuple(kernel), node.stride, node.padding, node.dilation, node.groups)
    if node.bias is not None and node.bias.ndim > 1:
        return _filled(MapBiasConv2d(*shape, bias_shape=node.bias.shape, step_mode="m"), node)
    return _filled(layer.Conv2d(*shape, node.bias is not None, step_mode="m"), node)


def _neurons(name: str, node: IF | LIF) -> nn.Module:
    if isinstance(node, LIF) and node.current_leak:
        raise KdsnnError(f"{name}: its current persists; fine-tuning knows no such neurons")
    made: Any = Kit(True, neuron="lif" if isinstance(node, LIF) else "if", reset=node.reset).act()
    made.v_threshold = float(node.threshold)
    if node.start:
        made.set_reset_value("v", float(node.start))
        made.v = float(node.start)
    if isinstance(node, LIF):
        made.tau = 1 / (1 - node.leak)
    return _module(made)


def _filled(module: Any, node: Conv2d | Linear) -> nn.Module:
    """Give the module the node's weights."""
    with torch.no_grad():
        # copied, because torch warns of arrays that cannot be written to, as a graph's are
        module.weight.copy_(torch.from_numpy(np.array(node.weight)))
        if node.bias is not None:
            module.bias.copy_(torch.from_numpy(np.array(node.bias)))
    return _module(module)


def _module(made: nn.Module) -> nn.Module:
    """SpikingJelly has no types: this is where its layers get one."""
    return made
