"""A torch module has FLOPs, multiply-accumulates and parameters whatever it is shown: this is what an ANN costs."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import thop
import torch
from thop.profile import register_hooks
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from exporters.errors import DeployError
from exporters.graph import Shape


@dataclass(frozen=True)
class ModuleCounts:
    """One sample costs this on its way through a torch module.

    Attributes:
        thop: what `thop.profile` returns. It is called FLOPs in papers (KDSNN's among them) but counts
            multiply-accumulates of convolutions and linear layers + 4 per element of an affine BatchNorm,
            plus pooling and softmax *modules*; ReLU is free.
        macs: multiply-accumulates of convolutions and matrix products, nothing else, padding included.
        parameters: all parameters.
        parameters_without_batchnorm: without BatchNorm's scales and shifts, which folding removes.
    """

    thop: int
    macs: int
    parameters: int
    parameters_without_batchnorm: int


def count_module(module: nn.Module, input_shape: Shape) -> ModuleCounts:
    """Count one sample of `input_shape` (without batch) through `module`, in evaluation mode, on the CPU; without a calculation
    where its parameters are on torch's meta device.

    A deep copy is counted, because thop leaves hooks and buffers behind. Layers that subclass torch's own
    (SpikingJelly's do, and thop would take them for zero) count as the layer they extend.

    Raises:
        DeployError: the module cannot run on such a sample.
    """
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    parameters = sum(p.numel() for p in module.parameters())
    normalizing = sum(p.numel() for p in {p for m in norms for p in m.parameters()})
    try:
        device = torch.device("meta" if any(p.is_meta for p in module.parameters()) else "cpu")
        replica = copy.deepcopy(module).to(device).float().eval()
        part: Any
        for part in replica.modules():
            if getattr(part, "step_mode", "s") == "m":  # SpikingJelly's (T, N, …) layers hide the channels from thop
                part.step_mode = "s"
        sample = torch.zeros(1, *input_shape, device=device)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            replica(sample)
        operations, _ = thop.profile(replica, (sample,), custom_ops=_inherited_hooks(replica), verbose=False)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DeployError(
            f"{type(module).__name__} does not run on a sample of shape {input_shape}: {reason}"
        ) from error
    # the counter calls a multiply-accumulate two operations
    return ModuleCounts(int(operations), counter.get_total_flops() // 2, parameters, parameters - normalizing)


def _inherited_hooks(module: nn.Module) -> dict[type, Any]:
    leaves = {type(m) for m in module.modules() if not list(m.children())}
    unknown = [kind for kind in leaves if kind not in register_hooks]
    found = {kind: next((register_hooks[b] for b in kind.__mro__ if b in register_hooks), None) for kind in unknown}
    return {kind: hook for kind, hook in found.items() if hook is not None}
