"""What was counted has a mean, a spread and a confidence interval over samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.errors import DeployError

RESAMPLES = 2000
SEED = 0
"""Of the bootstrap's draws."""
_DRAWS = 1 << 21  # indices drawn in one go


@dataclass(frozen=True)
class Statistic:
    """A statistic sums up one number per sample.

    Attributes:
        mean, std: over the samples; std is that of these samples (divided by N).
        low, high: 95 % confidence interval of the mean, by percentile bootstrap.
        samples: how many.
    """

    mean: float
    std: float
    low: float
    high: float
    samples: int


def statistic(values: NDArray[Any], *, resamples: int = RESAMPLES, seed: int = SEED) -> Statistic:
    """The values are one number per sample, shape (N,); a second axis, the time steps of a count, is summed up first.

    The interval is the 2.5th to 97.5th percentile of the means of `resamples` draws of N samples with
    replacement (Efron & Tibshirani 1993, chapter 13). The same seed gives the same interval.

    Raises:
        DeployError: no samples.
    """
    per_sample = values.sum(axis=tuple(range(1, values.ndim)))
    return columns(per_sample[:, None], resamples=resamples, seed=seed)[0]


def share_interval(share: float, samples: int) -> tuple[float, float]:
    """Wilson's score interval (1927) is the 95 % confidence interval of a share of samples, 0 to 1, such as accuracy.

    Unlike a bootstrap it has a width where all samples agree, or where there is only one.
    """
    z = 1.959964
    middle = share + z**2 / (2 * samples)
    half = z * math.sqrt(share * (1 - share) / samples + z**2 / (4 * samples**2))
    scale = 1 + z**2 / samples
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def columns(values: NDArray[Any], *, resamples: int = RESAMPLES, seed: int = SEED) -> tuple[Statistic, ...]:
    """Every column of (N, K) values has a statistic of its own; all columns share the draws.

    Raises:
        DeployError: no samples.
    """
    samples = len(values)
    if samples == 0:
        raise DeployError("there are no samples to take a mean of; count at least one")
    numbers = values.astype(np.float64)
    rng = np.random.default_rng(seed)
    rows = max(1, _DRAWS // samples)
    means = []
    for start in range(0, resamples, rows):
        draws = min(rows, resamples - start)
        chosen = rng.integers(samples, size=(draws, samples)) + samples * np.arange(draws)[:, None]
        # how often each sample is in each draw: a product instead of gathering every column
        times = np.bincount(chosen.reshape(-1), minlength=draws * samples).reshape(draws, samples)
        means.append(times @ numbers / samples)
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5], axis=0)
    summary = zip(numbers.mean(axis=0), numbers.std(axis=0), low, high, strict=True)
    return tuple(Statistic(float(m), float(s), float(a), float(b), samples) for m, s, a, b in summary)
