"""Timing side by side: alternate the candidates, take medians, print ratios to the first."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def compare(
    candidates: Mapping[str, Callable[[], object]],
    *,
    repeats: int = 7,
    unit: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Run the candidates in turn `repeats` times after one warm-up; print medians per `unit` and ratios to the first.

    With `clock=time.process_time` it is processor time, which a busy machine does not stretch.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for function in candidates.values():
        function()
    for _ in range(repeats):
        for name, function in candidates.items():
            started = clock()
            function()
            seconds[name].append((clock() - started) / unit)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    first = next(iter(medians.values()))
    for name, value in medians.items():
        spread = f"{1000 * min(seconds[name]):.3g}–{1000 * max(seconds[name]):.3g}"
        print(f"  {name:<32} {1000 * value:9.3f} ms ({spread})   ratio {value / first:8.3f}", flush=True)
    return medians
