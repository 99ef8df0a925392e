"""Steps of neurons: what arrives at each, now and from earlier steps, and the shape that their layer has in the graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from exporters.from_torch.decode import Arrival, Read, same_numbers
from exporters.from_torch.leaking import CLOSE
from exporters.from_torch.lowering import Lowering
from exporters.from_torch.refusals import LoweringError
from exporters.from_torch.values import NOTHING
from exporters.graph import Array, Shape

MIXED_SAMPLES = "it mixes the samples of a batch, or takes them for time steps; each has to stay by itself"

ANOTHER_CURRENT = (
    "it reads another current than at its first: it is called twice per step and would share its membrane, or the network "
    "changes over time; use one neuron layer for each"
)


def arriving(
    lowering: Lowering,
    known: Sequence[Arrival],
    reads: Sequence[Read],
    done: int,
    steps: int,
    name: str,
    changed: str = ANOTHER_CURRENT,
) -> tuple[Arrival, ...]:
    """What arrives at neurons, once some more of their steps are known: what they read at these must go on as it began.

    Args:
        lowering: the state.
        known: what arrived at the steps before.
        reads: what is read at the next ones, row by row.
        done: the steps before.
        steps: the next ones.
        name: of the neurons, for messages.
        changed: what to say where another current arrives than at first.

    Raises:
        LoweringError: the rows are not the samples of the steps that come next or of earlier ones, what they hold differs from
            step to step, or all of T were done.
    """
    found = [Arrival(read, _lag(lowering, read, reads, done, steps, name)) for read in reads]
    if done + steps > lowering.T:
        raise lowering.error(
            f"it runs {done + steps} steps, but T is {lowering.T}: the network has an own number of steps, or calls it "
            "twice per step; make them the same",
            name,
        )
    due = [arrival for arrival in known if arrival.lag < done + steps]
    new = []
    for arrival in found:
        same = next((other for other in due if _is_same(arrival, other)), None)
        if same is not None:
            due.remove(same)
        elif arrival.lag >= done:
            new.append(arrival)
        else:
            raise _changed(lowering, found, arrival, done, name, changed)
    if due:
        raise _changed(lowering, found, due[0], done, name, changed)
    return (*known, *new)


def _lag(lowering: Lowering, read: Read, reads: Sequence[Read], done: int, steps: int, name: str) -> int:
    """By how many steps a read comes later than what it is of."""
    samples, rows = lowering.samples, read.rows
    expected = torch.arange(done * samples, (done + steps) * samples)
    held = rows != NOTHING
    if len(rows) != len(expected):
        raise lowering.error(MIXED_SAMPLES, name)
    if read.origin.is_static:
        if not bool(held.all()):
            raise lowering.error(
                "it reads an image that is the same at every step, but not at its first steps; a delay has a counterpart behind "
                "neurons alone",
                name,
            )
        if not torch.equal(rows, expected % samples):
            raise lowering.error(MIXED_SAMPLES, name)
        return 0
    at = int(held.int().argmax())
    behind = int(expected[at] - rows[at])
    later = torch.where(expected >= behind, expected - behind, NOTHING)
    if behind >= 0 and behind % samples == 0 and torch.equal(rows, later):
        return behind // samples
    _require_one_time(lowering, reads, steps, name)
    found = list(dict.fromkeys(int(r) // samples + 1 for r in rows[held]))
    if sorted(found) == [done + 1 + i for i in range(steps)] and found == sorted(found):
        raise lowering.error(MIXED_SAMPLES, name)
    raise lowering.error(
        f"its input holds step {_listed(found)} where step {_listed([done + 1 + i for i in range(steps)])} of "
        f"{samples} samples is due; time must come first and in order",
        name,
    )


def _is_same(a: Arrival, b: Arrival) -> bool:
    """Whether two arrivals are of the same origin, as much later, with the same factors but for rounding."""
    return (
        a.read.origin is b.read.origin
        and a.lag == b.lag
        and same_numbers(a.read.features, b.read.features)
        and np.shape(a.read.scale) == np.shape(b.read.scale)
        and bool(np.allclose(a.read.scale, b.read.scale, rtol=CLOSE, atol=0))
    )


def _changed(
    lowering: Lowering, found: Sequence[Arrival], wrong: Arrival, done: int, name: str, changed: str
) -> LoweringError:
    """Why what arrives at a step does not go on as it began."""
    moving = [arrival for arrival in found if not arrival.read.origin.is_static]
    if moving and done and all(arrival.lag for arrival in moving) and not wrong.lag:
        return lowering.error(
            f"its call {done + 1} reads step {done + 1 - moving[0].lag}: this neuron layer is called twice per step and would share "
            "its membrane (use two layers), or at some steps nothing new arrives",
            name,
        )
    if wrong.lag:
        return lowering.error(
            f"at step {done + 1} what it reads of earlier steps ({wrong.read.origin.name}, {wrong.lag} before) is not what it was; "
            "what a network carries on must be carried at every step, from the first that there is, with the same weights",
            name,
        )
    return lowering.error(f"at step {done + 1} {changed}", name)


def _require_one_time(lowering: Lowering, reads: Sequence[Read], steps: int, name: str) -> None:
    """No row may hold several steps of one layer, as a mean over time does."""
    times: dict[int, set[int]] = {}
    for read in reads:
        if not read.origin.is_static:
            held = read.rows[read.rows != NOTHING]
            times.setdefault(id(read.origin), set()).update(int(r) // lowering.samples for r in held)
    summed = next((r.origin for r in reads if len(times.get(id(r.origin), ())) > steps), None)
    if summed is not None:
        raise lowering.error(
            f"its input is a sum or mean over time steps of {summed.name}: neurons behind it run one step on rates, where those "
            "of a graph run T steps on spikes; take the mean at the end",
            name,
        )


def _listed(steps: Sequence[int]) -> str:
    if len(steps) > 4 and list(steps) == list(range(steps[0], steps[-1] + 1)):
        return f"{steps[0]} to {steps[-1]}"
    return ", ".join(map(str, steps))


def neuron_shape(reads: Sequence[Read], shape: Shape) -> Shape:
    """The shape of a layer of neurons in the graph: that of what it reads, whichever way the network lays it out."""
    shapes = {read.origin.shape for read in reads if read.features is None}
    if len(shapes) == 1 and all(read.features is None for read in reads):
        return shapes.pop()
    return shape if len(shape) in (1, 3) else (int(np.prod(shape)),)


def shift_for(shift: float | Array, shape: Shape, inner: Shape) -> float | Array:
    """A shift in the network's layout of a layer, in that of the graph."""
    if not isinstance(shift, np.ndarray) or inner == shape:
        return shift
    return np.broadcast_to(shift, shape).reshape(inner)
