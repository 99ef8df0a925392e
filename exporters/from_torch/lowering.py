"""The state of one lowering: the graph so far, the layers met, and what each neuron layer has done up to now."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from exporters.from_torch.decode import Arrival, Read
from exporters.from_torch.refusals import NEAREST, LoweringError, node_name, user_line, without_counterpart
from exporters.from_torch.values import Affine, Origin
from exporters.graph import AnySynapse, Array, Shape
from exporters.graph.currents import GraphBuilder
from exporters.graph.nodes import Reset


@dataclass(frozen=True)
class Constants:
    """A neuron does u ← current_leak·u + gain·x, v ← leak·v + u, and fires where v ≥ threshold (one, or one per neuron);
    before the first step v = start."""

    threshold: Array
    leak: float
    reset: Reset
    gain: float = 1.0
    current_leak: float = 0.0
    start: float = 0.0


@dataclass(eq=False)
class NeuronLayer:
    """A neuron layer of the new graph has run so many steps.

    Attributes:
        name: for messages.
        origin: its spikes.
        key: what it is, which must be the same at every step.
        shift: the constant that arrives at every step beside signals and currents.
        gain: what multiplies all that arrives at each channel, or nothing.
        arrivals: what arrives at each step, as far as its steps have told.
        steps: done so far.
        state: what stands for its membrane in the module, between steps.
    """

    name: str
    origin: Origin
    key: Hashable
    shift: float | Array = 0.0
    gain: Array | None = None
    arrivals: tuple[Arrival, ...] = ()
    steps: int = 0
    state: Any = None

    @property
    def node(self) -> str:
        """Its node in the graph."""
        return self.origin.nodes[0]


@dataclass(frozen=True)
class Found:
    """What the second step of neurons that a network writes out tells of them. One threshold, or one for each neuron."""

    leak: float
    threshold: float | Array
    reset: Reset
    bias: float | Array


@dataclass(eq=False)
class Written:
    """A layer of neurons that the network writes out itself.

    Attributes:
        layer: its spikes, steps and what arrives; the shift is less the threshold.
        gated: the origin of its membrane where it fires, else 0.
        strict: whether it fires above its threshold and not at it.
        differences: what it compared with zero at each step, in the layout of the network.
        found: its numbers, once a second step has told.
        site: the place in the user's code where the last step was compared.
    """

    layer: NeuronLayer
    gated: Origin
    strict: bool
    differences: list[Affine] = field(default_factory=list)
    found: Found | None = None
    site: Hashable = ()


class Lowering:
    """A lowering is one run of the network's forward on symbolic values, and the graph that comes of it.

    Attributes:
        T: time steps.
        samples: of the batch that is pushed through.
        dtype: of the network.
        builder: the graph so far.
        stack: the modules that are running, from the outermost: (path, module).
        origins: what has been read before, by what tells it from other things.
        layers: float64 layers by module and weights.
        neurons: neuron layers by what they stand for.
        written: of these, neurons that the network writes out itself, by what they read at first.
        unknowns: results of functions that no graph has, by what tells them from others, and what they are of.
        firing: nodes that fire, with their shapes.
        delays: nodes that give what a node gave some steps before, by that node and the steps.
        notes: what the user should know, by node.
        declared: neurons that the user declared, by the identity of their modules, as they were found to be.
        weights_of: node → what tells its weights from others.
        progress: layers met so far, which tells how far a run that failed has come.
        is_busy: while the package itself computes, and not the network.
        execute: what does operations on symbolic tensors.
    """

    def __init__(self, T: int, samples: int, parameters: Sequence[Tensor]) -> None:
        self.T = T
        self.samples = samples
        self.dtype = next((p.dtype for p in parameters if p.is_floating_point()), torch.float32)
        self.builder = GraphBuilder()
        self.stack: list[tuple[str, nn.Module]] = []
        self.origins: dict[Hashable, Origin] = {}
        self.layers: dict[Hashable, AnySynapse] = {}
        self.neurons: dict[Hashable, NeuronLayer] = {}
        self.written: dict[Hashable, Written] = {}
        self.unknowns: dict[Hashable, tuple[Origin, tuple[Any, ...]]] = {}
        self.firing: dict[str, Shape] = {}
        self.delays: dict[tuple[str, int], str] = {}
        self.notes: dict[str, str] = {}
        self.declared: dict[int, Constants] = {}
        self.weights_of: dict[str, Hashable] = {}
        self.progress = 0
        self.is_busy = False
        self.execute: Callable[..., Any]
        self._parameters = {p.untyped_storage().data_ptr() for p in parameters}

    def close(self) -> None:
        """Let go of what refers back to this: the numbers of large maps would wait for the garbage collector."""
        del self.execute
        self.neurons.clear()
        self.unknowns.clear()

    @property
    def where(self) -> str:
        """The innermost module that is running, as a message names it."""
        if not self.stack:
            return "the network"
        path, module = self.stack[-1]
        return path or type(module).__name__

    @property
    def name(self) -> str:
        """The innermost module that is running, as its node is named."""
        return node_name(*self.stack[-1]) if self.stack else "network"

    def error(self, problem: str, where: str | None = None) -> LoweringError:
        """A refusal that names the module and the user's line."""
        return LoweringError(f"{self.where if where is None else where}: {problem}{user_line()}")

    def unknown(self, operation: str) -> LoweringError:
        """The refusal of an operation that a spiking network has not."""
        module = self.stack[-1][1] if self.stack else None
        if module is not None and not list(module.children()):
            advice = NEAREST.get(operation, f"of its operation {operation.strip('_')!r} there is no spiking form")
            return self.error(f"{type(module).__name__} cannot be lowered; {advice}")
        return self.error(without_counterpart(operation))

    @contextmanager
    def busy(self) -> Iterator[None]:
        """While it lasts, tensors that are made are this package's own."""
        before, self.is_busy = self.is_busy, True
        try:
            yield
        finally:
            self.is_busy = before

    def identified(self, weight: Tensor) -> Hashable:
        """What tells a weight from others: parameters by their place in memory, what was computed by its numbers."""
        if weight.untyped_storage().data_ptr() in self._parameters:
            return (weight.data_ptr(), weight._version, tuple(weight.shape), weight.stride(), weight.dtype)
        return (hashlib.blake2b(float64(weight).tobytes()).digest(), tuple(weight.shape))


def float64(tensor: Tensor) -> Array:
    """A tensor's numbers."""
    return np.asarray(tensor.detach().cpu().to(torch.float64).contiguous().numpy())


def as_bytes(numbers: float | Array | None) -> Hashable:
    """What tells factors, features or shifts from others."""
    return (numbers.shape, numbers.tobytes()) if isinstance(numbers, np.ndarray) else numbers


def key_of(reads: Sequence[Read], shift: float | Array) -> Hashable:
    """What tells one sum of reads from others, whatever their steps and samples."""
    return (
        *((id(r.origin), as_bytes(r.features), as_bytes(r.scale)) for r in reads),
        as_bytes(shift),
    )


def as_shift(numbers: Array, shape: tuple[int, ...]) -> Affine:
    """Constants of each channel, or of each feature, as a value of shape (1, *shape)."""
    values = torch.from_numpy(np.ascontiguousarray(numbers, np.float64))
    if values.ndim < len(shape):
        values = values.reshape(-1, *[1] * (len(shape) - 1))
    return Affine((1, *shape), (), values[None])
