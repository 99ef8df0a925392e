"""netx network descriptions (Lava-DL's HDF5 `.net`): write, validate and read, without Lava.

The file format, as `lava.lib.dl.netx` 0.6 reads it: root group `layer`, children "0", "1", …; every item
a dataset. This project writes layers of type `input`, `flatten`, `conv` and `dense`, neurons of type
`CUBA` with iDecay 4096 and vDecay 0, which is an IF neuron (a LIF has its 12-bit decay there), and vThMant = V − 1, since Lava fires above
its threshold where SpikingJelly fires at it. Everything is in PyTorch's order. A JSON file beside it
(`NAME.net.json`) keeps what the format has no room for: T, input encoding, scales, read-out, timing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from exporters.bounds import BIAS_LIMIT, THRESHOLD_LIMIT
from exporters.errors import DeployError
from exporters.files import atomic_path
from exporters.graph import IF, LIF, Array, Conv2d, Flatten, Input, Linear, Node, Output, Pair, SpikingGraph, chain
from exporters.to_chain import MAX_GROUPS, SILENT, layers

SIDECAR_VERSION = 1


class NetxError(DeployError):
    """A `.net` file that cannot be read, or that Lava would skip, clip, wrap or crash on."""


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
    return Timing(graph.T, len(layers(graph)), graph.T, 1)


def message_bits(graph: SpikingGraph) -> int:
    """`input_message_bits` for netx: 0 for binary spikes, else the bits of a graded pixel."""
    return 0 if graph.input.encoding == "spikes" else int(graph.input.scale or 1).bit_length()


def write(graph: SpikingGraph, path: Path) -> Path:
    """Write an integer chain (from `to_chain`) as `path`, and `path`.json beside it.

    Raises:
        NetxError: a number that Lava would clip, wrap or crash on, by layer.
        DeployError: the graph is not a chain.
    """
    described = _describe(graph)
    with atomic_path(path) as temporary:
        with h5py.File(temporary, "w") as file:
            group = file.create_group("layer")
            for index, layer in enumerate(described):
                _write_layer(group.create_group(str(index)), layer)
        problems = validate(temporary)
        if problems:
            raise NetxError(f"{path.name}: {problems[0]}")
    with atomic_path(sidecar_path(path)) as temporary:
        temporary.write_text(json.dumps(_sidecar(graph), indent=2) + "\n", encoding="utf-8")
    return path


def sidecar_path(path: Path) -> Path:
    """`NAME.net` → `NAME.net.json`."""
    return path.with_name(path.name + ".json")


def validate(path: Path) -> list[str]:
    """What Lava would silently skip, clip, wrap or crash on in a `.net` file: one line each, empty if sound.

    Raises:
        NetxError: the file cannot be read at all.
    """
    with _open(path) as file:
        return list(_problems(file))


def read(path: Path, *, T: int | None = None) -> SpikingGraph:
    """A `.net` file as an integer chain.

    T, the input encoding and the scales come from the JSON file beside it; without one, pass T, and
    the input is taken to be graded 8-bit pixels.

    Raises:
        NetxError: unreadable, truncated, or not sound (the first finding of `validate`).
    """
    with _open(path) as file:
        problems = list(_problems(file))
        if problems:
            raise NetxError(f"{path.name}: {problems[0]}")
        extra = _read_sidecar(path)
        steps = T if T is not None else extra.get("T")
        if steps is None:
            raise NetxError(
                f"{path.name}: no {sidecar_path(path).name} beside it says how many time steps to run; pass T"
            )
        try:
            return _to_graph(file, int(steps), extra)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise NetxError(f"{path.name}: it cannot be understood ({error}); write it again") from error


# -- writing -----------------------------------------------------------------------------------------


def _describe(graph: SpikingGraph) -> Iterator[dict[str, Any]]:
    """The layers as nested dictionaries of datasets."""
    yield {"type": "input", "shape": np.array(graph.input.shape, np.int64)}
    for step in layers(graph):
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
            "iDecay": np.int64(4096),
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
            }
            for step in layers(graph)
        ],
        "metadata": dict(graph.metadata),
    }


# -- reading -----------------------------------------------------------------------------------------


class _open:  # noqa: N801 - reads as a function
    """`h5py.File` for reading, with every way it can fail turned into one line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> h5py.File:
        if not self.path.is_file():
            raise NetxError(f"{self.path}: no such file")
        try:
            self.file = h5py.File(self.path, "r")
        except OSError as error:
            raise NetxError(
                f"{self.path.name}: not a readable netx (HDF5) file; it is truncated or of another kind"
            ) from error
        return self.file

    def __exit__(self, *exception: object) -> None:
        self.file.close()


def _layer_groups(file: h5py.File) -> list[h5py.Group]:
    root = file["layer"]
    return [root[str(i)] for i in range(len(root))]


def _text(dataset: Any) -> str:
    value = dataset[()]
    value = value.flat[0] if isinstance(value, np.ndarray) else value
    return value.decode("ascii") if isinstance(value, bytes) else str(value)


def _problems(file: h5py.File) -> Iterator[str]:
    """The findings; a file damaged inside raises from h5py at any point, which is one more finding."""
    try:
        if "layer" not in file or not isinstance(file["layer"], h5py.Group) or len(file["layer"]) == 0:
            yield "it has no 'layer' group; this is not a netx file"
            return
        names = sorted(file["layer"])
        if names != sorted(str(i) for i in range(len(names))):
            yield f"its layers are named {', '.join(names[:6])}; they must be 0, 1, 2, … without a gap"
            return
        seen_neurons = False
        for index, group in enumerate(_layer_groups(file)):
            kind = _text(group["type"]) if "type" in group else "missing"
            where = f"layer {index} ({kind})"
            if kind in ("conv", "dense"):
                seen_neurons = True
                yield from (f"{where}: {problem}" for problem in _layer_problems(kind, group))
            elif kind == "input":
                if "neuron" in group:
                    yield f"{where}: input layers with neurons are not supported"
                if "shape" not in group:
                    yield f"{where}: the shape is missing"
            elif kind != "flatten":
                yield f"{where}: Lava skips or refuses layers of this type; supported are input, conv, dense, flatten"
        if not seen_neurons:
            yield "it has no conv or dense layer"
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        yield f"it is damaged inside ({str(error).splitlines()[0][:120]})"


def _layer_problems(kind: str, group: h5py.Group) -> Iterator[str]:
    required = ("shape", "weight", "neuron") + (("stride", "padding", "dilation", "groups") if kind == "conv" else ())
    missing = [key for key in required if key not in group]
    if missing:
        yield f"{', '.join(missing)} missing"
        return
    weight = np.asarray(group["weight"][()])
    if weight.ndim != (4 if kind == "conv" else 2) or weight.size == 0:
        yield f"the weight has shape {weight.shape}"
        return
    yield from _number_problems("weight", weight)
    if not weight.any():
        yield "all weights are zero, on which Lava's dense layer overflows; remove the layer"
    if kind == "dense" and (weight.min() < -256 or weight.max() > 254):
        yield f"weights reach from {weight.min():g} to {weight.max():g}; Lava clips dense weights to −256…254"
    if kind == "dense" and weight.max() <= 0:
        yield "no weight is positive; Lava rounds such a dense layer wrongly"
    if kind == "conv" and not 1 <= int(np.asarray(group["groups"][()]).flat[0]) <= MAX_GROUPS:
        yield f"{int(np.asarray(group['groups'][()]).flat[0])} groups; Lava keeps the number in 8 signed bits (1…{MAX_GROUPS})"
    for key in ("stride", "padding", "dilation") if kind == "conv" else ():
        values = np.asarray(group[key][()])
        if values.size == 0 or (values > 127).any() or (values < (0 if key == "padding" else 1)).any():
            yield f"{key} {values.tolist()} is out of range (Lava keeps it in 8 signed bits)"
    if "bias" in group:
        bias = np.asarray(group["bias"][()])
        yield from _number_problems("bias", bias)
        if np.abs(bias).max(initial=0) > BIAS_LIMIT:
            yield f"a bias of {np.abs(bias).max():g}; Lava keeps it in 16 bits (±{BIAS_LIMIT})"
        if bias.shape != weight.shape[:1]:
            yield f"the bias has shape {bias.shape}, expected {weight.shape[:1]}"
    yield from _neuron_problems(group["neuron"])


def _neuron_problems(neuron: h5py.Group) -> Iterator[str]:
    missing = [key for key in ("type", "iDecay", "vDecay", "vThMant") if key not in neuron]
    if missing:
        yield f"neuron: {', '.join(missing)} missing"
        return
    kind = _text(neuron["type"])
    if kind not in ("CUBA", "LOIHI"):
        yield f"neuron: type {kind}; supported is CUBA"
    current, voltage, threshold = (int(np.asarray(neuron[k][()]).flat[0]) for k in ("iDecay", "vDecay", "vThMant"))
    if current != 4096 or not 0 <= voltage <= 4096:
        yield f"neuron: iDecay {current}, vDecay {voltage}; supported are IF (4096, 0) and LIF (4096, 1…4096)"
    if threshold < 0 or threshold >= SILENT:
        yield f"neuron: vThMant {threshold} is outside 0…{THRESHOLD_LIMIT}"


def _number_problems(what: str, values: Array) -> Iterator[str]:
    if values.dtype.kind not in "fiu" or not np.isfinite(values).all():
        yield f"the {what} holds NaN, infinite or non-numeric values"
    elif (values != np.trunc(values)).any():
        yield f"the {what} holds fractions, which Lava cuts off; quantize the network first"


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
    for index, group in enumerate(_layer_groups(file)):
        kind = _text(group["type"])
        if kind == "input":
            shape = tuple(int(d) for d in np.asarray(group["shape"][()]).reshape(-1))
            nodes.append(("input", Input(shape, encoding, scale)))
        elif kind == "flatten":
            nodes.append((f"flatten{index}", Flatten()))
        else:
            synapse, neuron, unit = names[k] if k < len(names) else (f"layer{index}", f"layer{index}.neuron", 1.0)
            threshold = int(np.asarray(group["neuron/vThMant"][()]).flat[0]) + 1
            weight = np.asarray(group["weight"][()]).astype(np.int32)
            bias = np.asarray(group["bias"][()]).astype(np.int32) if "bias" in group else None
            node: Node = Linear(weight, bias)
            if kind == "conv":
                stride, padding, dilation = (_pair(group[key]) for key in ("stride", "padding", "dilation"))
                node = Conv2d(weight, bias, stride, padding, dilation, int(np.asarray(group["groups"][()]).flat[0]))
            decay = int(np.asarray(group["neuron/vDecay"][()]).flat[0])
            leaky = LIF(threshold, (4096 - decay) / 4096, scale=unit)
            nodes += [(synapse, node), (neuron, leaky if decay else IF(threshold, scale=unit))]
            k += 1
    last, end = nodes[-1]
    if isinstance(end, IF) and end.threshold >= SILENT:  # neurons that only integrate: their membrane is the result
        nodes[-1] = (last, Output("membrane", end.scale))
    else:
        nodes.append(("output", Output("rate")))
    return chain(nodes, T, metadata=extra.get("metadata", {}))
