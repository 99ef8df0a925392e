"""What the cores of a placed network do becomes time: the slowest core decides how long a step takes.

An inference alone takes T steps and, where the chip pipelines its layers, one more for each of them. Samples that
follow each other take T steps each, with every layer at work in all of them. Times are ranges: low, nominal and high
constants, with the units of a core working at the same time or one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from exporters.errors import DeployError
from exporters.graph import Array
from profilers.energy.evaluation import energy
from profilers.energy.models import Citation, EnergyModel, Range, Remark
from profilers.energy.operations import Counts, placed
from profilers.energy.time_models import RECEIVING, Duration, TimeModel, TimeTerm

BOUNDS = ("low", "nominal", "high")
UPDATES = ("updates", "active_updates", "inactive_updates")
"""Counts per core that follow from its compartments and spikes."""

_AT_ONCE = 1 << 26  # bytes of counts that are laid out in steps of the chip


@dataclass(frozen=True, eq=False)
class TimedLayer:
    """The cores of one layer: arrays are (N, T, cores), by the names of `time_models.PER_CORE`; `compartments` is (cores,)."""

    name: str
    first_core: int
    compartments: Array
    counts: Mapping[str, Array]


@dataclass(frozen=True, eq=False)
class TimedNetwork:
    """A placed network as step-time models see it.

    Attributes:
        target: name of the chip.
        chips: that it lies on.
        T: time steps.
        layers: those on the chip, in order.
        tiles: used, of all chips; None where the chip's are not published.
        farthest: tiles (east-west, north-south) of the longest way of a message; None where the mesh is not published.
    """

    target: str
    chips: int
    T: int
    layers: tuple[TimedLayer, ...]
    tiles: int | None = None
    farthest: tuple[int, int] | None = None


@dataclass(frozen=True)
class EnergyDelay:
    """One inference alone takes this energy under one energy model, static power over its latency included where the model
    has it (`static`), and this energy × latency, in joule seconds. `back_to_back`: the energy per inference where they
    follow each other."""

    model: str
    title: str
    energy: Range
    back_to_back: Range
    product: Range
    static: bool


@dataclass(frozen=True)
class TimeEstimate:
    """A placed network takes this long under one step-time model; seconds, means over samples.

    Attributes:
        model, title, basis, boundary: of the step-time model.
        at_least: whether these are lower bounds, with nothing known above.
        steps: of the chip for one inference alone.
        step: one of them, on average, where inferences follow each other.
        latency: of one inference alone.
        period: between the results of inferences that follow each other; the throughput is its inverse.
        core: the core that decides most often how long a step takes, None where the model knows steps only.
        layer: that core's.
        share: of the steps which it decides.
        unit: of that core, the one that takes longest.
        products: energy and energy-delay product, one per energy model of the chip.
        constants, sources, remarks: of the model.
    """

    model: str
    title: str
    basis: str
    boundary: str
    at_least: bool
    steps: int
    step: Range
    latency: Range
    period: Range
    core: int | None
    layer: str
    share: float | None
    unit: str
    products: tuple[EnergyDelay, ...]
    constants: Mapping[str, Duration]
    sources: tuple[Citation, ...]
    remarks: tuple[Remark, ...] = field(default=())


def estimate(
    model: TimeModel, network: TimedNetwork, counts: Counts, energy_models: Sequence[EnergyModel] = ()
) -> TimeEstimate:
    """A network is timed under a model.

    Args:
        model: of the network's chip.
        network: what its cores do.
        counts: what energy models count of it, without static power.
        energy_models: those of the chip give energies per inference and energy-delay products.

    Raises:
        DeployError: the model is of another chip, or needs tiles or a mesh where none are published.
    """
    if model.target != network.target:
        raise DeployError(f"{model.title} is a model of {model.target}, and the network is placed on {network.target}")
    latency, period = _seconds(model, network, folded=False), _seconds(model, network, folded=True)
    core, share, unit = _critical(model, network)
    layer = "" if core is None else next(x.name for x in reversed(network.layers) if x.first_core <= core)
    return TimeEstimate(
        model.name, model.title, model.basis, model.boundary, model.at_least,
        _steps(model, network, folded=False), period * (1 / network.T), latency, period, core, layer, share, unit,
        tuple(_products(network, counts, latency, period, energy_models)),
        dict(model.constants), tuple(model.sources.values()), model.remarks,
    )  # fmt: skip


def core_seconds(model: TimeModel, counts: Mapping[str, Array]) -> dict[str, Array]:
    """Cores take so many seconds for counts of any one shape: bound → an array of that shape; 0 where the model knows steps
    only."""
    shape = next(iter(counts.values())).shape
    found = {}
    for bound in BOUNDS:
        units = [_unit_seconds(model, terms.terms, counts, bound) for terms in model.core] or [np.zeros(shape)]
        overlapping = bound == "low" or (bound == "nominal" and model.overlapping)
        found[bound] = np.maximum.reduce(units) if overlapping else np.add.reduce(units)
    return found


# -- inside ------------------------------------------------------------------------------------------


def _unit_seconds(model: TimeModel, terms: Sequence[TimeTerm], counts: Mapping[str, Array], bound: str) -> Array:
    parts = [
        counts[term.count] * sum(float(getattr(model.constants[name].seconds, bound)) for name in term.constants)
        for term in terms
    ]
    return np.asarray(np.add.reduce(parts), np.float64)


def _steps(model: TimeModel, network: TimedNetwork, *, folded: bool) -> int:
    """The chip takes so many steps for one inference alone, or `folded` for one of many that follow each other."""
    return network.T + (len(network.layers) if model.pipelined and not folded else 0)


def _some_at_a_time(model: TimeModel, network: TimedNetwork, *, folded: bool) -> Iterator[dict[str, Array]]:
    """`_chip_steps`, some samples after others: a deep network on thousands of cores takes megabytes for each of them."""
    samples = len(network.layers[0].counts["spikes"])
    cores = sum(len(layer.compartments) for layer in network.layers)
    names = len(network.layers[0].counts) + len(UPDATES)
    size = max(1, _AT_ONCE // (8 * names * cores * _steps(model, network, folded=folded)))
    for start in range(0, samples, size):
        layers = (
            replace(layer, counts={name: values[start : start + size] for name, values in layer.counts.items()})
            for layer in network.layers
        )
        yield _chip_steps(model, replace(network, layers=tuple(layers)), folded=folded)


def _chip_steps(model: TimeModel, network: TimedNetwork, *, folded: bool) -> dict[str, Array]:
    """Counts per core come at the steps of the chip at which they happen, (N, steps, cores): those of one inference alone, or
    `folded` into T steps where inferences follow each other.

    Where layers are pipelined, layer k (0 for the first) receives the network's step t at the chip's step t + k, and its
    neurons do it one step later; compartments are updated in all steps. Where they are not, (N, T, cores) stays.
    """
    found: dict[str, list[Array]] = {}
    for depth, layer in enumerate(network.layers):
        steps = _steps(model, network, folded=False)
        for name, values in layer.counts.items():
            shift = 0 if not model.pipelined else depth + (name not in RECEIVING)
            if folded:
                moved = np.roll(values, shift, axis=1)
            else:
                moved = np.zeros((len(values), steps, values.shape[2]), np.int64)
                moved[:, shift : shift + network.T] = values
            found.setdefault(name, []).append(moved)
        some = found["spikes"][-1]
        updates = np.broadcast_to(layer.compartments, some.shape)
        for name, values in zip(UPDATES, (updates, some, updates - some), strict=True):
            found.setdefault(name, []).append(values)
    return {name: np.concatenate(parts, axis=2) for name, parts in found.items()}


def _on_top(model: TimeModel, network: TimedNetwork) -> Range:
    """Every step takes this besides its slowest core."""
    total = Range.exactly(0)
    for term in model.step:
        if term.count.startswith("farthest"):
            if network.farthest is None:
                raise DeployError(
                    f"{model.title} counts hops between tiles, and the mesh of {network.target} is not published"
                )
            count = network.farthest[term.count == "farthest_ns"]
        else:
            count = {"steps": 1, "steps_one_chip": network.chips == 1, "steps_many_chips": network.chips > 1}[
                term.count
            ]
        for name in term.constants:
            if model.constants[name].points and network.tiles is None:
                raise DeployError(f"{model.title} counts tiles, and those of {network.target} are not published")
            total += model.constants[name].at(network.tiles or 0) * float(count)
    return total


def _seconds(model: TimeModel, network: TimedNetwork, *, folded: bool) -> Range:
    """All steps take so long together: the mean over samples."""
    taken: dict[str, list[Array]] = {bound: [] for bound in BOUNDS}
    for counts in _some_at_a_time(model, network, folded=folded):
        for bound, cores in core_seconds(model, counts).items():
            taken[bound].append(_slowest(model, network, cores).sum(axis=1))
    means = [float(np.concatenate(taken[bound]).mean()) for bound in BOUNDS]
    found = Range(*means) + _on_top(model, network) * float(_steps(model, network, folded=folded))
    return Range.exactly(found.low) if model.at_least else found


def _slowest(model: TimeModel, network: TimedNetwork, seconds: Array) -> Array:
    """Steps (N, steps) take as long as their slowest core; where layers are not pipelined, as those of all layers."""
    if model.pipelined:
        return np.asarray(seconds.max(axis=2))
    firsts = np.cumsum([0, *(len(layer.compartments) for layer in network.layers)])[:-1]
    return np.asarray(np.maximum.reduceat(seconds, firsts, axis=2).sum(axis=2))


def _critical(model: TimeModel, network: TimedNetwork) -> tuple[int | None, float | None, str]:
    """The core that most often decides how long a step takes where inferences follow each other, its share of the steps, and its
    slowest unit."""
    if not model.core:
        return None, None, ""
    bound = "low" if model.at_least else "nominal"
    slowest = np.concatenate(
        [core_seconds(model, counts)[bound].argmax(axis=2) for counts in _some_at_a_time(model, network, folded=True)]
    )
    core = int(np.bincount(slowest.ravel()).argmax())
    totals = np.zeros(len(model.core))
    for counts in _some_at_a_time(model, network, folded=True):
        of_core = {name: values[:, :, core] for name, values in counts.items()}
        totals += [float(_unit_seconds(model, unit.terms, of_core, bound).sum()) for unit in model.core]
    return core, float((slowest == core).mean()), model.core[int(totals.argmax())].name


def _products(
    network: TimedNetwork, counts: Counts, latency: Range, period: Range, energy_models: Sequence[EnergyModel]
) -> Iterator[EnergyDelay]:
    for model in energy_models:
        if model.target != network.target or isinstance(model.snn, str):
            continue
        alone, streamed = (
            energy(model, placed(counts, chips=network.chips, seconds=seconds)) for seconds in (latency, period)
        )
        joules, back_to_back = (Range(e.low, e.nominal, e.high) for e in (alone, streamed))
        yield EnergyDelay(model.name, model.title, joules, back_to_back, joules * latency, alone.static is not None)
