"""`SpikingGraph` → NIR file: what each node becomes, and what other programs will not see in it."""

from __future__ import annotations

import io
import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nir
import numpy as np

from exporters.files import atomic_path
from exporters.graph import (
    IF,
    LIF,
    Array,
    AvgPool2d,
    Conv2d,
    Delay,
    Flatten,
    Input,
    Linear,
    MaxPool2d,
    Neuron,
    Node,
    Output,
    SpikingGraph,
    unique_name,
)
from exporters.nir.check import NirError
from exporters.nir.loops import as_said, bare, left_out
from exporters.nir.neurons import PREFIX
from exporters.nir.values import just_below
from exporters.passes.kernels import merge_groups, or_synapses
from exporters.passes.membranes import starting

DT = 1e-4
"""Seconds per time step that snnTorch, SpikingJelly and others assume, since a NIR file does not say."""


def write(graph: SpikingGraph, path: Path, *, dt: float = DT) -> Path:
    """Write a graph, float or integer, as a NIR file that nir 1.0.7 and later read.

    Raises:
        NirError: a max-pool over anything but the spikes of one layer, or the same edge twice; by name.
        OSError: the file cannot be written.
    """
    if not (math.isfinite(dt) and dt > 0):
        raise NirError(f"dt is {dt}; it must be a positive number of seconds")
    names = _file_names(graph)
    implied = left_out(graph)
    nodes: dict[str, Any] = {}
    ends: dict[str, str] = {}  # node → where its outgoing edges start
    edges: list[tuple[str, str]] = []
    for name, node in graph.nodes.items():
        if name in implied:
            continue
        parts = list(_parts(graph, name, node, dt))
        keys = [names[name], *(f"{names[name]}.{kind}" for kind, _ in parts[1:])]
        for key, (_, part) in zip(keys, parts, strict=True):
            nodes[key] = part
        if keys[0] != name:
            nodes[keys[0]].metadata[f"{PREFIX}name"] = name
        edges += itertools.pairwise(keys)
        ends[name] = keys[-1]
    edges += [(ends[a], names[b]) for a, b in bare(graph.edges, implied)]
    if len(set(edges)) < len(edges):
        twice = next(e for i, e in enumerate(edges) if e in edges[:i])
        raise NirError(f"{twice[1]}: it adds {twice[0]} twice, which NIR does not express; double the weights instead")
    facts = _metadata(graph, dt)
    if implied:
        facts[f"{PREFIX}loops"] = as_said(graph, implied, names, ends)
    written = nir.NIRGraph(nodes, edges, facts, type_check=False)
    image = io.BytesIO()  # HDF5 that meets a full disk brings the process down
    nir.write(image, written)
    with atomic_path(path) as temporary:
        temporary.write_bytes(image.getbuffer())
    return path


def losses(graph: SpikingGraph) -> tuple[str, ...]:
    """What other programs will not see in the file, because NIR has no word for it: one sentence each."""
    found = []
    soft = [name for name, node in graph.neurons.items() if node.reset == "soft"]
    if soft:
        found.append(f"reset by subtraction ({', '.join(soft)}) is in the metadata only; other programs reset to zero")
    implied = left_out(graph)
    if graph.loops:
        found.append(
            "in a loop, a connection that goes back without a delay must take a step, as nirtorch and snnTorch mean it"
        )
    if said := [name for name, node in graph.nodes.items() if isinstance(node, Delay) and name not in implied]:
        found.append(
            f"delays ({', '.join(said)}) are nodes that snnTorch, SpikingJelly, Norse, sinabs and Rockpool do not read"
        )
    if starts := starting(graph):
        found.append(f"where membranes start ({', '.join(starts)}) is in the metadata only; other programs start at 0")
    if graph.is_integer:
        found.append("Lava's registers (saturation, wrapping, truncated leak) are not in the file")
    if graph.input.scale is not None:
        found.append(f"the input is to be multiplied by {graph.input.scale} and rounded, which only the metadata says")
    if graph.output.readout == "membrane" and graph.output.leak == 1:
        found.append("the output is the current of each step; that it is summed over time only the metadata says")
    if graph.output.score == "mean":
        found.append("that the scores are the mean of the membranes over time only the metadata says")
    for name, node in graph.nodes.items():
        if isinstance(node, Conv2d) and node.weight.shape[2] != node.weight.shape[3]:
            found.append(f"{name}: nir 1.0.8 works out oblong kernels wrongly; read the file with type_check=False")
    return tuple(found)


# -- inside ------------------------------------------------------------------------------------------


def _file_names(graph: SpikingGraph) -> dict[str, str]:
    """Names without slashes, which HDF5 takes for folders."""
    keys: dict[str, str] = {}  # key → name
    for name in graph.nodes:
        keys[unique_name(name.replace("/", ".").strip(".") or "node", keys)] = name
    return {name: key for key, name in keys.items()}


def _metadata(graph: SpikingGraph, dt: float) -> dict[str, Any]:
    facts = {
        "version": 1,
        "dt": dt,
        "T": graph.T,
        "input_encoding": graph.input.encoding,
        "input_scale": 0 if graph.input.scale is None else graph.input.scale,
        "readout": graph.output.readout,
        "output_scale": graph.output.scale,
        "score": graph.output.score,
        "integer": int(graph.is_integer),
        "metadata": json.dumps(dict(graph.metadata)),
    }
    return {f"{PREFIX}{key}": value for key, value in facts.items()}


def _parts(graph: SpikingGraph, name: str, node: Node, dt: float) -> Iterator[tuple[str, Any]]:
    """The NIR nodes that a node becomes, in a row, each with the suffix of its name."""
    shape = graph.shapes[name]
    match node:
        case Input():
            yield "", nir.Input({"input": np.array(shape)})
        case Output() if node.leak < 1:
            slowness, zero = 1 / (1 - node.leak), np.zeros(shape)
            yield "", nir.LI(
                np.full(shape, dt * slowness), np.full(shape, slowness / node.scale), zero,
                metadata={f"{PREFIX}leak": node.leak},
            )  # fmt: skip
            yield "read", nir.Output({"output": np.array(shape)}, metadata={f"{PREFIX}name": name})
        case Output():
            yield "", nir.Output({"output": np.array(shape)})
        case Linear(bias=None):
            yield "", nir.Linear(_weights(node.weight))
        case Linear():
            yield "", nir.Affine(_weights(node.weight), _weights(node.bias))
        case Conv2d():
            if node.bias is not None and node.bias.ndim > 1:
                raise NirError(
                    f"{name}: its bias differs between positions, and NIR's Conv2d has one for each channel; put the BatchNorm behind "
                    "the convolution, and normalize images before the network"
                )
            yield "", _convolution(node, graph.in_shape(name))
        case Flatten():
            yield "", nir.Flatten({"input": np.array(graph.in_shape(name))}, 0, -1)
        case AvgPool2d():
            yield from _sums(node, shape)
        case MaxPool2d():
            if graph.in_signal(name) != "spikes" or len(graph.sources(name)) > 1:
                raise NirError(f"{name}: NIR has no max-pool; only one over the spikes of one layer can become an OR")
            conv = _convolution(or_synapses(node, graph.in_shape(name)[0], 1.0), graph.in_shape(name))
            conv.metadata[f"{PREFIX}max_pool"] = 1
            yield "", conv
            yield "or", _neurons(IF(0.5), shape, dt, max_pool=1)
        case Delay():
            yield "", nir.Delay(node.steps * dt)
        case IF() | LIF():
            if node.current_leak:
                _check_current(graph, name)
            facts = {"reset": node.reset, "scale": node.scale, "threshold": float(node.threshold)}
            facts |= {"start": float(node.start)} if node.start else {}
            # NIR's neurons fire above their threshold, these at it
            yield "", _neurons(replace(node, threshold=just_below(node.threshold)), shape, dt, **facts)


def _weights(values: Array | None) -> Array:
    """Integers as float32, which other programs expect; they are exact in it."""
    assert values is not None
    return np.ascontiguousarray(values if values.dtype.kind == "f" else values.astype(np.float32))


def _convolution(node: Conv2d, in_shape: tuple[int, ...]) -> Any:
    """Groups are written out as block-diagonal kernels: nir 1.0.8 and SpikingJelly do not read them."""
    weight = merge_groups(_weights(node.weight), node.groups, 1)
    bias = np.zeros(len(weight), weight.dtype) if node.bias is None else _weights(node.bias)
    return nir.Conv2d(
        in_shape[1:], weight, node.stride, node.padding, node.dilation, 1, bias,
        metadata={f"{PREFIX}groups": node.groups},
    )  # fmt: skip


def _sums(node: AvgPool2d, shape: tuple[int, ...]) -> Iterator[tuple[str, Any]]:
    window = [np.array(v) for v in (node.kernel, node.stride, node.padding)]
    if node.divisor == node.kernel[0] * node.kernel[1]:
        yield "", nir.AvgPool2d(*window)
        return
    yield "", nir.SumPool2d(*window, metadata={f"{PREFIX}divisor": node.divisor})
    if node.divisor != 1:
        yield "divisor", nir.Scale(np.full(shape, 1 / node.divisor), metadata={f"{PREFIX}merged": 1})


def _check_current(graph: SpikingGraph, name: str) -> None:
    """A current that persists, as NIR's CubaLIF has it: it dies out, leaks with the membrane, and biases pass through it."""
    node = graph.nodes[name]
    if isinstance(node, LIF) and max(node.leak, node.current_leak) == 1:
        raise NirError(f"{name}: its current persists and something does not leak (1), which NIR's CubaLIF cannot say")
    if any(graph.synapses[s].bias is not None for s in graph.sources(name)):
        raise NirError(
            f"{name}: it has a bias, which NIR would pass through the synaptic current, while Loihi does not; "
            "train without biases before neurons with a current_leak"
        )


def _neurons(node: Neuron, shape: tuple[int, ...], dt: float, **facts: Any) -> Any:
    threshold, zero = np.full(shape, float(node.threshold)), np.zeros(shape)
    if isinstance(node, IF):
        found = nir.IF(np.full(shape, 1 / dt), threshold, zero)
    elif node.current_leak:
        facts |= {"leak": node.leak, "current_leak": node.current_leak}
        slowness, lasting = 1 / (1 - node.leak), 1 / (1 - node.current_leak)
        found = nir.CubaLIF(
            tau_syn=np.full(shape, dt * lasting), tau_mem=np.full(shape, dt * slowness), r=np.full(shape, slowness),
            v_leak=zero, v_threshold=threshold, v_reset=zero, w_in=np.full(shape, lasting),
        )  # fmt: skip
    else:
        facts["leak"] = node.leak
        slowness = 1 / (1 - node.leak)
        found = nir.LIF(np.full(shape, dt * slowness), np.full(shape, slowness), zero, threshold, zero)
    found.metadata = {f"{PREFIX}{key}": value for key, value in facts.items()}
    return found
