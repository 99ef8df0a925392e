"""What `pretrain`, `distill` and `demo` share: building, training with progress, saving."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdsnn.cli.console import progress
from kdsnn.errors import KdsnnError

if TYPE_CHECKING:
    from torch import nn

    from kdsnn.checkpoint import CheckpointInfo
    from kdsnn.data import DataSet
    from kdsnn.train import EpochRecord, Method, Recipe, TrainConfig


def recipe_for(data: str) -> Recipe:
    """The tuned recipe of a data set, or the general one."""
    from kdsnn.train import RECIPES, Recipe

    return RECIPES.get(data, Recipe())


def configured(base: TrainConfig, **changes: Any) -> TrainConfig:
    """The recipe's configuration with what the user set on the command line."""
    return replace(base, **{name: value for name, value in changes.items() if value is not None})


def writable(out: Path) -> None:
    """Fail before hours of training rather than after: the checkpoint's place must exist and take a file.

    Raises:
        KdsnnError: wrong ending; OSError: the folder cannot be written.
    """
    from kdsnn.files import atomic_path

    if out.suffix != ".safetensors":
        raise KdsnnError(f"--out {out}: a checkpoint's name ends in .safetensors")
    if out.is_dir():
        raise KdsnnError(f"--out {out}: this is a folder; give a file name")
    probe = out.with_name(f".{out.name}.probe")
    with atomic_path(probe):
        pass
    probe.unlink()


def train_network(
    title: str,
    model: str,
    data: DataSet,
    config: TrainConfig,
    *,
    options: dict[str, Any],
    method: Method | None = None,
    teacher: nn.Module | None = None,
    quiet: bool = False,
) -> tuple[nn.Module, CheckpointInfo, tuple[EpochRecord, ...]]:
    """Build and train a teacher (method None) or a spiking student; returns it with its description."""
    import torch

    from kdsnn import models, train
    from kdsnn.checkpoint import CheckpointInfo

    torch.manual_seed(config.seed)
    spiking = method is not None
    module = models.build(model, spiking=spiking, input_shape=data.input_shape, classes=data.classes, **options)
    note = ""
    with progress(title, quiet=quiet) as show:

        def on_step(done: int, total: int) -> None:
            show(done, total, note)

        def on_epoch(record: EpochRecord) -> None:
            nonlocal note
            note = f"epoch {record.epoch}: loss {record.loss:.4f}, test accuracy {100 * record.accuracy:.2f} %"

        if method is not None:
            trained = train.distill(
                module, data, config, method=method, teacher=teacher, on_epoch=on_epoch, on_step=on_step
            )
        else:
            trained = train.pretrain(module, data, config, on_epoch=on_epoch, on_step=on_step)
    accuracies = train.evaluate(trained.module, data, T=config.T if spiking else None)
    info = CheckpointInfo(
        model=model,
        spiking=spiking,
        input_shape=data.input_shape,
        classes=data.classes,
        data=data.name,
        options=options,
        readout="rate" if spiking else None,
        neuron="if" if spiking else None,
        T=config.T if spiking else None,
        metrics={"test_accuracy": accuracies[-1]},
        training={"method": method or "pretrain", **asdict(config)},
    )
    return trained.module.cpu(), info, trained.history
