"""What `run` prints: its back ends, and how they compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdsnn.deploy.backends import BackendRun
from kdsnn.deploy.comparisons import BackendComparison
from profilers.text_table import TextTable, table

if TYPE_CHECKING:
    from exporters.graph import Array


@dataclass(frozen=True)
class RefusedBackend:
    """A back end that cannot run the network, and why."""

    backend: str
    reason: str


def run_table(
    title: str, runs: Sequence[BackendRun], labels: Array | None, refused: Sequence[RefusedBackend] = ()
) -> TextTable:
    """Samples, accuracy and time of every back end; of those that cannot run the network, why."""
    from profilers.report.numbers import percent

    rows = [
        [
            r.backend, str(r.samples), "–" if labels is None else percent(r.accuracy(labels), 2),
            f"{1000 * r.seconds / r.samples:.2f} ms",
        ]
        for r in runs
    ]  # fmt: skip
    columns = ["backend", "samples", "accuracy", "per sample"]
    title += "; times are means over these samples, first use left out"
    if not refused:
        return table(title, columns, rows)
    left = [
        [r.backend, "–", "–", "–", f"not run: {r.reason} (leave out {r.backend} to run the rest alone)"]
        for r in refused
    ]
    return table(title, [*columns, "why not"], [*([*row, ""] for row in rows), *left])


def layer_table(found: Sequence[BackendComparison]) -> TextTable:
    """Layers × mismatching spikes, one column for every pair of back ends, and where the first mismatch is."""
    names = list(dict.fromkeys(layer.name for c in found for layer in c.layers))
    rows = []
    for name in names:
        cells = []
        for c in found:
            layer = next((x for x in c.layers if x.name == name), None)
            cells.append("–" if layer is None else f"{layer.mismatches} of {layer.compared}")
        first = next((x.first for c in found if c.must_agree for x in c.layers if x.name == name and x.first), "")
        rows.append([name, *cells, first])
    return table("layer by layer", ["layer", *(f"{c.backend} / {c.reference}" for c in found), "first mismatch"], rows)


def comparison_table(found: Sequence[BackendComparison]) -> TextTable:
    """The spike-for-spike comparisons."""
    rows = [
        [
            f"{c.backend} / {c.reference}",
            str(c.samples),
            f"{c.mismatches} of {c.compared}",
            "–" if c.hidden is None else f"{c.hidden} of {c.hidden_compared}",
            _agreement(c),
            c.first,
        ]
        for c in found
    ]
    columns = ["compared", "samples", "outputs that differ", "all layers", "must agree, does", "first difference"]
    return table("spike for spike", columns, rows)


def _agreement(c: BackendComparison) -> str:
    """Whether two back ends must agree, and do: on every spike, or layer by layer but for ties."""
    if c.proof is None:
        return "" if not c.must_agree else ("yes" if c.ok else "NO")
    if not c.proof.ok:
        return f"NO: {c.proof.first}"
    return f"layer by layer, {c.proof.ties} {'tie' if c.proof.ties == 1 else 'ties'} of {c.proof.compared}"
