"""docs/timing.md: its example is a model, every model and every count stands in it, and a mistake in a file names its place."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from profilers.energy.operations import Counts
from profilers.energy.time_models import PER_CORE, PER_STEP, RECEIVING, built_in, load
from profilers.energy.timing import TimedLayer, TimedNetwork, estimate
from tests.profilers.test_energy_docs import assert_mistakes_are_placed, dotted, places

TEXT = (Path(__file__).parents[2] / "docs" / "timing.md").read_text(encoding="utf-8")
(EXAMPLE,) = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)


def test_the_example_loads_and_times(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(EXAMPLE, encoding="utf-8")
    model = load(tmp_path / "mine.json")
    counts = {name: np.full((1, 2, 1), 10) for name in PER_CORE if "update" not in name}
    layer = TimedLayer("n", 0, np.array([100]), counts)
    found = estimate(model, TimedNetwork("loihi1", 1, 2, (layer,), 1), Counts("snn", {}))
    # steps 1 and 2 receive, steps 2 and 3 update with spikes; the neurons' 300 ns are in all
    assert found.steps == 3
    by_hand = [3 * (300 + 200), 3 * (300 + 200), 3 * (300 + 200) + 2 * 40]
    assert [found.latency.low, found.latency.nominal, found.latency.high] == pytest.approx(
        [1e-9 * ns for ns in by_hand]
    )
    assert (found.core, found.layer, found.unit) == (0, "n", "neurons")


def test_every_model_is_listed_with_its_sources() -> None:
    for name, model in built_in().items():
        (row,) = [line for line in TEXT.splitlines() if line.startswith(f"| `{name}`")]
        assert model.boundary in row and model.basis in row and model.title in row
        for source in model.sources.values():
            assert source.url in row


def test_every_count_is_listed() -> None:
    for name, text in {**PER_CORE, **PER_STEP}.items():
        assert f"| `{name}` | {text} |" in TEXT
    assert set(PER_CORE) >= RECEIVING


@pytest.mark.parametrize("path", list(places(json.loads(EXAMPLE))), ids=dotted)
def test_a_mistake_anywhere_names_its_place(path: tuple[str | int, ...], tmp_path: Path) -> None:
    assert_mistakes_are_placed(EXAMPLE, path, load, tmp_path)
