"""Runs of several back ends compared spike for spike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from exporters.graph import Array
from kdsnn.deploy.backends import BACKENDS, BackendRun


@dataclass(frozen=True)
class LayerComparison:
    """One neuron layer (or the output): spikes that differ, of how many, and where the first one is."""

    name: str
    mismatches: int
    compared: int
    first: str


@dataclass(frozen=True)
class BackendComparison:
    """Two backends on the samples both have run.

    Attributes:
        mismatches: spikes that differ at the output.
        hidden: spikes that differ in all neuron layers together (None where a backend shows only its output).
        compared: output values compared; `hidden_compared`: spikes compared in all layers.
        must_agree: whether a mismatch is an error (within a family) or the effect of quantization.
        first: where the first mismatch is, "layer, sample, step", or "".
        layers: the same, layer by layer in the network's order.
    """

    backend: str
    reference: str
    samples: int
    mismatches: int
    compared: int
    hidden: int | None
    hidden_compared: int
    must_agree: bool
    first: str
    layers: tuple[LayerComparison, ...]

    @property
    def ok(self) -> bool:
        """True unless backends disagree that must not."""
        return not (self.must_agree and (self.mismatches or self.hidden))


def compare(run: BackendRun, reference: BackendRun, *, start: int = 0) -> BackendComparison:
    """Compare two runs on the samples that both have; `start` is the number of the first."""
    n = min(run.samples, reference.samples)
    a, b = run.output[:n], reference.output[:n]
    if a.shape[1] != b.shape[1]:  # Lava shows a membrane once per sample, at its end
        a, b = a[:, -1:], b[:, -1:]
    shared = [name for name in reference.layers if name in run.layers]
    layers = tuple(_compare_layer(name, run.layers[name][:n], reference.layers[name][:n], start) for name in shared)
    output = _compare_layer("output", a, b, start)
    first = _first(f"{x.name}, {x.first}" for x in (*layers, output) if x.first)
    hidden = sum(x.mismatches for x in layers)
    backend = BACKENDS.get(run.backend)
    must_agree = backend is not None and backend.reference == reference.backend and backend.must_agree
    return BackendComparison(
        run.backend, reference.backend, n, output.mismatches, output.compared, hidden if shared else None,
        sum(x.compared for x in layers), must_agree, first, layers,
    )  # fmt: skip


def comparisons(runs: Sequence[BackendRun], *, start: int = 0) -> list[BackendComparison]:
    """Every run against its reference backend, where that was run too; `start` as in `compare`."""
    by_name = {r.backend: r for r in runs}
    pairs = ((r, by_name.get(BACKENDS[r.backend].reference)) for r in runs if r.backend in BACKENDS)
    return [compare(r, reference, start=start) for r, reference in pairs if reference is not None]


def joined(parts: Sequence[BackendRun]) -> BackendRun:
    """Runs of one backend on samples that follow one another, as one run; their layers are let go."""
    output, scores = (np.concatenate([getattr(p, name) for p in parts]) for name in ("output", "scores"))
    return BackendRun(parts[0].backend, output, scores, {}, sum(p.seconds for p in parts))


def joined_comparisons(parts: Sequence[BackendComparison]) -> BackendComparison:
    """Comparisons of the same two backends on samples that follow one another, as one."""
    by_layer = zip(*(p.layers for p in parts), strict=True)
    layers = tuple(
        LayerComparison(
            same[0].name, sum(x.mismatches for x in same), sum(x.compared for x in same), _first(x.first for x in same)
        )
        for same in by_layer
    )
    hidden = None if parts[0].hidden is None else sum(p.hidden or 0 for p in parts)
    return replace(
        parts[0], samples=sum(p.samples for p in parts), mismatches=sum(p.mismatches for p in parts),
        compared=sum(p.compared for p in parts), hidden=hidden, hidden_compared=sum(p.hidden_compared for p in parts),
        first=_first(p.first for p in parts), layers=layers,
    )  # fmt: skip


def _first(texts: Iterable[str]) -> str:
    return next((text for text in texts if text), "")


def _compare_layer(name: str, a: Array, b: Array, start: int) -> LayerComparison:
    # spikes and integers must be equal; a membrane in floating point equal but for its last bits
    different = np.argwhere(a != b if a.dtype == np.uint8 else ~np.isclose(a, b, rtol=1e-5, atol=1e-6))
    first = ""
    if len(different):
        sample, step, *where = different[0].tolist()
        first = f"sample {start + sample}, step {step + 1}, neuron {tuple(where)}"
    return LayerComparison(name, len(different), a.size, first)
