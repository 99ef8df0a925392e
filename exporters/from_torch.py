"""Lowering step 1: a torch network made of SpikingJelly's layers → `SpikingGraph`.

The module is read, not run: every custom module's `forward` is traced with torch.fx, its children as
leaves, and interpreted over symbolic values. Two kinds of value suffice:

* a `_Signal` is what spikes, analog input and pools carry: the sum of some graph nodes;
* a `_Current` is what synapses carry: a sum of convolutions or linear layers, each with its own
  weights. BatchNorm, scaling and residual sums are linear, so they only change these weights
  (Jacob et al. 2018, section 3.2, for BatchNorm); a current that two BatchNorms read becomes two sets
  of synapses. Nothing is approximated.

A current turns into nodes when a neuron layer, a pool or the output consumes it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from exporters.errors import DeployError
from exporters.graph import (
    IF,
    LIF,
    Array,
    AvgPool2d,
    Conv2d,
    Flatten,
    Input,
    Linear,
    MaxPool2d,
    Node,
    Output,
    Pair,
    Shape,
    SpikingGraph,
    Synapse,
    window_positions,
)


class LoweringError(DeployError):
    """A module that the SpikingGraph cannot express; the message names it and the nearest form that works."""


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
    lowering = _Lowering()
    lowering.nodes["input"] = Input(tuple(input_shape), "direct" if encoding == "direct" else "spikes")
    value = lowering.module(module, _Signal(("input",), tuple(input_shape)), "")
    return lowering.finish(value, T, metadata)


@dataclass(frozen=True, eq=False)
class _Signal:
    """The sum of some nodes' outputs; with `scale` and `shift` (C,) per channel a BatchNorm on top of it.

    `repeated`: an adaptive pool to a larger size repeats each pixel; then these are the shape (C, H, W)
    before and the repeats (y, x), until a linear layer folds them into its weights.
    """

    nodes: tuple[str, ...]
    shape: Shape
    scale: Array | None = None
    shift: Array | None = None
    repeated: tuple[Shape, Pair] | None = None


@dataclass(frozen=True, eq=False)
class _Term:
    """One set of synapses: a bias-free layer reading a signal."""

    name: str
    synapse: Synapse
    source: _Signal


@dataclass(frozen=True, eq=False)
class _Current:
    """A sum of synapses plus a constant per output channel, float64 (C,)."""

    terms: tuple[_Term, ...]
    bias: Array
    shape: Shape


_Value = _Signal | _Current


class _Lowering:
    """The state of one lowering: the graph so far, and which currents already stand in it."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.edges: list[tuple[str, str]] = []
        self.placed: dict[int, tuple[_Current, tuple[str, ...]]] = {}
        self.stateful: set[int] = set()

    # -- building the graph --------------------------------------------------------------------

    def add(self, name: str, node: Node, sources: Sequence[str]) -> str:
        unique, n = name, 2
        while unique in self.nodes:
            unique, n = f"{name}_{n}", n + 1
        self.nodes[unique] = node
        self.edges += [(s, unique) for s in sources]
        return unique

    def place(self, value: _Value, reader: str) -> tuple[str, ...]:
        """The nodes whose outputs add up to the value; a current's synapses are added on first use."""
        if isinstance(value, _Signal):
            if value.repeated is not None:
                raise LoweringError(
                    f"{reader}: an adaptive pool that enlarges its input stands before it; only Flatten and Linear may follow"
                )
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

    def finish(self, value: _Value, T: int, metadata: dict[str, Any]) -> SpikingGraph:
        readout = Output("rate") if isinstance(value, _Signal) else Output("membrane")
        self.add("output", readout, self.place(value, "output"))
        return SpikingGraph(self.nodes, tuple(self.edges), T, metadata)

    # -- modules -------------------------------------------------------------------------------

    def module(self, module: nn.Module, value: _Value, path: str) -> _Value:
        kind = _known_kind(module)
        if kind == "Sequential":
            for key, child in module.named_children():
                value = self.module(child, value, f"{path}.{key}" if path else key)
            return value
        if kind is not None:
            return _MODULES[kind](self, module, value, node_name(path, module))
        stateful = any(kind.__name__ == "MemoryModule" for kind in type(module).__mro__)
        if stateful or type(module).__module__.startswith("torch.") or not list(module.children()):
            raise LoweringError(_unsupported(module, path))
        return self.trace(module, value, path)

    def trace(self, module: nn.Module, value: _Value, path: str) -> _Value:
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
                if not isinstance(result, _Signal | _Current):
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
            if len(args) == 2 and all(isinstance(a, _Signal | _Current) for a in args):
                return self.sum(args[0], args[1], f"{where}.add")
        elif target == "flatten" and isinstance(args[0], _Signal | _Current):
            start = args[1] if len(args) > 1 else node.kwargs.get("start_dim", 0)
            if start in (1, 2):
                return self.flatten(args[0], f"{where}.flatten")
        elif target == "mean" and isinstance(args[0], _Signal | _Current):
            dim = args[1] if len(args) > 1 else node.kwargs.get("dim")
            if dim in (0, (0,), [0]):  # the mean over time: our read-out does it
                return args[0]
        elif (
            target in ("unsqueeze", "repeat", "expand") and isinstance(args[0], _Signal) and args[0].nodes == ("input",)
        ):
            return args[0]  # direct coding: the same frame at every step
        raise LoweringError(
            f"{where}: the operation {target!r} has no counterpart in a spiking network; sums, flatten, the mean over "
            "time and SpikingJelly's layers do"
        )

    # -- values --------------------------------------------------------------------------------

    def synapse(self, name: str, layer: Synapse, bias: Array | None, value: _Value) -> _Current:
        if isinstance(value, _Current):
            value = _Signal(self.place(value, name), value.shape)  # two synapse layers in a row stay two layers
        if value.repeated is not None and isinstance(layer, Linear):
            layer, value = _fold_repeats(layer, value)
        self.place(replace(value, scale=None, shift=None), name)
        shape = _synapse_shape(layer, value.shape, name)
        total = np.zeros(shape[0]) if bias is None else bias.astype(np.float64)
        if value.scale is not None and value.shift is not None:
            if isinstance(layer, Conv2d) and any(layer.padding) and np.any(value.shift):
                raise LoweringError(
                    f"{name}: the BatchNorm before it shifts its input while the layer pads with zeros, so at the border "
                    "they cannot be merged exactly; put the BatchNorm behind the convolution, or use padding 0"
                )
            weight, shifted = _fold_into_inputs(layer, value.scale, value.shift, value.shape)
            layer, total = replace(layer, weight=weight), total + shifted
            value = _Signal(value.nodes, value.shape)
        return _Current((_Term(name, layer, value),), total, shape)

    def current(self, value: _Value, name: str) -> _Current:
        """A signal as a current: one synapse of weight 1 from each neuron to its counterpart."""
        if isinstance(value, _Current):
            return value
        channels = value.shape[0]
        if len(value.shape) == 3:
            return self.synapse(f"{name}.identity", Conv2d(np.ones((channels, 1, 1, 1)), groups=channels), None, value)
        return self.synapse(f"{name}.identity", Linear(np.eye(channels)), None, value)

    def sum(self, a: _Value, b: _Value, name: str) -> _Value:
        if a.shape != b.shape:
            raise LoweringError(f"{name}: it adds shapes {a.shape} and {b.shape}; a downsample is missing on one side")
        if isinstance(a, _Signal) and isinstance(b, _Signal):
            return _Signal(self.place(a, name) + self.place(b, name), a.shape)
        a, b = self.current(a, name), self.current(b, name)
        return _Current(a.terms + b.terms, a.bias + b.bias, a.shape)

    def flatten(self, value: _Value, name: str) -> _Value:
        if len(value.shape) == 1:
            return value
        size = int(np.prod(value.shape))
        if isinstance(value, _Signal) and value.repeated is not None and value.scale is None:
            plain = self.add(name, Flatten(), value.nodes)
            return _Signal((plain,), (size,), repeated=value.repeated)
        if isinstance(value, _Signal) and value.scale is not None and value.shift is not None:
            repeat = size // value.shape[0]
            scale, shift = np.repeat(value.scale, repeat), np.repeat(value.shift, repeat)
            plain = self.add(name, Flatten(), value.nodes)
            return _Signal((plain,), (size,), scale, shift)
        return _Signal((self.add(name, Flatten(), self.place(value, name)),), (size,))

    def pool(self, name: str, node: MaxPool2d | AvgPool2d, value: _Value) -> _Value:
        if isinstance(value, _Current) and isinstance(node, MaxPool2d):
            raise LoweringError(
                f"{name}: a max-pool over membrane currents has no spiking form; put the neurons before it"
            )
        channels, *size = value.shape
        shape = tuple(
            window_positions(*axis) for axis in zip(size, node.kernel, node.stride, node.padding, strict=True)
        )
        return _Signal((self.add(name, node, self.place(value, name)),), (channels, *shape))


class _LeafTracer(fx.Tracer):
    """Traces one module's own forward; every child is a leaf that the interpreter takes up itself."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Say yes to all."""
        return True


# -- one function per kind of module -----------------------------------------------------------------


def _conv(lowering: _Lowering, module: Any, value: _Value, name: str) -> _Value:
    if module.padding_mode != "zeros":
        raise LoweringError(f"{name}: padding mode {module.padding_mode!r} has no counterpart; use zeros")
    padding = module.padding
    if isinstance(padding, str):
        padding = _string_padding(module, name)
    node = Conv2d(
        _numpy(module.weight), None, _pair(module.stride), _pair(padding), _pair(module.dilation), int(module.groups)
    )
    return lowering.synapse(name, node, _numpy_or_none(module.bias), value)


def _linear(lowering: _Lowering, module: Any, value: _Value, name: str) -> _Value:
    return lowering.synapse(name, Linear(_numpy(module.weight)), _numpy_or_none(module.bias), value)


def _batch_norm(lowering: _Lowering, module: Any, value: _Value, name: str) -> _Value:
    if module.running_mean is None or module.running_var is None:
        raise LoweringError(f"{name}: this BatchNorm keeps no running statistics; set track_running_stats=True")
    mean, var = _numpy(module.running_mean), _numpy(module.running_var)
    scale = 1 / np.sqrt(var + module.eps)
    if module.affine:
        scale = scale * _numpy(module.weight)
    shift = -mean * scale + (_numpy(module.bias) if module.affine else 0)
    if len(scale) != value.shape[0]:
        raise LoweringError(f"{name}: it normalises {len(scale)} channels, but {value.shape[0]} arrive")
    if isinstance(value, _Current):
        terms = tuple(replace(t, synapse=_scaled(t.synapse, scale)) for t in value.terms)
        return _Current(terms, value.bias * scale + shift, value.shape)
    if value.scale is None or value.shift is None:
        return replace(value, scale=scale, shift=shift)
    return replace(value, scale=value.scale * scale, shift=value.shift * scale + shift)


def _max_pool(lowering: _Lowering, module: Any, value: _Value, name: str) -> _Value:
    if module.ceil_mode or _pair(module.dilation) != (1, 1):
        raise LoweringError(f"{name}: max-pool with ceil_mode or dilation has no counterpart; use neither")
    kernel = _pair(module.kernel_size)
    return lowering.pool(name, MaxPool2d(kernel, _pair(module.stride or kernel), _pair(module.padding)), value)


def _avg_pool(lowering: _Lowering, module: Any, value: _Value, name: str) -> _Value:
    padding = _pair(module.padding)
    if module.ceil_mode or (any(padding) and not module.count_include_pad):
        raise LoweringError(
            f"{name}: average-pool with ceil_mode or count_include_pad=False has no counterpart; use neither"
        )
    kernel = _pair(module.kernel_size)
    divisor = module.divisor_override or kernel[0] * kernel[1]
    return lowering.pool(name, AvgPool2d(kernel, _pair(module.stride or kernel), padding, int(divisor)), value)


def _adaptive_avg_pool(lowering: _Lowering, module: Any, value: _Value, name: str) -> _Value:
    out = module.output_size if isinstance(module.output_size, tuple) else (module.output_size,) * 2
    size = value.shape[1:]
    out = tuple(s if o is None else int(o) for o, s in zip(out, size, strict=True))
    if (
        len(size) == 2
        and out != size
        and isinstance(value, _Signal)
        and not any(o % s for s, o in zip(size, out, strict=True))
    ):
        repeats = (out[0] // size[0], out[1] // size[1])
        return _Signal(lowering.place(value, name), (value.shape[0], *out), repeated=(value.shape, repeats))
    if len(size) != 2 or any(s % o for s, o in zip(size, out, strict=True)):
        raise LoweringError(f"{name}: adaptive pooling of {size} to {out} has windows of unequal size; use AvgPool2d")
    kernel = (size[0] // out[0], size[1] // out[1])
    return lowering.pool(name, AvgPool2d(kernel, kernel, (0, 0), kernel[0] * kernel[1]), value)


def _flatten(lowering: _Lowering, module: Any, value: _Value, name: str) -> _Value:
    if module.start_dim not in (1, 2) or module.end_dim != -1:
        raise LoweringError(
            f"{name}: Flatten({module.start_dim}, {module.end_dim}) keeps some axes; flatten all but batch (and time)"
        )
    return lowering.flatten(value, name)


def _identity(lowering: _Lowering, module: Any, value: _Value, name: str) -> _Value:
    return value


def _neuron(lowering: _Lowering, module: Any, value: _Value, name: str) -> _Value:
    if id(module) in lowering.stateful:
        raise LoweringError(
            f"{name}: this neuron layer is called twice per step and would share its membrane; use two layers"
        )
    lowering.stateful.add(id(module))
    if module.v_reset not in (None, 0, 0.0):
        raise LoweringError(
            f"{name}: v_reset is {module.v_reset}; hardware resets to 0 (v_reset=0.0) or by subtraction (v_reset=None)"
        )
    current = lowering.current(value, name)
    reset: Any = "soft" if module.v_reset is None else "hard"
    threshold = float(module.v_threshold)
    tau = _time_constant(module)
    node: Node = IF(threshold, reset)
    if tau is not None:
        node = LIF(threshold, 1 - 1 / tau, reset)
        if module.decay_input:  # v ← v + (x − v)/τ: the 1/τ of the input goes into the weights
            gain = np.full(current.shape[0], 1 / tau)
            terms = tuple(replace(t, synapse=_scaled(t.synapse, gain)) for t in current.terms)
            current = _Current(terms, current.bias / tau, current.shape)
    return _Signal((lowering.add(name, node, lowering.place(current, name)),), current.shape)


def _time_constant(module: Any) -> float | None:
    kinds = {kind.__name__ for kind in type(module).__mro__}
    if "ParametricLIFNode" in kinds:
        return float(1 / torch.sigmoid(module.w.detach().double()))
    return float(module.tau) if kinds & {"LIFNode", "SimpleLIFNode"} else None


_MODULES: dict[str, Callable[[_Lowering, Any, _Value, str], _Value]] = {
    "Conv2d": _conv,
    "Linear": _linear,
    "BatchNorm1d": _batch_norm,
    "BatchNorm2d": _batch_norm,
    "MaxPool2d": _max_pool,
    "AvgPool2d": _avg_pool,
    "AdaptiveAvgPool2d": _adaptive_avg_pool,
    "Flatten": _flatten,
    "Identity": _identity,
    "Dropout": _identity,
    "Dropout2d": _identity,
    "IFNode": _neuron,
    "SimpleIFNode": _neuron,
    "LIFNode": _neuron,
    "SimpleLIFNode": _neuron,
    "ParametricLIFNode": _neuron,
}
"""Handlers by the class name that torch.nn and SpikingJelly share; SpikingJelly need not be imported for it."""

_CONTAINERS = ("Sequential", "SeqToANNContainer", "MultiStepContainer", "StepModeContainer")
_BEHAVIOUR = frozenset(
    [
        "forward",
        "neuronal_charge",
        "neuronal_fire",
        "neuronal_reset",
        "single_step_forward",
        "multi_step_forward",
        "single_step_functional_forward",
        "multi_step_functional_forward",
    ]
)


def _known_kind(module: nn.Module) -> str | None:
    """Which of the understood layers a module is. A user's subclass counts unless it changes what the layer does."""
    for kind in type(module).__mro__:
        if kind.__module__.split(".")[0] in ("torch", "spikingjelly"):
            if kind.__name__ in _CONTAINERS:
                return "Sequential"
            if kind.__name__ in _MODULES:
                return kind.__name__
        if _BEHAVIOUR & vars(kind).keys():
            return None
    return None


_NEAREST = {
    "ReLU": "this is an ANN layer: build the network with neurons (SpikingJelly's IFNode) or use a spiking student",
    "Conv1d": "write it as Conv2d with height 1",
    "Conv3d": "only two-dimensional convolutions run on the chip",
    "ConvTranspose2d": "use Conv2d",
    "GroupNorm": "use BatchNorm2d, which folds into the weights",
    "LayerNorm": "use BatchNorm2d, which folds into the weights",
    "Upsample": "use strided convolutions only",
}


def _unsupported(module: nn.Module, path: str) -> str:
    kind = type(module).__name__
    default = "supported are Conv2d, Linear, BatchNorm, max and average pools, Flatten, Dropout, IFNode, LIFNode, ParametricLIFNode"
    return f"{path or 'the network'}: {kind} cannot be lowered; {_NEAREST.get(kind, default)}"


# -- arithmetic --------------------------------------------------------------------------------------


def _numpy(tensor: torch.Tensor) -> Array:
    return tensor.detach().cpu().double().numpy()


def _numpy_or_none(tensor: torch.Tensor | None) -> Array | None:
    return None if tensor is None else _numpy(tensor)


def _pair(value: Any) -> Pair:
    return (int(value[0]), int(value[1])) if isinstance(value, Sequence) else (int(value), int(value))


def node_name(path: str, module: nn.Module) -> str:
    """The node a module becomes: its path; a bare number (in a Sequential) says too little, so its kind goes before it."""
    kind = type(module).__name__.lower()
    return path if path and not path.replace(".", "").isdigit() else f"{kind}{path}"


def _string_padding(module: Any, name: str) -> Pair:
    if module.padding == "valid":
        return (0, 0)
    total = [d * (k - 1) for d, k in zip(_pair(module.dilation), _pair(module.kernel_size), strict=True)]
    if any(t % 2 for t in total):
        raise LoweringError(
            f"{name}: padding 'same' with an even kernel pads unevenly; use an odd kernel or explicit padding"
        )
    return (total[0] // 2, total[1] // 2)


def _scaled(synapse: Synapse, scale: Array) -> Synapse:
    """The layer with its output channels multiplied by scale (C,)."""
    return replace(synapse, weight=synapse.weight * scale.reshape(-1, *[1] * (synapse.weight.ndim - 1)))


def _fold_into_inputs(layer: Synapse, scale: Array, shift: Array, shape: Shape) -> tuple[Array, Array]:
    """Weights that read x as the layer reads scale·x + shift, and the bias (Cout,) that the shift adds."""
    weight = layer.weight
    if isinstance(layer, Linear):
        return weight * scale, weight @ shift
    per_group = weight.shape[1]
    group = np.arange(len(weight)) // (len(weight) // layer.groups)
    channel = group[:, None] * per_group + np.arange(per_group)  # (Cout, Cin/groups): which input each reads
    shifted = (weight.sum(axis=(2, 3)) * shift[channel]).sum(axis=1)
    return weight * scale[channel][:, :, None, None], shifted


def _fold_repeats(layer: Linear, value: _Signal) -> tuple[Linear, _Signal]:
    """A linear layer over repeated pixels as one over the pixels: the weights of a pixel's repeats add up."""
    assert value.repeated is not None
    (channels, height, width), (y, x) = value.repeated
    if layer.weight.shape[1] == channels * height * y * width * x:
        weight = layer.weight.reshape(-1, channels, height, y, width, x).sum(axis=(3, 5))
        layer = replace(layer, weight=weight.reshape(len(weight), -1))
        value = _Signal(value.nodes, (channels * height * width,))
    return layer, value


def _synapse_shape(layer: Synapse, shape: Shape, name: str) -> Shape:
    """The output shape; the graph's own validation says what is wrong when the input does not fit."""
    probe = SpikingGraph(
        {"input": Input(shape), name: layer, "output": Output("membrane")}, (("input", name), (name, "output")), 1
    )
    return probe.shapes[name]
