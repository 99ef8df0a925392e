"""The nodes of neurons that a network writes out itself, once all of their steps are known."""

from __future__ import annotations

import numpy as np

from exporters.from_torch.dynamics import TINY
from exporters.from_torch.lowering import Found, Lowering
from exporters.from_torch.neurons import above, node_of
from exporters.from_torch.synapses import placed_current
from exporters.graph import Array


def settle(lowering: Lowering) -> None:
    """Give the neurons that the network wrote out their nodes, now that all of their steps are known.

    Raises:
        LoweringError: their membranes do not start where they reset to, or their threshold is not positive.
    """
    for written in lowering.written.values():
        layer, (reads, shift) = written.layer, written.first
        node, inner = layer.origin.nodes[0], layer.origin.shape
        found = written.found or _without_membrane(lowering, shift)
        lowest = float(np.min(found.threshold))
        if lowest <= 0:
            raise lowering.error(f"its threshold is {lowest:g}; a neuron needs a positive one", layer.name)
        bias = np.asarray(shift) + found.threshold
        if not np.allclose(bias, found.bias, rtol=TINY, atol=TINY * lowest):
            raise lowering.error(_elsewhere(found, bias), layer.name)
        bias = np.where(np.abs(bias) < 1e-12 * lowest, 0.0, bias)
        gain, level = None, found.threshold
        if isinstance(level, np.ndarray):
            gain, level = 1 / _of_channels(lowering, level, layer.name), 1.0
        nodes = placed_current(lowering, reads, bias if bias.ndim else float(bias), layer.name, inner, gain)
        threshold = above(level, lowering.dtype) if written.strict else level
        lowering.builder.draft.nodes[node] = node_of(threshold, found.leak, found.reset, 0.0)
        lowering.builder.draft.edges.extend((name, node) for name in nodes)
        lowering.notes[node] = f"understood from its arithmetic: {_described(found, strict=written.strict)}"


def _elsewhere(found: Found, bias: Array) -> str:
    """How to say that a membrane starts elsewhere than at 0, from the current that its first step seems to have beside others."""
    text = "its membrane does not start where it resets to"
    if found.leak and np.ndim(found.threshold) == 0 and np.ptp(start := (bias - found.bias) / found.leak) < TINY:
        text = f"its membrane starts at {np.ravel(start)[0]:.4g} (its threshold is {found.threshold:.4g})"
    return f"{text}; those of a graph start at 0; train or convert the network for that"


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


def _described(found: Found, *, strict: bool) -> str:
    kind = "IF" if found.leak == 1 else f"LIF with leak {found.leak:g}"
    at = (
        f"{found.threshold:g}"
        if isinstance(found.threshold, float)
        else "1 (thresholds of each channel are in the weights)"
    )
    return f"{kind}, fires at v {'>' if strict else '≥'} {at}, {found.reset} reset"
