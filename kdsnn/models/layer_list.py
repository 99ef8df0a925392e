"""A graph without its weights as plain JSON values: the `layers` that the checkpoint of a quantized student lists.

One object per node, in an order in which each follows what it reads:

    {"name": "body.act", "kind": "if", "sources": ["stem.conv"], "arguments": {"v_threshold": 0.3}}

`kind` is "conv", "linear", "max_pool", "avg_pool", "flatten", "if", "lif" or "output"; several `sources` add up, and
"input" stands for the image. `arguments` are what the kind needs, as `torch.nn` and SpikingJelly name it. The weights
stand in the checkpoint beside it, under the same names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, assert_never, get_args

import numpy as np

from exporters.graph import (
    IF,
    LIF,
    Array,
    AvgPool2d,
    Conv2d,
    Delay,
    Flatten,
    Input,
    Linear,
    MaxPool2d,
    Node,
    Output,
    Pair,
    Shape,
    SpikingGraph,
)
from exporters.graph.nodes import Reset

INPUT = "input"
"""What a list calls the image, whatever the graph's input node is called."""


def layer_list(graph: SpikingGraph) -> tuple[dict[str, Any], ...]:
    """List the nodes of a graph but its input, in order; `graph_of` is the way back."""
    standing_for = {graph.input_name: INPUT}
    return tuple(
        {
            "name": name,
            "kind": kind,
            "sources": tuple(standing_for.get(source, source) for source in graph.sources(name)),
            "arguments": arguments,
        }
        for name, node in graph.nodes.items()
        if (listed := _listed(node)) is not None
        for kind, arguments in [listed]
    )


def graph_of(layers: Sequence[Mapping[str, Any]], input_shape: Shape, T: int) -> SpikingGraph:
    """Build the graph that a list describes, with weights of 0 in the right shapes.

    Args:
        layers: what `layer_list` gave, perhaps through JSON.
        input_shape: (C, H, W) of the image.
        T: time steps.

    Raises:
        ValueError: a layer of an unknown kind, or one that does not follow from those before it.
        TypeError, KeyError: entries or arguments that a layer does not have.
        GraphError: the layers make no network for such images.
    """
    nodes: dict[str, Node] = {INPUT: Input(tuple(input_shape))}
    edges: list[tuple[str, str]] = []
    currents: set[str] = set()  # a list does not say how it is read out: a membrane is read where currents arrive
    for entries in layers:
        name, node, sources = _read(**entries)
        if not sources or not nodes.keys() >= set(sources) or name in nodes:
            raise ValueError(f"layer {name} does not follow from those before it")
        if isinstance(node, Conv2d | Linear) or (not isinstance(node, IF | LIF) and currents.intersection(sources)):
            currents.add(name)
        nodes[name] = Output("membrane") if isinstance(node, Output) and name in currents else node
        edges += [(source, name) for source in sources]
    return SpikingGraph(nodes, tuple(edges), T)


def _listed(node: Node) -> tuple[str, dict[str, Any]] | None:
    match node:
        case Input():
            return None
        case Conv2d(weight=weight, bias=bias):
            return "conv", {
                "in_channels": weight.shape[1] * node.groups,
                "out_channels": weight.shape[0],
                "kernel_size": weight.shape[2:],
                "stride": node.stride,
                "padding": node.padding,
                "dilation": node.dilation,
                "groups": node.groups,
                "bias": bias.shape if bias is not None and bias.ndim > 1 else bias is not None,
            }
        case Linear(weight=weight, bias=bias):
            shape = {"in_features": weight.shape[1], "out_features": weight.shape[0]}
            return "linear", {**shape, "bias": bias is not None}
        case MaxPool2d(kernel=kernel, stride=stride, padding=padding):
            return "max_pool", {"kernel_size": kernel, "stride": stride, "padding": padding}
        case AvgPool2d(kernel=kernel, stride=stride, padding=padding, divisor=divisor):
            window = {"kernel_size": kernel, "stride": stride, "padding": padding}
            return "avg_pool", {**window, "divisor_override": divisor}
        case Flatten():
            return "flatten", {}
        case Delay():
            raise TypeError("a network that is listed has no delays")
        case IF(threshold=threshold):
            return "if", {"v_threshold": threshold, **_unlike_most(node)}
        case LIF(threshold=threshold, leak=leak):
            return "lif", {"v_threshold": threshold, "leak": leak, **_unlike_most(node)}
        case Output():
            return "output", {}
        case _:
            assert_never(node)


def _unlike_most(node: IF | LIF) -> dict[str, Any]:
    """What is listed only of neurons that reset by subtraction, or do not start at 0."""
    return ({} if node.reset == "hard" else {"reset": node.reset}) | ({"start": node.start} if node.start else {})


def _read(
    *, name: str, kind: str, sources: Sequence[str], arguments: Mapping[str, Any]
) -> tuple[str, Node, Sequence[str]]:
    if kind not in _KINDS:
        raise ValueError(f"layer {name} is of the unknown kind {kind!r}")
    node = _KINDS[kind](**arguments)
    return name, node, sources


def _unknown(*shape: int) -> Array:
    """Make weights of which only the shape counts; they take no memory."""
    return np.broadcast_to(np.int8(0), shape)


def _conv(
    *, in_channels: int, out_channels: int, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair, groups: int,
    bias: bool | Shape,
) -> Conv2d:  # fmt: skip
    weight = _unknown(out_channels, in_channels // groups, *kernel_size)
    shape = (out_channels,) if isinstance(bias, bool) else bias
    return Conv2d(weight, _unknown(*shape) if bias else None, stride, padding, dilation, groups)


def _linear(*, in_features: int, out_features: int, bias: bool) -> Linear:
    return Linear(_unknown(out_features, in_features), _unknown(out_features) if bias else None)


def _max_pool(*, kernel_size: Pair, stride: Pair, padding: Pair) -> MaxPool2d:
    return MaxPool2d(kernel_size, stride, padding)


def _avg_pool(*, kernel_size: Pair, stride: Pair, padding: Pair, divisor_override: int) -> AvgPool2d:
    return AvgPool2d(kernel_size, stride, padding, divisor_override)


def _if(*, v_threshold: float, reset: Reset = "hard", start: float = 0.0) -> IF:
    return IF(v_threshold, _known(reset), start=start)


def _lif(
    *,
    v_threshold: float,
    leak: float | None = None,
    tau: float | None = None,
    reset: Reset = "hard",
    start: float = 0.0,
) -> LIF:
    if (leak is None) == (tau is None):
        raise TypeError("a leaky neuron has a leak, or a time constant tau as earlier files say")
    return LIF(v_threshold, leak if tau is None else 1 - 1 / tau, _known(reset), start=start)  # type: ignore[arg-type]


def _known(reset: Reset) -> Reset:
    if reset not in get_args(Reset):
        raise ValueError(f"the reset {reset!r} is unknown; there are {' and '.join(get_args(Reset))}")
    return reset


_KINDS: Mapping[str, Callable[..., Node]] = {
    "conv": _conv,
    "linear": _linear,
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "flatten": Flatten,
    "if": _if,
    "lif": _lif,
    "output": Output,
}
