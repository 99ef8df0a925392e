"""The emulator: runs a `SpikingGraph`, float or integer, batched in torch, layer by layer.

On an integer graph it computes what Lava's fixed-point models compute (`PyConvModelFixed`,
`PyDenseModelBitAcc`, `PyLifModelBitAcc` of lava-nc 0.10), spike for spike, registers included: the
synaptic current wraps at 24 bits with 6 fractional ones (and decays there, where the neurons keep it
from step to step), the membrane saturates at 23 bits.

Exactness does not rest on luck. Sums of integers are exact in float32 while no partial sum can pass
2²⁴, which is decided from the weights beforehand (`sum_bound`); where it could, float64 is used. On CPU, pixels
and spikes travel as bytes and synapse layers multiply bytes (`byte_products`), where the processor is found to do
that exactly. Kernels that are not plain sums of products (Winograd, TF32, bfloat16 shortcuts) are switched off
while it runs.
A float graph made by `exporters.passes.exact.make_exact` is exact in the same sense.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from exporters.errors import DeployError
from exporters.graph import (
    IF,
    LIF,
    AnySynapse,
    Array,
    AvgPool2d,
    Conv2d,
    Flatten,
    Input,
    Linear,
    MaxPool2d,
    Neuron,
    Node,
    Output,
    Shape,
    SpikingGraph,
)
from exporters.graph.bounds import EXACT_IN_FLOAT32, input_bounds, is_signed, sum_bound
from exporters.graph.registers import (
    CONVOLUTION_BITS,
    CURRENT_LIMIT,
    CURRENT_REGISTER,
    DECAY_ONE,
    DENSE_BITS,
    FRACTION,
    MEMBRANE_REGISTER,
)
from hardware.emulator.byte_products import LARGEST_BYTE, ByteProduct, byte_product

Observer = Callable[[str, Tensor], None]
"""Called with (node name, values) for every node of every batch, in topological order.

Values have shape (T, N, *shape), or (1, N, *shape) where they are the same at every step: a
direct-coded input and what is computed from it before the first neuron. They are floats, or bytes (uint8) where
those hold them, laid out in memory as it suits; sum bytes only after widening them.
"""

LARGEST = 2**32
"""Values of one layer for one sample and all its steps (16 GB of float32) beyond which nothing is tried."""
MEMBRANE_MAX = MEMBRANE_REGISTER / FRACTION
"""Where Lava's membrane register saturates, in units of the integer weights (23 bits, 6 fractional)."""


@dataclass(frozen=True, eq=False)
class Run:
    """What came out.

    Attributes:
        output: (N, T, F) spikes as uint8 for a "rate" read-out; for "membrane" the membrane after
            each step, float64, in the graph's units divided by the Output's scale.
        readout: "rate" or "membrane".
    """

    output: Array
    readout: str

    def scores(self, t: int | None = None) -> Array:
        """Class scores (N, F) after the first `t` steps (all by default): firing rate or mean membrane."""
        steps = self.output.shape[1] if t is None else t
        if self.readout == "rate":
            return np.asarray(self.output[:, :steps].mean(axis=1, dtype=np.float64))
        return np.asarray(self.output[:, steps - 1] / steps)

    def accuracy(self, labels: Array, t: int | None = None) -> float:
        """Share of samples whose highest score is the label's; the first class wins a tie."""
        return float((self.scores(t).argmax(axis=1) == labels).mean())


def run(
    graph: SpikingGraph,
    frames: Array,
    *,
    observe: Observer | None = None,
    progress: Callable[[int], None] | None = None,
    device: str | torch.device = "cpu",
    batch_size: int | None = None,
    dtype: torch.dtype | None = None,
) -> Run:
    """Run samples through a graph.

    Args:
        graph: float or integer.
        frames: what `graph.encode` returns: (N, *shape) for direct coding, (N, T, *shape) for spikes.
        observe: called for every node of every batch.
        progress: called with the number of samples done.
        device: where to compute.
        batch_size: samples at a time; chosen from the largest layer by default.
        dtype: torch.float32 or float64; float32 where that is exact by default.

    Raises:
        DeployError: frames of the wrong shape, or a sample too large for any memory.
    """
    spikes_in = graph.input.encoding == "spikes"
    expected = ((graph.T,) if spikes_in else ()) + graph.input.shape
    if frames.shape[1:] != expected or len(frames) == 0:
        raise DeployError(
            f"the emulator needs frames of shape (N, {', '.join(map(str, expected))}), not {frames.shape}"
        )
    largest = max(math.prod(shape) for shape in graph.shapes.values())
    if graph.T * largest > LARGEST:
        raise DeployError(
            f"one sample would take {graph.T * largest:.3g} values in the largest layer; run fewer time steps (T is {graph.T})"
        )
    plan = _Plan(graph, torch.device(device), dtype)
    if batch_size is None:
        # about 16 MB for the largest layer: larger batches gain nothing and fall out of the caches
        batch_size = max(1, 2**22 // (graph.T * largest))
    outputs = []
    with torch.inference_mode(), exact_arithmetic():
        for start in range(0, len(frames), batch_size):
            batch = torch.from_numpy(np.ascontiguousarray(frames[start : start + batch_size])).to(device)
            outputs.append(_run_batch(plan, batch, observe))
            if progress is not None:
                progress(min(start + batch_size, len(frames)))
    return Run(np.concatenate(outputs), graph.output.readout)


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Allow only kernels that add up products as they stand, so that sums of integers come out exact.

    NNPACK (Arm) and cuDNN may choose Winograd, whose transforms round; TF32 and bfloat16 modes drop bits.
    """
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.nnpack.flags(enabled=False), torch.backends.cudnn.flags(enabled=False, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


class Recorder:
    """An observer that keeps the spikes of neuron layers: `spikes[name]` is (N, T, *shape) uint8."""

    def __init__(self, graph: SpikingGraph) -> None:
        self._T = graph.T
        self._parts: dict[str, list[Array]] = {name: [] for name in graph.neurons}

    def __call__(self, name: str, values: Tensor) -> None:
        """Keep one batch of one node."""
        if name in self._parts:
            self._parts[name].append(values.movedim(0, 1).to(torch.uint8).cpu().numpy())

    @property
    def spikes(self) -> dict[str, Array]:
        """Neuron layer → (N, T, *shape) uint8, all batches together."""
        return {name: np.concatenate(parts) for name, parts in self._parts.items()}


# -- inside ------------------------------------------------------------------------------------------


class _Plan:
    """Everything about a graph that does not depend on the samples, on the device."""

    def __init__(self, graph: SpikingGraph, device: torch.device, dtype: torch.dtype | None) -> None:
        self.graph = graph
        self.sources = {name: graph.sources(name) for name in graph.nodes}
        self.uses = {name: len(graph.targets(name)) for name in graph.nodes}
        bounds = input_bounds(graph)
        if dtype is None:
            largest = [sum_bound(s, bounds[n], signed=is_signed(graph, n)) for n, s in graph.synapses.items()]
            exact = all(bound < EXACT_IN_FLOAT32 for bound in largest) or not graph.is_integer
            dtype = torch.float32 if exact else torch.float64
        self.dtype = dtype
        # Lava adds the bias behind the register that wraps and decays: where a current can do so, biases wait for the neuron
        self.integer = graph.is_integer
        self.wraps = self.integer and _can_wrap(graph, bounds)
        self.persists = {n: leak for n, node in graph.neurons.items() if (leak := node.current_leak)}
        ends = {*graph.neurons, graph.output_name}
        self.late = {
            n
            for n in graph.synapses
            if (self.wraps and ends.issuperset(graph.targets(n)))
            or not self.persists.keys().isdisjoint(graph.targets(n))
        }
        # a membrane takes in at most T currents: most can never reach the end of their register
        self.saturating = {
            n
            for n in graph.neurons
            if self.integer and (n in self.persists or graph.T * _current(graph, n, bounds) > MEMBRANE_MAX)
        }
        self.bounds = bounds
        self.biases = {n: None if s.bias is None else _tensor(s.bias, device, dtype) for n, s in graph.synapses.items()}
        self.products: dict[str, ByteProduct] = {}
        if self.integer and device.type == "cpu" and dtype == torch.float32:
            for name, synapse in graph.synapses.items():
                if not is_signed(graph, name):
                    product = byte_product(synapse, graph.in_shape(name), bounds[name])
                    if product is not None:
                        self.products[name] = product
        self._device, self._weights = device, dict[str, Tensor]()

    def weight(self, name: str) -> Tensor:
        """A synapse layer's weights as they multiply floats; most layers of an integer graph never ask."""
        if name not in self._weights:
            self._weights[name] = _tensor(self.graph.synapses[name].weight, self._device, self.dtype)
        return self._weights[name]

    def late_bias(self, name: str) -> Tensor | None:
        """The biases of all synapses that feed a neuron layer, shaped to broadcast over (N, *shape)."""
        found = [b for s in self.sources[name] if s in self.late and (b := self.biases[s]) is not None]
        dims = len(self.graph.shapes[name]) - 1
        return _add(*(b.reshape(-1, *[1] * dims) if b.ndim == 1 else b for b in found)) if found else None


def _tensor(values: Array, device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(values.astype(np.float32 if dtype == torch.float32 else np.float64)).to(device)


def _current(graph: SpikingGraph, name: str, bounds: Mapping[str, float], *, bias: bool = True) -> float:
    """The largest current that can reach a neuron layer or the output in one step."""
    synapses = graph.synapses
    into = [s for s in graph.sources(name) if s in synapses]
    return sum(sum_bound(synapses[s], bounds[s], bias=bias, signed=is_signed(graph, s)) for s in into)


def _can_wrap(graph: SpikingGraph, bounds: Mapping[str, float]) -> bool:
    ends = [*graph.neurons, graph.output_name]
    return any(_current(graph, end, bounds, bias=False) > CURRENT_LIMIT for end in ends)


def _run_batch(plan: _Plan, batch: Tensor, observe: Observer | None) -> Array:
    graph = plan.graph
    values: dict[str, Tensor] = {}
    waiting = dict(plan.uses)
    for name, node in graph.nodes.items():
        sources = plan.sources[name]
        if isinstance(node, Input):
            frames = _frames(plan, batch)
            value = frames.transpose(0, 1) if node.encoding == "spikes" else frames.unsqueeze(0)
        else:
            value = _add(*(_widened(values[s], plan.bounds[name], plan.dtype) for s in sources))
            value = _apply(plan, name, node, value)
        for s in sources:  # free what nobody needs any more: the memory of a deep network is one layer's
            waiting[s] -= 1
            if waiting[s] == 0:
                del values[s]
        if observe is not None:
            observe(name, value)
        values[name] = value
    output = values[graph.output_name].movedim(0, 1)
    if graph.output.readout == "rate":
        return output.to(torch.uint8).cpu().numpy()
    return output.double().cpu().numpy() / graph.output.scale


def _frames(plan: _Plan, batch: Tensor) -> Tensor:
    """Frames as bytes where that is what they hold: they are the caller's, and may hold anything."""
    node = plan.graph.input
    if plan.products:
        in_bytes = batch.to(torch.uint8)
        largest = (node.scale or 1) if node.encoding == "direct" else 1
        if torch.equal(in_bytes.to(batch.dtype), batch) and int(in_bytes.max()) <= largest:
            return in_bytes
    return batch.to(plan.dtype)


def _widened(x: Tensor, largest: float, dtype: torch.dtype) -> Tensor:
    """Bytes only where numbers up to `largest` fit."""
    return x.to(dtype) if x.dtype == torch.uint8 and largest > LARGEST_BYTE else x


def _add(first: Tensor, *others: Tensor) -> Tensor:
    total = first
    for other in others:
        total = total + other
    return total


def _apply(plan: _Plan, name: str, node: Node, x: Tensor) -> Tensor:
    T, shape = plan.graph.T, plan.graph.shapes[name]
    match node:
        case Conv2d() | Linear():
            return _synapse(plan, name, node, x)
        case MaxPool2d():
            if plan.graph.signals[name] == "spikes" or x.dtype == torch.uint8:
                return _per_frame(x, lambda y: _window(y, node, shape, torch.maximum))
            return _per_frame(x, lambda y: F.max_pool2d(y, node.kernel, node.stride, node.padding))
        case AvgPool2d():
            if (
                x.dtype == torch.uint8
                and node.divisor == 1
                and plan.bounds[name] * math.prod(node.kernel) <= LARGEST_BYTE
            ):
                return _per_frame(x, lambda y: _window(y, node, shape, torch.add))
            return _per_frame(
                x.to(plan.dtype),
                lambda y: F.avg_pool2d(y, node.kernel, node.stride, node.padding, divisor_override=node.divisor),
            )
        case Flatten():
            return x.flatten(2)
        case IF() | LIF():
            current, saturates = _membrane_input(plan, name, x), name in plan.saturating
            dtype = torch.uint8 if plan.products else plan.dtype
            return _fire(node, current, T, integer=plan.integer, saturates=saturates, dtype=dtype)
        case Output(readout="membrane"):
            return _integrate(_membrane_input(plan, name, x), T, integer=plan.integer)
        case Output():
            return x.expand(T, *x.shape[1:])
    raise AssertionError(f"unhandled node {node}")


def _per_frame(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    y = function(x.flatten(0, 1))
    return y.view(*x.shape[:2], *y.shape[1:])


def _window(
    x: Tensor, node: MaxPool2d | AvgPool2d, shape: Shape, combine: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Maxima or sums of values that are never negative, from shifted slices: faster than torch's pools on CPU."""
    (kh, kw), (sh, sw), (ph, pw) = node.kernel, node.stride, node.padding
    if ph or pw:
        x = F.pad(x, (pw, pw, ph, ph))
    height, width = shape[1:]
    rows = [x[..., a : a + sh * (height - 1) + 1 : sh, :] for a in range(kh)]
    x = functools.reduce(combine, rows)
    columns = [x[..., b : b + sw * (width - 1) + 1 : sw] for b in range(kw)]
    return functools.reduce(combine, columns)


def _synapse(plan: _Plan, name: str, node: AnySynapse, x: Tensor) -> Tensor:
    bias = None if name in plan.late else plan.biases[name]
    if bias is not None and bias.ndim > 1:  # a whole map, which no kernel takes
        return _products(plan, name, node, x, None) + bias
    return _products(plan, name, node, x, bias)


def _products(plan: _Plan, name: str, node: AnySynapse, x: Tensor, bias: Tensor | None) -> Tensor:
    """Weights times values, plus a bias per output channel if there is one."""
    product = plan.products.get(name)
    if product is not None and x.dtype == torch.uint8 and product.is_exact(x.shape[0] * x.shape[1]):
        return _per_frame(x, lambda y: product.multiply(y, bias))
    weight, x = plan.weight(name), x.to(plan.dtype)
    if isinstance(node, Linear):
        return F.linear(x, weight, bias)
    return _per_frame(x, lambda y: F.conv2d(y, weight, bias, node.stride, node.padding, node.dilation, node.groups))


def _membrane_input(plan: _Plan, name: str, x: Tensor) -> Tensor:
    """What reaches the membrane: where registers can wrap they wrap, a current that persists does, and then comes the bias."""
    if plan.wraps:
        # PyConvModelFixed keeps its sum in 24 bits; a dense layer's sum has 32, of which the neuron shifts six out
        bits = CONVOLUTION_BITS if len(plan.graph.shapes[name]) == 3 else DENSE_BITS
        x = torch.remainder(x.double() + 2 ** (bits - 1), 2**bits) - 2 ** (bits - 1)
    if name in plan.persists:
        x = _persist(x, plan.persists[name], plan.graph.T, integer=plan.integer)
    elif plan.wraps:
        x = _turned(x * FRACTION) / FRACTION
    x, bias = x.to(plan.dtype), plan.late_bias(name)
    return x if bias is None else x + bias


def _turned(u: Tensor) -> Tensor:
    """The current register of `PyLifModelBitAcc`: 24 bits, turned around once, not modulo."""
    u = torch.where(u > CURRENT_REGISTER, u - 2 * CURRENT_REGISTER, u)
    return torch.where(u <= -CURRENT_REGISTER, u + 2 * CURRENT_REGISTER, u)


def _persist(x: Tensor, leak: float, T: int, *, integer: bool) -> Tensor:
    """u ← leak·u + x over the time axis of x, (T or 1, N, *shape) to (T, N, *shape)."""
    steps = []
    u = torch.zeros_like(x[0], dtype=torch.float64 if integer else x.dtype)
    for t in range(T):
        step = x[t if len(x) > 1 else 0]
        # the register's sum is an int32 of Lava's before it is turned around
        u = _turned(_int32(_decayed(u, leak) + step.double() * FRACTION)) if integer else u * leak + step
        steps.append(u)
    return torch.stack(steps) / FRACTION if integer else torch.stack(steps)


def _int32(x: Tensor) -> Tensor:
    return torch.remainder(x + 2**31, 2**32) - 2**31


def _decayed(register: Tensor, leak: float) -> Tensor:
    """Loihi's 12-bit decay of a float64 register: |r|·(4096 − decay) >> 12, the sign kept."""
    return (register.abs() * round(leak * DECAY_ONE) / DECAY_ONE).floor() * register.sign()


def _fire(node: Neuron, x: Tensor, T: int, *, integer: bool, saturates: bool, dtype: torch.dtype) -> Tensor:
    """Integrate and fire over the time axis of x, (T or 1, N, *shape) to spikes (T, N, *shape) of type `dtype`."""
    spikes = _empty_steps(x, T, dtype)
    # Lava compares registers, v > (V − 1)·64: for whole numbers that is v ≥ V, and a membrane that
    # saturates or leaks to a fraction between V − 1 and V fires too
    compare, threshold = (torch.gt, node.threshold - 1) if integer else (torch.ge, node.threshold)
    v = torch.zeros_like(x[0])
    # a comparison cannot write bytes into what the membrane is then multiplied with
    room = None if spikes.dtype == v.dtype else torch.empty_like(v)
    for t in range(T):
        if isinstance(node, LIF):
            v = _leak(v, node.leak, integer=integer)
        v += x[t if len(x) > 1 else 0]
        if saturates:
            v.clamp_(-MEMBRANE_MAX, MEMBRANE_MAX)
        fired = spikes[t] if room is None else room
        compare(v, threshold, out=fired)
        if room is not None:
            spikes[t].copy_(fired)
        if node.reset == "hard":
            v.addcmul_(v, fired, value=-1)  # v − v·spike: several times faster than a masked fill, and as exact
        else:
            v.sub_(fired, alpha=node.threshold)
    return spikes.view(torch.uint8) if spikes.dtype == torch.int8 else spikes


def _empty_steps(x: Tensor, T: int, dtype: torch.dtype) -> Tensor:
    """Room for spikes (T, N, *shape), each step laid out in memory as those of x."""
    nhwc = x.ndim == 5 and x[0].is_contiguous(memory_format=torch.channels_last)
    # as int8: torch turns floats into uint8 several times slower
    room = torch.empty(
        (T * x.shape[1], *x.shape[2:]),
        dtype=torch.int8 if dtype == torch.uint8 else dtype,
        device=x.device,
        memory_format=torch.channels_last if nhwc else torch.contiguous_format,
    )
    return room.view(T, *x.shape[1:])


def _leak(v: Tensor, leak: float, *, integer: bool) -> Tensor:
    return (_decayed(v.double() * FRACTION, leak) / FRACTION).to(v.dtype) if integer else v * leak


def _integrate(x: Tensor, T: int, *, integer: bool) -> Tensor:
    """The membrane of neurons that never fire, after each step: (T, N, F)."""
    v = torch.zeros_like(x[0])
    steps = []
    for t in range(T):
        v = v + x[t if len(x) > 1 else 0]
        if integer:
            v = v.clamp(-MEMBRANE_MAX, MEMBRANE_MAX)
        steps.append(v)
    return torch.stack(steps)
