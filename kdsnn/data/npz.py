"""`npz:FILE`: a numpy archive with `x_train, y_train, x_test, y_test`.

* Images: (N, H, W), or with channels (N, C, H, W) or (N, H, W, C). The channel axis is the one of
  length 1 to 4; where both or neither of the two are (an image 3 pixels high, a sensor with 16
  bands), the file must say which with a string array `layout`, "NCHW" or "NHWC".
* Pixels: uint8 0…255, or floats in 0…1 that are whole multiples of 1/255. Other floats are refused
  rather than rounded, because the network would train on other images than the file holds.
* Labels: integers (N,), 0…K - 1, each present in `y_train`; K is the number of classes.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdsnn.data.dataset import DataSet
from kdsnn.errors import KdsnnError

KEYS = ("x_train", "y_train", "x_test", "y_test")
CHANNELS = range(1, 5)


def load_npz(path: Path) -> DataSet:
    """Read `path` as the module describes; raises KdsnnError naming the file, the array and the remedy."""
    arrays = _read(path)
    layout = _layout(path, arrays)
    y_train = _labels(path, "y_train", arrays["y_train"])
    classes = np.unique(y_train)
    if len(classes) == 0 or classes[0] != 0 or classes[-1] != len(classes) - 1:
        raise KdsnnError(
            f"{path}: y_train must hold every label from 0 to K-1; it holds {_brief(classes)}: renumber the labels from 0."
        )
    return DataSet(
        name=f"npz:{path}",
        x_train=_images(path, "x_train", arrays["x_train"], layout),
        y_train=y_train,
        x_test=_images(path, "x_test", arrays["x_test"], layout),
        y_test=_labels(path, "y_test", arrays["y_test"]),
        classes=len(classes),
    )


def _read(path: Path) -> dict[str, NDArray[Any]]:
    try:
        # opened as a zip first, because np.load takes anything else for a pickle and says so confusingly
        with zipfile.ZipFile(path) as archive:
            missing = [key for key in KEYS if f"{key}.npy" not in archive.namelist()]
        if missing:
            raise KdsnnError(f"{path}: array {', '.join(missing)} is missing: the file needs {', '.join(KEYS)}.")
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in (*KEYS, "layout") if key in archive.files}
    except FileNotFoundError as error:
        raise KdsnnError(f"{path}: no such file: give an .npz file with {', '.join(KEYS)}.") from error
    except (
        OSError,
        ValueError,  # also numpy's refusal to unpickle object arrays
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
        MemoryError,
        OverflowError,
        NotImplementedError,  # an unknown compression method
        RuntimeError,  # an encrypted member
        SyntaxError,  # a damaged .npy header
    ) as error:
        raise KdsnnError(
            f"{path}: not a readable .npz of plain arrays ({_brief(error)}): write it again with numpy.savez."
        ) from error


def _layout(path: Path, arrays: dict[str, NDArray[Any]]) -> str:
    shape = arrays["x_train"].shape
    if "layout" in arrays:
        layout = str(arrays["layout"])
        if layout not in ("NCHW", "NHWC"):
            raise KdsnnError(f"{path}: layout is '{_brief(layout)}': use NCHW or NHWC.")
        return layout
    if len(shape) != 4:
        return "NHW"
    first, last = shape[1] in CHANNELS, shape[3] in CHANNELS
    if first == last:
        raise KdsnnError(
            f"{path}: x_train of shape {shape} could be NCHW or NHWC: add a string array layout='NCHW' or 'NHWC' to the file."
        )
    return "NCHW" if first else "NHWC"


def _images(path: Path, key: str, x: NDArray[Any], layout: str) -> NDArray[np.uint8]:
    pixels = _pixels(path, key, x)
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif pixels.ndim == 4 and layout == "NHWC":
        pixels = pixels.transpose(0, 3, 1, 2)
    elif pixels.ndim != 4:
        raise KdsnnError(f"{path}: {key} has shape {x.shape}: expected (N, H, W), (N, C, H, W) or (N, H, W, C).")
    return np.ascontiguousarray(pixels)


def _pixels(path: Path, key: str, x: NDArray[Any]) -> NDArray[np.uint8]:
    if x.dtype == np.uint8:
        return x
    if not np.issubdtype(x.dtype, np.floating):
        raise KdsnnError(f"{path}: {key} is {x.dtype}: store pixels as uint8, 0 to 255.")
    if not np.isfinite(x).all():
        raise KdsnnError(f"{path}: {key} holds NaN or infinite values: remove those images and write the file again.")
    if x.size and (x.min() < 0 or x.max() > 1):
        raise KdsnnError(
            f"{path}: {key} holds floats from {x.min():g} to {x.max():g}: store pixels as uint8 0 to 255, or as floats in 0 to 1."
        )
    levels = x.astype(np.float64) * 255
    rounded = np.rint(levels)
    # an eighth of a level: even float16 carries 8-bit pixels to a sixteenth
    if x.size and np.abs(levels - rounded).max() > 1 / 8:
        raise KdsnnError(
            f"{path}: {key} holds floats that are not multiples of 1/255: store np.rint(255 * x).astype(np.uint8) instead."
        )
    return rounded.astype(np.uint8)


def _labels(path: Path, key: str, y: NDArray[Any]) -> NDArray[np.int64]:
    if not np.issubdtype(y.dtype, np.integer):
        raise KdsnnError(f"{path}: {key} is {y.dtype}: store class numbers as integers, counted from 0.")
    if y.ndim != 1:
        raise KdsnnError(f"{path}: {key} has shape {y.shape}: expected (N,), one class number per image.")
    return y.astype(np.int64)


def _brief(value: object) -> str:
    """The first line of `value`, cut to one readable length."""
    line = " ".join(str(value).split())
    return line if len(line) <= 100 else line[:97] + "..."
