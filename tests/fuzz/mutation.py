"""Files changed at random where it matters: values, shapes, types and names inside, checksums counted anew.

Bytes damaged at random (`harness.damaged`) nearly all end at a container's parser or checksum; who means harm can count checksums too.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import h5py
import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from exporters.netx.sidecar import digest, sidecar_path
from kdsnn.checkpoint import KEY
from kdsnn.digest import digest_json, digest_weights

TEXTS = (
    "",
    " ",
    "x",
    "ü\n",
    "[red]",
    "../..",
    "/",
    "0",
    "-1",
    "nan",
    "rate",
    "digits",
    "\x1b[31m",
    "9" * 400,
    "a" * 5000,
)
INTEGERS = (-(2**63), -(2**31), -1, 0, 1, 2, 3, 7, 8, 9, 64, 255, 256, 65_536, 2**31 - 1, 2**31, 2**63, 10**30, 10**400)
FLOATS = (0.0, -0.0, 0.5, 1.0, -1.0, 1.5, 1e-320, 1e-7, 1e9, 1e308, -1e308, float("nan"), float("inf"), -float("inf"))


def _nested(depth: int) -> Any:
    return [_nested(depth - 1)] if depth else []


ODD: tuple[Any, ...] = (
    *TEXTS, *INTEGERS, *FLOATS, None, True, False, [], {}, [[]], [1, [2, "x"]], {"x": None}, {"": {}}, _nested(60),
)  # fmt: skip


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every container with each of its keys."""
    keys = list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in keys:
        yield tree, key
        yield from _places(tree[key])


def changed_json(tree: Any, rng: Random, *, times: int = 2) -> Any:
    """A copy of JSON values with up to `times` of them replaced, left out, renamed, doubled, or put in another's place."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.randint(1, times)):
        found = list(_places(tree))
        if not found:
            return rng.choice(ODD)
        at, key = rng.choice(found)
        kind = rng.choice(("odd", "odd", "odd", "alike", "alike", "other", "out", "rename", "double"))
        if kind == "odd":
            at[key] = copy.deepcopy(rng.choice(ODD))
        elif kind == "alike":  # of the same type, so that what comes behind the check of types is reached
            at[key] = _alike(at[key], rng)
        elif kind == "other":
            place, name = rng.choice(found)
            at[key] = copy.deepcopy(place[name])
        elif kind == "out":
            del at[key]
        elif kind == "rename" and isinstance(at, dict):
            at[rng.choice([*TEXTS, *at])] = at.pop(key)
        elif kind == "double" and isinstance(at, list):
            at.insert(key, copy.deepcopy(at[key]))
    return tree


def _alike(value: Any, rng: Random) -> Any:
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int):
        return rng.choice((*INTEGERS, value + 1, value - 1, 2 * value, -value))
    if isinstance(value, float):
        return rng.choice((*FLOATS, -value, value * 1e6, value / 1e6))
    if isinstance(value, str):
        cut = rng.randrange(len(value) + 1)
        return rng.choice((*TEXTS, value.upper(), value + "x", value[:cut], value[cut:]))
    if isinstance(value, list):
        return rng.choice((value[::-1], value + value, value[1:], value[:1]))
    return dict(list(value.items())[1:])


# -- HDF5 ---------------------------------------------------------------------------------------


def change_hdf5(path: Path, rng: Random, *, times: int = 2) -> None:
    """Up to `times` changes of a file: objects renamed, removed or in another's place, numbers, shapes, types and texts."""
    with h5py.File(path, "r+") as file:
        for _ in range(rng.randint(1, times)):
            names: list[str] = []
            file.visit(names.append)
            if not names:
                return
            # numpy and h5py refuse some of what is drawn, such as a text for a number
            with contextlib.suppress(TypeError, ValueError, OverflowError, KeyError, OSError, RuntimeError):
                _change_object(file, rng.choice(names), names, rng)


def _change_object(file: h5py.File, name: str, names: list[str], rng: Random) -> None:
    kind = rng.choice(("remove", "rename", "other", *8 * ["inside"]))
    if kind == "remove":
        del file[name]
    elif kind == "rename":
        file.move(name, rng.choice((f"{name}x", f"{name.rsplit('/', 1)[0]}/{rng.randint(0, 9)}", "x")))
    elif kind == "other":
        source = rng.choice(names)
        copied = file[source][()] if isinstance(file[source], h5py.Dataset) else None
        del file[name]
        if copied is None:
            file.create_group(name)
        else:
            file[name] = copied
    elif isinstance(file[name], h5py.Dataset):
        found = file[name][()]
        attributes = dict(file[name].attrs)
        value = _changed_text(found, rng) if _is_text(found) else _changed_array(np.asarray(found), rng)
        del file[name]
        file[name] = value
        file[name].attrs.update(attributes)


def _is_text(value: Any) -> bool:
    return isinstance(value, bytes | str) or (isinstance(value, np.ndarray) and value.dtype.kind in "OS")


def _changed_text(value: Any, rng: Random) -> Any:
    """A text changed, inside where it is JSON; or a table of texts, such as edges."""
    if isinstance(value, bytes | str):
        text = value.decode(errors="replace") if isinstance(value, bytes) else value
        with contextlib.suppress(ValueError):
            return json.dumps(changed_json(json.loads(text), rng))
        return rng.choice((*(t.encode() for t in TEXTS), _alike(text, rng), 3, np.float32(0.5), h5py.Empty("f4")))
    changed = changed_json(value.astype("U").tolist(), rng)
    return np.array(changed, dtype=h5py.string_dtype())


def _changed_array(array: np.ndarray, rng: Random) -> Any:
    kind = rng.choice(("one", "one", "all", "small", "shape", "type", "scalar", "text", "nothing"))
    if kind == "one" and array.size:
        array = np.array(array)
        with np.errstate(over="ignore"):
            array.flat[rng.randrange(array.size)] = _number(array.dtype, rng)
        return array
    if kind == "all":
        with np.errstate(over="ignore"):
            return np.full_like(array, _number(array.dtype, rng))
    if kind == "small":
        return array - 1 if array.dtype != bool else ~array
    if kind == "shape":
        shapes: tuple[Callable[[], Any], ...] = (
            lambda: array.reshape(-1), lambda: array[None], lambda: array[..., None], lambda: array[:-1], lambda: array[..., 1:],
            lambda: np.concatenate([array, array]), lambda: np.moveaxis(array, 0, -1), lambda: array[:0], lambda: array.T,
        )  # fmt: skip
        with contextlib.suppress(IndexError, ValueError):  # a scalar has no axes to cut
            return rng.choice(shapes)()
        return array.reshape(-1)
    if kind == "type":
        with np.errstate(all="ignore"):
            return array.astype(rng.choice(("i1", "u1", "i4", "i8", "u8", "f2", "f4", "f8", "c8", "?", "S4")))
    return {"scalar": rng.choice(INTEGERS[:17]), "text": rng.choice(TEXTS)}.get(kind, h5py.Empty("f4"))


def _number(dtype: np.dtype[Any], rng: Random) -> Any:
    if dtype.kind == "f":
        return rng.choice(FLOATS)
    limits = (np.iinfo(dtype).min, np.iinfo(dtype).max) if dtype.kind in "iu" else (0, 1)
    return rng.choice((*limits, 0, 1, 2, 3, 5, *(() if dtype.kind == "u" else (-1,))))


# -- files with checksums -----------------------------------------------------------------------


def change_netx(path: Path, rng: Random) -> None:
    """A `.net` file, its JSON file or both changed, as one that belongs to the other."""
    where = rng.choice(("file", "file", "beside", "both"))
    if where != "beside":
        change_hdf5(path, rng)
    beside = json.loads(sidecar_path(path).read_text())
    if where != "file":
        beside = changed_json(beside, rng)
    if isinstance(beside, dict) and "digest" in beside:
        beside["digest"] = digest(path, beside)
    sidecar_path(path).write_text(json.dumps(beside))


def change_checkpoint(path: Path, rng: Random) -> None:
    """A checkpoint with another description or other weights, and checksums that fit."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()[KEY])
    weights = load_file(path)
    if rng.random() < 0.8:
        header["info"] = changed_json(header["info"], rng)
    else:
        _change_weights(weights, rng)
    with contextlib.suppress(ValueError):  # NaN
        header["info_sha256"] = digest_json(header["info"])
    header["weights_sha256"] = digest_weights(weights)
    if rng.random() < 0.1:
        header = changed_json(header, rng)
    save_file(weights, path, metadata={KEY: json.dumps(header)})


def _change_weights(weights: dict[str, torch.Tensor], rng: Random) -> None:
    name = rng.choice(sorted(weights))
    tensor = weights.pop(name)
    changes: tuple[Callable[[], torch.Tensor], ...] = (
        lambda: tensor.reshape(-1).clone(), lambda: tensor[None].clone(), lambda: tensor.double(), lambda: tensor.half(),
        lambda: torch.full_like(tensor, rng.choice((*FLOATS[:5], *FLOATS[-3:]))) if tensor.is_floating_point() else tensor - 1,
        lambda: torch.zeros(0), lambda: tensor.to(torch.int64), lambda: -tensor,
    )  # fmt: skip
    kind = rng.randrange(len(changes) + 2)
    if kind < len(changes):
        weights[name] = changes[kind]()
    elif kind == len(changes):
        weights[f"{name}x"] = tensor
