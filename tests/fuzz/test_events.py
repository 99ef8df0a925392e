"""`--data events:DIR` on files of events that are damaged, or meant to do harm, in every format that is read."""

from __future__ import annotations

import io
import re
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from kdsnn.data import DataSet, load
from kdsnn.errors import KdsnnError
from tests.event_files import KINDS, as_aedat, as_aedat_2, as_aedat_4, as_bin, events_table, packet, stream, write
from tests.fuzz.harness import CORPUS, command, damaged, examples, tell, untouched

HEAD = b"#!AER-DAT4.0\r\n"


def spoken(path: Path) -> None:
    """A file like SHD's."""
    with h5py.File(path, "w") as file:
        for name, kind in (("times", np.float16), ("units", np.uint16)):
            array = file.create_dataset(f"spikes/{name}", (4,), h5py.vlen_dtype(kind))
            for k in range(4):
                array[k] = np.arange(9, dtype=kind)
        file["labels"] = np.array([0, 1, 0, 1])


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Ending of a name → a file of a few hundred events."""
    folder = tmp_path_factory.mktemp("sound")
    found = {kind: write(folder / f"a{kind}", stream(1, 150)).read_bytes() for kind in KINDS}
    spoken(folder / "shd.h5")
    np.savez(folder / "frames.npz", frames=np.random.default_rng(0).integers(0, 5, (4, 2, 6, 6)))
    found["_train.h5"] = (folder / "shd.h5").read_bytes()
    found[".frames.npz"] = (folder / "frames.npz").read_bytes()
    found[".zstd.aedat4"] = as_aedat_4(stream(1, 150), "zstd")
    found[".plain.aedat4"] = as_aedat_4(stream(1, 150), None)
    found[".davis.aedat"] = as_aedat_2(stream(1, 150), "DAVIS240C")
    return found


def placed(folder: Path, ending: str, content: bytes, sound: dict[str, bytes]) -> Path:
    """A folder with that file, and sound ones beside it: enough for training and test."""
    for old in (p for p in folder.rglob("*") if p.is_file()):
        old.unlink()
    one = folder / "one"
    one.mkdir(parents=True, exist_ok=True)
    if ending == "_train.h5":
        (folder / "shd_test.h5").write_bytes(sound[ending])
        (folder / "shd_train.h5").write_bytes(content)
        return folder / "shd_train.h5"
    for name in ("b", "c"):
        (one / f"{name}{ending}").write_bytes(sound[ending])
    path = one / f"a{ending}"
    path.write_bytes(content)
    return path


def tried(folder: Path, spec: str = "") -> str:
    """Load, and return the one line of a refusal, or nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            assert isinstance(load(f"events:{folder}{spec}"), DataSet)
        except KdsnnError as error:
            said = str(error)
            assert str(folder) in said and "\n" not in said and "0x7f" not in said, said
            return said
    return ""


def spliced(content: bytes, data: st.DataObject) -> bytes:
    """A part of a file put elsewhere in it, or numbers that are too large put anywhere."""
    at, end, to = (data.draw(st.integers(0, len(content))) for _ in range(3))
    part = content[min(at, end) : max(at, end)]
    huge = data.draw(st.sampled_from((part, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0" * 8, b"")))
    return content[:to] + huge + content[to + data.draw(st.sampled_from((0, len(huge)))) :]


@examples(60)
@given(data=st.data())
def test_a_mutated_file_of_events_is_refused_or_read(
    sound: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    ending = data.draw(st.sampled_from(sorted(sound)))
    change = data.draw(st.sampled_from((damaged, spliced)))
    spec = data.draw(st.sampled_from(("", "+frames3-by-number", "+frames3-of-50-counts", "+denoise20+down2+frames2")))
    folder = tmp_path_factory.getbasetemp() / "mutated"
    placed(folder, ending, change(sound[ending], data), sound)
    outcome = "refused" if tried(folder, spec) else "a result"
    tell("events", outcome)
    event(f"{ending}: {outcome}")


def iohe(compression: int, position: int, info: bytes = b"<dv/>") -> bytes:
    """The header of AEDAT 4 with any values."""
    head = struct.pack("<I4sHHHHHxxiiqI", 20, b"IOHE", 10, 20, 4, 8, 16, 12, compression, position, 4)
    head += struct.pack("<I", len(info)) + info + b"\0"
    return HEAD + struct.pack("<I", len(head)) + head


def packed(data: bytes, codec: str) -> bytes:
    content = pa.compress(data, codec=codec, asbytes=True)
    return struct.pack("<ii", 0, len(content)) + content


BOMB = struct.pack("<I", (1 << 31) - 4) + events_table([])[4:12] + bytes(1 << 26)
TABLE = events_table(stream(0, 5))


def numpys(events: list[tuple[int, int, int, int]]) -> bytes:
    """A `.npy` of events."""
    file = io.BytesIO()
    np.save(file, np.array(events, [(name, "<i8") for name in "xytp"]))
    return file.getvalue()


REFUSED: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "a name in numpy's header": (".npy", lambda: numpys(stream(0, 5)).replace(b"False", b"Wrong"), "not a readable file"),
    "a program in numpy's header": (".npy", lambda: numpys(stream(0, 5)).replace(b"False", b"f()  "), "not a readable file"),
    "nothing": (".aedat", lambda: b"", "first line is none of"),
    "nothing of N-MNIST": (".bin", lambda: b"", "holds no events"),
    "one line without end": (".aedat", lambda: b"#" * (1 << 23), "first line is none of"),
    "a header without end": (".aedat", lambda: b"#!AER-DAT3.1\r\n" + b"# no\r\n" * 10_000, "its header has no end"),
    "a header of 2.0 alone": (".aedat", lambda: b"#!AER-DAT2.0\r\n" + b"# no\r\n" * 10_000, "holds no events"),
    "2^31 events": (".aedat", lambda: as_aedat([]) + struct.pack("<hhiiiiii", 1, 1, 8, 4, 0, 2**31 - 1, 2**31 - 1, 0), "is cut short"),
    "events of 2^31 bytes": (".aedat", lambda: as_aedat([]) + struct.pack("<hhiiiiii", 2, 1, 2**31 - 1, 4, 0, 1, 1, 0), "the file is damaged"),
    "a negative number": (".aedat", lambda: as_aedat([]) + struct.pack("<hhiiiiii", 1, 1, 8, 4, 0, -1, -1, 0), "the file is damaged"),
    "only what is no event": (".aedat", lambda: as_aedat([]) + packet(2, 40, bytes(80)), "holds no events"),
    "AEDAT 4 without a header": (".aedat4", lambda: HEAD, "not a readable file"),
    "a header of 2^32 bytes": (".aedat4", lambda: HEAD + b"\xff" * 4 + bytes(100), "none of AEDAT 4|not a readable file"),
    "an unknown compression": (".aedat4", lambda: iohe(9, -1), "names compression 9"),
    "packets that end beyond the file": (".aedat4", lambda: iohe(0, 2**62), "is cut short"),
    "a packet of 2^31 bytes": (".aedat4", lambda: iohe(0, -1) + struct.pack("<ii", 0, 2**31 - 1), "is cut short"),
    "a packet of less than nothing": (".aedat4", lambda: iohe(0, -1) + struct.pack("<ii", 0, -1), "is cut short"),
    "a packet of nothing": (".aedat4", lambda: iohe(0, -1) + struct.pack("<ii", 0, 0), "holds no events"),
    "a bomb of LZ4": (".aedat4", lambda: iohe(1, -1) + packed(BOMB, "lz4"), "the file is damaged"),
    "a bomb of zstd": (".aedat4", lambda: iohe(3, -1) + packed(BOMB, "zstd"), "the file is damaged"),
    "a vector of 2^32 events": (".aedat4", lambda: iohe(0, -1) + struct.pack("<ii", 0, len(TABLE)) + TABLE.replace(struct.pack("<II", 4, 5), b"\4\0\0\0" + b"\xff" * 4), "not a readable file"),
    "a vector that lies nowhere": (".aedat4", lambda: iohe(0, -1) + struct.pack("<ii", 0, len(TABLE)) + TABLE.replace(struct.pack("<II", 4, 5), b"\xff" * 4 + b"\5\0\0\0"), "not a readable file"),
    "another compression than it says": (".aedat4", lambda: iohe(3, -1) + packed(TABLE, "lz4"), "not a readable file"),
    "a clock that runs over and over": (".bin", lambda: as_bin([(0, 240, 0, 0)] * 99_999), "holds no events"),
}  # fmt: skip
"""What is wrong with a file, its ending, how it is made, and what the line says."""


@pytest.mark.parametrize(("ending", "build", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_hostile_file_of_events_is_refused(
    sound: dict[str, bytes], tmp_path: Path, ending: str, build: Callable[[], bytes], message: str
) -> None:
    path = placed(tmp_path, ending, build(), sound)
    said = tried(tmp_path)
    assert str(path) in said and re.search(message, said), said


def test_the_commands_say_so_in_one_line(student: Path, sound: dict[str, bytes], tmp_path: Path) -> None:
    path = placed(tmp_path, ".aedat4", (CORPUS / "events" / "dv_lz4.aedat4").read_bytes()[:800], sound)
    with untouched(tmp_path):
        assert str(path) in command("evaluate", student, "--data", f"events:{tmp_path}").error
    assert (
        "reads images"
        in command(
            "evaluate", student, "--data", f"events:{placed(tmp_path, '.npy', sound['.npy'], sound).parent.parent}"
        ).error
    )
