"""Networks on chips: placed, what the placement adds to what is counted, and how long its cores take."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kdsnn.deploy import sanafe
from kdsnn.deploy.check import ONLY_ONNX, OTHER_LAYERS, refusal
from kdsnn.deploy.counting import some
from kdsnn.deploy.images import chosen
from kdsnn.deploy.progress import Progress, silent
from kdsnn.deploy.report_options import BusyTime, chosen_chips, energy_models, time_models
from kdsnn.errors import UserError

if TYPE_CHECKING:
    import torch

    from exporters.graph import Array, SpikingGraph
    from hardware.chips.fit import Finding, Fit
    from hardware.chips.limits import Target
    from hardware.chips.placement import Placement
    from hardware.chips.work import LayerWork
    from kdsnn.deploy.lowered import Lowered
    from profilers import report
    from profilers.counting.activity import Activity
    from profilers.energy.models import EnergyModel
    from profilers.energy.operations import Counts
    from profilers.energy.time_models import TimeModel
    from profilers.energy.timing import TimedNetwork, TimeEstimate


@dataclass(frozen=True)
class OnChip:
    """A network on one chip: what is drawn, and what is priced."""

    drawn: report.PlacementReport | None = None
    deployment: report.Deployment | None = None


@dataclass(frozen=True)
class Pricing:
    """What a placed network is priced and timed with: models by name, and the seconds that the user gave."""

    energy: Mapping[str, EnergyModel]
    times: Mapping[str, TimeModel]
    busy: BusyTime | None = None


def on_chip(chain: SpikingGraph, fits: Fit, work: Sequence[LayerWork], activity: Activity, pricing: Pricing) -> OnChip:
    """A chain that was held against a chip and does `activity`: what its placement and the work of its cores say of it."""
    from profilers.energy import operations

    chip, placed = fits.target, fits.placement
    if placed is None:
        return OnChip()
    spikes = {name: float(neurons.spikes.sum(axis=1).mean()) for name, neurons in activity.neurons.items()}
    counts = operations.snn_counts(activity)
    untimed = deployed(chain, chip, placed, counts, spikes, activity.samples, None)
    deployment = deployed(chain, chip, placed, counts, spikes, activity.samples, pricing.busy)
    times = _times(timed_network(placed, work, chain.T), untimed.counts, pricing)
    return OnChip(drawn(placed), replace(deployment, times=times))


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


def drawn(placed: Placement) -> report.PlacementReport:
    """The cores of each layer, as a report shows them."""
    from profilers import report

    chip = placed.target
    rows = tuple(
        report.LayerCores(layer.name, layer.cores, layer.limited_by, layer.utilization()[layer.limited_by])
        for layer in placed.layers
    )
    note = f"{', '.join(placed.host)} on the host: {chip.title} takes no pixels." if placed.host else ""
    return report.PlacementReport(chip.title, chip["cores_per_chip"], placed.chips, rows, note)


def _times(network: TimedNetwork | None, counts: Counts, pricing: Pricing) -> tuple[TimeEstimate, ...]:
    from profilers.energy import timing

    if network is None:
        return ()
    models = [model for model in pricing.times.values() if model.target == network.target]
    return tuple(timing.estimate(model, network, counts, tuple(pricing.energy.values())) for model in models)


def _simulated(
    deployment: report.Deployment, network: Lowered, x: Array, progress: Progress
) -> tuple[report.Deployment, list[str]]:
    """A deployment with what SANA-FE says of it on some samples, or why it says nothing."""
    frames = network.frames(x[chosen(len(x), sanafe.SAMPLES)])
    try:
        ran = sanafe.simulated(network, frames, lambda done: progress("simulate on SANA-FE", done, len(frames)))
    except UserError as error:
        return deployment, [f"is not simulated by SANA-FE: {' '.join(str(error).split())}"]
    return replace(deployment, simulated=ran), []


def timed_network(placed: Placement, work: Sequence[LayerWork], T: int) -> TimedNetwork | None:
    """What the cores of a placed network did, as step-time models see it; None where all of it runs on the host."""
    from hardware.chips.work import farthest, tiles
    from profilers.energy.timing import TimedLayer, TimedNetwork

    layers = []
    for layer in work:
        nothing = layer.synops * 0
        counts = {
            "synops": layer.synops,
            "synops_conv": layer.synops if layer.convolution else nothing,
            "synops_linear": nothing if layer.convolution else layer.synops,
            "messages_in": layer.messages_in,
            "spikes": layer.spikes,
            "messages_out": layer.messages_out,
        }
        layers.append(TimedLayer(layer.layer, layer.first_core, layer.compartments, counts))
    if not layers:
        return None
    return TimedNetwork(placed.target.name, placed.chips, T, tuple(layers), tiles(placed), farthest(placed))


@dataclass(frozen=True)
class PlacedStudents:
    """Students with their deployments; the placements of the first one; how each fits each chip; and what else is to say."""

    students: list[report.Student]
    placements: list[report.PlacementReport]
    fits: list[report.ChipFit]
    notes: list[str]


def place_all(
    students: Sequence[report.Student],
    networks: Sequence[Lowered],
    x: Array,
    *,
    chips: Sequence[Target] | None = None,
    pricing: Pricing | None = None,
    simulate: bool = False,
    progress: Progress = silent,
) -> PlacedStudents:
    """Hold every student against every chip, and place it where it can be.

    Some of the data x, uint8 images (N, C, H, W) or frames over time, run through the chain that is placed.
    By default on all chips that are built in, priced and timed by all models that are. `simulate`: SANA-FE runs some of it on
    its chip, and what it cannot run is a note.
    """
    from exporters.errors import DeployError

    chips = chosen_chips(()) if chips is None else chips
    pricing = Pricing(energy_models(()), time_models(())) if pricing is None else pricing
    found = PlacedStudents([], [], [], [])
    for index, (student, network) in enumerate(zip(students, networks, strict=True)):
        few = network.samples(some(x))[:]
        try:
            ran = run_chain(network, few, chips)
        except DeployError as error:
            refused = refusal(error, OTHER_LAYERS if network.graph is None else ONLY_ONNX)
            found.fits.extend(chip_fit(student.name, chip, (refused,)) for chip in chips)
            found.students.append(student)
            continue
        found.notes.extend(f"{student.name} {note}" for note in ran.notes)
        placed = [on_chip(ran.chain, *one, ran.activity, pricing) for one in zip(ran.fits, ran.work, strict=True)]
        deployments = [on.deployment for on in placed if on.deployment is not None]
        for at, deployment in enumerate(deployments):
            if simulate and deployment.target == sanafe.TARGET:
                deployments[at], why = _simulated(deployment, network, few, progress)
                found.notes.extend(f"{student.name} {note}" for note in why)
        if index == 0:
            found.placements.extend(on.drawn for on in placed if on.drawn is not None)
        found.fits.extend(chip_fit(student.name, each.target, each.findings) for each in ran.fits)
        found.students.append(replace(student, deployments=tuple(deployments)))
        progress("place on chips", index + 1, len(students))
    return found


@dataclass(frozen=True, eq=False)
class ChainRun:
    """The chain of a network that chips run, as it lies on some of them, and what it did with some samples.

    Attributes:
        chain: the integer graph.
        fits: one per chip.
        work: what the cores of each chip did; of nothing where nothing is placed, or no model could time it.
        activity: what the chain did.
        notes: what no model times, in words.
    """

    chain: SpikingGraph
    fits: tuple[Fit, ...]
    work: tuple[tuple[LayerWork, ...], ...]
    activity: Activity
    notes: tuple[str, ...] = ()


def run_chain(network: Lowered, few: Array, chips: Sequence[Target]) -> ChainRun:
    """Place a network on chips and run it once, on samples as it takes them; what its cores do is counted for all chips.

    Raises:
        DeployError: there is no such chain.
    """
    from exporters.passes.chain import chain_layers, to_chain
    from hardware import emulator
    from hardware.chips import fit
    from hardware.chips.work import CoreCounter
    from profilers.counting.activity import ActivityCounter

    chain = to_chain(network.integer)
    fits = tuple(fit.check(chain, chip, scales=network.layer_scales) for chip in chips)
    in_time = [step.name for step in chain_layers(chain) if step.time is not None]
    cores = [None if f.placement is None or in_time else CoreCounter(f.placement, chain) for f in fits]
    counter = ActivityCounter(chain)

    def observe(name: str, values: torch.Tensor) -> None:
        for one in (counter, *cores):
            if one is not None:
                one(name, values)

    planned = emulator.prepare(chain)
    # what each core does is worked out in floats that take several times the emulator's own memory
    planned.run(chain.encode(few), observe=observe, batch_size=max(1, planned.batch_size // 4))
    notes = [f"is not timed: what delayed and recurrent spikes take ({name}) no model here counts" for name in in_time]
    work = tuple(() if each is None else each.result() for each in cores)
    return ChainRun(chain, fits, work, counter.result(), tuple(notes[:1]))


def chip_fit(student: str, chip: Target, findings: Sequence[Finding]) -> report.ChipFit:
    """What of the findings keeps a student off a chip, as a report holds it."""
    from hardware.chips.fit import FEWER_BITS
    from profilers import report

    problems = []
    for finding in findings:
        if finding.severity == "error":
            tries = f" (kdsnn-deploy check --target {chip.name} tries how many)" if FEWER_BITS in finding.change else ""
            change = finding.change.replace(FEWER_BITS, f"{FEWER_BITS}{tries}")
            problems.append(report.FitProblem(finding.layer, finding.what, change))
    return report.ChipFit(student, chip.name, chip.title, tuple(problems))
