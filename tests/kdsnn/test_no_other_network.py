"""What is no function of a sample, or is changed by hooks and modes, comes in as itself or is refused in a line that says why."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

import kdsnn
from exporters.errors import DeployError
from hardware import emulator
from kdsnn.errors import KdsnnError

SHAPE, T = (1, 6, 6), 4


def body() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        layer.Conv2d(1, 4, 3), neuron.IFNode(v_threshold=0.2), layer.Flatten(), layer.Linear(64, 3), neuron.IFNode(v_threshold=0.2)
    )  # fmt: skip


class Does(nn.Module):
    """A forward that is given."""

    def __init__(self, forward) -> None:
        super().__init__()
        self.does, self.body = forward, body()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.does(self, x)


class Counts(nn.Module):
    """A neuron of one's own that `reset_net` resets, and counts its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    def reset(self) -> None:
        self.v, self.steps = torch.zeros(()), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.steps += 1
        self.v = (0.5 if self.steps > 1 else 0.0) * self.v + x
        spikes = (self.v >= 0.2).to(x)
        self.v = self.v * (1 - spikes)
        return spikes


class ResetsForItself(nn.Module):
    """`reset` wants arguments, and is called by the network's own forward, which loops over time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(36, 3)

    def reset(self, like: torch.Tensor) -> None:
        self.v = torch.zeros_like(like)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        current, spikes = self.fc(x.flatten(1)), []
        self.reset(current)
        for _ in range(T):
            self.v = self.v + current
            spikes.append((self.v >= 0.2).to(x))
            self.v = self.v * (1 - spikes[-1])
        return torch.stack(spikes).mean(0)


class AlwaysDrops(nn.Dropout):
    """Monte Carlo dropout: `eval()` does not reach it."""

    def train(self, mode: bool = True) -> AlwaysDrops:
        return super().train(True)


def hooked() -> nn.Module:
    net = body()
    net[1].register_forward_hook(lambda m, args, spikes: 1 - spikes)
    return net


def used_before(net: nn.Module) -> nn.Module:
    net(torch.rand(5, *SHAPE))
    return net


def own_neurons() -> nn.Module:
    net = body()
    net[1], net[4] = Counts(), Counts()
    return net


def silences_a_channel(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
    spikes = s.body[1](s.body[0](x)).clone()
    spikes[:, 0] = 0
    return s.body[2:](spikes)


COMES_IN = {
    "a channel that is written over": lambda: Does(silences_a_channel),
    "a hook that turns spikes around": hooked,
    "own neurons that ran before": lambda: used_before(own_neurons()),
    "SpikingJelly's neurons that ran before": lambda: used_before(body()),
    "a reset that wants arguments": ResetsForItself,
    "a squeezed mean": lambda: Does(lambda s, x: torch.stack([s.body(x) for _ in range(T)]).mean(0).squeeze()),
}


@pytest.mark.parametrize("name", COMES_IN)
def test_it_comes_in_as_itself(name: str) -> None:
    network = kdsnn.lower(COMES_IN[name](), input_shape=SHAPE, T=T)
    assert network.graph is not None and network.calling is not None and network.proof is not None
    module = COMES_IN[name]().double().eval()
    for part in module.modules():
        if isinstance(part, neuron.BaseNode | Counts):
            part.reset()
    x = (np.random.default_rng(1).integers(0, 256, (5, *SHAPE)) / np.float32(255)).astype(np.float32)
    frames = torch.from_numpy(x).double()
    with torch.no_grad():
        steps = [module(frames) for _ in range(T if network.calling.way == "step" else 1)]
    scores = emulator.run(network.graph, network.graph.encode(x).astype(np.float64), dtype=torch.float64).scores()
    assert scores.any()
    np.testing.assert_allclose(scores * network.calling.factor, torch.stack(steps).mean(0).numpy(), atol=1e-12)


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
def test_images_are_made_smaller_by_leaving_pixels_out(mode: str) -> None:
    smaller = Does(lambda s, x: s.body(nn.functional.interpolate(x, size=SHAPE[1:], mode=mode)))
    proof = kdsnn.lower(smaller, input_shape=(1, 12, 12), T=T).proof
    assert proof is not None and proof.ok and proof.compared


def test_one_sample_that_a_forward_squeezes_is_run_beside_the_graph() -> None:
    network = kdsnn.lower(COMES_IN["a squeezed mean"](), input_shape=SHAPE, T=T)
    x = np.random.default_rng(1).integers(0, 256, (24, *SHAPE), np.uint8)
    found = kdsnn.run(network, (x, np.arange(24) % 3), on=["torch"], samples=1)
    assert "torch" in str(found)


def plain_list() -> nn.Module:
    net = Does(lambda s, x: s.body[2:](s.body[1](s.plain[0](s.body[0](x)))))
    net.plain = [layer.BatchNorm2d(4)]
    return net


def negative_variance() -> nn.Module:
    net = body()
    net.insert(1, layer.BatchNorm2d(4))
    net[1].running_var.fill_(-1.0)
    return net


def autocast(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return s.body(x).float()


class NeverResets(Counts):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.v = 0.5 * self.v + x
        return (self.v >= 0.2).to(x)


class FailingReset(Counts):
    def reset(self) -> None:
        if hasattr(self, "v"):
            raise ValueError("nothing to reset")
        super().reset()


def behind(first: nn.Module) -> nn.Module:
    net = body()
    net[1] = first
    return net


REFUSED = {
    "a tensor that is written into": (lambda: Does(lambda s, x: torch.add(s.body(x), 1, out=x.new_empty(0))), "writes into a tensor"),
    "nothing returned": (lambda: Does(lambda s, x: None), "its forward returns nothing"),
    "a list of numbers": (lambda: Does(lambda s, x: s.body(x).tolist()), "hands what the network computes to numpy or a list"),
    "neurons that never reset": (lambda: nn.Sequential(body()[0], NeverResets(), nn.Flatten(), nn.Linear(64, 3)), "have its own spikes reset it"),
    "neurons behind silence": (lambda: behind(neuron.RAFNode()), "ifnode4: its membrane .v. has moved before anything of the input"),
    "the size of the batch": (lambda: Does(lambda s, x: s.body(x / x.shape[0])), "depends on the batch that the sample is in"),
    "the mean of the batch": (lambda: Does(lambda s, x: (lambda y: y - y.mean(0))(s.body(x))), "mixes the samples of a batch"),
    "dropout that goes on": (lambda: nn.Sequential(AlwaysDrops(0.5), body()), "it draws random numbers"),
    "a norm in a plain list": (plain_list, "a plain list is not reached by eval"),
    "a negative variance": (negative_variance, "batchnorm2d1: its statistics or weights make NaN"),
    "autocast": (lambda: Does(autocast), "body.0: it rounds what the network computes to bfloat16"),
    "images of half precision": (lambda: Does(lambda s, x: s.body(x.half().to(x.dtype))), "it rounds .* to float16"),
    "a reset that fails": (lambda: nn.Sequential(body(), FailingReset()), "1: its reset.. fails: nothing to reset"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_in_a_line_that_says_why(name: str) -> None:
    make, why = REFUSED[name]
    with pytest.raises((KdsnnError, DeployError), match=why) as caught:
        kdsnn.lower(make(), input_shape=SHAPE, T=T)
    assert "\n" not in str(caught.value) and "please report" not in str(caught.value)


def test_one_of_several_outputs_is_an_attribute_too() -> None:
    class Returned:
        def __init__(self, logits: torch.Tensor) -> None:
            self.logits, self.loss = logits, None

    made = Does(lambda s, x: Returned(s.body(x)))
    with pytest.raises(KdsnnError, match="returns a Returned with 'logits', 'loss'"):
        kdsnn.lower(made, input_shape=SHAPE, T=T)
    network = kdsnn.lower(made, input_shape=SHAPE, T=T, output="logits")
    assert network.proof is not None and network.proof.ok and network.proof.compared


class Wide(nn.Module):
    """So many neurons that one random sample is compared alone."""

    def __init__(self, forward) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.does, self.conv, self.fires = forward, layer.Conv2d(1, 128, 1), neuron.IFNode(v_threshold=0.2)
        self.end, self.votes = layer.Linear(128, 3), neuron.IFNode(v_threshold=0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.does(self, x)


def test_a_single_sample_may_lose_its_axis_within_a_forward() -> None:
    squeezes = Wide(lambda s, x: s.votes(s.end(s.fires(s.conv(x)).mean((2, 3)).squeeze())))
    proof = kdsnn.lower(squeezes, input_shape=(1, 17, 17), T=T).proof
    assert proof is not None and proof.ok and proof.samples == 1


def test_the_size_of_the_batch_is_found_with_one_sample_too() -> None:
    divides = Wide(lambda s, x: s.votes(s.end(s.fires(s.conv(x / len(x))).mean((2, 3)))))
    with pytest.raises(KdsnnError, match="depends on the batch that the sample is in"):
        kdsnn.lower(divides, input_shape=(1, 17, 17), T=T)


def test_chance_that_no_operation_shows_is_named() -> None:
    """Numbers from elsewhere, drawn once a sample: the graph has those of the run in which it was made."""
    rng = np.random.default_rng(0)

    def own_loop(s: nn.Module, x: torch.Tensor) -> torch.Tensor:
        functional.reset_net(s)
        x = x * float(rng.uniform(0.2, 1.8))
        return torch.stack([s.body(x) for _ in range(T)]).mean(0)

    with pytest.raises(KdsnnError, match="run twice on the same samples it gives different results"):
        kdsnn.lower(Does(own_loop), input_shape=SHAPE, T=T)
