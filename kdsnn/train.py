"""Training: an ANN teacher (`pretrain`), a spiking student (`distill`), and their accuracy (`evaluate`).

Both run one loop, `_fit`, on Hugging Face accelerate, so that `accelerate launch` spreads it over
processes. A data set lives on the device as uint8 and batches are picked there by index, so nothing
waits for the host inside an epoch; the loss and the accuracy are read once, when the epoch ends.

Repeatability: every epoch seeds its random numbers from (seed, epoch) alone. On the same CPU, with
the same number of threads, the same configuration and initial weights give bit-identical weights.
Initial weights are the caller's: seed with `torch.manual_seed` before building the network.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from spikingjelly.activation_based.functional import reset_net
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from kdsnn import losses
from kdsnn.data import DataSet
from kdsnn.data.device import floats, on_device, shifted
from kdsnn.errors import KdsnnError

Method = Literal["response", "none"]
EVALUATION_BATCH = 256


@dataclass(frozen=True)
class TrainConfig:
    """How to train; the same for teacher and student.

    `batch_size` counts images over all processes. `lr` is the peak of a cosine that starts after
    `warmup_epochs` of linear warm-up and ends at 0. `weight_decay` spares biases and BatchNorm.
    `shift` moves every training image by up to that many pixels each way, anew in every epoch.
    `T` is the student's number of time steps, `alpha` and `temperature` those of KDSNN Eq. 5; a
    teacher has no use for them. Their defaults give both terms of Eq. 5 one weight, α τ² = 1 - α: a firing
    rate in 0…1 cannot follow a softer teacher, and on `digits` α τ² far above 1 costs many points.
    Raises KdsnnError when a value is out of its range.
    """

    epochs: int = 100
    batch_size: int = 128
    lr: float = 0.1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_epochs: float = 5.0
    label_smoothing: float = 0.0
    shift: int = 0
    T: int = 4
    alpha: float = 0.1
    temperature: float = 3.0
    seed: int = 0

    def __post_init__(self) -> None:
        rules = {
            "epochs": (self.epochs >= 1, "1 or more"),
            "batch_size": (self.batch_size >= 2, "2 or more, BatchNorm needs several images"),
            "lr": (0 < self.lr < math.inf, "above 0"),
            "optimizer": (self.optimizer in ("sgd", "adamw"), "sgd or adamw"),
            "momentum": (0 <= self.momentum < 1, "in 0…1"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "0 or more"),
            "warmup_epochs": (0 <= self.warmup_epochs < math.inf, "0 or more"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "in 0…1"),
            "shift": (self.shift >= 0, "0 or more pixels"),
            "T": (self.T >= 1, "1 or more time steps"),
            "alpha": (0 <= self.alpha <= 1, "in 0…1"),
            "temperature": (0 < self.temperature < math.inf, "above 0"),
            "seed": (0 <= self.seed < 2**32, "0 to 2^32 - 1"),
        }
        for name, (valid, rule) in rules.items():
            if not valid:
                raise KdsnnError(f"{name} is {getattr(self, name)}: it must be {rule}.")


@dataclass(frozen=True)
class Recipe:
    """Networks and configurations that suit one data set: what the command line uses unless told otherwise."""

    teacher: str = "preresnet20"
    student: str = "cnn2"
    student_options: Mapping[str, Any] = field(default_factory=dict)
    pretrain: TrainConfig = TrainConfig()
    distill: TrainConfig = TrainConfig()


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        # Test accuracy, mean of seeds 0-5: teacher 98.9 %, student 97.6 %, its twin without a teacher 97.5 %.
        # Shifted images lift the teacher by half a point, and cost a student of this size one to two.
        "digits": Recipe(
            student_options={"channels": (16, 32), "hidden": 64},
            pretrain=TrainConfig(epochs=20, batch_size=64, warmup_epochs=2, shift=1),
            distill=TrainConfig(epochs=30, batch_size=64, warmup_epochs=2),
        ),
    }
)
"""Tuned recipes by name of the data set; for any other, `Recipe()` is a start."""


@dataclass(frozen=True)
class EpochRecord:
    """One finished epoch, counted from 1: mean training loss, test accuracy (0…1), wall-clock seconds."""

    epoch: int
    loss: float
    accuracy: float
    seconds: float


@dataclass(frozen=True, eq=False)
class Trained:
    """The network as it was after the last epoch (not the best on the test set, which would flatter it)."""

    module: nn.Module
    history: tuple[EpochRecord, ...]


OnEpoch = Callable[[EpochRecord], None]
OnStep = Callable[[int, int], None]
"""Called with (steps done, steps in all) after every optimizer step; it must not read the device."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Training images on the device: float32 (N, C, H, W) in 0…1, labels (N,), indices in the data set (N,)."""

    images: Tensor
    labels: Tensor
    indices: Tensor


Objective = Callable[[Tensor, Batch], Tensor]
"""(output of the network, batch) → scalar loss."""


def pretrain(
    module: nn.Module,
    data: DataSet,
    config: TrainConfig,
    *,
    accelerator: Accelerator | None = None,
    on_epoch: OnEpoch | None = None,
    on_step: OnStep | None = None,
) -> Trained:
    """Train an ANN, (N, C, H, W) → logits (N, K), in place with cross entropy.

    Raises KdsnnError when the network does not fit the data, or when the loss or a weight stops being
    finite; the module then holds the weights of the last good epoch.
    """

    def objective(logits: Tensor, batch: Batch) -> Tensor:
        return cross_entropy(logits, batch.labels, label_smoothing=config.label_smoothing)

    with few_threads(data, config.batch_size):
        return _fit(module, objective, data, config, accelerator or Accelerator(), on_epoch, on_step)


def distill(
    student: nn.Module,
    data: DataSet,
    config: TrainConfig,
    *,
    method: Method,
    teacher: nn.Module | None = None,
    accelerator: Accelerator | None = None,
    on_epoch: OnEpoch | None = None,
    on_step: OnStep | None = None,
) -> Trained:
    """Train a spiking student in place, direct coding over `config.T` steps.

    `method` "response" is KDSNN Eq. 5 with the logits of `teacher`, which is put in eval mode and
    never changed; "none" is cross entropy on the firing rate, the student's twin without a teacher.
    Raises KdsnnError as `pretrain` does, and when "response" has no teacher.
    """
    accelerator = accelerator or Accelerator()
    if method == "none":

        def objective(output: Tensor, batch: Batch) -> Tensor:
            return losses.hard(output, batch.labels, label_smoothing=config.label_smoothing)

    else:
        if teacher is None:
            raise KdsnnError(f"Method {method} needs a teacher: give a checkpoint with --teacher, or use method none.")
        ask = _teacher_logits(teacher, data, config, accelerator)

        def objective(output: Tensor, batch: Batch) -> Tensor:
            return losses.response(
                output,
                ask(batch),
                batch.labels,
                alpha=config.alpha,
                temperature=config.temperature,
                label_smoothing=config.label_smoothing,
            )

    learner = DirectCoded(student, config.T)
    with few_threads(data, config.batch_size):
        trained = _fit(learner, objective, data, config, accelerator, on_epoch, on_step)
    reset_net(student)  # hand it back at rest, without the membranes of the last batch
    return Trained(student, trained.history)


@torch.no_grad()
def evaluate(module: nn.Module, data: DataSet, *, T: int | None = None) -> tuple[float, ...]:
    """Accuracy on the test set, 0…1, on the device of `module`; the last value is that of the full run.

    `T` None: an ANN, one value. Otherwise a spiking network: value t-1 reads the mean of the output
    over the first t steps, t = 1…T. Where classes tie, which is common with few spikes, the lowest
    class number wins. Raises KdsnnError when the network does not fit the data.
    """
    learner = module if T is None else DirectCoded(module, T)
    device = next(module.parameters()).device
    images, labels = on_device(data.x_test, data.y_test, device)
    _require_fit(learner, data, device)
    with few_threads(data, EVALUATION_BATCH):
        correct = _correct(learner, images, labels, torch.arange(len(labels), device=device))
    return tuple(count / len(labels) for count in correct.tolist())


@contextmanager
def few_threads(data: DataSet, batch_size: int) -> Iterator[None]:
    """One thread where a batch is tiny: there threads mostly wait for one another (on a busy machine ten times slower).

    By size alone, so that results stay repeatable.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1 if batch_size * math.prod(data.input_shape) < 2**15 else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class DirectCoded(nn.Module):
    """A spiking network as a function of images: (N, C, H, W) → (T, N, K), starting every batch from rest."""

    def __init__(self, network: nn.Module, T: int) -> None:
        super().__init__()
        self.network = network
        self.T = T

    def forward(self, images: Tensor) -> Tensor:
        """Present `images` (N, C, H, W) at each of T steps; returns (T, N, K)."""
        reset_net(self.network)
        output: Tensor = self.network.forward_static(images, self.T)  # type: ignore[operator]
        return output


def _fit(
    learner: nn.Module,
    objective: Objective,
    data: DataSet,
    config: TrainConfig,
    accelerator: Accelerator,
    on_epoch: OnEpoch | None,
    on_step: OnStep | None,
) -> Trained:
    """The loop: trains `learner` in place, on every process of `accelerator`."""
    device = accelerator.device
    learner.to(device)
    _require_fit(learner, data, device)
    images, labels = on_device(data.x_train, data.y_train, device)
    test_images, test_labels = on_device(data.x_test, data.y_test, device)
    network, optimizer = accelerator.prepare(learner, _optimizer(learner, config))

    steps = max(1, len(labels) // config.batch_size)
    last_good = _snapshot(learner)
    history: list[EpochRecord] = []
    for epoch in range(config.epochs):
        started = time.perf_counter()
        seed = _seed_of(config, epoch, accelerator.process_index)
        torch.manual_seed(seed)  # for dropout, which takes no generator
        generator = torch.Generator(device).manual_seed(seed)
        total = torch.zeros((), device=device)
        learner.train()
        for step, indices in enumerate(_batches(len(labels), config, epoch, accelerator)):
            batch = Batch(floats(shifted(images[indices], config.shift, generator)), labels[indices], indices)
            for group in optimizer.param_groups:
                # the middle of the step, where the rate is 0 neither at the first step nor at the last
                group["lr"] = config.lr * schedule(epoch + (step + 0.5) / steps, config)
            optimizer.zero_grad()
            loss = objective(network(batch.images), batch)
            accelerator.backward(loss)
            optimizer.step()
            total += loss.detach()
            if on_step:
                on_step(epoch * steps + step + 1, config.epochs * steps)

        if accelerator.num_processes > 1:
            # BatchNorm's statistics differ between processes by one batch; those of the first are the ones saved
            for buffer in learner.buffers():
                broadcast(buffer)
        mean_loss = (accelerator.reduce(total, "mean") / steps).item()
        if not (math.isfinite(mean_loss) and _finite(learner)):
            learner.load_state_dict(last_good)
            kept = f"weights of epoch {epoch}" if epoch else "initial weights"
            raise KdsnnError(
                f"Training diverged in epoch {epoch + 1}: the loss or a weight is NaN or infinite. The {kept} are kept. "
                f"Try a lower learning rate (now {config.lr:g}) or a longer warm-up (now {config.warmup_epochs:g} epochs)."
            )
        accuracy = _shared_accuracy(learner, test_images, test_labels, accelerator)
        last_good = _snapshot(learner)
        history.append(EpochRecord(epoch + 1, mean_loss, accuracy, time.perf_counter() - started))
        if on_epoch:
            on_epoch(history[-1])
    return Trained(learner.eval(), tuple(history))


def schedule(epoch: float, config: TrainConfig) -> float:
    """Fraction of the peak learning rate at `epoch`, a real number in 0…epochs: linear warm-up, then half a cosine to 0."""
    if epoch < config.warmup_epochs:
        return epoch / config.warmup_epochs
    return 0.5 * (1 + math.cos(math.pi * (epoch - config.warmup_epochs) / (config.epochs - config.warmup_epochs)))


def _optimizer(module: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    # one-dimensional parameters are biases and BatchNorm's scales: decaying them only fights the normalisation
    decayed = [p for p in module.parameters() if p.requires_grad and p.ndim > 1]
    spared = [p for p in module.parameters() if p.requires_grad and p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": spared, "weight_decay": 0.0},
    ]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)


def _seed_of(config: TrainConfig, epoch: int, process: int = 0) -> int:
    """One number for every training seed, epoch and process."""
    return config.seed * 1_000_003 + epoch + (process << 56)


def _batches(count: int, config: TrainConfig, epoch: int, accelerator: Accelerator) -> Iterator[Tensor]:
    """This process's share of every batch, as indices on the device; all images in a new order each epoch.

    A last batch that is not full is left out (BatchNorm would weigh its few images as much as a whole one).
    """
    processes, mine = accelerator.num_processes, accelerator.process_index
    size = min(config.batch_size, count)
    if size % processes:
        raise KdsnnError(f"batch_size {size} does not divide evenly over {processes} processes: choose a multiple.")
    # shuffled on the host, so that every process and every kind of device draws the same order
    order = torch.randperm(count, generator=torch.Generator().manual_seed(_seed_of(config, epoch)))
    order = order.to(accelerator.device)
    for start in range(0, count - size + 1, size):
        yield order[start : start + size][mine::processes]


def _teacher_logits(
    teacher: nn.Module, data: DataSet, config: TrainConfig, accelerator: Accelerator
) -> Callable[[Batch], Tensor]:
    """The teacher as a function of a batch: computed once for all where every epoch shows the same images."""
    device = accelerator.device
    teacher.to(device).eval()
    _require_fit(teacher, data, device)

    @torch.no_grad()
    def ask(images: Tensor) -> Tensor:
        logits: Tensor = teacher(images)
        return logits

    if config.shift:
        return lambda batch: ask(batch.images)
    images, _ = on_device(data.x_train, data.y_train, device)
    cache = torch.cat([ask(floats(part)) for part in torch.split(images, EVALUATION_BATCH)])
    return lambda batch: cache[batch.indices]


@torch.no_grad()
def _correct(learner: nn.Module, images: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
    """How many of `indices` are classified rightly: int64 (1,) for an ANN, (T,) for a DirectCoded network."""
    learner.eval()
    total = torch.zeros(learner.T if isinstance(learner, DirectCoded) else 1, dtype=torch.int64, device=labels.device)
    for part in torch.split(indices, EVALUATION_BATCH):
        output = learner(floats(images[part]))
        # the sum over the first t steps has the same arg max as their mean
        scores = output.cumsum(0) if isinstance(learner, DirectCoded) else output[None]
        total += (scores.argmax(-1) == labels[part]).sum(-1)
    return total


def _shared_accuracy(learner: nn.Module, images: Tensor, labels: Tensor, accelerator: Accelerator) -> float:
    """Accuracy at the last step, each process measuring its share."""
    indices = torch.arange(accelerator.process_index, len(labels), accelerator.num_processes, device=labels.device)
    correct: Tensor = accelerator.reduce(_correct(learner, images, labels, indices), "sum")
    return int(correct[-1].item()) / len(labels)


@torch.no_grad()
def _require_fit(learner: nn.Module, data: DataSet, device: torch.device) -> None:
    """Try one black image, so that a network for other images or classes is named as such before anything runs."""
    learner.eval()
    try:
        classes = learner(torch.zeros(1, *data.input_shape, device=device)).shape[-1]
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise KdsnnError(
            f"The network does not accept the images of {data.name}, {data.input_shape} (C, H, W): build it for that shape ({reason})."
        ) from error
    if classes != data.classes:
        raise KdsnnError(
            f"The network has {classes} classes and {data.name} has {data.classes}: build it with classes={data.classes}."
        )


def _snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def _finite(module: nn.Module) -> bool:
    """Whether every weight is finite. The loss cannot tell: a NaN current never reaches the threshold, so it is no spike."""
    tensors = [t for t in module.state_dict().values() if t.is_floating_point()]
    return bool(torch.stack([torch.isfinite(t).all() for t in tensors]).all())
