"""How to train: the one configuration that teachers and students share. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from kdsnn.errors import KdsnnError

Method = Literal["response", "feature", "temporal", "selective", "none"]
"""What a student learns from: KDSNN Eq. 5, KDSNN Eq. 6-7, every step by itself (ICML 2025), the same with care where a
step is wrong (SeAl-KD), or the labels alone."""

EVERY_STEP: tuple[Method, ...] = ("temporal", "selective")
"""Methods that teach every time step by itself."""

Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["cosine", "step"]
Precision = Literal["auto", "fp32", "bf16"]
TeacherFrames = Literal["mean", "each"]

LARGEST = 1e9
"""Of any rate, weight or number of epochs: squares and products of such numbers are still single-precision floats."""

LARGEST_T = 4096
"""Time steps of a student; the ONNX and NIR files of `exporters` hold no more."""


@dataclass(frozen=True)
class TrainConfig:
    """A configuration says how to train; it is the same for teacher and student.

    * `batch_size` counts images over all processes.
    * `lr` is the peak of a schedule that starts after `warmup_epochs` of linear warm-up, None: 5, but a tenth of
      all epochs at most; "cosine" ends at 0, "step" multiplies by `lr_decay` when each of `milestones`, fractions of the epochs, has passed.
    * `weight_decay` spares biases and BatchNorm. `clip_norm` bounds the norm of the whole gradient, 0: no bound.
    * `label_smoothing` ε: targets (1 - ε)·onehot + ε/K. `every_step`: the cross entropy with the labels is the mean over
      a student's time steps and not that of their mean (TET, Deng et al., ICLR 2022), so that it is good at any t ≤ T.
      Methods "temporal" and "selective" do so in any case; an ANN has one step.
    * `ema`: decay per step of an average of the weights that takes their place in the result, 0: none.
    * `precision` "bf16": convolutions and linear layers under autocast; membranes, BatchNorm's
      statistics, losses and weights stay float32. "auto" is bf16 where the hardware multiplies faster in it
      (`kdsnn.train.precision`) and "fp32" elsewhere; a run that is resumed keeps what it began with.
    * `compile`: torch.compile the network; not bit-identical with eager training.
    * `val`: this fraction of the training images of every class is held out, drawn the same for every `seed`; the epoch
      that does best on them is kept beside the last one. 0: all are trained on.
    * `shift` moves every training image by up to that many pixels each way, anew in every epoch.
    * `teacher_frames`: of frames over time an ANN sees their "mean", or "each" by itself: its logits are then averaged.
    * `T` is the student's number of time steps; a teacher has no use for it or for what follows.
    * `logit_scale` multiplies the firing rates of a student, 0…1, before every softmax; 0: a factor that is learned
      (`kdsnn.train.logits`), 1: the paper's raw rate. Currents (read-out "membrane") are logits as they are.
    * `alpha` and `temperature` are those of KDSNN Eq. 5. With raw rates (`logit_scale` 1), which cannot follow a soft
      teacher, α τ² is to stay near 1. Methods "temporal" and "selective" use `temperature` too.
    * `feature_weight` is the α of KDSNN Eq. 7, on the sum over one image's features.
    * `teacher_weight` and `self_weight` are those of method "temporal"; `selective_teacher_weight` and
      `selective_self_weight` those of "selective". Their defaults are the authors'.

    Raises KdsnnError when a value is out of its range.
    """

    epochs: int = 100
    batch_size: int = 128
    lr: float = 0.1
    optimizer: Optimizer = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Schedule = "cosine"
    milestones: tuple[float, ...] = (0.5, 0.75)
    lr_decay: float = 0.1
    warmup_epochs: float | None = None
    label_smoothing: float = 0.0
    every_step: bool = False
    clip_norm: float = 0.0
    ema: float = 0.0
    precision: Precision = "auto"
    compile: bool = False
    val: float = 0.0
    shift: int = 0
    teacher_frames: TeacherFrames = "mean"
    T: int = 4
    logit_scale: float = 0.0
    alpha: float = 0.5
    temperature: float = 4.0
    feature_weight: float = 1e-3
    teacher_weight: float = 0.2
    self_weight: float = 0.5
    selective_teacher_weight: float = 0.6
    selective_self_weight: float = 0.15
    seed: int = 0

    @property
    def warmup(self) -> float:
        """Epochs of warm-up."""
        return min(5.0, self.epochs / 10) if self.warmup_epochs is None else self.warmup_epochs

    def __post_init__(self) -> None:
        def among(name: str, choices: object) -> tuple[bool, str]:
            return getattr(self, name) in get_args(choices), " or ".join(get_args(choices))

        def not_negative(name: str) -> tuple[bool, str]:
            return 0 <= getattr(self, name) <= LARGEST, f"0 to {LARGEST:g}"

        ascending = all(a < b for a, b in zip((0.0, *self.milestones), (*self.milestones, 1.0), strict=True))
        rules = {
            "epochs": (1 <= self.epochs <= LARGEST, f"1 to {LARGEST:g}"),
            "batch_size": (self.batch_size >= 2, "2 or more, BatchNorm needs several images"),
            "lr": (0 < self.lr <= LARGEST, f"above 0, at most {LARGEST:g}"),
            "optimizer": among("optimizer", Optimizer),
            "momentum": (0 <= self.momentum < 1, "in 0…1"),
            "weight_decay": not_negative("weight_decay"),
            "schedule": among("schedule", Schedule),
            "milestones": (ascending, "ascending fractions of the epochs, between 0 and 1"),
            "lr_decay": (0 < self.lr_decay <= 1, "above 0, at most 1"),
            "warmup_epochs": (0 <= self.warmup <= LARGEST, f"0 to {LARGEST:g}"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "in 0…1"),
            "clip_norm": not_negative("clip_norm"),
            "ema": (0 <= self.ema < 1, "in 0…1"),
            "precision": among("precision", Precision),
            "val": (0 <= self.val < 1, "in 0…1"),
            "shift": (0 <= self.shift <= 256, "0 to 256 pixels"),
            "teacher_frames": among("teacher_frames", TeacherFrames),
            "T": (1 <= self.T <= LARGEST_T, f"1 to {LARGEST_T:,} time steps"),
            "logit_scale": not_negative("logit_scale"),
            "alpha": (0 <= self.alpha <= 1, "in 0…1"),
            "temperature": (1 / LARGEST <= self.temperature <= LARGEST, f"from {1 / LARGEST:g} to {LARGEST:g}"),
            "feature_weight": not_negative("feature_weight"),
            "teacher_weight": not_negative("teacher_weight"),
            "self_weight": not_negative("self_weight"),
            "selective_teacher_weight": not_negative("selective_teacher_weight"),
            "selective_self_weight": not_negative("selective_self_weight"),
            "seed": (0 <= self.seed < 2**32, "0 to 2^32 - 1"),
        }
        for name, (valid, rule) in rules.items():
            if not valid:
                raise KdsnnError(f"{name} is {getattr(self, name)}: it must be {rule}.")
