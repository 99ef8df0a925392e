"""Each node of a graph computes on the values of a batch, many time steps at once: (T or 1, N, *shape)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import assert_never

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from exporters.graph import (
    IF,
    LIF,
    AnyNeuron,
    AnyPool,
    AnySynapse,
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
    Shape,
)
from exporters.graph.registers import CONVOLUTION_BITS, DENSE_BITS
from hardware.emulator.byte_products import LARGEST_BYTE
from hardware.emulator.membranes import current_at_rest, integrate, persist, wrap_current, wrap_sum
from hardware.emulator.neurons import fire, fire_from_rest
from hardware.emulator.plan import EmulationPlan, add


@dataclass(frozen=True)
class State:
    """The state of a batch between two steps is the membranes and currents (N, *shape) of neuron layers; none is missing
    but before the first step."""

    membranes: dict[str, Tensor] = field(default_factory=dict)
    currents: dict[str, Tensor] = field(default_factory=dict)


def compute(plan: EmulationPlan, name: str, node: Node, x: Tensor, state: State, T: int) -> Tensor:
    """A node makes its values of T steps from what arrives at it; for the input that is the batch, (N, *shape) or (N, T,
    *shape). What it remembers is in `state`, and changes there."""
    match node:
        case Input():
            frames = _frames(plan, x)
            return frames.transpose(0, 1) if node.over_time else frames.unsqueeze(0)
        case Conv2d() | Linear():
            return synaptic_current(plan, name, node, x)
        case MaxPool2d():
            return _max_pool(plan, name, node, x)
        case AvgPool2d():
            return _average_pool(plan, name, node, x)
        case Flatten():
            return x.flatten(2)
        case IF() | LIF():
            current = _membrane_input(plan, name, x, state, T)
            if name not in state.membranes:
                state.membranes[name] = torch.full_like(current[0], node.start)
            return fire(plan.firing(name, node), current, state.membranes[name], T)
        case Delay():
            return delayed(x.expand(T, *x.shape[1:]), node.steps)
        case Output(readout="membrane"):
            return integrate(_membrane_input(plan, name, x, state, T), T, leak=node.leak, integer=plan.integer)
        case Output():
            return x.expand(T, *x.shape[1:])
        case _:
            assert_never(node)


def fire_and_pool(
    plan: EmulationPlan, name: str, node: AnyNeuron, values: Mapping[str, Tensor], T: int, *, keep: bool
) -> dict[str, Tensor] | None:
    """A neuron layer outside of loops fires, and the pool behind it makes its values in the same pass.

    None where that is not to be had, and nodes compute one by one. Spikes that nobody reads but the pool are not among the
    values, unless they are to be kept.
    """
    if plan.wraps or name in plan.persists:  # registers between the synapses and the membrane
        return None
    pool = plan.pooled.get(name)
    behind = None if pool is None else plan.graph.nodes[pool]
    assert behind is None or isinstance(behind, MaxPool2d | AvgPool2d)
    currents = [values[source].to(plan.dtype) for source in plan.sources[name]]
    made = fire_from_rest(plan.firing(name, node), currents, T, behind, keep=keep or plan.uses[name] > 1)
    if made is None:
        return None
    spikes, pooled = made
    found = {} if spikes is None else {name: spikes}
    return found if pool is None or pooled is None else {**found, pool: pooled}


def arriving(plan: EmulationPlan, name: str, values: dict[str, Tensor]) -> Tensor:
    """The sum of its sources arrives at a node."""
    return add(*(_widened(values[source], plan.bounds[name], plan.dtype) for source in plan.sources[name]))


def delayed(x: Tensor, steps: Array) -> Tensor:
    """Values (T, N, *shape) come `steps` later, each element by its own, and 0 before."""
    later = torch.zeros_like(x)
    for lag in np.unique(steps[steps < len(x)]).tolist():
        at_once = torch.from_numpy(steps == lag).to(x.device)
        part = x[: len(x) - lag]
        later[lag:] += part if at_once.all() else part * at_once
    return later


def synaptic_current(plan: EmulationPlan, name: str, node: AnySynapse, x: Tensor) -> Tensor:
    """A synapse layer makes a current of what arrives, its bias included unless the neurons add it."""
    bias = None if name in plan.late else plan.biases[name]
    if bias is not None and bias.ndim > 1:  # a whole map, which no kernel takes
        return _products(plan, name, node, x, None) + bias
    return _products(plan, name, node, x, bias)


def _products(plan: EmulationPlan, name: str, node: AnySynapse, x: Tensor, bias: Tensor | None) -> Tensor:
    """Weights times values add up, with a bias per output channel if there is one."""
    repeats = plan.repeats.get(name)
    if repeats is None:
        return _multiplied(plan, name, node, x, bias)

    def multiply(y: Tensor, share: Tensor | None) -> Tensor:
        return _multiplied(plan, name, node, y.unsqueeze(0), share)[0]

    shape = plan.graph.shapes[name]
    return _per_frame(x, lambda y: repeats.apply(node, y, bias, shape, plan.dtype, multiply))


def _multiplied(plan: EmulationPlan, name: str, node: AnySynapse, x: Tensor, bias: Tensor | None) -> Tensor:
    """What of a layer is multiplied."""
    product = plan.products.get(name)
    if product is not None and x.dtype == torch.uint8 and product.is_exact(x.shape[0] * x.shape[1]):
        return _per_frame(x, lambda y: product.multiply(y, bias))
    weight, x = plan.weight(name), x.to(plan.dtype)
    match node:
        case Linear():
            return F.linear(x, weight, bias)
        case Conv2d(stride=stride, padding=padding, dilation=dilation, groups=groups):
            if plan.products:  # channels innermost, as products of bytes are, and what goes on from here
                x = _per_frame(x, lambda y: y.to(memory_format=torch.channels_last))  # says so of one channel, too
            return _per_frame(x, lambda y: F.conv2d(y, weight, bias, stride, padding, dilation, groups))
        case _:
            assert_never(node)


def _frames(plan: EmulationPlan, batch: Tensor) -> Tensor:
    """Frames become bytes where that is what they hold: they are the caller's, and may hold anything."""
    node = plan.graph.input
    if plan.products:
        in_bytes = batch.to(torch.uint8)
        largest = (node.scale or 1) if node.is_graded else 1
        if torch.equal(in_bytes.to(batch.dtype), batch) and int(in_bytes.max()) <= largest:
            return in_bytes
    return batch.to(plan.dtype)


def _widened(x: Tensor, largest: float, dtype: torch.dtype) -> Tensor:
    """Values stay bytes only where numbers up to `largest` fit."""
    return x.to(dtype) if x.dtype == torch.uint8 and largest > LARGEST_BYTE else x


def _max_pool(plan: EmulationPlan, name: str, node: MaxPool2d, x: Tensor) -> Tensor:
    if plan.graph.signals[name] == "spikes" or x.dtype == torch.uint8:
        return _per_frame(x, lambda y: _window(y, node, plan.graph.shapes[name], torch.maximum))
    return _per_frame(x, lambda y: F.max_pool2d(y, node.kernel, node.stride, node.padding))


def _average_pool(plan: EmulationPlan, name: str, node: AvgPool2d, x: Tensor) -> Tensor:
    fits = plan.bounds[name] * math.prod(node.kernel) <= LARGEST_BYTE
    if x.dtype == torch.uint8 and node.divisor == 1 and fits:
        return _per_frame(x, lambda y: _window(y, node, plan.graph.shapes[name], torch.add))
    return _per_frame(
        x.to(plan.dtype),
        lambda y: F.avg_pool2d(y, node.kernel, node.stride, node.padding, divisor_override=node.divisor),
    )


def _per_frame(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    y = function(x.flatten(0, 1))
    return y.view(*x.shape[:2], *y.shape[1:])


def _window(x: Tensor, node: AnyPool, shape: Shape, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Values that are never negative are pooled from shifted slices, which is faster than torch's pools on CPU."""
    (kh, kw), (sh, sw), (ph, pw) = node.kernel, node.stride, node.padding
    if ph or pw:
        x = F.pad(x, (pw, pw, ph, ph))
    height, width = shape[1:]
    rows = [x[..., a : a + sh * (height - 1) + 1 : sh, :] for a in range(kh)]
    x = functools.reduce(combine, rows)
    columns = [x[..., b : b + sw * (width - 1) + 1 : sw] for b in range(kw)]
    return functools.reduce(combine, columns)


def _membrane_input(plan: EmulationPlan, name: str, x: Tensor, state: State, T: int) -> Tensor:
    """A membrane is reached by a current that has wrapped where registers can, persisted where it does, and then taken
    the bias."""
    if plan.wraps:
        # PyConvModelFixed keeps its sum in 24 bits; a dense layer's sum has 32, of which the neuron shifts six out
        x = wrap_sum(x, CONVOLUTION_BITS if len(plan.graph.shapes[name]) == 3 else DENSE_BITS)
    if name in plan.persists:
        if name not in state.currents:
            state.currents[name] = current_at_rest(x, integer=plan.integer)
        x = persist(x, state.currents[name], plan.persists[name], T, integer=plan.integer)
    elif plan.wraps:
        x = wrap_current(x)
    x, bias = x.to(plan.dtype), plan.late_bias(name)
    return x if bias is None else x + bias
