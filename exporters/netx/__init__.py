"""netx network descriptions (Lava-DL's HDF5 `.net`): write, validate and read, without Lava.

The file format, as `lava.lib.dl.netx` 0.6 reads it: root group `layer`, children "0", "1", …; every item
a dataset. This project writes layers of type `input`, `flatten`, `conv` and `dense`, neurons of type
`CUBA` with iDecay 4096 and vDecay 0, which is an IF neuron (a LIF has its 12-bit decays there), and
vThMant = V − 1, since Lava fires above its threshold where SpikingJelly fires at it. Everything is in PyTorch's order. A JSON file beside it
(`NAME.net.json`) keeps what the format has no room for: T, input encoding, scales, read-out, timing.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from exporters.files import atomic_paths
from exporters.graph import IF, LIF, Conv2d, Flatten, Input, Linear, Node, Output, Pair, SpikingGraph, chain
from exporters.graph.registers import SILENT
from exporters.netx.check import NetxError, layer_groups, opened, problems, text
from exporters.passes.chain import chain_layers

__all__ = ["NetxError", "Timing", "message_bits", "read", "sidecar_path", "timing", "validate", "write"]

SIDECAR_VERSION = 2
COMPRESSED = 2**16
"""Bytes from which on an array is stored compressed; any HDF5 library reads it."""


@dataclass(frozen=True)
class Timing:
    """How samples pass through the chain on Lava, in time steps.

    Attributes:
        T: steps per sample.
        latency: layers of neurons; the first output of a sample appears this many steps after its first frame.
        reset_interval, reset_offset: arguments of `netx.hdf5.Network` with which samples run back to back.
    """

    T: int
    latency: int
    reset_interval: int
    reset_offset: int


def timing(graph: SpikingGraph) -> Timing:
    """The timing of a chain: one step per neuron layer, membranes reset as each layer's sample begins."""
    return Timing(graph.T, len(chain_layers(graph)), graph.T, 1)


def message_bits(graph: SpikingGraph) -> int:
    """`input_message_bits` for netx: 0 for binary spikes, else the bits of a graded pixel."""
    return 0 if graph.input.encoding == "spikes" else int(graph.input.scale or 1).bit_length()


def write(graph: SpikingGraph, path: Path) -> Path:
    """Write an integer chain (from `to_chain`) as `path`, and `path`.json beside it.

    Raises:
        NetxError: a number that Lava would clip, wrap or crash on, by layer.
        DeployError: the graph is not a chain.
        OSError: the files cannot be written; then those that were there are still there, both.
    """
    described = _describe(graph)
    beside = _sidecar(graph)
    image = io.BytesIO()  # HDF5 that meets a full disk brings the process down
    with h5py.File(image, "w") as file:
        group = file.create_group("layer")
        for index, layer in enumerate(described):
            _write_layer(group.create_group(str(index)), layer)
    with atomic_paths(path, sidecar_path(path)) as (net, sidecar):
        net.write_bytes(image.getbuffer())
        found = validate(net)
        if found:
            raise NetxError(f"{path.name}: {found[0]}")
        beside["digest"] = _digest(net, beside)
        sidecar.write_text(json.dumps(beside, indent=2) + "\n", encoding="utf-8")
    return path


def sidecar_path(path: Path) -> Path:
    """`NAME.net` → `NAME.net.json`."""
    return path.with_name(path.name + ".json")


def validate(path: Path) -> list[str]:
    """What Lava would silently skip, clip, wrap or crash on in a `.net` file: one line each, empty if sound.

    Raises:
        NetxError: the file cannot be read at all.
    """
    with opened(path) as file:
        return list(problems(file))


def read(path: Path, *, T: int | None = None, encoding: Literal["direct", "spikes"] = "direct") -> SpikingGraph:
    """A `.net` file as an integer chain.

    T, the input encoding and the scales come from the JSON file beside it; without one (slayer writes none),
    pass T and the encoding: graded 8-bit pixels ("direct") or "spikes".

    An input layer with neurons (slayer's `Input` block) becomes synapses of its own, one per pixel with the
    block's weight and bias: what Lava computes when weight·pixel + bias is written to the neurons' `bias_mant`
    at every step, as lava-dl's tutorials do, since netx itself leaves that layer's input unconnected. Neurons
    of the last layer that cannot fire (slayer's `Affine`, or a dense layer without neurons) are a membrane read-out.

    Raises:
        NetxError: unreadable, truncated, changed since it was written, or not sound (the first finding of `validate`).
    """
    with opened(path) as file:
        found = list(problems(file))
        if found:
            raise NetxError(f"{path.name}: {found[0]}")
        extra = _read_sidecar(path)
        if extra and extra.get("digest") != _digest(path, extra):
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
            return _to_graph(file, int(steps), {"input": {"encoding": encoding}} | extra)
        except (KeyError, TypeError, ValueError, IndexError, OSError, RuntimeError) as error:
            raise NetxError(f"{path.name}: it cannot be understood ({error}); write it again") from error


# -- writing -----------------------------------------------------------------------------------------


def _describe(graph: SpikingGraph) -> Iterator[dict[str, Any]]:
    """The layers as nested dictionaries of datasets."""
    yield {"type": "input", "shape": np.array(graph.input.shape, np.int64)}
    for step in chain_layers(graph):
        name, synapse = step.name, step.synapse
        if len(graph.in_shape(name)) == 1 and any(isinstance(graph.nodes[s], Flatten) for s in graph.sources(name)):
            yield {"type": "flatten", "shape": np.array(graph.in_shape(name), np.int64)}
        layer: dict[str, Any] = {"shape": np.array(graph.shapes[step.neuron_name], np.int64)}
        # slayer stores weights as float32 even when they are integers; netx casts them to int
        layer["weight"] = synapse.weight.astype(np.float32)
        if isinstance(synapse, Conv2d):
            layer |= {"type": "conv", "groups": np.int64(synapse.groups)}
            for field in ("stride", "padding", "dilation"):
                layer[field] = np.array(getattr(synapse, field), np.int64)
            layer["inChannels"] = np.int64(graph.in_shape(name)[0])
            layer["outChannels"] = np.int64(len(synapse.weight))
            layer["kernelSize"] = np.array(synapse.weight.shape[2:], np.int64)
        else:
            layer |= {"type": "dense", "inFeatures": np.int64(synapse.weight.shape[1])}
            layer["outFeatures"] = np.int64(synapse.weight.shape[0])
        if synapse.bias is not None:
            layer["bias"] = synapse.bias.astype(np.float32)
        layer["neuron"] = {
            "type": "CUBA",
            "iDecay": np.int64(step.current_decay),
            "vDecay": np.int64(step.decay),
            "vThMant": np.int64(step.threshold - 1),
            "refDelay": np.int64(1),
            "gradedSpike": np.bool_(False),
        }
        yield layer


def _write_layer(group: h5py.Group, layer: dict[str, Any]) -> None:
    for key, value in layer.items():
        if isinstance(value, dict):
            _write_layer(group.create_group(key), value)
        elif isinstance(value, str):
            group.create_dataset(key, data=np.array([value.encode("ascii")], "S10"))
        elif value.nbytes > COMPRESSED:
            # chains of residual networks are mostly zeros
            group.create_dataset(key, data=value, compression="gzip", compression_opts=1, shuffle=True)
        else:
            group.create_dataset(key, data=value)


def _sidecar(graph: SpikingGraph) -> dict[str, Any]:
    when = timing(graph)
    return {
        "format": "kdsnn-deploy netx sidecar",
        "version": SIDECAR_VERSION,
        "T": graph.T,
        "input": {
            "shape": list(graph.input.shape),
            "encoding": graph.input.encoding,
            "scale": graph.input.scale,
            "message_bits": message_bits(graph),
        },
        "readout": graph.output.readout,
        "latency_steps": when.latency,
        "reset_interval": when.reset_interval,
        "reset_offset": when.reset_offset,
        "layers": [
            {
                "synapse": step.name,
                "neuron": step.neuron_name,
                "threshold": step.threshold,
                "scale": step.scale,
                "decay": step.decay,
                "current_decay": step.current_decay,
            }
            for step in chain_layers(graph)
        ],
        "metadata": dict(graph.metadata),
    }


# -- reading -----------------------------------------------------------------------------------------


def _digest(path: Path, beside: dict[str, Any]) -> str:
    """SHA-256 of the file and of what stands beside it: a flipped bit in a weight is still a sound network, but not this one."""
    facts = {key: value for key, value in beside.items() if key != "digest"}
    content = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    with path.open("rb") as file:
        while block := file.read(2**20):
            content.update(block)
    return content.hexdigest()


def _read_sidecar(path: Path) -> dict[str, Any]:
    beside = sidecar_path(path)
    if not beside.is_file():
        return {}
    try:
        content = json.loads(beside.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("version") != SIDECAR_VERSION:
            raise ValueError("unknown version")
    except (ValueError, OSError) as error:
        raise NetxError(f"{beside.name}: not a sidecar of this program ({error}); export the network again") from error
    return content


def _pair(dataset: Any) -> Pair:
    values = np.asarray(dataset[()]).reshape(-1)
    return (int(values[0]), int(values[-1]))


def _to_graph(file: h5py.File, T: int, extra: dict[str, Any]) -> SpikingGraph:
    described = extra.get("input", {})
    encoding = described.get("encoding", "direct")
    scale = described.get("scale", 255) if encoding == "direct" else None
    names = [(row["synapse"], row["neuron"], float(row["scale"])) for row in extra.get("layers", [])]
    nodes: list[tuple[str, Node]] = []
    k = 0
    for index, group in enumerate(layer_groups(file)):
        kind = text(group["type"])
        if kind == "input":
            shape = tuple(int(d) for d in np.asarray(group["shape"][()]).reshape(-1))
            nodes.append(("input", Input(shape, encoding, scale)))
            if "neuron" in group:
                nodes += _driven_neurons(group, shape)
        elif kind == "flatten":
            nodes.append((f"flatten{index}", Flatten()))
        else:
            synapse, neuron, unit = names[k] if k < len(names) else (f"layer{index}", f"layer{index}.neuron", 1.0)
            weight = np.asarray(group["weight"][()]).astype(np.int32)
            bias = np.asarray(group["bias"][()]).astype(np.int32) if "bias" in group else None
            node: Node = Linear(weight, bias)
            if kind == "conv":
                stride, padding, dilation = (_pair(group[key]) for key in ("stride", "padding", "dilation"))
                node = Conv2d(weight, bias, stride, padding, dilation, int(np.asarray(group["groups"][()]).flat[0]))
            nodes += [(synapse, node), (neuron, _neuron(group, unit))]
            k += 1
    last, end = nodes[-1]
    # neurons that only integrate: their membrane is the result
    if isinstance(end, IF | LIF) and end.threshold >= SILENT:
        nodes[-1] = (last, Output("membrane", end.scale))
    else:
        nodes.append(("output", Output("rate")))
    return chain(nodes, T, metadata=extra.get("metadata", {}))


def _neuron(group: h5py.Group, unit: float) -> IF | LIF:
    """A layer's neurons; netx gives a dense layer without any some that sum its current and never fire."""
    if "neuron" not in group:
        return IF(SILENT, scale=unit)
    voltage, current, threshold = (
        int(np.asarray(group[f"neuron/{key}"][()]).flat[0]) for key in ("vDecay", "iDecay", "vThMant")
    )
    leak, persists = (4096 - voltage) / 4096, (4096 - current) / 4096
    if leak == 1 and persists == 0:
        return IF(threshold + 1, scale=unit)
    return LIF(threshold + 1, leak, scale=unit, current_leak=persists)


def _driven_neurons(group: h5py.Group, shape: tuple[int, ...]) -> list[tuple[str, Node]]:
    """slayer's `Input` block: neurons that weight·pixel + bias drives; their current decay has nothing to decay."""
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
