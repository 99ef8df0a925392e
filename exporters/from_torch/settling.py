"""Neurons get the rest of their nodes and edges once all of their steps are known."""

from __future__ import annotations

import numpy as np

from exporters.from_torch.delays import in_time, persisting
from exporters.from_torch.dynamics import TINY, tidy
from exporters.from_torch.lowering import Found, Lowering, NeuronLayer, Written
from exporters.from_torch.neurons import NOTHING_ARRIVES, above, node_of, outside
from exporters.from_torch.steps import shift_for
from exporters.from_torch.synapses import placed_current
from exporters.graph import Array, Neuron


def settle(lowering: Lowering) -> None:
    """Give the neurons that the network wrote out their nodes, and all neurons what comes from earlier steps, now that all of
    their steps are known.

    Raises:
        LoweringError: membranes start where those of a graph cannot, a threshold is not positive, or nothing arrives.
    """
    for layer in lowering.neurons.values():
        if not layer.arrivals:
            raise lowering.error(NOTHING_ARRIVES, layer.name)
    written = {id(w.layer): w for w in lowering.written.values()}
    for layer in lowering.neurons.values():
        if id(layer) not in written:
            _connect(lowering, layer)
        else:
            _settle_written(lowering, written[id(layer)])


def _connect(lowering: Lowering, layer: NeuronLayer) -> None:
    """Give a layer that has its node what comes from earlier steps."""
    draft, name, inner = lowering.builder.draft, layer.node, layer.origin.shape
    node = draft.nodes[name]
    assert isinstance(node, Neuron)
    arrivals, share = layer.arrivals, 0.0
    if not node.current_leak:
        arrivals, share = persisting(arrivals, lowering.T)
    reads = in_time(lowering, [arrival for arrival in arrivals if arrival.lag])
    if reads:
        has_current = len(reads) < len(arrivals)  # then the constants have their place
        shift = 0.0 if has_current else shift_for(layer.shift, reads[0].shape, inner)
        nodes = placed_current(lowering, reads, shift, layer.name, inner, layer.gain)
        draft.edges.extend((source, name) for source in nodes)
    if share:
        draft.nodes[name] = node_of(node.threshold, node.leak, node.reset, share, node.start)
        lowering.notes[name] = f"keeps {share:g} of its synaptic current, which was filtered before it"


def _settle_written(lowering: Lowering, written: Written) -> None:
    """Give a layer that the network wrote out its node and all that feeds it."""
    layer = written.layer
    node, inner = layer.node, layer.origin.shape
    found = written.found or _without_membrane(lowering, layer.shift)
    lowest = float(np.min(found.threshold))
    if lowest <= 0:
        raise lowering.error(f"its threshold is {lowest:g}; a neuron needs a positive one", layer.name)
    bias = np.asarray(layer.shift) + found.threshold
    start = 0.0
    if not np.allclose(bias, found.bias, rtol=TINY, atol=TINY * lowest):
        start, bias = _start(lowering, found, bias, layer.name), np.asarray(found.bias)
    bias = np.where(np.abs(bias) < 1e-12 * lowest, 0.0, bias)
    gain, level = None, found.threshold
    if isinstance(level, np.ndarray):
        gain, level = 1 / _of_channels(lowering, level, layer.name), 1.0
    arrivals, share = persisting(layer.arrivals, lowering.T)
    reads = in_time(lowering, arrivals)
    nodes = placed_current(lowering, reads, bias if bias.ndim else float(bias), layer.name, inner, gain)
    threshold = above(level, lowering.dtype) if written.strict else level
    lowering.builder.draft.nodes[node] = node_of(threshold, found.leak, found.reset, share, start)
    lowering.builder.draft.edges.extend((name, node) for name in nodes)
    text = _described(found, strict=written.strict, start=start, share=share)
    lowering.notes[node] = f"understood from its arithmetic: {text}"


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


def _described(found: Found, *, strict: bool, start: float, share: float) -> str:
    kind = "IF" if found.leak == 1 else f"LIF with leak {found.leak:g}"
    kind += f" that keeps {share:g} of its current" if share else ""
    at = (
        f"{found.threshold:g}"
        if isinstance(found.threshold, float)
        else "1 (thresholds of each channel are in the weights)"
    )
    begins = f", starts at {start:g}" if start else ""
    return f"{kind}, fires at v {'>' if strict else '≥'} {at}, {found.reset} reset{begins}"
