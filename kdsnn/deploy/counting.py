"""Counting the networks of a report: the students' runs, and the ANN set beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from kdsnn.deploy.evaluate import accuracies
from kdsnn.deploy.faithful import proven_on
from kdsnn.deploy.images import Pixels, chosen, require_trained_fit
from kdsnn.deploy.processes import ranks
from kdsnn.deploy.progress import Progress, silent
from kdsnn.errors import KdsnnError, OptionError

if TYPE_CHECKING:
    from exporters.graph import Array, SpikingGraph
    from kdsnn.data import DataSet
    from kdsnn.deploy.backends import BackendRun
    from kdsnn.deploy.comparisons import BackendComparison
    from kdsnn.deploy.lowered import Lowered
    from kdsnn.deploy.trained import TrainedNetwork
    from profilers import report
    from profilers.profiling import NetworkRunner, Observer, Outcome

FEW_SAMPLES = 256
"""Samples on which a teacher's zero activations and the chain on a chip are counted: their means hardly vary."""


def planned_once() -> NetworkRunner:
    """What runs graphs as `hardware.emulator.run` does, in any number of parts of their samples: each graph is planned once."""
    from hardware import emulator

    prepared = cache(emulator.prepare)

    def run(
        graph: SpikingGraph,
        frames: Array,
        *,
        observe: Observer | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Outcome:
        return prepared(graph).run(frames, observe=observe, progress=progress)

    return run


def count(
    name: str,
    network: Lowered,
    x: Array,
    labels: Array | None,
    *,
    class_names: Sequence[str] = (),
    twin: bool = False,
    title: str = "",
    progress: Progress = silent,
) -> report.Student:
    """Run data x through the float and the quantized network and count what happens: uint8 images (N, C, H, W), or frames;
    `class_names` are those of the labels.

    Raises:
        KdsnnError: a `.net` file that reads spikes of an encoder on the host.
    """
    from exporters.errors import DeployError
    from profilers import profiling

    if network.encoder is not None:
        raise KdsnnError(f"{name}: its first layer runs on the host and would not be counted; profile the checkpoint")
    samples = network.samples(x)
    proven_on(network, samples)
    running = network.running
    both = running is not None and not isinstance(network.chip, DeployError)
    progress(f"{title}count {name}", 0, 1)
    return profiling.count(
        name,
        network.integer if running is None else running,
        samples,
        labels,
        run=planned_once(),
        quantized=network.integer if both else None,
        class_names=class_names,
        role="twin" if twin else "student",
        group=ranks(),
        progress=lambda done, total: progress(f"{title}count {name}", done, total),
    )


def count_ann(
    ann: TrainedNetwork, images: DataSet, x: Array, labels: Array, *, progress: Progress = silent
) -> tuple[report.Teacher, tuple[str, ...]]:
    """The ANN of a checkpoint, of all frames where it sees each: its sizes, its accuracy on x, test images of `images` with their labels, and how much of its
    work a zero-skipping accelerator would do on some of them. Returns what could not be counted too.

    Raises:
        KdsnnError: a spiking network, or one for other images.
    """
    import torch

    from exporters.errors import DeployError
    from kdsnn.train.learner import still
    from profilers import report
    from profilers.counting.flops import count_module
    from profilers.counting.zero_skipping import active_macs
    from profilers.energy import operations

    info = ann.info
    called = str(ann.path or info.model)
    if info.spiking:
        raise OptionError("{teacher}: this is a spiking network; give the checkpoint of an ANN", teacher=called)
    require_trained_fit(called, ann, images)
    counts = count_module(ann.module, info.input_shape)
    accuracy = accuracies(ann.module, replace(images, x_test=x, y_test=labels), frames=info.frames)[-1]
    if info.frames == "each" and images.T is not None:  # it runs once for every frame
        counts = replace(counts, thop=images.T * counts.thop, macs=images.T * counts.macs)
        return report.Teacher(info.model, accuracy, counts), (
            f"{info.model} without zero-skipping: it sees each of the {images.T} frames by itself, and is counted {images.T} times",
        )
    few = still(torch.from_numpy(Pixels(some(x), info.input_shape, images.graded)[:]))
    title = f"count {info.model}"
    progress(title, 0, 1)
    try:
        active = active_macs(ann.module, few)
    except DeployError as error:  # an architecture it cannot look into: the dense counts stand alone
        return report.Teacher(info.model, accuracy, counts, samples=len(x)), (
            f"{info.model} without zero-skipping: {error}",
        )
    progress(title, 1, 1)
    if active.other:  # no layer does these, so no layer's memory is known
        return report.Teacher(info.model, accuracy, counts, samples=len(x)), ()
    dense = operations.dense_ann(active.shapes.values())
    sparse = operations.zero_skipping_ann(active.shapes, active.mean_by_layer)
    return report.Teacher(info.model, accuracy, counts, dense, sparse, len(x)), ()


def some(x: Array) -> Array:
    """At most `FEW_SAMPLES` of samples (N, …), spread evenly: data may be sorted by class."""
    found: Array = x[chosen(len(x), FEW_SAMPLES)]
    return found


def comparison_rows(
    runs: Sequence[BackendRun], found: Sequence[BackendComparison], labels: Array
) -> list[report.ComparisonReport]:
    """The spike-for-spike table of the report: the spikes of all layers, where a backend shows them."""
    from profilers import report

    by_backend = {c.backend: c for c in found}
    rows = []
    for run in runs:
        c = by_backend.get(run.backend)
        rows.append(
            report.ComparisonReport(
                backend=run.backend,
                samples=run.samples,
                accuracy=run.accuracy(labels),
                mismatching_spikes=None if c is None else (c.mismatches if c.hidden is None else c.hidden),
                compared_spikes=None if c is None else (c.hidden_compared or c.compared),
                must_agree=c is not None and c.must_agree and c.proof is None,
                reference="" if c is None else c.reference,
                note="" if c is None else _why(c),
            )
        )
    return rows


def _why(c: BackendComparison) -> str:
    """Why spikes may differ, or nothing where none may."""
    if c.proof is not None:
        from profilers.report.cells import plural

        return f"layer by layer the same but for {plural(c.proof.ties, 'tie')}: rounding decides there"
    if c.must_agree:
        return ""
    return "the effect of quantization" if c.backend == "emulator" else "weights on the grid of exact sums"
