"""The nodes of a `SpikingGraph`: what each holds, which shape and signal leaves it, and what is wrong with it.

What they compute is told in `exporters.graph`. Arrays are numpy in PyTorch's layout: kernels OIHW, shapes CHW.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from exporters.errors import DeployError

Array = NDArray[Any]
Shape = tuple[int, ...]
Pair = tuple[int, int]


class GraphError(DeployError):
    """The graph cannot be built: the message names the node and what to do."""


@dataclass(frozen=True, eq=False)
class Input:
    """Where samples enter, shape (C, H, W) or (F,) without batch or time.

    `scale` is None for real-valued input. Otherwise the network consumes integers
    `rint(x * scale)` in 0…scale (255: 8-bit pixels), see `SpikingGraph.encode`.
    """

    shape: Shape
    encoding: Literal["direct", "spikes"] = "direct"
    scale: int | None = None


@dataclass(frozen=True, eq=False)
class Conv2d:
    """Cross-correlation as `torch.nn.Conv2d`: weight (Cout, Cin/groups, kH, kW), bias (Cout,)."""

    weight: Array
    bias: Array | None = None
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1


@dataclass(frozen=True, eq=False)
class Linear:
    """Dense synapses as `torch.nn.Linear`: weight (out, in), bias (out,)."""

    weight: Array
    bias: Array | None = None


@dataclass(frozen=True, eq=False)
class MaxPool2d:
    """Maximum over windows; on spikes this is the logical OR. Padding never wins."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)


@dataclass(frozen=True, eq=False)
class AvgPool2d:
    """Sum over windows divided by `divisor` (kH·kW for the usual average; 1 in an integer graph)."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    divisor: int = 1


@dataclass(frozen=True, eq=False)
class Flatten:
    """(C, H, W) to (C·H·W,), C order."""


@dataclass(frozen=True, eq=False)
class IF:
    """Integrate-and-fire neurons. `scale`: integer units of membrane per real unit (1.0 in a float graph).

    `reset` "hard" sets the membrane to 0 after a spike, "soft" subtracts the threshold.
    """

    threshold: float
    reset: Literal["hard", "soft"] = "hard"
    scale: float = 1.0


@dataclass(frozen=True, eq=False)
class LIF:
    """Leaky integrate-and-fire: v ← leak·v + x, 0 ≤ leak < 1, else as `IF`.

    `current_leak` a > 0 is a current-based neuron (CUBA): u ← a·u + Σ w·x, then v ← leak·v + u + b, where u = 0
    before the first step, a spike resets v and leaves u, and `leak` may be 1. At 0 the current does not persist.

    An integer graph leaks as Loihi does: leak = (4096 − decay)/4096, the product truncated toward zero in units
    of 1/64; u is a register of 24 bits that wraps once (`PyLifModelBitAcc` of lava-nc 0.10).
    """

    threshold: float
    leak: float
    reset: Literal["hard", "soft"] = "hard"
    scale: float = 1.0
    current_leak: float = 0.0


@dataclass(frozen=True, eq=False)
class Output:
    """The read-out. `scale`: integer units per real unit of a "membrane" read-out, else 1."""

    readout: Literal["rate", "membrane"] = "rate"
    scale: float = 1.0


Synapse = Conv2d | Linear
Neuron = IF | LIF
Pool = MaxPool2d | AvgPool2d
Node = Input | Conv2d | Linear | MaxPool2d | AvgPool2d | Flatten | IF | LIF | Output
Signal = Literal["analog", "spikes", "current"]
"""What an edge carries: analog input, spikes (also pooled or summed ones), or synaptic current."""


def current_leak(neuron: Neuron) -> float:
    """What share of its synaptic current a neuron keeps from step to step: 0 for all but current-based ones."""
    return neuron.current_leak if isinstance(neuron, LIF) else 0.0


def window_positions(size: int, kernel: int, stride: int, padding: int, dilation: int = 1) -> int:
    """Number of positions of a window along one axis: floor((size + 2p − d(k − 1) − 1)/s) + 1."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def infer_signal(name: str, node: Node, incoming: Signal) -> Signal:
    """What a node's output carries, given what arrives. Raises GraphError where a read-out gets the wrong kind."""
    match node:
        case Input(encoding=encoding):
            return "analog" if encoding == "direct" else "spikes"
        case Conv2d() | Linear():
            return "current"
        case IF() | LIF():
            return "spikes"
        case Output(readout="rate") if incoming != "spikes":
            raise GraphError(f'{name}: a "rate" read-out needs spikes, but {incoming} arrives; use "membrane"')
        case Output(readout="membrane") if incoming != "current":
            raise GraphError(f'{name}: a "membrane" read-out needs a layer without neurons, but {incoming} arrives')
        case _:
            return incoming


def require(ok: bool, name: str, problem: str) -> None:
    """Raise GraphError, naming the node, unless `ok`."""
    if not ok:
        raise GraphError(f"{name}: {problem}")


def _check_numbers(name: str, what: str, array: Array | None) -> None:
    if array is None:
        return
    require(array.dtype.kind in "fi", name, f"{what} has type {array.dtype}; it must be float or integer")
    require(array.size > 0, name, f"{what} is empty")
    require(bool(np.isfinite(array).all()), name, f"{what} contains NaN or infinite values; retrain or repair it")


def _check_window(name: str, *, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair = (1, 1)) -> None:
    for what, pair, least in (
        ("kernel", kernel, 1),
        ("stride", stride, 1),
        ("dilation", dilation, 1),
        ("padding", padding, 0),
    ):
        require(
            len(pair) == 2 and all(isinstance(v, int) and v >= least for v in pair),
            name,
            f"{what} is {pair}; it must be two whole numbers of at least {least}",
        )


def _window_shape(
    name: str, channels: int, size: Shape, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair = (1, 1)
) -> Shape:
    h, w = (window_positions(*axis) for axis in zip(size, kernel, stride, padding, dilation, strict=True))
    require(
        h > 0 and w > 0,
        name,
        f"its {kernel[0]}×{kernel[1]} window does not fit into its {size[0]}×{size[1]} input",
    )
    return (channels, h, w)


def infer_shape(name: str, node: Node, shape: Shape) -> Shape:
    """Shape of a node's output, given that of its input. Raises GraphError for what is wrong with the node itself."""
    match node:
        case Input():
            ok = len(node.shape) in (1, 3) and all(isinstance(d, int) and d > 0 for d in node.shape)
            require(ok, name, f"the input shape {node.shape} must be (C, H, W) or (F,), all positive")
            require(
                node.scale is None or node.scale >= 1,
                name,
                f"the input scale {node.scale} must be at least 1",
            )
            return node.shape
        case Conv2d():
            w = node.weight
            _check_numbers(name, "the weight", w)
            _check_numbers(name, "the bias", node.bias)
            require(w.ndim == 4, name, f"the weight has shape {w.shape}; it must be (Cout, Cin/groups, kH, kW)")
            require(len(shape) == 3, name, f"a convolution needs (C, H, W) input, but {shape} arrives")
            cout, cin = w.shape[0], w.shape[1] * node.groups
            require(
                node.groups >= 1 and cout % node.groups == 0,
                name,
                f"{cout} output channels cannot be split into {node.groups} groups",
            )
            require(cin == shape[0], name, f"the weight expects {cin} input channels, but {shape[0]} arrive")
            require(node.bias is None or node.bias.shape == (cout,), name, f"the bias must have shape ({cout},)")
            kernel = (int(w.shape[2]), int(w.shape[3]))
            _check_window(name, kernel=kernel, stride=node.stride, padding=node.padding, dilation=node.dilation)
            return _window_shape(name, cout, shape[1:], kernel, node.stride, node.padding, node.dilation)
        case Linear():
            w = node.weight
            _check_numbers(name, "the weight", w)
            _check_numbers(name, "the bias", node.bias)
            require(w.ndim == 2, name, f"the weight has shape {w.shape}; it must be (out, in)")
            require(
                len(shape) == 1,
                name,
                f"a linear layer needs flat input, but {shape} arrives; add Flatten before it",
            )
            require(w.shape[1] == shape[0], name, f"the weight expects {w.shape[1]} inputs, but {shape[0]} arrive")
            require(
                node.bias is None or node.bias.shape == w.shape[:1],
                name,
                f"the bias must have shape ({w.shape[0]},)",
            )
            return (int(w.shape[0]),)
        case MaxPool2d() | AvgPool2d():
            require(len(shape) == 3, name, f"a pool needs (C, H, W) input, but {shape} arrives")
            _check_window(name, kernel=node.kernel, stride=node.stride, padding=node.padding)
            half = all(2 * p <= k for p, k in zip(node.padding, node.kernel, strict=True))
            require(half, name, f"padding {node.padding} is more than half the kernel {node.kernel}")
            if isinstance(node, AvgPool2d):
                require(node.divisor >= 1, name, f"the divisor is {node.divisor}; it must be at least 1")
            return _window_shape(name, shape[0], shape[1:], node.kernel, node.stride, node.padding)
        case Flatten():
            return (math.prod(shape),)
        case IF() | LIF():
            ok = math.isfinite(node.threshold) and node.threshold > 0
            require(ok, name, f"the threshold is {node.threshold}; a neuron needs a positive one")
            require(
                math.isfinite(node.scale) and node.scale > 0,
                name,
                f"the scale is {node.scale}; it must be positive",
            )
            if isinstance(node, LIF):
                require(
                    0 <= node.leak < 1 or (node.leak == 1 and node.current_leak > 0),
                    name,
                    f"the leak is {node.leak}; it must be at least 0 and below 1 (use IF for 1)",
                )
                require(
                    0 <= node.current_leak <= 1,
                    name,
                    f"the current leak is {node.current_leak}; it must be from 0 (the current does not persist) to 1",
                )
            return shape
        case Output():
            return shape
    raise GraphError(f"{name}: {type(node).__name__} is not a node of a SpikingGraph")
