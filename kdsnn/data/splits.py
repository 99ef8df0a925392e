"""Which images are for training and which for the test: by the names that a source gives its parts, or drawn here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdsnn.errors import KdsnnError

TRAINING = ("train", "training")
TEST = ("test", "testing")
VALIDATION = ("validation", "valid", "val")
"""What parts of data sets are called, in small or capital letters."""

TEST_FRACTION = 0.2

VALIDATION_SEED = 1
"""Draws the images held out for validation: the same in runs of any seed, so that they compare."""


def stratified_mask(labels: NDArray[np.int64], fraction: float, seed: int) -> NDArray[np.bool_]:
    """Mark round(fraction · n) members of every class of size n, drawn with `seed`: a boolean mask (N,)."""
    # RandomState: the one numpy generator whose stream is frozen, so the split survives numpy's next version
    rng = np.random.RandomState(seed)
    mask = np.zeros(len(labels), dtype=np.bool_)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        mask[rng.permutation(members)[: round(fraction * len(members))]] = True
    return mask


def held_out(labels: NDArray[np.int64], fraction: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divide training images, of these labels (N,), into those to train on and those held out for validation: two arrays
    of indices, ascending. Of every class its share is held out; of `fraction` 0 nothing is.

    Raises KdsnnError when nothing could be held out, or a class would have nothing left to train on.
    """
    mask = stratified_mask(labels, fraction, VALIDATION_SEED)
    if fraction and not mask.any():
        raise KdsnnError(f"val is {fraction:g}: that is no image of any class; hold out more, or none.")
    if len(np.unique(labels[~mask])) < len(np.unique(labels)):
        raise KdsnnError(f"val is {fraction:g}: that leaves a class without images to train on; hold out fewer.")
    return np.flatnonzero(~mask), np.flatnonzero(mask)


@dataclass(frozen=True)
class Parts:
    """The parts that a source divides its images into, by the names it gives them; None is a part that it has not.

    `others` are named like parts too, and not used: a validation set beside a test set.
    """

    training: str | None
    test: str | None
    others: tuple[str, ...] = ()

    @property
    def note(self) -> str:
        """A sentence that says what was taken for what; empty where the names leave no doubt."""
        if (self.training, self.test, self.others) == ("train", "test", ()) or None in (self.training, self.test):
            return ""
        unused = f"; {', '.join(self.others)} is not used" if self.others else ""
        return f"{self.training} is taken for the training images, {self.test} for the test images{unused}."


def parts_of(called: str, names: Iterable[str]) -> Parts:
    """Tell the training and the test part among the names of a source's parts; the validation part is the test set
    where there is no other.

    Raises KdsnnError when two names could be the same part.
    """
    listed = list(names)
    found = {}
    for role, known in (("training", TRAINING), ("test", TEST), ("validation", VALIDATION)):
        matching = [name for name in listed if name.lower() in known]
        if len(matching) > 1:
            raise KdsnnError(f"{called} has {' and '.join(sorted(matching))}: leave one of them as its {role} images.")
        found[role] = matching[0] if matching else None
    test = found["test"] or found["validation"]
    unused = () if found["validation"] in (None, test) else (str(found["validation"]),)
    return Parts(found["training"], test, unused)
