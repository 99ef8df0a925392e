"""The verb `pretrain`: train an ANN teacher."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from kdsnn.deploy.devices import computing_on, require_device
from kdsnn.deploy.factory import has_spiking_neurons, module_of
from kdsnn.deploy.images import require_frames, require_trained_fit
from kdsnn.deploy.initial import options_from, source_of
from kdsnn.deploy.load import load
from kdsnn.deploy.own_data import load_own, own_of
from kdsnn.deploy.places import writable_checkpoint
from kdsnn.deploy.precision import with_precision
from kdsnn.deploy.progress import Progress, silent
from kdsnn.deploy.recipes import augmentation_for, configured, recipe_for, tell_batches
from kdsnn.deploy.starting import train_all
from kdsnn.deploy.trained import TrainedNetwork, torch_module
from kdsnn.deploy.training import Training
from kdsnn.errors import OptionError
from kdsnn.factory import is_factory

if TYPE_CHECKING:
    from torch import nn

    from kdsnn.data import Augmentation, DataSet
    from kdsnn.deploy.images import ImageSize
    from kdsnn.models import Network
    from kdsnn.train import TeacherFrames, TrainConfig
    from kdsnn.train.config import Optimizer, Precision, Schedule

WEIGHT_BITS, MOST_BITS = 8, 8


def pretrain(
    model: str | nn.Module,
    data: Any = None,
    *,
    out: str | Path | None = None,
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
    quantize_activations: int | None = None,
    quantize: int | None = None,
    start: str | Path | TrainedNetwork | None = None,
    init: str | Path | TrainedNetwork | nn.Module | None = None,
    teacher_frames: TeacherFrames | None = None,
    seed: int = 0,
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
) -> TrainedNetwork:
    """Train an ANN teacher with cross entropy.

    Args:
        model: an architecture of `kdsnn-deploy list models`, `package.module:factory`, or any torch module, images
            (N, C, H, W) in 0…1 → logits (N, K), which is trained in place.
        data: whatever `load_data` takes; by default what `start` or `init` was trained on, or else digits.
        out: the checkpoint to write (`.safetensors`), with the history of the epochs as CSV and as a picture (SVG) beside it
            and the state from which a run that was cut off goes on; None writes nothing.
        epochs, batch_size, lr: the recipe's own where they are None.
        optimizer, weight_decay, schedule, warmup_epochs, label_smoothing, precision: as in `kdsnn.train.TrainConfig`.
        device: where torch computes, "cpu", "cuda", "cuda:1", "mps"; None takes a GPU where there is one.
        quantize_activations: train the quantized twin of a student, an ANN with activations of so many bits, 1 to 8:
            ⌈log2(T + 1)⌉ carry as much as T spikes (`kdsnn.models.quantized_activations`).
        quantize: bits of its weights, 2 to 8, as many as the student's; 8 where it is None.
        start: a trained ANN of the same architecture to fine-tune to those bits, a checkpoint or what `pretrain` returned, at a
            tenth of the learning rate and without warm-up unless said otherwise; None starts from random weights.
        init: train this ANN of the same architecture on, given like `start` or as a module, at a fifth of the learning rate.
        teacher_frames: what the ANN sees of frames over time: their "mean", by default, or "each", and its logits are averaged.
        seed: makes the run repeatable.
        options: of the architecture, e.g. {"widths": (8, 16, 32)}.
        augmentation: what happens to the training images in every epoch, see `kdsnn.data.Augmentation`; a mapping of some of
            its fields changes those of the recipe, and None leaves it, which is chosen by the kind of images.
        val: hold out this fraction of the training images of every class; the epoch that does best on them is written beside
            the last one, as NAME.best.safetensors.
        resume: go on with the run of `out` that was stopped, by Ctrl-C or worse.
        overwrite: replace what lies at `out`, or the state of a run that was stopped.
        tensorboard: also write the history for TensorBoard into this folder.
        image_size, noise, noise_kind, noise_on: as in `load_data`. progress: told how far it is, with loss and accuracy as its note.
        **settings: any other field of `kdsnn.train.TrainConfig`, e.g. ema=0.999.

    Raises:
        KdsnnError: an unknown model or setting, data that does not fit, a run that diverges, something at `out` already.
        StoppedError: a KeyboardInterrupt that says where the state is which `resume` goes on from.
    """
    path = writable_checkpoint(out)
    require_device(device)
    began = _start(model, quantize_activations, quantize, start, options, teacher_frames)
    source = None if init is None else source_of(init, None, model, quantize_activations=quantize_activations)
    noisy: dict[str, Any] = {"noise": noise, "noise_kind": noise_kind, "noise_on": noise_on}
    images = load_own(data, own_of(began, source), image_size=image_size, **noisy)
    options, base = _settled(images, began, source, options)
    settings |= {"optimizer": optimizer, "weight_decay": weight_decay, "schedule": schedule, "precision": precision}
    settings |= {"warmup_epochs": warmup_epochs, "label_smoothing": label_smoothing, "teacher_frames": teacher_frames}
    base = configured(base, **settings)
    require_frames(images, base.teacher_frames)
    config = configured(base, epochs=epochs, batch_size=batch_size, lr=lr, val=val, seed=seed)
    config = with_precision(config, path, resume=resume, device=device)
    tell_batches(config, images)
    named, module = _named_ann(model, seed)
    job = Training(
        f"pretrain {named}", named, images, config, options, path, module,
        augmentation=augmentation_for(images, augmentation), label="teacher",
        tensorboard=None if tensorboard is None else Path(tensorboard),
        activation_bits=quantize_activations,
        quantize=None if quantize_activations is None else quantize or WEIGHT_BITS,
        start=None if began is None else cast("Network", began.module),
        init=torch_module(source),
    )  # fmt: skip
    with computing_on(device):
        return train_all([job], progress, resume=resume, overwrite=overwrite)[0]


def _start(
    model: str | nn.Module, activation_bits: int | None, bits: int | None, start: str | Path | TrainedNetwork | None,
    options: Mapping[str, Any] | None, frames: TeacherFrames | None,
) -> TrainedNetwork | None:  # fmt: skip
    """The trained ANN that is to be fine-tuned to few bits, if one is.

    Raises:
        OptionError: bits that are not possible or say too little, or a network that cannot be started from.
    """
    require_architecture(model, options=options)
    for option, value, least in (("quantize_activations", activation_bits, 1), ("quantize", bits, 2)):
        if value is not None and not least <= value <= MOST_BITS:
            raise OptionError(f"{{{option}}}: it must be {least} to {MOST_BITS} bits", **{option: value})
    if activation_bits is None and (bits, start) != (None, None):
        raise OptionError(
            "{quantize} and {start}: they are for {quantize_activations}, the bits of an ANN's activations; give that too",
            quantize=bits, start=None, quantize_activations=None,
        )  # fmt: skip
    if activation_bits is not None and frames == "each":
        raise OptionError(
            "{teacher_frames}: an ANN of few bits sees the mean of the frames; leave it out", teacher_frames=frames
        )
    if start is None:
        return None
    found = load(start) if isinstance(start, str | Path) else start
    info, called = found.info, found.path or found.info.model
    if info.spiking or info.quantized is not None:
        kind = "a spiking network" if info.spiking else "quantized already"
        raise OptionError(f"{{start}}: this is {kind}; give an ANN that was trained with floats", start=called)
    if info.model != model:
        raise OptionError(f"{{start}}: this is a {info.model}, not a {model}; name the model it is", start=called)
    if options:
        raise OptionError(
            "{start}: its options stay as they are; leave {options} out", start=called, options=None
        )  # fmt: skip
    return found


def _settled(
    images: DataSet, began: TrainedNetwork | None, source: TrainedNetwork | nn.Module | None, options: Mapping[str, Any] | None
) -> tuple[Mapping[str, Any], TrainConfig]:  # fmt: skip
    """The architecture's options and the recipe, gentler on weights that were trained before."""
    base = recipe_for(images).pretrain
    if began is not None:
        require_trained_fit(str(began.path or began.info.model), began, images)
        return began.info.options, configured(base, lr=base.lr / 10, warmup_epochs=0.0)
    if source is not None:
        return options_from(source, options), configured(base, lr=base.lr / 5)
    return options or {}, base


def _named_ann(model: str | nn.Module, seed: int) -> tuple[str, nn.Module | None]:
    name, module = named_model(model, seed)
    if module is not None and has_spiking_neurons(module):
        raise OptionError(
            f"{name}: it has spiking neurons, and no ANN has; distill with {{method}} trains it", method="none"
        )
    return name, module


def require_architecture(model: str | nn.Module, **given: Any) -> None:
    """Refuse what only an architecture can be told, each None or empty where nothing was.

    Raises:
        OptionError: the model is a network of the user's own.
    """
    if isinstance(model, str) and not is_factory(model):
        return
    called = model if isinstance(model, str) else type(model).__name__
    for option, value in given.items():
        if value:
            raise OptionError(
                f"{{{option}}}: {called} is a network of your own, and only architectures of `list models` are told this; "
                "leave it out",
                **{option: value if isinstance(value, str) else None},
            )


def named_model(model: str | nn.Module, seed: int) -> tuple[str, nn.Module | None]:
    """What a model is called, and the module of the user's own that it is, if it is one; what a factory makes has initial
    weights drawn with `seed`."""
    import torch

    from kdsnn.checkpoint import model_text

    if not isinstance(model, str):
        return model_text(model), model
    if not is_factory(model):
        return model, None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model, module_of(model, trained=False)
