"""A job's netx network is built, or one line says what Lava would refuse, skip or clip."""

from __future__ import annotations

import contextlib
import io
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .errors import JobError, describe

LAYER_TYPES = {"input", "conv", "dense", "dense_rec", "flatten"}


def build_network(
    hdf5: Any, path: Path, job: dict[str, Any], frame_shape: tuple[int, ...], interval: int
) -> Any:
    """The netx network of the job's file is built, its layers reset every `interval` steps; whatever Lava would refuse, skip
    or clip is a `JobError`."""
    name = job["name"]
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            net = hdf5.Network(
                net_config=str(path),
                input_message_bits=job["message_bits"],
                input_shape=frame_shape[::-1],
                reset_interval=interval,
                reset_offset=1,
            )
    except JobError:
        raise
    except Exception as error:
        traceback.print_exc()
        raise JobError(f"Lava cannot load {name}: {describe(error)}") from error
    if "[WARNING]" in printed.getvalue():
        said = " ".join(printed.getvalue().replace("[WARNING]", "").split())
        raise JobError(f"Lava would change the weights of {name}: {said}")
    return net


def check_layers(name: str, path: Path) -> bool:
    """Whether a dense layer has delays. netx skips layers of a type it does not know, and leaves an input with neurons
    unconnected; both are a `JobError`."""
    import h5py

    delayed = False
    try:
        with h5py.File(path, "r") as file:
            for index in sorted(map(int, file["layer"])):
                layer = file["layer"][str(index)]
                kind = np.ravel(layer["type"][()])[0].decode("ascii")
                if kind not in LAYER_TYPES:
                    raise JobError(f"{name}: layer {index} is of type {kind!r}, which Lava's netx does not load")
                if kind == "input" and "neuron" in layer:
                    raise JobError(f"{name}: layer {index} is an input with neurons, which netx leaves unconnected")
                delayed |= kind.startswith("dense") and "delay" in layer
    except JobError:
        raise
    except Exception as error:
        raise JobError(f"{name} is damaged or not a netx file: {describe(error)}") from error
    return delayed


def clear_buffers(net: Any, interval: int) -> dict[str, Any]:
    """Spikes that are on their way when a sample ends do not arrive in the next one; the processes that see to it, by what
    they are to a reader of an error.

    A layer is reset right before its sample's first data are integrated, in step k + 2 of every interval. What its own spikes
    put into `synapse_rec` is emptied at the end of the step before, and the delays of what it reads one step earlier,
    before the layer in front of it fires for the new sample.
    """
    from lava.proc.dense.process import DelayDense
    from lava.proc.io.reset import Reset

    found = {}
    for k, layer in enumerate(net.layers):
        buffers = {}
        if isinstance(layer.synapse, DelayDense):
            buffers["delays"] = (layer.synapse, k - 1)
        if (recurrent := getattr(layer, "synapse_rec", None)) is not None:
            buffers["recurrent spikes"] = (recurrent, k)
        for what, (synapse, offset) in buffers.items():
            reset = Reset(interval=interval, offset=offset % interval)
            reset.connect_var(synapse.a_buff)
            found[f"resets of the {what} of layer {k}"] = reset
    return found


def step_seconds(layers: Sequence[Any], fast: bool) -> float:
    """One Lava step takes so many seconds by a generous estimate, which is only used to tell slow from hung."""
    total = 0.0
    for layer in layers:
        weight = getattr(layer.synapse, "weight", None)
        if weight is None:  # dense
            inputs = float(np.prod(layer.inp.shape)) + float(hasattr(layer, "synapse_rec")) * float(np.prod(layer.shape))
            # with delays, a matrix for each number of steps is made anew in every step
            apart = 5.0 * layer.synapse.a_buff.shape[1] if len(layer.synapse.a_buff.shape) > 1 else 1.0
            total += 1e-8 * apart * inputs * float(np.prod(layer.shape))
        elif fast:
            total += 1e-8 * float(np.prod(weight.shape)) * float(np.prod(layer.shape[:2]))
        else:  # one scipy convolution over the whole image for every pair of channels
            out, kw, kh, per_group = weight.shape
            total += out * per_group * (5e-5 + 1e-8 * kw * kh * float(np.prod(layer.inp.shape[:2])))
    return total
