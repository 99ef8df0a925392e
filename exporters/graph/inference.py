"""Inference says which shape and which kind of signal leave a node, given what arrives, and what is wrong with the node
itself."""

from __future__ import annotations

import math
from typing import assert_never

import numpy as np

from exporters.graph.editing import window_grid
from exporters.graph.errors import GraphError, require
from exporters.graph.nodes import (
    IF,
    AnyPool,
    Array,
    AvgPool2d,
    Conv2d,
    Delay,
    Flatten,
    Input,
    Linear,
    Neuron,
    Node,
    Output,
    Pair,
    Pool,
    Shape,
    SignalKind,
    Synapse,
)


def infer_signal(name: str, node: Node, incoming: SignalKind) -> SignalKind:
    """The signal is what a node's output carries, given what arrives. Raises GraphError where a read-out gets the wrong
    kind."""
    match node:
        case Input():
            return "analog" if node.is_graded else "spikes"
        case Synapse():
            return "current"
        case Neuron():
            return "spikes"
        case Output():
            if node.readout == "rate" and incoming != "spikes":
                raise GraphError(f'{name}: a "rate" read-out needs spikes, but {incoming} arrives; use "membrane"')
            if node.readout == "membrane" and incoming != "current":
                raise GraphError(f'{name}: a "membrane" read-out needs a layer without neurons, but {incoming} arrives')
            return incoming
        case Delay():
            if incoming == "current":
                raise GraphError(
                    f"{name}: a delay takes spikes or frames, but current arrives; put it before the synapses"
                )
            return incoming
        case Pool() | Flatten():
            return incoming
        case _:
            assert_never(node)


def infer_shape(name: str, node: Node, shape: Shape) -> Shape:
    """The shape is that of a node's output, given that of its input. Raises GraphError for what is wrong with the node
    itself."""
    match node:
        case Input():
            return _input_shape(name, node)
        case Conv2d():
            return _convolution_shape(name, node, shape)
        case Linear():
            return _linear_shape(name, node, shape)
        case Pool():
            return _pool_shape(name, node, shape)
        case Flatten():
            return (math.prod(shape),)
        case Delay():
            _check_delay(name, node, shape)
            return shape
        case Neuron():
            _check_neurons(name, node)
            return shape
        case Output():
            _check_output(name, node)
            return shape
        case _:
            assert_never(node)


# -- node by node ------------------------------------------------------------------------------------


def _input_shape(name: str, node: Input) -> Shape:
    ok = len(node.shape) in (1, 3) and all(isinstance(d, int) and d > 0 for d in node.shape)
    require(ok, name, f"the input shape {node.shape} must be (C, H, W) or (F,), all positive")
    require(node.scale is None or node.scale >= 1, name, f"the input scale {node.scale} must be at least 1")
    return node.shape


def _convolution_shape(name: str, node: Conv2d, shape: Shape) -> Shape:
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
    kernel = (int(w.shape[2]), int(w.shape[3]))
    _check_window(name, kernel=kernel, stride=node.stride, padding=node.padding, dilation=node.dilation)
    output = (cout, *_grid(name, shape[1:], kernel, node.stride, node.padding, node.dilation))
    ok = node.bias is None or node.bias.shape in ((cout,), output)
    require(ok, name, f"the bias must have shape ({cout},), or {output} for a value at every position")
    return output


def _linear_shape(name: str, node: Linear, shape: Shape) -> Shape:
    w = node.weight
    _check_numbers(name, "the weight", w)
    _check_numbers(name, "the bias", node.bias)
    require(w.ndim == 2, name, f"the weight has shape {w.shape}; it must be (out, in)")
    require(len(shape) == 1, name, f"a linear layer needs flat input, but {shape} arrives; add Flatten before it")
    require(w.shape[1] == shape[0], name, f"the weight expects {w.shape[1]} inputs, but {shape[0]} arrive")
    require(node.bias is None or node.bias.shape == w.shape[:1], name, f"the bias must have shape ({w.shape[0]},)")
    return (int(w.shape[0]),)


def _pool_shape(name: str, node: AnyPool, shape: Shape) -> Shape:
    require(len(shape) == 3, name, f"a pool needs (C, H, W) input, but {shape} arrives")
    _check_window(name, kernel=node.kernel, stride=node.stride, padding=node.padding)
    half = all(2 * p <= k for p, k in zip(node.padding, node.kernel, strict=True))
    require(half, name, f"padding {node.padding} is more than half the kernel {node.kernel}")
    if isinstance(node, AvgPool2d):
        require(node.divisor >= 1, name, f"the divisor is {node.divisor}; it must be at least 1")
    return (shape[0], *_grid(name, shape[1:], node.kernel, node.stride, node.padding))


def _check_delay(name: str, node: Delay, shape: Shape) -> None:
    steps = node.steps
    require(steps.dtype.kind in "iu", name, f"its steps have type {steps.dtype}; a delay is whole steps")
    require(steps.shape == shape, name, f"its steps have shape {steps.shape}; it needs one for each of {shape}")
    require(bool((steps >= 0).all()), name, f"it delays by {int(steps.min())} steps; nothing arrives before it is sent")


def _check_neurons(name: str, node: Neuron) -> None:
    ok = math.isfinite(node.threshold) and node.threshold > 0
    require(ok, name, f"the threshold is {node.threshold}; a neuron needs a positive one")
    require(
        abs(node.start) < node.threshold,
        name,
        f"its membrane starts at {node.start:g}; it must lie between minus the threshold and the threshold, {node.threshold:g}",
    )
    require(math.isfinite(node.scale) and node.scale > 0, name, f"the scale is {node.scale}; it must be positive")
    require(
        0 <= node.leak < 1 or isinstance(node, IF) or (node.leak == 1 and node.current_leak > 0),
        name,
        f"the leak is {node.leak}; it must be at least 0 and below 1 (use IF for 1)",
    )
    require(
        0 <= node.current_leak <= 1,
        name,
        f"the current leak is {node.current_leak}; it must be from 0 (the current does not persist) to 1",
    )


def _check_output(name: str, node: Output) -> None:
    require(0 <= node.leak <= 1, name, f"the leak is {node.leak}; a read-out keeps from 0 to 1 of its membrane")
    require(node.score in ("last", "mean"), name, f'the score is {node.score!r}; choose "last" or "mean"')
    plain = node.readout == "membrane" or node.sums
    require(plain, name, 'a "rate" is the mean of spikes and has neither leak nor score; use "membrane" for these')


# -- numbers and windows -----------------------------------------------------------------------------


LARGEST = float(np.finfo(np.float32).max)
"""What is larger is infinite in float32, as which files hold it."""


def _check_numbers(name: str, what: str, array: Array | None) -> None:
    if array is None:
        return
    require(array.dtype.kind in "fi", name, f"{what} has type {array.dtype}; it must be float or integer")
    require(array.size > 0, name, f"{what} is empty")
    # of values with a NaN among them the least and the largest are NaN, which is within no bounds
    finite = array.dtype.kind == "i" or bool(array.min() >= -LARGEST and array.max() <= LARGEST)
    require(finite, name, f"{what} contains NaN or infinite values; retrain or repair it")


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


def _grid(name: str, size: Shape, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair = (1, 1)) -> Pair:
    grid = window_grid(size, kernel, stride, padding, dilation)
    require(min(grid) > 0, name, f"its {kernel[0]}×{kernel[1]} window does not fit into its {size[0]}×{size[1]} input")
    return grid
