"""Random networks in random idioms: the graph is the module; and networks that lie about themselves: never another one."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn

from exporters.errors import DeployError
from tests.exporters.faithful import assert_faithful

T, SHAPE = 3, (2, 6, 6)


class WrittenOut(nn.Module):
    """Neurons of one's own, one step a call or several."""

    def __init__(self, leak: float, threshold: float, soft: bool) -> None:
        super().__init__()
        self.leak, self.threshold, self.soft, self.v = leak, threshold, soft, None

    def reset(self) -> None:
        self.v = None

    def step(self, x):
        v = x if self.v is None else self.leak * self.v + x
        spike = (v >= self.threshold).to(x)
        self.v = v - self.threshold * spike if self.soft else v * (1 - spike)
        return spike

    def forward(self, x):
        if self.training or x.dim() not in (5, 3):
            return self.step(x)
        return torch.stack([self.step(frame) for frame in x])


class Random(nn.Module):
    """Layers and a forward drawn from a seed; `many` is how it handles time."""

    def __init__(self, seed: int, lie: str = "") -> None:
        super().__init__()
        self.draw = draw = random.Random(seed)
        torch.manual_seed(seed)
        self.lie = lie
        self.many = draw.choice(["step", "loop sum", "loop stack", "frames", "repeat", "samples first", "static stem"])
        self.every_step = draw.random() < 0.5
        self.steps = T + 1 if lie == "own T" else T
        self.layers, self.plan = nn.ModuleList(), []
        self.build()
        mode = "m" if self.many in ("frames", "repeat", "samples first", "static stem") else "s"
        functional.set_step_mode(self, mode)
        if self.many == "static stem":
            functional.set_step_mode(self.layers[0], "s")
        neurons = [m for m in self.modules() if isinstance(m, neuron.BaseNode)]
        if lie == "one neuron in the other mode" and neurons:
            one = draw.choice(neurons)
            one.step_mode = "s" if one.step_mode == "m" else "m"
        if lie == "analog" and neurons:
            draw.choice(neurons).surrogate_function = surrogate.Sigmoid(spiking=False)
        if lie == "starts elsewhere" and neurons:
            draw.choice(neurons).set_reset_value("v", 0.3)

    def make_neuron(self) -> nn.Module:
        draw = self.draw
        reset = draw.choice([0.0, None])
        kind = draw.choice(["if", "lif", "plif", "lif without decay"])
        threshold = draw.uniform(0.3, 1.0)
        if kind == "if":
            return neuron.IFNode(threshold, reset)
        if kind == "plif":
            return neuron.ParametricLIFNode(draw.uniform(1.2, 4.0), v_threshold=threshold, v_reset=reset)
        return neuron.LIFNode(draw.uniform(1.2, 4.0), kind == "lif", threshold, reset)

    def add(self, module: nn.Module) -> int:
        self.layers.append(module)
        return len(self.layers) - 1

    def synapse(self, module: nn.Module) -> int:
        nn.init.normal_(module.weight, 0.1, 1.5 / module.weight[0].numel() ** 0.5)
        return self.add(module)

    def norm(self, channels: int) -> int:
        bn = layer.BatchNorm2d(channels)
        bn.running_mean.normal_(0, 0.3)
        bn.running_var.uniform_(0.4, 2)
        bn.weight.data.uniform_(0.5, 1.5)
        bn.bias.data.normal_(0.2, 0.3)
        return self.add(bn)

    def build(self) -> None:
        draw, channels = self.draw, SHAPE[0]
        size = SHAPE[1]
        for _ in range(draw.randint(1, 2)):
            wide = draw.randint(2, 4)
            padding = draw.choice([0, 1, 1])
            self.plan += [
                ("conv", self.synapse(layer.Conv2d(channels, wide, 3, padding=padding, bias=draw.random() < 0.6)))
            ]
            channels, size = wide, size + 2 * padding - 2
            if draw.random() < 0.5:
                self.plan.append(("conv", self.norm(channels)))
            self.plan += [
                (draw.choice(["plain", "scaled", "half in place"]), 0),
                ("neuron", self.add(self.make_neuron())),
            ]
            trick = draw.choice(
                ["plain", "cat", "sew", "double", "pool", "max", "shuffle", "pad", "norm", *["crop"] * (size > 2)]
            )
            if trick == "cat":
                self.plan.append(
                    (trick, self.synapse(layer.Conv2d(channels, 2, 3, padding=1)), self.add(self.make_neuron()))
                )
                channels += 2
            elif trick == "sew":
                self.plan.append(
                    (trick, self.synapse(layer.Conv2d(channels, channels, 3, padding=1)), self.add(self.make_neuron()))
                )
            elif trick in ("pool", "max") and size >= 2:
                self.plan.append(("conv", self.add(layer.AvgPool2d(2) if trick == "pool" else layer.MaxPool2d(2))))
                size //= 2
            elif trick == "norm":
                self.plan.append(("conv", self.norm(channels)))
            elif trick in ("crop", "pad"):
                self.plan.append((trick, 0))
                size += 1 if trick == "pad" else -1
            else:
                self.plan.append((trick, 0))
            if size < 3:
                break
        self.plan.append((draw.choice(["flatten", "view", "channels last"]), 0))
        features = channels * size * size
        if draw.random() < 0.4:
            self.plan += [("conv", self.synapse(layer.Linear(features, 7))), ("neuron", self.add(self.make_neuron()))]
            features = 7
        if self.lie == "twice" and features == 7:
            self.plan += [("conv", self.synapse(layer.Linear(7, 7))), ("neuron", self.plan[-1][1])]
        self.plan.append(("conv", self.synapse(layer.Linear(features, 4))))
        if draw.random() < 0.7:
            self.plan.append(("neuron", self.add(self.make_neuron())))

    def run(self, x, start: int = 0):
        """All layers on (N, …) or (T, N, …)."""
        for kind, *at in self.plan[start:]:
            lead = x.dim() - 3 if x.dim() > 3 else x.dim() - 1
            match kind:
                case "conv" | "neuron":
                    x = self.layers[at[0]](x)
                case "scaled":
                    x = (x - 0.05) * 1.1
                case "half in place":
                    x = x.clone()
                    x *= 0.9
                case "cat":
                    x = torch.cat([x, self.layers[at[1]](self.layers[at[0]](x))], -3)
                case "sew":
                    x = x + self.layers[at[1]](self.layers[at[0]](x))
                case "double":
                    x = x + x
                case "shuffle":
                    x = x.flip(-3)
                case "crop":
                    x = x[..., 1:, :-1]
                case "pad":
                    x = F.pad(x, (1, 0, 0, 1))
                case "flatten":
                    x = x.flatten(lead)
                case "view":
                    x = x.reshape(*x.shape[:lead], -1)
                case "channels last":
                    x = x.movedim(-3, -1).reshape(*x.shape[:lead], -1)
        return x

    def forward(self, x):
        if self.lie == "value":
            x = x * 2 if x.sum() > 3 else x
        if self.lie == "reset" and self.many in ("step", "loop sum"):
            functional.reset_net(self)
        match self.many:
            case "step":
                return self.run(x)
            case "loop sum":
                total = self.run(x).clone()
                for _ in range(1, self.steps):
                    total += self.run(x)
                return total
            case "loop stack":
                out = torch.stack([self.run(x) for _ in range(self.steps)])
            case "frames":
                out = self.run(x)
            case "repeat":
                out = self.run(x.unsqueeze(0).repeat(self.steps, 1, 1, 1, 1))
            case "samples first":
                return self.run(x.transpose(0, 1)).transpose(0, 1)
            case _:
                stem = self.layers[0](x)
                out = self.run(stem.unsqueeze(0).expand(self.steps, *stem.shape), 1)
        return (
            out[-1] if self.lie == "last" else out.mean(0) if self.draw.random() < 2 and self.many != "frames" else out
        )


LIES = [
    "own T", "one neuron in the other mode", "analog", "starts elsewhere", "twice", "value", "reset", "last",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31))
def test_random_networks_in_random_idioms_are_their_graphs(seed: int) -> None:
    torch.set_default_dtype(torch.float64)
    assert_faithful(Random(seed), SHAPE, T, n=4, seed=seed % 1000)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(LIES))
def test_networks_that_lie_are_refused_or_themselves(seed: int, lie: str) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        assert_faithful(Random(seed, lie), SHAPE, T, n=4, seed=seed % 1000)
    except DeployError as error:
        assert "\n" not in str(error)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.booleans(), st.floats(0.1, 1.0), st.floats(0.2, 1.2))
def test_random_written_neurons_are_their_graphs(seed: int, soft: bool, leak: float, threshold: float) -> None:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(72, 20), WrittenOut(leak, threshold, soft), nn.Linear(20, 8), WrittenOut(leak, threshold, not soft)
    )  # fmt: skip
    for m in net:
        if isinstance(m, nn.Linear):
            nn.init.normal_(m.weight, 0.1, 2 / m.in_features**0.5)
    found = assert_faithful(net, SHAPE, 4, n=5, seed=seed % 1000)
    assert len(found.notes) == 2
