"""What `pretrain`, `distill` and `demo` share: building, training with progress, saving."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdsnn.cli.console import progress
from kdsnn.cli.options import writable_file
from kdsnn.cli.places import sole_writer
from kdsnn.errors import KdsnnError

if TYPE_CHECKING:
    from torch import nn

    from kdsnn.checkpoint import CheckpointInfo
    from kdsnn.data import Augmentation, DataSet
    from kdsnn.models import Network
    from kdsnn.models.kit import Neuron, Readout
    from kdsnn.train.config import Method, TrainConfig
    from kdsnn.train.history import EpochRecord
    from kdsnn.train.recipes import Recipe


def recipe_for(data: str) -> Recipe:
    """The tuned recipe of a data set, or the general one."""
    from kdsnn.train.recipes import RECIPES, Recipe

    return RECIPES.get(data, Recipe())


def configured(base: TrainConfig, **changes: Any) -> TrainConfig:
    """The recipe's configuration with what the user set on the command line."""
    return replace(base, **{name: value for name, value in changes.items() if value is not None})


def writable(out: Path) -> None:
    """Fail before hours of training rather than after: the checkpoint's place must exist and take a file.

    Raises:
        KdsnnError: wrong ending, or no place for a file; UnicodeEncodeError; OSError: the folder cannot be written.
    """
    if out.suffix != ".safetensors":
        raise KdsnnError(f"--out {out}: a checkpoint's name ends in .safetensors")
    str(out).encode()  # a name that is no valid UTF-8 can be written, but not be read again by safetensors
    writable_file(out)


def settings(texts: list[str] | None) -> dict[str, Any]:
    """["ema=0.999", "schedule=step"] → values of the types that `TrainConfig` declares.

    Raises:
        KdsnnError: not NAME=VALUE, no such setting, or a value of the wrong type.
    """
    from kdsnn.train.config import TrainConfig

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
        label: what the run is called in the picture of its curves, which lies beside `out` (a twin's: in its brother's).
        others: label → history CSV of the runs drawn with it.
        quantize: train on a grid of so many bits, from the trained student `start`.
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
    label: str = "student"
    others: Mapping[str, Path] = field(default_factory=dict)
    plot: Path | None = None
    quantize: int | None = None
    start: Network | None = None

    def twin(self, title: str, out: Path) -> Training:
        """The same network trained without a teacher into another file, its curves drawn beside this one's."""
        return replace(
            self,
            title=title,
            out=out,
            method="none",
            label="without a teacher",
            others={**self.others, self.label: self.out.with_suffix(".csv")},
            plot=self.plot or self.out.with_suffix(".svg"),
        )


def train_and_save(job: Training) -> tuple[nn.Module, CheckpointInfo, tuple[EpochRecord, ...]]:
    """Train, evaluate and write the checkpoint; a run that diverges leaves its last good weights there.

    Raises:
        KdsnnError: as `kdsnn.train` does; another run writes the same files, or they cannot be written.
    """
    # `accelerate launch` starts this in several processes, of which the first one writes
    first = os.environ.get("RANK", "0") == "0"
    with sole_writer(job.out) if first else nullcontext():
        return _train_and_save(job)


def _train_and_save(job: Training) -> tuple[nn.Module, CheckpointInfo, tuple[EpochRecord, ...]]:
    import torch

    from kdsnn import train

    config = job.config
    torch.manual_seed(config.seed)
    kinds: dict[str, Any] = {} if job.method is None else {"readout": job.readout, "neuron": job.neuron}
    module = _untrained(job, kinds)
    augment = job.augmentation.apply if job.augmentation else None
    state = job.out.with_name(f"{job.out.stem}.training")
    files = train.RunFiles(
        state=state, resume=job.resume, history=job.out.with_suffix(".csv"), tensorboard=job.tensorboard,
        plot=job.plot or job.out.with_suffix(".svg"), label=job.label, others=job.others,
    )  # fmt: skip
    about = {
        "model": job.model,
        "options": dict(job.options),
        **kinds,
        "augmentation": asdict(job.augmentation) if job.augmentation else None,
        "teacher": _digest(job.teacher),
        **({} if job.start is None else {"quantize": job.quantize, "start": _digest(job.start)}),
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
                _save(job, error.trained.module)
            raise
        except OSError as error:
            if error.filename is None:
                raise
            further = ", then go on with --resume" if state.exists() else ""
            raise KdsnnError(f"{error.filename}: {error.strerror}; make room there{further}") from error
    try:
        module, info = _save(job, trained.module)
    except KdsnnError as error:
        if not state.exists():
            raise
        raise KdsnnError(f"{error} {state.name} holds what was trained: --resume goes on from there.") from error
    state.unlink(missing_ok=True)
    return module, info, trained.history


def _untrained(job: Training, kinds: dict[str, Any]) -> nn.Module:
    """A fresh network; or the start, on the grid."""
    from kdsnn import models
    from kdsnn.cli.folding import quantized

    if job.start is not None and job.quantize is not None:
        return quantized(job.start, job.data.input_shape, job.config.T, job.quantize)
    return models.build(
        job.model, spiking=job.method is not None, input_shape=job.data.input_shape, classes=job.data.classes,
        **kinds, **job.options,
    )  # fmt: skip


def _save(job: Training, trained: nn.Module) -> tuple[nn.Module, CheckpointInfo]:
    """Evaluate and write what was trained; if that was on a grid, the network that has only grid points as weights."""
    from kdsnn import checkpoint
    from kdsnn.cli.console import say
    from kdsnn.cli.folding import deviations
    from kdsnn.train.grid import QuantizedNetwork

    if not isinstance(trained, QuantizedNetwork):
        info = _described(job, trained)
        checkpoint.save(job.out, trained.cpu(), info)
        return trained, info
    network = trained.deployed().eval()
    info = replace(_described(job, network), quantized={"bits": trained.bits, "layers": network.description()})
    checkpoint.save(job.out, network.cpu(), info)
    others = deviations(trained.cpu(), network, job.data.input_shape, job.config.T)
    if others:
        say(
            f"note: a register of the chip holds down the scale of {', '.join(others)}: there export rounds once more "
            "than training did; use fewer --quantize bits"
        )
    return network, info


def _described(job: Training, module: nn.Module) -> CheckpointInfo:
    from kdsnn import train
    from kdsnn.checkpoint import CheckpointInfo

    spiking = job.method is not None
    accuracies = train.evaluate(module, job.data, T=job.config.T if spiking else None)
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
