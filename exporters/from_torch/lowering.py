"""The state of one lowering: the graph so far, the layers met, and what each neuron layer has done up to now."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from exporters.from_torch.decode import Read
from exporters.from_torch.refusals import NEAREST, LoweringError, node_name, user_line, without_counterpart
from exporters.from_torch.values import Affine, Source
from exporters.graph import AnySynapse, Array
from exporters.graph.currents import GraphBuilder


@dataclass(eq=False)
class NeuronLayer:
    """A neuron layer of the new graph, and how far it has run.

    Attributes:
        name: for messages.
        source: its spikes.
        key: what it reads, which must be the same at every step.
        steps: done so far.
    """

    name: str
    source: Source
    key: Hashable
    steps: int = 0


class Lowering:
    """One run of the network's forward on symbolic values.

    Attributes:
        T: time steps.
        samples: of the batch that is pushed through.
        builder: the graph so far.
        stack: the modules that are running, from the outermost: (path, module).
        sources: what has been read before, by what tells it from other things.
        layers: float64 layers by module and weights.
        neurons: neuron layers by what they stand for.
        notes: what the user should know, by node.
        weights_of: node → what tells its weights from others.
        progress: layers met so far, which tells how far a run that failed has come.
        is_busy: while the package itself computes, and not the network.
    """

    def __init__(self, T: int, samples: int, parameters: Sequence[Tensor]) -> None:
        self.T = T
        self.samples = samples
        self.builder = GraphBuilder()
        self.stack: list[tuple[str, nn.Module]] = []
        self.sources: dict[Hashable, Source] = {}
        self.layers: dict[Hashable, AnySynapse] = {}
        self.neurons: dict[Hashable, NeuronLayer] = {}
        self.fires: set[str] = set()
        self.written: dict[Hashable, Any] = {}
        self.dtype = torch.float32
        self.notes: dict[str, str] = {}
        self.weights_of: dict[str, Hashable] = {}
        self.progress = 0
        self.is_busy = False
        self._parameters = {p.untyped_storage().data_ptr() for p in parameters}
        self._kept: list[Any] = []

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
        *((id(r.source), as_bytes(r.features), as_bytes(r.scale)) for r in reads),
        as_bytes(shift),
    )


def as_shift(numbers: Array, shape: tuple[int, ...]) -> Affine:
    """Constants of each channel, or of each feature, as a value of shape (1, *shape)."""
    values = torch.from_numpy(np.ascontiguousarray(numbers, np.float64))
    if values.ndim < len(shape):
        values = values.reshape(-1, *[1] * (len(shape) - 1))
    return Affine((1, *shape), (), values[None])
