"""Networks in time that a user brings: every verb takes them, on frames of flat samples and of signals (C, L)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

import kdsnn

T = 6


class ByHand(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.back, self.out = nn.Linear(70, 12), nn.Linear(12, 12), nn.Linear(12, 4)
        self.hidden = neuron.LIFNode(v_threshold=0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spikes, out = torch.zeros(x.shape[1], 12).to(x), []
        for frame in x:
            spikes = self.hidden(self.fc(frame) + self.back(spikes))
            out.append(self.out(spikes))
        return torch.stack(out)


def contained() -> nn.Module:
    net = nn.Sequential(
        layer.Linear(70, 12), layer.LinearRecurrentContainer(neuron.LIFNode(v_threshold=0.2), 12, 12), layer.Delay(1),
        layer.Linear(12, 4), neuron.IFNode(v_threshold=0.3),
    )  # fmt: skip
    functional.set_step_mode(net, "m")
    return net


def signals() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 4, 5, stride=2), nn.BatchNorm1d(4), neuron.LIFNode(v_threshold=0.2), nn.Flatten(), nn.Linear(32, 4),
        neuron.IFNode(v_threshold=0.3),
    )  # fmt: skip


@pytest.mark.parametrize(("make", "shape"), [(ByHand, (70,)), (contained, (70,)), (signals, (2, 20))])
def test_every_verb_takes_it(make, shape: tuple[int, ...], tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = kdsnn.lower(make().eval(), input_shape=shape, T=T, input_coding="spikes")
    assert network.proof is not None and network.proof.ok and network.proof.ties == 0
    inner = network.graph.input.shape
    x = (np.random.default_rng(0).random((12, T, *inner)) < 0.2).astype(np.uint8)
    y = np.arange(12) % 4
    np.savez(tmp_path / "frames.npz", x_test=x, y_test=y)
    found = kdsnn.run(network, f"npz:{tmp_path / 'frames.npz'}", on=["torch", "emulator"], samples=5)
    (author,) = (c for c in found.comparisons if c.reference == "spikingjelly")
    assert author.mismatches == author.hidden == 0 and author.proof.ties == 0 and author.hidden_compared
    assert kdsnn.check(network, "loihi1").to_dict()
    (student,) = kdsnn.profile(network, (x, y), samples=len(x)).to_dict()["students"]
    assert student["float_run"]["synops"]["mean"] > 0
    if make is ByHand:
        assert student["float_run"]["synops"]["mean"] == pytest.approx(synaptic_operations(network.module, x))


def synaptic_operations(net: ByHand, x: np.ndarray) -> float:
    """By the module's own spikes: what was fired at the last step comes back no more."""
    fired: list[torch.Tensor] = []
    hook = net.hidden.register_forward_hook(lambda m, given, spikes: fired.append(spikes.sum()))
    functional.reset_net(net)
    with torch.no_grad():
        net(torch.from_numpy(x).float().transpose(0, 1))
    hook.remove()
    functional.reset_net(net)
    total = 12 * x.sum() + 12 * sum(fired[:-1]) + 4 * sum(fired)
    return float(total) / len(x)
