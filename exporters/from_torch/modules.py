"""What `from_torch` makes of each module: one function per kind of layer that torch.nn and SpikingJelly share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from exporters.from_torch.values import Current, LoweringError, Signal, Value, scaled
from exporters.graph import IF, LIF, Array, AvgPool2d, Conv2d, Linear, MaxPool2d, Node, Pair

if TYPE_CHECKING:
    from exporters.from_torch import Lowering


def _conv(lowering: Lowering, module: Any, value: Value, name: str) -> Value:
    if module.padding_mode != "zeros":
        raise LoweringError(f"{name}: padding mode {module.padding_mode!r} has no counterpart; use zeros")
    padding = module.padding
    if isinstance(padding, str):
        padding = _string_padding(module, name)
    node = Conv2d(
        _numpy(module.weight), None, _pair(module.stride), _pair(padding), _pair(module.dilation), int(module.groups)
    )
    return lowering.synapse(name, node, _numpy_or_none(module.bias), value)


def _linear(lowering: Lowering, module: Any, value: Value, name: str) -> Value:
    return lowering.synapse(name, Linear(_numpy(module.weight)), _numpy_or_none(module.bias), value)


def _batch_norm(lowering: Lowering, module: Any, value: Value, name: str) -> Value:
    if module.running_mean is None or module.running_var is None:
        raise LoweringError(f"{name}: this BatchNorm keeps no running statistics; set track_running_stats=True")
    mean, var = _numpy(module.running_mean), _numpy(module.running_var)
    scale = 1 / np.sqrt(var + module.eps)
    if module.affine:
        scale = scale * _numpy(module.weight)
    shift = -mean * scale + (_numpy(module.bias) if module.affine else 0)
    if len(scale) != value.shape[0]:
        raise LoweringError(f"{name}: it normalizes {len(scale)} channels, but {value.shape[0]} arrive")
    if isinstance(value, Current):
        terms = tuple(replace(t, synapse=scaled(t.synapse, scale)) for t in value.terms)
        return Current(terms, value.bias * scale + shift, value.shape)
    if value.scale is None or value.shift is None:
        return replace(value, scale=scale, shift=shift)
    return replace(value, scale=value.scale * scale, shift=value.shift * scale + shift)


def _require_maps(value: Value, name: str) -> None:
    if len(value.shape) != 3:
        raise LoweringError(
            f"{name}: a pool needs (C, H, W) input, but {value.shape} arrives; put it before the flatten"
        )


def _max_pool(lowering: Lowering, module: Any, value: Value, name: str) -> Value:
    _require_maps(value, name)
    if module.ceil_mode or _pair(module.dilation) != (1, 1):
        raise LoweringError(f"{name}: max-pool with ceil_mode or dilation has no counterpart; use neither")
    kernel = _pair(module.kernel_size)
    return lowering.pool(name, MaxPool2d(kernel, _pair(module.stride or kernel), _pair(module.padding)), value)


def _avg_pool(lowering: Lowering, module: Any, value: Value, name: str) -> Value:
    _require_maps(value, name)
    padding = _pair(module.padding)
    if module.ceil_mode or (any(padding) and not module.count_include_pad):
        raise LoweringError(
            f"{name}: average-pool with ceil_mode or count_include_pad=False has no counterpart; use neither"
        )
    kernel = _pair(module.kernel_size)
    divisor = module.divisor_override or kernel[0] * kernel[1]
    return lowering.pool(name, AvgPool2d(kernel, _pair(module.stride or kernel), padding, int(divisor)), value)


def _adaptive_avg_pool(lowering: Lowering, module: Any, value: Value, name: str) -> Value:
    _require_maps(value, name)
    out = module.output_size if isinstance(module.output_size, tuple) else (module.output_size,) * 2
    size = value.shape[1:]
    out = tuple(s if o is None else int(o) for o, s in zip(out, size, strict=True))
    if out != size and isinstance(value, Signal) and not any(o % s for s, o in zip(size, out, strict=True)):
        repeats = (out[0] // size[0], out[1] // size[1])
        return Signal(lowering.place(value, name), (value.shape[0], *out), repeated=(value.shape, repeats))
    if any(s % o for s, o in zip(size, out, strict=True)):
        raise LoweringError(f"{name}: adaptive pooling of {size} to {out} has windows of unequal size; use AvgPool2d")
    kernel = (size[0] // out[0], size[1] // out[1])
    return lowering.pool(name, AvgPool2d(kernel, kernel, (0, 0), kernel[0] * kernel[1]), value)


def _flatten(lowering: Lowering, module: Any, value: Value, name: str) -> Value:
    if module.start_dim not in (1, 2) or module.end_dim != -1:
        raise LoweringError(
            f"{name}: Flatten({module.start_dim}, {module.end_dim}) keeps some axes; flatten all but batch (and time)"
        )
    return lowering.flatten(value, name)


def _identity(lowering: Lowering, module: Any, value: Value, name: str) -> Value:
    return value


def _neuron(lowering: Lowering, module: Any, value: Value, name: str) -> Value:
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
    if hasattr(module, "current_decay"):
        return Signal(
            (lowering.add(name, _current_based(module, current, name), lowering.place(current, name)),), current.shape
        )
    tau = _time_constant(module)
    node: Node = IF(threshold, reset)
    if tau is not None:
        node = LIF(threshold, 1 - 1 / tau, reset)
        if module.decay_input:  # v ← v + (x − v)/τ: the 1/τ of the input goes into the weights
            gain = np.full(current.shape[0], 1 / tau)
            terms = tuple(replace(t, synapse=scaled(t.synapse, gain)) for t in current.terms)
            current = Current(terms, current.bias / tau, current.shape)
    return Signal((lowering.add(name, node, lowering.place(current, name)),), current.shape)


def _current_based(module: Any, current: Current, name: str) -> Node:
    """SpikingJelly's copy of slayer's neuron: 12-bit decays of current and membrane, whose truncation is the chip's business."""
    if module.norm is not None:
        raise LoweringError(
            f"{name}: a norm inside the neuron has no counterpart; put a BatchNorm behind the convolution"
        )
    current_decay, decay = _numpy(module.current_decay), _numpy(module.voltage_decay)
    if np.ptp(current_decay) or np.ptp(decay):
        raise LoweringError(f"{name}: its decays differ between neurons; a Loihi layer has one of each")
    # the module truncates them to whole numbers of 1/4096 as it computes
    persists, leak = (1 - int(values.flat[0]) / 4096 for values in (current_decay, decay))
    if persists and np.any(current.bias):
        raise LoweringError(
            f"{name}: a bias (or BatchNorm shift) would pass through its synaptic current, which on Loihi it does not; "
            "use layers with bias=False before neurons whose current persists"
        )
    # it fires above its threshold, as Loihi does
    threshold = float(module.v_threshold) + float(module.v_threshold_eps)
    return IF(threshold) if leak == 1 and not persists else LIF(threshold, leak, current_leak=persists)


def _time_constant(module: Any) -> float | None:
    kinds = {kind.__name__ for kind in type(module).__mro__}
    if "ParametricLIFNode" in kinds:
        return float(1 / torch.sigmoid(module.w.detach().double()))
    return float(module.tau) if kinds & {"LIFNode", "SimpleLIFNode"} else None


MODULES: dict[str, Callable[[Lowering, Any, Value, str], Value]] = {
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
    "CubaLIFNode": _neuron,
}
"""Handlers by the class name that torch.nn and SpikingJelly share; SpikingJelly need not be imported for it."""

_CONTAINERS = ("Sequential", "SeqToANNContainer", "MultiStepContainer", "StepModeContainer")
_BEHAVIOR = frozenset(
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


def known_kind(module: nn.Module) -> str | None:
    """Which of the understood layers a module is. A user's subclass counts unless it changes what the layer does."""
    for kind in type(module).__mro__:
        if kind.__module__.split(".")[0] in ("torch", "spikingjelly"):
            if kind.__name__ in _CONTAINERS:
                return "Sequential"
            if kind.__name__ in MODULES:
                return kind.__name__
        if _BEHAVIOR & vars(kind).keys():
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


def unsupported(module: nn.Module, path: str) -> str:
    """What to say of a module that has no counterpart: its name, and the nearest thing that has one."""
    kind = type(module).__name__
    default = "supported are Conv2d, Linear, BatchNorm, max and average pools, Flatten, Dropout, IFNode, LIFNode, ParametricLIFNode"
    return f"{path or 'the network'}: {kind} cannot be lowered; {_NEAREST.get(kind, default)}"


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
