"""What comes from earlier steps: delays in the graph, and currents that persist.

A network carries spikes on by hand, in a container or in a delay; whichever way it does, at step t neurons read what was
fired at step t − d. In the graph that is a delay of d steps behind what fired, before everything that does not spike: pools
and synapses make of nothing nothing, so that they may as well stand behind the delay. Where the neurons read all steps
before, each weighed by a share of the one after it, their current leaks; a graph has that too.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import assert_never

import numpy as np

from exporters.from_torch.decode import Arrival, Read
from exporters.from_torch.dynamics import tidy
from exporters.from_torch.leaking import CLOSE
from exporters.from_torch.lowering import Lowering, as_bytes
from exporters.from_torch.values import Origin
from exporters.graph import Delay, Flatten, Input, Neuron, Output, Pool, Synapse


def in_time(lowering: Lowering, arrivals: Sequence[Arrival]) -> list[Read]:
    """What arrives, with the delays of the graph in the place of lags.

    Raises:
        LoweringError: a bias would arrive too early.
    """
    return [a.read if not a.lag else replace(a.read, origin=_later(lowering, a.read.origin, a.lag)) for a in arrivals]


def persisting(arrivals: Sequence[Arrival], T: int) -> tuple[tuple[Arrival, ...], float]:
    """What arrives as a current that leaks, with the share of it that persists: of each origin its first step is left.

    Where that is not so, or too few steps tell, everything is left as it is, with a share of 0.
    """
    found: dict[Hashable, dict[int, Arrival]] = {}
    for arrival in arrivals:
        of = found.setdefault((id(arrival.read.origin), as_bytes(arrival.read.features)), {})
        if arrival.lag in of or arrival.read.origin.is_static:
            return tuple(arrivals), 0.0
        of[arrival.lag] = arrival
    longest = max((sorted(of) for of in found.values()), key=len, default=[])
    if len(longest) < 3:
        return tuple(arrivals), 0.0
    series = next(of for of in found.values() if sorted(of) == longest)
    share = _ratio(series[longest[1]].read, series[longest[0]].read)
    for of in found.values():
        first = min(of)
        if sorted(of) != list(range(first, T)):
            return tuple(arrivals), 0.0
        for lag in range(first + 1, T):
            if not np.allclose(of[lag].read.scale, np.multiply(share, of[lag - 1].read.scale), rtol=CLOSE, atol=0):
                return tuple(arrivals), 0.0
    if not 0 < share <= 1:
        return tuple(arrivals), 0.0
    return tuple(of[min(of)] for of in found.values()), share


def _ratio(later: Read, earlier: Read) -> float:
    return tidy(float(np.ravel(later.scale)[0] / np.ravel(earlier.scale)[0]))


def _later(lowering: Lowering, origin: Origin, steps: int) -> Origin:
    """What an origin was some steps before."""
    key = ("delay", id(origin), steps)
    if key not in lowering.origins:
        sources = origin.nodes if origin.term is None else origin.term.nodes
        nodes = tuple(_node_later(lowering, node, steps) for node in sources)
        made = replace(origin, nodes=nodes) if origin.term is None else replace(origin, nodes=())
        if origin.term is not None:
            made.term = replace(origin.term, nodes=nodes)
        lowering.origins[key] = made
        lowering.origins["delayed", *key] = origin  # kept, so that its id stays its own
    return lowering.origins[key]


def _node_later(lowering: Lowering, name: str, steps: int) -> str:
    """The node that gives what a node gave some steps before."""
    key = (name, steps)
    if key in lowering.delays:
        return lowering.delays[key]
    draft = lowering.builder.draft
    node, sources = draft.nodes[name], [a for a, b in draft.edges if b == name]
    match node:
        case Neuron() | Input():
            shape = node.shape if isinstance(node, Input) else lowering.firing[name]
            made = lowering.builder.add(f"{name}.delay", Delay(np.full(shape, steps)), [name])
        case Synapse(bias=bias) if bias is not None:
            raise lowering.error(
                "it delays a current that has a bias (or BatchNorm shift), which in a graph arrives at every step, from the first "
                "on; delay the spikes before this layer",
                name,
            )
        case Synapse() | Pool() | Flatten():
            later = [_node_later(lowering, source, steps) for source in sources]
            made = lowering.builder.add(f"{name}.delayed", node, later)
            if name in lowering.weights_of:
                lowering.weights_of[made] = lowering.weights_of[name]
        case Delay():
            made = lowering.builder.add(f"{name}.delay", Delay(node.steps + steps), sources)
        case Output():
            raise TypeError("nothing reads an output")
        case _:
            assert_never(node)
    lowering.delays[key] = made
    return made
