"""How much of what a network costs hangs on the events that come in: it runs again with fewer of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from kdsnn.deploy.counting import FEW_SAMPLES, some
from kdsnn.deploy.images import chosen
from kdsnn.deploy.on_chip import activity_of, on_chip
from kdsnn.deploy.progress import Progress, silent
from kdsnn.errors import OptionError

if TYPE_CHECKING:
    from exporters.graph import Array, SpikingGraph
    from kdsnn.deploy.lowered import Lowered
    from kdsnn.deploy.report_options import BusyTime
    from profilers import report
    from profilers.counting.activity import Activity


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
    """A counted and placed student, and what it does with ever fewer of the events of x, frames over time (N, T, C, H, W).

    Only its deployed run is repeated, on all samples; on chips it is placed as it was, and counted on as many samples.
    """
    import numpy as np

    from exporters.passes.chain import to_chain
    from hardware import emulator
    from profilers import profiling
    from profilers.counting.thinning import KEPT, Thinned

    graph = network.integer if student.deployed.arithmetic == "integer" else network.running
    assert graph is not None  # it has run
    chain = to_chain(network.integer) if student.deployments else None
    told = None if student.deployed.accuracy is None else labels
    found = {1.0: student}
    for index, kept in enumerate(kept for kept in KEPT if kept < 1):

        def show(done: int, total: int, index: int = index) -> None:
            progress("thin the events", index * total + done, (len(KEPT) - 1) * total)

        samples = Thinned(network.samples(x), np.arange(len(x)), kept)
        ran = profiling.count(student.name, graph, samples, told, run=emulator.run, progress=show)
        deployments: list[report.Deployment] = []
        if chain is not None:
            few = Thinned(network.samples(some(x)), chosen(len(x), FEW_SAMPLES), kept)
            deployments = _on_chips(student, network, chain, activity_of(chain, few[:]), time)
        found[kept] = replace(ran, deployments=tuple(deployments))
    return found


def _on_chips(
    student: report.Student, network: Lowered, chain: SpikingGraph, activity: Activity, time: BusyTime | None
) -> list[report.Deployment]:
    """The student on each chip that it was placed on, doing `activity` there."""
    from hardware.chips import limits

    chips = [limits.target(deployment.target) for deployment in student.deployments]
    found = [on_chip(network, chain, chip, activity, time).deployment for chip in chips]
    return [deployment for deployment in found if deployment is not None]
