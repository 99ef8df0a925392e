"""What a student is asked for at every batch: the losses of `kdsnn.train.losses` with the teacher's answers filled
in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdsnn.data import DataSet, storage
from kdsnn.data.device import floats, pick, placed
from kdsnn.errors import KdsnnError
from kdsnn.train import features, losses
from kdsnn.train.calling import neuron_layers
from kdsnn.train.config import Method, TeacherFrames, TrainConfig
from kdsnn.train.learner import EVALUATION_BATCH, Learner, ann_logits, laid_out, require_fit


@dataclass(frozen=True, eq=False)
class Batch:
    """A batch is training samples on the device: float32 images (N, C, H, W) in 0…1, or frames (N, T, C, H, W) of 0 and 1,
    labels (N,), or of mixed samples (N, K), indices in the data set (N,)."""

    images: Tensor
    labels: Tensor
    indices: Tensor


Objective = Callable[[Tensor, list[Tensor], Batch], Tensor]
"""(output (T, N, K), regressed features, batch) → scalar loss."""


def labels_only(config: TrainConfig) -> Objective:
    """The loss of a teacher, and of a student without one, is the cross entropy of the mean output with the labels."""

    def objective(output: Tensor, found: list[Tensor], batch: Batch) -> Tensor:
        smoothing = config.label_smoothing
        return losses.hard(output, batch.labels, label_smoothing=smoothing, every_step=config.every_step)

    return objective


def objective_of(
    method: Method,
    student: Learner,
    teacher: nn.Module | None,
    data: DataSet,
    config: TrainConfig,
    device: torch.device,
    *,
    augmented: bool,
    taps: features.Taps = (),
) -> tuple[Objective, features.Guided | None]:
    """Make the loss of a method, and what a student that learns from features is to be trained with.

    The teacher is put in eval mode on `device` and never changed. Its logits are computed once for all
    images unless `augmented`: then every epoch shows others.

    Raises KdsnnError when a method needs a teacher and has none, when the teacher spikes or does not fit the data,
    or when "feature" finds no features, see `kdsnn.train.features.feature_pairs`.
    """
    if taps and method != "feature":
        raise KdsnnError(f"Taps are for method feature, and this is method {method}: leave them out.")
    if method == "none":
        return labels_only(config), None
    if teacher is None:
        raise KdsnnError(f"Method {method} needs a teacher: give a trained ANN, or use method none.")
    if neuron_layers(teacher):
        raise KdsnnError("The teacher has neurons of SpikingJelly, so it spikes: give an ANN.")
    teacher.to(device).eval()
    require_fit(Learner(teacher), data, device)
    laid_out(teacher, torch.channels_last)
    if method == "feature":
        pairs = features.feature_pairs(teacher, student.network, taps, student.convention, data.sample_shape, config.T)
        regressors = features.regressors([(pair.teacher, pair.student) for pair in pairs], seed=config.seed)
        return _feature(teacher, pairs, config, device), features.Guided(pairs, regressors)
    ask = teacher_logits(teacher, data, device, augmented=augmented, frames=config.teacher_frames)
    shared: dict[str, Any] = {"temperature": config.temperature, "label_smoothing": config.label_smoothing}

    def response(output: Tensor, found: list[Tensor], batch: Batch) -> Tensor:
        return losses.response(
            output, ask(batch).mean(0), batch.labels, alpha=config.alpha, every_step=config.every_step, **shared
        )

    def temporal(output: Tensor, found: list[Tensor], batch: Batch) -> Tensor:
        weights = {"teacher_weight": config.teacher_weight, "self_weight": config.self_weight}
        return losses.temporal(output, _for_steps(ask(batch), output), batch.labels, **weights, **shared)

    def selective(output: Tensor, found: list[Tensor], batch: Batch) -> Tensor:
        weights = {"teacher_weight": config.selective_teacher_weight, "self_weight": config.selective_self_weight}
        return losses.selective(output, _for_steps(ask(batch), output), batch.labels, **weights, **shared)

    return {"response": response, "temporal": temporal, "selective": selective}[method], None


def teacher_logits(
    teacher: nn.Module, data: DataSet, device: torch.device, *, augmented: bool, frames: TeacherFrames = "mean"
) -> Callable[[Batch], Tensor]:
    """Make of the teacher a function of a batch, → float32 (1, N, K), or of "each" of T `frames` (T, N, K).

    Its logits are computed once for all where every epoch shows the same images and the logits are fewer than
    `storage.IN_MEMORY` bytes.
    """

    @torch.no_grad()
    def ask(images: Tensor) -> Tensor:
        return ann_logits(teacher, images, frames).float()

    steps = 1 if frames == "mean" else data.T or 1
    if augmented or 4 * len(data.x_train) * steps * data.classes > storage.IN_MEMORY:
        return lambda batch: ask(batch.images)
    images = placed(data.x_train, device)
    parts = torch.split(torch.arange(len(data.x_train), device=device), EVALUATION_BATCH)
    cache = torch.cat([ask(floats(pick(images, part), data.graded)) for part in parts], dim=1)
    return lambda batch: cache[:, batch.indices]


def _for_steps(teacher: Tensor, student: Tensor) -> Tensor:
    """A teacher of "each" frame tells a student that shows every step what it says at that step, any other its mean (1, N, K)."""
    return teacher if len(teacher) == len(student) else teacher.mean(0, keepdim=True)


def _feature(
    teacher: nn.Module, pairs: Sequence[features.FeaturePair], config: TrainConfig, device: torch.device
) -> Objective:
    """The teacher's features are not cached: those of a data set are far larger than its images."""
    margins = features.teacher_margins(teacher, [pair.teacher for pair in pairs], device)
    reads = [(pair.teacher.module, pair.guide) for pair in pairs]
    at_input = any(pair.at_input for pair in pairs)

    @torch.no_grad()
    def ask(images: Tensor) -> list[Tensor]:
        with features.recorded(teacher, reads, at_input=at_input) as found:
            ann_logits(teacher, images, config.teacher_frames)
        maps = [
            features.margin_relu(features.as_maps(outputs[0].float()), margin)
            for outputs, margin in zip(found, margins, strict=True)
        ]
        # as a student's feature is its rate, the mean over what was seen of a sample
        return [one.reshape(len(images), -1, *one.shape[1:]).mean(1) for one in maps]

    def objective(output: Tensor, found: list[Tensor], batch: Batch) -> Tensor:
        matched = [features.same_size(s, t) for s, t in zip(found, ask(batch.images), strict=True)]
        students, teachers = zip(*matched, strict=True)
        return losses.feature(
            output,
            batch.labels,
            students,
            teachers,
            weight=config.feature_weight,
            label_smoothing=config.label_smoothing,
            every_step=config.every_step,
        )

    return objective
