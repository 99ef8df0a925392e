"""Training an ANN whose activations and weights have few bits: the quantized twin of a spiking student.

Activations are those of `kdsnn.models.quantized_activations`. Weights are rounded as a student's on its grid
(`kdsnn.train.grid`): per layer k = clip(rint(s W), -q, q), q = 2^(bits-1) - 1, s = q / c, with gradients straight through. BatchNorm
and biases stay real numbers: between two activations of few bits they only move the thresholds at which the integer sum
of a layer steps to the next level, one list of thresholds per channel (Umuroglu et al., FINN, FPGA 2017).
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from exporters.passes.quantize import require_bits
from kdsnn.data import DataSet
from kdsnn.errors import KdsnnError
from kdsnn.models.network import StagedNetwork, Tap
from kdsnn.models.quantized_activations import clips_measured, levels_read, quantize_activations
from kdsnn.models.rounding import Rounded, best_clip
from kdsnn.train.initialization import calibration_images
from kdsnn.train.learner import still


class QuantizedAnn(StagedNetwork):
    """This is an ANN in training: its parameters are real numbers, its outputs those of weights on the grid.

    Args:
        network: the ANN, (N, C, H, W) → logits, from which training starts; taken over and changed.
        bits: of a weight, sign included, 2 to 8.
        activation_bits: of an activation, 1 to 8.
        images: training images (N, C, H, W) in 0…1, on which the clips of activations start.

    Raises:
        DeployError: other bits of a weight; KdsnnError: other bits of an activation, a layer that has no weights but 0, or
            one that reads neither the images nor activations of so few bits.
    """

    def __init__(self, network: nn.Module, bits: int, activation_bits: int, images: Tensor) -> None:
        require_bits(bits)
        super().__init__()
        self.network = quantize_activations(network, activation_bits)
        self.taps: tuple[Tap, ...] = ()
        self.spiking = False
        self.bits, self.activation_bits = bits, activation_bits
        self.largest = 2 ** (bits - 1) - 1
        self._factors = {name: self._factor(name, part) for name, part in self._layers()}
        replica = copy.deepcopy(self).train()  # whose BatchNorms may see the images
        with clips_measured(replica), torch.no_grad():
            replica(images)
        own, found = dict(self.named_parameters()), dict(replica.named_parameters())
        for name in own:
            if name.endswith(".clip"):
                own[name].data.copy_(found[name].data)
        for name, levels in levels_read(replica.network, images[:64]).items():
            if levels > 2**activation_bits:
                raise KdsnnError(
                    f"{name} reads values that are no activation of {activation_bits} bits: something lies between it and the "
                    "activations before it (a sum, a normalization); take another architecture"
                )

    def forward(self, x: Tensor) -> Tensor:
        """Run on images (N, C, H, W)."""
        weights = {
            f"{name}.weight": Rounded.apply(part.weight, scale, self.largest)  # type: ignore[no-untyped-call]
            for (name, part), scale in zip(self._layers(), self._scales(), strict=True)
        }
        out: Tensor = functional_call(self.network, weights, (x,))
        return out

    @torch.no_grad()
    def deployed(self) -> nn.Module:
        """Make the network whose weights are on the grid for good, in evaluation mode."""
        made = copy.deepcopy(self.network)
        for (name, _), scale in zip(self._layers(), self._scales(), strict=True):
            part: Any = made.get_submodule(name)
            part.weight.copy_(Rounded.apply(part.weight, scale, self.largest))  # type: ignore[no-untyped-call]
        return made.eval()

    def _layers(self) -> list[tuple[str, Any]]:
        return [(name, part) for name, part in self.network.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)]

    def _factor(self, name: str, part: Any) -> float:
        """Find the clip with the least squared error of a layer's weights, in units of their mean."""
        weights = part.weight.detach().double()
        if not weights.any():
            raise KdsnnError(f"{name}: all its weights are zero; start from other weights")
        return best_clip(weights, self.largest, lowest=-self.largest) / float(weights.abs().mean())

    @torch.no_grad()
    def _scales(self) -> list[float]:
        """Compute s of every layer; it is read from the device once."""
        clips = []
        for name, part in self._layers():
            sizes = part.weight.detach().abs()
            clips.append(torch.minimum(sizes.mean() * self._factors[name], sizes.amax()))
        # weights that are NaN make no scale; the training loop is the one to notice them
        return [self.largest / clip if 0 < clip < float("inf") else 1.0 for clip in torch.stack(clips).tolist()]


def of_few_bits(network: nn.Module, data: DataSet, bits: int, activation_bits: int) -> QuantizedAnn:
    """Make of an ANN one of few bits to train on, whose activations start with clips that suit some training images.

    Raises:
        DeployError, KdsnnError: as `QuantizedAnn`.
    """
    return QuantizedAnn(network, bits, activation_bits, still(calibration_images(data)))
