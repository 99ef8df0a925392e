"""Data larger than the memory that a command may have: what it does not look at costs none."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kdsnn import checkpoint
from kdsnn.checkpoint import CheckpointInfo
from kdsnn.data import storage

IMAGES, SIDE = 500, 512
"""Of the large part: 131 MB in 8 bits."""

ROOM = 100 << 20
"""Bytes a command may take beyond what the program and its libraries have taken before."""

CHILD = """
    import re, resource, sys
    from pathlib import Path
    import kdsnn.cli.app as app
    from kdsnn.data import load

    def command(*arguments):
        sys.argv = ["kdsnn-deploy", *arguments]
        try:
            app.main()
        except SystemExit as end:
            assert not end.code, (arguments, end.code)

    def taken():
        return 1024 * int(re.search(r"VmData:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

    commands = (
        ["evaluate", "snn.safetensors", "--data"],
        ["run", "snn.safetensors", "--samples", "2", "--on", "torch,emulator", "--data"],
        ["profile", "snn.safetensors", "--samples", "2", "--out", "report", "--format", "json", "--data"],
    )
    # libraries and their buffers are not what is measured
    for words in commands:
        command(*words, "npz:small.npz")
    load("folder:few")
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]

    def limited():
        # each command by itself: what those before it have freed may still be the program's
        resource.setrlimit(resource.RLIMIT_DATA, (taken() + ROOM, hard))

    limited()
    try:
        bytearray(2 * ROOM)
    except MemoryError:
        pass
    else:
        raise AssertionError("memory is not limited")
    limited()
    command(*commands[0], "npz:train.npz")
    limited()
    command(*commands[1], "npz:test.npz")
    limited()
    command(*commands[2], "npz:test.npz")
    limited()
    command(*commands[1], "npy:arrays")
    assert load("npz:floats.npz").x_train.max() == 255
    assert load("folder:many").x_train.nbytes > ROOM
    print("done")
"""


def write(path: Path, *arrays: np.ndarray) -> None:
    """What `numpy.savez_compressed` writes, in a quarter of the time."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for key, array in zip(("x_train", "y_train", "x_test", "y_test"), arrays, strict=True):
            with archive.open(f"{key}.npy", "w") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large")
    info = CheckpointInfo(
        "cnn2", True, (1, SIDE, SIDE), 2, "zeros", {"channels": (1, 1), "hidden": 2}, "rate", "if", 1, version="0"
    )
    torch.manual_seed(0)
    checkpoint.save(folder / "snn.safetensors", info.build(), info)
    small, large = (np.zeros((count, SIDE, SIDE), np.uint8) for count in (2, IMAGES))
    few, many = (np.arange(len(x)) % 2 for x in (small, large))
    parts = {"small": (small, few, small, few), "train": (large, many, small, few), "test": (small, few, large, many)}
    for name, arrays in parts.items():
        write(folder / f"{name}.npz", *arrays)
    (folder / "arrays").mkdir()
    for key, array in {"y_train": few, "x_train": small, "y_test": many}.items():
        np.save(folder / "arrays" / f"{key}.npy", array)
    with (folder / "arrays" / "x_test.npy").open("wb") as file:  # with holes in place of data
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": large.shape})
        file.truncate(file.tell() + large.nbytes)
    floats = np.ones((IMAGES // 4, SIDE, SIDE), np.float32)
    write(folder / "floats.npz", floats, many[: len(floats)], floats[:2], few)
    image = folder / "few" / "a" / "0.png"
    image.parent.mkdir(parents=True)
    Image.new("L", (2000, 2000)).save(image, compress_level=1)
    for target, count in (("few", 3), ("many", 35)):
        (folder / target / "a").mkdir(parents=True, exist_ok=True)
        for i in range(count):
            if not (folder / target / "a" / f"{i}.png").exists():
                os.link(image, folder / target / "a" / f"{i}.png")
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory that is not a file's")
def test_commands_take_no_more_memory_than_they_look_at(place: Path) -> None:
    child = textwrap.dedent(CHILD).replace("ROOM", str(ROOM))
    done = subprocess.run(
        [sys.executable, "-c", child], cwd=place, capture_output=True, text=True, check=False, timeout=3000
    )
    assert done.returncode == 0 and done.stdout.endswith("done\n"), done.stderr


def test_without_room_on_the_disk_memory_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "HELD", 100)
    assert isinstance(storage.empty((101,)), np.memmap)
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 10}))
    array = storage.empty((101,))
    assert array.shape == (101,) and not isinstance(array, np.memmap)


def test_images_picked_chunk_by_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    parts = [rng.integers(0, 256, (count, 1, 3, 4), dtype=np.uint8) for count in (7, 1, 5)]
    chosen = rng.integers(0, 13, 40)
    monkeypatch.setattr(storage, "CHUNK", 36)
    assert np.array_equal(storage.picked(parts, chosen), np.concatenate(parts)[chosen])
