from __future__ import annotations

import numpy as np
import pytest

from exporters.errors import DeployError
from profilers.counting import statistics
from profilers.counting.statistics import columns, statistic


def test_interval_equals_a_bootstrap_written_out() -> None:
    values = np.random.default_rng(1).poisson(30, 37)
    rng, means = np.random.default_rng(5), []
    for _ in range(300):
        draw = [values[int(rng.integers(37))] for _ in range(37)]
        means.append(sum(draw) / 37)
    found = statistic(values, resamples=300, seed=5)
    assert [found.low, found.high] == pytest.approx(np.percentile(means, [2.5, 97.5]))
    assert found.mean == pytest.approx(values.mean())
    assert found.std == pytest.approx(values.std())
    assert found.samples == 37


def test_interval_is_that_of_theory_for_many_samples() -> None:
    values = np.random.default_rng(0).normal(100, 10, 2000)
    found = statistic(values)
    half = 1.96 * values.std() / np.sqrt(2000)
    assert [found.mean - found.low, found.high - found.mean] == pytest.approx([half, half], rel=0.08)


def test_the_interval_covers_the_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(300):
        found = statistic(rng.normal(5, 2, 60), resamples=400)
        hits += found.low <= 5 <= found.high
    assert 0.90 <= hits / 300 <= 0.985


def test_the_same_seed_gives_the_same_interval_however_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(2).integers(0, 1000, (23, 3))
    whole = columns(values, seed=9)
    monkeypatch.setattr(statistics, "_DRAWS", 100)
    for one, other in zip(whole, columns(values, seed=9), strict=True):
        assert [other.low, other.high] == pytest.approx([one.low, one.high], rel=1e-12)
    assert columns(values, seed=10) != whole
    assert columns(values)[1] == statistic(values[:, 1])  # one column or many: the same draws


def test_one_sample_has_no_spread() -> None:
    found = statistic(np.array([7]))
    assert (found.mean, found.std, found.low, found.high, found.samples) == (7, 0, 7, 7, 1)


def test_no_samples() -> None:
    with pytest.raises(DeployError, match="no samples"):
        statistic(np.zeros((0, 4)))
