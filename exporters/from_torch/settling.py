"""The nodes of neurons that a network writes out itself, once all of their steps are known."""

from __future__ import annotations

import numpy as np

from exporters.from_torch.dynamics import TINY, tidy
from exporters.from_torch.lowering import Found, Lowering
from exporters.from_torch.neurons import above, node_of, outside
from exporters.from_torch.synapses import placed_current
from exporters.graph import Array


def settle(lowering: Lowering) -> None:
    """Give the neurons that the network wrote out their nodes, now that all of their steps are known.

    Raises:
        LoweringError: their membranes start where those of a graph cannot, or their threshold is not positive.
    """
    for written in lowering.written.values():
        layer, (reads, shift) = written.layer, written.first
        node, inner = layer.origin.nodes[0], layer.origin.shape
        found = written.found or _without_membrane(lowering, shift)
        lowest = float(np.min(found.threshold))
        if lowest <= 0:
            raise lowering.error(f"its threshold is {lowest:g}; a neuron needs a positive one", layer.name)
        bias = np.asarray(shift) + found.threshold
        start = 0.0
        if not np.allclose(bias, found.bias, rtol=TINY, atol=TINY * lowest):
            start, bias = _start(lowering, found, bias, layer.name), np.asarray(found.bias)
        bias = np.where(np.abs(bias) < 1e-12 * lowest, 0.0, bias)
        gain, level = None, found.threshold
        if isinstance(level, np.ndarray):
            gain, level = 1 / _of_channels(lowering, level, layer.name), 1.0
        nodes = placed_current(lowering, reads, bias if bias.ndim else float(bias), layer.name, inner, gain)
        threshold = above(level, lowering.dtype) if written.strict else level
        lowering.builder.draft.nodes[node] = node_of(threshold, found.leak, found.reset, 0.0, start)
        lowering.builder.draft.edges.extend((name, node) for name in nodes)
        lowering.notes[node] = (
            f"understood from its arithmetic: {_described(found, strict=written.strict, start=start)}"
        )


def _start(lowering: Lowering, found: Found, bias: Array, name: str) -> float:
    """Where the membrane starts, from the current that its first step seems to have beside others; in units of the threshold
    where each channel has its own, which is then 1.

    Raises:
        LoweringError: neurons start at different places, nothing of the start is left at the first step, or it is out of reach.
    """
    if not found.leak:
        raise lowering.error(
            "its first step takes in something else than the others, and it keeps no membrane; train or convert the network "
            "without that",
            name,
        )
    starts = (bias - found.bias) / found.leak
    threshold = found.threshold
    if isinstance(threshold, np.ndarray):
        starts, threshold = starts / threshold, 1.0
    if np.ptp(starts) > TINY * threshold:
        raise lowering.error(
            "its membranes start at different places, not all at one or at one share of their thresholds; a layer has one start",
            name,
        )
    start = tidy(float(np.ravel(starts)[0]))
    if not abs(start) < threshold:
        raise lowering.error(outside(start, threshold), name)
    return start


def _of_channels(lowering: Lowering, threshold: Array, name: str) -> Array:
    """The thresholds of each channel.

    Raises:
        LoweringError: they differ within one.
    """
    each = threshold.reshape(len(threshold), -1)
    if not np.allclose(each, each[:, :1], rtol=TINY, atol=0):
        raise lowering.error("its thresholds differ within a channel", name)
    return np.asarray(each[:, 0])


def _without_membrane(lowering: Lowering, shift: float | Array) -> Found:
    """Neurons of which no second step told: any positive threshold will do, with its bias."""
    lowest = float(np.min(-np.asarray(shift, np.float64)))
    threshold = lowest if lowest > 0 else 1.0
    return Found(0.0, threshold, "hard", np.asarray(shift) + threshold)


def _described(found: Found, *, strict: bool, start: float) -> str:
    kind = "IF" if found.leak == 1 else f"LIF with leak {found.leak:g}"
    at = (
        f"{found.threshold:g}"
        if isinstance(found.threshold, float)
        else "1 (thresholds of each channel are in the weights)"
    )
    begins = f", starts at {start:g}" if start else ""
    return f"{kind}, fires at v {'>' if strict else '≥'} {at}, {found.reset} reset{begins}"
