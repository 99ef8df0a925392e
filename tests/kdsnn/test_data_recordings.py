"""Recordings of event cameras: files written here byte for byte, read back, cut into frames, damaged."""

import struct

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdsnn.data import load
from kdsnn.data.events import files
from kdsnn.data.events.cutting import Events, FrameCut
from kdsnn.data.events.files import read
from kdsnn.errors import KdsnnError

SIZE = 12


def stream(seed, count=300, wide=SIZE):
    """Events (x, y, t, p) as a list of whole numbers, in the order of their times."""
    rng = np.random.RandomState(seed)
    times = np.sort(rng.randint(1000, 300_000, count))
    parts = (rng.randint(0, wide, count), rng.randint(0, wide, count), times, rng.randint(0, 2, count))
    return [tuple(int(v) for v in one) for one in zip(*parts, strict=True)]


def as_bin(events):
    """N-MNIST's format: x, y, then polarity in the highest bit of 24, and the time in the other 23."""
    return b"".join(
        struct.pack(">BBI", x, y, p << 23 | t)[:2] + struct.pack(">I", p << 23 | t)[1:] for x, y, t, p in events
    )


def write(path, events):
    path.parent.mkdir(parents=True, exist_ok=True)
    x, y, t, p = np.array(events).T
    if path.suffix == ".bin":
        path.write_bytes(as_bin(events))
    elif path.suffix == ".npz":
        np.savez(path, t=t, x=x.astype(np.uint16), y=y.astype(np.uint16), p=p.astype(bool))
    elif path.suffix == ".npy":
        fields = [("x", "<u2"), ("y", "<u2"), ("timestamp", "<i8"), ("polarity", "<i1")]
        array = np.zeros(len(events), fields)
        array["x"], array["y"], array["timestamp"], array["polarity"] = x, y, t, 2 * p - 1  # some write -1 for OFF
        np.save(path, array)
    elif path.suffix == ".aedat":
        path.write_bytes(as_aedat(events))
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            for name, values in (("x", x), ("y", y), ("t", t), ("p", p.astype(bool))):
                file.create_dataset(f"events/{name}", data=values, chunks=(16,), compression="gzip")
    return path


def packet(kind, size, entries, overflows=0):
    number = len(entries) // size
    return struct.pack("<hhiiiiii", kind, 1, size, 4, overflows, number, number, number) + entries


def as_aedat(events, overflows=0):
    """AEDAT 3.1: polarity events in packets of 100, one that is not valid in each, and packets of another type between."""
    out = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n#Start-Time: 2026-01-01 00:00:00 (TZ+0000)\r\n#!END-HEADER\r\n"
    for start in range(0, len(events), 100):
        part = events[start : start + 100]
        words = [struct.pack("<Ii", x << 17 | y << 2 | p << 1 | 1, t) for x, y, t, p in part]
        words.insert(1, struct.pack("<Ii", 5 << 17 | 5 << 2, part[0][2]))
        out += packet(1, 8, b"".join(words), overflows) + packet(2, 40, bytes(range(80)))
    return out


def back(path):
    pieces = list(read(path))
    return [tuple(int(v) for v in one) for e in pieces for one in zip(e.x, e.y, e.t, e.p, strict=True)]


KINDS = (".bin", ".npy", ".npz", ".aedat", ".h5")


@pytest.mark.parametrize("suffix", KINDS)
@pytest.mark.parametrize("piece", [7, 1 << 18])
def test_what_was_written_is_read_back(tmp_path, monkeypatch, suffix, piece):
    monkeypatch.setattr(files, "PIECE", piece)
    events = stream(0)
    assert back(write(tmp_path / f"a{suffix}", events)) == events


def test_bytes_of_n_mnist_by_the_description(tmp_path):
    (tmp_path / "one.bin").write_bytes(bytes([33, 7, 0x80 | 0x01, 0x02, 0x03, 5, 6, 0x7F, 0xFF, 0xFF]))
    assert back(tmp_path / "one.bin") == [(33, 7, 0x010203, 1), (5, 6, 0x7FFFFF, 0)]


def test_aedat_by_the_description(tmp_path):
    event = bytes([0b00001111, 0, 0b00000100, 0, 1, 0, 0, 0])  # little-endian: x = 2, y = 3, ON, valid; 1 µs
    head = b"#!AER-DAT3.1\r\n#!END-HEADER\r\n"
    (tmp_path / "one.aedat").write_bytes(head + packet(1, 8, event, overflows=1))
    assert back(tmp_path / "one.aedat") == [(2, 3, 2**31 + 1, 1)]


def test_hdf5_at_the_root_and_elsewhere(tmp_path):
    events = stream(3, 40)
    with h5py.File(tmp_path / "root.hdf5", "w") as file:
        for name, values in zip(("x", "y", "ts", "polarity"), np.array(events).T, strict=True):
            file[name] = values
    assert back(tmp_path / "root.hdf5") == events
    with h5py.File(tmp_path / "links.h5", "w") as file:
        for name in "xytp":
            file[name] = h5py.ExternalLink("root.hdf5", "x")
    with pytest.raises(KdsnnError, match="is a link, which is not followed"):
        back(tmp_path / "links.h5")
    with h5py.File(tmp_path / "outside.h5", "w") as file:
        for name in "xytp":
            file.create_dataset(name, (4,), np.int32, external=[("root.hdf5", 0, 16)])
    with pytest.raises(KdsnnError, match="numbers are in another file"):
        back(tmp_path / "outside.h5")


@pytest.mark.parametrize("piece", [1, 100])
def test_a_clock_that_runs_over(tmp_path, monkeypatch, piece):
    monkeypatch.setattr(files, "PIECE", piece)
    entries = [(1, 1, 10, 0), (0, 240, 0, 0), (2, 2, 20, 1), (0, 240, 0, 0), (0, 240, 0, 0), (3, 3, 5, 0)]
    (tmp_path / "long.bin").write_bytes(as_bin(entries))
    assert back(tmp_path / "long.bin") == [(1, 1, 10, 0), (2, 2, 20 + 8192, 1), (3, 3, 5 + 3 * 8192, 0)]


def by_definition(events, T, by, size):
    """Frames one event at a time."""
    frames = np.zeros((T, 2, size, size), np.uint8)
    first, last = events[0][2], events[-1][2]
    for k, (x, y, t, p) in enumerate(events):
        step = max(1, (last - first) // T) if by == "time" else max(1, len(events) // T)
        frames[min(T - 1, ((t - first) if by == "time" else k) // step), p, y, x] = 1
    return frames


@given(
    st.integers(0, 1000), st.integers(1, 40), st.integers(1, 9), st.sampled_from(["time", "number"]), st.integers(1, 9)
)
@settings(max_examples=60, deadline=None)
def test_cutting_is_its_definition_whatever_the_pieces(seed, count, T, by, piece):
    events = stream(seed, count)

    def pieces():
        for start in range(0, count, piece):
            yield Events(*np.array(events[start : start + piece], np.int64).T)

    assert np.array_equal(FrameCut(T, by).frames("made", pieces, (SIZE, SIZE)), by_definition(events, T, by, SIZE))


@pytest.fixture
def recordings(tmp_path):
    """Two classes, told apart by where their events are, in files of all kinds."""
    for part, count in (("Train", 6), ("Test", 3)):
        for label, name in enumerate(("left", "right")):
            for i in range(count):
                events = [(x // 2 + 6 * label, y, t, p) for x, y, t, p in stream(100 * label + i + count)]
                events.insert(150, (0, 0, events[150][2], 0))
                write(tmp_path / part / name / f"{i}{KINDS[i % 3]}", events)
    return tmp_path


def test_a_folder_of_recordings_is_a_data_set(recordings):
    data = load(f"events:{recordings}")
    assert data.sample_shape == (8, 2, SIZE, SIZE) and data.class_names == ("left", "right")
    assert (len(data.x_train), len(data.x_test)) == (12, 6) and data.y_test.tolist() == [0, 0, 0, 1, 1, 1]
    assert np.array_equal(data.x_test[4], by_definition(back(recordings / "Test/right/1.npy"), 8, "time", SIZE))
    assert "8 frames of equal time" in data.notes[-1] and "12×12" in data.notes[-1]
    named = load(f"events:{recordings}+frames3-by-number")
    assert named.T == 3 and named.name.endswith("+frames3-by-number")
    assert np.array_equal(named.x_test[0], by_definition(back(recordings / "Test/left/0.bin"), 3, "number", SIZE))
    drawn = load(f"events:{recordings / 'Train'}")
    assert (len(drawn.x_train), len(drawn.x_test)) == (10, 2)


def test_cuts_elsewhere_are_refused(recordings):
    with pytest.raises(KdsnnError, match="stands right behind it"):
        load("digits+frames4")
    with pytest.raises(KdsnnError, match="stands right behind it"):
        load(f"events:{recordings}+frames4+frames5")
    with pytest.raises(KdsnnError, match="1 to 256 frames"):
        load(f"events:{recordings}+frames0")
    with pytest.raises(KdsnnError, match="resizing is for images"):
        load(f"events:{recordings}+32x32")


def test_damage_is_named(recordings):
    place = recordings / "Train/left/0.bin"
    good = place.read_bytes()
    t = np.arange(3)
    damages = [
        (b"", "holds no events"),
        (good[:-2], "last event is cut short"),
        (as_bin([(1, 1, 9, 0), (1, 1, 8, 0)]), "the time goes back at event 1, from 9 to 8"),
    ]
    for content, message in damages:
        place.write_bytes(content)
        with pytest.raises(KdsnnError, match=message) as caught:
            load(f"events:{recordings}")
        assert str(place) in str(caught.value) and "\n" not in str(caught.value)
    place.unlink()
    for arrays, message in [
        ({"x": t, "y": t, "t": t}, "p is p or polarity"),
        ({"x": t, "y": t, "t": t, "p": t[:2]}, r"must be \(N,\)"),
        ({"x": t - 1, "y": t, "t": t, "p": t % 2}, "its x run from -1 to 1"),
        ({"x": t, "y": t + 20_000, "t": t, "p": t % 2}, "its y run from 20000"),
        ({"x": t, "y": t, "t": t, "p": t}, "its p run from 0 to 2"),
        ({"x": t, "y": t, "t": t / 1e6, "p": t % 2}, "store them as whole numbers"),
        ({"x": t + 0.5, "y": t, "t": t, "p": t % 2}, "are no whole numbers"),
        ({"x": t.astype(str), "y": t, "t": t, "p": t % 2}, "must be numbers"),
    ]:
        path = recordings / "Train/left/bad.npz"
        np.savez(path, **arrays)
        with pytest.raises(KdsnnError, match=message) as caught:
            load(f"events:{recordings}")
        assert str(path) in str(caught.value)
    (recordings / "Train/left/bad.npz").unlink()
    good = as_aedat(stream(5))
    path = recordings / "Train/left/bad.aedat"
    for content, message in [
        (good.replace(b"3.1", b"2.0", 1), "is not of AEDAT 3.1"),
        (good.replace(b"RAW", b"PNG", 1), "are not of format RAW"),
        (good[:30], "its header has no end"),
        (good[:-5], "its last packet is cut short"),
        (good + b"123", "its last packet is cut short"),
        (good + packet(1, 12, bytes(24)), "2 events of 12 bytes: the file is damaged"),
    ]:
        path.write_bytes(content)
        with pytest.raises(KdsnnError, match=message) as caught:
            load(f"events:{recordings}")
        assert str(path) in str(caught.value)
    path.unlink()
    (recordings / "Train/left/pickled.npy").write_bytes(b"\x93NUMPY nonsense")
    with pytest.raises(KdsnnError, match=r"pickled.npy: not a readable file of events"):
        load(f"events:{recordings}")
    with pytest.raises(KdsnnError, match="no such folder: give one with a sub-folder of files of events"):
        load("events:nowhere")


@given(st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_mutated_file_is_refused_in_one_line_or_read(tmp_path, data):
    kind = data.draw(st.sampled_from(KINDS))
    path = write(tmp_path / f"mutated{kind}", stream(1, 40))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    try:
        FrameCut(4).frames(str(path), lambda: read(path), (1 << 6, 1 << 6))
    except KdsnnError as error:
        assert "mutated" in str(error) and "\n" not in str(error)
