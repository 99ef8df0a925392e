"""Runs of several back ends compared spike for spike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from exporters.graph import Array, SpikingGraph
from kdsnn.deploy.backends import BACKENDS, FLOAT_BACKENDS, BackendRun
from kdsnn.deploy.proof import Proof, prove
from kdsnn.deploy.sanafe import joined_costs


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
        must_agree: whether a difference is an error (within a family) or the effect of quantization.
        proof: of two runs of the float network, that each layer of both is the graph's on that run's own spikes; then what
            differs elsewhere follows from ties and is no error. None where every spike must be equal, or none.
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
    proof: Proof | None = None

    @property
    def ok(self) -> bool:
        """True unless backends disagree that must not."""
        if self.proof is not None:
            return self.proof.ok
        return not (self.must_agree and (self.mismatches or self.hidden))


def compare(
    run: BackendRun,
    reference: BackendRun,
    *,
    start: int = 0,
    proof: Proof | None = None,
    names: Mapping[str, str] = MappingProxyType({}),
) -> BackendComparison:
    """Compare two runs on the samples that both have; `start` is the number of the first, `proof` that of the float networks,
    `names` what neuron layers are called where not by their own node (`exporters.graph.layer_names`)."""
    n = min(run.samples, reference.samples)
    a, b = run.output[:n], reference.output[:n]
    if a.shape[1] != b.shape[1] and "spikingjelly" in (
        run.backend,
        reference.backend,
    ):  # a module may return a mean alone
        a, b = run.scores[:n, None], reference.scores[:n, None]
    elif a.shape[1] != b.shape[1]:  # Lava shows a membrane once per sample, at its end
        a, b = a[:, -1:], b[:, -1:]
    shared = [name for name in reference.layers if name in run.layers]
    layers = tuple(
        _compare_layer(names.get(name, name), run.layers[name][:n], reference.layers[name][:n], start)
        for name in shared
    )
    output = _compare_layer("output", a, b, start)
    first = _first(f"{x.name}, {x.first}" for x in (*layers, output) if x.first)
    hidden = sum(x.mismatches for x in layers)
    backend = BACKENDS.get(run.backend)
    judged = backend is not None and backend.reference == reference.backend and backend.must_agree
    return BackendComparison(
        run.backend, reference.backend, n, output.mismatches, output.compared, hidden if shared else None,
        sum(x.compared for x in layers), judged or proof is not None, first, layers, proof,
    )  # fmt: skip


def comparisons(
    runs: Sequence[BackendRun],
    *,
    start: int = 0,
    proofs: Mapping[str, Proof] | None = None,
    names: Mapping[str, str] = MappingProxyType({}),
) -> list[BackendComparison]:
    """Every run against its reference backend, where that was run too; `start` and `names` as in `compare`, `proofs` by back
    end."""
    by_name = {r.backend: r for r in runs}
    pairs = ((r, by_name.get(BACKENDS[r.backend].reference)) for r in runs if r.backend in BACKENDS)
    return [
        compare(r, ref, start=start, proof=_both(proofs or {}, r.backend, ref.backend), names=names)
        for r, ref in pairs
        if ref is not None
    ]


def _both(proofs: Mapping[str, Proof], run: str, reference: str) -> Proof | None:
    """What proves that two runs are the same network: each is the graph."""
    if run not in proofs or reference not in proofs:
        return None
    a, b = proofs[reference], proofs[run]
    return Proof(min(a.samples, b.samples), (*a.layers, *b.layers))


def proofs_of(runs: Sequence[BackendRun], graph: SpikingGraph, x: Array) -> dict[str, Proof]:
    """What proves that the runs of the float graph x were given to are that graph, each layer on the run's own spikes.

    Args:
        runs: whose first samples x are; those of other families are left out.
        graph: in floating point.
        x: (N, *shape), or (N, T, *shape) where the input is over time.
    """
    found = {}
    for run in runs:
        if run.backend in FLOAT_BACKENDS and run.layers:
            layers = {name: spikes[: len(x)] for name, spikes in run.layers.items()}
            found[run.backend] = prove(graph, x, layers, run.steps(graph)[: len(x)], roundoff=2.0**-24)
    return found


def joined(parts: Sequence[BackendRun]) -> BackendRun:
    """Runs of one backend on samples that follow one another, as one run; their layers are let go."""
    output, scores = (np.concatenate([getattr(p, name) for p in parts]) for name in ("output", "scores"))
    costs = joined_costs([p.costs for p in parts])
    return BackendRun(parts[0].backend, output, scores, {}, sum(p.seconds for p in parts), costs)


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
    return replace(  # the first part's proof is that of all: it is made on a few samples
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
