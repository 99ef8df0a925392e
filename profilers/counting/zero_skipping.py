"""A zero-skipping accelerator does only those multiply-accumulates of an ANN whose activation is not zero.

ReLU networks are sparse too. An SNN that is set beside a dense ANN only gets the credit for that sparsity.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from exporters.errors import DeployError
from profilers.counting.flops import count_module
from profilers.counting.sizes import LayerShape

Weighted = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear


@dataclass(frozen=True, eq=False)
class ActiveMacs:
    """A torch module multiplied this, over N samples.

    Attributes:
        shapes: its convolutions and linear layers, in the order in which they first ran.
        layers: per layer (N,) multiply-accumulates whose activation is not zero, exact at borders: padding is
            zero, so it never counts. The weight may be zero.
        dense: multiply-accumulates of one pass, padding included (`flops.ModuleCounts.macs`).
        other: those of `dense` that no convolution or linear layer does (attention, say); never skipped.
    """

    shapes: Mapping[str, LayerShape]
    layers: Mapping[str, NDArray[np.int64]]
    dense: int
    other: int

    @property
    def active(self) -> NDArray[np.int64]:
        """So many multiply-accumulates per sample are done, (N,)."""
        return sum(self.layers.values(), np.full_like(next(iter(self.layers.values())), self.other))

    @property
    def mean_by_layer(self) -> dict[str, float]:
        """The mean over samples of each of `layers` is what `operations.zero_skipping_ann` takes."""
        return {name: float(counts.mean()) for name, counts in self.layers.items()}


def active_macs(module: nn.Module, samples: torch.Tensor, *, batch_size: int = 64) -> ActiveMacs:
    """Run `samples` (N, *shape) through a copy of `module` in evaluation mode, on its own device, and count.

    Raises:
        DeployError: no samples, no convolution or linear layer, one that runs more than once per sample or sums
            over the batch, or a module that cannot run on such samples.
    """
    if len(samples) == 0:
        raise DeployError("there are no samples to run; give at least one")
    kind = type(module).__name__
    dense = count_module(module, tuple(samples.shape[1:])).macs
    replica = copy.deepcopy(module).eval()
    counter = _Counter(replica)
    with torch.no_grad(), counter.attached():
        for start in range(0, len(samples), batch_size):
            batch = samples[start : start + batch_size]
            replica(batch)
            counter.check_batch(len(batch))
    if not counter.shapes:
        raise DeployError(f"{kind} has no convolution and no linear layer that runs; there is nothing to count")
    layers = {name: np.concatenate(parts) for name, parts in counter.counts.items()}
    other = dense - sum(shape.macs for shape in counter.shapes.values())
    return ActiveMacs(MappingProxyType(counter.shapes), MappingProxyType(layers), dense, other)


class _Counter:
    """The counter's hooks look at what arrives at every weighted layer."""

    def __init__(self, module: nn.Module) -> None:
        self._layers = {n: m for n, m in module.named_modules() if isinstance(m, Weighted)}
        self._fan_out: dict[str, torch.Tensor] = {}
        self._runs: dict[str, int] = {}
        self.shapes: dict[str, LayerShape] = {}
        self.counts: dict[str, list[NDArray[np.int64]]] = {}

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        handles = [
            layer.register_forward_hook(
                lambda layer, inputs, output, name=name: self._see(name, layer, inputs[0], output)
            )
            for name, layer in self._layers.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def check_batch(self, size: int) -> None:
        """Every layer that ran must have run once, on all samples of the batch."""
        for name, runs in self._runs.items():
            if runs != 1:
                raise DeployError(
                    f"layer {name} runs {runs} times per sample; layers that are shared cannot be counted"
                )
            if len(self.counts[name][-1]) != size:
                raise DeployError(f"layer {name} does not keep the samples on its first axis; it cannot be counted")
        self._runs.clear()

    def _see(self, name: str, layer: Weighted, x: torch.Tensor, output: torch.Tensor) -> None:
        self._runs[name] = self._runs.get(name, 0) + 1
        if name not in self.shapes:
            self.shapes[name] = _shape(layer, x, output)
            self._fan_out[name] = _fan_out(layer, x)
            self.counts[name] = []
        # products of zeros and ones with whole numbers: exact in float64
        counts = (x != 0).flatten(1).double() @ self._fan_out[name]
        self.counts[name].append(counts.to(torch.int64).cpu().numpy())


def _shape(layer: Weighted, x: torch.Tensor, output: torch.Tensor) -> LayerShape:
    weights, inputs, outputs = layer.weight.numel(), x[0].numel(), output[0].numel()
    biases = 0 if layer.bias is None else layer.bias.numel()
    convolution = not isinstance(layer, nn.Linear)
    per_output = weights // layer.weight.shape[0]
    kernel_words = weights // layer.weight.shape[1] if convolution else 0
    return LayerShape(convolution, inputs, outputs, weights, biases, outputs * per_output, kernel_words)


def _fan_out(layer: Weighted, x: torch.Tensor) -> torch.Tensor:
    """(F,) outputs that each input element reaches: the gradient of their sum if every weight were one."""
    if isinstance(layer, nn.Linear):
        return torch.full((x[0].numel(),), float(layer.out_features), dtype=torch.float64, device=x.device)
    with torch.enable_grad():
        probe = torch.zeros_like(x[:1], dtype=torch.float64, requires_grad=True)
        # with the layer's own padding, whatever its mode
        total = layer._conv_forward(probe, torch.ones_like(layer.weight, dtype=torch.float64), None).sum()
        (reached,) = torch.autograd.grad(total, probe)
    return reached.flatten()
