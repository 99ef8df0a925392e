"""The recurrent parts of a graph run step by step; all that feeds them has run over all steps before."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from exporters.graph import Array, Delay, Synapse
from hardware.emulator.layers import State, arriving, compute
from hardware.emulator.plan import EmulationPlan

SMALL_STEP = 2**24
"""Products in a step of a loop, of all samples, up to which threads would mostly wait for one another at its many small
operations: these products alone are half a millisecond of one core, and where others keep the cores busy a wait costs
several."""


def run_loop(plan: EmulationPlan, loop: tuple[str, ...], values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each node of a loop makes its values (T, N, *shape), from those of the nodes before the loop."""
    graph = plan.graph
    outside = {name: [s for s in plan.sources[name] if s not in loop] for name in loop}
    lags = {name: _lags(node.steps) for name in loop if isinstance(node := graph.nodes[name], Delay)}
    closing = [name for name in lags if graph.closes_loop(name)]
    arrived: dict[str, list[Tensor]] = {name: [] for name in lags}
    steps: dict[str, list[Tensor]] = {name: [] for name in loop}
    state, rest = State(), _rest(plan, lags, values)

    def step(t: int) -> None:
        now: dict[str, Tensor] = {}

        def arrives(name: str) -> Tensor:
            before = {s: values[s][t : t + 1] if len(values[s]) > 1 else values[s] for s in outside[name]}
            return arriving(plan, name, {**before, **now})

        for name in loop:
            if name not in lags:
                now[name] = compute(plan, name, graph.nodes[name], arrives(name), state, 1)
                continue
            if name not in closing:
                arrived[name].append(arrives(name))
            now[name] = _carried(lags[name], arrived[name], t, rest[name])
        for name in closing:  # its neurons have fired by now
            arrived[name].append(arrives(name))
        for name, value in now.items():
            steps[name].append(value)

    samples = next(iter(values.values())).shape[1]
    with _one_thread(samples * sum(_products(plan, name) for name in loop) <= SMALL_STEP):
        for t in range(graph.T):
            step(t)
    return {name: torch.cat(found) for name, found in steps.items()}


def _products(plan: EmulationPlan, name: str) -> int:
    """Count the products that a node computes for a sample in a step."""
    node = plan.graph.nodes[name]
    return math.prod(plan.graph.shapes[name]) * node.weight[0].size if isinstance(node, Synapse) else 0


@contextmanager
def _one_thread(wanted: bool) -> Iterator[None]:
    """Inside, torch computes with one thread, if that is wanted."""
    before = torch.get_num_threads()
    if wanted:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if wanted:
            torch.set_num_threads(before)


Lags = list[tuple[int, Tensor]]
"""The lags of a delay: whole steps, and which elements (*shape) have them."""


def _lags(steps: Array) -> Lags:
    return [(int(lag), torch.from_numpy(steps == lag)) for lag in np.unique(steps)]


def _rest(plan: EmulationPlan, delays: Iterable[str], values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What delays give out while nothing has arrived, (1, N, *shape)."""
    like = next(iter(values.values()))
    dtype = torch.uint8 if plan.products else plan.dtype
    return {
        name: torch.zeros((1, like.shape[1], *plan.graph.shapes[name]), dtype=dtype, device=like.device)
        for name in delays
    }


def _carried(lags: Lags, arrived: list[Tensor], t: int, rest: Tensor) -> Tensor:
    """A delay gives out at step t what arrived before, each element by its own lag."""
    if len(lags) == 1:
        return arrived[t - lags[0][0]] if lags[0][0] <= t else rest
    out = rest.clone()
    for lag, elements in lags:
        if lag <= t:
            out += arrived[t - lag] * elements.to(out.device)
    return out
