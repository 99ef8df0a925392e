"""Training: an ANN teacher (`pretrain`), a spiking student (`distill`).

Both run one loop, `kdsnn.train.loop.fit`, on Hugging Face accelerate, so that `accelerate launch` spreads it over
processes. Repeatability: on the same CPU, with the same number of threads, the same configuration and
initial weights give bit-identical weights, in one run or resumed. Initial weights are the caller's: seed
with `torch.manual_seed` before building the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

from accelerate import Accelerator
from spikingjelly.activation_based.functional import reset_net
from torch import nn

from kdsnn.data import DataSet
from kdsnn.data.augment import Mix
from kdsnn.train.calling import convention_of, in_eval
from kdsnn.train.config import Method, TrainConfig
from kdsnn.train.features import Taps
from kdsnn.train.history import OnEpoch
from kdsnn.train.learner import Learner, require_fit, require_steps
from kdsnn.train.logits import logits_of
from kdsnn.train.loop import Augment, Job, OnStep, Trained, fit
from kdsnn.train.objectives import labels_only, objective_of
from kdsnn.train.precision import settled
from kdsnn.train.resume import RunFiles


def pretrain(
    module: nn.Module,
    data: DataSet,
    config: TrainConfig,
    *,
    accelerator: Accelerator | None = None,
    augment: Augment | None = None,
    mix: Mix | None = None,
    files: RunFiles | None = None,
    about: Mapping[str, Any] | None = None,
    on_epoch: OnEpoch | None = None,
    on_step: OnStep | None = None,
) -> Trained:
    """Train an ANN, (N, C, H, W) → logits (N, K), in place with cross entropy; of frames over time it sees
    what `config.teacher_frames` says.

    `augment` is applied to the uint8 images of every batch, after `config.shift`, and `mix` to what that gives and its labels. `files` are written on the
    way, and the run goes on from `files.state` if asked to. `about`, plain JSON values, says what else makes
    this run what it is (architecture, augmentation): a state with other values is not resumed.

    Raises KdsnnError when the network does not fit the data or a state cannot be resumed, and its kind
    DivergedError when the loss or a weight stops being finite; the module then holds the last good weights.
    """
    accelerator, files = accelerator or Accelerator(), files or RunFiles()
    config = settled(config, accelerator.device, files.state if files.resume else None)
    job = Job(data, config, described_run(data, config, "pretrain", about), augment, mix, files, on_epoch, on_step)
    learner = Learner(module, frames=config.teacher_frames).to(accelerator.device)
    require_fit(learner, data, accelerator.device)
    return fit(learner, labels_only(config), job, accelerator)


def distill(
    student: nn.Module,
    data: DataSet,
    config: TrainConfig,
    *,
    method: Method,
    teacher: nn.Module | None = None,
    taps: Taps = (),
    accelerator: Accelerator | None = None,
    augment: Augment | None = None,
    mix: Mix | None = None,
    files: RunFiles | None = None,
    about: Mapping[str, Any] | None = None,
    on_epoch: OnEpoch | None = None,
    on_step: OnStep | None = None,
) -> Trained:
    """Train a spiking student in place over `config.T` steps: every one sees the image (direct coding), or step t sees
    frame t of data over time.

    `student`: a network of `kdsnn.models`, or any module of SpikingJelly's layers, which is called in the way that
    `kdsnn.train.calling` finds out. `teacher`: any torch module, images (N, C, H, W) in 0…1 → logits (N, K);
    of frames over time it sees what `config.teacher_frames` says.

    `method`: "response" is KDSNN Eq. 5 with the logits of `teacher`; "feature" is Eq. 7 with the features at the ends
    of the stages of this project's networks, or of any two modules at the layers that `taps` pairs, (student's,
    teacher's) from the first stage to the last (`kdsnn.train.features`); "temporal" teaches every step
    (`kdsnn.train.losses.temporal`), "selective" too, with care where a step is wrong; "none" is cross entropy on the
    mean output, the student's twin without a teacher. The teacher runs in eval mode and is never changed. The rest is
    as in `pretrain`.

    Raises KdsnnError as `pretrain` does, when a method has no teacher, and when a student cannot be called.
    """
    accelerator, files = accelerator or Accelerator(), files or RunFiles()
    config = settled(config, accelerator.device, files.state if files.resume else None)
    augmented = config.shift > 0 or augment is not None or mix is not None
    require_steps(data, config.T)
    convention = convention_of(student, data.sample_shape, config.T)
    learner = Learner(student, config.T, convention).to(accelerator.device)
    require_fit(learner, data, accelerator.device)
    with nullcontext() if teacher is None else in_eval(teacher):
        objective, guided = objective_of(
            method, learner, teacher, data, config, accelerator.device, augmented=augmented, taps=taps
        )
        named = {"taps": [list(pair) for pair in taps]} if taps else {}
        run = described_run(data, config, method, {**named, **(about or {})})
        job = Job(data, config, run, augment, mix, files, on_epoch, on_step)
        logits = logits_of(student, convention, data.sample_shape, method, config)
        try:
            return fit(Learner(student, config.T, convention, guided, logits), objective, job, accelerator)
        finally:
            reset_net(student)  # hand it back at rest, without the membranes of the last batch


def described_run(data: DataSet, config: TrainConfig, method: str, about: Mapping[str, Any] | None) -> dict[str, Any]:
    """List what a resumed run must have in common with the one that was stopped: plain JSON values."""
    shapes = {"train": data.x_train.shape, "test": data.x_test.shape}
    return {"method": method, "data": data.name, "images": shapes, **asdict(config), **(about or {})}
