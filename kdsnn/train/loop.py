"""The training loop of teachers and students.

A data set lives on the device as uint8 and batches are picked there by index, so nothing waits for the
host inside an epoch; one too large for that streams from where it is. The loss and the accuracy are read once, when the epoch ends. Every random number is
drawn from a generator seeded with (seed, epoch, step), so a resumed run draws the same. A run that is told to stop
finishes its step, saves its state and ends.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from kdsnn.data import DataSet
from kdsnn.data.augment import Mix
from kdsnn.data.device import Streamed, floats, pick, placed, shifted
from kdsnn.data.splits import held_out
from kdsnn.errors import KdsnnError
from kdsnn.train import resume as state
from kdsnn.train.config import TrainConfig
from kdsnn.train.curves import read_runs, write_curves
from kdsnn.train.fast_neurons import fused
from kdsnn.train.history import EpochRecord, OnEpoch, best_of, tensorboard, write_csv
from kdsnn.train.host import few_threads, memory_kept, strides_safe
from kdsnn.train.learner import Learner, correct, laid_out
from kdsnn.train.objectives import Batch, Objective
from kdsnn.train.optim import Average, finite, optimizer_of, schedule, snapshot
from kdsnn.train.resume import Position, RunFiles
from kdsnn.train.stopping import Stop, StopAskedError, stoppable

Augment = Callable[[Tensor, torch.Generator], Tensor]
"""(uint8 images (N, C, H, W) on the device, generator there) → other images of the same shape and type."""

DRAWN_EVERY = 10.0
"""Seconds between two pictures of the curves: one takes a few tenths of a second, an epoch of a small network no more."""

OnStep = Callable[[int, int], None]
"""Called with (steps done, steps in all) after every optimizer step; it must not read the device."""


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network is as it was after the last epoch (not the best on the test set, which would flatter it).

    `best`: its state dict after the epoch that did best on the training images held out by `TrainConfig.val`, of equal
    ones the first; None where none were.
    """

    module: nn.Module
    history: tuple[EpochRecord, ...]
    best: Mapping[str, Tensor] | None = None


class DivergedError(KdsnnError):
    """The loss or a weight is NaN or infinite; `trained` is the network with its last good weights."""

    def __init__(self, message: str, trained: Trained) -> None:
        super().__init__(message)
        self.trained = trained


@dataclass(frozen=True, eq=False)
class Job:
    """A job says what to train on, how, and whom to tell; see `kdsnn.train.pretrain`. `run`: see
    `kdsnn.train.resume`."""

    data: DataSet
    config: TrainConfig
    run: Mapping[str, Any]
    augment: Augment | None
    mix: Mix | None
    files: RunFiles
    on_epoch: OnEpoch | None
    on_step: OnStep | None


def fit(learner: Learner, objective: Objective, job: Job, accelerator: Accelerator) -> Trained:
    """Train `learner` in place, on every process of `accelerator`; errors as in `kdsnn.train.pretrain`."""
    with (
        stoppable() as stop, few_threads(job.data, job.config.batch_size), memory_kept(), strides_safe(learner),
        fused(learner),
    ):  # fmt: skip
        return _Loop(learner, objective, job, accelerator, stop).run()


class _Loop:
    """One training run keeps here what stays the same from step to step."""

    def __init__(
        self, learner: Learner, objective: Objective, job: Job, accelerator: Accelerator, stop: Stop
    ) -> None:  # fmt: skip
        self.learner, self.objective, self.job, self.accelerator, self.stop = learner, objective, job, accelerator, stop
        self.device = accelerator.device
        learner.to(self.device)
        laid_out(learner, torch.channels_last)  # pooling, BatchNorm and convolutions are faster in it, on a CPU too
        self.images, self.test_images = (placed(x, self.device) for x in (job.data.x_train, job.data.x_test))
        self.labels, self.test_labels = (
            torch.from_numpy(y).to(self.device) for y in (job.data.y_train, job.data.y_test)
        )
        self.network, self.optimizer = accelerator.prepare(learner, optimizer_of(learner, job.config))
        if job.config.compile:
            self.network = torch.compile(self.network)
        self.average = Average(learner.network, job.config.ema) if job.config.ema else None
        self.part, held = map(torch.from_numpy, held_out(job.data.y_train, job.config.val))
        self.held = held.to(self.device)
        self.steps = max(1, len(self.part) // job.config.batch_size)
        self.good, self.kept = snapshot(learner.network), "initial weights"
        self.saved = -math.inf  # the first step is saved, so that there is a state beside any history

    def run(self) -> Trained:
        """Run all epochs, from the first or from where the state says."""
        self.at = self._begin()
        try:
            return self._run()
        except StopAskedError:
            self._save(self.at, last=True)
            raise

    def _run(self) -> Trained:
        position = self.at
        files, drawn = self.job.files, -math.inf
        with ExitStack() as stack:
            tell = [self.job.on_epoch] if self.job.on_epoch else []
            if files.tensorboard is not None and self.accelerator.is_main_process:
                tell.append(stack.enter_context(tensorboard(files.tensorboard, first_epoch=position.epoch + 1)))
            if position.history and self.accelerator.is_main_process:
                _record(files, position.history)  # what was cut off may have lacked the room for it
                _draw(files, position.history)
            while position.epoch < self.job.config.epochs:
                self._check()
                position = self.at = self._epoch(position)
                if self.accelerator.is_main_process:
                    _record(files, position.history)
                    if position.epoch == self.job.config.epochs or time.perf_counter() - drawn >= DRAWN_EVERY:
                        _draw(files, position.history)
                        drawn = time.perf_counter()
                for callback in tell:
                    callback(position.history[-1])
        if self.average is not None:
            self.learner.network.load_state_dict(self.average.tensors)
        laid_out(self.learner, torch.contiguous_format)
        return Trained(self.learner.network.eval(), position.history, position.best)

    def _check(self) -> None:
        """End here if somebody has asked for it: between two steps, or two batches of a measurement."""
        if self.accelerator.is_main_process:  # the others lose touch with it once it has saved, and end then
            self.stop.check()

    def _begin(self) -> Position:
        files = self.job.files
        if files.resume and files.state is not None and files.state.exists():
            position = state.restore(files.state, self.job.run, self.learner, self.optimizer, self.average, self.device)
            self._keep(f"weights of epoch {position.epoch}, step {position.step}")
            return position
        return Position(0, 0, torch.zeros((), device=self.device), 0.0, ())

    def _epoch(self, position: Position) -> Position:
        """Run the rest of the epoch that `position` is in, and measure."""
        config, epoch = self.job.config, position.epoch
        started = time.perf_counter() - position.seconds
        self.learner.train()
        total = position.loss
        for step, indices in _batches(self.part, config, epoch, self.accelerator):
            if step < position.step:
                continue
            total = total + self._step(epoch, step, indices)
            done = epoch * self.steps + step + 1
            if self.average is not None:
                self.average.update(self.learner.network, done)
            spent = time.perf_counter() - started
            self.at = Position(epoch, step + 1, total, spent, position.history, position.best)
            if self.job.on_step:
                self.job.on_step(done, config.epochs * self.steps)
            self._check()
            if step + 1 < self.steps:  # the end of the epoch is saved with its measurement
                self._save(self.at)

        if self.accelerator.num_processes > 1:
            # BatchNorm's statistics differ between processes by one batch; those of the first are the ones saved
            averaged = [] if self.average is None else self.average.tensors.values()
            for tensor in (*self.learner.buffers(), *averaged):
                broadcast(tensor)
        loss = (self.accelerator.reduce(total, "mean") / self.steps).item()
        if not (math.isfinite(loss) and finite(self.learner)):
            raise self._diverged(position)
        with self.average.applied(self.learner.network) if self.average is not None else nullcontext():
            by_step, held = self._accuracies(), self._held_accuracy()
        seconds = time.perf_counter() - started
        record = EpochRecord(epoch + 1, loss, by_step[-1], seconds, self._lr(epoch, self.steps - 1), by_step, held)
        self._keep(f"weights of epoch {epoch + 1}")
        history = (*position.history, record)
        best = self.good if held is not None and best_of(history) is record else position.best
        position = Position(epoch + 1, 0, torch.zeros_like(total), 0.0, history, best)
        self._save(position, last=epoch + 1 == config.epochs)
        return position

    def _step(self, epoch: int, step: int, host: Tensor) -> Tensor:
        """Take one optimizer step on the images that `host`, indices on the host, names; returns the loss before it,
        on the device."""
        config = self.job.config
        generator = self._seeded(epoch, step)
        indices = host.to(self.device, non_blocking=True)
        shown = shifted(pick(self.images, indices, host), config.shift, generator)
        if self.job.augment is not None:
            shown = self.job.augment(shown, generator)
        labels = self.labels[indices]
        if self.job.mix is not None:
            shown, labels = self.job.mix(shown, labels, generator)
        batch = Batch(floats(shown, self.job.data.graded), labels, indices)
        for group in self.optimizer.param_groups:
            group["lr"] = self._lr(epoch, step)
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            output, found = self.network(batch.images)
            loss = self.objective(output.float(), [feature.float() for feature in found], batch)
        self.accelerator.backward(loss)
        if config.clip_norm:
            self.accelerator.clip_grad_norm_(self.learner.parameters(), config.clip_norm)
        self.optimizer.step()
        return loss.detach()

    def _lr(self, epoch: int, step: int) -> float:
        # the middle of the step, where the rate is 0 neither at the first step nor at the last
        return self.job.config.lr * schedule(epoch + (step + 0.5) / self.steps, self.job.config)

    def _seeded(self, epoch: int, step: int) -> torch.Generator:
        """Seed the random numbers of one step on this process, for augmentation; torch's own, for dropout, are
        seeded too."""
        text = f"{self.job.config.seed} {epoch} {step} {self.accelerator.process_index}"
        # hashed, because a CPU generator looks at the low 32 bits only
        seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1
        torch.manual_seed(seed)
        return torch.Generator(self.device).manual_seed(seed)

    def _accuracies(self) -> tuple[float, ...]:
        """Measure test accuracy from the first t steps, t = 1…T, each process its share."""
        every = torch.arange(len(self.test_labels), device=self.device)
        return self._measured(self.test_images, self.test_labels, every)

    def _held_accuracy(self) -> float | None:
        """Measure accuracy on the training images that are held out, with all steps."""
        return self._measured(self.images, self.labels, self.held)[-1] if len(self.held) else None

    def _measured(self, images: Tensor | Streamed, labels: Tensor, indices: Tensor) -> tuple[float, ...]:
        processes, mine = self.accelerator.num_processes, self.accelerator.process_index
        found = correct(
            self.learner, images, labels, indices[mine::processes], self.job.data.graded, between=self._check
        )
        return tuple(right / len(indices) for right in self.accelerator.reduce(found, "sum").tolist())

    def _keep(self, name: str) -> None:
        self.good = snapshot(self.learner.network) if self.average is None else _copy(self.average.tensors)
        self.kept = name

    def _save(self, position: Position, *, last: bool = False) -> None:
        files = self.job.files
        due = last or time.perf_counter() - self.saved >= files.every_seconds
        # not over a good state: what is not finite is noticed at the end of the epoch, for the price of one look
        if files.state is None or not due or not self.accelerator.is_main_process or not finite(self.learner):
            return
        state.save(files.state, self.job.run, position, self.learner, self.optimizer, self.average)
        self.saved = time.perf_counter()

    def _diverged(self, position: Position) -> DivergedError:
        config = self.job.config
        self.learner.network.load_state_dict(self.good)
        return DivergedError(
            f"Training diverged in epoch {position.epoch + 1}: the loss or a weight is NaN or infinite. The {self.kept} "
            f"are kept. Try a lower learning rate (now {config.lr:g}) or a longer warm-up (now {config.warmup:g} epochs).",
            Trained(self.learner.network.eval(), position.history),
        )


def _record(files: RunFiles, history: tuple[EpochRecord, ...]) -> None:
    """Write the epochs so far as CSV, after each, so that a killed run keeps its curve."""
    if files.history is not None:
        write_csv(files.history, history)


def _draw(files: RunFiles, history: tuple[EpochRecord, ...]) -> None:
    """Draw the epochs so far, beside those of the other runs."""
    if files.plot is not None:
        write_curves(files.plot, {**read_runs(files.others), files.label: history})


def _copy(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def _batches(part: Tensor, config: TrainConfig, epoch: int, accelerator: Accelerator) -> Iterator[tuple[int, Tensor]]:
    """Yield (step, this process's share of its batch as indices on the host); all images of `part`, indices (n,), in a
    new order each epoch.

    A last batch that is not full is left out (BatchNorm would weigh its few images as much as a whole one).
    """
    processes, mine = accelerator.num_processes, accelerator.process_index
    count = len(part)
    size = min(config.batch_size, count)
    if size % processes:
        raise KdsnnError(f"batch_size {size} does not divide evenly over {processes} processes: choose a multiple.")
    # shuffled on the host, so that every process and every kind of device draws the same order
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
    order = part[torch.randperm(count, generator=generator)]
    if accelerator.device.type == "cuda":  # a batch of indices then travels without anyone waiting for it
        order = order.pin_memory()
    for step in range(count // size):
        yield step, order[step * size : (step + 1) * size][mine::processes]
