"""Lowering step 1: a torch network made of SpikingJelly's layers → `SpikingGraph`.

The module is read, not run: every custom module's `forward` is traced with torch.fx, its children as
leaves, and interpreted over symbolic values. Two kinds of value suffice:

* a `Signal` is what spikes, analog input and pools carry: the sum of some graph nodes;
* a `Current` is what synapses carry: a sum of convolutions or linear layers, each with its own
  weights. BatchNorm, scaling and residual sums are linear, so they only change these weights
  (Jacob et al. 2018, section 3.2, for BatchNorm); a current that two BatchNorms read becomes two sets
  of synapses. Nothing is approximated.

A current turns into nodes when a neuron layer, a pool or the output consumes it.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from exporters.from_torch.modules import MODULES, known_kind, node_name, unsupported
from exporters.from_torch.values import (
    Current,
    LoweringError,
    Signal,
    Term,
    Value,
    fold_into_inputs,
    fold_repeats,
    synapse_shape,
)
from exporters.graph import (
    AnySynapse,
    Array,
    AvgPool2d,
    Conv2d,
    Flatten,
    Input,
    Linear,
    MaxPool2d,
    Node,
    Output,
    Shape,
    SpikingGraph,
    unique_name,
    window_positions,
)

_REPEATED = "{}: an adaptive pool that enlarges its input stands before it; only Flatten and Linear may follow"

__all__ = ["LoweringError", "from_torch", "node_name"]


def from_torch(
    module: nn.Module, input_shape: Shape, T: int, *, encoding: str = "direct", **metadata: Any
) -> SpikingGraph:
    """Lower a SpikingJelly network to a float `SpikingGraph` with float64 weights.

    BatchNorm (running statistics) is folded, Dropout and Identity vanish, residual sums become edges,
    max and average pools stay. Works for multi-step and single-step modules, `nn.Sequential` and
    free-form `forward`. The module is not changed.

    Args:
        module: the network. Its input is one sample's frames, its output the spikes of an IF/LIF layer
            (firing-rate read-out) or the currents of a synapse layer (membrane read-out), per time
            step or averaged over time.
        input_shape: (C, H, W) or (F,), without batch and time.
        T: number of time steps.
        encoding: "direct" (the analog sample at every step) or "spikes".
        metadata: JSON-able facts kept in the graph.

    Raises:
        LoweringError: an unsupported module or operation, named, with the nearest supported form.
        GraphError: the network does not fit the input shape, or holds NaN or infinite weights.
    """
    if encoding not in ("direct", "spikes"):
        raise LoweringError(f'the encoding is {encoding!r}; it must be "direct" or "spikes"')
    lowering = Lowering()
    lowering.nodes["input"] = Input(tuple(input_shape), "direct" if encoding == "direct" else "spikes")
    value = lowering.module(module, Signal(("input",), tuple(input_shape)), "")
    return lowering.finish(value, T, metadata)


class Lowering:
    """The state of one lowering: the graph so far, and which currents already stand in it."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.edges: list[tuple[str, str]] = []
        self.placed: dict[int, tuple[Current, tuple[str, ...]]] = {}
        self.stateful: set[int] = set()

    # -- building the graph --------------------------------------------------------------------

    def add(self, name: str, node: Node, sources: Sequence[str]) -> str:
        unique = unique_name(name, self.nodes)
        self.nodes[unique] = node
        self.edges += [(s, unique) for s in sources]
        return unique

    def place(self, value: Value, reader: str) -> tuple[str, ...]:
        """The nodes whose outputs add up to the value; a current's synapses are added on first use."""
        if isinstance(value, Signal):
            if value.repeated is not None:
                raise LoweringError(_REPEATED.format(reader))
            if value.scale is not None:
                raise LoweringError(
                    f"{reader}: a BatchNorm stands between spikes (or the input) and this layer; only a convolution "
                    "or linear layer may follow it, since the BatchNorm is folded into that layer's weights"
                )
            return value.nodes
        if id(value) not in self.placed:
            names = []
            for i, term in enumerate(value.terms):
                bias = value.bias if i == 0 and np.any(value.bias) else None
                names.append(self.add(term.name, replace(term.synapse, bias=bias), term.source.nodes))
            self.placed[id(value)] = (value, tuple(names))  # the value is kept so that its id stays its own
        return self.placed[id(value)][1]

    def finish(self, value: Value, T: int, metadata: dict[str, Any]) -> SpikingGraph:
        readout = Output("rate") if isinstance(value, Signal) else Output("membrane")
        self.add("output", readout, self.place(value, "output"))
        return SpikingGraph(self.nodes, tuple(self.edges), T, metadata)

    # -- modules -------------------------------------------------------------------------------

    def module(self, module: nn.Module, value: Value, path: str) -> Value:
        kind = known_kind(module)
        if kind == "Sequential":
            for key, child in module.named_children():
                value = self.module(child, value, f"{path}.{key}" if path else key)
            return value
        if kind is not None:
            return MODULES[kind](self, module, value, node_name(path, module))
        stateful = any(kind.__name__ == "MemoryModule" for kind in type(module).__mro__)
        if stateful or type(module).__module__.startswith("torch.") or not list(module.children()):
            raise LoweringError(unsupported(module, path))
        return self.trace(module, value, path)

    def trace(self, module: nn.Module, value: Value, path: str) -> Value:
        where = path or type(module).__name__
        try:
            graph = _LeafTracer().trace(module)
        except Exception as error:  # torch.fx raises whatever the user's forward raises on a proxy
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise LoweringError(
                f"{where}: its forward cannot be read symbolically ({first}); write it as module calls, sums and "
                "flatten, without data-dependent control flow"
            ) from error
        inputs = [n for n in graph.nodes if n.op == "placeholder" and not n.args]
        if len(inputs) != 1:
            raise LoweringError(f"{where}: its forward takes {len(inputs)} inputs; it must take exactly one")
        env: dict[fx.Node, Any] = {}
        for node in graph.nodes:
            if node.op == "placeholder":
                env[node] = value if node is inputs[0] else node.args[0]
            elif node.op == "output":
                result = fx.node.map_arg(node.args[0], lambda n: env[n])
                if not isinstance(result, Signal | Current):
                    raise LoweringError(
                        f"{where}: its forward returns a {type(result).__name__}; it must return one tensor"
                    )
                return result
            else:
                env[node] = self.operation(node, module, env, path)
        raise AssertionError("a traced graph has an output node")

    def operation(self, node: fx.Node, owner: nn.Module, env: dict[fx.Node, Any], path: str) -> Any:
        args: list[Any] = [fx.node.map_arg(a, lambda n: env[n]) for a in node.args]
        if node.op == "call_module":
            child = f"{path}.{node.target}" if path else str(node.target)
            if len(args) != 1 or node.kwargs:
                raise LoweringError(
                    f"{child}: it is called with {len(args)} inputs; only modules with one are understood"
                )
            return self.module(owner.get_submodule(str(node.target)), args[0], child)
        where = path or type(owner).__name__
        target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        if node.op == "get_attr":
            return getattr(owner, str(node.target), None)
        if node.target in (operator.add, operator.iadd, torch.add) or (
            node.op == "call_method" and target in ("add", "add_")
        ):
            if len(args) == 2 and all(isinstance(a, Signal | Current) for a in args):
                return self.sum(args[0], args[1], f"{where}.add")
        elif target == "flatten" and isinstance(args[0], Signal | Current):
            start = args[1] if len(args) > 1 else node.kwargs.get("start_dim", 0)
            if start in (1, 2):
                return self.flatten(args[0], f"{where}.flatten")
        elif target == "mean" and isinstance(args[0], Signal | Current):
            dim = args[1] if len(args) > 1 else node.kwargs.get("dim")
            if dim in (0, (0,), [0]):  # the mean over time: our read-out does it
                return args[0]
        elif (
            target in ("unsqueeze", "repeat", "expand") and isinstance(args[0], Signal) and args[0].nodes == ("input",)
        ):
            return args[0]  # direct coding: the same frame at every step
        raise LoweringError(
            f"{where}: the operation {target!r} has no counterpart in a spiking network; sums, flatten, the mean over "
            "time and SpikingJelly's layers do"
        )

    # -- values --------------------------------------------------------------------------------

    def synapse(self, name: str, layer: AnySynapse, bias: Array | None, value: Value) -> Current:
        if isinstance(value, Current):
            value = Signal(self.place(value, name), value.shape)  # two synapse layers in a row stay two layers
        if value.repeated is not None and isinstance(layer, Linear):
            layer, value = fold_repeats(layer, value)
        if value.repeated is not None:
            raise LoweringError(_REPEATED.format(name))
        shape = synapse_shape(layer, value.shape, name)
        total = np.zeros(shape[0]) if bias is None else bias.astype(np.float64)
        if value.scale is not None and value.shift is not None:
            if isinstance(layer, Conv2d) and any(layer.padding) and np.any(value.shift):
                raise LoweringError(
                    f"{name}: the BatchNorm before it shifts its input while the layer pads with zeros, so at the border "
                    "they cannot be merged exactly; put the BatchNorm behind the convolution, or use padding 0"
                )
            weight, shifted = fold_into_inputs(layer, value.scale, value.shift, value.shape)
            layer, total = replace(layer, weight=weight), total + shifted
            value = Signal(value.nodes, value.shape)
        return Current((Term(name, layer, value),), total, shape)

    def current(self, value: Value, name: str) -> Current:
        """A signal as a current: one synapse of weight 1 from each neuron to its counterpart."""
        if isinstance(value, Current):
            return value
        channels = value.shape[0]
        if len(value.shape) == 3:
            return self.synapse(f"{name}.identity", Conv2d(np.ones((channels, 1, 1, 1)), groups=channels), None, value)
        return self.synapse(f"{name}.identity", Linear(np.eye(channels)), None, value)

    def sum(self, a: Value, b: Value, name: str) -> Value:
        if a.shape != b.shape:
            raise LoweringError(f"{name}: it adds shapes {a.shape} and {b.shape}; a downsample is missing on one side")
        if isinstance(a, Signal) and isinstance(b, Signal):
            return Signal(self.place(a, name) + self.place(b, name), a.shape)
        a, b = self.current(a, name), self.current(b, name)
        return Current(a.terms + b.terms, a.bias + b.bias, a.shape)

    def flatten(self, value: Value, name: str) -> Value:
        if len(value.shape) == 1:
            return value
        size = int(np.prod(value.shape))
        if isinstance(value, Signal) and value.repeated is not None and value.scale is None:
            plain = self.add(name, Flatten(), value.nodes)
            return Signal((plain,), (size,), repeated=value.repeated)
        if isinstance(value, Signal) and value.repeated is None and value.scale is not None and value.shift is not None:
            repeat = size // value.shape[0]
            scale, shift = np.repeat(value.scale, repeat), np.repeat(value.shift, repeat)
            plain = self.add(name, Flatten(), value.nodes)
            return Signal((plain,), (size,), scale, shift)
        return Signal((self.add(name, Flatten(), self.place(value, name)),), (size,))

    def pool(self, name: str, node: MaxPool2d | AvgPool2d, value: Value) -> Value:
        if isinstance(value, Current) and isinstance(node, MaxPool2d):
            raise LoweringError(
                f"{name}: a max-pool over membrane currents has no spiking form; put the neurons before it"
            )
        channels, *size = value.shape
        shape = tuple(
            window_positions(*axis) for axis in zip(size, node.kernel, node.stride, node.padding, strict=True)
        )
        return Signal((self.add(name, node, self.place(value, name)),), (channels, *shape))


class _LeafTracer(fx.Tracer):
    """Traces one module's own forward; every child is a leaf that the interpreter takes up itself."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Say yes to all."""
        return True
