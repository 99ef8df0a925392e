"""How public networks write their neurons and surrogate gradients: each idiom in a small network beside its graph."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from exporters.from_torch import LoweringError, lower_module
from exporters.graph import IF, LIF
from tests.exporters.faithful import assert_faithful

pytestmark = pytest.mark.usefixtures("in_float64")


# -- gradients written straight through ----------------------------------------------------------------


def squashed(v):
    """A function that is computed once, and cancels itself."""
    soft = torch.tanh(3 * torch.clamp(v, -1, 1)) / (2 * np.tanh(3.0)) + 0.5
    return ((v >= 0).to(v) - soft).detach() + soft


def computed_twice(v):
    slope = torch.tensor([2.0])
    return torch.sigmoid(slope * v) + ((v >= 0).to(v) - torch.sigmoid(slope * v)).detach()


def heaviside(v):
    return torch.heaviside(v, torch.ones(1, dtype=v.dtype))


class Surrogate(nn.Module):
    """Neurons whose spikes come from such a function."""

    def __init__(self, fire: Callable) -> None:
        super().__init__()
        self.fire = fire

    def forward(self, x):
        v, out = torch.zeros_like(x[0]), []
        for current in x:
            v = 0.5 * v + current
            spike = self.fire(v - 1.0)
            v = v * (1 - spike)
            out.append(spike)
        return torch.stack(out)


class Spiking(nn.Module):
    def __init__(self, fire: Callable) -> None:
        super().__init__()
        self.conv, self.first, self.fc, self.second = (
            nn.Conv2d(1, 4, 3, padding=1), Surrogate(fire), nn.Linear(256, 5), Surrogate(fire),
        )  # fmt: skip

    def forward(self, x):
        spikes = self.first(2 * self.conv(x).repeat(4, 1, 1, 1, 1))
        return self.second(self.fc(spikes.flatten(2))).mean(0)


@pytest.mark.parametrize("fire", [squashed, computed_twice, heaviside])
def test_what_a_surrogate_gradient_adds_it_takes_away(fire: Callable) -> None:
    found = assert_faithful(Spiking(fire), (1, 8, 8), 4)
    assert [(type(n), n.threshold, n.leak) for n in found.graph.neurons.values()] == [(LIF, 1.0, 0.5)] * 2


@pytest.mark.parametrize(
    ("fire", "what"),
    [
        (torch.sigmoid, "sigmoid|Surrogate cannot be lowered"),
        (lambda v: torch.sigmoid(v) + ((v >= 0).to(v) - 2 * torch.sigmoid(v)).detach(), "Surrogate cannot be lowered"),
        (lambda v: torch.sigmoid(v) + ((v >= 0).to(v) - torch.sigmoid(2 * v)).detach(), "Surrogate cannot be lowered"),
    ],
)
def test_what_is_left_of_it_is_refused_where_it_was_computed(fire: Callable, what: str) -> None:
    with pytest.raises(LoweringError, match=rf"first: ({what}).*{__file__.rpartition('/')[2]}:\d+"):
        lower_module(Spiking(fire), (1, 8, 8), 4)


@pytest.mark.parametrize("kind", [nn.ReLU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Hardtanh])
def test_functions_of_anns_are_refused_by_the_name_of_their_layer(kind: type[nn.Module]) -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), kind(), nn.Flatten(), nn.Linear(144, 3))
    with pytest.raises(LoweringError, match=rf"^1: {kind.__name__} cannot be lowered; "):
        lower_module(net, (1, 8, 8), 2)


def test_what_nothing_reads_may_be_anything() -> None:
    class Watched(nn.Module):
        """Keeps the product of its spikes with a function of its currents, for a penalty in training."""

        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 4)

        def forward(self, x):
            v, total = 0.0, 0
            for _ in range(4):
                current = self.fc(x)
                v = v + current
                spike = (v >= 0.3).to(x)
                self.penalty = torch.tanh(current) * spike
                v, total = v - 0.3 * spike, total + spike
            return total

    found = assert_faithful(Watched(), (6,), 4)
    assert [type(n) for n in found.graph.neurons.values()] == [IF]


# -- neurons written out in the network's own forward ---------------------------------------------------


class FiresTwice(torch.autograd.Function):
    """The spikes, and the time since the last one, which only its gradient reads."""

    @staticmethod
    def forward(ctx, difference, since):
        out = torch.zeros_like(difference)
        out[difference > 0] = 1.0
        return out


class SpikeTimes(nn.Module):
    """Membranes, spikes and their times in dicts; every step is compared twice: for its reset and for its spikes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)])
        self.pool, self.fc = nn.AvgPool2d(2), nn.Linear(96, 5)
        self.threshold = nn.ParameterList([nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.tensor(0.6))])
        self.leak = nn.ParameterList([nn.Parameter(torch.tensor(0.9)), nn.Parameter(torch.tensor(0.8))])

    def forward(self, x):
        n = x.size(0)
        membrane = {0: torch.zeros(n, 4, 8, 8), 1: torch.zeros(n, 6, 8, 8)}
        last = {k: torch.ones(v.shape) * -1000 for k, v in membrane.items()}
        total = torch.zeros(n, 5)
        for t in range(4):
            out = x
            for k, layer in enumerate(self.layers):
                membrane[k] = self.leak[k] * membrane[k] + layer(out)
                difference = membrane[k] / self.threshold[k] - 1.0
                membrane[k] = membrane[k] - self.threshold[k] * (difference > 0).to(x)
                spikes = FiresTwice.apply(difference, t - 1 - last[k])
                last[k] = last[k].masked_fill(spikes.bool(), t - 1)
                out = spikes.clone()
            total = total + self.fc(self.pool(out).reshape(n, -1))
        return total


def test_a_step_that_is_compared_twice_is_one_step() -> None:
    found = assert_faithful(SpikeTimes(), (1, 8, 8), 4)
    assert sorted(n.leak for n in found.graph.neurons.values()) == [0.8, 0.9]
    assert {n.reset for n in found.graph.neurons.values()} == {"soft"}


class WithoutMemory(nn.Module):
    """The same current at every step, of neurons that remember nothing: equal comparisons, one or two a step."""

    def __init__(self, twice: bool) -> None:
        super().__init__()
        self.twice, self.a, self.b = twice, nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        v, total = torch.zeros(x.shape[0], 3), 0
        for _ in range(4):
            current = self.a(x)
            spikes = (current >= 0.1).to(x)
            if self.twice:
                spikes = (current >= 0.1).to(x)
            v = 0.5 * v + self.b(spikes)
            fired = (v >= 0.2).to(x)
            v, total = v * (1 - fired), total + fired
        return total


@pytest.mark.parametrize("twice", [False, True])
def test_equal_comparisons_of_other_steps_are_other_steps(twice: bool) -> None:
    found = assert_faithful(WithoutMemory(twice), (6,), 4, n=6)
    assert len(found.graph.neurons) == 2


# -- layers in a row -------------------------------------------------------------------------------------


class TwoAtTheEnd(nn.Module):
    """A read-out of two linear layers, with biases and a factor, on the mean of the spikes or on those of each step."""

    def __init__(self, *, mean_first: bool) -> None:
        super().__init__()
        self.mean_first = mean_first
        self.inner, self.a, self.b = nn.Linear(12, 20), nn.Linear(20, 9), nn.Linear(9, 4)

    def forward(self, x):
        v, out = 0.0, []
        for _ in range(4):
            v = 0.5 * v + self.inner(x)
            spikes = (v >= 0.2).to(x)
            v = v * (1 - spikes)
            out.append(spikes)
        spikes = torch.stack(out)
        if self.mean_first:
            return self.b(0.5 * self.a(spikes.mean(0)))
        return self.b(0.5 * self.a(spikes)).mean(0)


@pytest.mark.parametrize("mean_first", [False, True])
def test_linear_layers_in_a_row_are_one(mean_first: bool) -> None:
    found = assert_faithful(TwoAtTheEnd(mean_first=mean_first), (12,), 4)
    assert [s.weight.shape for s in found.graph.synapses.values()] == [(20, 12), (4, 20)]
    assert found.notes["b"].startswith("its weights hold those of a")


def test_they_are_not_where_that_would_take_more_weights() -> None:
    net = nn.Sequential(nn.Linear(40, 2), nn.Linear(2, 30))
    spiking = nn.Sequential(nn.Linear(12, 40), Memoryless(), net)
    found = assert_faithful(spiking, (12,), 4)
    assert [s.weight.shape for s in found.graph.synapses.values()] == [(40, 12), (2, 40), (30, 2)]


class Memoryless(nn.Module):
    def forward(self, x):
        return (x >= 0.1).to(x)


# -- thresholds and starts -------------------------------------------------------------------------------


class NormalizedMembrane(nn.Module):
    """A BatchNorm between the membrane and its threshold: one threshold for each channel, below 0 for some weights."""

    def __init__(self, channels: int, *, strict: bool) -> None:
        super().__init__()
        self.norm, self.strict = nn.BatchNorm2d(channels), strict
        with torch.no_grad():
            self.norm.weight.uniform_(0.5, 1.5).mul_(torch.where(torch.arange(channels) % 3 == 0, -1, 1))
            self.norm.bias.uniform_(-0.5, 0.3)
            self.norm.running_mean.normal_(0, 0.05)
            self.norm.running_var.uniform_(0.2, 0.6)

    def forward(self, x):
        v, out = torch.zeros_like(x[0]), []
        for current in x:
            v = 0.25 * v + current
            level = self.norm(v)
            spike = ((level > 0.5) if self.strict else (level >= 0.5)).to(x)
            v = v * (1 - spike)
            out.append(spike)
        return torch.stack(out)


class WithNormalizedMembranes(nn.Module):
    def __init__(self, *, strict: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 4, 3, padding=1)
        self.first, self.second = NormalizedMembrane(6, strict=strict), NormalizedMembrane(4, strict=strict)
        self.fc = nn.Linear(256, 5)

    def forward(self, x):
        spikes = self.first(self.a(x.repeat(4, 1, 1, 1, 1).flatten(0, 1)).view(4, len(x), 6, 8, 8))
        spikes = self.second(self.b(spikes.flatten(0, 1)).view(4, len(x), 4, 8, 8))
        return self.fc(spikes.flatten(2)).mean(0)


@pytest.mark.parametrize("strict", [False, True])
def test_thresholds_of_each_channel_are_in_the_weights(strict: bool) -> None:
    found = assert_faithful(WithNormalizedMembranes(strict=strict), (1, 8, 8), 4)
    assert {round(n.threshold, 6) for n in found.graph.neurons.values()} == {1.0}
    assert all("thresholds of each channel" in note for note in found.notes.values())


def test_a_membrane_that_starts_at_half_of_its_threshold() -> None:
    class Converted(nn.Module):
        """As converted ANNs do, to round to the nearest."""

        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 4)

        def forward(self, x):
            threshold = torch.tensor([0.8])
            v, total = 0.5 * threshold, 0
            for _ in range(4):
                v = v + self.fc(x)
                spike = (v - threshold >= 0).to(x) * threshold
                v, total = v - spike, total + spike
            return total

    found = assert_faithful(Converted(), (6,), 4)
    (node,) = found.graph.neurons.values()
    assert (round(node.threshold, 6), round(node.start, 6)) == (0.8, 0.4)
    assert "starts at 0.4" in " ".join(found.notes.values())
