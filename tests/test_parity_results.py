"""What the documentation says of networks on Lava and of mutations is what the files beside it hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.fuzz import test_arguments

DOCS = Path(__file__).parent.parent / "docs"
PARITY, FUZZ = (json.loads((DOCS / "results" / f"{name}.json").read_text()) for name in ("lava-parity", "fuzz"))
PAGE = (DOCS / "results" / "README.md").read_text(encoding="utf-8")


def both(*names: str) -> str:
    """A count of the networks of both kinds."""
    return f"{sum(PARITY[kind][name] for kind in ('space', 'time') for name in names):,}"


def test_the_counts_of_networks_on_lava() -> None:
    total = PARITY["total"]
    assert all(total[name] == PARITY["space"][name] + PARITY["time"][name] for name in total)
    assert total["networks"] >= 1000 and total["values that differ"] == 0
    assert (
        f"{total['values compared']:,} values, {total['spikes']:,} spikes in them | 0 | `{PARITY['command']}`" in PAGE
    )
    assert f"{both('convolutions')} convolutions\n({both('convolutions in groups')} in groups" in PAGE
    assert f"{both('dense layers')} dense layers, {both('max-pools')} max- and {both('average pools')} average" in PAGE
    assert (
        f"{both('sums of currents', 'sums of spikes')} sums, {both('IF layers')} IF, {both('LIF layers')} LIF" in PAGE
    )
    time = PARITY["time"]
    said = f"{time['layers with delays']} layers that have delays and {time['recurrent layers']} that are recurrent"
    assert said in (DOCS / "netx.md").read_text(encoding="utf-8")


def test_the_counts_of_mutations() -> None:
    kinds: dict[str, Any] = FUZZ["kinds"]
    for one in kinds.values():
        assert one["mutations"] == one.get("a result", 0) + one.get("refused", 0)
    total = {name: sum(one.get(name, 0) for one in kinds.values()) for name in ("mutations", "a result", "refused")}
    assert total == FUZZ["total"] and total["mutations"] >= 100_000
    assert f"{total['mutations']:,} mutations" in PAGE and f"{total['refused']:,} in one line" in PAGE
    assert {f"arguments of {verb}" for verb in test_arguments.EXAMPLES} <= set(kinds)
