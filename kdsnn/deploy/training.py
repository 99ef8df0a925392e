"""What `pretrain`, `distill` and `demo` share: building a network, training it with progress, saving it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdsnn.deploy.places import sole_writer
from kdsnn.deploy.processes import is_first_process
from kdsnn.deploy.progress import Progress, silent
from kdsnn.deploy.trained import TrainedNetwork
from kdsnn.errors import KdsnnError, OptionError, notice

if TYPE_CHECKING:
    from torch import nn

    from exporters.graph import Encoding
    from exporters.graph.nodes import Reset
    from kdsnn.checkpoint import CheckpointInfo
    from kdsnn.data import Augmentation, DataSet
    from kdsnn.models import Network
    from kdsnn.models.kit import Neuron, Readout
    from kdsnn.train import EpochRecord, Method, RunFiles, TrainConfig, Trained


STATE = ".training"
"""How the file of a state ends."""

RUN = "run_sha256"
"""The entry of a checkpoint's `training` that tells its run from others; only a training that came to its end has one."""


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
        quantize: bits of a weight on the grid that is trained on: of a student, which goes on from the trained `start`, or
            of an ANN, whose activations have `activation_bits` and which `start` may begin.
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
    reset: Reset = "hard"
    augmentation: Augmentation | None = None
    resume: bool = False
    tensorboard: Path | None = None
    label: str = "student"
    others: Mapping[str, Path] = field(default_factory=dict)
    plot: Path | None = None
    quantize: int | None = None
    activation_bits: int | None = None
    start: Network | None = None
    init: nn.Module | None = None

    @property
    def best(self) -> Path | None:
        """The file of the epoch that did best in validation, beside that of the last one."""
        return None if self.out is None else self.out.with_name(f"{self.out.stem}.best{self.out.suffix}")

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
        return None if self.out is None else self.out.with_name(f"{self.out.stem}{STATE}")


def train_and_save(job: Training, progress: Progress = silent) -> TrainedNetwork:
    """Train, evaluate and write the checkpoint; a run that diverges leaves its last good weights there.

    Nothing asks here whether files are there already: they are replaced, or gone on from where the job says so.

    Raises:
        KdsnnError: as `kdsnn.train` does; another run writes the same files, or they cannot be written.
    """
    with held([job]):
        return completed(job, progress)


@contextmanager
def held(jobs: Iterable[Training]) -> Iterator[None]:
    """Inside, no other command writes the files of these trainings.

    Raises:
        KdsnnError: another one does.
    """
    with ExitStack() as stack:
        for job in jobs:
            if is_first_process() and job.out is not None:
                stack.enter_context(sole_writer(job.out))
        yield


def completed(job: Training, progress: Progress) -> TrainedNetwork:
    """What `train_and_save` does once the files are held: a training that is to be resumed and is finished is read."""
    if job.resume and not (job.state is not None and job.state.exists()) and finished(job):
        return _read(job)
    trained = _trained(job, progress)
    try:
        network = _save(job, trained)
    except KdsnnError as error:
        if job.state is None or not job.state.exists():
            raise
        raise OptionError(
            f"{error} {job.state.name} holds what was trained: {{resume}} goes on from there.", resume=None
        ) from error
    if job.state is not None:
        job.state.unlink(missing_ok=True)
    return network


def finished(job: Training) -> bool:
    """Whether the checkpoint that lies there is what this training gives: by what it says of its run, not by its name."""
    from kdsnn import checkpoint

    if job.out is None or not job.out.is_file() or (job.config.val and job.best and not job.best.is_file()):
        return False
    try:
        return checkpoint.read_info(job.out).training.get(RUN) == _run_digest(job)
    except KdsnnError:
        return False


def _read(job: Training) -> TrainedNetwork:
    """The network of a training that is finished, with its history where that lies there too."""
    from kdsnn import checkpoint
    from kdsnn.train.curves import read_runs

    def read(path: Path, module: nn.Module | None) -> TrainedNetwork:
        found, info = checkpoint.load(path, module)
        records = read_runs({"": path.with_suffix(".csv")}).get("", ())
        return TrainedNetwork(found, info, records, path)

    assert job.out is not None and job.best is not None
    best = read(job.best, copy.deepcopy(job.module)) if job.config.val else None
    return replace(read(job.out, job.module), best=best)


def _trained(job: Training, progress: Progress) -> Trained:
    import torch

    from kdsnn import train

    torch.manual_seed(job.config.seed)
    module = _untrained(job)
    note = ""
    if not (job.resume and job.state is not None and job.state.exists()):  # else the first step says where it goes on
        progress(job.title, 0, job.config.epochs)

    def on_step(done: int, total: int) -> None:
        if done < total:  # the end is told with what the last epoch gave
            progress(job.title, done, total, note)

    def on_epoch(record: EpochRecord) -> None:
        nonlocal note
        held_out = "" if record.val is None else f", validation {100 * record.val:.2f} %"
        note = f"epoch {record.epoch}: loss {record.loss:.4f}{held_out}, test accuracy {100 * record.accuracy:.2f} %"
        progress(job.title, record.epoch, job.config.epochs, note)

    rest: dict[str, Any] = {
        "augment": job.augmentation.apply if job.augmentation else None,
        "mix": job.augmentation.mixes(job.data.classes) if job.augmentation else None,
        "files": _files(job),
        "about": _about(job),
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
            _save(job, error.trained, whole=False)
        if job.state is not None:  # to go on from it would diverge again
            job.state.unlink(missing_ok=True)
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


def _kinds(job: Training) -> dict[str, Any]:
    """What only a student has."""
    if job.method is None:
        return {}
    return {"readout": job.readout, "neuron": job.neuron, **({} if job.reset == "hard" else {"reset": job.reset})}


def _run_digest(job: Training) -> str:
    """What tells the run of a checkpoint from all others: the same digest, the same weights."""
    from kdsnn.digest import digest_json
    from kdsnn.train.training import described_run

    return digest_json(described_run(job.data, job.config, job.method or "pretrain", _about(job)))


def _about(job: Training) -> dict[str, Any]:
    """What a resumed run must have in common with the one that was cut off, beside its configuration."""
    return {
        "model": job.model,
        "options": dict(job.options),
        **_kinds(job),
        "augmentation": asdict(job.augmentation) if job.augmentation else None,
        "teacher": _digest(job.teacher),
        **({} if job.quantize is None else {"quantize": job.quantize}),
        **({} if job.activation_bits is None else {"activation_bits": job.activation_bits}),
        **({} if job.start is None else {"start": _digest(job.start)}),
        **({} if job.init is None else {"init": _digest(job.init)}),
        **({"taps": [list(pair) for pair in job.taps]} if job.taps else {}),
    }


def _untrained(job: Training) -> nn.Module:
    """A fresh network or the user's own, with the weights of another if that is wanted, or the start on the grid."""
    from kdsnn import models
    from kdsnn.train.grid import quantized
    from kdsnn.train.initialization import initialize
    from kdsnn.train.quantized_ann import of_few_bits

    if job.start is not None and job.quantize is not None and job.method is not None:
        encoding: Encoding = "direct" if job.data.T is None else "frames" if job.data.graded else "spikes"
        return quantized(job.start, job.data.input_shape, job.config.T, job.quantize, encoding=encoding)
    module: nn.Module | None = job.module if job.start is None else copy.deepcopy(job.start)
    if module is None:
        module = models.build(
            job.model, spiking=job.method is not None, input_shape=job.data.input_shape, classes=job.data.classes,
            **_kinds(job), **job.options,
        ).float()  # fmt: skip  # whatever torch's default type is
    if job.activation_bits is not None and job.quantize is not None:
        return of_few_bits(module, job.data, job.quantize, job.activation_bits)
    if job.init is not None:
        try:
            initialize(module, job.init, job.data, job.config.T)
        except KdsnnError as error:
            raise OptionError(f"{{init}}: {error}", init=None) from error
    return module


def _save(job: Training, trained: Trained, *, whole: bool = True) -> TrainedNetwork:
    """Write what was trained, that of the best epoch first: the other one says that all is there, if the run is `whole`."""
    from kdsnn.train.history import best_of

    history = trained.history
    run = {RUN: _run_digest(job)} if whole else {}
    if not whole or trained.best is None:
        return _written(job, trained.module, history, job.out, history[-1], run)
    module = copy.deepcopy(trained.module)
    module.load_state_dict(trained.best)
    chosen = best_of(history)
    best = _written(job, module, history, job.best, chosen, {"epoch": chosen.epoch, "chosen_by": "val_accuracy"})
    return replace(_written(job, trained.module, history, job.out, history[-1], run), best=best)


def _written(
    job: Training, trained: nn.Module, history: tuple[EpochRecord, ...], path: Path | None, epoch: EpochRecord,
    about: Mapping[str, Any],
) -> TrainedNetwork:  # fmt: skip
    """Evaluate and write a network as it was after `epoch`; if it was trained on a grid, the network that has only grid
    points as weights."""
    from kdsnn import checkpoint
    from kdsnn.train.grid import QuantizedNetwork, deviations
    from kdsnn.train.quantized_ann import QuantizedAnn

    def described(module: nn.Module) -> CheckpointInfo:
        info = _described(job, module)
        held_out = {} if epoch.val is None else {"val_accuracy": epoch.val}
        return replace(info, metrics={**info.metrics, **held_out}, training={**info.training, **about})

    if not isinstance(trained, QuantizedNetwork):
        bits = None
        if isinstance(trained, QuantizedAnn):
            bits = {"bits": trained.bits, "activation_bits": trained.activation_bits}
            trained = trained.deployed()
        info = replace(described(trained), quantized=bits)
        if path is not None:
            checkpoint.save(path, trained.cpu(), info)
        return TrainedNetwork(trained.cpu(), info, history, path)
    network = trained.deployed().eval()
    # its leaking neurons that reset by subtraction fire as deployed only while they are registers
    info = replace(described(trained), quantized={"bits": trained.bits, "layers": network.description()})
    network = network.cpu()
    if path is not None:
        checkpoint.save(path, network, info)
    others = deviations(trained.cpu(), network, job.data.input_shape, job.config.T)
    if others:
        notice(
            f"a register of the chip holds down the scale of {', '.join(others)}: there export rounds once more "
            "than training did; train with fewer bits"
        )
    return TrainedNetwork(network, info, history, path)


def _described(job: Training, module: nn.Module) -> CheckpointInfo:
    """The architecture, its data and training, and the accuracy of the trained module."""
    from kdsnn import train
    from kdsnn.checkpoint import CheckpointInfo, preprocessing_of

    spiking = job.method is not None
    T, frames = job.config.T if spiking else None, job.config.teacher_frames
    accuracies = train.evaluate(module, job.data, T=T, frames=frames)
    own = job.module is not None  # readout, neuron and reset are a matter of architectures
    training = {"method": job.method or "pretrain", **asdict(job.config)}
    if job.augmentation:
        training["augmentation"] = asdict(job.augmentation)
    if job.data.noise:
        training["noise"] = dict(job.data.noise)
    return CheckpointInfo(
        model=job.model,
        spiking=spiking,
        input_shape=job.data.input_shape,
        classes=job.data.classes,
        data=job.data.name,
        options=dict(job.options),
        readout=job.readout if spiking and not own else None,
        neuron=job.neuron if spiking and not own else None,
        reset="soft" if spiking and not own and job.reset == "soft" else None,
        T=T,
        preprocessing=preprocessing_of(job.data, spiking=spiking, frames=frames),
        class_names=job.data.class_names,
        metrics={"test_accuracy": accuracies[-1]},
        training=training,
    )


def _digest(module: nn.Module | None) -> str | None:
    """What tells one teacher from another, so that a run is not resumed with a different one."""
    from kdsnn.digest import digest_weights

    return None if module is None else digest_weights(module.state_dict())
