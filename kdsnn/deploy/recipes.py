"""The configuration of a training: the recipe that suits the data, with what the user set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from kdsnn.errors import KdsnnError, did_you_mean, notice

if TYPE_CHECKING:
    from kdsnn.data import Augmentation, DataSet
    from kdsnn.train import Recipe, TrainConfig


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


def tell_batches(config: TrainConfig, data: DataSet) -> None:
    """Say where a batch is larger than the training set: then an epoch is one step."""
    from kdsnn.data.splits import held_out

    images = len(held_out(data.y_train, config.val)[0])
    if config.batch_size > images:
        notice(
            f"a batch of {config.batch_size} is more than the {images} training images: every epoch is one step on all of them"
        )


def configured(base: TrainConfig, **changes: Any) -> TrainConfig:
    """The recipe's configuration with what the user set, None for what was left alone.

    Raises:
        KdsnnError: no such setting, or a value that is not possible.
    """
    known = [f.name for f in fields(base)]
    for name in changes:
        if name not in known:
            near = did_you_mean(name, known)
            raise KdsnnError(f"there is no setting {name!r}; {f'{near}? ' if near else ''}There are {', '.join(known)}")
    return replace(base, **{name: value for name, value in changes.items() if value is not None})
