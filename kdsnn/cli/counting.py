"""What `profile` and `demo` share: counting a network's runs, and the pieces of a report."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from kdsnn.cli.console import progress, say

if TYPE_CHECKING:
    from torch import Tensor

    from exporters.graph import Array, SpikingGraph
    from hardware.limits import Target
    from kdsnn.cli.backends import BackendRun, Comparison
    from kdsnn.cli.source import Source
    from kdsnn.data import DataSet
    from profilers import report
    from profilers.energy_models import EnergyModel

FEW_SAMPLES = 256
"""Samples on which zero activations of a teacher and hops on a chip are counted: their means hardly vary."""

_FILES = (".safetensors", ".net", ".nir")


def count(
    name: str, network: Source, x: Array, labels: Array, *, twin: bool = False, quiet: bool = False, title: str = ""
) -> report.Student:
    """Run images x (N, C, H, W) through the float and the quantised network and count what happens.

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
            x.reshape(len(x), *network.input_shape),
            labels,
            run=emulator.run,
            quantised=network.integer if both else None,
            role="twin" if twin else "student",
            progress=show,
        )


def count_ann(path: Path, images: DataSet, x: Array, *, quiet: bool = False) -> report.Teacher:
    """The ANN of a checkpoint: its sizes, and how much of its work a zero-skipping accelerator would do on samples x.

    Raises:
        KdsnnError: a spiking network, or one for other images.
    """
    import torch

    from exporters.errors import DeployError
    from kdsnn import checkpoint
    from kdsnn.cli.source import require_fit
    from kdsnn.errors import KdsnnError
    from profilers import operations, report
    from profilers.flops import count_module
    from profilers.zero_skipping import active_macs

    module, info = checkpoint.load(path)
    if info.spiking:
        raise KdsnnError(f"--teacher {path}: this is a spiking network; give the checkpoint of an ANN")
    require_fit(str(path), info.input_shape, images)
    counts = count_module(module, info.input_shape)
    accuracy = info.metrics.get("test_accuracy")
    chosen = torch.from_numpy(x[:FEW_SAMPLES]).float().reshape(-1, *info.input_shape)
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
        KdsnnError, DeployError: a file that is no model, or a name that is taken.
    """
    from kdsnn.errors import KdsnnError
    from profilers import energy_models as models

    found = models.built_in()
    for path in files:
        model = models.load(path)
        if model.name in found:
            raise KdsnnError(f"--energy-model {path}: there is a model named {model.name} already; change its name")
        found[model.name] = model
    return found


@dataclass(frozen=True)
class OnChip:
    """A network on one chip: its placement if it has one, why it does not fit, hops between tiles per sample."""

    placement: report.Placement | None
    notes: tuple[str, ...] = ()
    hops: tuple[float, float] | None = None


def on_chip(network: Source, chain: SpikingGraph, chip: Target, x: Array) -> OnChip:
    """Place a network's chain on a chip, and follow its spikes between tiles where the chip's mesh is published.

    Spikes are those of the chain that is placed, OR neurons and relays included, on samples x (N, *shape).
    """
    from hardware import emulator, fit, placement
    from profilers import report

    found = fit.check(chain, chip, scales=network.scales)
    errors = [finding for finding in found.findings if finding.severity == "error"]
    notes: tuple[str, ...] = ()
    if errors:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        what = ": ".join(filter(None, (errors[0].layer, errors[0].what)))
        notes = (f"does not fit {chip.title}: {what}{more}; `kdsnn-deploy check` says what to change.",)
    placed = found.placement
    if placed is None:
        return OnChip(None, notes)
    rows = tuple(
        report.LayerCores(layer.neurons_name, layer.cores, layer.limited_by, layer.utilisation()[layer.limited_by])
        for layer in placed.layers
    )
    note = f"{', '.join(placed.host)} on the host: {chip.title} takes no pixels." if placed.host else ""
    drawn = report.Placement(chip.title, chip["cores_per_chip"], placed.chips, rows, note)
    if any(layer.hops_per_spike is None for layer in placed.layers):
        return OnChip(drawn, notes)
    spikes = dict.fromkeys(chain.neurons, 0.0)

    def add(name: str, values: Tensor) -> None:
        if name in spikes:
            spikes[name] += float(values.sum()) / len(x)

    emulator.run(chain, chain.encode(x), observe=add)
    return OnChip(drawn, notes, placement.hops(placed, spikes))


def place_all(
    students: list[report.Student], networks: list[Source], x: Array, *, quiet: bool = False
) -> tuple[list[report.Student], list[report.Placement], list[str]]:
    """Every student with its hops; the placements of the first one; and what does not fit, a note each.

    Images x (N, C, H, W) are taken from the front.
    """
    from exporters.errors import DeployError
    from exporters.to_chain import to_chain
    from hardware import limits

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
            for chip in chips:
                few = x[:FEW_SAMPLES].reshape(-1, *network.input_shape)
                on = on_chip(network, chain, chip, few)
                student = student if on.hops is None else with_hops(student, on.hops)
                if index == 0 and on.placement is not None:
                    placements.append(on.placement)
                notes += [f"{student.name} {note}" for note in on.notes]
            found.append(student)
            show(index + 1, len(students))
    return found, placements, notes


def with_hops(student: report.Student, hops: tuple[float, float]) -> report.Student:
    """The student with hops (east-west, north-south) per sample among the counts of its quantised run."""
    from profilers import operations

    def counted(run: report.Run) -> report.Run:
        return replace(run, counts=operations.placed(run.counts, hops_ew=hops[0], hops_ns=hops[1]))

    if student.quantised_run is not None:
        return replace(student, quantised_run=counted(student.quantised_run))
    return replace(student, float_run=counted(student.float_run))


def comparison_rows(runs: list[BackendRun], found: list[Comparison], labels: Array) -> list[report.Comparison]:
    """The spike-for-spike table of the report: the spikes of all layers, where a backend shows them."""
    from profilers import report

    by_backend = {c.backend: c for c in found}
    rows = []
    for run in runs:
        c = by_backend.get(run.backend)
        note = ""
        if c is not None and not c.must_agree:
            note = "the effect of quantisation" if c.backend == "emulator" else "folding BatchNorm rounds differently"
        rows.append(
            report.Comparison(
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
