"""The paper's students at full width, and SpikingJelly's own models, all the way to real Lava."""

from __future__ import annotations

import json
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

from exporters import netx
from exporters.errors import DeployError
from exporters.from_torch import from_torch
from exporters.graph import SpikingGraph
from exporters.passes.chain import member_spikes, to_chain
from exporters.passes.quantize import quantize
from hardware.emulator import Recorder, run
from hardware.lava import client
from kdsnn import models
from tests.integration.test_cli import cli

T = 4


def settle(net: nn.Module, shape: tuple[int, ...], seed: int = 0) -> nn.Module:
    """Random weights, but BatchNorm statistics of what really flows: rates as in a trained network, not 0 or 1."""
    torch.manual_seed(seed)
    for m in net.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            m.momentum = None  # the plain average over the passes below
            nn.init.uniform_(m.bias, 0, 0.6)
    net.train()
    with torch.no_grad():
        for _ in range(2):
            functional.reset_net(net)
            net(torch.rand(T, 4, *shape))
    functional.reset_net(net)
    return net.eval()


def spikes(graph: SpikingGraph, x: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    recorder = Recorder(graph)
    output = run(graph, graph.encode(x), observe=recorder).output
    return recorder.spikes, output


def assert_deploys(graph: SpikingGraph, path: Path, samples: int, *, on_lava: bool = True) -> None:
    """Graph, chain, file and Lava give the same spikes, and these are neither none nor all."""
    chained = to_chain(graph)
    netx.write(chained, path)
    assert netx.validate(path) == []
    x = np.random.default_rng(0).integers(0, 256, (samples, *graph.input.shape)) / 255
    expected, output = spikes(graph, x)
    for name, found in member_spikes(chained, spikes(chained, x)[0]).items():
        if name in expected:
            np.testing.assert_array_equal(found, expected[name], err_msg=name)
    rates = [s.mean() for s in expected.values()]
    assert 0.03 < np.mean(rates) < 0.6, rates
    if on_lava:
        frames = np.repeat(chained.encode(x).astype(np.int32)[:, None], T, axis=1)
        found = client.run(path, frames, T=T, message_bits=8, fast_conv=True)
        np.testing.assert_array_equal(found.spikes, output)
        assert found.spikes.any()


@pytest.mark.usefixtures("lava_environment")
@pytest.mark.parametrize(
    ("name", "shape", "samples"),
    [
        ("cnn2", (1, 28, 28), 5), ("resnet14", (3, 32, 32), 5), ("wrn16-2", (3, 32, 32), 2),
        ("vgg11", (3, 32, 32), 1), ("resnet18", (3, 32, 32), 1),
    ],
)  # fmt: skip
def test_students_of_the_paper(tmp_path: Path, name: str, shape: tuple[int, int, int], samples: int) -> None:
    net = settle(models.build(name, spiking=True, input_shape=shape, classes=10), shape)
    graph, _ = quantize(from_torch(net, shape, T))
    assert_deploys(graph, tmp_path / f"{name}.net", samples)


def test_what_no_chip_can_relay_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    """PreResNet20 carries the first convolution's analog currents past its first neurons."""
    net = models.build("preresnet20", spiking=True, input_shape=(3, 32, 32), classes=10)
    graph, _ = quantize(from_torch(settle(net, (3, 32, 32)), (3, 32, 32), T))
    with pytest.raises(DeployError, match="the analog input skips this layer"):
        netx.write(to_chain(graph), tmp_path / "x.net")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def zoo(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """SpikingJelly's models; they import torchvision's download helper, for which a stand-in will do."""
    try:
        import torchvision  # noqa: F401
    except Exception:
        for name in ("torchvision", "torchvision.models", "torchvision.models._utils", "torchvision.models.utils"):
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        sys.modules["torchvision"].models = sys.modules["torchvision.models"]  # type: ignore[attr-defined]
        for name in ("torchvision.models._utils", "torchvision.models.utils"):
            sys.modules[name].load_state_dict_from_url = None  # type: ignore[attr-defined]
    from spikingjelly.activation_based import model

    yield model


def narrow(vgg: nn.Module) -> nn.Module:
    """The same network with a narrower classifier: 64 × 25,088 weights say as much as 4,096 × 25,088 do."""
    old = vgg.classifier
    old[0], old[3], old[6] = layer.Linear(512 * 49, 64), layer.Linear(64, 64), layer.Linear(64, old[6].out_features)
    return vgg


def integer_weights(graph: SpikingGraph) -> None:
    for synapse in graph.synapses.values():
        assert np.array_equal(synapse.weight, np.rint(synapse.weight))


@pytest.mark.parametrize("kind", ["spiking_vgg11_bn", "spiking_resnet18", "sew_resnet18"])
def test_spikingjellys_own_models(zoo: types.ModuleType, tmp_path: Path, kind: str) -> None:
    """At CIFAR's input size; with integer weights the emulator must spike as the float network does."""
    from spikingjelly.activation_based.model import sew_resnet, spiking_resnet, spiking_vgg

    options = {"spiking_neuron": neuron.IFNode, "num_classes": 4}
    builders = {
        "spiking_vgg11_bn": lambda: narrow(spiking_vgg.spiking_vgg11_bn(pretrained=False, **options)),
        "spiking_resnet18": lambda: spiking_resnet.spiking_resnet18(pretrained=False, **options),
        "sew_resnet18": lambda: sew_resnet.sew_resnet18(pretrained=False, cnf="ADD", **options),
    }
    torch.manual_seed(0)
    net = builders[kind]()
    functional.set_step_mode(net, "m")
    shape = (3, 32, 32)
    make_integer(net)
    graph = from_torch(net.eval(), shape, T)
    integer_weights(graph)
    x = np.random.default_rng(1).integers(0, 2, (2, *shape)).astype(np.float32)  # black or white: integers too
    recorder = Recorder(graph)
    run(graph, x, observe=recorder, dtype=torch.float64)
    found = spikes_of_module(net.double(), torch.from_numpy(x).double())
    assert len(found) == len(recorder.spikes)
    for name, expected in found.items():
        np.testing.assert_array_equal(recorder.spikes[name], expected, err_msg=name)
    rate = np.mean([s.mean() for s in found.values()])
    assert 0.02 < rate < 0.9, rate


FACTORIES = """
    from spikingjelly.activation_based import functional, neuron
    from spikingjelly.activation_based.model import sew_resnet, spiking_resnet, spiking_vgg

    from tests.integration.test_whole_networks import narrow, settle

    def ready(net, size):
        functional.set_step_mode(net, "m")
        return settle(net, (3, size, size))

    def spiking_vgg11_bn():
        return ready(narrow(spiking_vgg.spiking_vgg11_bn(spiking_neuron=neuron.IFNode, num_classes=4)), 32)

    def spiking_resnet18():
        return ready(spiking_resnet.spiking_resnet18(spiking_neuron=neuron.IFNode, num_classes=4), 16)

    def sew_resnet18():
        return ready(sew_resnet.sew_resnet18(spiking_neuron=neuron.IFNode, num_classes=4, cnf="ADD"), 16)
"""


@pytest.mark.usefixtures("zoo")
@pytest.mark.parametrize(("kind", "size"), [("spiking_vgg11_bn", 32), ("sew_resnet18", 16)])
def test_spikingjellys_own_models_as_netx(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, size: int
) -> None:
    """From the command line, stem of 7×7 with stride 2 and padded max-pool included: written, read back, run, compared."""
    (tmp_path / "zoo_factories.py").write_text(textwrap.dedent(FACTORIES))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "zoo_factories", raising=False)
    done = cli(
        "export", f"zoo_factories:{kind}", "--to", "netx", "--input-shape", f"3,{size},{size}", "--timesteps", T,
        "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    (row,) = json.loads(done.stdout)["files"]
    assert row["mismatches"] == 0 and row["verified"] > 10**5
    path = tmp_path / "out" / f"{kind}.net"
    assert str(path) == row["path"] and netx.validate(path) == []
    chained = netx.read(path)
    x = np.random.default_rng(1).random((1, 3, size, size))
    rates = [s.mean() for s in spikes(chained, x)[0].values()]
    assert 0.02 < np.mean(rates) < 0.7 and rates[-1] > 0, rates


def make_integer(net: nn.Module) -> None:
    """Small integer weights, thresholds near the spread of the currents, BatchNorm that shifts by integers."""
    spread = 1
    for m in net.modules():
        if isinstance(m, nn.Conv2d | nn.Linear):
            m.weight.data = torch.randint(-3, 4, m.weight.shape).float()
            spread = int(m.weight[0].numel() ** 0.5)
            if m.bias is not None:
                m.bias.data = torch.randint(-2, 3, m.bias.shape).float()
        elif isinstance(m, nn.BatchNorm2d):
            m.eps = 0.0
            m.running_mean.copy_(torch.randint(-3, 4, m.running_mean.shape))
            m.bias.data = torch.randint(-2, 2 + spread // 2, m.bias.shape).float()
        elif isinstance(m, neuron.BaseNode):
            m.v_threshold = float(max(2, spread))


def spikes_of_module(net: nn.Module, x: torch.Tensor) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    hooks = [
        m.register_forward_hook(lambda m, a, out, name=name: found.update({name: out.movedim(0, 1).numpy()}))
        for name, m in net.named_modules()
        if isinstance(m, neuron.BaseNode)
    ]
    functional.reset_net(net)
    with torch.no_grad():
        net(x.expand(T, *x.shape))
    for hook in hooks:
        hook.remove()
    return found
