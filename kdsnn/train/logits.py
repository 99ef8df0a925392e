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
from kdsnn.train.calling import CallingConvention, device_of, neuron_layers, trial
from kdsnn.train.config import Method, TrainConfig

SUREST = 1000.0
"""How much likelier than all others together a class is whose neurons always fire while no other's do."""


def automatic_scale(classes: int) -> float:
    """Compute ln(1000 (K - 1)): on rates of 1 for one class and 0 for K - 1 others, softmax then gives 1000 / 1001."""
    return math.log(SUREST * max(1, classes - 1))


def logit_scale(
    network: nn.Module, convention: CallingConvention, input_shape: tuple[int, ...], method: Method, config: TrainConfig
) -> float:
    """Compute the factor on a student's output that makes logits of it.

    It is `config.logit_scale`, or `automatic_scale` where that is 0, for each unit of `full_rate`, and 1 for an output
    that is no rate: currents are logits as they are.

    Raises KdsnnError where a method that teaches every step by itself would be given logits which can never be sure.
    """
    unit, classes = full_rate(network, convention, input_shape, config.T)
    if unit is None:
        return 1.0
    scale = config.logit_scale or automatic_scale(classes)
    if method in ("temporal", "selective") and math.exp(scale) <= classes - 1:
        raise KdsnnError(
            f"logit_scale is {scale:g}: method {method} cannot teach {classes} classes with spikes of that weight, which are "
            f"never surer of one than of all others together; take 0 for {automatic_scale(classes):.3g}, the automatic scale."
        )
    return scale / unit


def full_rate(
    network: nn.Module, convention: CallingConvention, input_shape: tuple[int, ...], T: int
) -> tuple[float | None, int]:
    """Measure what each class is given where all neurons fire at every step, and count the classes.

    None: the output is no rate, because it differs from class to class then, or is not 0 where no neuron fires. The
    mean of a class's output neurons gives 1, their sum over time T, a sum over groups of ten 10. The network is left as
    it was, at rest.
    """
    images = torch.zeros(2, *input_shape, device=device_of(network))
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
