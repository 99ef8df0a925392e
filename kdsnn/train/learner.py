"""A network as training and evaluation see it: images in, one output per time step out."""

from __future__ import annotations

from typing import Any

import torch
from spikingjelly.activation_based.functional import reset_net
from torch import Tensor, nn

from kdsnn.data import DataSet
from kdsnn.data.device import Streamed, floats, pick, placed
from kdsnn.errors import KdsnnError
from kdsnn.models import stage_features
from kdsnn.train.fast_neurons import fused
from kdsnn.train.host import few_threads

EVALUATION_BATCH = 256


class Learner(nn.Module):
    """A network and what learns beside it: images (N, C, H, W) → outputs (T, N, K) and features.

    `T` None: an ANN, whose logits are a sequence of one step. Otherwise a spiking network, which sees the
    images at each of T steps (direct coding) and starts every batch from rest.
    The features are those of the last stages, one for each of `regressors` and passed through it; an empty
    list without regressors, and outside training.
    """

    def __init__(self, network: nn.Module, T: int | None = None, regressors: nn.ModuleList | None = None) -> None:
        super().__init__()
        self.network: Any = network  # distillation of features needs a `Network`, all else any module
        self.T = T
        self.regressors = regressors

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Run on `images` (N, C, H, W)."""
        if self.regressors is None or not self.training:
            return self._run(images), []
        with stage_features(self.network) as found:
            output = self._run(images)
        last = found[-len(self.regressors) :]
        return output, [regress(feature) for regress, feature in zip(self.regressors, last, strict=True)]

    def _run(self, images: Tensor) -> Tensor:
        if self.T is None:
            logits: Tensor = self.network(images)
            return logits.unsqueeze(0)
        reset_net(self.network)
        output: Tensor = self.network.forward_static(images, self.T)
        return output


@torch.no_grad()
def evaluate(module: nn.Module, data: DataSet, *, T: int | None = None) -> tuple[float, ...]:
    """Accuracy on the test set, 0…1, on the device of `module`; the last value is that of the full run.

    `T` None: an ANN, one value. Otherwise a spiking network of either readout: value t-1 reads the mean of
    the output over the first t steps, t = 1…T. Where classes tie, which is common with few spikes, the
    lowest class number wins. Raises KdsnnError when the network does not fit the data.
    """
    learner = Learner(module, T)
    device = next(module.parameters()).device
    images, labels = placed(data.x_test, device), torch.from_numpy(data.y_test).to(device)
    require_fit(learner, data, device)
    with few_threads(data, EVALUATION_BATCH), fused(module):
        found = correct(learner, images, labels, torch.arange(len(labels), device=device))
    return tuple(count / len(labels) for count in found.tolist())


@torch.no_grad()
def correct(learner: nn.Module, images: Tensor | Streamed, labels: Tensor, indices: Tensor) -> Tensor:
    """How many of `indices` are classified rightly from the first t steps, t = 1…T: int64 (T,); puts `learner` in eval mode."""
    learner.eval()
    counts = []
    for part in torch.split(indices, EVALUATION_BATCH):
        output, _ = learner(floats(pick(images, part)))
        # the sum over the first t steps has the same arg max as their mean
        counts.append((output.float().cumsum(0).argmax(-1) == labels[part]).sum(-1))
    return torch.stack(counts).sum(0)


def laid_out(module: nn.Module, layout: torch.memory_format) -> None:
    """Lay the convolutions' weights out in memory as `layout` says, in place; their values stay."""
    module.to(memory_format=layout)  # type: ignore[call-overload]


@torch.no_grad()
def require_fit(learner: Learner, data: DataSet, device: torch.device) -> None:
    """Try one black image, so that a network for other images or classes is named as such before anything runs."""
    learner.eval()
    try:
        classes = learner(torch.zeros(1, *data.input_shape, device=device))[0].shape[-1]
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise KdsnnError(
            f"The network does not accept the images of {data.name}, {data.input_shape} (C, H, W): build it for that shape ({reason})."
        ) from error
    if classes != data.classes:
        raise KdsnnError(
            f"The network has {classes} classes and {data.name} has {data.classes}: build it with classes={data.classes}."
        )
