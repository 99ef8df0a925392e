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


def build_network(hdf5: Any, path: Path, job: dict[str, Any], frame_shape: tuple[int, ...]) -> Any:
    """The netx network of the job's file is built; whatever Lava would refuse, skip or clip is a `JobError`."""
    name = job["name"]
    _check_layers(name, path)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            net = hdf5.Network(
                net_config=str(path),
                input_message_bits=job["message_bits"],
                input_shape=frame_shape[::-1],
                reset_interval=job["T"],
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


def _check_layers(name: str, path: Path) -> None:
    """netx skips layers of a type it does not know, and leaves an input with neurons unconnected."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            for index in sorted(map(int, file["layer"])):
                layer = file["layer"][str(index)]
                kind = np.ravel(layer["type"][()])[0].decode("ascii")
                if kind not in LAYER_TYPES:
                    raise JobError(f"{name}: layer {index} is of type {kind!r}, which Lava's netx does not load")
                if kind == "input" and "neuron" in layer:
                    raise JobError(f"{name}: layer {index} is an input with neurons, which netx leaves unconnected")
    except JobError:
        raise
    except Exception as error:
        raise JobError(f"{name} is damaged or not a netx file: {describe(error)}") from error


def step_seconds(layers: Sequence[Any], fast: bool) -> float:
    """One Lava step takes so many seconds by a generous estimate, which is only used to tell slow from hung."""
    total = 0.0
    for layer in layers:
        weight = getattr(layer.synapse, "weight", None)
        if weight is None:  # dense
            total += 1e-8 * float(np.prod(layer.inp.shape)) * float(np.prod(layer.shape))
        elif fast:
            total += 1e-8 * float(np.prod(weight.shape)) * float(np.prod(layer.shape[:2]))
        else:  # one scipy convolution over the whole image for every pair of channels
            out, kw, kh, per_group = weight.shape
            total += out * per_group * (5e-5 + 1e-8 * kw * kh * float(np.prod(layer.inp.shape[:2])))
    return total
