"""Steps of neurons: which come next, and the shape that their layer has in the graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from exporters.from_torch.decode import Read
from exporters.from_torch.lowering import Lowering
from exporters.graph import Array, Shape


def require_steps(lowering: Lowering, reads: Sequence[Read], done: int, steps: int, name: str) -> None:
    """The rows of what neurons read must be the samples of the steps that come next.

    Raises:
        LoweringError: they are not, or all of T were done.
    """
    samples = lowering.samples
    expected = torch.arange(done * samples, (done + steps) * samples)
    _require_one_time(lowering, reads, steps, name)
    moving = [read for read in reads if not read.origin.is_static]
    for read in reads:
        if len(read.rows) != len(expected) or (
            read.origin.is_static and not torch.equal(read.rows, expected % samples)
        ):
            raise lowering.error("the samples of its input are out of order", name)
    late = [read for read in moving if not torch.equal(read.rows, expected)]
    if late:
        found = sorted({int(r) // samples + 1 for r in late[0].rows})
        if steps == 1 and found[0] <= done:
            if len(late) < len(moving):
                raise lowering.error(
                    f"at step {done + 1} its input holds step {found[0]} of {late[0].origin.name}: connections back in time "
                    "(recurrence, delays) have no counterpart",
                    name,
                )
            raise lowering.error(
                f"its call {done + 1} reads step {found[0]}: this neuron layer is called twice per step and would share its membrane "
                "(use two layers), or connections lead back in time (which have no counterpart)",
                name,
            )
        raise lowering.error(
            f"its input holds step {_listed(found)} where step {_listed([done + 1 + i for i in range(steps)])} of "
            f"{samples} samples is due; time must come first and in order",
            name,
        )
    if done + steps > lowering.T:
        raise lowering.error(
            f"it runs {done + steps} steps, but T is {lowering.T}: the network has an own number of steps, or calls it "
            "twice per step; make them the same",
            name,
        )


def _require_one_time(lowering: Lowering, reads: Sequence[Read], steps: int, name: str) -> None:
    """No row may hold several steps of one layer, as a mean over time does."""
    times: dict[int, set[int]] = {}
    for read in reads:
        if not read.origin.is_static:
            times.setdefault(id(read.origin), set()).update(int(r) // lowering.samples for r in read.rows)
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
