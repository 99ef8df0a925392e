"""The verb `distill`: train a spiking student, with a teacher or without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, overload

from kdsnn.deploy.devices import computing_on, require_device
from kdsnn.deploy.factory import module_of
from kdsnn.deploy.images import Pixels, require_frames, require_trained_fit, some_tests
from kdsnn.deploy.initial import TEACHER, options_from, source_of
from kdsnn.deploy.load import load
from kdsnn.deploy.own_data import load_own, own_of
from kdsnn.deploy.places import writable_checkpoint
from kdsnn.deploy.precision import with_precision
from kdsnn.deploy.pretrain import named_model, require_architecture
from kdsnn.deploy.progress import Progress, silent
from kdsnn.deploy.recipes import augmentation_for, configured, recipe_for, tell_batches
from kdsnn.deploy.seeds import ALONE, SeedRuns, over_seeds
from kdsnn.deploy.starting import train_all
from kdsnn.deploy.trained import TrainedNetwork, torch_module
from kdsnn.deploy.training import Training
from kdsnn.errors import OptionError
from kdsnn.factory import is_factory
from kdsnn.train.config import Method

if TYPE_CHECKING:
    from torch import nn

    from exporters.graph.nodes import Reset
    from kdsnn.data import Augmentation, DataSet
    from kdsnn.deploy.images import ImageSize
    from kdsnn.models.kit import Neuron, Readout
    from kdsnn.train import TeacherFrames, TrainConfig
    from kdsnn.train.config import Optimizer, Precision, Schedule

METHODS: tuple[str, ...] = get_args(Method)

COUNTED = 200
"""Test images on which the cost of a student and its twin is counted, spread over the set."""


@overload
def distill(model: str | nn.Module, data: Any = ..., *, seeds: None = None, **arguments: Any) -> TrainedNetwork: ...
@overload
def distill(model: str, data: Any = ..., *, seeds: str | Sequence[int], **arguments: Any) -> SeedRuns: ...
@overload
def distill(
    model: str, data: Any = ..., *, seeds: str | Sequence[int] | None, **arguments: Any
) -> TrainedNetwork | SeedRuns: ...
def distill(
    model: str | nn.Module,
    data: Any = None,
    *,
    teacher: str | Path | TrainedNetwork | nn.Module | None = None,
    teacher_weights: str | Path | None = None,
    teacher_frames: TeacherFrames | None = None,
    method: Method = "response",
    taps: str | Mapping[str, str] | None = None,
    twin: bool = False,
    out: str | Path | None = None,
    T: int | None = None,
    readout: Readout | None = None,
    neuron: Neuron = "if",
    reset: Reset = "hard",
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    optimizer: Optimizer | None = None,
    weight_decay: float | None = None,
    schedule: Schedule | None = None,
    warmup_epochs: float | None = None,
    label_smoothing: float | None = None,
    precision: Precision | None = None,
    device: str | None = None,
    alpha: float | None = None,
    temperature: float | None = None,
    quantize: int | None = None,
    start: str | Path | TrainedNetwork | None = None,
    init: str | Path | TrainedNetwork | nn.Module | None = None,
    seed: int = 0,
    seeds: str | Sequence[int] | None = None,
    processes: int | None = None,
    options: Mapping[str, Any] | None = None,
    augmentation: Augmentation | Mapping[str, Any] | None = None,
    val: float | None = None,
    resume: bool = False,
    overwrite: bool = False,
    tensorboard: str | Path | None = None,
    image_size: ImageSize = None,
    noise: float = 0.0,
    noise_kind: str = "std",
    noise_on: str = "train,test",
    progress: Progress = silent,
    **settings: Any,
) -> TrainedNetwork | SeedRuns:
    """Train a spiking student of an ANN teacher (KDSNN, Xu et al., CVPR 2023).

    Args:
        model: an architecture of `kdsnn-deploy list models`, `package.module:factory`, or any module made of SpikingJelly's
            layers, single- or multi-step, which is trained in place.
        data: whatever `load_data` takes; by default what `start`, the teacher or `init` was trained on, or else digits.
        teacher: a checkpoint, what `pretrain` returned, `package.module:factory`, or any torch module, images (N, C, H, W)
            in 0…1 → logits (N, K). It is never changed.
        teacher_weights: a state dict for a teacher from a factory.
        teacher_frames: the teacher sees of frames over time their "mean", or "each" (to teach step t in "temporal" and
            "selective", or averaged). None: as it was trained, of a module the mean.
        method: "response" (Eq. 5), "feature" (Eq. 7), "temporal" and "selective" (every time step), or "none" (labels only).
        taps: for "feature" between networks that are not this project's: which layer of the student learns from which of the
            teacher, {"student.layer": "teacher.layer"} or "student.layer=teacher.layer,…".
        twin: train the same student without a teacher too, from the same weights, and count the cost of both.
        out: the checkpoint to write (`.safetensors`), with history, curves and state beside it; None writes nothing.
        T: time steps per image; of data that has frames over time as many as these.
        readout: "rate" of output neurons, "voting" of eight for each class, or "membrane" of a layer without, by default the
            recipe's: "membrane", but "rate" on digits. Of architectures only.
        neuron: "if", or "lif" with a leak of one half per step; of architectures only.
        reset: what a spike does to the membrane: "hard" sets it to 0, "soft" subtracts the threshold; of architectures only.
        epochs, batch_size, lr, alpha (weight of the teacher in Eq. 5), temperature (of the logits): None takes the recipe's.
        quantize: train on with weights of so many bits, 2 to 8, from the trained student `start`.
        init: the weights to start from: "teacher", a checkpoint, what `pretrain` or `distill` returned, or a module; an ANN of the
            same architecture is scaled to thresholds of 1 on training images, a student is copied; `lr` is a fifth of the recipe's.
        seeds: train once for each of them, (0, 1, 2) or "0-4" or "0,3,7", as NAME.seedN.safetensors, and sum up: a `SeedRuns`.
        processes: how many seeds are trained side by side, each with its share of the cores; by default as many as there are
            cores, one on a GPU. Under `torchrun` or `accelerate launch` each process takes its share of the seeds.
        optimizer, weight_decay, schedule, warmup_epochs, label_smoothing, precision, device, seed, options, augmentation, val, resume, overwrite, tensorboard, noise…, progress, **settings: as in `pretrain`.

    Raises:
        KdsnnError: a method without its teacher, networks and data that do not fit, a run that diverges; one line each.
    """
    if seeds is not None or processes is not None:
        return _over_seeds(dict(locals()))
    kinds = _kinds_used(dict(locals()))
    path = writable_checkpoint(out)
    began = None if quantize is None and start is None else _start(model, quantize, start, options, T)
    ann = _teacher(teacher, teacher_weights, method) if method != "none" or init == TEACHER else None
    source = None if init is None else source_of(init, ann, model, quantize=quantize)
    noisy: dict[str, Any] = {"noise": noise, "noise_kind": noise_kind, "noise_on": noise_on}
    images = load_own(data, own_of(began, ann, source), image_size=image_size, **noisy)
    settings |= {"epochs": epochs, "batch_size": batch_size, "lr": lr, "optimizer": optimizer, "schedule": schedule}
    settings |= {"weight_decay": weight_decay, "warmup_epochs": warmup_epochs, "label_smoothing": label_smoothing}
    settings |= {"precision": precision, "alpha": alpha, "temperature": temperature, "val": val, "seed": seed}
    settings |= {"teacher_frames": _seen(ann, images, teacher_frames)}
    options, config = _settled(model, images, method, began, source, options or {}, _steps(images, T), settings)
    config = with_precision(config, path, resume=resume, device=device)
    tell_batches(config, images)
    named, module = named_model(model, seed)
    job = Training(
        f"distill {named}", named, images, config, options, path, module, method=method,
        teacher=torch_module(ann), taps=_pairs(taps), readout=readout or recipe_for(images).readout, neuron=neuron, reset=reset,
        augmentation=augmentation_for(images, augmentation), tensorboard=Path(tensorboard) if tensorboard else None,
        label="student" if method == "none" else "distilled", init=torch_module(source),
        others={"teacher": ann.path.with_suffix(".csv")} if isinstance(ann, TrainedNetwork) and ann.path else {},
    )  # fmt: skip
    job = job if began is None else _on_grid(job, began, quantize, kinds)
    with computing_on(device):
        return _trained(job, progress, twin=twin, resume=resume, overwrite=overwrite)


def _over_seeds(given: dict[str, Any]) -> SeedRuns:
    """`distill` once for every seed, with all else that it was given."""
    seeds, processes, progress = (given.pop(name) for name in ("seeds", "processes", "progress"))
    settings = given.pop("settings")
    if seeds is None:
        raise OptionError("{processes}: they are for {seeds}; give those too", processes=processes, seeds=None)
    return over_seeds(distill, {**given, **settings}, seeds=seeds, processes=processes, progress=progress)


def _trained(job: Training, progress: Progress, *, twin: bool, resume: bool, overwrite: bool) -> TrainedNetwork:
    alone = job.twin(f"{job.model} {ALONE}", None if job.out is None else twin_path(job.out))
    found = train_all([job, alone] if twin else [job], progress, resume=resume, overwrite=overwrite)
    if not twin:
        return found[0]
    student, other = (_counted(job, one) for one in found)
    return replace(student, twin=other)


def twin_path(out: Path) -> Path:
    """Where the twin of a student is written: beside it."""
    return out.with_name(f"{out.stem}.twin{out.suffix}")


USED_BY: Mapping[str, tuple[str, ...]] = {
    "alpha": ("response",), "temperature": ("response", "temporal", "selective"),
}  # fmt: skip
"""Option → the methods that do something with it."""


def _kinds_used(given: Mapping[str, Any]) -> dict[str, str | None]:
    """Of what `distill` was given: readout, neuron and reset, None where they are left to it.

    Raises:
        OptionError: something that nothing would be done with, of a network of the user's own or with this method; a device
            that there is not.
    """
    require_device(given["device"])
    method, usual = given["method"], {"readout": None, "neuron": "if", "reset": "hard"}
    kinds = {option: None if given[option] == value else given[option] for option, value in usual.items()}
    require_architecture(given["model"], options=given["options"], **kinds)
    for option in ("teacher", "teacher_weights"):
        if given[option] is not None and method == "none" and given["init"] != TEACHER:
            raise OptionError(
                f"{{{option}}}: {{method}} learns from labels alone; leave one of them out",
                method=method, **{option: None},
            )  # fmt: skip
    for option, methods in USED_BY.items():
        if given[option] is not None and method in METHODS and method not in methods:
            raise OptionError(
                f"{{{option}}}: only {{method}} {', '.join(methods)} does something with it, not {method}; leave it out",
                method=None, **{option: None},
            )  # fmt: skip
    return kinds


def _teacher(
    teacher: str | Path | TrainedNetwork | nn.Module | None, weights: str | Path | None, method: str
) -> nn.Module | TrainedNetwork:
    """The teacher: a module, or what is known of it beside its module.

    Raises:
        KdsnnError: there is none, it is a spiking student, or it cannot be loaded.
    """
    if method not in METHODS:
        raise OptionError(f"{{method}}: choose from {', '.join(METHODS)}", method=method)
    if teacher is None:
        raise OptionError(
            "{method}: it needs {teacher}, a network that pretrain makes; or use method none",
            method=method,
            teacher=None,
        )
    if isinstance(teacher, str) and is_factory(teacher):
        return module_of(teacher, weights, option="teacher_weights")
    if weights is not None:
        raise OptionError(
            "{teacher_weights}: only a teacher from package.module:factory takes them", teacher_weights=weights
        )
    if not isinstance(teacher, str | Path | TrainedNetwork):
        return teacher
    found = teacher if isinstance(teacher, TrainedNetwork) else load(teacher)
    if found.info.spiking:
        called = found.path or found.info.model
        raise OptionError("{teacher}: this is a spiking network; give the checkpoint of an ANN", teacher=called)
    return found


def _seen(ann: nn.Module | TrainedNetwork | None, data: DataSet, frames: TeacherFrames | None) -> TeacherFrames | None:
    """What of frames over time the teacher is shown: as the user says, or as it was trained.

    Raises:
        KdsnnError: the teacher does not fit the data, or is to see each frame of images.
    """
    if isinstance(ann, TrainedNetwork):
        require_trained_fit(str(ann.path or ann.info.model), ann, data)
        frames = frames or ann.info.frames
    require_frames(data, frames or "mean")
    return frames


def _settled(
    model: str | nn.Module, data: DataSet, method: Method, began: TrainedNetwork | None,
    source: TrainedNetwork | nn.Module | None, options: Mapping[str, Any], T: int | None, settings: Mapping[str, Any],
) -> tuple[Mapping[str, Any], TrainConfig]:  # fmt: skip
    """The architecture's options and the configuration: the recipe's, with what the user set."""
    recipe = recipe_for(data)
    config = recipe.for_method(method)
    if began is not None:
        options, T = dict(began.info.options), began.info.T
        config = configured(config, lr=config.lr / 10, warmup_epochs=0.0)
    elif isinstance(source, TrainedNetwork):
        options = options_from(source, options)
    elif model == recipe.student:
        options = {**recipe.student_options, **options}
    if source is not None:
        config = configured(config, lr=config.lr / 5)  # else the first steps undo much of what they start from
    return options, configured(configured(config, **settings), T=T)


def _steps(data: DataSet, T: int | None) -> int | None:
    """The number of time steps that was asked for, or that the data has.

    Raises:
        OptionError: the two differ.
    """
    if data.T is not None and T not in (None, data.T):
        raise OptionError(
            f"{{T}}: {data.name} has {data.T} frames, one for each step; leave it out, or name data of {T} frames", T=T
        )
    return data.T if T is None else T


def _on_grid(job: Training, began: TrainedNetwork, bits: int | None, kinds: Mapping[str, str | None]) -> Training:
    if job.config.compile:
        raise OptionError(
            "compile=true: thresholds change at every step with {quantize}; leave compile out", quantize=None
        )
    info: Any = began.info
    for option, value in kinds.items():
        own = getattr(info, option) or "hard"  # only a reset may be left unsaid
        if value not in (None, own):
            raise OptionError(
                f"{{{option}}}: {began.path or info.model} has {own}, which stays; leave it out", **{option: value}
            )
    require_trained_fit(str(began.path or info.model), began, job.data)
    start: Any = began.module
    return replace(
        job, quantize=bits, start=start, readout=info.readout, neuron=info.neuron, reset=info.reset or "hard"
    )


def _start(
    model: str | nn.Module, bits: int | None, start: str | Path | TrainedNetwork | None, options: Mapping[str, Any] | None,
    T: int | None,
) -> TrainedNetwork:  # fmt: skip
    """The trained student to go on from.

    Raises:
        KdsnnError: one of the two without the other, an ANN, or a student that the other options contradict.
    """
    from exporters.errors import DeployError
    from exporters.passes.quantize import require_bits

    if bits is None or start is None:
        raise OptionError(
            "{quantize} BITS and {start} STUDENT go together: give both, or neither", quantize=None, start=None
        )
    try:
        require_bits(bits)
    except DeployError as error:
        raise OptionError("{quantize}: weights have 2 to 8 bits", quantize=bits) from error
    found = start if isinstance(start, TrainedNetwork) else load(start)
    info, called = found.info, found.path or found.info.model
    if not info.spiking:
        raise OptionError(
            f"{{start}}: this is an ANN ({info.model}); give a spiking student, which distill writes", start=called
        )
    if info.model != model:
        raise OptionError(f"{{start}}: this is a {info.model}, not a {model}; name the model it is", start=called)
    if options or T not in (None, info.T):
        raise OptionError(
            f"{{start}}: its options and T={info.T} stay as they are; leave {{options}} and {{T}} out",
            start=called, options=None, T=None,
        )  # fmt: skip
    return found


def _pairs(taps: str | Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
    from kdsnn.train.features import parse_taps

    if not taps:
        return ()
    return tuple(parse_taps(taps)) if isinstance(taps, str) else tuple(taps.items())


def _counted(job: Training, trained: TrainedNetwork) -> TrainedNetwork:
    """A student with spikes and SynOps per image of the float network: distillation can raise them."""
    from exporters.from_torch import from_torch
    from hardware import emulator
    from profilers.counting.activity import ActivityCounter

    graph = from_torch(trained.module, job.data.input_shape, job.config.T, encoding=trained.info.encoding)
    counter = ActivityCounter(graph)
    emulator.run(
        graph,
        graph.encode(Pixels(some_tests(job.data, COUNTED)[0], job.data.input_shape, job.data.graded)[:]),
        observe=counter,
    )
    activity = counter.result()
    cost = {"spikes": float(activity.spikes.sum(1).mean()), "synops": float(activity.synops.sum(1).mean())}
    return replace(trained, cost=cost, best=None if trained.best is None else _counted(job, trained.best))
