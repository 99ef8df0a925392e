"""Samples run through a graph batch by batch and layer by layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from exporters.errors import DeployError
from exporters.graph import IF, LIF, Array, Input, SpikingGraph
from exporters.graph.nodes import Score
from hardware.emulator.layers import State, arriving, compute, fire_and_pool
from hardware.emulator.neurons import expect
from hardware.emulator.observers import Observer
from hardware.emulator.plan import EmulationPlan
from hardware.emulator.recurrence import run_loop

LARGEST = 2**32
"""Nothing is tried where one layer has more values than this for one sample and all its steps (16 GB of float32)."""


@dataclass(frozen=True, eq=False)
class EmulatorRun:
    """A network answered this.

    Attributes:
        output: (N, T, F) spikes as uint8 for a "rate" read-out; for "membrane" the membrane after
            each step, float64, in the graph's units divided by the Output's scale.
        readout: "rate" or "membrane".
        score: of membranes, the "last" divided by the steps or the "mean".
    """

    output: Array
    readout: str
    score: Score = "last"

    def scores(self, t: int | None = None) -> Array:
        """Each class scores (N, F) after the first `t` steps (all by default): firing rate, or of membranes the last divided by
        `t` or the mean."""
        steps = self.output.shape[1] if t is None else t
        if self.readout == "rate":
            return np.asarray(self.output[:, :steps].mean(axis=1, dtype=np.float64))
        if self.score == "mean":
            return np.asarray(self.output[:, :steps].mean(axis=1))
        return np.asarray(self.output[:, steps - 1] / steps)

    def accuracy(self, labels: Array, t: int | None = None) -> float:
        """This share of samples has its highest score at the label; the first class wins a tie."""
        return float((self.scores(t).argmax(axis=1) == labels).mean())


@dataclass(frozen=True, eq=False)
class Emulation:
    """A graph was planned once, for samples in any number of runs.

    Attributes:
        plan: everything about it that does not depend on the samples.
        batch_size: samples at a time, unless a run says otherwise: about 32 MB for the largest layer; larger batches gain
            nothing and fall out of the caches, in smaller ones threads meet more often, and wait for one another where others
            keep the cores busy.
    """

    plan: EmulationPlan
    batch_size: int

    def run(
        self,
        frames: Array,
        *,
        observe: Observer | None = None,
        progress: Callable[[int], None] | None = None,
        batch_size: int | None = None,
    ) -> EmulatorRun:
        """Samples run as by `hardware.emulator.run`, with its arguments, result and errors."""
        graph = self.plan.graph
        with torch.inference_mode(), exact_arithmetic():
            outputs = [_run_batch(self.plan, batch, observe) for batch in self.batches(frames, progress, batch_size)]
        return EmulatorRun(np.concatenate(outputs), graph.output.readout, graph.output.score)

    def batches(
        self, frames: Array, progress: Callable[[int], None] | None = None, batch_size: int | None = None
    ) -> Iterator[Tensor]:
        """The samples come batch by batch, on the device; arguments and errors as of `run`, `progress` told as a batch is done with."""
        graph = self.plan.graph
        expected = ((graph.T,) if graph.input.over_time else ()) + graph.input.shape
        if frames.shape[1:] != expected or len(frames) == 0:
            raise DeployError(
                f"the emulator needs frames of shape (N, {', '.join(map(str, expected))}), not {frames.shape}"
            )
        size = batch_size or self.batch_size
        expect(len(frames) * graph.T * sum(math.prod(graph.shapes[name]) for name in graph.neurons))
        for start in range(0, len(frames), size):
            yield torch.from_numpy(np.ascontiguousarray(frames[start : start + size])).to(self.plan.device)
            if progress is not None:
                progress(min(start + size, len(frames)))


def prepare(graph: SpikingGraph, *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> Emulation:
    """A graph is planned for many runs; arguments as of `run`.

    Raises:
        DeployError: one sample is too large for any memory.
    """
    largest = max(math.prod(shape) for shape in graph.shapes.values())
    if graph.T * largest > LARGEST:
        raise DeployError(
            f"one sample would take {graph.T * largest:.3g} values in the largest layer; run fewer time steps (T is {graph.T})"
        )
    return Emulation(EmulationPlan(graph, torch.device(device), dtype), max(1, 2**23 // (graph.T * largest)))


def run(
    graph: SpikingGraph,
    frames: Array,
    *,
    observe: Observer | None = None,
    progress: Callable[[int], None] | None = None,
    device: str | torch.device = "cpu",
    batch_size: int | None = None,
    dtype: torch.dtype | None = None,
) -> EmulatorRun:
    """Samples run through a graph.

    Args:
        graph: float or integer.
        frames: what `graph.encode` returns: (N, *shape) for direct coding, (N, T, *shape) for frames and spikes.
        observe: called for every node of every batch.
        progress: called with the number of samples done.
        device: where to compute.
        batch_size: samples at a time; chosen from the largest layer by default.
        dtype: torch.float32 or float64; float32 where that is exact by default.

    Raises:
        DeployError: frames of the wrong shape, or a sample too large for any memory.
    """
    planned = prepare(graph, device=device, dtype=dtype)
    return planned.run(frames, observe=observe, progress=progress, batch_size=batch_size)


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Only kernels that add up products as they stand are allowed, so that sums of integers come out exact.

    NNPACK (Arm) and cuDNN may choose Winograd, whose transforms round; TF32 and bfloat16 modes drop bits.
    """
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.nnpack.flags(enabled=False), torch.backends.cudnn.flags(enabled=False, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def _run_batch(plan: EmulationPlan, batch: Tensor, observe: Observer | None) -> Array:
    graph, made = plan.graph, torch.empty(0)
    for name, values in layer_by_layer(plan, batch, keep=observe is not None):
        if observe is not None:
            observe(name, values)
        if name == graph.output_name:
            made = values.movedim(0, 1)
        del values  # the memory of a deep network is one layer's
    if graph.output.readout == "rate":
        return made.to(torch.uint8).cpu().numpy()
    return made.double().cpu().numpy() / graph.output.scale


def layer_by_layer(plan: EmulationPlan, batch: Tensor, *, keep: bool) -> Iterator[tuple[str, Tensor]]:
    """Every node's values follow, in the graph's order, of a batch that is on the device; who has seen enough asks no further.

    Spikes that nobody reads but the pool behind them are left out, unless they are to be kept.
    """
    graph = plan.graph
    state = State()
    values: dict[str, Tensor] = {}
    waiting = dict(plan.uses)
    for name, node in graph.nodes.items():
        loop = plan.loops.get(name, ())
        if name in values:  # made with another
            pass
        elif loop:
            values |= run_loop(plan, loop, values)
        elif isinstance(node, IF | LIF) and (made := fire_and_pool(plan, name, node, values, graph.T, keep=keep)):
            values |= made
        else:
            # nothing here may keep what arrives: it is freed as soon as it has been read
            x = batch if isinstance(node, Input) else arriving(plan, name, values)
            values[name] = compute(plan, name, node, x, state, graph.T)
            del x
        if name in values:
            yield name, values[name]
        for s in plan.sources[name]:
            if s not in loop:
                waiting[s] -= 1
            if waiting[s] == 0:
                values.pop(s, None)
