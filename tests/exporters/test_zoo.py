"""SpikingJelly's own models and tutorials: every layer spikes as theirs does."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn

from tests.exporters.faithful import assert_faithful
from tests.networks import randomize


def model(name: str) -> Any:
    """A module of `spikingjelly.activation_based.model`; they import torchvision for weights that nobody downloads here."""
    names = ("torchvision", "torchvision.models", "torchvision.models.utils", "torchvision._internally_replaced_utils")
    stubs = {n: types.ModuleType(n) for n in names}
    for stub in stubs.values():
        stub.load_state_dict_from_url = None  # type: ignore[attr-defined]
    with mock.patch.dict(sys.modules, stubs):
        return importlib.import_module(f"spikingjelly.activation_based.model.{name}")


IF = {"spiking_neuron": neuron.IFNode, "surrogate_function": surrogate.ATan(), "detach_reset": True}
PLIF = {"spiking_neuron": neuron.ParametricLIFNode, "init_tau": 2.0, "surrogate_function": surrogate.ATan()}


def resnet(module: str, name: str, **how: Any) -> nn.Module:
    return getattr(model(module), name)(num_classes=10, **IF, **how)


def vgg() -> nn.Module:
    """With a narrower classifier: 4,096 × 25,088 weights say no more than 64 × 25,088 do."""
    net = model("spiking_vgg").spiking_vgg11_bn(num_classes=10, **IF)
    net.classifier[0], net.classifier[3] = layer.Linear(512 * 49, 64), layer.Linear(64, 64)
    net.classifier[6] = layer.Linear(64, 10)
    return net


class CSNN(nn.Module):
    """The tutorial's: its own T, the mean at the end."""

    def __init__(self, T: int = 4, channels: int = 8) -> None:
        super().__init__()
        self.T = T
        self.conv_fc = nn.Sequential(
            layer.Conv2d(1, channels, 3, padding=1, bias=False), layer.BatchNorm2d(channels), neuron.IFNode(), layer.MaxPool2d(2, 2),
            layer.Conv2d(channels, channels, 3, padding=1, bias=False), layer.BatchNorm2d(channels), neuron.IFNode(), layer.MaxPool2d(2, 2),
            layer.Flatten(), layer.Linear(channels * 49, channels * 16, bias=False), neuron.IFNode(),
            layer.Linear(channels * 16, 10, bias=False), neuron.IFNode(),
        )  # fmt: skip
        functional.set_step_mode(self, "m")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv_fc(x.unsqueeze(0).expand(self.T, -1, -1, -1, -1)).mean(0)


ZOO: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "spiking_resnet18": (lambda: resnet("spiking_resnet", "spiking_resnet18"), (3, 32, 32)),
    "spiking_resnet50": (lambda: resnet("spiking_resnet", "spiking_resnet50"), (3, 16, 16)),
    **{f"sew_resnet18 {cnf}": (lambda cnf=cnf: resnet("sew_resnet", "sew_resnet18", cnf=cnf), (3, 32, 32)) for cnf in ("ADD", "AND", "IAND")},
    "sew_resnet50 ADD": (lambda: resnet("sew_resnet", "sew_resnet50", cnf="ADD"), (3, 16, 16)),
    "spiking_vgg11_bn": (vgg, (3, 32, 32)),
    "ms_resnet": (lambda: model("ms_resnet").MSResNet(T=2, num_classes=10, base_channels=8), (3, 32, 32)),
    "MNISTNet": (lambda: model("parametric_lif_net").MNISTNet(channels=8, **PLIF), (1, 28, 28)),
    "FashionMNISTNet": (lambda: model("parametric_lif_net").FashionMNISTNet(channels=8, **PLIF), (1, 28, 28)),
    "NMNISTNet": (lambda: model("parametric_lif_net").NMNISTNet(channels=8, **PLIF), (2, 34, 34)),
    "CIFAR10Net": (lambda: model("parametric_lif_net").CIFAR10Net(channels=8, **PLIF), (3, 32, 32)),
    "CIFAR10DVSNet": (lambda: model("parametric_lif_net").CIFAR10DVSNet(channels=4, **PLIF), (2, 128, 128)),
    "DVSGestureNet": (lambda: model("parametric_lif_net").DVSGestureNet(channels=4, **PLIF), (2, 128, 128)),
}  # fmt: skip


@pytest.mark.parametrize("name", ZOO)
def test_models_spike_as_spikingjelly_has_them(name: str) -> None:
    make, shape = ZOO[name]
    torch.manual_seed(0)
    net = make()
    functional.set_step_mode(net, "m")
    randomize(net, 1)
    found = assert_faithful(net, shape, 2, n=1)
    assert not any("understood" in note for note in found.notes.values())


def test_online_learning_model() -> None:
    net = model("spiking_vggws_ottt").OTTTSpikingVGG(
        cfg=[8, "M", 8, "A"], num_classes=10, spiking_neuron=neuron.OTTTLIFNode
    )
    net.classifier[2] = layer.Linear(8, 10)
    assert assert_faithful(net, (3, 8, 8), 3).calling.way == "step"


@pytest.mark.parametrize("T", [1, 4])
def test_tutorial_csnn(T: int) -> None:
    net = CSNN(T)
    randomize(net, 2)
    found = assert_faithful(net, (1, 28, 28), T, n=2)
    assert (found.calling.way, found.calling.returned) == ("image", "mean")
    functional.set_step_mode(net.conv_fc, "s")
    assert_faithful(net.conv_fc, (1, 28, 28), 4, n=2)
