"""The parts an architecture is built from: `torch.nn` layers for the ANN, SpikingJelly's for the SNN.

An architecture asks a `Kit` for its layers and never learns which of the two it is building, so one
definition gives both networks, with the same parameter names.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Literal

from spikingjelly.activation_based import layer, surrogate
from spikingjelly.activation_based import neuron as neurons
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from exporters.graph.nodes import Reset

Readout = Literal["rate", "voting", "membrane"]
Neuron = Literal["if", "lif"]

VOTERS = 8
"""Output neurons of a class with read-out "voting". Eighths are binary fractions, so that sums of votes are exact in floating
point and classes that tie do so wherever the network runs; with the usual ten, rounding would break the tie."""


@dataclass(frozen=True)
class Kit:
    """A kit hands out the layers of one network.

    Attributes:
        spiking: False: `torch.nn` layers and ReLU, on (N, C, H, W). True: SpikingJelly layers in
            multi-step mode and spiking neurons, on (T, N, C, H, W).
        readout: "rate" ends the SNN in neurons, whose firing rate is the logit (KDSNN, section 3.1);
            "voting" in `VOTERS` neurons per class, whose mean rate it is (Fang et al., ICCV 2021): at T = 4 a logit
            has 33 levels in place of 5; "membrane" ends it in the currents of a layer that does not fire.
        neuron: "if" integrates, "lif" leaks half of its membrane per step. Both fire at v ≥ 1 and train through the
            ATan surrogate, with the reset left out of the gradient.
        reset: after a spike: "hard" to 0, "soft" by subtraction of the threshold.
    """

    spiking: bool
    readout: Readout = "rate"
    neuron: Neuron = "if"
    reset: Reset = "hard"

    def conv(self, inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1) -> nn.Module:
        """Make a convolution without bias that keeps the size at stride 1."""
        return self._make("Conv2d", inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)

    def norm(self, channels: int) -> nn.Module:
        """Make a BatchNorm; in the SNN its statistics run over time steps and samples."""
        return self._make("BatchNorm2d", channels)

    def act(self) -> nn.Module:
        """Make a ReLU, or a layer of neurons in its place."""
        if not self.spiking:
            return nn.ReLU()
        common = {
            "v_threshold": 1.0,
            "v_reset": 0.0 if self.reset == "hard" else None,
            "surrogate_function": surrogate.ATan(),
            "detach_reset": True,
            "step_mode": "m",
        }
        if self.neuron == "if":
            node: nn.Module = neurons.IFNode(**common)
        else:  # decay_input=False: v ← v/2 + x, the leak that exporters and chips know
            node = neurons.LIFNode(tau=2.0, decay_input=False, **common)
        return node

    def max_pool(self) -> nn.Module:
        """Make a 2×2 maximum; on spikes it is the logical OR."""
        return self._make("MaxPool2d", 2)

    def avg_pool(self) -> nn.Module:
        """Make a 2×2 average."""
        return self._make("AvgPool2d", 2)

    def global_pool(self) -> nn.Module:
        """Make an average over the whole map, to 1×1."""
        return self._make("AdaptiveAvgPool2d", 1) if self.spiking else GlobalAverage()

    def head(self, features: int, classes: int, *, hidden: tuple[int, ...] = (), bias: bool = True) -> nn.Sequential:
        """Make what leads from maps to the read-out: flatten, hidden layers, classifier and, unless it is "membrane",
        output neurons and their vote."""
        votes = self.spiking and self.readout == "voting"
        layers = {"flatten": self._make("Flatten")}
        for i, width in enumerate(hidden, start=1):
            layers[f"fc{i}"] = self._make("Linear", features, width, bias=bias)
            layers[f"act{i}"] = self.act()
            features = width
        layers["classifier"] = self._make("Linear", features, classes * VOTERS if votes else classes, bias=bias)
        if self.spiking and self.readout != "membrane":
            layers["output"] = self.act()
        if votes:
            layers["voting"] = layer.VotingLayer(VOTERS, step_mode="m")
        return named(**layers)

    def _make(self, kind: str, *args: Any, **kwargs: Any) -> nn.Module:
        if self.spiking:
            module: nn.Module = getattr(layer, kind)(*args, step_mode="m", **kwargs)
        else:
            module = getattr(nn, kind)(*args, **kwargs)
        return module


class GlobalAverage(nn.Module):
    """The global average goes over the whole map, (N, C, H, W) to (N, C, 1, 1).

    It is the ANN's own module because thop charges `AdaptiveAvgPool2d` and the paper's FLOPs leave it out.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Average `x` over height and width."""
        return adaptive_avg_pool2d(x, 1)


def named(**layers: nn.Module) -> nn.Sequential:
    """Make an `nn.Sequential` whose layers have names."""
    return nn.Sequential(OrderedDict(layers))
