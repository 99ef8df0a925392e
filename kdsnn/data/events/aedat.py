"""AEDAT, the files of iniVation's event cameras, read in pieces: versions 2, 3.1 and 4.

* 2 (jAER): lines that begin with `#`, then 8 bytes an event, big-endian: a 32-bit address and a time in µs. What the bits
  of an address mean depends on the chip, which the line `# AEChip:` names. DVS128, also where there is no such line as in
  CIFAR10-DVS: bit 0 is 0 for ON, bits 1–7 and 8–14 count columns and rows from the far end, so that
  (x, y) = (127 - bits 8–14, 127 - bits 1–7) is what jAER and SpikingJelly give; bit 15 marks what is no event. DAVIS: bit 31
  or bit 10 mark what is no event, bits 22–30 are y, 12–21 x, 11 the polarity.
* 3.1: lines that begin with `#`, the last of them `#!END-HEADER`, then packets. A header of 28 bytes, little-endian, says
  the type (1: polarity events), the bytes of an event (8), the overflows of its clock (2³¹ µs each) and the number of
  events; an event is 32 bits, from bit 31 down 15 of x, 15 of y, the polarity and whether it is valid, and a time in µs.
  What is no polarity event, or not valid, is left out.
* 4 (DV): the line `#!AER-DAT4.0`, then a FlatBuffer `IOHE` that says how packets are compressed and where they end; packets
  of stream number, size and, compressed with LZ4, zstd or not at all, a FlatBuffer. Those of identifier `EVTS` hold a
  vector of events of 16 bytes, little-endian: 64 bits of time in µs, 16 of x, 16 of y, the polarity, three bytes of nothing.

AEDAT 4 is read here and not by a library, so that a damaged file ends in one line and takes no more memory than its packets:
pyarrow, which the data sets of the Hub are read with anyway, decompresses.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np

from kdsnn.data.dataset import brief
from kdsnn.data.events.cutting import Events
from kdsnn.errors import KdsnnError

PIECE = 1 << 18
"""Events that are read at once."""

POLARITY = 1
PACKET = struct.Struct("<hhiiiiii")
"""Type, source, size of an event, offset of its time, overflows of the clock, capacity, number of events, number valid."""

LONGEST_LINE = LARGEST_EVENT = 1 << 22
"""Bytes of a line of a header, and of one event of any type (an image is one): more is damage."""

CODECS = {0: None, 1: "lz4", 2: "lz4", 3: "zstd", 4: "zstd"}
"""Compression in the header of AEDAT 4 → pyarrow's name of it."""

LARGEST_PACKET = 1 << 28
"""Bytes that a packet of AEDAT 4 may unpack to: sixteen million events, of which a camera makes packets of some thousands."""

EVENT = np.dtype({"names": ["t", "x", "y", "p"], "formats": ["<i8", "<i2", "<i2", "u1"], "offsets": [0, 8, 10, 12], "itemsize": 16})  # fmt: skip


def read_aedat(path: Path) -> Iterator[Events]:
    """Read AEDAT of any of the versions, see the module. Raises KdsnnError; what damage meets in numpy, struct or pyarrow
    comes through."""
    with path.open("rb") as file:
        first = file.readline(LONGEST_LINE)
        if first.startswith(b"#!AER-DAT2.0"):
            yield from _version_2(path, file)
        elif first.startswith(b"#!AER-DAT3.1"):
            yield from _version_3(path, file)
        elif first.startswith(b"#!AER-DAT4.0"):
            yield from _version_4(path, file)
        else:
            raise KdsnnError(
                f"{path}: its first line is none of #!AER-DAT2.0, #!AER-DAT3.1 and #!AER-DAT4.0: convert it to .npy with "
                "fields x, y, t and p."
            )


def _version_2(path: Path, file: IO[bytes]) -> Iterator[Events]:
    chip = b""
    while (line := _peeked(file)).startswith(b"#"):
        file.readline(LONGEST_LINE)
        chip = line.partition(b":")[2].strip() if line.startswith(b"# AEChip:") else chip
        if line.startswith((b"#End Of ASCII Header", b"# End Of ASCII Header")):
            break  # an address may begin as a line of the header does
    davis = b"davis" in chip.lower()
    if chip and not davis and b"DVS128" not in chip:
        raise KdsnnError(
            f"{path}: its events are of the chip {brief(chip.decode('ascii', 'replace'))}; those of DVS128 and DAVIS are "
            "read: convert it to .npy with fields x, y, t and p."
        )
    while data := file.read(8 * PIECE):
        if len(data) % 8:
            _cut_short(path, "event")
        address, t = np.frombuffer(data, ">u4").reshape(-1, 2).T.astype(np.int64)
        if davis:
            real = address & (1 << 31 | 1 << 10) == 0
            x, y, p = address >> 12 & 0x3FF, address >> 22 & 0x1FF, address >> 11 & 1
        elif address.max() >= 1 << 16:
            raise KdsnnError(
                f"{path}: an address is {address.max()}, beyond the 16 bits of a DVS128, and no line '# AEChip:' names "
                "another chip: convert it to .npy with fields x, y, t and p."
            )
        else:
            real = address & 1 << 15 == 0
            x, y, p = 127 - (address >> 8 & 0x7F), 127 - (address >> 1 & 0x7F), 1 - (address & 1)
        yield Events(*(part[real] for part in (x, y, t, p)))


def _peeked(file: IO[bytes]) -> bytes:
    """Read a line, and go back to where it begins."""
    place = file.tell()
    line = file.readline(LONGEST_LINE)
    file.seek(place)
    return line


def _version_3(path: Path, file: IO[bytes]) -> Iterator[Events]:
    while not (line := file.readline(LONGEST_LINE)).startswith(b"#!END-HEADER"):
        if not line.startswith(b"#"):
            raise KdsnnError(f"{path}: its header has no end, #!END-HEADER: copy it again.")
        if line.startswith(b"#Format:") and b"RAW" not in line:
            raise KdsnnError(f"{path}: its packets are not of format RAW: convert it to .npy.")
    while head := file.read(PACKET.size):
        kind, size, overflows, number = _packet(path, head)
        for start in range(0, number, PIECE):
            count = min(PIECE, number - start)
            data = file.read(count * size)
            if len(data) < count * size:
                _cut_short(path)
            if kind == POLARITY:
                word, time = np.frombuffer(data, "<u4").reshape(-1, 2).T.astype(np.int64)
                parts = (word >> 17, word >> 2 & 0x7FFF, time + (overflows << 31), word >> 1 & 1)
                yield Events(*(part[word & 1 == 1] for part in parts))


def _packet(path: Path, head: bytes) -> tuple[int, int, int, int]:
    """Read the header of a packet of version 3.1: type, bytes of an event, overflows of the clock, number of events."""
    if len(head) < PACKET.size:
        _cut_short(path)
    kind, _, size, _, overflows, _, number, _ = PACKET.unpack(head)
    if not 0 < size <= LARGEST_EVENT or number < 0 or overflows < 0 or (kind == POLARITY and size != 8):
        raise KdsnnError(f"{path}: a packet says that it has {number} events of {size} bytes: the file is damaged.")
    return kind, size, overflows, number


def _version_4(path: Path, file: IO[bytes]) -> Iterator[Events]:
    head = file.read(4)
    head += file.read(min(struct.unpack("<I", head)[0], LONGEST_LINE))
    compression, end = _scalar(head, 0, "<i"), _scalar(head, 1, "<q", -1)
    if head[8:12] != b"IOHE" or compression not in CODECS:
        raise KdsnnError(f"{path}: its header is none of AEDAT 4, or names compression {compression}: copy it again.")
    camera: int | None = None
    while end < 0 or file.tell() < end:
        header = file.read(8)
        if end < 0 and not header:  # a recording that was never closed
            return
        if len(header) < 8:
            _cut_short(path)
        stream, size = struct.unpack("<ii", header)
        if size < 0 or len(data := file.read(size)) < size:
            _cut_short(path)
        table = _unpacked(path, data, CODECS[compression])
        if table is None:
            continue
        if camera not in (None, stream):
            raise KdsnnError(
                f"{path}: it holds the events of two streams, {camera} and {stream}: write a file of each."
            )
        camera = stream
        found = _vector(table)
        yield Events(*(found[name].astype(np.int64) for name in ("x", "y", "t", "p")))


def _unpacked(path: Path, data: bytes, codec: str | None) -> bytes | None:
    """Decompress a packet of version 4; None where it holds something else than events."""
    import pyarrow as pa

    stream = pa.BufferReader(data) if codec is None else pa.CompressedInputStream(pa.BufferReader(data), codec)
    with stream:
        table: bytes = stream.read(12)
        if table[8:12] != b"EVTS":
            return None
        table += stream.read(min(LARGEST_PACKET, size := struct.unpack_from("<I", table)[0] - 8))
    if len(table) < size + 12:
        raise KdsnnError(
            f"{path}: a packet unpacks to {len(table):,} bytes and says that it has {size + 12:,}: the file is damaged."
        )
    return table


def _field(table: bytes, number: int) -> int:
    """Find where a field of a FlatBuffer's root lies, behind the four bytes of its size; 0 where it is left out."""
    root = 4 + struct.unpack_from("<I", table, 4)[0]
    fields = root - struct.unpack_from("<i", table, root)[0]
    if fields < 0 or 4 + 2 * number >= struct.unpack_from("<H", table, fields)[0]:
        return 0
    offset = struct.unpack_from("<H", table, fields + 4 + 2 * number)[0]
    return root + offset if offset else 0


def _scalar(table: bytes, number: int, kind: str, default: int = 0) -> int:
    place = _field(table, number)
    return struct.unpack_from(kind, table, place)[0] if place else default


def _vector(table: bytes) -> np.ndarray[Any, Any]:
    """Read the events of a packet; ValueError where they do not lie in it."""
    place = _field(table, 0)
    if not place:
        return np.empty(0, EVENT)
    place += struct.unpack_from("<I", table, place)[0]
    return np.frombuffer(table, EVENT, struct.unpack_from("<I", table, place)[0], place + 4)


def _cut_short(path: Path, what: str = "packet") -> NoReturn:
    raise KdsnnError(f"{path}: its last {what} is cut short: copy it again.")
