"""Data sets by name: `load("digits")`, `load("npz:FILE")`.

numpy only, and scikit-learn only when `digits` is asked for, so that the command line starts fast.
"""

from __future__ import annotations

from pathlib import Path

from kdsnn.data.dataset import DataSet
from kdsnn.data.digits import load_digits
from kdsnn.data.npz import load_npz
from kdsnn.errors import KdsnnError

__all__ = ["SPLIT_SEED", "DataSet", "load"]

SPLIT_SEED = 0
"""Seed of the train/test split where the source has none. It is not the training seed: runs with
different training seeds are measured on the same test images."""


def load(spec: str, *, seed: int = SPLIT_SEED) -> DataSet:
    """Load the data set that `spec` names.

    * `digits`: scikit-learn's 1,797 handwritten digits, 8×8, one channel; 20 % of every class is the
      test set, drawn with `seed`.
    * `npz:FILE`: arrays `x_train, y_train, x_test, y_test`, see `kdsnn.data.npz`; `seed` is not used.

    Raises KdsnnError when the name is unknown or the file cannot be used.
    """
    kind, _, rest = spec.partition(":")
    if spec == "digits":
        return load_digits(seed)
    if kind == "npz" and rest:
        return load_npz(Path(rest))
    raise KdsnnError(f"Unknown data set '{spec}': use digits or npz:FILE.")
