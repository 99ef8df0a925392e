"""Membranes that never fire, as the sums over time that they are: what they keep from step to step shows in the weights.

A membrane v_t = a·v_{t−1} + x_t is Σ a^(t−s)·x_s. Read after the last of T steps it weighs the steps by a^(T−s); its mean
over time weighs them by 1 + a + … + a^(T−s). So neither a class nor its attributes are looked at.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from exporters.from_torch.decode import Read, UndecodableError, reads_of, shift_of
from exporters.from_torch.lowering import as_bytes
from exporters.from_torch.values import Affine, laid_out, tidied
from exporters.graph import Array
from exporters.graph.nodes import Score

CLOSE = 1e-9
"""Relative differences that float64 arithmetic leaves."""

Numbers = float | Array


class StepsError(UndecodableError):
    """A sum over time misses a step, or weighs the steps as no membrane does; the message continues "what it returns …"."""


@dataclass(frozen=True, eq=False)
class StepSum:
    """A sum over time, all of whose layers weigh the T steps alike.

    Attributes:
        reads: of the last step, and of what is the same at every step.
        shift: what is added.
        weights: of the T steps, relative to the last.
        leak: what a membrane that weighs them so keeps from step to step; 1 for a plain sum.
        score: whether it is read at the end or is the mean of what it was.
    """

    reads: tuple[Read, ...]
    shift: Numbers
    weights: Array
    leak: float
    score: Score


def step_sum(reads: Sequence[Read], shift: Numbers, T: int, samples: int) -> StepSum:
    """What is left of all steps, as a sum over them.

    Raises:
        StepsError: it misses a step, or weighs them as no membrane does.
        UndecodableError: it mixes steps or samples.
    """
    kept, scales, static = _by_step(reads, samples)
    weights = np.ones(T)
    for k, key in enumerate(scales):
        found = scales[key]
        if sorted(found) != list(range(T)):
            listed = ", ".join(str(t + 1) for t in sorted(found))
            raise StepsError(f"is of step {listed} alone, of {T}; return every step, or the mean or sum over time")
        own = np.array([_ratio(found[t], found[T - 1]) for t in range(T)])
        if k and not np.allclose(own, weights, rtol=CLOSE, atol=0):
            raise StepsError("weighs the steps of different layers differently")
        weights = own
    leak, score = _leak_of(weights)
    moving = [replace(kept[key], scale=scales[key][T - 1]) for key in scales]
    return StepSum((*moving, *static), shift, weights, leak, score)


def membrane_of_steps(rows: Affine, T: int, samples: int) -> StepSum:
    """The rows (T·N, *features) of a membrane at every step, as its current; the score is its mean.

    The reads of the result, and its shift, are those of one step's current.

    Raises:
        UndecodableError: they are not that.
    """
    last: StepSum | None = None
    for t in reversed(range(T)):
        part = tidied(laid_out(rows, lambda i, t=t: i[t * samples : (t + 1) * samples]))  # type: ignore[misc]
        found = step_sum(reads_of(part), shift_of(part), t + 1, samples)
        own = _as_current(found)
        if last is None:
            if found.score != "last" or not any(not r.origin.is_static for r in found.reads):
                raise UndecodableError("it is no membrane of what arrives at each step")
            last = own
        elif not (np.allclose(found.weights, last.weights[-t - 1 :], rtol=CLOSE, atol=0) and _same(own, last)):
            raise StepsError("weighs the steps differently, but not as a membrane that leaks")
    assert last is not None
    return replace(last, score="mean")


def _as_current(found: StepSum) -> StepSum:
    """What is the same at every step, and has added up in the membrane, as what arrives at one."""
    total = float(found.weights.sum())
    reads = tuple(replace(r, scale=r.scale / total) if r.origin.is_static else r for r in found.reads)
    return replace(found, reads=reads, shift=found.shift / total)


def _same(a: StepSum, b: StepSum) -> bool:
    numbers = {_key(r): r.scale for r in a.reads}
    return (
        numbers.keys() == {_key(r) for r in b.reads}
        and all(_close(numbers[_key(r)], r.scale) for r in b.reads)
        and _close(a.shift, b.shift)
    )


def _close(a: Numbers, b: Numbers) -> bool:
    return bool(np.allclose(a, b, rtol=CLOSE, atol=CLOSE * float(np.abs(b).max())))


def _by_step(
    reads: Sequence[Read], samples: int
) -> tuple[dict[Hashable, Read], dict[Hashable, dict[int, Numbers]], Iterator[Read]]:
    """One read of each layer, its weights by step, and what is the same at every step."""
    kept: dict[Hashable, Read] = {}
    scales: dict[Hashable, dict[int, Numbers]] = {}
    constant: dict[Hashable, Read] = {}
    for read in reads:
        if not torch.equal(read.rows % samples, torch.arange(samples)):
            raise UndecodableError("it mixes time steps or samples")
        step, key = int(read.rows[0]) // samples, _key(read)
        if step != int(read.rows[-1]) // samples:
            raise UndecodableError("it mixes time steps or samples")
        if read.origin.is_static:
            before = constant.get(key)
            constant[key] = read if before is None else replace(before, scale=before.scale + read.scale)
            continue
        kept.setdefault(key, read)
        found = scales.setdefault(key, {})
        found[step] = found[step] + read.scale if step in found else read.scale
    return kept, scales, iter(constant.values())


def _key(read: Read) -> Hashable:
    return (id(read.origin), as_bytes(read.features))


def _ratio(scale: Numbers, last: Numbers) -> float:
    """scale = ratio · last, one ratio for all features."""
    a, b = np.broadcast_arrays(np.asarray(scale, np.float64), np.asarray(last, np.float64))
    at = np.unravel_index(int(np.abs(b).argmax()), b.shape)
    if b[at] == 0:
        raise StepsError("does not depend on the last step")
    ratio = float(a[at] / b[at])
    if not np.allclose(a, ratio * b, rtol=CLOSE, atol=CLOSE * abs(float(a[at]))):
        raise StepsError("weighs the steps of different neurons differently")
    return ratio


def _leak_of(weights: Array) -> tuple[float, Score]:
    """What a membrane keeps from step to step, and whether it is read at the end or its mean."""
    T = len(weights)
    if np.allclose(weights, 1, rtol=CLOSE, atol=0):
        return 1.0, "last"
    powers = np.arange(T - 1, -1, -1)
    leak = float(weights[-2])
    if 0 < leak < 1 and np.allclose(weights, leak**powers, rtol=CLOSE, atol=0):
        return leak, "last"
    leak = 1.0 if abs(weights[-2] - 2) < CLOSE else float(weights[-2]) - 1
    if 0 < leak <= 1 and np.allclose(weights, np.cumsum(leak ** np.arange(T))[::-1], rtol=CLOSE, atol=0):
        return leak, "mean"
    raise StepsError("weighs the steps differently, and not as a membrane does at its end or in the mean")
