"""`profilers.profile` and `count`: totals, accuracy over time and drift against counts made by hand."""

from __future__ import annotations

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import profilers_example as example
import pytest

from exporters.errors import DeployError
from hardware import emulator
from kdsnn.deploy.processes import Ranks
from profilers import profiling, report
from profilers.energy import models as energy_models
from profilers.energy import operations

SAMPLES = 23


@pytest.fixture(scope="module")
def samples() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    return rng.random((SAMPLES, 1, 8, 8)), rng.integers(0, 10, SAMPLES)


@pytest.fixture(scope="module")
def student(samples: tuple[np.ndarray, np.ndarray]) -> report.Student:
    x, labels = samples
    return profiling.count(
        "s", example.network(), x, labels, run=emulator.run, quantized=example.network(integer=True)
    )  # fmt: skip


def test_drift_is_every_spike_that_differs(samples: tuple[np.ndarray, np.ndarray], student: report.Student) -> None:
    recorded = []
    for graph in (example.network(), example.network(integer=True)):
        recorder = emulator.Recorder(graph)
        emulator.run(graph, graph.encode(samples[0]), observe=recorder)
        recorded.append(recorder.spikes)
    found = {layer.name: layer.differing for layer in student.deployed.layers if layer.neurons is not None}
    expected = {
        name.removesuffix(".neuron"): float((a != recorded[1][name]).sum()) / SAMPLES for name, a in recorded[0].items()
    }
    assert found == pytest.approx(expected)
    assert sum(expected.values()) > 0
    assert all(layer.differing is None for layer in student.float_run.layers)


def test_accuracy_after_every_step(samples: tuple[np.ndarray, np.ndarray], student: report.Student) -> None:
    x, labels = samples
    for graph, run in ((example.network(), student.float_run), (example.network(integer=True), student.deployed)):
        result = emulator.run(graph, graph.encode(x))
        by_hand = [float((result.output[:, :t].sum(axis=1).argmax(axis=1) == labels).mean()) for t in range(1, 5)]
        assert run.accuracy_by_step == pytest.approx(by_hand)
        assert run.accuracy == run.accuracy_by_step[-1]
    assert len(set(student.deployed.accuracy_by_step)) > 1


def test_chunks_and_batches_change_nothing(
    samples: tuple[np.ndarray, np.ndarray], student: report.Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    neurons = 1024 + 512 + 64 + 10
    monkeypatch.setattr(profiling, "_RECORDED", 5 * (4 * neurons + 8 * 64))  # five samples at a time
    x, labels = samples

    class Sliced:
        """What makes its samples where a slice of them is read."""

        def __len__(self) -> int:
            return len(x)

        def __getitem__(self, part: slice) -> np.ndarray:
            assert len(x[part]) <= 5
            return x[part]

    seen: list[tuple[int, int]] = []

    def run(graph, frames, *, observe=None, progress=None):  # type: ignore[no-untyped-def]
        assert len(frames) <= 5
        size = 3 if graph.is_integer else 2
        return emulator.run(graph, frames, observe=observe, progress=progress, batch_size=size)

    again = profiling.count(
        "s", example.network(), Sliced(), labels, run=run, quantized=example.network(integer=True),
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert again == student
    assert seen == sorted(seen) and seen[-1] == (2 * SAMPLES, 2 * SAMPLES)


@dataclasses.dataclass(frozen=True)
class OneOf:
    """A thread in place of a process: number `rank` of so many, which meet where something is gathered."""

    rank: int
    values: list[Any]
    meet: threading.Barrier

    def part(self, samples: int) -> slice:
        return Ranks(self.rank, len(self.values)).part(samples)

    def gather(self, value: Any, /) -> list[Any]:
        self.values[self.rank] = value
        self.meet.wait(60)
        found = list(self.values)
        self.meet.wait(60)
        return found


@pytest.mark.parametrize("processes", [2, 3, SAMPLES + 2])
def test_several_processes_count_what_one_counts(
    processes: int, samples: tuple[np.ndarray, np.ndarray], student: report.Student
) -> None:
    x, labels = samples
    values, meet = [None] * processes, threading.Barrier(processes)
    ran = []

    def run(graph, frames, **how):  # type: ignore[no-untyped-def]
        ran.append(len(frames))
        return emulator.run(graph, frames, **how)

    def one(rank: int) -> report.Student:
        return profiling.count(
            "s", example.network(), x, labels, run=run, quantized=example.network(integer=True),
            group=OneOf(rank, values, meet),
        )  # fmt: skip

    with ThreadPoolExecutor(processes) as pool:
        assert all(found == student for found in pool.map(one, range(processes)))
    assert sum(ran) == 2 * SAMPLES and max(ran) <= -(-SAMPLES // processes)


def test_layers_share_out_the_energy(student: report.Student) -> None:
    """Every model's layers add up to its total: nothing is counted twice or lost."""
    made = report.build("t", "", [student])
    assert len(made.energies) >= 10
    for model in made.energies:
        of_student = model.students[0]
        assert of_student.estimate is not None
        assert sum(of_student.layers.values()) == pytest.approx(of_student.estimate.nominal)
        assert min(of_student.layers.values()) >= 0


def test_profile_is_count_and_build(samples: tuple[np.ndarray, np.ndarray]) -> None:
    x, _ = samples
    model = energy_models.built_in()["horowitz-45nm-int8"]
    made = profiling.profile(example.network(integer=True), x, run=emulator.run, models={"m": model}, name="alone")
    (alone,) = made.students
    assert alone.name == "alone" and alone.quantized_run is None and made.command == ""
    assert alone.float_run.arithmetic == "integer" and alone.float_run.accuracy is None
    assert alone.float_run.accuracy_by_step == ()
    (energies,) = made.energies
    estimate = energies.students[0].estimate
    assert estimate is not None
    run = alone.float_run
    assert estimate.nominal == pytest.approx(0.23e-12 * run.macs_repeated + 0.03e-12 * run.synops.mean)
    assert report.Report.from_json(made.to_json()) == made


def test_networks_that_do_not_belong_together_are_refused(samples: tuple[np.ndarray, np.ndarray]) -> None:
    x, labels = samples
    other = dataclasses.replace(example.network(integer=True), T=3)
    with pytest.raises(DeployError, match=r"T = 4 .* T = 3; quantize this very network"):
        profiling.count("s", example.network(), x, labels, run=emulator.run, quantized=other)
    with pytest.raises(DeployError, match="3 accuracies for T = 4 steps"):
        report.summarize(
            example.network(), _activity(example.network(), x), (0.1, 0.2, 0.3)
        )  # fmt: skip


def _activity(graph, x):  # type: ignore[no-untyped-def]
    from profilers.counting.activity import ActivityCounter

    counter = ActivityCounter(graph)
    emulator.run(graph, graph.encode(x), observe=counter)
    return counter.result()


def test_a_run_of_its_own_shape_as_an_ann(student: report.Student) -> None:
    """The ANN of the student's shape, and its twin with quantized ReLUs, by hand: 4 spikes carry 5 levels, 3 bits."""
    run = student.deployed
    conv1, rest = 9 * 16 * 64, 9 * 16 * 32 * 16 + 128 * 64 + 640
    assert run.dense_counts.values["macs"].nominal == conv1 + rest == run.dense_macs
    assert run.twin_counts.values["macs"].nominal == conv1
    assert run.twin_counts.values["synops"].high == operations.twin_bits(4) * rest == 3 * rest
