"""docs/energy-models.md: its example is a model, and nothing that a model may count is missing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from profilers.energy.evaluation import energy
from profilers.energy.models import Range, built_in, load
from profilers.energy.operations import Access, Counts
from profilers.energy.priced import COUNTS, PER_SPIKE, SIZED

TEXT = (Path(__file__).parents[2] / "docs" / "energy-models.md").read_text(encoding="utf-8")


def test_the_example_loads_and_prices(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    (example,) = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
    path.write_text(example, encoding="utf-8")
    model = load(path)
    counts = Counts(
        "snn",
        {"macs": Range.exactly(100), "synops": Range.exactly(1000), "neuron_updates": Range.exactly(50)},
        accesses={
            "weight_reads": (Access(1024, Range.exactly(10)),),
            "spike_weight_reads": (Access(2**20, Range.exactly(3)), Access(8192, Range.exactly(1))),
        },
    )
    estimate = energy(model, counts)
    shared = 100 * 0.2 + 50 * 0.04 + 10 * 1.2 + 3 * 9.0 + 1.2
    assert [estimate.low, estimate.nominal, estimate.high] == pytest.approx(
        [(shared + 1000 * synop) * 1e-12 for synop in (0.7, 0.9, 1.4)]
    )


def test_every_model_is_listed_with_its_sources() -> None:
    for name, model in built_in().items():
        (row,) = [line for line in TEXT.splitlines() if line.startswith(f"| `{name}`")]
        assert model.boundary in row and model.basis in row
        for source in model.sources.values():
            assert source.url in row


def test_every_count_is_listed() -> None:
    for name, text in COUNTS.items():
        assert f"| `{name}` | {text} | {'yes' if name in SIZED else ''} |" in TEXT
    assert set(COUNTS) >= SIZED | PER_SPIKE
