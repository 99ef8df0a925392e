"""What `pretrain`, `distill` and `demo` share: building a network, training it with progress, saving it."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdsnn.deploy.places import require_checkpoint_name, sole_writer, writable_file
from kdsnn.deploy.progress import Progress, silent
from kdsnn.deploy.trained import TrainedNetwork
from kdsnn.errors import KdsnnError, OptionError, notice

if TYPE_CHECKING:
    from torch import nn

    from exporters.graph import Encoding
    from kdsnn.checkpoint import CheckpointInfo
    from kdsnn.data import Augmentation, DataSet
    from kdsnn.models import Network
    from kdsnn.models.kit import Neuron, Readout
    from kdsnn.train import EpochRecord, Method, Recipe, RunFiles, TrainConfig, Trained


def recipe_for(data: DataSet) -> Recipe:
    """The recipe of a data set, by its name or by the kind of its images."""
    from kdsnn.train.recipes import recipe_of

    return recipe_of(data.name, data.input_shape)


def augmentation_for(data: DataSet, given: Augmentation | Mapping[str, Any] | None) -> Augmentation | None:
    """What happens to the training images: as the user says, or as the recipe does, which is told then.

    Raises:
        KdsnnError: no such part of an augmentation, or a value that is not possible.
    """
    from kdsnn.train.recipes import augmented

    found = augmented(recipe_for(data), given)
    if found and given is None:
        notice(f"training images are {found}, anew in every epoch, as suits images of {data.input_shape} (C, H, W)")
    return found or None


def configured(base: TrainConfig, **changes: Any) -> TrainConfig:
    """The recipe's configuration with what the user set, None for what was left alone.

    Raises:
        KdsnnError: no such setting, or a value that is not possible.
    """
    known = [f.name for f in fields(base)]
    for name in changes:
        if name not in known:
            raise KdsnnError(f"there is no setting {name!r}; there are {', '.join(known)}")
    return replace(base, **{name: value for name, value in changes.items() if value is not None})


def writable(out: str | Path | None) -> Path | None:
    """Fail before hours of training rather than after: the checkpoint's place must exist and take a file.

    Returns:
        It as a path.

    Raises:
        KdsnnError: wrong ending, or no place for a file; UnicodeEncodeError; OSError: the folder cannot be written.
    """
    if out is None:
        return None
    require_checkpoint_name(Path(out))
    writable_file(Path(out))
    return Path(out)


@dataclass(frozen=True, eq=False)
class Training:
    """One network to train, and where its files go.

    Attributes:
        title: what progress is called.
        model: the architecture, a key of `kdsnn.models.MODELS`; what a module of the user's own is called.
        data, config: what it is trained on, and how.
        options: of the architecture.
        out: the checkpoint, None to write no file at all; the state of an unfinished run and the history lie beside it.
        module: a network of the user's own in place of an architecture, not trained yet. It is trained in place.
        method: None for an ANN teacher.
        taps: for method "feature" between networks that are not ours: pairs of layers, student's and teacher's.
        label: what the run is called in the picture of its curves, which lies beside `out` (a twin's is drawn into its brother's).
        others: label → history CSV of the runs drawn with it.
        quantize: train on a grid of so many bits, from the trained student `start`.
        init: the network whose weights a student starts from, see `kdsnn.train.initialization`.
    """

    title: str
    model: str
    data: DataSet
    config: TrainConfig
    options: Mapping[str, Any] = field(default_factory=dict)
    out: Path | None = None
    module: nn.Module | None = None
    method: Method | None = None
    teacher: nn.Module | None = None
    taps: tuple[tuple[str, str], ...] = ()
    readout: Readout = "rate"
    neuron: Neuron = "if"
    augmentation: Augmentation | None = None
    resume: bool = False
    tensorboard: Path | None = None
    label: str = "student"
    others: Mapping[str, Path] = field(default_factory=dict)
    plot: Path | None = None
    quantize: int | None = None
    start: Network | None = None
    init: nn.Module | None = None

    def twin(self, title: str, out: Path | None) -> Training:
        """The same network, to be trained without a teacher into another file, its curves drawn beside this one's.

        It is to be made before this one is trained: a module of the user's own is copied as it is now.
        """
        others = dict(self.others) if self.out is None else {**self.others, self.label: self.out.with_suffix(".csv")}
        return replace(
            self,
            title=title,
            out=out,
            module=copy.deepcopy(self.module),
            method="none",
            label="without a teacher",
            others=others,
            plot=self.plot or (None if self.out is None else self.out.with_suffix(".svg")),
        )

    @property
    def state(self) -> Path | None:
        """The file from which a run that was cut off goes on."""
        return None if self.out is None else self.out.with_name(f"{self.out.stem}.training")


def train_and_save(job: Training, progress: Progress = silent) -> TrainedNetwork:
    """Train, evaluate and write the checkpoint; a run that diverges leaves its last good weights there.

    Raises:
        KdsnnError: as `kdsnn.train` does; another run writes the same files, or they cannot be written.
    """
    # `accelerate launch` starts this in several processes, of which the first one writes
    first = os.environ.get("RANK", "0") == "0"
    with sole_writer(job.out) if first and job.out is not None else nullcontext():
        trained = _trained(job, progress)
        try:
            network = _save(job, trained.module, trained.history)
        except KdsnnError as error:
            if job.state is None or not job.state.exists():
                raise
            raise OptionError(
                f"{error} {job.state.name} holds what was trained: {{resume}} goes on from there.", resume=None
            ) from error
        if job.state is not None:
            job.state.unlink(missing_ok=True)
        return network


def _trained(job: Training, progress: Progress) -> Trained:
    import torch

    from kdsnn import train

    torch.manual_seed(job.config.seed)
    kinds: dict[str, Any] = {} if job.method is None else {"readout": job.readout, "neuron": job.neuron}
    module = _untrained(job, kinds)
    note = ""

    def on_step(done: int, total: int) -> None:
        progress(job.title, done, total, note)

    def on_epoch(record: EpochRecord) -> None:
        nonlocal note
        note = f"epoch {record.epoch}: loss {record.loss:.4f}, test accuracy {100 * record.accuracy:.2f} %"

    rest: dict[str, Any] = {
        "augment": job.augmentation.apply if job.augmentation else None,
        "files": _files(job),
        "about": _about(job, kinds),
        "on_epoch": on_epoch,
        "on_step": on_step,
    }
    try:
        if job.method is None:
            return train.pretrain(module, job.data, job.config, **rest)
        return train.distill(
            module, job.data, job.config, method=job.method, teacher=job.teacher, taps=job.taps, **rest
        )
    except train.DivergedError as error:
        if error.trained.history:
            _save(job, error.trained.module, error.trained.history)
        raise
    except KdsnnError as error:
        if job.state is None or not (str(error).startswith(str(job.state)) and "then resume" in str(error)):
            raise  # all else that is wrong with a state is no reason to go on from it
        raise OptionError(f"{error} {{resume}} goes on from there.", resume=None) from error
    except OSError as error:
        if error.filename is None:
            raise
        further = ", then go on with {resume}" if job.state is not None and job.state.exists() else ""
        raise OptionError(f"{error.filename}: {error.strerror}; make room there{further}", resume=None) from error


def _files(job: Training) -> RunFiles:
    from kdsnn.train import RunFiles

    if job.out is None:
        return RunFiles(tensorboard=job.tensorboard)
    return RunFiles(
        state=job.state, resume=job.resume, history=job.out.with_suffix(".csv"), tensorboard=job.tensorboard,
        plot=job.plot or job.out.with_suffix(".svg"), label=job.label, others=job.others,
    )  # fmt: skip


def _about(job: Training, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """What a resumed run must have in common with the one that was cut off, beside its configuration."""
    return {
        "model": job.model,
        "options": dict(job.options),
        **kinds,
        "augmentation": asdict(job.augmentation) if job.augmentation else None,
        "teacher": _digest(job.teacher),
        **({} if job.start is None else {"quantize": job.quantize, "start": _digest(job.start)}),
        **({} if job.init is None else {"init": _digest(job.init)}),
        **({"taps": [list(pair) for pair in job.taps]} if job.taps else {}),
    }


def _untrained(job: Training, kinds: dict[str, Any]) -> nn.Module:
    """A fresh network or the user's own, with the weights of another if that is wanted, or the start on the grid."""
    from kdsnn import models
    from kdsnn.train.grid import quantized
    from kdsnn.train.initialization import initialize

    if job.start is not None and job.quantize is not None:
        encoding: Encoding = "direct" if job.data.T is None else "spikes"
        return quantized(job.start, job.data.input_shape, job.config.T, job.quantize, encoding=encoding)
    module = job.module
    if module is None:
        module = models.build(
            job.model, spiking=job.method is not None, input_shape=job.data.input_shape, classes=job.data.classes,
            **kinds, **job.options,
        )  # fmt: skip
    if job.init is not None:
        try:
            initialize(module, job.init, job.data, job.config.T)
        except KdsnnError as error:
            raise OptionError(f"{{init}}: {error}", init=None) from error
    return module


def _save(job: Training, trained: nn.Module, history: tuple[EpochRecord, ...]) -> TrainedNetwork:
    """Evaluate and write what was trained; if that was on a grid, the network that has only grid points as weights."""
    from kdsnn import checkpoint
    from kdsnn.train.grid import QuantizedNetwork, deviations

    if not isinstance(trained, QuantizedNetwork):
        info = _described(job, trained)
        if job.out is not None:
            checkpoint.save(job.out, trained.cpu(), info)
        return TrainedNetwork(trained.cpu(), info, history, job.out)
    network = trained.deployed().eval()
    info = replace(_described(job, network), quantized={"bits": trained.bits, "layers": network.description()})
    network = network.cpu()
    if job.out is not None:
        checkpoint.save(job.out, network, info)
    others = deviations(trained.cpu(), network, job.data.input_shape, job.config.T)
    if others:
        notice(
            f"a register of the chip holds down the scale of {', '.join(others)}: there export rounds once more "
            "than training did; train with fewer bits"
        )
    return TrainedNetwork(network, info, history, job.out)


def _described(job: Training, module: nn.Module) -> CheckpointInfo:
    from kdsnn import train
    from kdsnn.checkpoint import MEAN, PIXELS, SPIKES, CheckpointInfo

    spiking = job.method is not None
    accuracies = train.evaluate(module, job.data, T=job.config.T if spiking else None)
    training = {"method": job.method or "pretrain", **asdict(job.config)}
    if job.augmentation:
        training["augmentation"] = asdict(job.augmentation)
    own = job.module is not None  # readout and neuron are a matter of architectures
    return CheckpointInfo(
        model=job.model,
        spiking=spiking,
        input_shape=job.data.input_shape,
        classes=job.data.classes,
        data=job.data.name,
        options=dict(job.options),
        readout=job.readout if spiking and not own else None,
        neuron=job.neuron if spiking and not own else None,
        T=job.config.T if spiking else None,
        preprocessing=PIXELS if job.data.T is None else SPIKES if spiking else MEAN,
        class_names=job.data.class_names,
        metrics={"test_accuracy": accuracies[-1]},
        training=training,
    )


def _digest(module: nn.Module | None) -> str | None:
    """What tells one teacher from another, so that a run is not resumed with a different one."""
    from kdsnn.digest import digest_weights

    return None if module is None else digest_weights(module.state_dict())
