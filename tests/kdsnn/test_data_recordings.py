"""Recordings of event cameras: files written here byte for byte, read back, cut into frames, damaged."""

import ast
from pathlib import Path
from typing import Optional, Union

import h5py
import numpy as np
import pytest
import spikingjelly
from hypothesis import given, settings
from hypothesis import strategies as st

from kdsnn.data import load
from kdsnn.data.events import aedat
from kdsnn.data.events.cleaning import cleaning_in
from kdsnn.data.events.cutting import Events, FrameCut, cut_in
from kdsnn.errors import KdsnnError
from tests.event_files import KINDS, SIZE, as_aedat, as_aedat_2, as_aedat_4, as_bin, back, packet, stream, write

CORPUS = Path(__file__).parent.parent / "fuzz" / "corpus" / "events"


@pytest.mark.parametrize("suffix", KINDS)
@pytest.mark.parametrize("piece", [7, 1 << 18])
def test_what_was_written_is_read_back(tmp_path, monkeypatch, suffix, piece):
    monkeypatch.setattr(aedat, "PIECE", piece)
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


def test_aedat_2_by_the_description(tmp_path):
    path = tmp_path / "one.aedat"
    path.write_bytes(b"#!AER-DAT2.0\r\n# no chip\r\n" + bytes([0, 0, 0b0000_0011, 0b0000_1010, 0, 0, 1, 2]))
    assert back(path) == [(127 - 3, 127 - 5, 258, 1)]
    davis = b"# AEChip: eu.seebetter.ini.chips.davis.DAVIS240C\r\n"
    # y = 0b010001101 = 141: its address begins as a line of the header would, with "#"
    event = bytes([0x23, 0b0100_0000, 0b0010_1000, 0, 0, 0, 0, 9])
    path.write_bytes(b"#!AER-DAT2.0\r\n" + davis + b"#End Of ASCII Header\r\n" + event)
    assert back(path) == [(2, 141, 9, 1)]
    other = stream(4, 250, wide=200)
    path.write_bytes(as_aedat_2(other, "DAVIS240C"))
    assert back(path) == other


def test_aedat_2_is_what_spikingjelly_reads(tmp_path):
    """Its functions by themselves: the module around them imports torchvision, which is no dependency here."""
    source = Path(spikingjelly.__file__).parent / "datasets" / "cifar10_dvs.py"
    kept = [node for node in ast.parse(source.read_text()).body if isinstance(node, ast.FunctionDef | ast.Assign)]
    namespace = {"np": np, "Union": Union, "Optional": Optional, "Tuple": tuple, "Path": Path}
    exec(
        compile(
            ast.Module(kept[: [getattr(n, "name", "") for n in kept].index("_load_origin_data") + 1], []), "", "exec"
        ),
        namespace,
    )
    path = tmp_path / "one.aedat"
    path.write_bytes(as_aedat_2(stream(6, 90, wide=128)))
    theirs = namespace["_load_origin_data"](path)
    assert back(path) == list(zip(*(theirs[name].tolist() for name in "xytp"), strict=True))


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
@pytest.mark.parametrize("end", [True, False])
def test_aedat_4_in_every_compression(tmp_path, compression, end):
    path = tmp_path / "one.aedat4"
    path.write_bytes(as_aedat_4(stream(7), compression, end=end))
    assert back(path) == stream(7)


@pytest.mark.parametrize("name", ["dv_lz4", "dv_zstd"])
def test_aedat_4_of_dv_processing(name):
    """Written by dv-processing 2.0.4, the library of the cameras' maker."""
    assert back(CORPUS / f"{name}.aedat4") == [(3, 4, 1001, 0), (63, 47, 1002, 1), (0, 0, 1002, 1)]


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
    monkeypatch.setattr(aedat, "PIECE", piece)
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
    with pytest.raises(KdsnnError, match="stand right behind it"):
        load("digits+frames4")
    with pytest.raises(KdsnnError, match="stand right behind it"):
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
        (good.replace(b"3.1", b"1.0", 1), "its first line is none of #!AER-DAT2.0"),
        (good.replace(b"RAW", b"PNG", 1), "are not of format RAW"),
        (good[:30], "its header has no end"),
        (good[:-5], "its last packet is cut short"),
        (good + b"123", "its last packet is cut short"),
        (good + packet(1, 12, bytes(24)), "2 events of 12 bytes: the file is damaged"),
        (as_aedat_2(stream(5), "Tmpdiff128"), "of the chip Tmpdiff128; those of DVS128 and DAVIS are read"),
        (as_aedat_2(stream(5), "DAVIS240C").replace(b"# AEChip: DAVIS240C", b"#"), "beyond the 16 bits of a DVS128"),
        (as_aedat_2(stream(5))[:-3], "its last event is cut short"),
        (as_aedat_4(stream(5))[:-30], "its last packet is cut short"),
        (as_aedat_4(stream(5), None).replace(b"IMUS", b"EVTS"), "events of two streams, 0 and 1"),
        (as_aedat_4(stream(5)).replace(b"IOHE", b"IOHF"), "its header is none of AEDAT 4"),
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


def test_windows_of_a_given_length_and_counts():
    events = stream(11, 200)
    pieces = [Events(*np.array(events[k : k + 30], np.int64).T) for k in range(0, 200, 30)]
    first = events[0][2]
    counts = np.zeros((6, 2, SIZE, SIZE), int)
    for x, y, t, p in events:
        if (t - first) // 40_000 < 6:
            counts[(t - first) // 40_000, p, y, x] += 1
    found = FrameCut(6, "window", 40_000).frames("made", lambda: iter(pieces), (SIZE, SIZE))
    assert np.array_equal(found, counts > 0) and counts.sum() < 200
    found = FrameCut(6, "window", 40_000, counts=3).frames("made", lambda: iter(pieces), (SIZE, SIZE))
    assert np.array_equal(found, np.minimum(counts, 3) * 85)
    found = FrameCut(6, "window", 40_000, counts=5).frames("made", lambda: iter(pieces), (SIZE, SIZE), 1)
    assert np.array_equal(found, np.minimum(counts.sum(1, keepdims=True), 5) * 51)
    assert cut_in("frames6-of-40000-counts3") == FrameCut(6, "window", 40_000, 3)
    assert cut_in("frames6-by-number-counts") == FrameCut(6, "number", counts=15)
    for wrong in ("frames6-of-0", "frames6-counts2", "frames6-by-time", "frames6-polarity-difference"):
        with pytest.raises(KdsnnError, match=rf"^\+{wrong}: "):
            cut_in(wrong)


def cleaned(events, variant, piece, size=(SIZE, SIZE)):
    pieces = [Events(*np.array(events[k : k + piece], np.int64).T) for k in range(0, len(events), piece)]
    left, shape = cleaning_in(variant)(lambda: iter(pieces), size)
    return [tuple(map(int, one)) for e in left() for one in zip(e.x, e.y, e.t, e.p, strict=True)], shape


@given(st.integers(0, 1000), st.integers(1, 120), st.sampled_from([0, 300, 20_000, 10**6]), st.integers(1, 200))
@settings(max_examples=60, deadline=None)
def test_denoising_is_its_definition_whatever_the_pieces(seed, count, within, piece):
    events = stream(seed, count)
    kept = [
        (x, y, t, p)
        for k, (x, y, t, p) in enumerate(events)
        if any(t - u <= within + 1 and max(abs(x - v), abs(y - w)) == 1 for v, w, u, _ in events[:k])
    ]
    assert cleaned(events, f"denoise{within + 1}", piece) == (kept, (SIZE, SIZE))


def test_fewer_pixels_and_a_part_of_the_sensor():
    events = stream(12, 200)
    assert cleaned(events, "down5", 7) == ([(x // 5, y // 5, t, p) for x, y, t, p in events], (3, 3))
    inside = [(x - 3, y - 1, t, p) for x, y, t, p in events if 3 <= x < 8 and 1 <= y < 10]
    assert cleaned(events, "crop9x5", 7) == (inside, (9, 5)) and 0 < len(inside) < 200
    with pytest.raises(KdsnnError, match=r"^\+crop13x2: the sensor has 12×12 pixels"):
        cleaned(events, "crop13x2", 7)
    for wrong in ("denoise0", "down0", "crop0x3"):
        with pytest.raises(KdsnnError, match=rf"^\+{wrong}: its numbers must be 1 or more"):
            cleaning_in(wrong)


def test_recordings_are_cleaned_in_the_order_of_the_name(recordings):
    data = load(f"events:{recordings}+down2+frames4-counts5+crop5x3")
    assert data.sample_shape == (4, 2, 5, 3) and data.graded and data.name.endswith("+down2+frames4-counts5+crop5x3")
    events = [(x // 2 - 1, y // 2, t, p) for x, y, t, p in back(recordings / "Test/right/1.npy")]
    inside = [(x, y, t, p) for x, y, t, p in events if 0 <= x < 3 and 0 <= y < 5]
    first, last = inside[0][2], inside[-1][2]
    counts = np.zeros((4, 2, 5, 3), int)
    for x, y, t, p in inside:
        counts[min(3, (t - first) // ((last - first) // 4)), p, y, x] += 1
    assert np.array_equal(data.x_test[4], np.minimum(counts, 5) * 51) and counts.max() > 1
    assert "12×12 pixels (width × height), of which +down2+crop5x3 leaves 3×5" in data.notes[-1]
    with pytest.raises(KdsnnError, match=r"\.(bin|npy|npz) \+denoise1: it holds no events"):
        load(f"events:{recordings}+denoise1")
    with pytest.raises(KdsnnError, match="are too much for a sample"):
        write(recordings / "Train/left/far.npy", [(16_000, 16_000, 5, 0)])
        load(f"events:{recordings}")
