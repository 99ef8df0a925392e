"""Counting: parameters, FLOPs, SynOps, energy models, reports. `profile` does all of it in one call.

With a `SpikingGraph`, samples x (N, *shape) and their labels:

    from hardware import emulator
    from profilers import profile

    report = profile(graph, x, labels, run=emulator.run)

The result is made of frozen dataclasses:

    run = report.students[0].deployed
    print(run.accuracy, run.spikes.mean, run.synops.mean)
    for model in report.energies:
        estimate = model.students[0].estimate
        print(model.title, estimate.low, estimate.high)

Below that: `counts` (exact integers per sample and step), `conventions` (every way to count), `statistics`
(intervals), `operations` and `energy` (counts × constants), `flops` and `zero_skipping` (ANNs).
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
