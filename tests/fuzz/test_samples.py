"""What `predict` is given, and data that a Python program has at hand: damaged, senseless, of any shape and type."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import kdsnn
from kdsnn import checkpoint
from kdsnn.checkpoint import CheckpointInfo
from kdsnn.data import DataSet
from tests.event_files import KINDS, stream, write
from tests.fuzz.harness import for_seeds, tried

SMALL = {"channels": (2, 2), "hidden": 4}
SHAPES = (
    (8, 8), (1, 8, 8), (3, 8, 8), (8, 8, 3), (5, 1, 8, 8), (2, 8, 8), (3, 2, 8, 8), (4, 3, 2, 8, 8), (64,), (), (0,), (1, 0, 8),
    (1, 1, 1, 8, 8), (1,) * 9, (9, 8), (8, 8, 8), (1, 64), (1, 1, 8, 8), (70, 1, 8, 8),
)  # fmt: skip
TYPES = ("u1", "i1", "i8", ">u2", "f2", "<f4", ">f8", "longdouble", "?", "c8", "U3", "S2", "O", "M8[s]", "u1,f4")


def array(rng: Random) -> np.ndarray:
    """Numbers of any shape and type: pixels, spikes, or what is neither."""
    shape, dtype = rng.choice(SHAPES), np.dtype(rng.choice(TYPES + 6 * ("u1", "f4")))
    numbers = np.random.default_rng(rng.randrange(2**32)).integers(0, rng.choice((2, 2, 256)), shape)
    if dtype.names:
        return np.zeros(shape, dtype)
    found = (numbers / 255 if dtype.kind == "f" and rng.random() < 0.6 else numbers).astype(dtype)
    if dtype.kind == "f" and found.size and rng.random() < 0.3:
        found.flat[rng.randrange(found.size)] = rng.choice((np.nan, np.inf, -np.inf, -1, 2, 1e-40))
    return found


# -- predict ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """A network of images, one of spikes and one of graded frames."""
    folder = tmp_path_factory.mktemp("networks")
    image = CheckpointInfo("cnn2", True, (1, 8, 8), 10, "digits", SMALL, "rate", "if", 2, version="0")
    color = CheckpointInfo("cnn2", False, (3, 8, 8), 3, "folder:somewhere+8x8", SMALL, version="0")
    events = CheckpointInfo("cnn2", True, (2, 8, 8), 3, "events:somewhere+frames3", SMALL, "rate", "if", 3, checkpoint.SPIKES, version="0")  # fmt: skip
    graded = CheckpointInfo("cnn2", True, (2, 8, 8), 3, "events:somewhere+frames3-of-50-counts", SMALL, "rate", "if", 3, checkpoint.GRADED, version="0")  # fmt: skip
    found = []
    for k, info in enumerate((image, color, events, graded)):
        torch.manual_seed(k)
        checkpoint.save(folder / f"{k}.safetensors", info.build().eval(), info)
        found.append(kdsnn.load(folder / f"{k}.safetensors"))
    return found


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Ending → a sound file of a sample."""
    folder = tmp_path_factory.mktemp("samples")
    found = {kind: write(folder / f"a{kind}", stream(1, 60)).read_bytes() for kind in KINDS}
    for mode, ending in (
        ("L", ".png"),
        ("RGB", ".png"),
        ("RGB", ".jpg"),
        ("P", ".gif"),
        ("L", ".tif"),
        ("RGBA", ".webp"),
    ):
        buffer = io.BytesIO()
        Image.effect_noise((8, 8), 90).convert(mode).save(buffer, Image.registered_extensions()[ending])
        found[f".{mode}{ending}"] = buffer.getvalue()
    return found


def sample(files: dict[str, bytes], rng: Random, folder: Path) -> Path:
    """A file as `predict` may be given it: sound, damaged, under another's name, or no file."""
    kind = rng.choice(("array", "array", "bytes", "bytes", "bytes", "sound", "mixed", "none"))
    if kind == "none":
        return rng.choice(
            (folder, folder / "missing.png", folder / "pipe.npy", Path("/dev/zero"), folder / "loop.png", Path())
        )
    ending = rng.choice(sorted(files))
    content = files[ending]
    if kind == "array":
        ending, buffer = ".npy", io.BytesIO()
        np.save(buffer, array(rng))
        content = buffer.getvalue()
    if kind == "mixed":
        content = files[rng.choice(sorted(files))]
    elif kind == "bytes" or rng.random() < 0.2:
        content = hurt(content, rng)
    path = folder / f"sample{ending}"
    path.write_bytes(content)
    return path


def hurt(content: bytes, rng: Random) -> bytes:
    found = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.choice((rng.randrange(len(found)), rng.randrange(min(80, len(found)))))
        kind = rng.randrange(4)
        if kind == 0:
            found[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            found[at : at + 4] = rng.choice((rng.randbytes(4), b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f"))
        elif kind == 2:
            del found[at : at + rng.randint(1, 8)]
        else:
            del found[max(at, 1) :]
        found = found or bytearray(b"\0")
    return bytes(found)


def test_whatever_predict_is_given_has_a_class_or_a_reason(
    networks: list[Any], files: dict[str, bytes], tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe.npy")
    (tmp_path / "loop.png").symlink_to("loop.png")

    def holds(rng: Random) -> None:
        path, network = sample(files, rng, tmp_path), rng.choice(networks)
        tried("predict inputs", lambda: predicted(network, path))

    for_seeds(60, holds)


def predicted(network: Any, path: Path) -> None:
    """A class with finite scores, or the reason, which is raised to be counted."""
    found = kdsnn.predict(network, path)
    assert bool(found.refused) != bool(found.decisions)
    for one in found.refused:
        assert str(path) in one.reason
        raise one.error
    assert all(np.isfinite(one.scores).all() for one in found.decisions) and str(found)
    json.dumps(found.to_dict(), allow_nan=False)


# -- own data -----------------------------------------------------------------------------------


class Listed:
    """A data set as torch's are, which may say anything of itself."""

    def __init__(self, items: list[Any], length: Any, classes: Any) -> None:
        self.items, self.length = items, length
        if classes is not None:
            self.classes = classes

    def __len__(self) -> Any:
        return self.length

    def __getitem__(self, index: int) -> Any:
        if isinstance(self.items[index], Exception):
            raise self.items[index]
        return self.items[index]


def labels(rng: Random, count: int) -> Any:
    choices: tuple[Callable[[], Any], ...] = (
        lambda: np.arange(count) % 2, lambda: np.arange(count) % 2, lambda: np.zeros(count, np.uint8), lambda: np.arange(count) / 2,
        lambda: np.arange(count) - 1, lambda: np.full(count, 2**62), lambda: torch.arange(count) % 3, lambda: list(range(count)),
        lambda: np.arange(count + 1), lambda: np.arange(count)[:, None], lambda: None, lambda: "labels", lambda: np.array(["a"] * count),
        lambda: np.full(count, np.uint64(2**64 - 1)), lambda: np.arange(count) % 2 == 0,
    )  # fmt: skip
    return rng.choice(choices)()


def images(rng: Random) -> Any:
    found = array(rng)
    if rng.random() < 0.6:
        found = np.random.default_rng(0).integers(
            0, 256, (12, *rng.choice(((8, 8), (1, 8, 8), (8, 8, 3)))), dtype=np.uint8
        )
    kind = rng.choice(("array", "array", "tensor", "list"))
    if (
        kind == "tensor"
        and found.ndim
        and found.dtype.kind in "uif"
        and found.dtype.isnative
        and found.dtype != np.longdouble
    ):
        return torch.from_numpy(found)
    return found.tolist() if kind == "list" else found


def one_item(rng: Random) -> Any:
    choices: tuple[Callable[[], Any], ...] = (
        lambda: (images(rng), 0), lambda: (torch.rand(1, 8, 8), 1), lambda: (Image.new("L", (8, 8)), np.int64(0)), lambda: (torch.rand(8, 8), torch.tensor(1)),
        lambda: (np.zeros((8, 8), np.uint8), 1), lambda: (torch.rand(8, 8), 0.5), lambda: [torch.rand(8, 8), 10**30], lambda: (torch.rand(8, 8), -1),
        lambda: None, lambda: (1, 2, 3), lambda: ValueError("two\nlines"), lambda: (None, None), lambda: (torch.rand(8, 8).to_sparse(), 0),
        lambda: (Image.new("I;16", (8, 8)), 0), lambda: (torch.rand(8, 8, requires_grad=True), True),
    )  # fmt: skip
    return rng.choice(choices)()


def data(rng: Random) -> Any:
    kind = rng.choice(("pair", "pair", "four", "items", "items", "odd"))
    if kind == "odd":
        odd = (
            None,
            3,
            b"x",
            {},
            {"x_train": 1},
            (),
            (1,),
            [],
            [[]],
            "no such data",
            Path("nowhere"),
            object,
            iter(()),
            float("nan"),
            (None, None),
        )
        return rng.choice(odd)
    if kind == "items":
        alike = one_item(rng)
        items = [(alike if rng.random() < 0.9 else one_item(rng)) for _ in range(12)]
        items = [
            (item[0], k % 2) if isinstance(item, tuple) and len(item) == 2 and rng.random() < 0.7 else item
            for k, item in enumerate(items)
        ]
        classes = rng.choice((None, None, ["a", "b"], ("a",), 3, ["a", 1], []))
        return (
            Listed(items, rng.choice((12, 12, 12, 12, 0, 13, -1, "x", 10**18)), classes)
            if rng.random() < 0.8
            else items
        )
    x = images(rng)
    count = len(x) if hasattr(x, "__len__") and np.ndim(x) else 1
    y = labels(rng, count)
    return (x, y) if kind == "pair" else (x, y, images(rng) if rng.random() < 0.5 else x, y)


def test_whatever_data_is_given_is_a_data_set_or_refused() -> None:
    def holds(rng: Random) -> None:
        given_ = data(rng)
        options: dict[str, Any] = {}
        if rng.random() < 0.2:
            options["test"] = data(rng)
        if rng.random() < 0.2:
            options["image_size"] = rng.choice((4, (4, 6), 0, -1, (0, 1), (1, 2, 3), "8", 2**40, 1.5, (None, 3)))
        if rng.random() < 0.2:
            options |= {
                "noise": rng.choice((0.1, 1, -1, float("nan"), float("inf"), "x")),
                "noise_kind": rng.choice(("std", "var", "x")),
            }
        tried("own data", lambda: loaded(given_, options))

    for_seeds(80, holds)


def loaded(given_: Any, options: dict[str, Any]) -> None:
    """A data set whose images are pixels, and whose labels are numbered."""
    found = kdsnn.load_data(given_, **options)
    assert isinstance(found, DataSet)
    for x, y in ((found.x_train, found.y_train), (found.x_test, found.y_test)):
        assert x.dtype == np.uint8 and len(x) == len(y) > 0 and x[0].size and 0 <= y.min() <= y.max() < found.classes
