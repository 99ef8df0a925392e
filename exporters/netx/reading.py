"""A `.net` file, of this program or of lava-dl's slayer, is read as a chain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from exporters.graph import (
    IF,
    LIF,
    AnyNeuron,
    Array,
    Conv2d,
    Encoding,
    Flatten,
    Input,
    Linear,
    Neuron,
    Node,
    Output,
    Pair,
    SpikingGraph,
    chain,
)
from exporters.graph.registers import SILENT, leak_of
from exporters.netx.check import NetxError, Weights, layer_groups, opened, problems, says_shape, text, weight_of
from exporters.netx.dense import DENSE, time_of
from exporters.netx.sidecar import digest, read_sidecar, sidecar_path
from exporters.passes.dense_time import DenseTime, put_back


def read(path: Path, *, T: int | None = None, encoding: Encoding = "direct") -> SpikingGraph:
    """A `.net` file becomes an integer chain.

    T, the input encoding and the scales come from the JSON file beside it; without one (slayer writes none),
    pass T and the encoding: graded 8-bit pixels ("direct", or "frames" where they change over time) or "spikes".

    Without an input layer, or one that says a shape, the first dense layer reads one flat spike for each of its columns.

    An input layer with neurons (slayer's `Input` block) becomes synapses of its own, one per pixel with the
    block's weight and bias: what Lava computes when weight·pixel + bias is written to the neurons' `bias_mant`
    at every step, as lava-dl's tutorials do, since netx itself leaves that layer's input unconnected. Neurons
    of the last layer that cannot fire (slayer's `Affine`, or a dense layer without neurons) are a membrane read-out.

    Delays are `Delay` nodes before linear layers, several layers where the delays of an input differ between neurons; a
    `dense_rec` is a layer whose own spikes come back to it by a `Delay` of one step.

    Raises:
        NetxError: unreadable, truncated, changed since it was written, or not sound (the first finding of `validate`).
    """
    weights: dict[str, Array] = {}

    def once(kind: str, group: Any) -> Array:
        """Each layer's weights are unpacked once, when they are looked through, and then become the graph's."""
        if group.name not in weights:
            weights[group.name] = weight_of(kind, group)
        return weights[group.name]

    with opened(path) as file:
        found = list(problems(file, once))
        if found:
            raise NetxError(f"{path.name}: {found[0]}")
        extra = read_sidecar(path)
        if extra and extra.get("digest") != digest(path, extra):
            raise NetxError(
                f"{path.name}: it or {sidecar_path(path).name} was damaged or changed since they were written; export the "
                f"network again, or delete {sidecar_path(path).name} and say the time steps yourself"
            )
        steps = T if T is not None else extra.get("T")
        if steps is None:
            raise NetxError(
                f"{path.name}: no {sidecar_path(path).name} beside it says how many time steps to run; pass T"
            )
        try:
            return _to_graph(file, int(steps), {"input": {"encoding": encoding}} | extra, once)
        except (
            KeyError,
            TypeError,
            ValueError,
            AttributeError,
            IndexError,
            OSError,
            OverflowError,
            RuntimeError,
        ) as error:
            raise NetxError(f"{path.name}: it cannot be understood ({error}); write it again") from error


def _pair(dataset: Any) -> Pair:
    values = np.asarray(dataset[()]).reshape(-1)
    return (int(values[0]), int(values[-1]))


def _to_graph(file: h5py.File, T: int, extra: dict[str, Any], weights: Weights) -> SpikingGraph:
    described = extra.get("input", {})
    encoding = described.get("encoding", "direct")
    scale = None if encoding == "spikes" else described.get("scale", 255)
    names = [(row["synapse"], row["neuron"], float(row["scale"])) for row in extra.get("layers", [])]
    if not all(isinstance(name, str) for row in names for name in row[:2]):
        raise TypeError("a layer's name is no text")
    nodes: list[tuple[str, Node]] = []
    times: dict[str, DenseTime] = {}
    k = 0
    groups = layer_groups(file)
    if not says_shape(groups[0]):
        first = next(group for group in groups if text(group["type"]) in DENSE)
        nodes.append(("input", Input((weights(text(first["type"]), first).shape[1],), encoding, scale)))
    for index, group in enumerate(groups):
        kind = text(group["type"])
        if kind == "input":
            if not says_shape(group):
                continue
            shape = tuple(int(d) for d in np.asarray(group["shape"][()]).reshape(-1))
            nodes.append(("input", Input(shape, encoding, scale)))
            if "neuron" in group:
                nodes += _driven_neurons(group, shape)
        elif kind == "flatten":
            if len(nodes) == 1 and not says_shape(groups[0]):
                continue  # the columns of the dense layer behind it are flat already
            nodes.append((f"flatten{index}", Flatten()))
        else:
            synapse, neuron, unit = names[k] if k < len(names) else (f"layer{index}", f"layer{index}.neuron", 1.0)
            weight = weights(kind, group)
            if kind != "conv" or weight.dtype != np.int16:  # the wide layers of residual networks stay in 16 bits
                weight = weight.astype(np.int32, copy=False)
            bias = np.asarray(group["bias"][()]).T.astype(np.int32) if "bias" in group else None  # a map is (W, H, C)
            node: Node = Linear(weight, bias)
            if kind == "conv":
                stride, padding, dilation = (_pair(group[key]) for key in ("stride", "padding", "dilation"))
                node = Conv2d(weight, bias, stride, padding, dilation, int(np.asarray(group["groups"][()]).flat[0]))
            nodes += [(synapse, node), (neuron, _neuron(group, unit))]
            if kind in DENSE and (time := time_of(kind, group, weight)) is not None:
                times[neuron] = time
            k += 1
    last, end = nodes[-1]
    # neurons that only integrate: their membrane is the result
    if isinstance(end, Neuron) and end.threshold >= SILENT:
        # slayer's way to sum: a current that keeps all of itself, and a membrane that is this current
        leak = 1.0 if end.current_leak == 1 else end.leak
        nodes[-1] = (last, Output("membrane", end.scale, leak, extra.get("score", "last")))
        if last in times:  # they send nothing back either
            times[last] = replace(times[last], recurrent=None, lags=None)
    else:
        nodes.append(("output", Output("rate")))
    return put_back(chain(nodes, T, metadata=extra.get("metadata", {})), times)


def _neuron(group: h5py.Group, unit: float) -> AnyNeuron:
    """A dense layer without neurons gets, from netx and here, some that sum its current and never fire."""
    if "neuron" not in group:
        return IF(SILENT, scale=unit)
    voltage, current, threshold = (
        int(np.asarray(group[f"neuron/{key}"][()]).flat[0]) for key in ("vDecay", "iDecay", "vThMant")
    )
    leak, persists = leak_of(voltage), leak_of(current)
    if leak == 1 and persists == 0:
        return IF(threshold + 1, scale=unit)
    return LIF(threshold + 1, leak, scale=unit, current_leak=persists)


def _driven_neurons(group: h5py.Group, shape: tuple[int, ...]) -> list[tuple[str, Node]]:
    """slayer's `Input` block is neurons that weight·pixel + bias drives; their current decay has nothing to decay."""
    weight, bias = (
        int(np.asarray(group[key][()]).flat[0]) if key in group else default
        for key, default in (("weight", 1), ("bias", 0))
    )
    biases = np.full(shape[0], bias, np.int32) if bias else None
    synapse: Node = Conv2d(np.full((shape[0], 1, 1, 1), weight, np.int32), biases, groups=shape[0])
    if len(shape) == 1:
        synapse = Linear(weight * np.eye(shape[0], dtype=np.int32), biases)
    neuron = _neuron(group, 1.0)
    if isinstance(neuron, LIF):
        neuron = LIF(neuron.threshold, neuron.leak) if neuron.leak < 1 else IF(neuron.threshold)
    return [("input.synapses", synapse), ("input.neurons", neuron)]
