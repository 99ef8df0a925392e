"""What every architecture shares: the two ways to run it, and where distillation reads its features."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Tap:
    """A tap is the end of one stage, where feature distillation reads (Heo et al., ICCV 2019; KDSNN, Eq. 6-7).

    Attributes:
        module: of an ANN, the module whose *input* is the feature before ReLU; of an SNN, the neurons
            whose *output*, averaged over time, is the feature as firing rates.
        bn: the BatchNorm just before, whose affine parameters give the teacher's margin.
        channels: of the feature.
    """

    module: str
    bn: str | None
    channels: int


class StagedNetwork(nn.Module):
    """A network of this project, as training knows it: it says where its stages end, and resets nothing on the way.

    Attributes:
        taps: where the stages end, in order of execution.
        spiking: whether it is an SNN, which then has `forward_static`.
    """

    taps: tuple[Tap, ...]
    spiking: bool

    def forward_static(self, x: Tensor, T: int) -> Tensor:
        """Run the SNN on images that stay the same for T steps (direct coding): (N, C, H, W) → (T, N, classes)."""
        raise NotImplementedError


class Network(StagedNetwork):
    """A network is an ANN, (N, C, H, W) → logits (N, classes), or an SNN, (T, N, C, H, W) → (T, N, classes).

    The SNN returns the output spikes ("rate": their mean over T is the logit) or the output currents
    ("membrane": logits at every step). As everywhere in SpikingJelly the membranes live on from call to
    call: `functional.reset_net(network)` comes before the next batch.

    Attributes:
        stem: the first convolution and the BatchNorm that follows it directly; has no state.
        body: all the rest.
    """

    def __init__(self, stem: nn.Module, body: nn.Module, taps: tuple[Tap, ...], *, spiking: bool) -> None:
        super().__init__()
        self.stem = stem
        self.body = body
        self.taps = taps
        self.spiking = spiking
        for module in self.modules():
            # Kaiming for linear layers too: no BatchNorm follows them, and at torch's smaller default
            # the hidden neurons of a spiking VGG stay silent. All else keeps torch's default.
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Run on images (ANN) or on a sequence of T images (SNN)."""
        out: Tensor = self.body(self.stem(x))
        return out

    def forward_static(self, x: Tensor, T: int) -> Tensor:
        """Run the SNN on images that stay the same for T steps (direct coding): (N, C, H, W) → (T, N, classes).

        Equals `forward(x.expand(T, ...))`, but computes the stem once. While training, its BatchNorm sees every
        image once and not T times: same mean and same normalization, while the running variance takes the
        unbiased factor n/(n-1) of n = N·H·W values instead of T·n.
        """
        current = self.stem(x.unsqueeze(0))
        if current.requires_grad:
            # the gradient, a sum over T, comes back row by row, and BatchNorm's backward is many times slower on
            # two different layouts
            strides = current.stride()
            current.register_hook(lambda grad: grad.new_empty_strided(grad.shape, strides).copy_(grad))
        out: Tensor = self.body(current.expand(T, *current.shape[1:]))
        return out


def stage_taps(network: StagedNetwork) -> tuple[Tap, ...]:
    """Tell where the stages of a network end, in order of execution."""
    return network.taps
