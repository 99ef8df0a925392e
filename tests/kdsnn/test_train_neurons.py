"""The fused neurons against SpikingJelly's own; bf16; twins."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn

from kdsnn.data import DataSet
from kdsnn.models import build
from kdsnn.train import TrainConfig, distill, evaluate, pretrain
from kdsnn.train.fast_neurons import fused

QUICK = TrainConfig(epochs=2, batch_size=16, lr=0.05, warmup_epochs=0, T=3)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data() -> DataSet:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (32, 1, 8, 8)).astype(np.uint8), np.arange(32) % 4
    return DataSet("dots", images, labels, images[:20], labels[:20], classes=4)


def network(spiking=True, name="cnn2", **more):
    torch.manual_seed(0)
    options = {"channels": (4, 8), "hidden": 16} if name == "cnn2" else {}
    return build(name, spiking=spiking, input_shape=(1, 8, 8), classes=4, **options, **more)


@pytest.mark.parametrize("kind", ["if", "lif"])
@pytest.mark.parametrize("name", ["cnn2", "resnet14"])
def test_same_spikes_and_gradients(kind, name):
    x = torch.rand(6, 1, 8, 8)
    found = []
    for fast in (False, True):
        net = network(name=name, neuron=kind, readout="membrane")
        if fast:
            with fused(net):
                assert any("forward" in vars(module) for module in net.modules())
                out = net.forward_static(x, 5)
        else:
            out = net.forward_static(x, 5)
        out.square().sum().backward()
        found.append((out.detach(), [p.grad for p in net.parameters()]))
    assert not any("forward" in vars(module) for module in net.modules())
    assert torch.equal(found[0][0], found[1][0])
    for a, b in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_one_neuron_by_hand():
    node = neuron.LIFNode(
        tau=2.0, decay_input=False, surrogate_function=surrogate.ATan(), detach_reset=True, step_mode="m"
    )
    x = torch.tensor([[0.6], [0.8], [0.5], [0.7]], dtype=torch.float32, requires_grad=True)
    with fused(node):
        spikes = node(x)
    h = [0.6, 1.1, 0.5, 0.95]  # fires at the second step and starts again from 0
    assert spikes.flatten().tolist() == [0.0, 1.0, 0.0, 0.0]
    spikes.backward(torch.tensor([[1.0], [2.0], [3.0], [4.0]]))
    slope = [1 / (1 + (math.pi * (v - 1)) ** 2) for v in h]  # α = 2
    g3 = 4 * slope[3]
    g2 = 3 * slope[2] + 0.5 * g3
    g1 = 2 * slope[1]  # reset: nothing flows back through the spike
    g0 = slope[0] + 0.5 * g1
    assert x.grad.flatten().tolist() == pytest.approx([g0, g1, g2, g3], rel=1e-5)


@pytest.mark.parametrize(
    "other",
    [
        {"surrogate_function": surrogate.Erf()},
        {"step_mode": "s"},
        {"store_v_seq": True},
        {"v_reset": -0.1},
    ],
)
def test_other_neurons_keep_their_own_way(other):
    usual = {"surrogate_function": surrogate.ATan(), "detach_reset": True, "step_mode": "m", "v_reset": 0.0}
    node = neuron.IFNode(**{**usual, **other})
    with fused(nn.Sequential(node, neuron.ParametricLIFNode(step_mode="m"))) as _:
        assert "forward" not in vars(node)


def test_bf16_runs_and_keeps_membranes_in_fp32(data):
    config = replace(QUICK, precision="bf16", epochs=4, batch_size=32)
    teacher = pretrain(network(spiking=False), data, config)
    assert math.isfinite(teacher.history[-1].loss)
    for method in ("response", "feature", "temporal", "selective", "none"):
        trained = distill(network(readout="membrane"), data, config, method=method, teacher=teacher.module)
        assert trained.history[-1].loss < trained.history[0].loss
        assert all(t.dtype != torch.bfloat16 for t in trained.module.state_dict().values())
    # 100 currents of 2^-7: a bf16 membrane would stop growing at 1, a float32 one fires at the 128th
    node = neuron.IFNode(surrogate_function=surrogate.ATan(), detach_reset=True, step_mode="m")
    x = torch.full((300, 1), 2.0**-9, dtype=torch.bfloat16)
    x[0] = 0.5
    with fused(node):
        spikes = node(x)
    assert spikes.dtype == torch.bfloat16 and spikes.flatten().nonzero().flatten().tolist() == [256]


def test_every_step_is_measured(data):
    trained = distill(network(readout="membrane"), data, QUICK, method="temporal", teacher=network(spiking=False))
    assert trained.history[-1].by_step == evaluate(trained.module, data, T=3)
    assert len(trained.history[-1].by_step) == 3


def test_augment_is_seen_and_seeded(data):
    seen = []

    def flip(images, generator):
        seen.append(torch.rand(1, generator=generator).item())
        assert images.dtype == torch.uint8
        return images.flip(-1)

    runs = [pretrain(network(spiking=False), data, QUICK, augment=flip).module for _ in range(2)]
    assert seen[:4] == seen[4:] and len(set(seen)) == 4
    assert torch.equal(runs[0].stem.conv.weight, runs[1].stem.conv.weight)


def test_static_network_that_is_not_ours(data):
    class Foreign(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = layer.Linear(64, 4, step_mode="m")
            self.node = neuron.IFNode(step_mode="m", surrogate_function=surrogate.ATan())

        def forward_static(self, x, T):
            return self.node(self.linear(x.flatten(1).expand(T, -1, -1)))

    module = Foreign()
    assert math.isfinite(distill(module, data, QUICK, method="none").history[-1].loss)
    functional.reset_net(module)
