"""A small network, a teacher and a report made of them, with every part a report can have."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import cast

import numpy as np
import profilers_brute as brute
import torch
from torch import nn

from exporters.graph import (
    IF,
    AvgPool2d,
    Conv2d,
    Encoding,
    Flatten,
    Input,
    Linear,
    MaxPool2d,
    Output,
    SpikingGraph,
    chain,
)
from hardware import emulator
from profilers import profiling, report
from profilers.counting.activity import ActivityCounter
from profilers.counting.confusion import confusion
from profilers.counting.flops import count_module
from profilers.counting.thinning import KEPT, Thinned
from profilers.counting.zero_skipping import active_macs
from profilers.energy import models, operations, time_models
from profilers.energy.models import Range
from profilers.report.sweep import SweepPoint, SweepReference, cost_axes, equal_accuracy
from profilers.report.sweep_result import Sweep

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def network(seed: int = 0, integer: bool = False) -> SpikingGraph:
    rng = np.random.default_rng(seed)

    def weight(*shape: int) -> np.ndarray:
        w = rng.normal(0, 1.6 / np.sqrt(np.prod(shape[1:])), shape)
        return np.rint(64 * w).clip(-127, 127).astype(np.int32) if integer else w.astype(np.float32)

    def neuron() -> IF:
        return IF(64 * 255 if integer else 1.0, scale=64 * 255 if integer else 1.0)

    first = neuron()
    rest = IF(64.0, scale=64.0) if integer else IF(1.0)
    return chain(
        [
            ("input", Input((1, 8, 8), scale=255 if integer else None)),
            ("conv1", Conv2d(weight(16, 1, 3, 3), padding=(1, 1))),
            ("conv1.neuron", first),
            ("pool1", MaxPool2d((2, 2), (2, 2))),
            ("conv2", Conv2d(weight(32, 16, 3, 3), padding=(1, 1))),
            ("conv2.neuron", rest),
            ("pool2", AvgPool2d((2, 2), (2, 2), (0, 0), 1 if integer else 4)),
            ("flatten", Flatten()),
            ("fc1", Linear(weight(64, 128))),
            ("fc1.neuron", IF(16.0, scale=64.0) if integer else IF(0.25)),
            ("fc2", Linear(weight(10, 64))),
            ("fc2.neuron", rest),
            ("output", Output("rate")),
        ],
        T=4,
    )


def run(graph: SpikingGraph, accuracy: float | None, samples: int = 20, drift: bool = False) -> report.NetworkRun:
    images = np.random.default_rng(7).random((samples, 1, 8, 8))
    counter = ActivityCounter(graph)
    brute.run(graph, torch.from_numpy(graph.encode(images)).double(), counter)
    accuracies = () if accuracy is None else (accuracy - 0.3, accuracy - 0.1, accuracy - 0.02, accuracy)
    differing = {"conv1.neuron": 11.5, "conv2.neuron": 40.25, "fc1.neuron": 2.0, "fc2.neuron": 0.5} if drift else None
    labels = np.arange(samples) % 10
    classes = None if accuracy is None else confusion(labels, np.where(labels == 7, 1, labels), 10, CLASSES)
    return report.summarize(graph, counter.result(), accuracies, differing, confusion=classes)


def teacher() -> report.Teacher:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 16, 10),
    )
    active = active_macs(net, torch.rand(5, 1, 8, 8))
    return report.Teacher(
        "cnn2 (32, 64)",
        0.9889,
        count_module(net, (1, 8, 8)),
        operations.dense_ann(active.shapes.values()),
        operations.zero_skipping_ann(active.shapes, active.mean_by_layer),
    )


def example(title: str = "cnn2 on digits: a distilled spiking student") -> report.Report:
    student = report.Student("distilled", run(network(), 0.9694), run(network(integer=True), 0.9667, drift=True))
    twin = report.Student("undistilled", run(network(1), 0.9556), run(network(1, integer=True), 0.9528), role="twin")
    return report.build(
        title,
        "kdsnn-deploy demo --out demo-output --seed 0",
        [student, twin],
        teacher=teacher(),
        comparisons=[
            report.ComparisonReport("emulator", 360, 0.9667),
            report.ComparisonReport("ONNX Runtime", 360, 0.9694, 0, "torch", "float network, whole sequence"),
            report.ComparisonReport("Lava 0.10.0", 20, 1.0, 0, "emulator", "every layer, every step"),
        ],
        placements=[
            report.PlacementReport(
                "Loihi 1",
                128,
                2,
                (
                    report.LayerCores("conv1", 100, "neurons", 0.98),
                    report.LayerCores("conv2", 40, "synaptic memory", 0.75),
                    report.LayerCores("fc1", 3, "input axons", 0.5),
                    report.LayerCores("fc2", 1, "neurons", 0.01),
                ),
                "the input layer is not counted",
            )
        ],
        data="digits, 360 test samples",
        created=datetime(2026, 6, 1, 12, 0, tzinfo=UTC),
    )


def watching(encoding: Encoding = "spikes", seed: int = 0) -> SpikingGraph:
    """A network that reads four frames of 2×6×6, one after the other; "direct": one frame at every step."""
    rng = np.random.default_rng(seed)

    def weight(*shape: int) -> np.ndarray:
        return rng.integers(-3, 5, shape).astype(np.int32)

    return chain(
        [
            ("input", Input((2, 6, 6), encoding, scale=None if encoding == "spikes" else 15)),
            ("conv", Conv2d(weight(4, 2, 3, 3), padding=(1, 1))),
            ("conv.neuron", IF(6 if encoding == "spikes" else 60)),
            ("pool", MaxPool2d((2, 2), (2, 2))),
            ("flatten", Flatten()),
            ("fc", Linear(weight(3, 36))),
            ("fc.neuron", IF(9)),
            ("output", Output("rate")),
        ],
        T=4,
    )


def frames(samples: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Frames of 0 and 1, (N, 4, 2, 6, 6), with labels."""
    rng = np.random.default_rng(seed)
    return (rng.random((samples, 4, 2, 6, 6)) < 0.4).astype(np.float32), rng.integers(0, 3, samples)


def events() -> report.Report:
    """One student that reads events, and what fewer of them do to it."""
    x, labels = frames(20)

    def student(samples: np.ndarray) -> report.Student:
        return profiling.count("watching", watching(), samples, labels, run=emulator.run)

    whole = student(x)
    thinned = {kept: student(Thinned(x, np.arange(len(x)), kept)[:]) for kept in KEPT if kept < 1}
    return report.build("watching on frames", "", [whole], thinned={1.0: whole, **thinned})


def wide() -> report.Report:
    """Five students, a teacher, energy models, placements, and names as long as a path that has no spaces."""
    made = example("a_title_without_any_space_that_is_longer_than_a_phone_is_wide_by_far")
    first, twin = made.students
    name = "networks.body.stages.0.blocks.1.convolution_with_a_very_long_name"

    def renamed(run: report.NetworkRun) -> report.NetworkRun:
        return replace(run, layers=tuple(replace(layer, name=f"{name}.{layer.name}") for layer in run.layers))

    students = [
        replace(first, float_run=renamed(first.float_run), quantized_run=renamed(first.deployed)),
        *(replace(twin, name=f"student_number_{i}_of_a_comparison", role="student") for i in range(4)),
    ]
    placement = made.placements[0]
    rows = tuple(replace(row, layer=f"{name}.{row.layer}") for row in placement.rows)
    made_wide = report.build(
        made.title,
        f"kdsnn-deploy profile {'x' * 120} --compare {name}",
        students,
        teacher=made.teacher,
        comparisons=made.comparisons,
        placements=[replace(placement, rows=rows), replace(placement, target="Loihi 2", chips=12)],
        data=f"npz:{'folder/' * 30}file.npz",
        notes=[name],
        fits=[
            report.ChipFit(
                students[0].name, "loihi1", "Loihi 1", (report.FitProblem(name, f"{name} is too large", name),)
            )
        ],
    )
    return replace(made_wide, density=replace(cast(report.DensitySweep, events().density), student=name))


def sweep_point(accuracy: float, cost: float, *, network: str = "net", bits: int | None = 8, T: int = 4) -> SweepPoint:
    costs = {"synops": Range(cost * 0.9, cost, cost * 1.1), "memory": Range.exactly(100.0 * (bits or 8))}
    costs |= {"cores:loihi1": Range.exactly(3), "energy:yan2026": Range(cost * 1e-12, 2e-12 * cost, 3e-12 * cost)}
    return SweepPoint(network, bits, T, 50, accuracy, accuracy - 0.05, min(1, accuracy + 0.03), 10.0, 99, costs, {})


SWEEP_POINTS = (
    sweep_point(0.80, 10, bits=4, T=1), sweep_point(0.90, 20, bits=4, T=2), sweep_point(0.88, 30, bits=8, T=1), sweep_point(0.96, 40, bits=8, T=2),
)  # fmt: skip


def ann(accuracy: float, name: str = "q", kind: str = "quantized ANN") -> SweepReference:
    return SweepReference(name, kind, accuracy, accuracy - 0.01, accuracy + 0.01, {"energy:yan2026": Range(1, 2, 3)})


AXES = cost_axes(
    list(models.built_in().values()), {"loihi1": "Loihi 1", "loihi2": "Loihi 2"}, list(time_models.built_in().values())
)


def sweep(**more: object) -> Sweep:
    references = (ann(0.93, "<quantized> & ann"), SweepReference("teacher", "teacher", 0.97, 0.95, 0.99, {}))
    equal = equal_accuracy(SWEEP_POINTS, references, AXES)
    fields = {"points": SWEEP_POINTS, "references": references, "equal": equal, "notes": ("<b>a note</b>",), **more}
    return Sweep(
        "a<b> on digits", "kdsnn-deploy profile 'a<b>'", "2026-11-29T10:00:00+00:00", "50 test images", AXES, **fields
    )  # type: ignore[arg-type]
