"""What a training run leaves to look at: one record per epoch, as CSV and for TensorBoard."""

from __future__ import annotations

import csv
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from exporters.files import atomic_path
from kdsnn.errors import KdsnnError


@dataclass(frozen=True)
class EpochRecord:
    """A record is of one finished epoch, counted from 1.

    `loss`: mean training loss. `accuracy`: on the test set, 0…1, of the full run. `seconds`: wall clock,
    with the evaluation. `lr`: learning rate of the last step. `by_step`: test accuracy from the mean of
    the first t steps, t = 1…T; one value for an ANN. `val`: accuracy of the full run on the training images that are
    held out, None where none are.
    """

    epoch: int
    loss: float
    accuracy: float
    seconds: float
    lr: float = 0.0
    by_step: tuple[float, ...] = ()
    val: float | None = None


OnEpoch = Callable[[EpochRecord], None]


def best_of(history: Sequence[EpochRecord]) -> EpochRecord:
    """The epoch that did best on the images held out for validation, of equal ones the first.

    The test set has no say: what is chosen by it is no measurement any more.
    """
    return max(history, key=lambda record: -1.0 if record.val is None else record.val)


def write_csv(path: Path, history: Sequence[EpochRecord]) -> None:
    """Write the epochs so far, whole or not at all; called after each, so a killed run keeps its curve.

    Columns: `epoch` (from 1), `loss` (mean over the epoch), `accuracy` (test, 0…1), `lr` (of the last step),
    `seconds` (wall clock), then `accuracy_t1` … `accuracy_tT` (test, from the first t steps) and, where images are
    held out, `val_accuracy`.
    """
    steps = len(history[0].by_step) if history else 0
    held = ["val_accuracy"] if history and history[0].val is not None else []
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(
            ["epoch", "loss", "accuracy", "lr", "seconds", *(f"accuracy_t{t + 1}" for t in range(steps)), *held]
        )
        for r in history:
            rows.writerow(
                [r.epoch, r.loss, r.accuracy, r.lr, f"{r.seconds:.3f}", *r.by_step, *([r.val] if held else [])]
            )


def read_csv(path: Path) -> tuple[EpochRecord, ...]:
    """Read what `write_csv` wrote. Raises KdsnnError when the file is missing or something else."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        steps = sum(name.startswith("accuracy_t") for name in rows[0]) if rows else 0
        return tuple(
            EpochRecord(
                int(row["epoch"]), float(row["loss"]), float(row["accuracy"]), float(row["seconds"]), float(row["lr"]),
                tuple(float(row[f"accuracy_t{t + 1}"]) for t in range(steps)),
                float(row["val_accuracy"]) if "val_accuracy" in row else None,
            )
            for row in rows
        )  # fmt: skip
    except FileNotFoundError as error:
        raise KdsnnError(f"{path}: no such file: give the CSV that pretrain or distill wrote.") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KdsnnError(
            f"{path}: not the history of a training run: give the CSV that pretrain or distill wrote."
        ) from error


@contextmanager
def tensorboard(folder: Path, *, first_epoch: int = 1) -> Iterator[OnEpoch]:
    """Give a callback that writes every epoch's loss, accuracies and learning rate as TensorBoard scalars under
    `folder`.

    `first_epoch`: where a resumed run goes on; TensorBoard then hides what an earlier one wrote from there.
    Raises KdsnnError when TensorBoard is not installed or the folder cannot be written.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter  # type: ignore[attr-defined]
    except ImportError as error:
        raise KdsnnError("TensorBoard is not installed: pip install tensorboard, or leave it out.") from error
    said = threading.excepthook
    # the thread that writes would show a traceback of what is then raised here
    threading.excepthook = lambda args: None if issubclass(args.exc_type, OSError) else said(args)
    writer = None
    try:
        with _writable(folder):
            writer = SummaryWriter(str(folder), purge_step=first_epoch)  # type: ignore[no-untyped-call]

        def write(record: EpochRecord) -> None:
            scalars = {"loss": record.loss, "accuracy": record.accuracy, "lr": record.lr}
            scalars |= {f"accuracy by step/t{t + 1}": value for t, value in enumerate(record.by_step)}
            scalars |= {} if record.val is None else {"val accuracy": record.val}
            with _writable(folder):
                for name, value in scalars.items():
                    writer.add_scalar(name, value, record.epoch)
                writer.flush()

        yield write
    finally:
        if writer is not None:
            with suppress(OSError):  # every epoch was brought to the disk as it came
                writer.close()
        threading.excepthook = said


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise KdsnnError(
            f"{folder}: the history for TensorBoard cannot be written ({reason}): make room there."
        ) from error
