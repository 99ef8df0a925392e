"""What `pretrain`, `distill` and `demo` share: building, training with progress, saving."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdsnn.cli.console import progress
from kdsnn.cli.options import writable_folder
from kdsnn.errors import KdsnnError

if TYPE_CHECKING:
    from torch import nn

    from kdsnn.checkpoint import CheckpointInfo
    from kdsnn.config import Method, TrainConfig
    from kdsnn.data import Augmentation, DataSet
    from kdsnn.history import EpochRecord
    from kdsnn.loop import Trained
    from kdsnn.models.kit import Neuron, Readout
    from kdsnn.recipes import Recipe


def recipe_for(data: str) -> Recipe:
    """The tuned recipe of a data set, or the general one."""
    from kdsnn.recipes import RECIPES, Recipe

    return RECIPES.get(data, Recipe())


def configured(base: TrainConfig, **changes: Any) -> TrainConfig:
    """The recipe's configuration with what the user set on the command line."""
    return replace(base, **{name: value for name, value in changes.items() if value is not None})


def writable(out: Path) -> None:
    """Fail before hours of training rather than after: the checkpoint's place must exist and take a file.

    Raises:
        KdsnnError: wrong ending; OSError: the folder cannot be written.
    """
    if out.suffix != ".safetensors":
        raise KdsnnError(f"--out {out}: a checkpoint's name ends in .safetensors")
    if out.is_dir():
        raise KdsnnError(f"--out {out}: this is a folder; give a file name")
    writable_folder(out.parent)


def settings(texts: list[str] | None) -> dict[str, Any]:
    """["ema=0.999", "schedule=step"] → values of the types that `TrainConfig` declares.

    Raises:
        KdsnnError: not NAME=VALUE, no such setting, or a value of the wrong type.
    """
    from kdsnn.config import TrainConfig

    defaults = {f.name: f.default for f in fields(TrainConfig) if f.name != "seed"}  # --seed is an option of its own
    found: dict[str, Any] = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals or name not in defaults:
            raise KdsnnError(f"--set {text}: it must read NAME=VALUE with a name of {', '.join(defaults)}")
        kind: Any = type(defaults[name])
        try:
            if kind is tuple:
                found[name] = tuple(float(part) for part in value.split(","))
            elif kind is bool:
                found[name] = {"true": True, "false": False}[value.lower()]
            else:
                found[name] = kind(value)
        except (ValueError, KeyError) as error:
            raise KdsnnError(f"--set {text}: {name} takes a value such as {defaults[name]}") from error
    return found


@dataclass(frozen=True, eq=False)
class Training:
    """One network to train, and where its files go.

    Attributes:
        out: the checkpoint; the state of an unfinished run and the history lie beside it.
        method: None for an ANN teacher.
        alone: also train the student's twin, without a teacher, into `OUT.twin.safetensors`.
    """

    title: str
    model: str
    out: Path
    data: DataSet
    config: TrainConfig
    options: Mapping[str, Any]
    method: Method | None = None
    teacher: nn.Module | None = None
    readout: Readout = "rate"
    neuron: Neuron = "if"
    augmentation: Augmentation | None = None
    resume: bool = False
    tensorboard: Path | None = None
    quiet: bool = False

    def named(self, title: str, out: Path, method: Method) -> Training:
        """The same network trained by another method into another file."""
        return replace(self, title=title, out=out, method=method)


def train_and_save(job: Training) -> tuple[nn.Module, CheckpointInfo, tuple[EpochRecord, ...]]:
    """Train, evaluate and write the checkpoint; a run that diverges leaves its last good weights there.

    Raises:
        KdsnnError: as `kdsnn.train` does.
    """
    import torch

    from kdsnn import checkpoint, models, train

    spiking = job.method is not None
    config = job.config
    torch.manual_seed(config.seed)
    kinds: dict[str, Any] = {"readout": job.readout, "neuron": job.neuron} if spiking else {}
    module = models.build(
        job.model, spiking=spiking, input_shape=job.data.input_shape, classes=job.data.classes, **kinds, **job.options
    )
    augment = job.augmentation.apply if job.augmentation else None
    state = job.out.with_name(f"{job.out.stem}.training")
    files = train.RunFiles(
        state=state, resume=job.resume, history=job.out.with_suffix(".csv"), tensorboard=job.tensorboard
    )
    about = {
        "model": job.model,
        "options": dict(job.options),
        **kinds,
        "augmentation": asdict(job.augmentation) if job.augmentation else None,
        "teacher": _digest(job.teacher),
    }
    note = ""
    with progress(job.title, quiet=job.quiet) as show:

        def on_step(done: int, total: int) -> None:
            show(done, total, note)

        def on_epoch(record: EpochRecord) -> None:
            nonlocal note
            note = f"epoch {record.epoch}: loss {record.loss:.4f}, test accuracy {100 * record.accuracy:.2f} %"

        rest: dict[str, Any] = {
            "augment": augment,
            "files": files,
            "about": about,
            "on_epoch": on_epoch,
            "on_step": on_step,
        }
        try:
            if job.method is not None:
                trained = train.distill(module, job.data, config, method=job.method, teacher=job.teacher, **rest)
            else:
                trained = train.pretrain(module, job.data, config, **rest)
        except train.DivergedError as error:
            if error.trained.history:
                checkpoint.save(job.out, error.trained.module.cpu(), _described(job, error.trained))
            raise
    info = _described(job, trained)
    checkpoint.save(job.out, trained.module.cpu(), info)
    state.unlink(missing_ok=True)
    return trained.module, info, trained.history


def _described(job: Training, trained: Trained) -> CheckpointInfo:
    from kdsnn import train
    from kdsnn.checkpoint import CheckpointInfo

    spiking = job.method is not None
    accuracies = train.evaluate(trained.module, job.data, T=job.config.T if spiking else None)
    training = {"method": job.method or "pretrain", **asdict(job.config)}
    if job.augmentation:
        training["augmentation"] = asdict(job.augmentation)
    return CheckpointInfo(
        model=job.model,
        spiking=spiking,
        input_shape=job.data.input_shape,
        classes=job.data.classes,
        data=job.data.name,
        options=dict(job.options),
        readout=job.readout if spiking else None,
        neuron=job.neuron if spiking else None,
        T=job.config.T if spiking else None,
        metrics={"test_accuracy": accuracies[-1]},
        training=training,
    )


def _digest(module: nn.Module | None) -> str | None:
    """What tells one teacher from another, so that a run is not resumed with a different one."""
    from kdsnn.digest import digest_weights

    return None if module is None else digest_weights(module.state_dict())
