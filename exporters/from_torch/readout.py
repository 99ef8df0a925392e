"""What the network returns, as what the graph gives: spikes or currents of every step, or their mean or sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from exporters.from_torch.decode import Read, UndecodableError, grouped, reads_of, shift_of
from exporters.from_torch.lowering import Lowering, as_bytes
from exporters.from_torch.neurons import neuron_shape, require_steps
from exporters.from_torch.symbolic import Symbolic
from exporters.from_torch.synapses import current, place
from exporters.from_torch.values import Affine, concatenated, laid_out, scaled
from exporters.graph import Array, Output

Chosen = int | str | None


def chosen(lowering: Lowering, result: Any, output: Chosen) -> Symbolic:
    """The one tensor of what a network returned.

    Raises:
        LoweringError: it returned several and none was chosen, or none that depends on the input.
    """
    if output is not None:
        found = result
        for key in str(output).split("."):
            try:
                found = found[int(key)] if isinstance(found, Sequence) else found[key]
            except (KeyError, IndexError, ValueError, TypeError):
                raise lowering.error(f"it returns {_described(result)}, which has no output {output!r}") from None
        result = found
    if isinstance(result, Sequence) and len(result) == 1:
        result = result[0]
    if isinstance(result, Sequence) and len(result) == lowering.T > 1:
        steps = [r for r in result if isinstance(r, Symbolic)]
        if len(steps) == lowering.T and len({tuple(s.shape) for s in steps}) == 1:
            value = concatenated([laid_out(s.value, lambda t: t.unsqueeze(0)) for s in steps], 0)
            shadow = torch.stack([s.shadow for s in steps])
            if _is_each_step(lowering, value):
                return Symbolic(shadow, value, lowering)
    if isinstance(result, Symbolic):
        if result.refusal:
            raise lowering.error(result.refusal)
        if result.value.is_constant:
            raise lowering.error("what it returns does not depend on its input")
        return result
    if isinstance(result, torch.Tensor):
        raise lowering.error("what it returns does not depend on its input")
    raise lowering.error(f"its forward returns {_described(result)}; choose one tensor with output=")


def _described(result: Any) -> str:
    if isinstance(result, Mapping):
        return f"a {type(result).__name__} of {', '.join(map(repr, result))}"
    if isinstance(result, Sequence):
        return f"a {type(result).__name__} of {len(result)}"
    return f"a {type(result).__name__}"


def _is_each_step(lowering: Lowering, value: Affine) -> bool:
    try:
        reads = reads_of(laid_out(value, lambda t: t.flatten(0, 1)))
        require_steps(lowering, reads, 0, lowering.T, "")
    except Exception:
        return False
    return True


def read_out(lowering: Lowering, value: Affine) -> dict[str, Any]:
    """Add the output to the graph. Returns how what the network gives relates to the graph's score.

    The keys are "output": "steps" (T, N, …), "steps, samples first" (N, T, …), "mean" or "sum" over time; and "factor":
    what the score (the mean over time) is to be multiplied with to give what the network gives.

    Raises:
        LoweringError: what it returns is neither.
    """
    T, N = lowering.T, lowering.samples
    shape = value.shape
    problems = []
    layouts = []
    if shape[:2] == (T, N) and len(shape) > 2:
        layouts.append(("steps", laid_out(value, lambda t: t.flatten(0, 1))))
    if shape[:2] == (N, T) and len(shape) > 2:
        layouts.append(("steps, samples first", laid_out(value, lambda t: t.transpose(0, 1).flatten(0, 1))))
    if shape[:1] == (T * N,) and T > 1:
        layouts.append(("steps, flattened", value))
    if shape[:1] == (N,) and len(shape) > 1:
        layouts.append(("once", value))
    for name, rows in layouts:
        try:
            reads, shift = reads_of(rows), shift_of(rows)
        except UndecodableError as error:
            problems.append(str(error))
            continue
        if name != "once":
            try:
                require_steps(lowering, reads, 0, T, "output")
            except Exception as error:
                problems.append(str(error))
                continue
            return _finish(lowering, reads, shift, rows.shape[1:], name, 1.0)
        return _collapsed(lowering, reads, shift, rows.shape[1:])
    reason = f": {problems[0]}" if problems else ""
    raise lowering.error(
        f"it returns a tensor of shape {tuple(shape)} for {T} steps of {N} samples{reason}; wanted are spikes or currents of "
        "each step, (T, N, K) or (N, K) a step, or their mean or sum over time"
    )


def _collapsed(lowering: Lowering, reads: list[Read], shift: float | Array, shape: tuple[int, ...]) -> dict[str, Any]:
    """(N, …): what is left of all steps must be their sum, all of one weight."""
    T, N = lowering.T, lowering.samples
    kept: list[Read] = []
    steps: dict[Any, list[int]] = {}
    samples = torch.arange(N)
    for read in reads:
        if not torch.equal(read.rows % N, samples) or len({int(r) // N for r in read.rows}) != 1:
            raise lowering.error("what it returns mixes time steps or samples")
        key = (id(read.source), as_bytes(read.features))
        if key not in steps:
            kept.append(read)
        steps.setdefault(key, []).append((int(read.rows[0]) // N, as_bytes(read.scale)))
    static = all(read.source.is_static for read in reads)
    if static:
        return _finish(lowering, reads, shift, shape, "mean", 1.0)
    for read in kept:
        if read.source.is_static:
            continue
        found = steps[(id(read.source), as_bytes(read.features))]
        times = sorted(t for t, _ in found)
        if times != list(range(T)):
            raise lowering.error(
                f"what it returns is of step {', '.join(str(t + 1) for t in times)} alone, of {T}; return every step, or "
                "the mean or sum over time"
            )
        if len({s for _, s in found}) > 1:
            raise lowering.error(
                "what it returns weighs the steps differently (as a leaky membrane that is read at the end does); the graph's "
                "read-outs are plain sums over time"
            )
    numbers = [float(np.ravel(r.scale)[0]) for r in kept if not r.source.is_static]
    weight = numbers[0]
    factor = 1.0 if abs(weight * T - 1) < 1e-9 else float(T) if abs(weight - 1) < 1e-9 else weight * T
    word = "mean" if factor == 1.0 else "sum"
    # out = Σ_t weight·x_t + shift = factor·mean_t(x_t·weight·T/factor + shift/factor)
    again = []
    for read in kept:
        scale = read.scale / factor if read.source.is_static else read.scale * (T / factor)
        if not read.source.is_static and np.allclose(scale, 1, rtol=1e-12, atol=0):
            scale = 1.0
        again.append(Read(read.source, read.rows, read.features, scale, read.label, read.flat))
    return _finish(lowering, again, shift / factor, shape, word, factor)


def _finish(
    lowering: Lowering, reads: list[Read], shift: float | Array, shape: tuple[int, ...], word: str, factor: float
) -> dict[str, Any]:
    only = reads[0]
    is_rate = (
        len(reads) == 1
        and only.source.is_binary
        and only.features is None
        and len(only.source.nodes) == 1
        and only.source.nodes[0] in lowering.fires
        and isinstance(only.scale, float)
        and only.scale > 0
        and not np.any(shift)
    )
    if is_rate:
        assert isinstance(only.scale, float)
        lowering.builder.add("output", Output("rate"), only.source.nodes)
        return {"output": word, "factor": factor * only.scale}
    inner = neuron_shape(reads, shape)
    if isinstance(shift, np.ndarray) and inner != shape:
        shift = np.broadcast_to(shift, shape).reshape(inner)
    what = current(lowering, reads, shift, "output", inner)
    lowering.builder.add("output", Output("membrane"), place(lowering, what))
    return {"output": word, "factor": factor}


_ = (grouped, scaled)
