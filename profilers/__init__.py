"""This package counts parameters, FLOPs, SynOps and energies and reports them; `profile` does all of it in one call.

With a `SpikingGraph`, samples x (N, *shape) and their labels:

    from hardware import emulator
    from profilers import profile

    report = profile(graph, x, labels, run=emulator.run)

The result is made of frozen dataclasses. It prints as the table that `kdsnn-deploy profile` ends with, gives it as a pandas
frame, and writes itself (`report.write(folder)`):

    print(report)
    frame = report.to_frame()
    run = report.students[0].deployed
    print(run.accuracy, run.spikes.mean, run.synops.mean)
    for model in report.energies:
        estimate = model.students[0].estimate
        print(model.title, estimate.low, estimate.high)

Below that stand `counting` (exact integers per sample and step, every way to count, intervals, and what ANNs do),
`energy` (counts × constants) and `report` (tables, page and files).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from profilers.profiling import profile

__all__ = ["profile"]


def __getattr__(name: str) -> Any:
    # on demand: who only reads an energy model should not wait for torch
    if name == "profile":
        from profilers.profiling import profile

        return profile
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
