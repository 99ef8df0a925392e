"""What the network returns, as what the graph gives: spikes or currents of every step, or their mean or sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from exporters.from_torch.decode import Read, UndecodableError, reads_of, shift_of
from exporters.from_torch.delays import in_time
from exporters.from_torch.leaking import StepsError, StepSum, membrane_of_steps, step_sum
from exporters.from_torch.lowering import Lowering
from exporters.from_torch.refusals import ONE_TENSOR, LoweringError, SeveralOutputsError, user_line
from exporters.from_torch.steps import arriving, neuron_shape, shift_for
from exporters.from_torch.symbolic import Symbolic
from exporters.from_torch.synapses import placed_current
from exporters.from_torch.unknown import unknown_of
from exporters.from_torch.values import Affine, concatenated, laid_out
from exporters.graph import Array, Flatten, Output, Shape

Chosen = int | str | None
"""Which of several outputs: an index, a key or the name of a field, or a path of such ("logits", "0.spikes"); None where there is
but one."""

Returned = Literal["steps", "steps, samples first", "steps, time last", "steps, flattened", "mean", "sum"]
"""What comes back: (T, N, …), (N, T, …), (N, …, T), (T·N, …), or the mean or a sum over time, (N, …): of a membrane too, which
is at its end a sum in which it leaks."""


INDEPENDENT = "what its forward returns does not depend on its input"

PLAIN = Output("membrane")
"""The membrane that sums the currents that arrive."""


@dataclass(frozen=True)
class Answer:
    """What the network returns is `returned`; its mean over time (or itself, if that is a mean or sum) is factor · the graph's score."""

    returned: Returned
    factor: float = 1.0


def chosen(lowering: Lowering, result: Any, output: Chosen) -> Symbolic:
    """The one tensor of what a network returned.

    Raises:
        SeveralOutputsError: it returned several and none was chosen, or one that is not there.
        LoweringError: what was chosen does not depend on the input.
    """
    for key in () if output is None else str(output).split("."):
        try:
            result = part_of(result, key)
        except (KeyError, IndexError, ValueError, TypeError, AttributeError):
            raise _several(
                lowering, result, f"its forward returns {_described(result)}, which has no output {key!r}"
            ) from None
    if isinstance(result, Sequence) and len(result) == 1:
        result = result[0]
    if isinstance(result, Sequence) and len(result) == lowering.T:
        result = _of_each_step(lowering, result)
    if result is None:
        raise lowering.error("its forward returns nothing; return the spikes or currents of its last layer")
    if not isinstance(result, torch.Tensor):
        raise _several(
            lowering, result, f"its forward returns {_described(result)}; choose one tensor of it with output="
        )
    if isinstance(result, Symbolic) and result.refusal:
        raise lowering.error(result.refusal)
    if not isinstance(result, Symbolic):
        raise lowering.error(INDEPENDENT)
    return result


def part_of(result: Any, key: str) -> Any:
    """One of several outputs: by its place in a list or tuple, the name of a tuple's field, or its key.

    Raises:
        KeyError, IndexError, ValueError, TypeError, AttributeError: there is no such output.
    """
    if isinstance(result, torch.Tensor):
        raise TypeError("a tensor is one output")
    if isinstance(result, Sequence) and key not in getattr(result, "_fields", ()):
        return result[int(key)]
    return result[key] if hasattr(result, "__getitem__") and not isinstance(result, tuple) else getattr(result, key)


def _several(lowering: Lowering, result: Any, problem: str) -> SeveralOutputsError:
    return SeveralOutputsError(
        f"{lowering.where}: {problem}{user_line()}", _described(result) + _not_steps(lowering, result)
    )


def _described(result: Any) -> str:
    if isinstance(result, torch.Tensor):
        return ONE_TENSOR
    kind = type(result).__name__
    if isinstance(result, Mapping):
        return f"a {kind} with {', '.join(map(repr, result))}"
    if hasattr(result, "_fields"):
        return f"a {kind} with {', '.join(map(repr, result._fields))}"
    if isinstance(result, Sequence):
        return f"a {kind} of {len(result)}"
    return f"a {kind} with {', '.join(map(repr, vars(result)))}" if hasattr(result, "__dict__") else f"a {kind}"


def _not_steps(lowering: Lowering, result: Any) -> str:
    """What to add where as many tensors come back as there are steps, and they are not those of the steps."""
    if not isinstance(result, Sequence) or len(result) != lowering.T or lowering.T == 1:
        return ""
    return ", which are not the spikes or currents of its steps (a membrane, say, that is read while it leaks)"


def _of_each_step(lowering: Lowering, parts: Sequence[Any]) -> Any:
    """A list of T outputs as one tensor, if each is of its own step."""
    if not all(isinstance(p, Symbolic) and not p.refusal for p in parts) or len({tuple(p.shape) for p in parts}) > 1:
        return parts
    value = concatenated([laid_out(p.value, lambda t: t.unsqueeze(0)) for p in parts], 0)
    rows = laid_out(value, lambda t: t.flatten(0, 1))
    try:
        arriving(lowering, (), reads_of(rows), 0, lowering.T, "output")
    except (LoweringError, UndecodableError):
        if _membrane(lowering, rows) is None:
            return parts
    return Symbolic(torch.stack([p.shadow for p in parts]), value, lowering)


def _membrane(lowering: Lowering, rows: Affine) -> StepSum | None:
    """The membrane that the rows (T·N, …) are at every step, or None."""
    try:
        return membrane_of_steps(rows, lowering.T, lowering.samples)
    except UndecodableError:
        return None


def read_out(lowering: Lowering, value: Affine) -> Answer:
    """Add the output to the graph.

    Raises:
        LoweringError: what comes back is neither spikes or currents of every step, nor their mean or sum.
    """
    if (unknown := unknown_of([value])) is not None:
        raise unknown
    if value.is_constant:
        raise lowering.error(INDEPENDENT)
    T, N, shape = lowering.T, lowering.samples, value.shape
    layouts: list[tuple[Returned, Affine]] = []
    if len(shape) > 2 and shape[:2] == (T, N):
        layouts.append(("steps", laid_out(value, lambda t: t.flatten(0, 1))))
    if len(shape) > 2 and shape[:2] == (N, T):
        layouts.append(("steps, samples first", laid_out(value, lambda t: t.transpose(0, 1).flatten(0, 1))))
    if len(shape) > 2 and (shape[0], shape[-1]) == (N, T):
        layouts.append(("steps, time last", laid_out(value, lambda t: t.movedim(-1, 0).flatten(0, 1))))
    if len(shape) > 1 and shape[0] == T * N and T > 1:
        layouts.append(("steps, flattened", value))
    problem: Exception | None = None
    for returned, rows in layouts:
        arrivals = None
        try:
            reads, shift = reads_of(rows), shift_of(rows)
            arrivals = arriving(lowering, (), reads, 0, T, "output")
        except (LoweringError, UndecodableError) as error:
            problem = problem or error
        else:
            if not any(arrival.lag for arrival in arrivals):
                return _finished(lowering, reads, shift, rows.shape[1:], Answer(returned))
        if (found := _membrane(lowering, rows)) is not None:
            node = Output("membrane", 1.0, found.leak, found.score)
            return _finished(lowering, list(found.reads), found.shift, rows.shape[1:], Answer(returned), node)
        if arrivals is not None:
            return _finished(lowering, in_time(lowering, arrivals), shift, rows.shape[1:], Answer(returned))
    if len(shape) > 1 and shape[0] == N:
        try:
            return _collapsed(lowering, reads_of(value), shift_of(value), shape[1:])
        except UndecodableError as error:
            problem = error
    reason = f": {problem}" if problem else ""
    raise lowering.error(
        f"it returns a tensor of shape {tuple(shape)} for {T} steps of {N} samples{reason}; wanted are spikes or currents of "
        "each step, (T, N, K) or (N, K) a step, or their mean or sum over time"
    )


def _collapsed(lowering: Lowering, reads: list[Read], shift: float | Array, shape: Shape) -> Answer:
    """(N, …): what is left of all steps must be their sum, weighed as a membrane does."""
    T = lowering.T
    try:
        found = step_sum(reads, shift, T, lowering.samples)
    except StepsError as error:
        raise lowering.error(f"what it returns {error}") from error
    moving = next((read for read in found.reads if not read.origin.is_static), None)
    if moving is None:
        return _finished(lowering, list(found.reads), shift, shape, Answer("mean"))
    weight = float(np.ravel(moving.scale)[0])
    if abs(weight - 1) < 1e-9 or (found.leak < 1 and found.score == "last"):
        factor = float(T)
    elif found.leak < 1 or found.score == "mean" or abs(weight * T - 1) < 1e-9:
        factor = 1.0
    else:
        factor = weight * T
    # Σ_t w_t·x_t·scale + shift = factor · score of x_t·scale·T/factor + shift·T/(Σ_t w_t·factor), which the graph computes
    gain = T / factor
    lasting = float(found.weights.sum()) / gain
    scaled = [
        replace(r, scale=_snapped(r.scale / lasting if r.origin.is_static else r.scale * gain)) for r in found.reads
    ]
    answer = Answer("mean" if factor == 1 else "sum", factor)
    node = Output("membrane", 1.0, found.leak, found.score)
    return _finished(lowering, scaled, shift / lasting, shape, answer, node)


def _snapped(scale: float | Array) -> float | Array:
    return 1.0 if bool(np.allclose(scale, 1, rtol=1e-12, atol=0)) else scale


def _finished(
    lowering: Lowering, reads: list[Read], shift: float | Array, shape: Shape, answer: Answer, node: Output = PLAIN
) -> Answer:
    """The output node: a rate where it is the plain sum of the spikes of one layer, else the membrane of what arrives."""
    first = reads[0]
    if (
        node.sums
        and len(reads) == 1
        and first.origin.nodes
        and first.origin.nodes[0] in lowering.firing
        and first.features is None
        and isinstance(first.scale, float)
        and first.scale > 0
        and not np.any(shift)
    ):
        lowering.builder.add(
            "output", Output("rate"), _as_flat(lowering, first, first.origin.nodes, first.origin.shape, shape)
        )
        return replace(answer, factor=answer.factor * first.scale)
    inner = neuron_shape(reads, shape)
    nodes = placed_current(lowering, reads, shift_for(shift, shape, inner), "output", inner)
    lowering.builder.add("output", node, _as_flat(lowering, first, nodes, inner, shape))
    return answer


def _as_flat(lowering: Lowering, read: Read, nodes: Sequence[str], inner: Shape, shape: Shape) -> Sequence[str]:
    """The nodes that the output reads, of shape `inner`, behind a Flatten where the network returns their maps as features."""
    if len(shape) > 1 or len(inner) == 1:
        return nodes
    return (lowering.builder.add(read.flat or "output.flatten", Flatten(), nodes),)
