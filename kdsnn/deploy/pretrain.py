"""The verb `pretrain`: train an ANN teacher."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdsnn.deploy.factory import module_of
from kdsnn.deploy.images import load_data
from kdsnn.deploy.precision import with_precision
from kdsnn.deploy.progress import Progress, silent
from kdsnn.deploy.training import Training, augmentation_for, configured, recipe_for, train_and_save, writable
from kdsnn.factory import is_factory

if TYPE_CHECKING:
    from torch import nn

    from kdsnn.data import Augmentation
    from kdsnn.deploy.images import ImageSize
    from kdsnn.deploy.trained import TrainedNetwork


def pretrain(
    model: str | nn.Module,
    data: Any = "digits",
    *,
    out: str | Path | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    augmentation: Augmentation | Mapping[str, Any] | None = None,
    resume: bool = False,
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
        data: whatever `load_data` takes.
        out: the checkpoint to write (`.safetensors`), with the history of the epochs as CSV and as a picture (SVG) beside it
            and the state from which a run that was cut off goes on; None writes nothing.
        epochs, batch_size, lr: the recipe's own where they are None.
        seed: makes the run repeatable.
        options: of the architecture, e.g. {"widths": (8, 16, 32)}.
        augmentation: what happens to the training images in every epoch, see `kdsnn.data.Augmentation`; a mapping of some of
            its fields changes those of the recipe, and None leaves it, which is chosen by the kind of images.
        resume: go on with the run of `out` that was cut off.
        tensorboard: also write the history for TensorBoard into this folder.
        image_size, noise, noise_kind, noise_on: as in `load_data`.
        progress: told how far it is, with loss and accuracy of the last epoch as its note.
        **settings: any other field of `kdsnn.train.TrainConfig`, e.g. ema=0.999.

    Raises:
        KdsnnError: an unknown model or setting, data that does not fit, a run that diverges; one line each.
    """
    path = writable(out)
    images = load_data(data, image_size=image_size, noise=noise, noise_kind=noise_kind, noise_on=noise_on)
    base = configured(recipe_for(images).pretrain, **settings)
    config = configured(base, epochs=epochs, batch_size=batch_size, lr=lr, seed=seed)
    config = with_precision(config, path, resume=resume)
    named, module = named_model(model)
    job = Training(
        f"pretrain {named}", named, images, config, options or {}, path, module,
        augmentation=augmentation_for(images, augmentation), resume=resume, label="teacher",
        tensorboard=None if tensorboard is None else Path(tensorboard),
    )  # fmt: skip
    return train_and_save(job, progress)


def named_model(model: str | nn.Module) -> tuple[str, nn.Module | None]:
    """What a model is called, and the module of the user's own that it is, if it is one."""
    from kdsnn.checkpoint import model_text

    if not isinstance(model, str):
        return model_text(model), model
    return model, module_of(model, trained=False) if is_factory(model) else None
