"""The optimizer, its schedule, and the running average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kdsnn.train.config import TrainConfig


def schedule(epoch: float, config: TrainConfig) -> float:
    """Compute the fraction of the peak learning rate at `epoch`, a real number in 0…epochs.

    Linear warm-up over `config.warmup` epochs, then half a cosine to 0, or the peak times `lr_decay` for every
    milestone (a fraction of all epochs) that has passed.
    """
    warmup = config.warmup
    if epoch < warmup:
        return epoch / warmup
    if config.schedule == "step":
        passed = sum(epoch >= milestone * config.epochs for milestone in config.milestones)
        return config.lr_decay**passed
    return 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (config.epochs - warmup)))


def optimizer_of(module: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Make SGD with Nesterov momentum, or AdamW, over every parameter of `module`.

    A step reads and writes each value once where torch has such kernels, and not once for each term of the update.
    """
    # one-dimensional parameters are biases and BatchNorm's scales: decaying them only fights the normalization
    decayed = [p for p in module.parameters() if p.requires_grad and p.ndim > 1]
    spared = [p for p in module.parameters() if p.requires_grad and p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    fused = all(_may_be_fused(p) for p in (*decayed, *spared)) or None  # else as torch chooses
    optimizer: torch.optim.Optimizer
    if config.optimizer == "adamw":
        optimizer = torch.optim.AdamW(groups, lr=config.lr, fused=fused)
    else:
        optimizer = torch.optim.SGD(
            groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0, fused=fused
        )
    if fused:
        optimizer.register_step_pre_hook(_lay_alike)
    return optimizer


def _may_be_fused(parameter: Tensor) -> bool:
    """Say whether the fused kernels take it: they go through memory from its first value on."""
    dense = parameter.stride() == torch.empty_like(parameter).stride()
    return dense and parameter.is_floating_point() and parameter.device.type in ("cpu", "cuda")


def _lay_alike(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Lay gradients and moments out as their parameters are: torch's fused kernels on a CPU take value after value of each
    and look at no stride, so that moments from a file, which keeps none, would meet other weights."""
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        if parameter.grad is not None:
            parameter.grad = _like(parameter.grad, parameter)
        moments = optimizer.state.get(parameter, {})
        for name, value in moments.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                moments[name] = _like(value, parameter)


def _like(values: Tensor, parameter: Tensor) -> Tensor:
    return values if values.stride() == parameter.stride() else torch.empty_like(parameter).copy_(values)


class Average:
    """The average of a network's weights and BatchNorm statistics moves exponentially: w̄ ← d w̄ + (1 - d) w.

    d is `decay`, and less in the first steps, min(decay, (1 + n) / (10 + n)) at step n = 1, 2, …, so that the
    random initial weights are soon forgotten.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = snapshot(module)

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Take in the weights of `module` after optimizer step `step`, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        now = module.state_dict()
        real = [name for name, tensor in now.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([self.tensors[n] for n in real], [now[n] for n in real], 1 - decay)
        for name in now.keys() - set(real):
            self.tensors[name].copy_(now[name])

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """Give `module` the averaged weights while the context is open."""
        own = snapshot(module)
        module.load_state_dict(self.tensors)
        try:
            yield
        finally:
            module.load_state_dict(own)


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """Copy the state dict."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def finite(module: nn.Module) -> bool:
    """Say whether every weight is finite. The loss cannot tell: a NaN current never reaches the threshold, so it is
    no spike."""
    tensors = [t for t in module.state_dict().values() if t.is_floating_point()]
    return bool(torch.stack([torch.isfinite(t).all() for t in tensors]).all())
