"""Logits of a spiking student: what stands before the softmax where neurons fire.

A firing rate lies in 0…1. Taken as a logit it can never be sure: with K classes softmax ends at e / (e + K - 1), which is
0.23 for 10 classes and 0.027 for 100, so that no loss comes near 0 and no teacher's distribution is within reach. A
positive factor on all rates changes neither their arg max nor the network that is deployed, and lets softmax say anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from spikingjelly.activation_based import neuron
from torch import Tensor, nn

from kdsnn.errors import KdsnnError
from kdsnn.train.calling import CallingConvention, black, device_of, neuron_layers, trial
from kdsnn.train.config import EVERY_STEP, Method, TrainConfig

SUREST = 1000.0
"""How much likelier than all others together a class can be whose neurons always fire while no other's do."""


def automatic_scale(classes: int) -> float:
    """Compute ln(1000 (K - 1)): on rates of 1 for one class and 0 for K - 1 others, softmax then gives 1000 / 1001."""
    return math.log(SUREST * max(1, classes - 1))


class Logits(nn.Module):
    """Rates become logits: a student's outputs (T, N, K), `unit` where a neuron always fires, times a positive factor.

    The factor is `fixed`, or where that is 0 learned with the student, from 1 to at most `automatic_scale`: raw rates as long as
    few neurons fire as they should, sure ones later. It has no part in the student, its checkpoint or its exports.

    The gradient with respect to the rates leaves the factor out, and is that of loss / factor: a learning rate that suits rates
    still does. A large factor from the first step, in the gradient most of all, silences output neurons, for good.
    """

    def __init__(self, unit: float, classes: int, fixed: float = 0.0) -> None:
        super().__init__()
        self.unit, self.fixed, self.largest = unit, fixed, automatic_scale(classes)
        if not fixed:
            self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, output: Tensor) -> Tensor:
        """Compute float32 logits of `output`."""
        rates = output.float() / self.unit
        if self.fixed:
            return self.fixed * rates.detach() + (rates - rates.detach())
        with torch.no_grad():
            self.log_scale.clamp_(0, math.log(self.largest))
        return self.log_scale.exp() * rates.detach() + (rates - rates.detach())


def logits_of(
    network: nn.Module, convention: CallingConvention, input_shape: tuple[int, ...], method: Method, config: TrainConfig
) -> Logits | None:
    """Make what turns a student's output into logits; None for an output that is no rate: currents are logits as they are.

    Raises KdsnnError where a method that teaches every step by itself would be given logits which can never be sure.
    """
    unit, classes = full_rate(network, convention, input_shape, config.T)
    if unit is None:
        return None
    scale = config.logit_scale
    if method in EVERY_STEP and 0 < scale <= math.log(max(1, classes - 1)):
        raise KdsnnError(
            f"logit_scale is {scale:g}: method {method} cannot teach {classes} classes with spikes of that weight, which are "
            f"never surer of one than of all others together; take 0, a scale that is learned, or {automatic_scale(classes):.3g}."
        )
    return Logits(unit, classes, scale).to(device_of(network))


def full_rate(
    network: nn.Module, convention: CallingConvention, input_shape: tuple[int, ...], T: int
) -> tuple[float | None, int]:
    """Measure what each class is given where all neurons fire at every step, and count the classes.

    None: the output is no rate, because it differs from class to class then, or is not 0 where no neuron fires. The
    mean of a class's output neurons gives 1, their sum over time T, a sum over groups of ten 10. The network is left as
    it was, at rest.
    """
    images = black(network, input_shape, T)
    with trial(network):
        outputs = []
        for value in (1.0, 0.0):
            with _all_fire(network, value):
                outputs.append(convention.run(network, images, T).float())
    firing, silent = outputs
    unit, classes = float(firing.flatten()[0]), firing.shape[-1]
    is_rate = unit > 0 and not bool(silent.any()) and torch.allclose(firing, torch.full_like(firing, unit), rtol=1e-4)
    return (unit if is_rate else None), classes


@contextmanager
def _all_fire(network: nn.Module, value: float) -> Iterator[None]:
    """Inside, every spiking neuron of `network` gives `value` whatever it is given."""

    def replaced(module: nn.Module, args: tuple[Any, ...], spikes: Tensor) -> Tensor:
        return torch.full_like(spikes, value)

    silent = (neuron.NonSpikingBaseNode, neuron.NoisyNonSpikingBaseNode)
    spiking = [node for _, node in neuron_layers(network) if not isinstance(node, silent)]
    handles = [node.register_forward_hook(replaced) for node in spiking]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
