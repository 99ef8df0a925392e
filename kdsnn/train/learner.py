"""A network as training and evaluation see it: images in, one output per time step out."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from spikingjelly.activation_based.functional import reset_net
from torch import Tensor, nn

from kdsnn.data import DataSet
from kdsnn.data.device import Streamed, floats, pick, placed
from kdsnn.errors import KdsnnError
from kdsnn.models import StagedNetwork
from kdsnn.train.calling import CallingConvention, convention_of, device_of, trial
from kdsnn.train.config import TeacherFrames
from kdsnn.train.fast_neurons import fused
from kdsnn.train.features import Guided, recorded
from kdsnn.train.host import few_threads

EVALUATION_BATCH = 256


class Learner(nn.Module):
    """A learner is a network and what learns beside it: images (N, C, H, W), or frames over time (N, T, C, H, W) → outputs
    (T, N, K) and features.

    `T` None: an ANN, whose logits are what `ann_logits` says, of `frames`. Otherwise a spiking
    network, which sees the image at each of T steps (direct coding), or frame t at step t, and starts every batch from
    rest; `convention` says how it is called, and one that averages over time itself gives one step too. While training
    the outputs are what `logits` makes of the network's (`kdsnn.train.logits`). The features are the student's of
    `guided`, each passed through its regressor; an empty list without them, and outside training.
    """

    def __init__(
        self, network: nn.Module, T: int | None = None, convention: CallingConvention | None = None, guided: Guided | None = None,
        logits: nn.Module | None = None, frames: TeacherFrames = "mean",
    ) -> None:  # fmt: skip
        super().__init__()
        self.network: Any = network
        self.T, self.frames = T, frames
        self.convention = convention or CallingConvention("static")
        self.logits = logits
        self.pairs = () if guided is None else guided.pairs
        self.regressors = None if guided is None else guided.regressors

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Run on `images` (N, C, H, W), or (N, T, C, H, W)."""
        if not self.training:
            return self._run(images), []
        if self.regressors is None:
            return self._logits(images), []
        with recorded(self.network, [(pair.student.module, pair.part) for pair in self.pairs]) as found:
            output = self._logits(images)
        rates = [pair.rate(parts) for pair, parts in zip(self.pairs, found, strict=True)]
        return output, [regress(rate) for regress, rate in zip(self.regressors, rates, strict=True)]

    def _logits(self, images: Tensor) -> Tensor:
        output = self._run(images)
        logits: Tensor = output if self.logits is None else self.logits(output)
        return logits

    def _run(self, images: Tensor) -> Tensor:
        if self.T is None:
            return ann_logits(self.network, images, self.frames)
        reset_net(self.network)
        return self.convention.run(self.network, images, self.T)


def ann_logits(network: nn.Module, images: Tensor, frames: TeacherFrames) -> Tensor:
    """The logits of an ANN as a sequence: one step (1, N, K) of images (N, C, H, W) or the mean of frames (N, T, C, H, W); of
    "each" frame by itself (T, N, K)."""
    if frames == "mean" or images.dim() != 5:
        still_logits: Tensor = network(still(images))
        return still_logits.unsqueeze(0)
    logits: Tensor = network(images.flatten(0, 1))
    return logits.reshape(*images.shape[:2], -1).transpose(0, 1)


def still(images: Tensor) -> Tensor:
    """What an ANN sees unless it sees each frame: images (N, C, H, W) as they are, and of frames (N, T, C, H, W) the mean."""
    return images.mean(1) if images.dim() == 5 else images


def require_steps(data: DataSet, T: int | None) -> None:
    """Raise KdsnnError for a spiking network of another number of steps than the data has frames."""
    if None not in (T, data.T) and data.T != T:
        raise KdsnnError(f"{data.name} has {data.T} frames, and the network T={T} steps: make both the same.")


@torch.no_grad()
def evaluate(
    module: nn.Module,
    data: DataSet,
    *,
    T: int | None = None,
    frames: TeacherFrames = "mean",
    progress: Callable[[int, int], object] | None = None,
) -> tuple[float, ...]:
    """Measure accuracy on the test set, 0…1, on the device of `module`; the last value is that of the full run.

    `T` None: an ANN, one value, or where it sees "each" of T `frames` as many as these. Otherwise a spiking network of either readout: value t-1 reads the mean of
    the output over the first t steps, t = 1…T; a module that averages over time itself has one value. Where classes
    tie, which is common with few spikes, the lowest class number wins. Any module that `distill` or `pretrain` takes
    will do. `progress` is called with (images done, of how many) before every batch. Raises KdsnnError when the network does not
    fit the data.
    """
    right = decisions(module, data, T=T, frames=frames, progress=progress) == data.y_test
    return tuple(count / len(data.y_test) for count in right.sum(axis=1).tolist())


def decisions(
    module: nn.Module,
    data: DataSet,
    *,
    T: int | None = None,
    frames: TeacherFrames = "mean",
    progress: Callable[[int, int], object] | None = None,
) -> NDArray[np.int64]:
    """Decide on a class for every test sample, as `evaluate` counts it: int64 (T, N), row t-1 from the first t steps or of
    `frames`; (1, N) of another ANN, and of a module that averages over time itself.

    Raises KdsnnError as `evaluate` does.
    """
    require_steps(data, T)
    device = device_of(module)
    images, indices = placed(data.x_test, device), torch.arange(len(data.y_test), device=device)
    with trial(module):
        learner = Learner(module, T, None if T is None else convention_of(module, data.sample_shape, T), frames=frames)
        require_fit(learner, data, device)
        with few_threads(data, EVALUATION_BATCH), fused(module):
            begun = itertools.count(0, EVALUATION_BATCH)
            tell = int if progress is None else lambda: progress(next(begun), len(indices))
            return np.asarray(_decided(learner, images, indices, data.graded, tell).cpu().numpy())


def step_scores(
    module: nn.Module, samples: NDArray[np.uint8], *, T: int | None = None, graded: bool = False
) -> NDArray[np.float64]:
    """Score each class for samples as a data set holds them, uint8 (N, …), as the network's mean output over the first t
    steps: (N, T, K); (N, 1, K) of an ANN, and of a module that averages over time itself. The highest is what `decisions`
    gives."""
    device, found = device_of(module), []
    with trial(module):
        learner = Learner(module, T, None if T is None else convention_of(module, samples.shape[1:], T))
        with fused(module):
            for part in torch.split(torch.from_numpy(np.ascontiguousarray(samples)), EVALUATION_BATCH):
                output, _ = learner(floats(part.to(device), graded))
                sums = output.float().cumsum(0).double().cpu()  # in double, so that a division makes no ties
                found.append((sums / torch.arange(1, len(sums) + 1)[:, None, None]).transpose(0, 1))
    return torch.cat(found).numpy()


@torch.no_grad()
def correct(
    learner: nn.Module, images: Tensor | Streamed, labels: Tensor, indices: Tensor, graded: bool,
    between: Callable[[], object] = int,
) -> Tensor:  # fmt: skip
    """Count which of `indices` are classified rightly from the first t steps, t = 1…T: int64 (T,); puts `learner` in
    eval mode. `graded`: as of the data set. `between` is called before every batch."""
    return (_decided(learner, images, indices, graded, between) == labels[indices]).sum(-1)


def _decided(
    learner: nn.Module, images: Tensor | Streamed, indices: Tensor, graded: bool, between: Callable[[], object]
) -> Tensor:
    """Decide on a class for each of `indices` from the first t steps: int64 (T, number of indices); see `correct`."""
    learner.eval()
    found = []
    for part in torch.split(indices, EVALUATION_BATCH):
        between()
        output, _ = learner(floats(pick(images, part), graded))
        # the sum over the first t steps has the same arg max as their mean
        found.append(output.float().cumsum(0).argmax(-1))
    return torch.cat(found, 1)


def laid_out(module: nn.Module, layout: torch.memory_format) -> None:
    """Lay the convolutions' weights out in memory as `layout` says, in place; their values stay.

    Modules that are not this project's are left alone: one that takes views of its maps fails in another layout.
    """
    network = module.network if isinstance(module, Learner) else module
    if isinstance(network, StagedNetwork):
        module.to(memory_format=layout)  # type: ignore[call-overload]


@torch.no_grad()
def require_fit(learner: Learner, data: DataSet, device: torch.device) -> None:
    """Try two black samples, so that a network for other images or classes is named as such before anything runs."""
    learner.eval()
    try:
        output = learner(torch.zeros(2, *data.sample_shape, dtype=torch.float32, device=device))[0]
    except Exception as error:  # whatever a user's own forward raises
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        types = {str(p.dtype).removeprefix("torch.") for p in learner.parameters() if p.is_floating_point()}
        if others := sorted(types - {"float32"}):
            raise KdsnnError(
                f"The network's weights are {' and '.join(others)}, images are float32: give it as .float() ({reason})."
            ) from error
        raise KdsnnError(
            f"The network does not accept the images of {data.name}, {data.input_shape} (C, H, W): build it for that shape ({reason})."
        ) from error
    if output.dim() != 3 or output.shape[1] != 2:
        raise KdsnnError(
            f"The network returns {tuple(output.shape[1:])} for two images: one value for each class, (N, K), is needed."
        )
    if (classes := output.shape[-1]) != data.classes:
        raise KdsnnError(
            f"The network has {classes} classes and {data.name} has {data.classes}: build it with classes={data.classes}."
        )
