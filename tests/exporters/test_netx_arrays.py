"""Large arrays of netx files: any HDF5 library reads what is written, and what is read is what HDF5 reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from exporters import netx
from exporters.graph import IF, Conv2d, Input, Output, chain
from exporters.netx import arrays as stored
from exporters.netx import reading

Image = Callable[[], h5py.File]


@pytest.fixture
def image(monkeypatch: pytest.MonkeyPatch) -> Image:
    """A file in memory; chunks of a few numbers, so that small arrays have many."""
    monkeypatch.setattr(stored, "PACKED", 64)
    monkeypatch.setattr(stored, "CHUNK", 36)
    return lambda: h5py.File.in_memory()


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_sparse_arrays_of_any_shape(data: st.DataObject) -> None:
    shape = data.draw(st.sampled_from([(40,), (13, 17), (7, 9, 3, 3), (1, 70, 1, 1), (6, 5, 4)]))
    values = data.draw(
        arrays.arrays(
            np.int32,
            shape,
            elements=st.sampled_from([-9, 1, 255, 2**15 - 1, -(2**15), 2**15, -(2**15) - 1, 2**24]),
            fill=st.just(0),
        )
    )
    turned = values if data.draw(st.booleans()) else np.asfortranarray(values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored, "PACKED", 64)
        patch.setattr(stored, "CHUNK", 36)
        with h5py.File.in_memory() as file:
            stored.store(file, "w", turned, np.float32)
            assert file["w"].dtype == np.float32 and file["w"].chunks is not None
            np.testing.assert_array_equal(file["w"][()], values)  # HDF5 itself unpacks chunks of zeros
            found = stored.numbers(file["w"])
    fits = values.min() >= -(2**15) and values.max() < 2**15
    assert found.dtype == (np.int16 if fits else np.int32)
    np.testing.assert_array_equal(found, values)


def test_chunks_of_zeros_are_packed_as_hdf5_packs_them(image: Image) -> None:
    with image() as file:
        stored.store(file, "w", np.zeros((12, 12), np.int32), np.float32)
        file.create_dataset("h", data=np.zeros((12, 12), np.float32), chunks=(6, 6), compression=1, shuffle=True)
        assert file["w"].chunks == (6, 6)
        ours, theirs = (file[key].id.read_direct_chunk((6, 0)) for key in "wh")
        assert ours == theirs


@pytest.mark.parametrize("odd", [0.5, np.nan, np.inf, 2.0**40, -(2.0**31) - 1024])
def test_what_is_no_int32_comes_as_it_is(image: Image, odd: float) -> None:
    values = np.zeros((12, 12))
    values[11, 3] = odd
    with image() as file:
        file.create_dataset("w", data=values, chunks=(6, 6), compression=1, shuffle=True)
        found = stored.numbers(file["w"])
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize(
    "how",
    [
        {"chunks": (5, 5)}, {"chunks": (6, 6), "compression": 9, "shuffle": True}, {"chunks": (4, 12), "compression": "lzf"},
        {"chunks": (6, 6), "fletcher32": True}, {"chunks": (6, 6), "fillvalue": 7.0}, {},
    ],
)  # fmt: skip
def test_files_of_others(image: Image, how: dict) -> None:
    """However they pack, and where chunks were never written, which are then the fill value."""
    with image() as file:
        made = file.create_dataset("w", (12, 12), np.float32, **how)
        made[:6, :6] = np.arange(36).reshape(6, 6)
        found = stored.numbers(made)
        np.testing.assert_array_equal(found, made[()])
        assert found[11, 11] == how.get("fillvalue", 0)


def test_more_chunks_than_anyone_means_are_left_to_hdf5(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "MOST_CHUNKS", 3)
    with image() as file:
        stored.store(file, "w", np.eye(12, dtype=np.int32), np.float32)
        found = stored.numbers(file["w"])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.eye(12))


def test_each_weight_is_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = np.zeros((64, 64, 3, 3), np.int32)
    weight[0, 0] = 2
    nodes = [
        ("in", Input((64, 3, 3), "spikes")),
        ("c", Conv2d(weight, padding=(1, 1))),
        ("n", IF(2)),
        ("out", Output()),
    ]
    path = netx.write(chain(nodes, 2), tmp_path / "x.net")
    asked = []
    weight_of = reading.weight_of
    monkeypatch.setattr(reading, "weight_of", lambda kind, group: asked.append(group.name) or weight_of(kind, group))
    again = netx.read(path)
    assert asked == ["/layer/1"]
    np.testing.assert_array_equal(again.synapses["c"].weight, weight)
