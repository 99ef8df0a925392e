"""The networks and images that benchmarks share, and the files of them that the command line reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from spikingjelly.activation_based import functional

from exporters.graph import Array
from hardware.emulator import neurons
from kdsnn import checkpoint, models

T = 4
MNIST, CIFAR = (1, 28, 28), (3, 32, 32)


def settled(name: str, shape: tuple[int, int, int], *, steps: int = T, **options: Any) -> models.Network:
    """A network with random weights whose BatchNorm statistics fit, so that neurons fire as in a trained one."""
    torch.manual_seed(0)
    net = models.build(name, spiking=True, input_shape=shape, classes=10, **options)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        net.train()(torch.rand(steps, 8, *shape))
    functional.reset_net(net)
    return net.eval()


def pictures(count: int, shape: tuple[int, int, int]) -> Array:
    """Random pixels / 255, (count, C, H, W) float32."""
    return (np.random.default_rng(0).integers(0, 256, (count, *shape)) / np.float32(255)).astype(np.float32)


def in_a_long_run() -> None:
    """From now on the emulator computes as in a run long enough for its compiled neurons; the warm-up compiles them."""
    neurons.expect(neurons.PAYS)


def inference(net: torch.nn.Module, x: Array) -> Callable[[], object]:
    """SpikingJelly's own inference of a batch: the module on the images, repeated T times."""
    batch = torch.from_numpy(x)

    def function() -> object:
        functional.reset_net(net)
        with torch.inference_mode():
            return net(batch.expand(T, *batch.shape))

    return function


def write_checkpoint(folder: Path, name: str, shape: tuple[int, int, int], **options: Any) -> Path:
    """A student's checkpoint, untrained, NAME.safetensors."""
    spiking: dict[str, Any] = {"readout": "rate", "neuron": "if", "T": T}
    info = checkpoint.CheckpointInfo(name, True, shape, 10, "random", options, **spiking)
    path = folder / f"{name}.safetensors"
    checkpoint.save(path, settled(name, shape, **options), info)
    return path


def write_data(folder: Path, count: int, shape: tuple[int, int, int]) -> Path:
    """`count` random test images with labels, as the command line's npz:FILE."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (count, *shape), np.uint8)
    y = np.arange(count) % 10
    path = folder / "random.npz"
    np.savez(path, x_train=x[:64], y_train=y[:64], x_test=x, y_test=y)
    return path
