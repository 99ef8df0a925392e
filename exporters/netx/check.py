"""The check opens netx files (`.net`, HDF5) and finds in them what Lava would not run right, without Lava."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import numpy as np

from exporters.errors import DeployError
from exporters.graph import Array
from exporters.graph.registers import BIAS_LIMIT, DECAY_ONE, DENSE_WEIGHTS, MAX_GROUPS, MAX_STEP, THRESHOLD_LIMIT
from exporters.hdf5 import flaw
from exporters.netx.arrays import numbers
from exporters.netx.dense import DENSE, time_problems

Layer: TypeAlias = Mapping[str, Any]
"""A layer is a group of a file, which maps names to datasets and groups, or what is to become one: arrays and such mappings."""

Weights: TypeAlias = Callable[[str, Layer], Array]
"""What gives the weights of a layer, of a type and in a group."""


class NetxError(DeployError):
    """A `.net` file cannot be read, or Lava would skip, clip, wrap or crash on what it holds."""


class opened:  # noqa: N801 - reads as a function
    """The block reads an `h5py.File`; every way in which opening it can fail is one line."""

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


def layer_groups(file: h5py.File) -> list[h5py.Group]:
    """The layers of a file come in order."""
    root = file["layer"]
    return [root[str(i)] for i in range(len(root))]


def text(dataset: Any) -> str:
    """A string comes out as slayer (one-element arrays of bytes), h5py or others store it."""
    value = dataset[()]
    value = value.flat[0] if isinstance(value, np.ndarray) else value
    return value.decode("ascii") if isinstance(value, bytes) else str(value)


def weight_of(kind: str, group: Layer) -> Array:
    """The weights of a layer are (Cout, Cin/groups, kH, kW) or (N, F), whichever way the file has them.

    As netx does, a dense layer's flat weights are folded by its shape, and a convolution's last axis of length 1, which
    slayer keeps for time, is left off. Any other array comes as it is.
    """
    weight = group["weight"]
    weight = numbers(weight) if isinstance(weight, h5py.Dataset) else np.asarray(weight)
    neurons = math.prod(np.asarray(group["shape"][()]).reshape(-1).tolist())
    if kind in DENSE and weight.ndim == 1 and neurons > 0 and weight.size % neurons == 0:
        return weight.reshape(neurons, -1)
    return weight[..., 0] if kind == "conv" and weight.ndim == 5 and weight.shape[-1] == 1 else weight


def says_shape(group: Layer) -> bool:
    """A group says the shape of the network's input if it is an input layer and has one; netx takes both to be optional."""
    return text(group["type"]) == "input" and "shape" in group


def validate(path: Path) -> list[str]:
    """The findings are what Lava would silently skip, clip, wrap or crash on in a `.net` file: one line each, none if
    it is sound.

    Raises:
        NetxError: the file cannot be read at all.
    """
    with opened(path) as file:
        return list(problems(file))


def problems(file: h5py.File, weights: Weights = weight_of) -> Iterator[str]:
    """The findings come one by one; a file damaged inside raises from h5py at any point, which is one more finding."""
    try:
        if (what := flaw(file)) is not None:
            yield what
            return
        if "layer" not in file or not isinstance(file["layer"], h5py.Group) or len(file["layer"]) == 0:
            yield "it has no 'layer' group; this is not a netx file"
            return
        names = sorted(file["layer"])
        if names != sorted(str(i) for i in range(len(names))):
            yield f"its layers are named {', '.join(names[:6])}; they must be 0, 1, 2, … without a gap"
            return
        yield from layer_problems(layer_groups(file), weights)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        yield f"it is damaged inside ({reason[:120]})"


def layer_problems(layers: Sequence[Layer], weights: Weights = weight_of) -> Iterator[str]:
    """The findings about the layers of a file, or about those that are to be written: groups, or mappings that are like them."""
    seen_neurons = False
    for index, group in enumerate(layers):
        kind = text(group["type"]) if "type" in group else "missing"
        where = f"layer {index} ({kind})"
        if kind in ("conv", *DENSE):
            seen_neurons = True
            last = index == len(layers) - 1
            yield from (f"{where}: {problem}" for problem in _layer_problems(kind, group, weights, last=last))
        elif kind == "input":
            yield from (f"{where}: {problem}" for problem in _input_problems(group))
            if index > 0:
                yield f"{where}: only the first layer can be the input"
        elif kind != "flatten":
            yield f"{where}: Lava skips or refuses layers of this type; supported are input, conv, dense, dense_rec, flatten"
    if not seen_neurons:
        yield "it has no conv or dense layer"
    elif not says_shape(layers[0]) and next(k for g in layers if (k := text(g["type"])) in ("conv", *DENSE)) == "conv":
        yield "no input layer says the shape of what its first convolution reads; add one"


def _input_problems(group: Layer) -> Iterator[str]:
    if "neuron" not in group:
        return
    if "shape" not in group:
        yield "the shape is missing"
    for key in ("weight", "bias"):
        if key in group:
            values = np.asarray(group[key][()])
            yield from _number_problems(key, values)
            if values.size != 1:
                yield f"the {key} of an input layer has shape {values.shape}; one number is understood"
            elif abs(float(values.flat[0])) > BIAS_LIMIT:
                yield f"a {key} of {float(values.flat[0]):g}; Lava keeps what drives these neurons in 16 bits (±{BIAS_LIMIT})"
    yield from _neuron_problems(group["neuron"], last=False)


def _layer_problems(kind: str, group: Layer, weights: Weights, *, last: bool) -> Iterator[str]:
    required: tuple[str, ...] = ("shape", "weight")
    required += ("neuron", "stride", "padding", "dilation", "groups") if kind == "conv" else ()
    if not last and "neuron" not in required:
        required += ("neuron",)
    missing = [key for key in required if key not in group]
    if missing:
        yield f"{', '.join(missing)} missing"
        return
    weight = weights(kind, group)
    if weight.ndim != (4 if kind == "conv" else 2) or weight.size == 0:
        yield f"the weight has shape {weight.shape}"
        return
    found = list(_number_problems("weight", weight))
    yield from found
    if kind in DENSE and not found:
        yield from time_problems(kind, group, weight)
    recurrent = np.asarray(group["weight_rec"][()]) if kind == "dense_rec" and "weight_rec" in group else np.zeros(1)
    if not weight.any() and not recurrent.any():
        yield "all weights are zero, on which Lava's dense layer overflows; remove the layer"
    low, high = DENSE_WEIGHTS
    if kind in DENSE and (weight.min() < low or weight.max() > high):
        yield f"weights reach from {weight.min():g} to {weight.max():g}; Lava clips dense weights to −{-low}…{high}"
    if kind in DENSE and max(weight.max(), recurrent.max(initial=0)) <= 0:
        yield "no weight is positive; Lava rounds such a dense layer wrongly"
    if kind == "conv" and not 1 <= int(np.asarray(group["groups"][()]).flat[0]) <= MAX_GROUPS:
        yield f"{int(np.asarray(group['groups'][()]).flat[0])} groups; Lava keeps the number in 8 signed bits (1…{MAX_GROUPS})"
    for key in ("stride", "padding", "dilation") if kind == "conv" else ():
        values = np.asarray(group[key][()])
        if values.size == 0 or (values > MAX_STEP).any() or (values < (0 if key == "padding" else 1)).any():
            yield f"{key} {values.tolist()} is out of range (Lava keeps it in 8 signed bits)"
    if "bias" in group:
        bias = np.asarray(group["bias"][()])
        yield from _number_problems("bias", bias)
        if np.abs(bias).max(initial=0) > BIAS_LIMIT:
            yield f"a bias of {np.abs(bias).max():g}; Lava keeps it in 16 bits (±{BIAS_LIMIT})"
        whole = tuple(np.asarray(group["shape"][()]).reshape(-1).tolist())[::-1]
        if bias.shape != weight.shape[:1] and (kind in DENSE or bias.shape != whole):
            instead = "" if kind in DENSE else f" or {whole}, width before height before channels"
            yield f"the bias has shape {bias.shape}, expected {weight.shape[:1]}{instead}"
    if kind == "conv" and "delay" in group and np.any(np.asarray(group["delay"][()])):
        yield "it has synaptic delays, which Lava ignores in convolutions; train without delays, or use dense layers"
    if "neuron" in group:
        yield from _neuron_problems(group["neuron"], last=last)
    elif "bias" in group:
        yield "it has a bias but no neurons, which Lava would add once and not at every step; give it neurons"


def _neuron_problems(neuron: Layer, *, last: bool) -> Iterator[str]:
    missing = [key for key in ("type", "iDecay", "vDecay", "vThMant") if key not in neuron]
    if missing:
        yield f"neuron: {', '.join(missing)} missing"
        return
    kind = text(neuron["type"])
    if kind not in ("CUBA", "LOIHI"):
        yield f"neuron: type {kind}; supported is CUBA"
    for key in ("iDecay", "vDecay", "vThMant"):
        values = np.asarray(neuron[key][()])
        if values.size == 0 or values.dtype.kind not in "iuf" or (values != values.flat[0]).any():
            yield f"neuron: {key} differs between neurons or is no number; a layer has one"
            return
    if any(np.any(np.asarray(neuron[k][()])) for k in ("weight_exp", "wgtExp") if k in neuron):
        yield "neuron: a weight exponent, which netx ignores; export without weight-scaling BatchNorm"
    if "gradedSpike" in neuron and np.any(np.asarray(neuron["gradedSpike"][()])):
        yield "neuron: graded spikes, of which Lava sends only 0 or 1; train with binary spikes"
    current, voltage, threshold = (int(np.asarray(neuron[k][()]).flat[0]) for k in ("iDecay", "vDecay", "vThMant"))
    if not 0 <= current <= DECAY_ONE or not 0 <= voltage <= DECAY_ONE:
        yield f"neuron: iDecay {current}, vDecay {voltage}; both are 12-bit decays, 0 (none) to {DECAY_ONE} (all in one step)"
    if threshold < 0 or (threshold >= THRESHOLD_LIMIT and not last):
        yield f"neuron: vThMant {threshold} is outside 0…{THRESHOLD_LIMIT - 1}; above, only the last layer's may be, as a read-out"
    elif threshold >= THRESHOLD_LIMIT and current != DECAY_ONE and (current, voltage) != (0, DECAY_ONE):
        yield (
            f"neuron: it cannot fire (vThMant {threshold}) and its current persists (iDecay {current}, vDecay {voltage}); a "
            f"read-out's must not (iDecay {DECAY_ONE})"
        )


def _number_problems(what: str, values: Array) -> Iterator[str]:
    if values.dtype.kind in "iu":
        return
    if values.dtype.kind != "f" or not np.isfinite(values).all():
        yield f"the {what} holds NaN, infinite or non-numeric values"
    elif (values != np.trunc(values)).any():
        yield f"the {what} holds fractions, which Lava cuts off; quantize the network first"
