"""scikit-learn's handwritten digits: real data that needs no download."""

from __future__ import annotations

import numpy as np

from kdsnn.data.dataset import DataSet
from kdsnn.data.splits import TEST_FRACTION, stratified_mask


def load_digits(seed: int) -> DataSet:
    """The set has 1,797 digits, 8×8, one channel; the gray levels 0…16 become rint(v·255/16).

    The split is stratified: `TEST_FRACTION` of every class, drawn with `seed`, is the test set (359
    images); both parts keep the order of the source.
    """
    import sklearn.datasets

    source = sklearn.datasets.load_digits()
    images = np.rint(source.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = source.target.astype(np.int64)
    test = stratified_mask(labels, TEST_FRACTION, seed)
    return DataSet(
        name="digits",
        x_train=images[~test],
        y_train=labels[~test],
        x_test=images[test],
        y_test=labels[test],
        classes=10,
    )
