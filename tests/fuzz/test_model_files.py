"""JSON files that a user may write: energy models, step-time models and chips, changed at random and used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

import kdsnn
from exporters.passes.chain import to_chain
from hardware.chips import limits
from kdsnn.deploy.lowered import Lowered
from profilers.energy import evaluation, models, time_models, timing
from profilers.energy.count_names import COUNTS, SIZED
from profilers.energy.models import Range
from profilers.energy.operations import Access, Counts
from tests.fuzz.harness import for_seeds, tried
from tests.fuzz.mutation import TEXTS, changed_json
from tests.networks import random_dense_time

COUNTED = Range(1.0, 2.0, 4.0)
ENERGY, TIME, CHIPS = (
    [json.loads(path.read_text()) for path in sorted(Path(home).glob("*.json"))]
    for home in (models._DATA, time_models._DATA, limits._DATA)
)


def prices(path: Path) -> None:
    """Energies are numbers: low, nominal and high in order."""
    model = models.load(path)
    sized = {name: (Access(100, COUNTED),) for name in SIZED}
    for kind in ("ann", "snn"):
        if isinstance(getattr(model, kind), str):
            continue
        estimate = evaluation.energy(model, Counts(kind, dict.fromkeys(COUNTS, COUNTED), 0.1, sized))  # type: ignore[arg-type]
        assert 0 <= estimate.low <= estimate.nominal <= estimate.high < np.inf


def times(path: Path) -> None:
    """Seconds of cores are numbers, and in order."""
    model = time_models.load(path)
    found = timing.core_seconds(model, {name: np.ones((2, 3)) for name in time_models.PER_CORE})
    assert (found["low"] <= found["nominal"]).all() and (found["nominal"] <= found["high"]).all()


def places(network: Lowered) -> Callable[[Path], None]:
    def use(path: Path) -> None:
        found = kdsnn.check(network, str(path))
        assert str(found) and json.dumps(found.to_dict())

    return use


@pytest.fixture(scope="module")
def network() -> Lowered:
    return kdsnn.lower(to_chain(random_dense_time(0)))


def mutated(files: list[Any], rng: Random) -> bytes:
    text = json.dumps(changed_json(rng.choice(files), rng)).encode()
    if rng.random() < 0.15:
        at = rng.randrange(len(text))
        text = (
            text[:at]
            + rng.choice((b"", b"}", b"\xff", b'"', b"9" * 5000, *(t.encode() for t in TEXTS)))
            + text[at + 1 :]
        )
    return text


@pytest.mark.parametrize("kind", ["energy models", "step-time models", "chips"])
def test_a_changed_model_is_refused_or_used(kind: str, network: Lowered, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    files, use = {
        "energy models": (ENERGY, prices),
        "step-time models": (TIME, times),
        "chips": (CHIPS, places(network)),
    }[kind]

    def holds(rng: Random) -> None:
        path.write_bytes(mutated(files, rng))
        said = tried(kind, lambda: use(path))
        assert not said or "mine.json" in said or kind == "chips", said

    for_seeds(60, holds)
