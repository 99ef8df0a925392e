"""Networks on chips: placed, and what the placement adds to what is counted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kdsnn.deploy.counting import some
from kdsnn.deploy.progress import Progress, silent
from kdsnn.deploy.report_options import BusyTime

if TYPE_CHECKING:
    from exporters.graph import Array, SpikingGraph
    from hardware.chips.limits import Target
    from hardware.chips.placement import Placement
    from kdsnn.deploy.lowered import Lowered
    from profilers import report
    from profilers.counting.activity import Activity
    from profilers.energy.operations import Counts


@dataclass(frozen=True)
class OnChip:
    """A network on one chip: what is drawn, what is priced, and why it does not fit."""

    drawn: report.PlacementReport | None = None
    deployment: report.Deployment | None = None
    notes: tuple[str, ...] = ()


def on_chip(network: Lowered, chain: SpikingGraph, chip: Target, activity: Activity, time: BusyTime | None) -> OnChip:
    """Place a network's chain, which does `activity`, on a chip."""
    from hardware.chips import fit
    from profilers import report
    from profilers.energy import operations

    found = fit.check(chain, chip, scales=network.layer_scales)
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
    counts = operations.snn_counts(activity)
    return OnChip(drawn, deployed(chain, chip, placed, counts, spikes, activity.samples, time), notes)


def deployed(
    chain: SpikingGraph,
    chip: Target,
    placed: Placement,
    counts: Counts,
    spikes: Mapping[str, float],
    samples: int,
    time: BusyTime | None,
) -> report.Deployment:
    """A placed chain with what it does, `counts` and the `spikes` of every neuron layer, means over `samples` samples, and what
    the placement adds.

    That is messages between cores, hops between tiles where the chip's mesh is published, chips × seconds where the
    user gave the seconds, and the updates of compartments beyond one per neuron.
    """
    from hardware.chips import placement
    from profilers import report
    from profilers.energy import operations

    known = all(layer.hops_per_spike is not None for layer in placed.layers)
    east, north = placement.hops(placed, spikes) if known else (None, None)
    seconds = None if time is None else time.per_image(chain.T)
    usage = [used for layer in placed.layers for used in layer.usage]
    counts = operations.placed(
        counts,
        hops_ew=east,
        hops_ns=north,
        messages=placement.messages(placed, spikes),
        chips=None if seconds is None else placed.chips,
        seconds=seconds,
        extra_updates=chain.T * sum(used.compartments - used.neurons for used in usage),
    )
    neurons = sum(math.prod(chain.shapes[name]) for name in chain.neurons)
    return report.Deployment(
        chip.name, chip.title, placed.cores, placed.chips, neurons, placed.host, samples, seconds, counts
    )


def place_all(
    students: Sequence[report.Student],
    networks: Sequence[Lowered],
    x: Array,
    *,
    time: BusyTime | None = None,
    progress: Progress = silent,
) -> tuple[list[report.Student], list[report.PlacementReport], list[str]]:
    """Every student with its deployments; the placements of the first one; and what does not fit, a note each.

    Some of the data x, uint8 images (N, C, H, W) or frames over time, run through the chain that is placed.
    """
    from exporters.errors import DeployError
    from exporters.passes.chain import to_chain
    from hardware import emulator
    from hardware.chips import limits
    from profilers.counting.activity import ActivityCounter

    found, placements, notes = [], [], []
    chips = limits.targets().values()
    for index, (student, network) in enumerate(zip(students, networks, strict=True)):
        try:
            chain = to_chain(network.integer)
        except DeployError as error:
            notes.append(f"{student.name} has no placement: {error}")
            found.append(student)
            continue
        counter = ActivityCounter(chain)
        few = network.samples(some(x))[:]
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
        progress("place on chips", index + 1, len(students))
    return found, placements, notes
