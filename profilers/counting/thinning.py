"""Input of events is thinned at random: fewer of them come in, and an event-driven chip does less.

What a spiking network saves hangs on how many events its sensor sends, and that differs between sensors, scenes and
thresholds. Counting again with fewer tells how much hangs on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

KEPT = (1.0, 0.75, 0.5, 0.25, 0.125)
"""Probabilities with which an event is kept."""

SEED = 0


class _Frames(Protocol):
    def __getitem__(self, part: slice, /) -> NDArray[Any]: ...


@dataclass(frozen=True, eq=False)
class Thinned:
    """Samples of frames of spikes of which each spike is kept with a probability, made where a slice of them is read.

    A sample is thinned in the same way whatever is read with it, and what one probability keeps, a higher one keeps too:
    differences between two of them are those of the events, not of the draw.

    Attributes:
        samples: (N, T, *shape) of 0 and 1, sliced.
        rows: (N,) whole numbers from 0 that tell samples apart; they decide, with `seed`, which spikes are kept.
        kept: the probability, 0 to 1, in whole 256ths.
    """

    samples: _Frames
    rows: NDArray[np.int64]
    kept: float
    seed: int = SEED

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice) -> NDArray[Any]:
        read = self.samples[part]
        kept = np.empty(read.shape, np.bool_)
        for row, places in zip(self.rows[part], kept, strict=True):
            # a byte for each place, of the raw stream, which numpy does not change from version to version
            draws = np.random.PCG64((self.seed, int(row))).random_raw(-(-places.size // 8)).view(np.uint8)
            np.less(draws[: places.size].reshape(places.shape), round(256 * self.kept), out=places)
        found: NDArray[Any] = read * kept
        return found
