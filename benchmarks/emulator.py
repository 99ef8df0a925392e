"""The emulator against SpikingJelly's float inference of the same student, its own multiplications alone, and Lava."""

from __future__ import annotations

import functools
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks._measure import Measured, alternate, compare, relative, rounds
from benchmarks._networks import CIFAR, MNIST, T, in_a_long_run, inference, pictures, settled
from benchmarks._networks_in_time import event_cnn, events, inference_in_time, spoken_digits
from exporters import netx
from exporters.from_torch import from_torch
from exporters.graph import Array, SpikingGraph, Synapse
from exporters.passes.chain import to_chain
from exporters.passes.quantize import quantize
from hardware import emulator
from hardware.emulator.layers import arriving, synaptic_current
from hardware.emulator.plan import EmulationPlan
from hardware.lava import client, environment

NETWORKS = [("cnn2", MNIST, 64), ("wrn16-2", CIFAR, 32), ("vgg11", CIFAR, 32), ("resnet18", CIFAR, 16)]
LAVA_SAMPLES = 4  # a second each on stock Lava


def rows(quick: bool) -> Iterator[Measured]:
    if not quick:
        in_a_long_run()
    for name, shape, batch in NETWORKS[:1] if quick else NETWORKS:
        net, x = settled(name, shape), pictures(batch, shape)
        graph, _ = quantize(from_torch(net, shape, T))
        frames = graph.encode(x)
        measured = compare(
            f"{name} {shape}, T = {T}, batch {batch}, per sample",
            {
                "SpikingJelly, float": inference(net, x),
                "emulator, integer": functools.partial(emulator.run, graph, frames),
                "its synapse layers alone": synapses_alone(graph, frames),
                "the same layers in float32": synapses_alone(graph, frames, in_bytes=False),
            },
            rounds=rounds(quick, 7),
            per=batch,
        )
        yield from with_floor(list(measured))
    yield from in_time(quick)
    yield from against_lava(quick)


def with_floor(measured: Sequence[Measured]) -> Iterator[Measured]:
    """A note says how many times as long as its synapse layers, which are the floor, the whole emulator takes."""
    found = {row.name: row for row in measured}
    whole = statistics.median(found["emulator, integer"].ratios(found["its synapse layers alone"]))
    found["emulator, integer"] = replace(found["emulator, integer"], note=f"{whole:.2f} × its synapse layers alone")
    yield from found.values()


def in_time(quick: bool) -> Iterator[Measured]:
    """Events over time: a convolutional network, and a recurrent one, whose loop runs step by step on either side."""
    made = [("SHD-sized recurrent network", spoken_digits, 32, 0.03)]
    made += [] if quick else [("event CNN", event_cnn, 8, 0.05)]
    for name, make, batch, rate in made:
        net, exact = make()
        graph, _ = quantize(exact)
        frames = events(batch, graph, rate)
        yield from compare(
            f"{name} {graph.input.shape}, T = {graph.T}, batch {batch}, per sample",
            {
                "SpikingJelly, float": inference_in_time(net, frames),
                "emulator, integer": functools.partial(emulator.run, graph, frames),
                "emulator, float": functools.partial(emulator.run, exact, frames),
            },
            rounds=rounds(quick, 7),
            per=batch,
            processor=True,
        )


def synapses_alone(graph: SpikingGraph, frames: Array, *, in_bytes: bool = True) -> Callable[[], None]:
    """The convolutions and dense layers of a run on what arrived at them in it, as often as it computes them: the floor."""
    plan = EmulationPlan(graph, torch.device("cpu"), None)
    if not in_bytes:
        plan.products.clear()
    held: dict[str, Tensor] = {}
    work: list[tuple[str, Synapse, Tensor]] = []

    def observe(name: str, values: Tensor) -> None:
        if name in graph.synapses:
            x = arriving(plan, name, held)
            work.append((name, graph.synapses[name], x if in_bytes else x.to(plan.dtype)))
        held[name] = values

    emulator.run(graph, frames, observe=observe)

    def multiply() -> None:
        with torch.inference_mode(), emulator.exact_arithmetic():
            for name, synapse, x in work:
                synaptic_current(plan, name, synapse, x)

    return multiply


def against_lava(quick: bool) -> Iterator[Measured]:
    """Lava computes every layer at every step, so a sample is T steps' worth of a run's time, start-up not counted."""
    environment.setup(print)
    options: dict[str, Any] = {"channels": (8, 8), "hidden": 32} if quick else {}
    graph, _ = quantize(from_torch(settled("cnn2", MNIST, **options), MNIST, T))
    frames = graph.encode(pictures(64, MNIST))
    group = f"cnn2 {MNIST}, T = {T}, per sample: the emulator's batch of 64, Lava's {LAVA_SAMPLES} pipelined"
    with tempfile.TemporaryDirectory() as folder:
        path = netx.write(to_chain(graph), Path(folder) / "net.net")
        sides = {
            "emulator": lambda: emulating(graph, frames),
            "Lava, with the fast convolution": lambda: on_lava(path, frames, fast=True),
            "Lava, stock": lambda: on_lava(path, frames, fast=False),
        }
        yield from relative(group, alternate(sides, rounds=rounds(quick, 3), warm_up=False))


def emulating(graph: SpikingGraph, frames: Array) -> float:
    emulator.run(graph, frames)
    (row,) = compare("", {"": lambda: emulator.run(graph, frames)}, rounds=1, per=len(frames))
    return row.median


def on_lava(path: Path, frames: Array, *, fast: bool) -> float:
    repeated = np.repeat(frames[:LAVA_SAMPLES, None].astype(np.int32), T, axis=1)
    run = client.run(path, repeated, T=T, message_bits=8, fast_conv=fast)
    return run.seconds / run.steps * T
