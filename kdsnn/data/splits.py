"""Dividing images into training and test where the source does not."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TEST_FRACTION = 0.2


def stratified_mask(labels: NDArray[np.int64], fraction: float, seed: int) -> NDArray[np.bool_]:
    """Mark round(fraction · n) members of every class of size n, drawn with `seed`: a boolean mask (N,)."""
    # RandomState: the one numpy generator whose stream is frozen, so the split survives numpy's next version
    rng = np.random.RandomState(seed)
    mask = np.zeros(len(labels), dtype=np.bool_)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        mask[rng.permutation(members)[: round(fraction * len(members))]] = True
    return mask
