"""A recurrent network on real Lava, beside the emulator and SpikingJelly; the spikes of the first two must be the same."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks._measure import Measured, alternate, compare, relative, rounds
from benchmarks._networks_in_time import events, inference_in_time, spoken_digits
from benchmarks._process import BenchmarkError
from exporters import netx
from exporters.passes.chain import to_chain
from exporters.passes.quantize import quantize
from hardware import emulator
from hardware.lava import client, environment

BATCH, LAVA_SAMPLES, RATE = 32, 2, 0.03


def rows(quick: bool) -> Iterator[Measured]:
    environment.setup(print)
    net, exact = spoken_digits()
    graph, _ = quantize(exact)
    chain, frames = to_chain(graph), events(BATCH, graph, RATE)
    few = frames[: 1 if quick else LAVA_SAMPLES]
    expected = emulator.run(graph, few).output
    with tempfile.TemporaryDirectory() as folder:
        path = netx.write(chain, Path(folder) / "net.net")

        def on_lava() -> float:
            run = client.run(path, few.astype(np.int32), T=graph.T, message_bits=netx.message_bits(chain))
            if not np.array_equal(run.spikes, expected):
                raise BenchmarkError(f"{int((run.spikes != expected).sum())} spikes on Lava are not the emulator's")
            return run.seconds / run.steps * graph.T

        sides = {
            "emulator": lambda: per_sample(lambda: emulator.run(graph, frames)),
            "SpikingJelly, float": lambda: per_sample(inference_in_time(net, frames)),
            "Lava": on_lava,
        }
        group = (
            f"recurrent network {graph.input.shape}, T = {graph.T}, per sample: batch {BATCH}, "
            f"Lava's {len(few)} one behind the other, its start-up not counted"
        )
        yield from relative(group, alternate(sides, rounds=rounds(quick, 3), warm_up=False))


def per_sample(function: Callable[[], object]) -> float:
    (row,) = compare("", {"": function}, rounds=1, per=BATCH)
    return row.median
