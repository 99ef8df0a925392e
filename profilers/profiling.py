"""Networks and samples become a report: `profile` does it in one call, `count` counts one network of several.

What runs a network is passed in (`hardware.emulator.run`, or anything of its signature).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch

from exporters.errors import DeployError
from exporters.graph import Array, SpikingGraph
from profilers import report
from profilers.counting.activity import Activity, ActivityCounter, Ints
from profilers.counting.confusion import Confusion, confusion
from profilers.counting.neurobench import MixedInputs
from profilers.counting.sizes import samples_within
from profilers.energy.models import EnergyModel
from profilers.report.data import NetworkRun, Student, Teacher
from profilers.report.result import Report

_RECORDED = 1 << 27  # bytes of float spikes kept to compare the quantized ones with

Observer = Callable[[str, torch.Tensor], None]


class Outcome(Protocol):
    """A run gives this back."""

    def accuracy(self, labels: Array, t: int | None = None) -> float:
        """This share of samples is right after the first `t` steps, all by default."""
        ...

    def scores(self) -> Array:
        """Each class scores (N, F) after all steps."""
        ...


class Samples(Protocol):
    """Samples (N, *input shape) come as an array has them, or are made where a slice of them is read."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> Array: ...


class Group(Protocol):
    """Processes that share the samples: each counts a part of them, and all know the whole in the end."""

    def part(self, samples: int) -> slice:
        """The samples of this process; those of all follow one another."""
        ...

    def gather(self, value: Any, /) -> list[Any]:
        """The value of every process, in their order."""
        ...


class NetworkRunner(Protocol):
    """A runner runs frames (N, …) of `graph.encode`, and shows the observer every node of every batch in order."""

    def __call__(
        self,
        graph: SpikingGraph,
        frames: Array,
        *,
        observe: Observer | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Outcome:
        """Observer and progress are those of `hardware.emulator.run`."""
        ...


def profile(
    graph: SpikingGraph,
    x: Array,
    labels: Array | None = None,
    *,
    run: NetworkRunner,
    quantized: SpikingGraph | None = None,
    teacher: Teacher | None = None,
    models: Mapping[str, EnergyModel] | None = None,
    name: str = "student",
) -> Report:
    """One network is run, and its counts, energies and accuracy become a report.

    Args:
        graph: a float graph (best made by `exporters.passes.exact.make_exact`) or an integer one.
        x: samples (N, *input shape), real-valued pixels in 0 to 1 (`graph.encode` says more).
        labels: (N,) class numbers; without them there is no accuracy.
        run: `hardware.emulator.run`, or what has its signature.
        quantized: the same network in integers, counted as well and compared spike for spike.
        teacher: the ANN to set beside it (`profilers.counting.flops.count_module`).
        models: energy models by name; by default those of the package.
        name: of the network in the report.

    Raises:
        DeployError: samples that do not fit the graph, or two graphs that do not fit each other.
    """
    student = count(name, graph, x, labels, run=run, quantized=quantized)
    return report.build(name, "", [student], teacher=teacher, models=models, data=f"{len(x):,} samples")


def count(
    name: str,
    graph: SpikingGraph,
    x: Samples,
    labels: Array | None = None,
    *,
    run: NetworkRunner,
    quantized: SpikingGraph | None = None,
    class_names: Sequence[str] = (),
    role: Literal["student", "twin"] = "student",
    group: Group | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Student:
    """Samples run through a network, float and quantized, and what happens is counted; arguments as in `profile`.

    `class_names` are those of the labels, where they have names. Where a `group` of processes calls this with the same
    arguments, each runs its part, and the counts of all are the same as those of one. `progress` is called with (samples done,
    of how many), over both runs.

    Raises:
        DeployError: samples that do not fit the graph, or two graphs that do not fit each other.
    """
    if quantized is not None and (graph.T, graph.input.shape) != (quantized.T, quantized.input.shape):
        raise DeployError(
            f"{name}: the float network takes {graph.input.shape} for T = {graph.T} steps, the quantized one "
            f"{quantized.input.shape} for T = {quantized.T}; quantize this very network"
        )
    graphs = [graph] if quantized is None else [graph, quantized]
    counters, mixed = [ActivityCounter(g) for g in graphs], [MixedInputs(g) for g in graphs]
    chunks = _chunks(_part(x, group), graph)
    drift = None if quantized is None else _Drift(graph, quantized, max((size for _, size in chunks), default=0))
    keep, compare = (None, None) if drift is None else (drift.keep, drift.compare)
    observers = [_all_of(*one) for one in zip(counters, mixed, (keep, compare), strict=False)]
    answers = _answered(graphs, x, labels, observers, chunks, run=run, progress=progress)
    if group is not None:
        joined: list[ActivityCounter | MixedInputs | _Drift] = [*counters, *mixed, *([] if drift is None else [drift])]
        for one in joined:
            one.join(group.gather)
        answers = _joined(group.gather(answers))
    accuracies = [one.accuracies(len(x)) for one in answers]
    found = [
        None if labels is None else _confusion(g, labels, one.decided, class_names)
        for g, one in zip(graphs, answers, strict=True)
    ]
    runs = _runs(graphs, counters, mixed, accuracies, None if drift is None else drift.per_sample(len(x)), found)
    return Student(name, runs[0], runs[1] if quantized is not None else None, role)


@dataclass(frozen=True, eq=False)
class _Answers:
    """One network answered this: `right`, (T,) samples that are right after each step; `decided`, the class of each sample; both
    nothing where there are no labels."""

    right: Ints
    decided: Ints

    def accuracies(self, samples: int) -> list[float]:
        """The share of so many samples that is right after each step."""
        return (self.right / samples).tolist() if len(self.decided) else []


def _part(x: Samples, group: Group | None) -> slice:
    return slice(0, len(x)) if group is None else group.part(len(x))


def _answered(
    graphs: Sequence[SpikingGraph],
    x: Samples,
    labels: Array | None,
    observers: Sequence[Observer],
    chunks: Sequence[tuple[int, int]],
    *,
    run: NetworkRunner,
    progress: Callable[[int, int], None] | None,
) -> list[_Answers]:
    """The samples of some chunks run through all graphs, each with its observer, chunk by chunk, and what each answers."""
    right = np.zeros((len(graphs), graphs[0].T), np.int64)
    decided: list[list[Ints]] = [[np.zeros(0, np.int64)] for _ in graphs]
    done, total = 0, len(graphs) * sum(size for _, size in chunks)
    for start, size in chunks:
        part = slice(start, start + size)
        for index, (graph, observe) in enumerate(zip(graphs, observers, strict=True)):

            def show(now: int, before: int = done) -> None:
                if progress is not None:
                    progress(before + now, total)

            outcome = run(graph, graph.encode(x[part]), observe=observe, progress=show)
            done += size
            if labels is not None:
                right[index] += [round(size * outcome.accuracy(labels[part], t)) for t in range(1, graph.T + 1)]
                decided[index].append(outcome.scores().argmax(axis=1))
    return [_Answers(row, np.concatenate(parts)) for row, parts in zip(right, decided, strict=True)]


def _joined(everyone: Sequence[Sequence[_Answers]]) -> list[_Answers]:
    """What every graph answered to the samples of all processes, in their order."""
    return [
        _Answers(np.sum([one.right for one in same], axis=0), np.concatenate([one.decided for one in same]))
        for same in zip(*everyone, strict=True)
    ]


def _all_of(*observers: Observer | None) -> Observer:
    told = [one for one in observers if one is not None]

    def observe(node: str, values: torch.Tensor) -> None:
        for one in told:
            one(node, values)

    return observe


def activity(
    graph: SpikingGraph,
    x: Samples,
    labels: Array,
    *,
    run: NetworkRunner,
    group: Group | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Activity, tuple[float, ...]]:
    """Samples run through one network once: what it does, and its accuracy after the first 1, 2, … T steps; as `count`.

    Raises:
        DeployError: samples that do not fit the graph.
    """
    counter, chunks = ActivityCounter(graph), _chunks(_part(x, group), graph)
    answers = _answered([graph], x, labels, [counter], chunks, run=run, progress=progress)
    if group is not None:
        counter.join(group.gather)
        answers = _joined(group.gather(answers))
    return counter.result(), tuple(answers[0].accuracies(len(x)))


def _runs(
    graphs: Sequence[SpikingGraph],
    counters: Sequence[ActivityCounter],
    mixed: Sequence[MixedInputs],
    accuracies: Sequence[Sequence[float]],
    differing: Mapping[str, float] | None,
    confusions: Sequence[Confusion | None],
) -> list[NetworkRun]:
    drifts = [None, differing]
    return [
        report.summarize(g, counter.result(), accuracy, drift, inputs.result(), classes)
        for g, counter, inputs, accuracy, drift, classes in zip(
            graphs, counters, mixed, accuracies, drifts, confusions, strict=False
        )
    ]


def _confusion(graph: SpikingGraph, labels: Array, decided: Ints, names: Sequence[str]) -> Confusion:
    classes = max(graph.shapes[graph.output_name][0], int(labels.max()) + 1)
    return confusion(labels, decided, classes, names)


def _chunks(samples: slice, graph: SpikingGraph) -> list[tuple[int, int]]:
    """Chunks (first, how many) are such that one and its spikes fit into memory."""
    size = samples_within(_RECORDED, graph)
    return [(start, min(size, samples.stop - start)) for start in range(samples.start, samples.stop, size)]


class _Drift:
    """The drift is the spikes of the quantized run that differ from the float run's, in layers that both have.

    `samples` is the most that are compared at once: the float run keeps them all before the quantized one begins. Their spikes are kept in room that is taken once: pieces of it
    that come and go between the runs' own would scatter these over gigabytes.
    """

    def __init__(self, graph: SpikingGraph, quantized: SpikingGraph, samples: int) -> None:
        shared = [n for n in graph.neurons if n in quantized.neurons and graph.shapes[n] == quantized.shapes[n]]
        self._shapes = {name: (graph.T, samples, *graph.shapes[name]) for name in shared}
        self._spikes: dict[str, torch.Tensor] = {}
        self._kept = dict.fromkeys(shared, 0)
        self._compared = dict.fromkeys(shared, 0)
        self._differing = dict.fromkeys(shared, 0)

    def keep(self, name: str, values: torch.Tensor) -> None:
        if name not in self._kept:
            return
        if name not in self._spikes:
            self._spikes[name] = torch.empty(self._shapes[name], dtype=torch.bool, device=values.device)
        if self._compared[name]:  # the samples that follow are new ones
            self._kept[name] = self._compared[name] = 0
        first = self._kept[name]
        self._kept[name] += values.shape[1]
        torch.ne(values, 0, out=self._spikes[name][:, first : self._kept[name]])

    def compare(self, name: str, values: torch.Tensor) -> None:
        if name not in self._kept:
            return
        first = self._compared[name]  # the two runs may batch differently
        self._compared[name] += values.shape[1]
        kept = self._spikes[name][:, first : self._compared[name]]
        for before, now in zip(kept, values, strict=True):
            self._differing[name] += int(torch.count_nonzero(before != (now != 0)))

    def join(self, gather: Callable[[Any], list[Any]]) -> None:
        everyone = gather(self._differing)
        self._differing = {name: sum(one[name] for one in everyone) for name in self._differing}

    def per_sample(self, samples: int) -> dict[str, float]:
        return {name: differing / samples for name, differing in self._differing.items()}
