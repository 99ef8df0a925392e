"""What the documentation says of networks on Lava and of mutations is what the files beside it hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.fuzz import test_arguments

DOCS = Path(__file__).parent.parent / "docs"
PARITY, FUZZ = (json.loads((DOCS / "results" / f"{name}.json").read_text()) for name in ("lava-parity", "fuzz"))
PAGE = (DOCS / "results" / "README.md").read_text(encoding="utf-8")


def test_the_counts_of_networks_on_lava() -> None:
    total = PARITY["total"]
    assert all(total[name] == PARITY["space"][name] + PARITY["time"][name] for name in total)
    assert total["networks"] >= 1000 and total["values that differ"] == 0
    assert (
        f"{total['values compared']:,} values, {total['spikes']:,} spikes in them" in PAGE
    )  # the rest of the page is tied


def test_the_counts_of_mutations() -> None:
    kinds: dict[str, Any] = FUZZ["kinds"]
    for one in kinds.values():
        assert one["mutations"] == one.get("a result", 0) + one.get("refused", 0)
    total = {name: sum(one.get(name, 0) for one in kinds.values()) for name in ("mutations", "a result", "refused")}
    assert total == FUZZ["total"] and total["mutations"] >= 100_000
    assert {f"arguments of {verb}" for verb in test_arguments.EXAMPLES} <= set(kinds)
