"""What `profile` and `demo` share: counting a network's runs, and the pieces of a report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdsnn.cli.console import progress

if TYPE_CHECKING:
    from exporters.graph import Array, SpikingGraph
    from kdsnn.cli.backends import BackendRun, Comparison
    from kdsnn.cli.source import Source
    from profilers import report


def count(
    name: str, network: Source, x: Array, labels: Array, *, twin: bool = False, quiet: bool = False, title: str = ""
) -> report.Student:
    """Run samples x (N, *shape) through the float and the quantised network and count what happens."""
    from profilers import report

    with progress(f"{title}count {name}", quiet=quiet) as show:
        half = len(x)
        float_run = None
        if network.exact is not None:
            float_run = _counted(network.exact, x, labels, lambda done: show(done, 2 * half))
        integer_run = _counted(network.integer, x, labels, lambda done: show(half + done, 2 * half))
    return report.Student(
        name, float_run or integer_run, integer_run if float_run else None, role="twin" if twin else "student"
    )


def _counted(graph: SpikingGraph, x: Array, labels: Array, done: object) -> report.Run:
    from hardware import emulator
    from profilers import report
    from profilers.counts import ActivityCounter

    counter = ActivityCounter(graph)
    result = emulator.run(graph, graph.encode(x), observe=counter, progress=done)  # type: ignore[arg-type]
    return report.summarize(graph, counter.result(), result.accuracy(labels))


def comparison_rows(runs: list[BackendRun], found: list[Comparison], labels: Array) -> list[report.Comparison]:
    """The spike-for-spike table of the report: the spikes of all layers, where a backend shows them."""
    from profilers import report

    by_backend = {c.backend: c for c in found}
    rows = []
    for run in runs:
        c = by_backend.get(run.backend)
        note = ""
        if c is not None and not c.must_agree:
            note = "the effect of quantisation" if c.backend == "emulator" else "folding BatchNorm rounds differently"
        rows.append(
            report.Comparison(
                backend=run.backend,
                samples=run.samples,
                accuracy=run.accuracy(labels),
                mismatching_spikes=None if c is None else (c.mismatches if c.hidden is None else c.hidden),
                compared_spikes=None if c is None else (c.hidden_compared or c.compared),
                must_agree=c is not None and c.must_agree,
                reference="" if c is None else c.reference,
                note=note,
            )
        )
    return rows
