"""A faster way through SpikingJelly's neurons on a CPU, with the same spikes and the same gradients.

SpikingJelly has fused kernels for CUDA; on a CPU it runs a dozen passes over memory per time step. Here BatchNorm,
neurons and the 2×2 maximum behind them are one layer: two passes over the currents forward, two backward, compiled by
numba (`kernels`). Where numba is missing, or a layer is too small to pay for a compiler, torch's own operations compute
the same (`plain`). The modules stay SpikingJelly's: only their `forward` is exchanged, and only inside `fused`.

A network of this project resets before each batch, calls every layer once and never looks at a membrane, nor at what
lies between BatchNorm and neurons. Any other module may call a layer again, read `v` or look on the way, so there only
neurons are exchanged; they keep their membranes, with gradients, and once a layer has one it goes on in SpikingJelly's
own way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from spikingjelly.activation_based import layer
from torch import Tensor, nn

from kdsnn.models import StagedNetwork
from kdsnn.train.fast_neurons.compiled import BatchMoments, Layer, Plan, channels_innermost, statistics, usable
from kdsnn.train.fast_neurons.dynamics import Dynamics, dynamics_of
from kdsnn.train.fast_neurons.plain import Fire
from kdsnn.train.fast_neurons.successions import Succession, successions

__all__ = ["fused"]


@contextmanager
def fused(network: nn.Module) -> Iterator[None]:
    """Inside, the neurons of `network` that the fast ways know run through them while they are on a CPU and at rest,
    and in this project's networks BatchNorm before and 2×2 maxima behind them too.

    Those networks leave their membranes alone and start every call from rest, so it is for code that resets the network
    before each batch.
    """
    ours = {part for whole in network.modules() if isinstance(whole, StagedNetwork) for part in whole.modules()}
    known = {module: dynamics for module in network.modules() if (dynamics := dynamics_of(module)) is not None}
    layers = {node: _Fused(node, dynamics, node in ours) for node, dynamics in known.items()}
    exchanged = {node: found.fire for node, found in layers.items()}
    for succession in successions(network):
        first, second = succession.first, succession.second
        if second in layers and type(first) is layer.BatchNorm2d:
            layers[second].before = succession
            exchanged[first] = layers[second].normalize
        elif first in layers and _halves(second):
            layers[first].behind = succession
            exchanged[second] = layers[first].pool
    exchanged = {module: forward for module, forward in exchanged.items() if "forward" not in vars(module)}
    for module, forward in exchanged.items():
        module.forward = forward
    try:
        yield
    finally:
        for module in exchanged:
            del module.forward


@dataclass(eq=False)
class _Fused:
    """Neurons, with the BatchNorm before and the maximum behind them where there are some and nobody looks between.

    The BatchNorm then gives its input on, and `normalized` holds it for the neurons; they give the maximum's output,
    and `pooled` holds that for the maximum, which gives it on.
    """

    node: Any
    dynamics: Dynamics
    ours: bool
    before: Succession | None = None
    behind: Succession | None = None
    normalized: Tensor | None = field(default=None, init=False)
    pooled: Tensor | None = field(default=None, init=False)

    def normalize(self, x: Tensor) -> Tensor:
        """Stand in for the BatchNorm."""
        bn: Any = self.before.first  # type: ignore[union-attr]
        self.normalized = None
        if self._at_rest and self.before.unseen and _batch_norm_known(bn, x) and usable(x):  # type: ignore[union-attr]
            self.normalized = x
            return x
        own: Tensor = type(bn).forward(bn, x)
        return own

    def fire(self, x: Tensor) -> Tensor:
        """Stand in for the neurons."""
        normalized, self.normalized, self.pooled = self.normalized, None, None
        if not self._at_rest or (normalized is None and not usable(x)):
            return self._fire_plainly(x)
        behind = self.behind is not None and self.behind.unseen and channels_innermost(x[:1])
        pooled = behind and min(x.shape[-2:]) > 1
        once = _same_at_every_step(x) if self.ours else None
        current = x if once is None else once
        bn: Any = None if normalized is None else self.before.first  # type: ignore[union-attr]
        batch = None if bn is None else _batch(bn, current, len(x if normalized is None else normalized))
        plan = Plan(self.dynamics, len(x), batch, pooled, kept=not self.ours)
        scales = (None, None) if bn is None else (bn.weight, bn.bias)
        spikes, v = Layer.apply(current, *scales, plan)  # type: ignore[no-untyped-call]
        if not self.ours:
            self.node.v = v
        if pooled:
            self.pooled = spikes
        fired: Tensor = spikes
        return fired

    def pool(self, x: Tensor) -> Tensor:
        """Stand in for the maximum."""
        done, self.pooled = self.pooled is x, None
        module: Any = self.behind.second  # type: ignore[union-attr]
        return x if done else type(module).forward(module, x)

    @property
    def _at_rest(self) -> bool:
        return isinstance(self.node.v, float) and self.node.v == 0.0

    def _fire_plainly(self, x: Tensor) -> Tensor:
        if x.is_cuda or x.dtype == torch.float64 or not self._at_rest or not self.dynamics.usual:
            own: Tensor = type(self.node).forward(self.node, x)
            return own
        d = self.dynamics
        leak = 1.0 if d.charge == "integrate" else 1.0 - 1.0 / d.tau
        spikes, v = Fire.apply(x, leak, d.threshold, d.alpha, not self.ours)  # type: ignore[no-untyped-call]
        if not self.ours:
            self.node.v = v
        fired: Tensor = spikes
        return fired


def _halves(module: Any) -> bool:
    """Say whether a module is a 2×2 maximum of stride 2 that leaves an odd last row or column out."""
    if type(module) is not layer.MaxPool2d or module.step_mode != "m" or module.return_indices or module.ceil_mode:
        return False
    pairs = (module.kernel_size, module.stride, module.padding, module.dilation)
    return [pair if isinstance(pair, tuple) else (pair, pair) for pair in pairs] == [(2, 2), (2, 2), (0, 0), (1, 1)]


def _batch_norm_known(bn: Any, x: Tensor) -> bool:
    """Say whether a BatchNorm is in training, keeps its statistics as usual, and its input (T, N, C, H, W) lies well."""
    usual = bn.training and bn.step_mode == "m" and bn.track_running_stats and bn.momentum is not None
    return usual and x.dim() == 5 and x.shape[2] == bn.num_features and channels_innermost(x[:1])


def _same_at_every_step(x: Tensor) -> Tensor | None:
    """Find the current (1, …) that was expanded to `x` (T, …), with its gradient; None where it was not."""
    if len(x) == 1 or x.stride(0) != 0:
        return None
    if not x.requires_grad:
        return x[:1]
    base = x._base  # what the view was taken of, ahead of every view in between
    if base is None or base.data_ptr() != x.data_ptr() or base.numel() != x[0].numel() or not base.requires_grad:
        return None
    for shape in (x.shape[1:], (1, *x.shape[1:])):
        if base.shape == shape and base.stride()[-len(x.shape[1:]) :] == x.stride()[1:]:
            return base if len(shape) == x.dim() else base.unsqueeze(0)
    return None


@torch.no_grad()
def _batch(bn: Any, x: Tensor, steps: int) -> BatchMoments:
    """Measure the batch and take it into the running statistics, as that of `steps` steps even where x is (1, …)."""
    mean, variance = statistics(x.detach())
    count = steps * (x[0].numel() // x.shape[2])
    bn.num_batches_tracked.add_(1)
    found = (torch.from_numpy(mean), torch.from_numpy(variance * (count / max(1, count - 1))))
    for running, now in zip((bn.running_mean, bn.running_var), found, strict=True):
        running.lerp_(now.to(running.dtype), bn.momentum)
    return BatchMoments(mean, (variance + bn.eps) ** -0.5)
