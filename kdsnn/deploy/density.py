"""How much of what a network costs hangs on the events that come in: it runs again with fewer of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from kdsnn.deploy.counting import FEW_SAMPLES, planned_once
from kdsnn.deploy.images import chosen
from kdsnn.deploy.on_chip import deployed
from kdsnn.deploy.progress import Progress, silent
from kdsnn.errors import OptionError

if TYPE_CHECKING:
    from exporters.graph import Array
    from kdsnn.deploy.lowered import Lowered
    from kdsnn.deploy.report_options import BusyTime
    from profilers import report


def wants_density(names: Sequence[str], networks: Sequence[Lowered], density: bool | None) -> bool:
    """Whether the first network's input is thinned: where it is asked for, or nothing is said and events come in.

    Raises:
        OptionError: it is asked for, and no events come in.
    """
    if not networks:
        if density:
            raise OptionError("{density}: an ANN reads no events; leave it out", density=None)
        return False
    graph = networks[0].graph or networks[0].integer
    if density and graph.input.encoding != "spikes":
        what = "graded frames" if graph.input.over_time else "images"
        raise OptionError(f"{{density}}: {names[0]} reads {what}, which are no events; leave it out", density=None)
    return graph.input.encoding == "spikes" if density is None else density


def thin(
    student: report.Student,
    network: Lowered,
    x: Array,
    labels: Array,
    *,
    time: BusyTime | None = None,
    progress: Progress = silent,
) -> dict[float, report.Student]:
    """What a counted and placed student does with ever fewer of the events of x, frames over time (N, T, C, H, W).

    It is the network as placed on the chip whose energy model prices the sweep that runs: one run gives everything. Where it
    has no placement there, it is the deployed run. At most `FEW_SAMPLES` samples are taken.
    """
    from exporters.passes.chain import to_chain
    from hardware.chips import fit, limits
    from profilers import profiling
    from profilers.counting.thinning import KEPT, Thinned
    from profilers.energy import models
    from profilers.report.assemble import DENSITY_MODEL

    chip = limits.target(models.built_in()[DENSITY_MODEL].target)
    placed = None
    graph = network.integer if student.deployed.arithmetic == "integer" else network.running
    if student.on(chip.name) is not None:
        graph = to_chain(network.integer)
        placed = fit.check(graph, chip, scales=network.layer_scales).placement
    assert graph is not None  # it has run
    rows = chosen(len(x), FEW_SAMPLES)
    samples = network.samples(x[rows])
    told = None if student.deployed.accuracy is None else labels[rows]
    found, run = {}, planned_once()
    for index, kept in enumerate(KEPT):

        def show(done: int, total: int, index: int = index) -> None:
            progress("thin the events", index * total + done, len(KEPT) * total)

        ran = profiling.count(student.name, graph, Thinned(samples, rows, kept), told, run=run, progress=show)
        if placed is not None:
            did = ran.deployed
            spikes = {layer.name: layer.spikes for layer in did.layers if layer.spikes is not None}
            deployment = deployed(graph, chip, placed, did.counts, spikes, did.samples, time)
            ran = replace(ran, deployments=(deployment,))
        found[kept] = ran
    return found
