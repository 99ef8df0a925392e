"""Files of events, written byte for byte by the public descriptions of their formats."""

from __future__ import annotations

import struct
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa

from kdsnn.data.events.files import read

SIZE = 12
"""Columns and rows of the sensor."""

Event = tuple[int, int, int, int]


def stream(seed: int, count: int = 300, wide: int = SIZE) -> list[Event]:
    """Events (x, y, t, p), whole numbers, in the order of their times."""
    rng = np.random.RandomState(seed)
    times = np.sort(rng.randint(1000, 300_000, count))
    parts = (rng.randint(0, wide, count), rng.randint(0, wide, count), times, rng.randint(0, 2, count))
    return [(int(x), int(y), int(t), int(p)) for x, y, t, p in zip(*parts, strict=True)]


def as_bin(events: list[Event]) -> bytes:
    """N-MNIST's format: x, y, then polarity in the highest bit of 24, and the time in the other 23."""
    return b"".join(bytes((x, y)) + struct.pack(">I", p << 23 | t)[1:] for x, y, t, p in events)


def as_aedat_2(events: list[Event], chip: str = "") -> bytes:
    """jAER's format, of a DVS128 or a DAVIS, with an entry that is no event behind every hundred."""
    out = [b"#!AER-DAT2.0\r\n# This is a raw AE data file - do not edit\r\n"]
    out += [f"# AEChip: {chip}\r\n".encode()] * bool(chip)
    for k, (x, y, t, p) in enumerate(events):
        davis = "DAVIS" in chip
        out.append(
            struct.pack(">II", y << 22 | x << 12 | p << 11 if davis else (127 - x) << 8 | (127 - y) << 1 | 1 - p, t)
        )
        if k % 100 == 99:
            out.append(struct.pack(">II", 1 << 31 | 77 if davis else 1 << 15, t))
    return b"".join(out)


def packet(kind: int, size: int, entries: bytes, overflows: int = 0) -> bytes:
    """A packet of AEDAT 3.1."""
    number = len(entries) // size
    return struct.pack("<hhiiiiii", kind, 1, size, 4, overflows, number, number, number) + entries


def as_aedat(events: list[Event], overflows: int = 0) -> bytes:
    """AEDAT 3.1: polarity events in packets of 100, one that is not valid in each, and packets of another type between."""
    out = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n#Start-Time: 2026-01-01 00:00:00 (TZ+0000)\r\n#!END-HEADER\r\n"
    for start in range(0, len(events), 100):
        part = events[start : start + 100]
        words = [struct.pack("<Ii", x << 17 | y << 2 | p << 1 | 1, t) for x, y, t, p in part]
        words.insert(1, struct.pack("<Ii", 5 << 17 | 5 << 2, part[0][2]))
        out += packet(1, 8, b"".join(words), overflows) + packet(2, 40, bytes(range(80)))
    return out


def events_table(events: list[Event]) -> bytes:
    """A FlatBuffer of DV's `EventPacket`, its size before it: a table with one field, a vector of 16-byte structs."""
    entries = b"".join(struct.pack("<qhhB3x", t, x, y, p) for x, y, t, p in events)
    # root at 16: the fields' places 8 bytes before it; the vector's length at 24, so that its structs lie at multiples of 8
    body = struct.pack("<I4sHHHHiII", 16, b"EVTS", 6, 8, 4, 0, 8, 4, len(events)) + entries
    return struct.pack("<I", len(body)) + body


def as_aedat_4(events: list[Event], compression: str | None = "lz4", *, end: bool = True) -> bytes:
    """AEDAT 4: packets of 100 events, and packets of another stream between; `end` says where they end, else -1."""
    packets = b""
    for start in range(0, len(events), 100):
        table = events_table(events[start : start + 100])
        for stream_id, data in ((0, table), (1, table.replace(b"EVTS", b"IMUS", 1))):
            data = data if compression is None else pa.compress(data, codec=compression, asbytes=True)
            packets += struct.pack("<ii", stream_id, len(data)) + data
    info = b'<dv version="2.0"></dv>\0'
    number = {None: 0, "lz4": 1, "zstd": 3}[compression]
    # root at 20: fields' places 12 bytes before it, of compression, position of the table of packets, and the text
    size = 8 + 12 + 20 + 4 + len(info)
    position = 14 + 4 + size + len(packets) if end else -1
    head = struct.pack("<I4sHHHHHxxiiqI", 20, b"IOHE", 10, 20, 4, 8, 16, 12, number, position, 4)
    head += struct.pack("<I", len(info) - 1) + info
    assert len(head) == size
    return b"#!AER-DAT4.0\r\n" + struct.pack("<I", len(head)) + head + packets + b"the table of packets" * end


def write(path: Path, events: list[Event]) -> Path:
    """Write events in the format that the name says: `.aedat` of version 3.1, `.2.aedat` of version 2."""
    path.parent.mkdir(parents=True, exist_ok=True)
    x, y, t, p = np.array(events).T
    if path.suffix == ".npz":
        np.savez(path, t=t, x=x.astype(np.uint16), y=y.astype(np.uint16), p=p.astype(bool))
    elif path.suffix == ".npy":
        fields = [("x", "<u2"), ("y", "<u2"), ("timestamp", "<i8"), ("polarity", "<i1")]
        array = np.zeros(len(events), fields)
        array["x"], array["y"], array["timestamp"], array["polarity"] = x, y, t, 2 * p - 1  # some write -1 for OFF
        np.save(path, array)
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            for name, values in (("x", x), ("y", y), ("t", t), ("p", p.astype(bool))):
                file.create_dataset(f"events/{name}", data=values, chunks=(16,), compression="gzip")
    else:
        ways = {".bin": as_bin, ".2.aedat": as_aedat_2, ".aedat": as_aedat, ".aedat4": as_aedat_4}
        path.write_bytes(next(way for ending, way in ways.items() if path.name.endswith(ending))(events))
    return path


def back(path: Path) -> list[Event]:
    """The events of a file as the product reads them."""
    return [(int(x), int(y), int(t), int(p)) for e in read(path) for x, y, t, p in zip(e.x, e.y, e.t, e.p, strict=True)]


KINDS = (".bin", ".npy", ".npz", ".aedat", ".h5", ".2.aedat", ".aedat4")
