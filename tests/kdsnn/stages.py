"""The features of a network's stages, read while it runs, by other hooks than those of training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from kdsnn.models import StagedNetwork, stage_taps


@contextmanager
def stage_features(network: StagedNetwork) -> Iterator[list[Tensor]]:
    """While the context is open, a forward pass appends the feature (N, channels, H, W) of every tap to the list.

    ANN: before ReLU. SNN: firing rates, the mean over T of the spikes. Gradients flow as usual.
    """
    features: list[Tensor] = []

    def before_relu(module: nn.Module, args: tuple[Any, ...]) -> None:
        features.append(args[0])

    def firing_rate(module: nn.Module, args: tuple[Any, ...], spikes: Tensor) -> None:
        features.append(spikes.mean(0))

    handles = []
    for tap in stage_taps(network):
        module = network.get_submodule(tap.module)
        if network.spiking:
            handles.append(module.register_forward_hook(firing_rate))
        else:
            handles.append(module.register_forward_pre_hook(before_relu))
    try:
        yield features
    finally:
        for handle in handles:
            handle.remove()
