"""`npz:FILE` and `npy:DIR`: numpy arrays `x_train, y_train, x_test, y_test` in one archive, or as .npy files.

* Images: (N, H, W), or with channels (N, C, H, W) or (N, H, W, C). The channel axis is the one of
  length 1 to 4; where both or neither of the two are (an image 3 pixels high, a sensor with 16
  bands), the file must say which with a string array `layout`, "NCHW" or "NHWC".
* Pixels: uint8 0…255, or floats in 0…1 that are whole multiples of 1/255. Other floats are refused
  rather than rounded, because the network would train on other images than the file holds.
* Labels: integers (N,), 0…K - 1, each present in `y_train`; K is the number of classes.

An archive is read into memory. The images of `npy:DIR`, which must be uint8, stay in their files and
are read batch by batch: the form for data sets that do not fit into memory.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdsnn.data.dataset import DataSet, brief
from kdsnn.errors import KdsnnError

KEYS = ("x_train", "y_train", "x_test", "y_test")
CHANNELS = range(1, 5)


def load_npz(path: Path) -> DataSet:
    """Read `path` as the module describes; raises KdsnnError naming the file, the array and the remedy."""
    return _data_set(f"npz:{path}", path, _read(path))


def load_npy(folder: Path) -> DataSet:
    """Map the files of `folder` as the module describes; raises KdsnnError as `load_npz` does."""
    arrays = {key: _member(folder, key) for key in KEYS}
    if (folder / "layout.npy").exists():
        arrays["layout"] = _member(folder, "layout")
    return _data_set(f"npy:{folder}", folder, arrays)


def _member(folder: Path, key: str) -> NDArray[Any]:
    path = folder / f"{key}.npy"
    images = key.startswith("x")
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r" if images else None, allow_pickle=False)
    except FileNotFoundError as error:
        raise KdsnnError(f"{path}: no such file: the folder needs {', '.join(f'{k}.npy' for k in KEYS)}.") from error
    except Exception as error:  # as in _read
        raise KdsnnError(
            f"{path}: not a readable .npy of a plain array ({brief(error)}): write it again with numpy.save."
        ) from error
    if not isinstance(array, np.ndarray):  # np.load opens whatever it recognises, an archive too
        raise KdsnnError(f"{path}: not a single array: write it again with numpy.save.")
    if images and array.dtype != np.uint8:
        raise KdsnnError(f"{path}: the pixels are {array.dtype}: store them as uint8, 0 to 255.")
    return array


def _data_set(name: str, path: Path, arrays: dict[str, NDArray[Any]]) -> DataSet:
    layout = _layout(path, arrays)
    y_train = _labels(path, "y_train", arrays["y_train"])
    classes = np.unique(y_train)
    if len(classes) == 0 or classes[0] != 0 or classes[-1] != len(classes) - 1:
        raise KdsnnError(
            f"{path}: y_train must hold every label from 0 to K-1; it holds {brief(classes)}: renumber the labels from 0."
        )
    return DataSet(
        name=name,
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
    except KdsnnError:
        raise
    except Exception as error:  # zipfile, zlib and numpy's header parser raise a dozen kinds on damaged files
        raise KdsnnError(
            f"{path}: not a readable .npz of plain arrays ({brief(error)}): write it again with numpy.savez."
        ) from error


def _layout(path: Path, arrays: dict[str, NDArray[Any]]) -> str:
    shape = arrays["x_train"].shape
    if "layout" in arrays:
        layout = str(arrays["layout"])
        if layout not in ("NCHW", "NHWC"):
            raise KdsnnError(f"{path}: layout is '{brief(layout)}': use NCHW or NHWC.")
        return layout
    if len(shape) != 4:
        return "NHW"
    first, last = shape[1] in CHANNELS, shape[3] in CHANNELS
    if first == last:
        raise KdsnnError(
            f"{path}: x_train of shape {shape} could be NCHW or NHWC: "
            f"add a string array layout='NCHW' or 'NHWC' beside it."
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
    return pixels if isinstance(pixels, np.memmap) else np.ascontiguousarray(pixels)


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
