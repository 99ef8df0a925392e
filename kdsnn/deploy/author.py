"""The author's own module, run as its author meant it, with the spikes of every neuron layer kept."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, assert_never

import numpy as np
import torch
from torch import Tensor, nn

from exporters.from_torch import Calling, node_name
from exporters.from_torch.neurons import known_kind
from exporters.from_torch.readout import part_of
from exporters.from_torch.refusals import first_line
from exporters.from_torch.watching import (
    Modules,
    as_at_first,
    is_called,
    modules_of,
    put_at_rest,
    uncompiled,
    unwrapped,
)
from exporters.graph import Array, SpikingGraph
from kdsnn.errors import KdsnnError
from kdsnn.train.calling import in_eval

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

BATCH = 64
"""Samples at once."""


@dataclass(frozen=True, eq=False)
class AuthorRun:
    """What the module gave.

    Attributes:
        spikes: neuron layer of the graph → (N, T, *shape), uint8; a layer that the module writes out by hand is missing.
        output: (N, T, F), what comes back at every step; (N, 1, F) where the module returns its mean or sum.
        roundoff: unit roundoff of the type that it computed in.
    """

    spikes: Mapping[str, Array]
    output: Array
    roundoff: float


def run_author(
    module: nn.Module, graph: SpikingGraph, calling: Calling, x: Array, *, double: bool = False
) -> AuthorRun:
    """Run a module on real-valued samples x (N, *shape), or (N, T, *shape) where its input is over time.

    Args:
        module: the network, which is left as it was, at rest.
        graph: what it was lowered to; its neuron layers are kept.
        calling: how it wants to be called.
        x: the samples.
        double: run a copy of it in float64, if it can; rounding then decides nothing. Without it that is done only where the
            network cannot run in its own type, as SpikingJelly's neurons with a threshold for each channel in float32.

    Raises:
        KdsnnError: it runs in neither.
    """
    kind = own_type(module)

    def in_own_type() -> AuthorRun:
        return _run(module, graph, calling, torch.from_numpy(x).to(kind), torch.finfo(kind).eps / 2)

    def in_float64() -> AuthorRun:
        return _run(copy.deepcopy(module).double(), graph, calling, torch.from_numpy(x).double(), 2.0**-53)

    problems = []
    for attempt in (in_float64, in_own_type) if double else (in_own_type, in_float64):
        try:
            return attempt()
        except (
            Exception
        ) as error:  # a type that is written into its code, a module that cannot be copied, and whatever else
            problems.append(error)
    problem = problems[1] if double else problems[0]  # of its own type
    raise KdsnnError(
        f"{type(module).__name__}: the network itself does not run on samples, so nothing can be compared with it: "
        f"{first_line(problem)}"
    ) from problem


def own_type(module: nn.Module) -> torch.dtype:
    """The type that a module computes in."""
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)


def batch_size(calling: Calling) -> int:
    """How many samples a module is given at once."""
    return 1 if calling.alone else BATCH


def _run(module: nn.Module, graph: SpikingGraph, calling: Calling, x: Tensor, roundoff: float) -> AuthorRun:
    modules = modules_of(unwrapped(module))
    layers = {m: node_name(path, m) for path, m in modules if known_kind(m) or is_called(m, calling.declared)}
    layers = {m: name for m, name in layers.items() if name in graph.neurons}
    spikes: dict[str, list[Array]] = {name: [] for name in layers.values()}
    outputs = []
    size = batch_size(calling)
    for start in range(0, len(x), size):
        batch = x[start : start + size]
        if calling.shape:
            batch = batch.reshape(*batch.shape[:-3], *calling.shape)
        with (
            torch.inference_mode(),
            uncompiled(module),
            in_eval(module),
            _at_rest(module, modules),
            _kept(layers) as found,
        ):
            outputs.append(_called(module, graph, calling, batch))
        for layer, name in layers.items():
            spikes[name].append(_by_sample(found[name], len(batch), graph, name, getattr(layer, "step_mode", "")))
    kept = {name: np.concatenate(parts) for name, parts in spikes.items() if parts and all(p.size for p in parts)}
    return AuthorRun(kept, np.concatenate(outputs), roundoff)


def _called(module: Any, graph: SpikingGraph, calling: Calling, batch: Tensor) -> Array:
    """What comes back for one batch, (N, T, F), or (N, 1, F) where that is a mean or sum."""
    T, over_time, N = graph.T, graph.input.over_time, len(batch)
    shape = graph.shapes[graph.output_name]
    # copies, because the module may write into its input or take views that an expanded tensor refuses
    frames = batch.movedim(1, 0) if over_time else batch.unsqueeze(0).repeat(T, *[1] * batch.ndim)
    match calling.way:
        case "step":
            steps = [_laid_out(_chosen(module(x.clone()), calling), N, *shape) for x in frames]
            return torch.stack(steps, 1).double().cpu().numpy()
        case "image":
            back = _chosen(module(batch.clone()), calling)
        case "frames":
            back = _chosen(module(frames.clone()), calling)
        case "frames, samples first":
            back = _chosen(module(frames.transpose(0, 1).clone()), calling)
        case "frames, time last":
            back = _chosen(module(frames.movedim(0, -1).clone()), calling)
        case _:
            assert_never(calling.way)
    match calling.returned:
        case "steps":
            back = _laid_out(back, T, N, *shape).movedim(0, 1)
        case "steps, samples first":
            back = _laid_out(back, N, T, *shape)
        case "steps, time last":
            back = _laid_out(back, N, *shape, T).movedim(-1, 1)
        case "steps, flattened":
            back = _laid_out(back, T, N, *shape).movedim(0, 1)
        case "mean" | "sum":
            back = _laid_out(back, N, 1, *shape)
        case _:
            assert_never(calling.returned)
    return back.double().cpu().numpy()


def _chosen(result: Any, calling: Calling) -> Tensor:
    """The one tensor of what came back; a list of T of them is one of every step."""
    for key in () if calling.output is None else str(calling.output).split("."):
        result = part_of(result, key)
    if isinstance(result, Sequence):
        result = result[0] if len(result) == 1 else torch.stack(list(result))
    found: Tensor = result
    return found


def _laid_out(back: Tensor, *shape: int) -> Tensor:
    """What came back with the axes that the graph's output has; it lacks some where the module squeezes a batch of one sample.

    What has another number of elements is left for the comparison to say.
    """
    return back.reshape(shape) if back.numel() == math.prod(shape) else back


@contextmanager
def _at_rest(module: nn.Module, modules: Modules) -> Iterator[None]:
    put_at_rest(modules)
    try:
        with as_at_first(module):  # neurons of the user's own may keep their membranes where no reset knows them
            yield
    finally:
        put_at_rest(modules)


@contextmanager
def _kept(layers: Mapping[nn.Module, str]) -> Iterator[dict[str, list[Array]]]:
    """What the layers give at each of their calls, before hooks of the user's own may change it."""
    found: dict[str, list[Array]] = {name: [] for name in layers.values()}

    def keep(module: Any, args: Any, spikes: Tensor) -> None:
        found[layers[module]].append(spikes.to(torch.uint8).cpu().numpy())

    hooks: list[RemovableHandle] = [m.register_forward_hook(keep, prepend=True) for m in layers]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _by_sample(calls: list[Array], samples: int, graph: SpikingGraph, name: str, step_mode: str) -> Array:
    """T calls with arrays (N, …), or one for all steps with an array (T, N, …), as (N, T, …); nothing for another number of calls.

    Neurons of the user's own have no step mode; what they gave tells how they were called.
    """
    T, layer = graph.T, math.prod(graph.shapes[name])
    many = step_mode == "m" or (not step_mode and len(calls) == 1 and calls[0].size == T * samples * layer)
    if len(calls) != (1 if many else T):
        return np.zeros(0, np.uint8)
    found = (
        calls[0].reshape(T, samples, -1).swapaxes(0, 1)
        if many
        else np.stack([call.reshape(samples, -1) for call in calls], 1)
    )
    return found.reshape(samples, T, *graph.shapes[name])
