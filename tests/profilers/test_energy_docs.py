"""docs/energy-models.md: its example is a model, and nothing that a model may count is missing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from exporters.errors import DeployError
from profilers.energy.count_names import COUNTS, PER_SPIKE, SIZED
from profilers.energy.evaluation import energy
from profilers.energy.models import Range, built_in, load
from profilers.energy.operations import Access, Counts

TEXT = (Path(__file__).parents[2] / "docs" / "energy-models.md").read_text(encoding="utf-8")
(EXAMPLE,) = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)


def test_the_example_loads_and_prices(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(EXAMPLE, encoding="utf-8")
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
    sections = TEXT.split("\n### ")
    for name, model in built_in().items():
        (section,) = [part for part in sections if f"\n| `{name}` |" in part]
        assert (
            TEXT.count(model.boundary) == section.count(model.boundary) == 1
        )  # said once, for all models that share it
        assert model.basis in section.lower()
        for source in model.sources.values():
            assert source.url in section


def test_every_count_is_listed() -> None:
    for name, text in COUNTS.items():
        assert f"| `{name}` | {text} | {'yes' if name in SIZED else ''} |" in TEXT
    assert set(COUNTS) >= SIZED | PER_SPIKE


def places(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        yield (*path, key)
        yield from places(inner, (*path, key))


def dotted(path: tuple[str | int, ...]) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")


MISTAKES: tuple[object, ...] = (
    *(None, True, 1, -1, 10**400, float("nan"), "", "x", [], ["a"], [[2, 3]], [[1, 2], [1, 2]], {}, {"a": 1}),
)


def assert_mistakes_are_placed(
    example: str, path: tuple[str | int, ...], read: Callable[[Path], object], folder: Path
) -> None:
    """A field of the example, replaced by every mistake: the file is read, or the message says which field."""
    refused = 0
    for mistake in MISTAKES:
        data = json.loads(example)
        place = data
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = mistake
        (folder / "mine.json").write_text(json.dumps(data), encoding="utf-8")
        try:
            read(folder / "mine.json")
        except DeployError as error:
            refused += 1
            # a conflict of two fields names both, or the constant and its kind of value
            named = (dotted(path), f"{dotted(path[:-1])}: ", f"but {path[1]} depends on" if len(path) > 1 else "")
            assert any(name in str(error) for name in named if name), (mistake, str(error))
    assert refused >= 8


@pytest.mark.parametrize("path", list(places(json.loads(EXAMPLE))), ids=dotted)
def test_a_mistake_anywhere_names_its_place(path: tuple[str | int, ...], tmp_path: Path) -> None:
    assert_mistakes_are_placed(EXAMPLE, path, load, tmp_path)
