"""Forwards in the idioms of public research code: lowered to what the module computes, or refused in one line."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn
from torch.nn.utils import prune

from exporters.errors import DeployError
from exporters.from_torch import LoweringError, from_torch, lower_module
from exporters.graph import AvgPool2d, Conv2d, Linear
from tests.exporters.faithful import assert_faithful, pixels

IF = neuron.IFNode


pytestmark = pytest.mark.usefixtures("in_float64")


def _many(net: nn.Module) -> nn.Module:
    net.n.step_mode = net.n2.step_mode = "m"
    return net


def multi(net: nn.Module) -> nn.Module:
    functional.set_step_mode(net, "m")
    return net


def conv(a: int, b: int, kernel: int = 3, **how) -> nn.Module:
    made = layer.Conv2d(a, b, kernel, **how)
    nn.init.normal_(made.weight, 0.05, 1.2 / made.weight[0].numel() ** 0.5)
    return made


def dense(a: int, b: int) -> nn.Module:
    made = layer.Linear(a, b)
    nn.init.normal_(made.weight, 0.05, 1.2 / a**0.5)
    return made


class Net(nn.Module):
    """A network whose forward is a function of its layers and its input."""

    def __init__(self, forward, **layers: nn.Module) -> None:
        super().__init__()
        self._function = forward
        for name, module in layers.items():
            setattr(self, name, module)

    def forward(self, x):
        return self._function(self, x)


def plain(**changes: nn.Module) -> dict[str, nn.Module]:
    """conv → neurons → dense → neurons, for (2, 6, 6)."""
    return {"c": conv(2, 4), "n": IF(), "l": dense(64, 4), "n2": IF()} | changes


def body(*layers: nn.Module, features: int) -> nn.Sequential:
    return nn.Sequential(*layers, layer.Flatten(), dense(features, 4), IF())


# -- how a network is called, and what it returns ------------------------------------------------------------


def own_loop(s, x):
    total = s.n2(s.l(s.n(s.c(x)).flatten(1)))
    for _ in range(1, 4):
        total += s.n2(s.l(s.n(s.c(x)).flatten(1)))
    return total / 4


def loop_list(s, x):
    return torch.stack([s.n2(s.l(s.n(s.c(x)).flatten(1))) for _ in range(4)], 1).mean(1)


def loop_over_frames(s, x):
    functional.reset_net(s)
    total = 0.0
    for t in range(x.shape[0]):
        total = total + s.n2(s.l(s.n(s.c(x[t])).flatten(1)))
    return total


def preallocated(s, x):
    out = torch.zeros(4, x.size(0), 4)
    for t in range(4):
        out[t] = s.n2(s.l(s.n(s.c(x)).flatten(1)))
    return out


def time_last(s, x):
    frames, out = x.unsqueeze(-1).repeat(1, 1, 1, 1, 4), []
    for t in range(4):
        out.append(s.n2(s.l(s.n(s.c(frames[..., t])).flatten(1))))
    return torch.stack(out, -1).sum(-1) / 4


def membrane_at_the_end(s, x):
    for _ in range(4):
        s.o(s.l(s.n(s.c(x)).flatten(1)))
    return s.o.v


def membranes_kept(s, x):
    s.o(s.l(s.n(s.c(x.expand(4, *x.shape).contiguous())).flatten(2)))
    return s.o.v_seq.mean(0)


def membranes_kept_by_step(s, x):
    for _ in range(4):
        s.o(s.l(s.n(s.c(x)).flatten(1)))
    return s.o.v_seq.mean(0)


def by_dimension(s, x, return_features=False):
    if x.dim() == 4:
        x = x.unsqueeze(0).repeat(4, 1, 1, 1, 1)
    features = s.n(s.c(x)).flatten(2)
    out = s.n2(s.l(features)).mean(0)
    return (out, features) if return_features else out


def reshaped_in_place(s, x):
    y = s.c(x)
    y.unsqueeze_(1)
    y = s.n(y.repeat(1, 4, 1, 1, 1).transpose(0, 1)).flatten(2)
    y.transpose_(0, 1)
    return s.n2(s.l(y).transpose(0, 1)).sum(0)


class OverTime(nn.Module):
    """A layer for each step of (N, …, T), written into room for all of them."""

    def __init__(self, one: nn.Module) -> None:
        super().__init__()
        self.one = one

    def forward(self, x):
        out = torch.zeros(*self.one(x[..., 0]).shape, x.shape[-1])
        for t in range(x.shape[-1]):
            out[..., t] = self.one(x[..., t])
        return out


class Fires(nn.Module):
    """Neurons over the last axis, whose last spikes are read back from the output."""

    def forward(self, x):
        v, out = torch.zeros(x.shape[:-1]), torch.zeros_like(x)
        for t in range(x.shape[-1]):
            v = 0.25 * v * (1 - out[..., max(t - 1, 0)]) + x[..., t]
            out[..., t] = (v > 0.2).to(x)
        return out


class PlanesInThree(nn.Module):
    """(T, N, C, H, W) by layers over three axes, BatchNorm with channels moved to the front."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.b, self.n, self.l = (
            nn.Conv3d(2, 4, (1, 3, 3), padding=(0, 1, 1)),
            nn.BatchNorm3d(4),
            IF(step_mode="m"),
            dense(4, 3),
        )
        self.b.running_mean.normal_()
        self.b.running_var.uniform_(0.5, 2)

    def forward(self, x):
        y = self.b(self.c(x.permute(1, 2, 0, 3, 4)))
        y = F.max_pool3d(self.n(y.permute(2, 0, 1, 3, 4)), (1, 2, 2))
        y = F.avg_pool3d(y, (1, 3, 3), 1, (0, 1, 1))
        return self.l(F.adaptive_avg_pool3d(y, (None, 1, 1)).flatten(2).mean(0))


CALLED = {
    "reshaped in place": ("image", "sum", lambda: _many(Net(reshaped_in_place, **plain()))),
    "time last": ("frames, time last", "steps, time last", lambda: nn.Sequential(
        OverTime(conv(2, 4)), Fires(), OverTime(nn.Flatten()), OverTime(dense(64, 5)), Fires())),
    "three axes": ("frames", "mean", PlanesInThree),
    "a loop over time that adds up": ("image", "mean", lambda: Net(own_loop, **plain())),
    "a loop over time that stacks": ("image", "mean", lambda: Net(loop_list, **plain())),
    "a loop over frames": ("frames", "sum", lambda: Net(loop_over_frames, **plain())),
    "a loop that fills a tensor": ("image", "steps", lambda: Net(preallocated, **plain())),
    "time as the last axis": ("image", "mean", lambda: Net(time_last, **plain())),
    "x.dim() decides": ("frames", "mean", lambda: multi(Net(by_dimension, **plain()))),
    "one call a step": ("step", "steps", lambda: Net(lambda s, x: s.n2(s.l(s.n(s.c(x)).view(x.size(0), -1))), **plain())),
    "multi-step": ("frames", "steps", lambda: multi(Net(lambda s, x: s.n2(s.l(s.n(s.c(x)).flatten(2))), **plain()))),
    "samples come first": ("frames, samples first", "mean", lambda: multi(
        Net(lambda s, x: s.n2(s.l(s.n(s.c(x.permute(1, 0, 2, 3, 4))).flatten(2))).mean(0), **plain()))),
    "samples go first": ("frames", "steps, samples first", lambda: multi(
        Net(lambda s, x: s.n2(s.l(s.n(s.c(x)).flatten(2))).transpose(0, 1), **plain()))),
    "a list of steps": ("image", "steps", lambda: multi(
        Net(lambda s, x: list(s.n2(s.l(s.n(s.c(x.expand(4, *x.shape))).flatten(2)))), **plain()))),
    "a static stem": ("image", "mean", lambda: Net(
        lambda s, x: s.n2(s.l(s.n(s.b(s.c(x)).unsqueeze(0).repeat(4, 1, 1, 1, 1)).flatten(2))).mean(0),
        c=nn.Conv2d(2, 4, 3), b=nn.BatchNorm2d(4), n=IF(step_mode="m"), l=dense(64, 4), n2=IF(step_mode="m"))),
    "a linear layer on the mean": ("image", "mean", lambda: multi(
        Net(lambda s, x: s.l(s.n(s.c(x.unsqueeze(0).expand(4, -1, -1, -1, -1))).flatten(2).mean(0)), **plain()))),
    "a linear layer on the sum": ("frames", "sum", lambda: multi(Net(lambda s, x: s.l(s.n(s.c(x)).flatten(2).sum(0)), **plain()))),
    "a membrane that never fires": ("image", "sum", lambda: Net(membrane_at_the_end, **plain(o=IF(v_threshold=float("inf"))))),
    "membranes kept by a layer": ("image", "mean", lambda: multi(Net(
        membranes_kept, **plain(o=neuron.LIFNode(v_threshold=float("inf"), store_v_seq=True))))),
    "membranes kept step by step": ("image", "mean", lambda: Net(
        membranes_kept_by_step, **plain(o=neuron.LIFNode(v_threshold=float("inf"), store_v_seq=True)))),
    "a layer that only integrates": ("frames", "sum", lambda: multi(nn.Sequential(
        conv(2, 4), IF(), layer.Flatten(), dense(64, 4), neuron.NonSpikingIFNode("last_mem")))),
    "chunks of time": ("frames", "steps", lambda: multi(Net(
        lambda s, x: functional.chunk_multi_step_forward(2, x, s.b), b=body(conv(2, 4), IF(), features=64)))),
    "containers": ("frames", "steps", lambda: nn.Sequential(
        layer.SeqToANNContainer(conv(2, 4), nn.BatchNorm2d(4)), layer.MultiStepContainer(IF()), layer.Flatten(step_mode="m"),
        layer.SeqToANNContainer(nn.Linear(64, 4)), IF(step_mode="m"))),
    "voting": ("step", "steps", lambda: nn.Sequential(layer.Flatten(), dense(72, 20), IF(), layer.VotingLayer(5))),
    "voting by a view": ("step", "steps", lambda: Net(
        lambda s, x: s.n(s.l(x.flatten(1))).view(x.size(0), 5, 3).mean(2), l=dense(72, 15), n=IF())),
    "nothing but layers": ("step", "steps", lambda: nn.Sequential(conv(2, 4), layer.Flatten(), dense(64, 3))),
    "a sum of spikes at the end": ("step", "steps", lambda: Net(
        lambda s, x: s.n(s.l(x.flatten(1))) + s.n2(s.m(x.flatten(1))), l=dense(72, 5), m=dense(72, 5), n=IF(), n2=IF())),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLED)
def test_ways_of_calling(name: str) -> None:
    way, returned, make = CALLED[name]
    found = assert_faithful(make(), (2, 6, 6), 4)
    assert (found.calling.way, found.calling.returned) == (way, returned)


def test_frames_of_spikes() -> None:
    for net in (body(conv(2, 4), IF(), features=64), multi(body(conv(2, 4), IF(), features=64))):
        assert_faithful(net, (2, 6, 6), 4, encoding="spikes")


def test_one_time_step() -> None:
    assert_faithful(body(conv(2, 4), IF(), features=64), (2, 6, 6), 1)


def test_one_of_several_outputs() -> None:
    def two(s, x):
        x = s.n(s.a(x.flatten(1)))
        return {"logits": s.b(x), "features": [x, s.c(x)]}

    net = Net(two, a=dense(72, 16), n=IF(), b=dense(16, 10), c=dense(16, 3))
    found = assert_faithful(net, (2, 6, 6), 4, output="logits", pick=lambda out: out["logits"])
    assert found.calling.output == "logits" and "c" not in found.graph.nodes
    assert_faithful(net, (2, 6, 6), 4, output="features.0", pick=lambda out: out["features"][0])
    assert_faithful(net, (2, 6, 6), 4, output="features.1", pick=lambda out: out["features"][1])
    with pytest.raises(
        LoweringError,
        match=r"Net: its forward returns a dict with 'logits', 'features'; choose one tensor of it with output=",
    ):
        from_torch(net, (2, 6, 6), 4)
    with pytest.raises(LoweringError, match="which has no output 'spikes'"):
        from_torch(net, (2, 6, 6), 4, output="spikes")


# -- what layers read ----------------------------------------------------------------------------------------


def halves(s, x):
    a, b = s.n(s.c(x)).chunk(2, 1)
    return s.n2(s.l(torch.cat([s.n1(s.c2(b)), a[:, :, 1:-1, 1:-1]], 1).flatten(1)))


def currents_in_halves(s, x):
    a, b = s.c(x).chunk(2, 1)
    return s.n2(s.l((s.n(a) + s.n1(b * 0.5)).flatten(1)))


def aliases(s, x):
    y = s.c(x)
    z = y
    y += s.c2(x)
    y.mul_(0.5)
    z.view(z.size(0), -1)[:, :16].zero_()
    return s.n2(s.l(s.n(z).flatten(1)))


def parts_written(s, x):
    y = s.c(x)
    y[:, 0] = y[:, 1] * 2
    out = torch.zeros(x.size(0), 6, 4, 4)
    out[:, 1:5] = s.n(y)
    return s.n2(s.l(out.flatten(1)))


def membrane_shortcuts(s, x):
    y = s.c(x)
    y = y + s.b(s.c2(s.n(y)))
    y = y + s.c3(s.n1(s.b1(y)))
    return s.l(s.p(s.n2(y)).flatten(1))


def logic(s, x):
    a, b = s.n(s.c(x)), s.n1(s.c2(x))
    y = {"and": lambda: a * b, "iand": lambda: a * (1 - b), "nor": lambda: (1 - a) * (1 - b), "or": lambda: torch.maximum(a, b),
         "xor": lambda: a + b - 2 * a * b, "mask": lambda: a.masked_fill(b.bool(), 0.0)}[s.kind]()  # fmt: skip
    return s.n2(s.l(y.flatten(1)))


def normalized(x):
    return (x - torch.tensor([0.4, 0.5]).view(1, 2, 1, 1)) / torch.tensor([0.2, 0.3]).view(1, 2, 1, 1)


def patched() -> nn.Module:
    net = body(conv(2, 3), IF(), features=48)
    first = net[0]
    first.forward = lambda x: F.conv2d(x, first.weight.abs(), None)
    return net


def hooked() -> nn.Module:
    net = body(conv(2, 3), IF(), features=48)
    net[0].register_forward_hook(lambda m, a, out: out * 2 + 0.1)
    net[3].register_forward_pre_hook(lambda m, a: (a[0] * 0.5,))
    return net


def pruned() -> nn.Module:
    net = body(conv(2, 3), IF(), features=48)
    prune.l1_unstructured(net[0], "weight", amount=0.5)
    return net


def shifted_batch_norms() -> nn.Module:
    net = nn.Sequential(
        layer.BatchNorm2d(2), conv(2, 3, padding=1), IF(), layer.BatchNorm2d(3), conv(3, 3, padding=2), IF(), layer.Flatten(), dense(192, 4), IF()
    )  # fmt: skip
    for bn in (net[0], net[3]):
        bn.running_mean.normal_()
        bn.bias.data.normal_()
        bn.running_var.uniform_(0.5, 2)
    return net


class PlainList(nn.Module):
    """Layers that torch does not know of."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Flatten(), dense(72, 8), IF(), dense(8, 4), IF()]

    def forward(self, x):
        for one in self.layers:
            x = one(x)
        return x


class Standardized(layer.Conv2d):
    def _conv_forward(self, x, w, b):
        return super()._conv_forward(x, (w - w.mean()) / w.std(), b)


READ = {
    "a gray image made colored": lambda: Net(lambda s, x: s.b(x[:, :1].repeat(1, 3, 1, 1)), b=body(conv(3, 4), IF(), features=64)),
    "a tiled image": lambda: Net(lambda s, x: s.b(x.repeat(1, 1, 2, 2)), b=body(conv(2, 3, padding=1), IF(), layer.AdaptiveAvgPool2d(1), features=3)),
    "circular padding": lambda: body(conv(2, 3, padding=1, padding_mode="circular"), IF(), features=108),
    "padding 'same' of even kernels": lambda: body(conv(2, 3, (3, 2), padding="same"), IF(), conv(3, 4, 4, padding="same"), IF(), features=144),
    "asymmetric padding": lambda: body(
        nn.ZeroPad2d((1, 2, 0, 3)), conv(2, 3, stride=2), IF(), nn.ConstantPad2d((0, 1, 1, 0), 0.0), conv(3, 4, 2, dilation=2), IF(), features=36),
    "a crop": lambda: Net(lambda s, x: s.b(x[:, :, 1:-1, 2:]), b=body(conv(2, 3), IF(), features=12)),
    "enlarged spikes before a dense layer": lambda: body(conv(2, 3), IF(), nn.Upsample(scale_factor=2), features=192),
    "enlarged maps before convolutions of that stride": lambda: body(
        nn.Upsample(scale_factor=2), conv(2, 4, stride=2, padding=1), IF(), nn.Upsample(scale_factor=(3, 2)),
        conv(4, 2, 4, stride=(3, 4), padding=2, groups=2, dilation=2), IF(), features=36),
    "pixels apart": lambda: Net(
        lambda s, x: s.b(F.pixel_unshuffle(x, 2) - 0.2), b=body(conv(8, 4, padding=1), IF(), features=36)),
    "every second pixel": lambda: Net(
        lambda s, x: s.b(torch.cat([x[..., ::2, ::2], 2 * x[..., 1::2, 1::2]], 1)), b=body(conv(4, 4, 2, stride=2), IF(), features=4)),
    "mean and deviation": lambda: Net(lambda s, x: s.b(normalized(x)), b=body(conv(2, 3, padding=1), IF(), features=108)),
    "BatchNorm before padded convolutions": shifted_batch_norms,
    "BatchNorm before a max-pool": lambda: body(conv(2, 3), IF(), layer.BatchNorm2d(3), layer.MaxPool2d(2), features=12),
    "channel shuffle": lambda: Net(
        lambda s, x: s.n2(s.l(s.n1(s.c2(F.channel_shuffle(s.n(s.c(x)), 2))).flatten(1))),
        **plain(c2=conv(4, 6, groups=2), n1=IF(), l=dense(24, 4))),
    "halves of channels": lambda: Net(halves, **plain(c2=conv(2, 3), n1=IF(), l=dense(20, 4))),
    "concatenated currents": lambda: Net(
        lambda s, x: s.n2(s.l(s.n(torch.cat([s.c(x), s.c2(x)], 1)).flatten(1))), **plain(c2=conv(2, 3), l=dense(112, 4))),
    "currents in halves": lambda: Net(currents_in_halves, **plain(n1=IF(), l=dense(32, 4))),
    "dense blocks": lambda: Net(
        lambda s, x: s.n2(s.l(torch.cat([y := s.n(s.c(x)), s.n1(s.c2(y))], 1).flatten(1))),
        **plain(c2=conv(4, 3, padding=1), n1=IF(), l=dense(112, 4))),
    "channels last": lambda: Net(lambda s, x: s.n2(s.l(s.n(s.c(x)).permute(0, 2, 3, 1).reshape(x.size(0), -1))), **plain()),
    "transposed convolutions": lambda: body(nn.ConvTranspose2d(2, 4, 3, padding=1, groups=2), IF(), nn.ConvTranspose2d(4, 3, 2), IF(), features=147),
    "a max-pool over sums of spikes": lambda: Net(
        lambda s, x: s.n2(s.l(F.max_pool2d(s.n(s.c(x)) + s.n1(s.c2(x)), 2).flatten(1))), **plain(c2=conv(2, 4), n1=IF(), l=dense(16, 4))),
    "pools as functions": lambda: Net(
        lambda s, x: s.n2(s.l(F.avg_pool2d(F.max_pool2d(s.n(s.c(x)), 3, 1, 1), 2).flatten(1))), **plain(l=dense(16, 4))),
    "the mean of pixels": lambda: Net(lambda s, x: s.n2(s.l(s.n(s.c(x)).mean((-2, -1)))), **plain(l=dense(4, 4))),
    "factors and shifts": lambda: Net(lambda s, x: s.n2(s.l((s.n(s.c(x * 2 - 0.5)) * 1.5).flatten(1) * 0.7)), **plain()),
    "add with alpha": lambda: Net(
        lambda s, x: s.n2(torch.add(s.l(s.n(s.c(x)).flatten(1)), s.m(x.flatten(1)), alpha=0.3)), **plain(m=dense(72, 4))),
    "aliases and in-place sums": lambda: Net(aliases, **plain(c2=conv(2, 4))),
    "parts that are written": lambda: Net(parts_written, **plain(l=dense(96, 4))),
    "membrane shortcuts": lambda: Net(
        membrane_shortcuts, c=conv(2, 4, padding=1), c2=conv(4, 4, padding=1), c3=conv(4, 4, padding=1), b=layer.BatchNorm2d(4),
        b1=layer.BatchNorm2d(4), n=IF(), n1=IF(), n2=IF(), p=nn.AvgPool2d(2), l=dense(36, 4)),
    "layers in a row": lambda: body(conv(2, 3), conv(3, 4), IF(), features=16),
    "relu of spikes": lambda: Net(lambda s, x: s.n2(s.l(F.relu(s.n(s.c(x))).flatten(1))), **plain()),
    "overridden _conv_forward": lambda: body(Standardized(2, 3, 3), IF(), features=48),
    "weight standardization": lambda: body(layer.WSConv2d(2, 3, 3), IF(), features=48),
    "weight norm": lambda: body(nn.utils.parametrizations.weight_norm(conv(2, 3)), IF(), features=48),
    "pruned weights": pruned,
    "hooks": hooked,
    "patched forwards": patched,
    "layers in plain lists": PlainList,
    "DataParallel": lambda: nn.DataParallel(body(conv(2, 3), IF(), features=48)),
    "DataParallel within": lambda: nn.Sequential(nn.DataParallel(conv(2, 3)), body(IF(), features=48)),
    "einsum": lambda: Net(lambda s, x: s.n(torch.einsum("nchw,kchw->nk", x, s.c.weight)), c=nn.Conv2d(2, 4, 6), n=IF()),
    "current-based": lambda: nn.Sequential(
        conv(2, 4, bias=False), neuron.CUBALIFNode(), layer.Flatten(), nn.Linear(64, 4, bias=False), neuron.CUBALIFNode(c_decay=0.25)),
    "tdBN": lambda: multi(body(conv(2, 4), layer.ThresholdDependentBatchNorm2d(1.0, 1.0, 4), IF(), features=64)),
    "OTTT": lambda: nn.Sequential(layer.OTTTSequential(conv(2, 4), neuron.OTTTLIFNode(), layer.Flatten(), dense(64, 4), neuron.OTTTLIFNode())),
    "a factor of no importance": lambda: body(conv(2, 3), IF(), layer.Dropout(0.9), nn.Identity(), features=48),
    **{f"spikes {kind} spikes": lambda kind=kind: _with(Net(logic, **plain(c2=conv(2, 4), n1=IF())), kind)
       for kind in ("and", "iand", "nor", "or", "xor", "mask")},
}  # fmt: skip


def _with(net: nn.Module, kind: str) -> nn.Module:
    net.kind = kind
    return net


@pytest.mark.parametrize("name", READ)
def test_layers_read_what_the_forward_makes_of_it(name: str) -> None:
    found = assert_faithful(READ[name](), (2, 6, 6), 4, n=4)
    assert not found.notes


def test_one_dimensional_convolutions() -> None:
    net = nn.Sequential(
        nn.Conv1d(3, 4, 3, padding=1, stride=2),
        nn.BatchNorm1d(4),
        IF(),
        nn.MaxPool1d(2),
        nn.Conv1d(4, 5, 2),
        IF(),
        nn.AdaptiveMaxPool1d(1),
        nn.Flatten(),
        nn.Linear(5, 4),
        IF(),
    )
    found = assert_faithful(net, (3, 16), 4)
    assert found.graph.input.shape == (3, 1, 16)


def test_thresholds_per_channel_go_into_the_weights() -> None:
    for reset in (0.0, None):
        per_channel = IF(v_reset=reset)
        per_channel.v_threshold = nn.Parameter(torch.rand(4, 1, 1) + 0.2)
        found = assert_faithful(body(conv(2, 4), per_channel, features=64), (2, 6, 6), 4)
        assert found.graph.neurons["ifnode1"].threshold == 1.0
        assert "thresholds" in found.notes["ifnode1"]


def test_weights_that_two_layers_share_are_said_to_be() -> None:
    def twice(s, x):
        return s.n2(s.l(s.m(s.c2(s.n(s.c2(s.c(x))))).flatten(1)))

    net = Net(twice, **plain(c=conv(2, 4, padding=1), c2=conv(4, 4, padding=1), m=IF(), l=dense(144, 4)))
    graph = assert_faithful(net, (2, 6, 6), 4).graph
    assert graph.metadata["shared"] == [["c2", "c2_2"]]
    assert (
        "shared"
        not in assert_faithful(Net(currents_in_halves, **plain(n1=IF(), l=dense(32, 4))), (2, 6, 6), 4).graph.metadata
    )


def test_a_loop_over_time_gives_each_layer_once() -> None:
    graph = from_torch(Net(own_loop, **plain()), (2, 6, 6), 4)
    assert list(graph.nodes) == [
        "input",
        "c",
        "n",
        "flatten" if "flatten" in graph.nodes else "Net.flatten",
        "l",
        "n2",
        "output",
    ]


def test_half_and_double_precision() -> None:
    net = body(conv(2, 4), IF(), features=64)
    exact = from_torch(net, (2, 6, 6), 4)
    half = from_torch(copy.deepcopy(net).half(), (2, 6, 6), 4)
    for name, synapse in exact.synapses.items():
        assert half.synapses[name].weight.dtype == np.float64
        np.testing.assert_allclose(half.synapses[name].weight, synapse.weight, rtol=1e-3, atol=1e-4)


def test_padding_of_a_crop_stays_a_plain_convolution() -> None:
    graph = from_torch(body(nn.ZeroPad2d(1), conv(2, 3), IF(), features=108), (2, 6, 6), 4)
    node = next(n for n in graph.nodes.values() if isinstance(n, Conv2d))
    assert node.weight.shape == (3, 2, 3, 3) and node.padding == (1, 1)


def test_global_mean_is_a_pool() -> None:
    graph = from_torch(READ["the mean of pixels"](), (2, 6, 6), 4)
    assert [n.kernel for n in graph.nodes.values() if isinstance(n, AvgPool2d)] == [(4, 4)]


# -- the module stays what it was ----------------------------------------------------------------------------


class Collects(nn.Module):
    """Keeps all sorts of things while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.body = body(conv(2, 4), IF(), features=64)
        self.seen, self.last, self.count = [], None, 0
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        self.count += 1
        out = self.body(x)
        self.seen.append(out)
        self.last = out
        return out


def test_the_module_is_not_changed() -> None:
    net = Collects().train()
    net.body[1](torch.rand(3, 4, 4, 4))  # a membrane from before
    membrane = net.body[1].v.clone()
    net.body[2].eval()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    from_torch(net, (2, 6, 6), 4)
    with pytest.raises(LoweringError):
        from_torch(net, (2, 6, 6), 4, encoding="rate")
    with pytest.raises(DeployError):
        from_torch(net, (2, 5, 5), 4)
    assert net.training and not net.body[2].training
    assert "forward" not in vars(net) and not any("forward" in vars(m) for m in net.modules())
    assert net.seen == [] and net.last is None and net.count == 0
    torch.testing.assert_close(net.body[1].v, membrane)
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    functional.reset_net(net)
    assert isinstance(net(pixels(2, (2, 6, 6))), torch.Tensor)


# -- refusals ------------------------------------------------------------------------------------------------


def resets_itself(s, x):
    functional.reset_net(s)
    return s.n2(s.l(s.n(s.c(x)).flatten(1)))


def changes_with_time(s, x):
    return torch.stack([s.n(s.l(x.flatten(1)) * (1 + t)) for t in range(4)])


def starts_elsewhere() -> nn.Module:
    net = Net(lambda s, x: s.n(s.l(x.flatten(1))), l=dense(72, 15), n=IF())
    net.n.set_reset_value("v", 1.5)
    return net


def simple(forward, **more: nn.Module) -> nn.Module:
    return Net(forward, l=dense(72, 15), n=IF(), **more)


def _single_n2(net: nn.Module) -> nn.Module:
    net.n2.step_mode = "s"
    return net


REFUSED = {
    "analog surrogate": (lambda: body(conv(2, 4), IF(surrogate_function=surrogate.ATan(spiking=False)), features=64),
                         r"ifnode1: its surrogate function gives .* use one with spiking=True"),
    "mixed step modes": (lambda: nn.Sequential(conv(2, 4, step_mode="m"), IF(), layer.Flatten(step_mode="m"), layer.Linear(64, 4, step_mode="m"), IF(step_mode="m")),
                         r'ifnode1: its step_mode is "s", but it is given \(4, 3, 4, 4, 4\) at once .* set step_mode="m"'),
    "an own T": (lambda: multi(Net(lambda s, x: s.n2(s.l(s.n(s.c(x.unsqueeze(0).repeat(8, 1, 1, 1, 1))).flatten(2))).mean(0), **plain())),
                 r"n: it runs 8 steps, but T is 4: .* make them the same"),
    "an own T that is smaller": (lambda: multi(Net(lambda s, x: s.n2(s.l(s.n(s.c(x.unsqueeze(0).repeat(2, 1, 1, 1, 1))).flatten(2))).mean(0), **plain())),
                                 r"n: it runs 2 steps, but T is 4; make them the same"),
    "neurons behind the mean": (lambda: _single_n2(multi(Net(lambda s, x: s.n2(s.l(s.n(s.c(x.expand(4, *x.shape))).flatten(2).mean(0))), **plain()))),
                                r"n2: its input is a sum or mean over time steps of l: .* take the mean at the end"),
    "a neuron called twice": (lambda: simple(lambda s, x: s.n(s.m(s.n(s.l(x.flatten(1))))), m=dense(15, 15)),
                              r"n: its call 2 reads step 1: this neuron layer is called twice per step"),
    "a reset between steps": (lambda: Net(resets_itself, **plain()), r"n: its membrane \(v\) was reset or changed between two steps"),
    "a membrane that starts beyond its threshold": (starts_elsewhere, r"n: its membrane starts at 1\.5 \(its threshold is 1\)"),
    "currents that change": (lambda: simple(changes_with_time), "n: at step 2 it reads another current than at its first"),
    "the last step alone": (lambda: multi(simple(lambda s, x: s.n(s.l(x.flatten(2)))[-1])), "Net: what it returns is of step 4 alone, of 4"),
    "the membrane of neurons that fire": (lambda: simple(lambda s, x: s.n(s.l(x.flatten(1))) + s.n.v), r"Net: it reads the membrane of n, which fires"),
    "the membranes that neurons kept": (lambda: Net(lambda s, x: s.n(s.l(x.flatten(1))) + s.n.v_seq[-1], l=dense(72, 15), n=IF(store_v_seq=True)),
                                        r"Net: it reads the membrane of n, which fires"),
    "integrators in single-step mode": (lambda: nn.Sequential(layer.Flatten(), dense(72, 5), IF(), dense(5, 3), neuron.NonSpikingIFNode()),
                                        r"nonspikingifnode4: it takes the first axis of its input \(3, 3\) for the 4 time steps"),
    "an if on numbers": (lambda: simple(lambda s, x: s.n(s.l(x.flatten(1))) if x.mean() > 0 else x), r"Net: its forward compares a single number .*test_forwards.py:\d+\)"),
    "item": (lambda: simple(lambda s, x: s.n(s.l(x.flatten(1) * x.max().item()))), r"Net: its forward reads numbers .*\(max\).*test_forwards.py:\d+\)"),
    "numpy": (lambda: simple(lambda s, x: s.n(s.l(torch.from_numpy(x.numpy()).flatten(1)))), r"Net: its forward hands .* to numpy or a list, .* write that in torch.*test_forwards.py:\d+\)"),
    "argmax": (lambda: simple(lambda s, x: s.n(s.l(x.flatten(1))).argmax(1)), r"Net: its forward reads numbers .*\(argmax\)"),
    "softmax": (lambda: simple(lambda s, x: s.n(s.l(x.flatten(1))).softmax(1)), r"Net: the operation 'softmax' .* scores need none"),
    "relu": (lambda: nn.Sequential(layer.Flatten(), dense(72, 5), nn.ReLU(), IF()), "2: ReLU cannot be lowered; this is an ANN layer"),
    "group norm": (lambda: nn.Sequential(conv(2, 4), nn.GroupNorm(2, 4), IF()), "1: GroupNorm cannot be lowered; use BatchNorm2d"),
    "statistics of the batch": (lambda: nn.Sequential(conv(2, 4), layer.BatchNorm2d(4, track_running_stats=False), IF()), "batchnorm2d1: this norm keeps no running statistics"),
    "attention": (lambda: simple(lambda s, x: (s.n(s.l(x.flatten(1))).unsqueeze(2) @ s.n(s.l(x.flatten(1))).unsqueeze(1)).sum(2)), "n: at step 2|n: it runs|Net: "),
    "a product of currents": (lambda: simple(lambda s, x: s.n(s.l(x.flatten(1)) * s.l(x.flatten(1)))), "Net: it multiplies two signals"),
    "random numbers": (lambda: simple(lambda s, x: s.n(s.l((torch.rand_like(x) <= x).to(x).flatten(1)))), "Net: it draws random numbers"),
    "random numbers of no input": (lambda: simple(lambda s, x: s.n(s.l(x.flatten(1)) + torch.randn(15))), "Net: it draws random numbers"),
    "dropout that goes on": (lambda: simple(lambda s, x: s.n(s.l(F.dropout(x.flatten(1), 0.5)))), "Net: it draws random numbers"),
    "an enlarged image": (lambda: body(nn.Upsample(scale_factor=2), conv(2, 3), IF(), features=300), "conv2d1: before it the pixels of its map are moved"),
    "mirrored padding": (lambda: body(conv(2, 3, padding=1, padding_mode="reflect"), IF(), features=108), "conv2d0: before it the pixels of its map are moved"),
    "flat neurons made a map": (lambda: Net(lambda s, x: s.n2(s.c(s.n(s.l(x.flatten(1))).view(-1, 1, 4, 4))), l=dense(72, 16), n=IF(), c=conv(1, 2), n2=IF()),
                                "c: it reads as a map what is flat"),
    "a strided transposed convolution": (lambda: nn.Sequential(nn.ConvTranspose2d(2, 3, 2, stride=2), IF()), "0: a transposed convolution with stride enlarges"),
    "a convolution in three dimensions": (lambda: Net(lambda s, x: s.n(s.c(x.unsqueeze(2))), c=nn.Conv3d(2, 3, 3, padding=1), n=IF()), "c: of convolutions over three axes only those of planes"),
    "a max-pool of negatives": (lambda: Net(lambda s, x: s.l(F.max_pool2d(-s.n(s.c(x)), 2).flatten(1)), c=conv(2, 4), n=IF(), l=dense(16, 3)), "turns spikes around"),
    "a max-pool of currents": (lambda: body(conv(2, 4), layer.MaxPool2d(2), IF(), features=16), "maxpool2d1: a max-pool over membrane currents"),
    "a pool that does not fit": (lambda: body(conv(2, 4, 6), IF(), layer.MaxPool2d(2), features=4), "maxpool2d2: its 2 window does not fit into its 1×1 input"),
    "a lazy layer": (lambda: nn.Sequential(nn.LazyConv2d(3, 3), IF()), r"0.weight: this lazy layer has no weights yet"),
    "TorchScript": (lambda: nn.Sequential(torch.jit.script(nn.Linear(6, 6)), IF()), "0: a TorchScript module hides"),
    "tdBN in single-step mode": (lambda: body(conv(2, 4), layer.ThresholdDependentBatchNorm2d(1.0, 1.0, 4), IF(), features=64),
                                 r'thresholddependentbatchnorm2d1: .*its step_mode is "m", so that it takes \(T, N, …\)'),
    "a parallel neuron": (lambda: multi(nn.Sequential(layer.Flatten(), dense(72, 5), neuron.PSN(4))), "2: it multiplies its input by a matrix from the left"),
    "another neuron": (lambda: multi(nn.Sequential(layer.Flatten(), dense(72, 5), neuron.QIFNode())), "2: "),
    "a bias before a current that persists": (lambda: nn.Sequential(layer.Flatten(), dense(72, 5), neuron.CUBALIFNode()), r"cubalifnode2: a bias .* current"),
    "nothing of the input": (lambda: simple(lambda s, x: s.l.weight.sum() + torch.zeros(x.size(0), 3)), "what its forward returns does not depend on its input"),
    "what numbers decide": (lambda: simple(lambda s, x: s.n(s.l(x.flatten(1)[:, x.flatten(1).sum(0) > 0]))), "Net: "),
    "an output without samples": (lambda: simple(lambda s, x: s.n(s.l(x.flatten(1))).sum(0)), r"Net: it returns a tensor of shape \(4, 15\) for 4 steps of 3 samples"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_graph_does_not_express_is_refused_in_one_line(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(DeployError, match=message) as caught:
        lower_module(make(), (2, 6, 6), 4)
    assert "\n" not in str(caught.value)


def test_the_line_is_that_of_the_user() -> None:
    net = simple(lambda s, x: s.n(s.l(x.flatten(1))).softmax(1))
    with pytest.raises(LoweringError) as caught:
        from_torch(net, (2, 6, 6), 4)
    text = "    net = simple(lambda s, x: s.n(s.l(x.flatten(1))).softmax(1))"
    line = Path(__file__).read_text(encoding="utf-8").splitlines().index(text) + 1
    assert str(caught.value).endswith(f"test_forwards.py:{line})")


def test_arguments_are_checked() -> None:
    net = body(conv(2, 4), IF(), features=64)
    for T in (0, True, 2.5):
        with pytest.raises(LoweringError, match="T is "):
            from_torch(net, (2, 6, 6), T)  # type: ignore[arg-type]
    for shape in ((), (2, 0, 6), (1, 2, 3, 4)):
        with pytest.raises(LoweringError, match="the input shape"):
            from_torch(net, shape, 4)


def test_compiled_modules_come_in_as_what_they_wrap() -> None:
    net = torch.compile(body(conv(2, 3), IF(), features=48))
    graph = from_torch(net, (2, 6, 6), 4)
    assert list(graph.synapses) == ["conv2d0", "linear3"]
    inner = nn.Sequential(torch.compile(conv(2, 3)), body(IF(), features=48))
    inner[1].compile()
    assert len(from_torch(inner, (2, 6, 6), 4).synapses) == 2


def test_linear_layers_keep_their_weights_where_nothing_is_folded() -> None:
    net = nn.Sequential(layer.Flatten(), dense(72, 5), IF())
    node = next(n for n in from_torch(net, (2, 6, 6), 4).nodes.values() if isinstance(n, Linear))
    np.testing.assert_array_equal(node.weight, net[1].weight.detach().numpy())
