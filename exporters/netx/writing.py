"""A chain is written as a `.net` file and its sidecar."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, assert_never

import h5py
import numpy as np

from exporters.files import atomic_paths
from exporters.graph import AnySynapse, Array, Conv2d, Flatten, Linear, SpikingGraph
from exporters.graph.registers import LONGEST_DELAY
from exporters.hdf5 import flaw
from exporters.netx.arrays import store
from exporters.netx.check import NetxError, layer_problems, opened
from exporters.netx.sidecar import describe, digest, sidecar_path
from exporters.passes.chain import ChainLayer, chain_layers
from exporters.passes.dense_time import set_aside
from exporters.passes.membranes import resets_by_subtraction, starting

ONLY_TO_ZERO = (
    "reset by subtraction does not exist in Lava's LIF, nor in netx; train with v_reset=0.0 (hard reset), or write its neurons "
    "in Loihi 2's microcode"
)
"""Why a neuron that resets by subtraction is not written."""

ONLY_FROM_ZERO = (
    "its membranes start elsewhere than at 0, which netx and Lava's LIF cannot say; train or convert for a start at 0, or use ONNX "
    "(quantized too) and the emulator"
)
"""Why a neuron whose membrane starts elsewhere is not written."""

IN_FLOATS = ("weight", "weight_rec", "bias")
"""Datasets that slayer stores as float32 even when they are integers; netx casts them to int."""


def write(graph: SpikingGraph, path: Path) -> Path:
    """An integer chain (from `to_chain`) is written as `path`, and `path`.json beside it.

    Raises:
        NetxError: neurons that reset by subtraction or do not start at 0, or a number that Lava would clip, wrap or crash on, by layer.
        DeployError: the graph is not a chain.
        OSError: the files cannot be written; then those that were there are still there, both.
    """
    described = list(_layers(graph))
    beside = describe(graph)
    for problem in layer_problems(described):  # of the numbers in memory: what is read is looked through again
        raise NetxError(f"{path.name}: {problem}")
    image = io.BytesIO()  # HDF5 that meets a full disk brings the process down
    with h5py.File(image, "w") as file:
        group = file.create_group("layer")
        for index, layer in enumerate(described):
            _write_layer(group.create_group(str(index)), layer)
    with atomic_paths(path, sidecar_path(path)) as (net, sidecar):
        net.write_bytes(image.getbuffer())
        with opened(net) as written:
            if (what := flaw(written)) is not None:
                raise NetxError(f"{path.name}: {what}")
        beside["digest"] = digest(net, beside)
        sidecar.write_text(json.dumps(beside, indent=2) + "\n", encoding="utf-8")
    return path


def _layers(graph: SpikingGraph) -> Iterator[dict[str, Any]]:
    """The layers are nested dictionaries of datasets."""
    for name in starting(graph):
        raise NetxError(f"{name}: {ONLY_FROM_ZERO}")
    yield {"type": _text("input"), "shape": np.array(graph.input.shape, np.int64)}
    plain, _ = set_aside(graph)
    for step in chain_layers(graph):
        if resets_by_subtraction(graph.nodes[step.neuron_name]):
            raise NetxError(f"{step.neuron_name}: {ONLY_TO_ZERO}")
        name = step.name
        if len(graph.in_shape(name)) == 1 and any(isinstance(plain.nodes[s], Flatten) for s in plain.sources(name)):
            yield {"type": _text("flatten"), "shape": np.array(graph.in_shape(name), np.int64)}
        yield {
            "shape": np.array(graph.shapes[step.neuron_name], np.int64),
            **_synapses(step.synapse),
            **_time(step),
            "neuron": {
                "type": _text("CUBA"),
                "iDecay": np.int64(step.current_decay),
                "vDecay": np.int64(step.decay),
                "vThMant": np.int64(step.threshold - 1),
                "refDelay": np.int64(1),
                "gradedSpike": np.bool_(False),
            },
        }
    if any(isinstance(plain.nodes[source], Flatten) for source in plain.sources(plain.output_name)):
        yield {"type": _text("flatten"), "shape": np.array(graph.shapes[graph.output_name], np.int64)}


def _synapses(synapse: AnySynapse) -> dict[str, Any]:
    found: dict[str, Any] = {"weight": synapse.weight}
    match synapse:
        case Conv2d():
            found |= {
                "type": _text("conv"),
                "groups": np.int64(synapse.groups),
                "stride": np.array(synapse.stride, np.int64),
                "padding": np.array(synapse.padding, np.int64),
                "dilation": np.array(synapse.dilation, np.int64),
                "inChannels": np.int64(synapse.weight.shape[1] * synapse.groups),
                "outChannels": np.int64(len(synapse.weight)),
                "kernelSize": np.array(synapse.weight.shape[2:], np.int64),
            }
        case Linear():
            outputs, inputs = synapse.weight.shape
            found |= {"type": _text("dense"), "inFeatures": np.int64(inputs), "outFeatures": np.int64(outputs)}
        case _:
            assert_never(synapse)
    if synapse.bias is not None:
        found["bias"] = synapse.bias.T  # a whole map in Lava's order (W, H, C), which netx leaves as it is
    return found


def _time(step: ChainLayer) -> dict[str, Any]:
    """The datasets of a layer with delays or recurrence; its type is another where it is recurrent."""
    if step.time is None:
        return {}
    if step.time.longest > LONGEST_DELAY:
        raise NetxError(
            f"{step.name}: spikes come {step.time.longest} steps late; netx and Lava hold delays of {LONGEST_DELAY}; train with shorter "
            "ones, or use ONNX and the emulator"
        )
    if step.time.recurrent is None:
        # for every synapse, since N numbers mean neurons and not inputs where there are as many of both
        return {} if step.time.delays is None else {"delay": step.time.delays}
    if step.time.longest > 0:
        raise NetxError(
            f"{step.name}: it is recurrent and has delays, which netx cannot say: its own spikes come back after one step, and what "
            "it reads, numbers or several layers, must come at once; train without these delays, or use ONNX and the emulator"
        )
    return {"type": _text("dense_rec"), "weight_rec": step.time.recurrent}


def _text(value: str) -> Array:
    return np.array([value.encode("ascii")], "S10")


def _write_layer(group: h5py.Group, layer: dict[str, Any]) -> None:
    for key, value in layer.items():
        if isinstance(value, dict):
            _write_layer(group.create_group(key), value)
        else:
            store(group, key, np.asarray(value), np.float32 if key in IN_FLOATS else value.dtype.type)
