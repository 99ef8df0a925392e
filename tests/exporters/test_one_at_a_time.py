"""Neurons for all steps that get time and samples as one axis: right for one sample at a time, and so they are lowered."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

import kdsnn
from exporters.from_torch import LoweringError, lower_module
from hardware.emulator import Recorder, run
from kdsnn.deploy.author import run_author

SHAPE, T = (1, 6, 6), 3


class Inside(nn.Module):
    """Whole blocks, neurons included, are called on (T·N, …)."""

    def __init__(self, last: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.block = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), neuron.LIFNode(step_mode="m"), nn.MaxPool2d(2)
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(36, 5))
        self.last = neuron.IFNode(step_mode="m") if last is None else last
        with torch.no_grad():
            for weights in (self.block[0].weight, self.head[1].weight):  # so that layers fire
                weights.mul_(4)

    def forward(self, x):
        return self.last(functional.seq_to_ann_forward(functional.seq_to_ann_forward(x, self.block), self.head))


def called(net: nn.Module, x: np.ndarray) -> np.ndarray:
    """What it gives for samples (N, …), the same at every step: (N, T, F)."""
    functional.reset_net(net)
    with torch.no_grad():
        return net(torch.from_numpy(x).expand(T, *x.shape)).transpose(0, 1).numpy()


def samples(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, *SHAPE)) / 255 * 2


def test_the_graph_is_the_network_on_one_sample_at_a_time() -> None:
    net = Inside().double().eval()
    found = lower_module(net, SHAPE, T)
    assert found.calling.alone and found.calling.way == "frames"
    assert "one sample at a time" in found.notes["block.2"]
    x = samples(4)
    recorder = Recorder(found.graph)
    run(found.graph, x, observe=recorder, dtype=torch.float64)
    alone = np.concatenate([called(net, sample[None]) for sample in x])
    np.testing.assert_array_equal(recorder.spikes["last"], alone)
    assert 0 < alone.mean() < 1
    assert (called(net, x) != alone).any()  # which is why it has to be told


def test_the_module_is_run_so_beside_the_graph() -> None:
    net = Inside().double().eval()
    found = lower_module(net, SHAPE, T)
    x = samples(4)
    ran = run_author(net, found.graph, found.calling, x)
    np.testing.assert_array_equal(ran.output, np.concatenate([called(net, sample[None]) for sample in x]))
    assert ran.spikes["block.2"].shape == (4, T, 4, 6, 6)


def test_the_user_is_told_and_the_proof_holds() -> None:
    with pytest.warns(kdsnn.errors.Notice, match=r"block\.2: .*one sample at a time"):
        network = kdsnn.lower(Inside(), input_shape=SHAPE, T=T)
    assert network.proof is not None and network.proof.ok and network.proof.compared > 0


@pytest.mark.parametrize("single", [True, False])
def test_a_step_mode_that_is_wrong_stays_refused(single: bool) -> None:
    """An image goes through neurons for all steps: its samples would be their steps. One sample would make that look right."""
    first = layer.Conv2d(1, 4, 3)
    net = nn.Sequential(
        first, neuron.IFNode(step_mode="m"), nn.Flatten(), nn.Linear(64, 5), neuron.IFNode(step_mode="m")
    )
    with pytest.raises(LoweringError, match="no axis of time before that of the 2 samples"):
        lower_module(net if single else nn.Sequential(net), SHAPE, T)


def test_calls_in_the_right_way_do_not_change() -> None:
    assert not lower_module(nn.Sequential(layer.Linear(4, 3), neuron.IFNode()), (4,), T).calling.alone
