"""Networks that read events over time, as SpikingJelly runs them and as graphs: an event CNN, and a recurrent network as
large as those for spoken digits (SHD)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from spikingjelly.activation_based import functional, layer, neuron
from spikingjelly.activation_based.model.parametric_lif_net import NMNISTNet
from torch import nn

from exporters.from_torch import from_torch
from exporters.graph import LIF, Array, Delay, Input, Linear, Output, SpikingGraph

EVENTS, EVENT_STEPS = (2, 34, 34), 16
CHANNELS, CHANNEL_STEPS, HIDDEN, CLASSES = 700, 100, 256, 20


def event_cnn() -> tuple[nn.Module, SpikingGraph]:
    """SpikingJelly's network for N-MNIST, with random weights and settled BatchNorm, and its graph."""
    torch.manual_seed(0)
    net = NMNISTNet(128, neuron.LIFNode, decay_input=False)
    functional.set_step_mode(net, "m")
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        net.train()((torch.rand(EVENT_STEPS, 4, *EVENTS) < 0.05).float())
    functional.reset_net(net)
    net.eval()
    return net, from_torch(net, EVENTS, EVENT_STEPS, encoding="spikes")


class SpokenDigits(nn.Module):
    """A recurrent layer of LIF neurons in SpikingJelly's own container, between two dense ones."""

    def __init__(self) -> None:
        super().__init__()
        self.read = layer.Linear(CHANNELS, HIDDEN, bias=False)
        cells = neuron.LIFNode(tau=2.0, decay_input=False)
        self.recurrent = layer.LinearRecurrentContainer(cells, HIDDEN, HIDDEN, bias=False)
        self.last = layer.Linear(HIDDEN, CLASSES, bias=False)
        self.out = neuron.LIFNode(tau=2.0, decay_input=False)
        functional.set_step_mode(self, "m")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.last(self.recurrent(self.read(x))))


def spoken_digits() -> tuple[nn.Module, SpikingGraph]:
    """The recurrent network with random weights, under which about a third of its neurons fire at each step, and its graph.

    The container multiplies input and spikes of the step before by one matrix; of its two halves, the graph has that of the
    input merged into the layer before.
    """
    torch.manual_seed(0)
    net = SpokenDigits().eval()
    with torch.no_grad():
        for module, factor in ((net.read, 20), (net.recurrent.rc, 4), (net.last, 8)):
            module.weight *= factor
    read, both, last = (module.weight.detach().double().numpy() for module in (net.read, net.recurrent.rc, net.last))
    nodes = {
        "in": Input((CHANNELS,), "spikes"),
        "read": Linear(both[:, :HIDDEN] @ read),
        "hidden": LIF(1.0, 0.5),
        "back": Delay(np.ones(HIDDEN, int)),
        "recurrent": Linear(both[:, HIDDEN:]),
        "last": Linear(last),
        "classes": LIF(1.0, 0.5),
        "out": Output(),
    }
    edges = [("in", "read"), ("read", "hidden"), ("hidden", "back"), ("back", "recurrent"), ("recurrent", "hidden")]
    edges += [("hidden", "last"), ("last", "classes"), ("classes", "out")]
    return net, SpikingGraph(nodes, tuple(edges), CHANNEL_STEPS)


def events(count: int, graph: SpikingGraph, rate: float) -> Array:
    """Random spikes (count, T, *shape) float32."""
    return (np.random.default_rng(0).random((count, graph.T, *graph.input.shape)) < rate).astype(np.float32)


def inference_in_time(net: nn.Module, x: Array) -> Callable[[], object]:
    """SpikingJelly's own inference of a batch (N, T, *shape)."""
    frames = torch.from_numpy(x).transpose(0, 1).contiguous()

    def function() -> object:
        functional.reset_net(net)
        with torch.inference_mode():
            return net(frames)

    return function
