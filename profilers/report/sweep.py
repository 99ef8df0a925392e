"""A sweep sets networks of several bits, time steps or sizes beside each other: accuracy against everything they cost.

Costs have names, `synops`, `memory`, `membranes`, `energy:MODEL`, `cores:CHIP`, `chips:CHIP` and `latency:MODEL`; a point
has a range for each that was found of it. A point is on the Pareto front of a cost where no other is at least as accurate
and at most as expensive, by nominal values, and better in one of the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from exporters.graph import SpikingGraph
from profilers.counting.activity import Activity
from profilers.counting.sizes import graph_size
from profilers.counting.statistics import share_interval, statistic
from profilers.energy.bit_dependence import BitDependence, energy_dependence, time_dependence
from profilers.energy.evaluation import energy
from profilers.energy.models import EnergyModel, Range
from profilers.energy.movement import snn_movement, with_movement
from profilers.energy.operations import snn_counts
from profilers.energy.time_models import TimeModel
from profilers.report.counted_run import word_sizes
from profilers.report.data import Deployment, Teacher
from profilers.report.equal_accuracy import at, front
from profilers.report.few_bit import FewBitAnn

VERSION = 1
"""Version of `sweep.json`; raised when a field changes its meaning, appears or disappears."""

SHOWN = ("synops", "memory", "energy:horowitz-45nm-int8", "energy:yan2026", "energy:loihi1-events", "latency:loihi1-sanafe-times")  # fmt: skip
"""Costs that the tables and the picture have, beside the cores of every chip and what models of the user's own say."""


@dataclass(frozen=True)
class CostAxis:
    """A cost has a name, a title, a unit ("" for counts), and a way in which it hangs on the bits of the weights.

    `at_least`: its values are lower bounds. `shown`: it stands in the tables and the picture, not only in the files.
    """

    name: str
    title: str
    unit: str
    bits: BitDependence
    shown: bool
    at_least: bool = False


@dataclass(frozen=True)
class SweepPoint:
    """One network of some bits was read after T steps: its accuracy with the 95 % interval, and its costs by name.

    `bits` is None where it was quantized elsewhere. `left_out`: by energy model, its terms that nobody counted. Means per
    sample; bits of memory.
    """

    network: str
    bits: int | None
    T: int
    samples: int
    accuracy: float
    low: float
    high: float
    spikes: float
    parameters: int
    costs: Mapping[str, Range]
    left_out: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class SweepReference:
    """An ANN stands beside the points: the teacher ("teacher") or a trained ANN of few bits ("quantized ANN")."""

    name: str
    kind: str
    accuracy: float
    low: float
    high: float
    costs: Mapping[str, Range]


@dataclass(frozen=True)
class CostAtAccuracy:
    """At the accuracy of a trained ANN of few bits the points cost `points`, and the ANN `ann`; None where that is not known.

    `refusal` says why there is nothing to compare.
    """

    reference: str
    cost: str
    accuracy: float
    points: Range | None
    ann: Range | None
    refusal: str = ""


@dataclass(frozen=True)
class SweepData:
    """A sweep says this and nothing else: the points, the ANNs beside them, and what is compared at equal accuracy.

    `axes`: the costs that points may have. `notes`: sentences to read with it; `missing`: points that a stopped sweep did
    not come to.
    """

    title: str
    command: str
    created: str
    data: str
    axes: tuple[CostAxis, ...]
    points: tuple[SweepPoint, ...]
    references: tuple[SweepReference, ...] = ()
    equal: tuple[CostAtAccuracy, ...] = ()
    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    version: int = VERSION


def cost_axes(
    models: Sequence[EnergyModel], chips: Mapping[str, str], times: Sequence[TimeModel], own: Sequence[str] = ()
) -> tuple[CostAxis, ...]:
    """The costs that a sweep has, in the order in which they are shown.

    Args:
        models: energy models; those of floats are left out, since the networks are quantized.
        chips: name → title.
        times: step-time models.
        own: names of models that the user brought, which are shown.
    """
    wanted = {*SHOWN, *(f"{kind}:{name}" for kind in ("energy", "latency") for name in own)}

    def axis(name: str, title: str, unit: str, bits: BitDependence, **more: bool) -> CostAxis:
        return CostAxis(name, title, unit, bits, **{"shown": name in wanted, **more})

    priced = [m for m in models if m.arithmetic == "integer" and not isinstance(m.snn, str)]
    return (
        axis("synops", "SynOps", "", "none"),
        axis("memory", "Weight memory", "B", "weights"),
        axis("membranes", "Membrane memory", "B", "none"),
        *(axis(f"energy:{m.name}", f"Energy: {m.title}", "J", energy_dependence(m)) for m in priced),
        *(axis(f"cores:{name}", f"{title} cores", "", "weights", shown=True) for name, title in chips.items()),
        *(axis(f"chips:{name}", f"{title} chips", "", "weights") for name, title in chips.items()),
        *(
            axis(f"latency:{m.name}", f"Latency: {m.title}", "s", time_dependence(m), at_least=m.at_least)
            for m in times
        ),
    )  # fmt: skip


def sweep_point(
    network: str,
    bits: int | None,
    graph: SpikingGraph,
    activity: Activity,
    accuracy: float,
    models: Sequence[EnergyModel],
    deployments: Sequence[Deployment],
) -> SweepPoint:
    """Sum up what a quantized graph did in some steps, as the report sums up a run; deployments are of the same steps."""
    size = graph_size(graph)
    run = with_movement(snn_counts(activity), snn_movement(activity, word_sizes(graph, size)))
    synops, placed = statistic(activity.synops), {d.target: d for d in deployments}
    costs = {
        "synops": Range(synops.low, synops.mean, synops.high),
        "memory": Range.exactly(size.weight_bits / 8),
        "membranes": Range.exactly(size.state_bits / 8),
    }
    left_out = {}
    for model in models:
        if model.arithmetic == "float" or isinstance(model.snn, str):
            continue
        found = energy(model, placed[model.target].counts if model.target in placed else run)
        costs[f"energy:{model.name}"] = Range(found.low, found.nominal, found.high)
        left_out[model.name] = found.left_out
    for chip, deployment in placed.items():
        costs[f"cores:{chip}"] = Range.exactly(deployment.cores)
        costs[f"chips:{chip}"] = Range.exactly(deployment.chips)
        costs |= {f"latency:{time.model}": time.latency for time in deployment.times}
    low, high = share_interval(accuracy, activity.samples)
    spikes = float(activity.spikes.sum(axis=1).mean())
    return SweepPoint(
        network, bits, activity.T, activity.samples, accuracy, low, high, spikes, size.parameters, costs, left_out
    )


def pareto(points: Sequence[SweepPoint], cost: str) -> list[SweepPoint]:
    """The points that have this cost and that no other dominates, from the cheapest on; equal ones are all there."""
    known = [point for point in points if cost in point.costs]

    def dominated(point: SweepPoint) -> bool:
        accuracy, price = point.accuracy, point.costs[cost].nominal
        return any(
            other.accuracy >= accuracy
            and other.costs[cost].nominal <= price
            and (other.accuracy, other.costs[cost].nominal) != (accuracy, price)
            for other in known
        )

    kept = [point for point in known if not dominated(point)]
    return sorted(kept, key=lambda point: (point.costs[cost].nominal, point.accuracy))


def few_bit_reference(ann: FewBitAnn, samples: int, models: Sequence[EnergyModel]) -> SweepReference:
    """A trained ANN of few bits as it stands in a sweep: without zeros skipped, under the models of integers that price it."""
    costs = {"memory": Range.exactly(ann.weight_bits / 8)}
    for model in models:
        if model.arithmetic == "integer" and not isinstance(model.ann, str):
            found = energy(model, ann.dense)
            if not found.left_out:
                costs[f"energy:{model.name}"] = Range(found.low, found.nominal, found.high)
    accuracy = ann.accuracy or 0.0
    return SweepReference(ann.name, "quantized ANN", accuracy, *share_interval(accuracy, samples), costs)


def teacher_reference(teacher: Teacher, samples: int) -> SweepReference:
    """A teacher stands beside a sweep with its accuracy alone: models of integers do not price an ANN of floats."""
    accuracy = teacher.accuracy or 0.0
    return SweepReference(teacher.name, "teacher", accuracy, *share_interval(accuracy, samples), {})


def equal_accuracy(
    points: Sequence[SweepPoint], references: Sequence[SweepReference], axes: Sequence[CostAxis]
) -> tuple[CostAtAccuracy, ...]:
    """What the points cost at the accuracy of each trained ANN of few bits: between neighbors on the front, cost is taken to
    be linear in accuracy, and beyond its ends nothing is said. Cores and chips are whole and left out."""
    return tuple(
        _at_accuracy(points, reference, axis)
        for reference in references
        if reference.kind == "quantized ANN"
        for axis in axes
        if not axis.name.startswith(("cores:", "chips:"))
    )


def _at_accuracy(points: Sequence[SweepPoint], reference: SweepReference, axis: CostAxis) -> CostAtAccuracy:
    from profilers.report.numbers import percent

    known = front([(p.accuracy, p.costs[axis.name]) for p in points if axis.name in p.costs])
    wanted, ann = reference.accuracy, reference.costs.get(axis.name)
    refusal = ""
    if not known:
        refusal = "no point has this cost"
    elif wanted > known[-1][0]:
        refusal = f"outside: no point is as accurate, the best has {percent(known[-1][0], 2)}"
    elif wanted < known[0][0]:
        refusal = f"outside: even the cheapest is more accurate, {percent(known[0][0], 2)}"
    return CostAtAccuracy(
        reference.name, axis.name, wanted, None if refusal else at(known, wanted), ann, refusal
    )  # fmt: skip
