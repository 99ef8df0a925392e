"""What `profile` and `demo` share: counting a network's runs, and the pieces of a report."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from kdsnn.cli.console import progress, say
from kdsnn.cli.images import Pixels, pixels

if TYPE_CHECKING:
    from exporters.graph import Array, SpikingGraph
    from hardware.chips.limits import Target
    from kdsnn.cli.backends import BackendRun, Comparison
    from kdsnn.cli.source import Source
    from kdsnn.data import DataSet
    from profilers import report
    from profilers.counting.activity import Activity
    from profilers.energy.models import EnergyModel, Range

FEW_SAMPLES = 256
"""Samples on which a teacher's zero activations and the chain on a chip are counted: their means hardly vary."""

_FILES = (".safetensors", ".net", ".nir")


def count(
    name: str, network: Source, x: Array, labels: Array, *, twin: bool = False, quiet: bool = False, title: str = ""
) -> report.Student:
    """Run uint8 images x (N, C, H, W) through the float and the quantized network and count what happens.

    Raises:
        KdsnnError: a `.net` file that reads spikes of an encoder on the host.
    """
    from exporters.errors import DeployError
    from hardware import emulator
    from kdsnn.errors import KdsnnError
    from profilers import profiling

    if network.encoder is not None:
        raise KdsnnError(f"{name}: its first layer runs on the host and would not be counted; profile the checkpoint")
    exact = network.exact
    both = exact is not None and not isinstance(network.chip, DeployError)
    with progress(f"{title}count {name}", quiet=quiet) as show:
        return profiling.count(
            name,
            network.integer if exact is None else exact,
            Pixels(x, network.input_shape),
            labels,
            run=emulator.run,
            quantized=network.integer if both else None,
            role="twin" if twin else "student",
            progress=show,
        )


def count_ann(path: Path, images: DataSet, x: Array, *, quiet: bool = False) -> report.Teacher:
    """The ANN of a checkpoint: its sizes, its accuracy on x, the first test images, and how much of its work a
    zero-skipping accelerator would do on some of them.

    Raises:
        KdsnnError: a spiking network, or one for other images.
    """
    import torch

    from exporters.errors import DeployError
    from kdsnn import checkpoint, train
    from kdsnn.cli.source import require_fit
    from kdsnn.errors import KdsnnError
    from profilers import report
    from profilers.counting.flops import count_module
    from profilers.counting.zero_skipping import active_macs
    from profilers.energy import operations

    module, info = checkpoint.load(path)
    if info.spiking:
        raise KdsnnError(f"--teacher {path}: this is a spiking network; give the checkpoint of an ANN")
    require_fit(str(path), info.input_shape, images)
    counts = count_module(module, info.input_shape)
    few = replace(images, x_test=images.x_test[: len(x)], y_test=images.y_test[: len(x)])
    accuracy = train.evaluate(module, few)[0]
    chosen = torch.from_numpy(pixels(some(x))).reshape(-1, *info.input_shape)
    with progress(f"count {info.model}", quiet=quiet) as show:
        try:
            active = active_macs(module, chosen)
        except DeployError as error:  # an architecture it cannot look into: the dense counts stand alone
            say(f"note: {info.model} without zero-skipping: {error}")
            return report.Teacher(info.model, accuracy, counts)
        show(1, 1)
    if active.other:  # no layer does these, so no layer's memory is known
        return report.Teacher(info.model, accuracy, counts)
    return report.Teacher(
        info.model,
        accuracy,
        counts,
        operations.dense_ann(active.shapes.values()),
        operations.zero_skipping_ann(active.shapes, active.mean_by_layer),
    )


def is_ann(source: str) -> bool:
    """Whether a source is the checkpoint of an ANN."""
    from kdsnn import checkpoint

    return source.endswith(".safetensors") and not checkpoint.read_info(Path(source)).spiking


def distinct(sources: list[str]) -> list[str]:
    """A short name per source: the file's, with as many of its folders as it takes to tell it from the others.

    Raises:
        KdsnnError: the same source twice.
    """
    from kdsnn.errors import KdsnnError

    if twice := [source for source in sources if sources.count(source) > 1]:
        raise KdsnnError(f"{twice[0]}: given twice; give each network once")
    parts = [
        list(Path(source).with_suffix("").parts) if source.endswith(_FILES) else source.replace(":", ".").split(".")
        for source in sources
    ]
    depths = [1] * len(sources)
    while True:
        names = ["/".join(part[-depth:]) for part, depth in zip(parts, depths, strict=True)]
        alike = [i for i, name in enumerate(names) if names.count(name) > 1]
        if not alike:
            return names
        if all(depths[i] >= len(parts[i]) for i in alike):
            return sources
        for i in alike:
            depths[i] += 1


def energy_models(files: list[Path]) -> dict[str, EnergyModel]:
    """The built-in models, and behind them those of files.

    Raises:
        KdsnnError, DeployError: a file that is no model, a name that is taken, or a chip that is not known.
    """
    from hardware.chips import limits
    from kdsnn.errors import KdsnnError
    from profilers.energy import models

    found = models.built_in()
    for path in files:
        model = models.load(path)
        if model.name in found:
            raise KdsnnError(f"--energy-model {path}: there is a model named {model.name} already; change its name")
        if model.target and model.target not in limits.targets():
            known = ", ".join(limits.targets())
            raise KdsnnError(f"--energy-model {path}: target is {model.target!r}; placements are known for {known}")
        found[model.name] = model
    return found


@dataclass(frozen=True)
class Timing:
    """How long an image keeps the chips busy: `seconds` per image, or per time step if `per_step`."""

    seconds: Range
    per_step: bool = False

    def per_image(self, T: int) -> Range:
        """Seconds per image of a network of T steps; images follow each other without a gap, T steps apart."""
        return self.seconds * T if self.per_step else self.seconds


def timing(per_image: str | None, per_step: str | None) -> Timing | None:
    """What `--seconds-per-image` and `--seconds-per-step` say; None without either.

    Raises:
        KdsnnError: both, or what is no duration.
    """
    from kdsnn.errors import KdsnnError
    from profilers.energy.models import Range

    if per_image is not None and per_step is not None:
        raise KdsnnError("--seconds-per-image and --seconds-per-step: give one of them")
    option, text = ("image", per_image) if per_step is None else ("step", per_step)
    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    low, nominal, high = numbers * 3 if len(numbers) == 1 else numbers if len(numbers) == 3 else (0.0, 0.0, 0.0)
    if not 0 < low <= nominal <= high < math.inf:
        raise KdsnnError(
            f"--seconds-per-{option} {text}: it must be seconds above 0, such as 5e-3, or low,nominal,high, such as "
            "4e-3,5e-3,8e-3"
        )
    return Timing(Range(low, nominal, high), per_step == text)


def some(x: Array) -> Array:
    """At most `FEW_SAMPLES` of samples (N, …), spread evenly: data may be sorted by class."""
    import numpy as np

    chosen: Array = x[np.linspace(0, len(x) - 1, min(len(x), FEW_SAMPLES)).round().astype(int)]
    return chosen


@dataclass(frozen=True)
class OnChip:
    """A network on one chip: what is drawn, what is priced, and why it does not fit."""

    drawn: report.PlacementReport | None = None
    deployment: report.Deployment | None = None
    notes: tuple[str, ...] = ()


def on_chip(network: Source, chain: SpikingGraph, chip: Target, activity: Activity, time: Timing | None) -> OnChip:
    """Place a network's chain on a chip and add to what it does there, `activity`, what the placement says.

    That is messages between cores, hops between tiles where the chip's mesh is published, chips × seconds where the
    user gave the seconds, and the updates of compartments beyond one per neuron.
    """
    from hardware.chips import fit, placement
    from profilers import report
    from profilers.energy import operations

    found = fit.check(chain, chip, scales=network.scales)
    errors = [finding for finding in found.findings if finding.severity == "error"]
    notes: tuple[str, ...] = ()
    if errors:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        what = ": ".join(filter(None, (errors[0].layer, errors[0].what)))
        notes = (f"does not fit {chip.title}: {what}{more}; `kdsnn-deploy check` says what to change.",)
    placed = found.placement
    if placed is None:
        return OnChip(notes=notes)
    rows = tuple(
        report.LayerCores(layer.neurons_name, layer.cores, layer.limited_by, layer.utilization()[layer.limited_by])
        for layer in placed.layers
    )
    note = f"{', '.join(placed.host)} on the host: {chip.title} takes no pixels." if placed.host else ""
    drawn = report.PlacementReport(chip.title, chip["cores_per_chip"], placed.chips, rows, note)

    spikes = {name: float(neurons.spikes.sum(axis=1).mean()) for name, neurons in activity.neurons.items()}
    known = all(layer.hops_per_spike is not None for layer in placed.layers)
    east, north = placement.hops(placed, spikes) if known else (None, None)
    seconds = None if time is None else time.per_image(chain.T)
    usage = [used for layer in placed.layers for used in layer.usage]
    counts = operations.placed(
        operations.snn_counts(activity),
        hops_ew=east,
        hops_ns=north,
        messages=placement.messages(placed, spikes),
        chips=None if seconds is None else placed.chips,
        seconds=seconds,
        extra_updates=chain.T * sum(used.compartments - used.neurons for used in usage),
    )
    neurons = sum(layer.neurons for layer in activity.neurons.values())
    deployment = report.Deployment(
        chip.name, chip.title, placed.cores, placed.chips, neurons, placed.host, activity.samples, seconds, counts
    )
    return OnChip(drawn, deployment, notes)


def place_all(
    students: list[report.Student],
    networks: list[Source],
    x: Array,
    *,
    time: Timing | None = None,
    quiet: bool = False,
) -> tuple[list[report.Student], list[report.PlacementReport], list[str]]:
    """Every student with its deployments; the placements of the first one; and what does not fit, a note each.

    Some of the uint8 images x (N, C, H, W) run through the chain that is placed.
    """
    from exporters.errors import DeployError
    from exporters.passes.chain import to_chain
    from hardware import emulator
    from hardware.chips import limits
    from profilers.counting.activity import ActivityCounter

    found, placements, notes = [], [], []
    chips = limits.targets().values()
    with progress("place on chips", quiet=quiet) as show:
        for index, (student, network) in enumerate(zip(students, networks, strict=True)):
            try:
                chain = to_chain(network.integer)
            except DeployError as error:
                notes.append(f"{student.name} has no placement: {error}")
                found.append(student)
                continue
            counter = ActivityCounter(chain)
            few = pixels(some(x)).reshape(-1, *network.input_shape)
            emulator.run(chain, chain.encode(few), observe=counter)
            activity, deployments = counter.result(), []
            for chip in chips:
                on = on_chip(network, chain, chip, activity, time)
                if on.deployment is not None:
                    deployments.append(on.deployment)
                if index == 0 and on.drawn is not None:
                    placements.append(on.drawn)
                notes += [f"{student.name} {note}" for note in on.notes]
            found.append(replace(student, deployments=tuple(deployments)))
            show(index + 1, len(students))
    return found, placements, notes


def comparison_rows(runs: list[BackendRun], found: list[Comparison], labels: Array) -> list[report.ComparisonReport]:
    """The spike-for-spike table of the report: the spikes of all layers, where a backend shows them."""
    from profilers import report

    by_backend = {c.backend: c for c in found}
    rows = []
    for run in runs:
        c = by_backend.get(run.backend)
        note = ""
        if c is not None and not c.must_agree:
            note = "the effect of quantization" if c.backend == "emulator" else "folding BatchNorm rounds differently"
        rows.append(
            report.ComparisonReport(
                backend=run.backend,
                samples=run.samples,
                accuracy=run.accuracy(labels),
                mismatching_spikes=None if c is None else (c.mismatches if c.hidden is None else c.hidden),
                compared_spikes=None if c is None else (c.hidden_compared or c.compared),
                must_agree=c is not None and c.must_agree,
                reference="" if c is None else c.reference,
                note=note,
            )
        )
    return rows
