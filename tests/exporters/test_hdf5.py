"""What an HDF5 file may ask for before it is read: what the program itself writes, of any size, and no bombs."""

from __future__ import annotations

import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest

from exporters import hdf5, netx
from exporters.graph import IF, Input, Linear, Output, chain
from exporters.hdf5 import ALWAYS_READ, flaw


def compressible(path: Path, size: int, *, filters: int = 1) -> Path:
    """A dataset of so many bytes in chunks of 16 MB that are written packed, each with one number beside zeros."""
    chunk = np.zeros(2**24, np.uint8)
    chunk[5] = 7
    packed = chunk.tobytes()
    with h5py.File(path, "w") as file:
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_chunk((len(chunk),))
        for _ in range(filters):
            plist.set_deflate(9)
            packed = zlib.compress(packed, 9)
        space = h5py.h5s.create_simple((size,))
        made = h5py.h5d.create(file.id, b"weight", h5py.h5t.NATIVE_UINT8, space, plist)
        dataset = h5py.Dataset(made)
        for start in range(0, size, len(chunk)):
            dataset.id.write_direct_chunk((start,), packed)
    return path


def test_a_file_just_over_a_gigabyte_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "installed", lambda _: 2**36)
    path = compressible(tmp_path / "w.h5", ALWAYS_READ + 2**24)
    assert path.stat().st_size < 4 << 20
    with h5py.File(path) as file:
        assert flaw(file) is None
        assert file["weight"][ALWAYS_READ + 5] == 7


def test_what_memory_does_not_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "installed", lambda _: 2 * ALWAYS_READ)
    with h5py.File(compressible(tmp_path / "w.h5", ALWAYS_READ + 2**24)) as file:
        assert "more than the 1,024 MB that this machine has" in str(flaw(file))


def test_bombs_are_refused_whatever_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "installed", lambda _: 2**50)
    with h5py.File(compressible(tmp_path / "twice.h5", 2**31, filters=2)) as file:
        assert "/weight: its numbers would take more than 2,048 MB, and" in str(flaw(file))
    with h5py.File(tmp_path / "never.h5", "w") as file:
        file.create_dataset("weight", (2**20, 2**20), "f4", chunks=(64, 64))
        assert "and 0 bytes of them are in the file" in str(flaw(file))
    with h5py.File(tmp_path / "many.h5", "w") as file:
        for i in range(40):  # each small enough alone
            file.create_dataset(f"w{i}", (2**25,), "u1", chunks=(2**20,))
        assert "and 0 bytes of them are in the file" in str(flaw(file))


def test_what_is_written_is_read_back_beyond_what_is_always_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chains of residual networks are mostly zeros, which deflate packs almost as far as it can."""
    monkeypatch.setattr(hdf5, "ALWAYS_READ", 2**12)
    weight = np.zeros((300, 900), np.int32)
    weight[::50, ::90] = np.random.default_rng(0).integers(-9, 99, (6, 10))
    graph = chain([("in", Input((900,), "spikes")), ("w", Linear(weight)), ("sn", IF(3)), ("out", Output())], 4)
    path = netx.write(graph, tmp_path / "net.net")
    assert 30 * path.stat().st_size < 300 * 900 * 4
    np.testing.assert_array_equal(netx.read(path).synapses["w"].weight, weight)
