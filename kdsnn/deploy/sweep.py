"""Networks in several bits and steps set beside each other: each lowered once, and run once per bits, at its longest T."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from exporters.errors import DeployError
from kdsnn.deploy.counting import planned_once, some
from kdsnn.deploy.faithful import proven_on
from kdsnn.deploy.lower import MOST_STEPS, requantized
from kdsnn.deploy.lowered import Lowered
from kdsnn.deploy.on_chip import ChainRun, OnChip, Pricing, chip_fit, on_chip, run_chain
from kdsnn.deploy.processes import ranks
from kdsnn.deploy.progress import Estimated, Progress
from kdsnn.deploy.quantization import Quantization
from kdsnn.deploy.several import Several, several
from kdsnn.errors import KdsnnError, OptionError, StoppedError

if TYPE_CHECKING:
    from exporters.graph import Array
    from hardware.chips.fit import Fit
    from hardware.chips.limits import Target
    from profilers.report.sweep import SweepPoint, SweepReference
    from profilers.report.sweep_result import Sweep


@dataclass(frozen=True)
class ChosenPoints:
    """The bits and steps that were asked for, empty where nothing was said. `several`: whether they, or the sources, make a
    sweep; `first`: how every network is lowered, as arguments of `lower`."""

    bits: tuple[int, ...]
    steps: tuple[int, ...]
    several: bool

    @property
    def first(self) -> dict[str, int]:
        """The first bits, the longest T."""
        return {**({"bits": self.bits[0]} if self.bits else {}), **({"T": self.steps[-1]} if self.steps else {})}


def chosen_points(sources: int, bits: Several, steps: Several, *, compare: bool) -> ChosenPoints:
    """What `bits` and `timesteps` say of so many sources.

    Raises:
        OptionError: no whole numbers in bounds; several of them for one full report.
    """
    found, after = several("bits", bits, 2, 8), several("timesteps", steps, 1, MOST_STEPS)
    if compare and max(len(found), len(after)) > 1:
        option, given = ("bits", bits) if len(found) > 1 else ("timesteps", steps)
        raise OptionError(
            f"{{compare}}: it makes one full report, and {{{option}}} are several; leave one of them out",
            compare=None, **{option: given},
        )  # fmt: skip
    return ChosenPoints(found, after, max(len(found), len(after), 1 if compare else sources) > 1)


def require_no_more(*, twin: object, density: bool | None, simulate: bool) -> None:
    """Raise OptionError for what only a report has."""
    if twin is not None:
        raise OptionError("{twin}: a sweep has none; give it as one more source", twin=None)
    if density or simulate:
        option = "density" if density else "simulate"
        raise OptionError(f"{{{option}}}: a sweep has none; profile one network with it", **{option: None})


@dataclass(frozen=True)
class SweepPlan:
    """What is set beside each other.

    Attributes:
        networks: by name, each lowered at the longest of `steps`, or at its own T.
        bits: to quantize each to; empty for those that it has.
        steps: to read each after; empty for its own T.
        how: it is quantized, but for the bits.
        own: names of energy and step-time models that the user brought.
    """

    networks: Mapping[str, Lowered]
    bits: tuple[int, ...]
    steps: tuple[int, ...]
    how: Quantization
    chips: Sequence[Target]
    pricing: Pricing
    own: tuple[str, ...] = ()


def quantization_of(lowering: Mapping[str, Any], progress: Progress) -> Quantization:
    """How `lower` quantizes with these arguments of it."""
    given = {"input_bits": "input_bits", "calibrate": "data", "calibration_samples": "samples"}
    return Quantization(
        progress=progress, **{field: lowering[name] for name, field in given.items() if name in lowering}
    )


def require_sweepable(networks: Mapping[str, Lowered], bits: Sequence[int], steps: Sequence[int]) -> None:
    """Networks that are quantized anew have a float form; those that are read after fewer steps see one image at all of them.

    Raises:
        OptionError: one is quantized already, reads frames, or was lowered with fewer steps; KdsnnError: one has no classes.
    """
    for name, network in networks.items():
        T = (network.graph or network.integer).T
        if network.classes is None:
            raise KdsnnError(f"{name} ends in maps, not in one score per class; a sweep compares accuracies")
        if network.encoder is not None:
            raise KdsnnError(
                f"{name}: its first layer runs on the host and would not be counted; profile the checkpoint"
            )
        if network.graph is None and any(n != network.bits for n in bits):
            raise OptionError(
                f"{{bits}}: {name} is quantized already; give what it was exported from", bits=",".join(map(str, bits))
            )
        if len(steps) > 1 and network.over_time:
            raise OptionError(
                f"{{timesteps}}: {name} reads {T} frames, and fewer steps are fewer frames; cut the data into fewer and "
                "profile them one by one", timesteps=",".join(map(str, steps)),
            )  # fmt: skip
        if steps and steps[-1] > T:
            raise OptionError(
                f"{{timesteps}}: {name} was made for T = {T}; lower it with T = {steps[-1]}", timesteps=steps[-1]
            )


def swept(
    plan: SweepPlan,
    x: Array,
    labels: Array,
    *,
    title: str,
    command: str,
    data: str,
    references: Sequence[SweepReference] = (),
    notes: Sequence[str] = (),
    written: Callable[[Sweep], object] | None = None,
    progress: Progress,
) -> Sweep:
    """Run every network in all its bits, once each, on data x with its labels, and sum up what it does after each of the steps.

    `written` is given the sweep as far as it is, after every run.

    Raises:
        KdsnnError, DeployError: no network can be quantized, or one has no score per class.
        StoppedError: somebody stopped it when `written` had something.
    """
    from profilers.report.sweep import cost_axes, equal_accuracy
    from profilers.report.sweep_result import Sweep

    axes = cost_axes(
        tuple(plan.pricing.energy.values()), {c.name: c.title for c in plan.chips},
        [t for t in plan.pricing.times.values() if t.target in {c.name for c in plan.chips}], plan.own,
    )  # fmt: skip
    for network in plan.networks.values():
        proven_on(network, network.samples(x))
    runs = [(name, bits) for name in plan.networks for bits in plan.bits or (None,)]
    empty = Sweep(title, command, datetime.now(UTC).isoformat(timespec="seconds"), data, axes, ())
    found = replace(empty, references=tuple(references), notes=tuple(notes))
    told, first_error = Estimated(progress, len(runs)), None
    for index, (name, bits) in enumerate(runs):
        with _stopped(found if written else None):
            try:
                points, said = _points(plan, name, bits, x, labels, told)
            except DeployError as error:
                first_error, points = first_error or error, ()
                said = (f"{_called(name, bits)} is left out: {' '.join(str(error).split())}",)
            found = replace(
                found,
                points=(*found.points, *points),
                notes=(*found.notes, *(note for note in said if note not in found.notes)),
                missing=tuple(_called(*run) for run in runs[index + 1 :]),
            )
            found = replace(found, equal=equal_accuracy(found.points, found.references, axes))
            if written is not None and found.points:
                written(found)
    if not found.points and first_error is not None:
        raise first_error
    return found


def _points(
    plan: SweepPlan, name: str, bits: int | None, x: Array, labels: Array, progress: Progress
) -> tuple[tuple[SweepPoint, ...], tuple[str, ...]]:
    """The points of one network in some bits, by rising T, and what is to be said of them."""
    from profilers import profiling
    from profilers.counting.prefix import first_steps
    from profilers.report.sweep import sweep_point

    network = plan.networks[name]
    calibrates = plan.how.data is not None and not network.calibrated
    if bits is not None and (bits != network.bits or calibrates):
        network = requantized(network, replace(plan.how, bits=bits))
    graph, samples = network.integer, network.samples(x)
    called = _called(name, network.bits)
    progress(f"count {called}", 0, 1)
    activity, accuracies = profiling.activity(
        graph,
        samples,
        labels,
        run=planned_once(),
        group=ranks(),
        progress=lambda done, total: progress(f"count {called}", done, total),
    )
    models = tuple(plan.pricing.energy.values())
    ran, notes, points = None, [], []
    try:
        ran = run_chain(network, network.samples(some(x))[:], plan.chips)
        notes += [f"{name} {note}" for note in ran.notes]
        notes += [f"{called} {misfit}" for fitted in ran.fits for misfit in _misfit(fitted)]
    except DeployError as error:
        notes.append(f"{name} has no placement: {error}")
    for t in plan.steps or (graph.T,):
        found = [] if ran is None else _on_chips(ran, t, plan.pricing)
        deployments = [on.deployment for on in found if on.deployment is not None]
        part = first_steps(activity, t)
        points.append(sweep_point(name, network.bits, graph, part, accuracies[t - 1], models, deployments))
    return tuple(points), tuple(dict.fromkeys(notes))


def _misfit(fitted: Fit) -> Iterator[str]:
    """What keeps a network off a chip, where anything does."""
    problems = chip_fit("", fitted.target, fitted.findings).problems
    for first in problems[:1]:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        what = ": ".join(filter(None, (first.layer, first.what)))
        yield f"does not fit {fitted.target.title}: {what}{more}; `kdsnn-deploy check` says what to change."


def _on_chips(ran: ChainRun, t: int, pricing: Pricing) -> list[OnChip]:
    """What the placements of a chain say of the first t steps of its run."""
    from profilers.counting.prefix import first_steps

    chain, activity = replace(ran.chain, T=t), first_steps(ran.activity, t)
    return [
        on_chip(chain, fitted, [layer.first_steps(t) for layer in work], activity, pricing)
        for fitted, work in zip(ran.fits, ran.work, strict=True)
    ]


def _called(name: str, bits: int | None) -> str:
    return name if bits is None else f"{name} in {bits} bits"


@contextmanager
def _stopped(so_far: Sweep | None) -> Iterator[None]:
    """A stop says what is written already."""
    try:
        yield
    except KeyboardInterrupt:
        if so_far is None or not so_far.points:
            raise
        from profilers.report.cells import plural

        many = plural(len(so_far.points), "point").replace("\u00a0", " ")
        raise StoppedError(f"the sweep as far as it came is written, {many}", resumes=False) from None
