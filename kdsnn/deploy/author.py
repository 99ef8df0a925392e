"""The author's own module, run as its author meant it, with the spikes of every neuron layer kept."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from exporters.from_torch.calling import Calling, named, unwrapped
from exporters.from_torch.neurons import known_kind
from exporters.from_torch.refusals import node_name
from torch import Tensor, nn

from exporters.graph import Array, SpikingGraph

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

BATCH = 64
"""Samples at once."""


@dataclass(frozen=True, eq=False)
class AuthorRun:
    """What the module gave.

    Attributes:
        spikes: neuron layer of the graph → (N, T, *shape), uint8; a layer that the module writes out by hand is missing.
        output: (N, T, F), what comes back at every step; (N, 1, F), its mean, where the module returns that or its sum.
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
        double: run a copy of it in float64, if it can; rounding then decides nothing.

    Raises:
        Whatever the module raises.
    """
    if double:
        try:
            return _run(copy.deepcopy(module).double(), graph, calling, x.astype(np.float64), 2.0**-53)
        except Exception:  # a type that is written into its code, or a module that cannot be copied
            pass
    kind = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    return _run(module, graph, calling, torch.from_numpy(x).to(kind).numpy(), torch.finfo(kind).eps / 2)


def _run(module: nn.Module, graph: SpikingGraph, calling: Calling, x: Array, roundoff: float) -> AuthorRun:
    layers = {m: node_name(path, m) for path, m in named(unwrapped(module)) if known_kind(m)}
    layers = {m: name for m, name in layers.items() if name in graph.neurons}
    spikes: dict[str, list[Array]] = {name: [] for name in layers.values()}
    outputs = []
    for start in range(0, len(x), BATCH):
        batch = torch.from_numpy(x[start : start + BATCH])
        with torch.inference_mode(), _at_rest(module), _kept(layers) as found:
            outputs.append(_called(module, graph, calling, batch))
        for layer, name in layers.items():
            spikes[name].append(_by_sample(found[name], graph.T, getattr(layer, "step_mode", "s") == "m"))
    kept = {name: np.concatenate(parts) for name, parts in spikes.items() if parts and all(p.size for p in parts)}
    return AuthorRun(kept, np.concatenate(outputs), roundoff)


def _called(module: Any, graph: SpikingGraph, calling: Calling, batch: Tensor) -> Array:
    """What comes back for one batch, (N, T, F) or (N, 1, F)."""
    T, over_time = graph.T, graph.input.encoding == "spikes"
    # copies, because the module may write into its input or take views that an expanded tensor refuses
    frames = batch.movedim(1, 0) if over_time else batch.unsqueeze(0).repeat(T, *[1] * batch.ndim)
    if calling.input == "step":
        back = torch.stack([module(frames[t].clone()) for t in range(T)])
    elif calling.input == "image":
        back = module(batch.clone())
    elif calling.input == "frames":
        back = module(frames)
    else:
        back = module(frames.transpose(0, 1).contiguous())
    found: Tensor = calling.choose(back) if calling.input != "step" else back
    found = found.double()
    if calling.output == "steps":
        found = found.movedim(0, 1)
    elif calling.output == "steps, flattened":
        found = found.view(T, len(batch), *found.shape[1:]).movedim(0, 1)
    elif calling.output in ("mean", "sum"):
        found = (found / (T if calling.output == "sum" else 1)).unsqueeze(1)
    return found.cpu().numpy()


@contextmanager
def _at_rest(module: nn.Module) -> Iterator[None]:
    from spikingjelly.activation_based import functional

    training = module.training
    module.eval()
    functional.reset_net(module)
    try:
        yield
    finally:
        functional.reset_net(module)
        module.train(training)


@contextmanager
def _kept(layers: Mapping[nn.Module, str]) -> Iterator[dict[str, list[Array]]]:
    """What the layers give at each of their calls."""
    found: dict[str, list[Array]] = {name: [] for name in layers.values()}

    def keep(module: Any, args: Any, spikes: Tensor) -> None:
        found[layers[module]].append(spikes.to(torch.uint8).cpu().numpy())

    hooks: list[RemovableHandle] = [m.register_forward_hook(keep) for m in layers]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _by_sample(calls: list[Array], T: int, many: bool) -> Array:
    """T calls with arrays (N, …), or one for all steps with an array (T, N, …), as (N, T, …); nothing for another number of calls."""
    if len(calls) != (1 if many else T):
        return np.zeros(0, np.uint8)
    return calls[0].swapaxes(0, 1) if many else np.stack(calls, 1)
