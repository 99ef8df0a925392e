"""What docs/results says of paired seeds is what its file holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kdsnn.deploy.seeds import spread_of

RESULTS = Path(__file__).parent.parent / "docs" / "results"
PAIRED: dict[str, dict[str, Any]] = json.loads((RESULTS / "paired-seeds.json").read_text(encoding="utf-8"))


def spread(values: list[float]) -> str:
    found = spread_of(values)
    return f"{found.mean:.2f} ± {found.std:.2f} %"


def row(name: str) -> str:
    """One line of the table of pairs."""
    one = PAIRED[name]
    pairs = zip(one["distilled"], one["without a teacher"], strict=True)
    gain = spread_of([mine - other for mine, other in pairs])
    return (
        f"| {name}, {one['test images']:,} | {one['teacher']:.2f} % | {spread(one['distilled'])} | {spread(one['without a teacher'])} "
        f"| {gain.mean:+.2f} points, {gain.low:+.2f} to {gain.high:+.2f} |"
    )


@pytest.mark.parametrize("name", [name for name, one in PAIRED.items() if "without a teacher" in one])
def test_the_table_of_pairs_is_the_file(name: str) -> None:
    assert row(name) in (RESULTS / "README.md").read_text(encoding="utf-8")


def test_what_raw_rates_gave_is_the_file() -> None:
    old, new = (PAIRED[name]["distilled"] for name in ("rot, raw rates", "rot"))
    text = (RESULTS / "README.md").read_text(encoding="utf-8")
    assert f"had {spread(old)}: **{spread_of(new).mean - spread_of(old).mean:.1f} points less**" in text
