"""`npz:FILE` and `npy:DIR`: numpy arrays `x_train, y_train, x_test, y_test` in one archive, or as .npy files.

* Images: (N, H, W), or with channels (N, C, H, W) or (N, H, W, C). The channel axis is the one of
  length 1 to 4; where both or neither of the two are (an image 3 pixels high, a sensor with 16
  bands), the file must say which with a string array `layout`, "NCHW" or "NHWC".
* Frames over time: (N, T, C, H, W), uint8 or boolean, 0 or 1: spikes, which a network sees as they are.
* Pixels: uint8 0…255, or floats in 0…1 that are whole multiples of 1/255. Other floats are refused
  rather than rounded, because the network would train on other images than the file holds.
* Labels: integers (N,), 0…K - 1, each present in `y_train`; K is the number of classes.

An archive is read piece by piece (`kdsnn.data.storage` says where the images go), so that neither its
floats nor what it unpacks to must fit into memory; every checksum in it is verified. The images of
`npy:DIR`, which must be uint8, stay in their files: the form for data sets of many gigabytes.
Nothing is ever unpickled.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from kdsnn.data.dataset import DataSet, brief
from kdsnn.data.pixels import EXACT, Layout, are_numbered, channels_first, layout_of, nearest_levels, require_spikes
from kdsnn.data.storage import CHUNK, empty
from kdsnn.errors import KdsnnError

KEYS = ("x_train", "y_train", "x_test", "y_test")


def load_npz(path: Path) -> DataSet:
    """Read `path` as the module describes; raises KdsnnError naming the file, the array and the remedy."""
    if not path.exists():
        raise KdsnnError(f"{path}: no such file: give an .npz file with {', '.join(KEYS)}.")
    if not path.is_file():  # a pipe would be waited for
        raise KdsnnError(f"{path}: not a readable .npz, it is not a file: give an .npz file with {', '.join(KEYS)}.")
    try:
        with zipfile.ZipFile(path) as archive:
            return _data_set(f"npz:{path}", path, _members(path, archive))
    except KdsnnError:
        raise
    except Exception as error:  # zipfile, zlib and numpy's header parser raise a dozen kinds on damaged files
        raise KdsnnError(
            f"{path}: not a readable .npz of plain arrays ({brief(error)}): write it again with numpy.savez."
        ) from error


def load_npy(folder: Path) -> DataSet:
    """Map the files of `folder` as the module describes; raises KdsnnError as `load_npz` does."""
    arrays = {key: _mapped(folder, key) for key in KEYS}
    if (folder / "layout.npy").exists():
        arrays["layout"] = _mapped(folder, "layout")
    return _data_set(f"npy:{folder}", folder, arrays)


class _Array(Protocol):
    """This much is known of an array before it is read."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...

    def whole(self) -> NDArray[Any]:
        """Read the array as it is."""
        ...

    def pixels(self) -> NDArray[np.uint8]:
        """Read the array as 8-bit pixels, of the same shape."""
        ...


@dataclass(frozen=True)
class _File:
    """Such an array is mapped where it lies; its pixels are uint8 already."""

    array: NDArray[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    def whole(self) -> NDArray[Any]:
        return np.array(self.array)

    def pixels(self) -> NDArray[np.uint8]:
        return self.array


@dataclass(frozen=True)
class _Member:
    """A member is an array in an archive, as its header describes it."""

    path: Path
    archive: zipfile.ZipFile
    key: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool

    def whole(self) -> NDArray[Any]:
        values = np.concatenate([np.empty(0, self.dtype), *self._pieces()])
        return values.reshape(self.shape, order="F" if self.fortran else "C")

    def pixels(self) -> NDArray[np.uint8]:
        binary = len(self.shape) == 5
        # a file in Fortran's order holds the transposed array in C's
        stored = empty(self.shape[::-1] if self.fortran else self.shape)
        flat, done = stored.reshape(-1), 0
        for piece in self._pieces():
            levels = _bits if binary else _levels
            flat[done : done + len(piece)] = levels(self.path, self.key, piece)
            done += len(piece)
        return stored.T if self.fortran else stored

    def _pieces(self) -> Iterator[NDArray[Any]]:
        """Yield the values in the order of the file, `CHUNK` of them at a time."""
        left = prod(self.shape)
        with self.archive.open(f"{self.key}.npy") as file:
            _header(file, self.key)
            while left:
                data = file.read(min(left, CHUNK) * self.dtype.itemsize)
                piece = np.frombuffer(data, self.dtype, len(data) // self.dtype.itemsize)
                if len(piece) == 0:
                    raise ValueError(f"{self.key} is cut short: {left} of its {prod(self.shape)} values are missing")
                left -= len(piece)
                yield piece
            if file.read(1):  # reading to the end also compares the checksum
                raise ValueError(f"{self.key} holds more than the shape {self.shape} in its header")


def _header(file: IO[bytes], key: str) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    """Read (shape, dtype, whether in Fortran's order); raises ValueError."""
    try:
        # version 3 differs from 2 in the names of fields alone, and arrays with fields are refused
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0, (3, 0): npy.read_array_header_2_0}
        version = npy.read_magic(file)
        with warnings.catch_warnings():  # about its syntax: it is used, or refused
            warnings.simplefilter("ignore")
            shape, fortran, dtype = read[version](file)
    except zipfile.BadZipFile:  # a checksum: says more
        raise
    except Exception as error:  # numpy has Python parse it, which raises whatever it meets, a MemoryError too
        raise ValueError(f"{key} has no header that numpy.save would write") from error
    if any(length < 0 for length in shape):
        raise ValueError(f"{key} has shape {shape} in its header")
    if dtype.hasobject or dtype.itemsize == 0:
        raise ValueError(f"{key} is {dtype}; pickled objects are not read")
    return shape, dtype, fortran


def _members(path: Path, archive: zipfile.ZipFile) -> dict[str, _Array]:
    names = archive.namelist()
    missing = [key for key in KEYS if f"{key}.npy" not in names]
    if missing:
        held = brief(", ".join(name.removesuffix(".npy") for name in names)) or "nothing"
        raise KdsnnError(
            f"{path}: array {', '.join(missing)} is missing: the file needs {', '.join(KEYS)}, and it holds {held}."
        )
    found: dict[str, _Array] = {}
    for key in (*KEYS, "layout"):
        count = names.count(f"{key}.npy")
        if count > 1:
            raise KdsnnError(f"{path}: it holds {count} arrays named {key}: write it again with numpy.savez.")
        if count == 1:
            with archive.open(f"{key}.npy") as file:
                found[key] = _Member(path, archive, key, *_header(file, key))
    return found


def _mapped(folder: Path, key: str) -> _Array:
    path = folder / f"{key}.npy"
    images = key.startswith("x")
    if not path.exists():
        raise KdsnnError(f"{path}: no such file: the folder needs {', '.join(f'{k}.npy' for k in KEYS)}.")
    if not path.is_file():
        raise KdsnnError(f"{path}: not a file but a folder or a device: write it again with numpy.save.")
    try:
        with path.open("rb") as file:
            shape, dtype, fortran = _header(file, key)
            if 0 in shape:  # of which there is nothing to map
                return _File(np.empty(shape, dtype))
            array: NDArray[Any] = np.memmap(file, dtype, "r", file.tell(), shape, "F" if fortran else "C")
    except Exception as error:  # as in load_npz
        raise KdsnnError(
            f"{path}: not a single array of numbers that can be read ({brief(error)}): write it again with numpy.save."
        ) from error
    if images and array.ndim == 5:
        array = array.view(np.uint8) if array.dtype == np.bool_ else array
        _require_bits(path, array)
    if images and array.dtype != np.uint8:
        raise KdsnnError(f"{path}: the pixels are {array.dtype}: store them as uint8, 0 to 255.")
    return _File(array)


def _data_set(name: str, path: Path, arrays: Mapping[str, _Array]) -> DataSet:
    layout = _layout(path, arrays)
    for key in KEYS:
        (_require_images if key.startswith("x") else _require_labels)(path, key, arrays[key])
    for x, y in (KEYS[:2], KEYS[2:]):  # before anything is read: a label takes eight times the memory of a pixel
        if arrays[x].shape[0] != arrays[y].shape[0]:
            raise KdsnnError(
                f"{path}: {arrays[y].shape[0]} labels in {y} and {arrays[x].shape[0]} images in {x}: expected one label "
                "for each image."
            )
    y_train, y_test = (arrays[key].whole().astype(np.int64) for key in ("y_train", "y_test"))
    if y_train.size == 0:
        raise KdsnnError(f"{path}: y_train is empty: give at least one image, with its label.")
    if not are_numbered(y_train):
        raise KdsnnError(
            f"{path}: y_train must hold every label from 0 to K-1; it holds {brief(np.unique(y_train))}: renumber the "
            "labels from 0."
        )
    return DataSet(
        name=name,
        x_train=_images(arrays["x_train"], layout),
        y_train=y_train,
        x_test=_images(arrays["x_test"], layout),
        y_test=y_test,
        classes=int(y_train.max()) + 1,
    )


def _layout(path: Path, arrays: Mapping[str, _Array]) -> Layout:
    shape = arrays["x_train"].shape
    if len(shape) == 5:  # frames have one layout
        return "NCHW"
    if "layout" in arrays:
        given = arrays["layout"]
        one = given.shape == () and given.dtype.kind == "U" and given.dtype.itemsize <= 64  # else not worth reading
        layout = str(given.whole()) if one else f"{given.dtype} of shape {given.shape}"
        if layout not in ("NCHW", "NHWC"):
            raise KdsnnError(f"{path}: layout is '{brief(layout)}': use NCHW or NHWC.")
        return "NCHW" if layout == "NCHW" else "NHWC"
    found = layout_of(shape)
    if found is None:
        raise KdsnnError(
            f"{path}: x_train of shape {shape} could be NCHW or NHWC: "
            f"add a string array layout='NCHW' or 'NHWC' beside it."
        )
    return found


def _require_images(path: Path, key: str, x: _Array) -> None:
    if len(x.shape) == 5:
        if x.dtype not in (np.uint8, np.bool_):
            raise KdsnnError(f"{path}: {key} is {brief(x.dtype)}: store frames over time as uint8 or boolean, 0 or 1.")
        return
    if x.dtype != np.uint8 and not np.issubdtype(x.dtype, np.floating):
        raise KdsnnError(f"{path}: {key} is {brief(x.dtype)}: store pixels as uint8, 0 to 255.")
    if len(x.shape) not in (3, 4):
        raise KdsnnError(
            f"{path}: {key} has shape {x.shape}: expected (N, H, W), (N, C, H, W) or (N, H, W, C), or (N, T, C, H, W) of "
            "frames over time."
        )


def _require_labels(path: Path, key: str, y: _Array) -> None:
    if not np.issubdtype(y.dtype, np.integer):
        raise KdsnnError(f"{path}: {key} is {brief(y.dtype)}: store class numbers as integers, counted from 0.")
    if len(y.shape) != 1:
        raise KdsnnError(f"{path}: {key} has shape {y.shape}: expected (N,), one class number per image.")


def _images(x: _Array, layout: Layout) -> NDArray[np.uint8]:
    """Read images, uint8 (N, C, H, W), or frames over time, (N, T, C, H, W)."""
    pixels = x.pixels()
    if pixels.ndim == 5:
        return pixels if isinstance(pixels, np.memmap) else np.ascontiguousarray(pixels)
    pixels = channels_first(pixels, "NHW" if pixels.ndim == 3 else "NHWC" if layout == "NHWC" else "NCHW")
    return pixels if isinstance(pixels, np.memmap) else np.ascontiguousarray(pixels)


def _bits(path: Path, key: str, values: NDArray[Any]) -> NDArray[np.uint8]:
    """Read some of the values of frames, uint8 of 0 and 1."""
    require_spikes(f"{path}: {key}", values)
    return values.view(np.uint8)


def _require_bits(path: Path, frames: NDArray[Any]) -> None:
    """Compare mapped frames with 0 and 1, a part of them at a time."""
    step = max(1, CHUNK // max(1, prod(frames.shape[1:])))
    for start in range(0, len(frames), step):
        require_spikes(str(path), frames[start : start + step])


def _levels(path: Path, key: str, values: NDArray[Any]) -> NDArray[np.uint8]:
    """Make 8-bit pixels of some of an array's values."""
    if values.dtype == np.uint8:
        return values
    if not np.isfinite(values).all():
        raise KdsnnError(f"{path}: {key} holds NaN or infinite values: remove those images and write the file again.")
    if values.min() < 0 or values.max() > 1:
        raise KdsnnError(
            f"{path}: {key} holds floats from {values.min():g} to {values.max():g}: store pixels as uint8 0 to 255, or as "
            "floats in 0 to 1."
        )
    levels, missed = nearest_levels(values)
    if missed > EXACT:
        raise KdsnnError(
            f"{path}: {key} holds floats that are not multiples of 1/255: store np.rint(255 * x).astype(np.uint8) instead."
        )
    return levels
