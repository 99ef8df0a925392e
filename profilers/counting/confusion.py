"""What a classifier decides is counted against the labels, class by class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from exporters.graph import Array


@dataclass(frozen=True)
class Mistake:
    """So many samples of the class `label` were taken for the class `decision`."""

    label: int
    decision: int
    samples: int


@dataclass(frozen=True)
class Confusion:
    """Samples of every class were taken for what they are, or for something else.

    Attributes:
        samples: of each class.
        mistakes: by label, then by decision; pairs that never came up are left out, so that it stays small for many classes.
        names: of the classes in the order of the labels, or empty.
    """

    samples: tuple[int, ...]
    mistakes: tuple[Mistake, ...]
    names: tuple[str, ...] = ()

    @property
    def classes(self) -> int:
        """There are so many classes."""
        return len(self.samples)

    @property
    def right(self) -> tuple[int, ...]:
        """Of each class so many samples were recognized."""
        found = list(self.samples)
        for mistake in self.mistakes:
            found[mistake.label] -= mistake.samples
        return tuple(found)

    @property
    def decided(self) -> tuple[int, ...]:
        """So many samples were taken for each class."""
        found = list(self.right)
        for mistake in self.mistakes:
            found[mistake.decision] += mistake.samples
        return tuple(found)

    @property
    def recall(self) -> tuple[float | None, ...]:
        """This share of a class was recognized, which is its accuracy; None without samples."""
        return tuple(r / n if n else None for r, n in zip(self.right, self.samples, strict=True))

    @property
    def precision(self) -> tuple[float | None, ...]:
        """This share of what was taken for a class is of it; None where nothing was."""
        return tuple(r / n if n else None for r, n in zip(self.right, self.decided, strict=True))

    @property
    def matrix(self) -> Array:
        """The confusion matrix, int64 (K, K), has a row for each label and a column for each decision."""
        found = np.diag(np.array(self.right, np.int64))
        for mistake in self.mistakes:
            found[mistake.label, mistake.decision] = mistake.samples
        return found

    def name(self, label: int) -> str:
        """A class is called by its name, or by its number."""
        return self.names[label] if self.names else str(label)

    def taken_for(self, label: int) -> Mistake | None:
        """A class is most often mistaken for this one; None where it never is."""
        own = [mistake for mistake in self.mistakes if mistake.label == label]
        return max(own, key=lambda mistake: mistake.samples, default=None)


def confusion(labels: Array, decisions: Array, classes: int, names: Sequence[str] = ()) -> Confusion:
    """Count decisions (N,) against labels (N,), both 0…classes − 1; `names` of another number of classes are left out."""
    pairs, numbers = np.unique(labels.astype(np.int64) * classes + decisions, return_counts=True)
    found = [(int(pair) // classes, int(pair) % classes, int(n)) for pair, n in zip(pairs, numbers, strict=True)]
    return Confusion(
        tuple(np.bincount(labels, minlength=classes).tolist()),
        tuple(Mistake(label, decision, n) for label, decision, n in found if label != decision),
        tuple(names) if len(names) == classes else (),
    )
