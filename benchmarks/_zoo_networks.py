"""SpikingJelly's own networks at full width, with random weights under which their neurons fire.

Its models and tutorials import packages for pictures, logs and downloads at their top (torchvision, matplotlib, …): empty
modules stand for these here, since none of them is part of a network.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import spikingjelly.activation_based.layer  # noqa: F401  before the stubs, with which a second copy of it would come and go
import torch
from spikingjelly.activation_based import base, functional, neuron, surrogate
from torch import Tensor, nn

T = 4
IMAGES, LARGER, EVENTS = (3, 32, 32), (3, 64, 64), (2, 128, 128)
PACKAGES = (
    "torchvision", "torchvision.models", "torchvision.models.utils", "torchvision._internally_replaced_utils",
    "torchvision.transforms", "torchvision.datasets", "torch.utils.tensorboard", "matplotlib", "matplotlib.pyplot", "tqdm",
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A network of the zoo: the module it is defined in, how it is made of that, and what it reads.

    `modes` are the step modes it can be in; a network that loops over time by itself has one.
    """

    module: str
    make: Callable[[Any], nn.Module]
    shape: tuple[int, ...]
    modes: tuple[str, ...] = ("m", "s")


def _if() -> dict[str, Any]:
    return {"spiking_neuron": neuron.IFNode, "surrogate_function": surrogate.ATan(), "detach_reset": True}


def _plif() -> dict[str, Any]:
    return {"spiking_neuron": neuron.ParametricLIFNode, "init_tau": 2.0, "surrogate_function": surrogate.ATan()}


def _named(module: str, name: str, shape: tuple[int, ...], neurons: Callable[[], dict[str, Any]], **how: Any) -> Entry:
    return Entry(f"model.{module}", lambda found: getattr(found, name)(**how, **neurons()), shape)


_VGG = {
    name: _named("spiking_vgg", name, IMAGES, _if, num_classes=10)
    for name in (f"spiking_vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn"))
}
_RESNET = {
    name: _named("spiking_resnet", name, LARGER, _if, num_classes=10)
    for name in (f"spiking_resnet{depth}" for depth in (18, 34, 50))
}
_SEW = {
    f"{name} {cnf}": _named("sew_resnet", name, LARGER, _if, num_classes=10, cnf=cnf)
    for name in (f"sew_resnet{depth}" for depth in (18, 34, 50))
    for cnf in ("ADD", "AND", "IAND")
}
_PLIF = {
    name: _named("parametric_lif_net", name, shape, _plif)
    for name, shape in (
        ("MNISTNet", (1, 28, 28)), ("FashionMNISTNet", (1, 28, 28)), ("NMNISTNet", (2, 34, 34)), ("CIFAR10Net", IMAGES),
        ("CIFAR10DVSNet", EVENTS), ("DVSGestureNet", EVENTS),
    )
}  # fmt: skip
_TUTORIALS = {
    "conv_fashion_mnist: CSNN": Entry(
        "examples.conv_fashion_mnist", lambda found: found.CSNN(T=T, channels=128), (1, 28, 28), ("m",)
    ),
    "lif_fc_mnist: SNN": Entry("examples.lif_fc_mnist", lambda found: found.SNN(tau=2.0), (1, 28, 28)),
    "lava_mnist: MNISTNet": Entry("examples.lava_mnist", lambda found: found.MNISTNet(16), (1, 28, 28), ("m",)),
    "rsnn_sequential_fmnist: PlainNet": Entry("examples.rsnn_sequential_fmnist", lambda found: found.PlainNet(), (28,)),
    "rsnn_sequential_fmnist: StatefulSynapseNet": Entry(
        "examples.rsnn_sequential_fmnist", lambda found: found.StatefulSynapseNet(), (28,)
    ),
    "rsnn_sequential_fmnist: FeedBackNet": Entry(
        "examples.rsnn_sequential_fmnist", lambda found: found.FeedBackNet(), (28,)
    ),
    "cifar10_r11_…: ResNet11": Entry(
        "examples.cifar10_r11_enabling_spikebased_backpropagation", lambda found: found.ResNet11(), IMAGES, ("s",)
    ),
}
ZOO: dict[str, Entry] = {**_VGG, **_RESNET, **_SEW, **_PLIF, **_TUTORIALS}


def build(name: str, mode: str) -> nn.Module:
    """A network of the zoo in a step mode, in eval mode, with weights of seed 0 under which neurons fire."""
    entry = ZOO[name]
    with _without_packages():
        found = importlib.import_module(f"spikingjelly.activation_based.{entry.module}")
    torch.manual_seed(0)
    module = entry.make(found)
    functional.set_step_mode(module, mode)
    _settle(module, entry.shape, mode)
    return module.eval()


@contextmanager
def _without_packages() -> Iterator[None]:
    with mock.patch.dict(sys.modules, {name: mock.MagicMock(name=name) for name in PACKAGES}):
        yield


def _settle(module: nn.Module, shape: tuple[int, ...], mode: str) -> None:
    """Weights and statistics with which neurons fire neither always nor never, from one batch of random images.

    BatchNorm takes the batch's statistics; a layer without one gets weights that spread its currents as these do.
    """
    layers = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.BatchNorm2d)]
    bare = [m for m, after in zip(layers, [*layers[1:], None], strict=True) if not isinstance(after, nn.BatchNorm2d)]
    for m in layers:
        if isinstance(m, nn.BatchNorm2d):
            m.momentum = None
            m.weight.data.uniform_(0.5, 1.0)
            m.bias.data.uniform_(0.0, 0.4)

    handles: dict[nn.Module, Any] = {}

    def spread(m: Any, _: Any, currents: Tensor) -> Tensor:
        factor = 0.8 / currents.std().clamp_min(1e-6)
        m.weight.data *= factor
        if m.bias is not None:
            m.bias.data *= factor
        handles.pop(m).remove()
        return currents * factor

    for m in bare:
        if not isinstance(m, nn.BatchNorm2d):
            handles[m] = m.register_forward_hook(spread)
    forward(module.train(), shape, mode, images=4)


def firing_rates(module: nn.Module, shape: tuple[int, ...], mode: str) -> list[float]:
    """The share of neurons that fire per step, layer by layer, on one random image; also what one forward is."""
    rates: dict[nn.Module, list[float]] = {}

    def keep(layer: nn.Module, _: Any, spikes: Tensor) -> None:
        rates.setdefault(layer, []).append(float(spikes.mean()))

    neurons = [m for m in module.modules() if isinstance(m, base.MemoryModule | neuron.SimpleIFNode)]
    hooks = [m.register_forward_hook(keep) for m in neurons if not list(m.children()) or hasattr(m, "v_threshold")]
    try:
        forward(module, shape, mode)
    finally:
        for hook in hooks:
            hook.remove()
    return [sum(found) / len(found) for found in rates.values()]


def forward(module: nn.Module, shape: tuple[int, ...], mode: str, *, images: int = 1) -> None:
    """One forward of one random image, or of several, over T steps, as the author would call it."""
    frame = torch.rand(images, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        if mode == "s":
            for _ in range(T):
                module(frame)
        elif hasattr(module, "T"):
            module(frame)
        else:
            module(frame.expand(T, *frame.shape))
    functional.reset_net(module)
