"""`--data npz:FILE` and `npy:DIR` on files that are damaged, senseless or meant to do harm."""

from __future__ import annotations

import io
import os
import pickle
import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdsnn.data import DataSet, load
from kdsnn.errors import KdsnnError
from tests.fuzz.harness import CORPUS, command, examples, untouched

Arrays = Mapping[str, Any]


def sound() -> dict[str, Any]:
    """Ten classes, two images each, 8×8."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (20, 8, 8), dtype=np.uint8), np.arange(20) % 10
    return {"x_train": x, "y_train": y, "x_test": x[:12].copy(), "y_test": y[:12].copy()}


def archive(content: Arrays, *, compressed: bool = False) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **content)
    return buffer.getvalue()


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def header(
    descr: object = "|u1", shape: object = (20, 8, 8), fortran: object = False, data: bytes = bytes(1280)
) -> bytes:
    """A .npy file whose header says anything."""
    text = f"{{'descr': {descr!r}, 'fortran_order': {fortran!r}, 'shape': {shape!r}, }}"
    return raw_header(text, data)


def raw_header(text: str, data: bytes = bytes(1280), version: bytes = b"\x01\x00") -> bytes:
    encoded = text.encode("latin1") + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H" if version[0] == 1 else "<I", len(encoded)) + encoded + data


def members(*changes: tuple[str, bytes], left_out: str = "", kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    """An archive of the sound arrays with members put in their place, or added."""
    content = {f"{key}.npy": npy(value) for key, value in sound().items()}
    content.pop(left_out, None)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as file:
        for name, data in [*((n, d) for n, d in content.items() if n not in dict(changes)), *changes]:
            file.writestr(name, data)
    return buffer.getvalue()


def changed(**arrays: Any) -> bytes:
    return archive({**sound(), **arrays})


def x_train(data: bytes) -> bytes:
    return members(("x_train.npy", data))


def wrong_checksum() -> bytes:
    content = bytearray(archive(sound()))
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        info = file.getinfo("x_test.npy")
    content[info.header_offset + 200] ^= 1  # a pixel
    return bytes(content)


def encrypted() -> bytes:
    content = bytearray(archive(sound()))
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        offset, central = file.getinfo("x_train.npy").header_offset, file.start_dir
    content[offset + 6] |= 1
    content[central + 8] |= 1
    return bytes(content)


class Harm:
    """Unpickled, it leaves a folder behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.mark),)


MARK = Path("unpickled")  # in the current folder, a temporary one


NESTED = "(" * 3000 + ")" * 3000

REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty file": (lambda: b"", "not a zip file"),
    "an empty archive": (lambda: members(left_out="")[-22:], "not a zip file|Bad"),
    "a pickle in place of an archive": (lambda: pickle.dumps(Harm(MARK)), "not a zip file"),
    "a .npy in place of an archive": (lambda: npy(sound()["x_train"]), "not a zip file"),
    "fields with pickled objects": (lambda: x_train(header([("a", "|O"), ("b", "|u1")])), "pickled objects"),
    "names with paths": (
        lambda: members(("../x_train.npy", b""), ("/x_train.npy", b""), left_out="x_train.npy"), "x_train is missing",
    ),
    "a folder named like an array": (lambda: members(("x_train.npy/", b""), left_out="x_train.npy"), "x_train is missing"),
    "a checksum that does not match": (wrong_checksum, "Bad CRC-32"),
    "encrypted": (encrypted, "encrypted"),
    "a member that is no .npy": (lambda: x_train(b"hello"), "x_train has no header"),
    "an empty member": (lambda: x_train(b""), "x_train has no header"),
    "an archive as a member": (lambda: x_train(archive(sound())), "x_train has no header"),
    "version 9 of .npy": (lambda: x_train(raw_header("{}", version=b"\x09\x00")), "x_train has no header"),
    "a header that is no dictionary": (lambda: x_train(raw_header("[1, 2]")), "x_train has no header"),
    "a header of nested parentheses": (lambda: x_train(raw_header(NESTED)), "x_train has no header"),
    "a header longer than numpy reads": (lambda: x_train(raw_header(" " * 60_000)), "x_train has no header"),
    "a header cut short": (lambda: x_train(header()[:40]), "x_train has no header"),
    "a header of Python 2": (lambda: x_train(raw_header("{'descr': '|u1', 'fortran_order': False, 'shape': (20L, 8L, 9L)}")), "cut short"),
    "a header with an odd escape": (lambda: x_train(raw_header("{'descr': '\\d', 'fortran_order': False, 'shape': (1,)}")), "x_train has no header"),
    "shape negative": (lambda: x_train(header(shape=(-20, 8, 8))), r"shape \(-20, 8, 8\)"),
    "shape negative twice": (lambda: x_train(header(shape=(20, -8, -8))), r"shape \(20, -8, -8\)"),
    "shape of floats": (lambda: x_train(header(shape=(20.0, 8, 8))), "x_train has no header"),
    "shape beyond the data": (lambda: x_train(header(shape=(20, 8, 9))), "cut short: 160 of its 1440 values"),
    "shape beyond the machine": (lambda: x_train(header(shape=(20, 2**40, 2**40))), "disk space"),
    "shape beyond 64 bits": (lambda: x_train(header(shape=(20, 10**30, 8))), "disk space"),
    "shape short of the data": (lambda: x_train(header(shape=(20, 8, 7))), "more than the shape"),
    "shape of a number": (lambda: changed(x_train=np.uint8(3)), "has shape"),
    "shape of 32 axes": (lambda: changed(x_train=np.zeros((1,) * 32, np.uint8)), "has shape"),
    "shape of 100 axes": (lambda: x_train(header(shape=(1,) * 100)), "has shape"),
    "images of no pixels": (lambda: changed(x_train=np.zeros((20, 0, 8), np.uint8), x_test=np.zeros((12, 0, 8), np.uint8)), "not empty"),
    "one pixel in all": (lambda: changed(x_train=np.zeros((20, 1, 1), np.uint8), x_test=np.zeros((12, 1, 1), np.uint8)), "takes input of shape"),
    "images of two shapes": (lambda: changed(x_test=np.zeros((12, 9, 8), np.uint8)), "same shape"),
    "images of two ranks": (lambda: changed(x_test=np.zeros((12, 2, 8, 8), np.uint8)), "same shape"),
    "no channel axis to tell": (lambda: changed(x_train=np.zeros((20, 8, 8, 8), np.uint8)), "NCHW or NHWC"),
    "dtype bool": (lambda: changed(x_train=sound()["x_train"] > 0), "is bool"),
    "dtype complex": (lambda: changed(x_train=sound()["x_train"] * 1j), "is complex128"),
    "dtype int8": (lambda: changed(x_train=sound()["x_train"].view(np.int8)), "is int8"),
    "dtype text": (lambda: changed(x_train=np.full((20, 8, 8), "0")), "is <U1"),
    "dtype of text without letters": (lambda: x_train(header("<U0")), "x_train is <U0"),
    "dtype date": (lambda: changed(x_train=np.zeros((20, 8, 8), "M8[s]")), "is datetime64"),
    "dtype with fields": (lambda: changed(x_train=np.zeros((20, 8, 8), [("r", "u1"), ("g", "u1")])), r"is \[\('r'"),
    "dtype of 2 GB per pixel": (lambda: x_train(header(f"|V{2**31 - 1}")), "is .V2147483647"),
    "dtype nobody knows": (lambda: x_train(header("<q99")), "x_train has no header"),
    "floats NaN": (lambda: changed(x_train=np.full((20, 8, 8), np.nan)), "NaN or infinite"),
    "floats NaN in one pixel": (lambda: changed(x_test=np.where(np.arange(768).reshape(12, 8, 8) == 700, np.nan, 0)), "NaN or infinite"),
    "floats infinite": (lambda: changed(x_train=np.full((20, 8, 8), -np.inf, np.float16)), "NaN or infinite"),
    "floats to 255": (lambda: changed(x_train=sound()["x_train"].astype(np.float32)), "floats in 0 to 1"),
    "floats normalized": (lambda: changed(x_train=(sound()["x_train"] / 255 - 0.5) / 0.5), "floats from -1"),
    "floats between levels": (lambda: changed(x_train=np.full((20, 8, 8), 0.3003, np.longdouble)), "multiples of 1/255"),
    "labels float": (lambda: changed(y_train=sound()["y_train"] * 1.0), "integers"),
    "labels bool": (lambda: changed(y_test=sound()["y_test"] > 3), "integers"),
    "labels text": (lambda: changed(y_train=sound()["y_train"].astype(str)), "integers"),
    "labels negative": (lambda: changed(y_train=sound()["y_train"] - 1), "renumber"),
    "labels negative in the test": (lambda: changed(y_test=sound()["y_test"] - 1), "expected 0 to 9"),
    "labels with a gap": (lambda: changed(y_train=sound()["y_train"] * 2), "renumber"),
    "labels out of range": (lambda: changed(y_test=sound()["y_test"] + 2**40), "expected 0 to 9"),
    "labels beyond int64": (lambda: changed(y_test=sound()["y_test"].astype(np.uint64) + np.uint64(2**63)), "expected 0 to 9"),
    "labels one-hot": (lambda: changed(y_train=np.eye(20, dtype=int)), "one class number per image"),
    "labels a number": (lambda: changed(y_train=np.int64(3)), "one class number per image"),
    "labels too many": (lambda: changed(y_train=np.arange(21) % 10), "21 labels in y_train and 20 images"),
    "labels too few": (lambda: changed(y_test=np.arange(11) % 10), "11 labels in y_test and 12 images"),
    "labels of none": (lambda: changed(x_train=np.zeros((0, 8, 8), np.uint8), y_train=np.zeros(0, int)), "y_train is empty"),
    "labels of terabytes": (lambda: members(("y_train.npy", header("<i8", (2**40,)))), "1099511627776 labels"),
    "one class only": (lambda: changed(y_train=np.zeros(20, int), y_test=np.zeros(12, int)), "10 classes .* has 1"),
    "no test images": (lambda: changed(x_test=np.zeros((0, 8, 8), np.uint8), y_test=np.zeros(0, int)), "not empty"),
    "a layout nobody knows": (lambda: changed(layout=np.array("CHWN")), "use NCHW or NHWC"),
    "a layout of bytes": (lambda: changed(layout=np.array(b"NCHW")), "use NCHW or NHWC"),
    "a layout of a gigabyte": (lambda: members(("layout.npy", header(f"<U{2**28}", ()))), "use NCHW or NHWC"),
    "a layout of lines": (lambda: changed(layout=np.array("NC\nHW\x1b[2J")), "use NCHW or NHWC"),
}  # fmt: skip
"""What is wrong with an archive, how it is made, and what the line says."""


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("build", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_hostile_archive_is_refused(student: Path, tmp_path: Path, build: Callable[[], bytes], message: str) -> None:
    path = tmp_path / "hostile.npz"
    path.write_bytes(build())
    with untouched(tmp_path):
        found = command("evaluate", student, "--data", f"npz:{path}")
    assert "hostile.npz" in found.error or "snn.safetensors" in found.error or "temporary disk" in found.error
    assert re.search(message, found.error), found.error


ACCEPTED: dict[str, Callable[[Arrays], Arrays | bytes]] = {
    "in Fortran's order": lambda a: {**a, "x_train": np.asfortranarray(a["x_train"])},
    "big-endian floats": lambda a: {**a, "x_train": (a["x_train"] / 255).astype(">f8")},
    "big-endian labels": lambda a: {**a, "y_train": a["y_train"].astype(">i2")},
    "half precision": lambda a: {**a, "x_train": (a["x_train"] / 255).astype(np.float16)},
    "long double in Fortran's order": lambda a: {**a, "x_train": np.asfortranarray(a["x_train"] / np.longdouble(255))},
    "unsigned labels": lambda a: {**a, "y_train": a["y_train"].astype(np.uint64)},
    "channels last in Fortran's order": lambda a: {k: np.asfortranarray(v[..., None]) if k[0] == "x" else v for k, v in a.items()},
    "other arrays beside": lambda a: {**a, "z": np.arange(5), "x": np.zeros(3)},
    "compressed": lambda a: archive(a, compressed=True),
    "compressed by bzip2": lambda a: members(kind=zipfile.ZIP_BZIP2),
    "compressed by LZMA": lambda a: members(kind=zipfile.ZIP_LZMA),
    "behind something else": lambda a: b"#!/bin/sh\n" * 50 + archive(a),
    "with version 2 of .npy": lambda a: x_train(raw_header("{'descr': '|u1', 'fortran_order': False, 'shape': (20, 8, 8), }", a["x_train"].tobytes(), b"\x02\x00")),
    "with version 3 of .npy": lambda a: x_train(raw_header("{'descr': '|u1', 'fortran_order': False, 'shape': (20, 8, 8), }", a["x_train"].tobytes(), b"\x03\x00")),
}  # fmt: skip
"""Odd, but nothing is wrong with it: the images are those of the sound archive."""


@pytest.mark.parametrize("build", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_an_odd_archive_means_what_it_says(tmp_path: Path, build: Callable[[Arrays], Arrays | bytes]) -> None:
    made = build(sound())
    path = tmp_path / "odd.npz"
    path.write_bytes(made if isinstance(made, bytes) else archive(made))
    assert same(load(f"npz:{path}"))


def same(data: DataSet) -> bool:
    """Whether these are the sound images."""
    expected = sound()
    images = all(np.array_equal(getattr(data, key)[:, 0], expected[key]) for key in ("x_train", "x_test"))
    return images and all(np.array_equal(getattr(data, key), expected[key]) for key in ("y_train", "y_test"))


def refused_or_same(spec: str, name: str) -> bool:
    """Load; an error is one line that names the file. True if it loaded, and then it is the sound data."""
    try:
        data = load(spec)
    except KdsnnError as error:
        assert name in str(error) and "\n" not in str(error), str(error)
        return False
    assert same(data)
    return True


SOUND = {"stored": archive(sound()), "deflated": archive(sound(), compressed=True)}


def joints(content: bytes) -> list[int]:
    """Where the parts of an archive meet: headers, names, .npy headers, data, directory, end."""
    found = {0, len(content)}
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        for info in file.infolist():
            start = info.header_offset
            name, extra = struct.unpack("<HH", content[start + 26 : start + 30])
            data = start + 30 + name + extra
            found |= {
                start,
                start + 4,
                start + 14,
                start + 26,
                start + 30,
                start + 30 + name,
                data,
                data + 10,
                data + 128,
            }
            found |= {data + info.compress_size // 2, data + info.compress_size}
        found |= {file.start_dir, file.start_dir + 46, len(content) - 22, len(content) - 6, len(content) - 2}
    return sorted(found)


@pytest.mark.parametrize("kind", SOUND)
def test_an_archive_cut_off_where_parts_meet(tmp_path: Path, kind: str) -> None:
    content = SOUND[kind]
    path = tmp_path / "cut.npz"
    for place in joints(content):
        for length in {max(0, place - 1), place, min(len(content), place + 1)} - {len(content)}:
            path.write_bytes(content[:length])
            # the last bytes are the length of a remark, without which nothing is lost
            assert not refused_or_same(f"npz:{path}", "cut.npz") or length > len(content) - 22
            path.write_bytes(content[:place] + content[place + 1 :])
            refused_or_same(f"npz:{path}", "cut.npz")


@examples(150)
@given(data=st.data())
def test_a_mutated_archive_is_refused_or_the_same(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Checksums cover the arrays: no damage may change a pixel."""
    content = bytearray(data.draw(st.sampled_from(list(SOUND.values()))))
    places = st.one_of(st.sampled_from(joints(bytes(content))), st.integers(0, len(content)))
    for _ in range(data.draw(st.integers(1, 3))):
        at = min(data.draw(places) + data.draw(st.integers(0, 8)), len(content) - 1)
        kind = data.draw(st.sampled_from(("flip", "set", "cut out", "double")))
        length = data.draw(st.integers(1, 8))
        if kind == "flip":
            content[at] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "set":
            content[at : at + length] = data.draw(st.sampled_from((b"\xff", b"\0", b"\x7f", b"\x80"))) * length
        elif kind == "cut out":
            del content[at : at + length]
        else:
            content[at:at] = content[at : at + length]
    path = tmp_path_factory.getbasetemp() / "mutated.npz"
    path.write_bytes(content)
    refused_or_same(f"npz:{path}", "mutated.npz")


# --- npy:DIR


def folder(path: Path, **files: bytes | None) -> Path:
    path.mkdir(exist_ok=True)
    for key, value in {**{k: npy(v) for k, v in sound().items()}, **files}.items():
        (path / f"{key}.npy").unlink(missing_ok=True)
        if value is not None:
            (path / f"{key}.npy").write_bytes(value)
    return path


HURT: dict[str, tuple[dict[str, bytes | None], str]] = {
    "objects": ({"x_train": npy(sound()["x_train"]).replace(b"'|u1'", b"'|O8'")}, "not a single array"),
    "pickled labels": ({"y_train": pickle.dumps(Harm(MARK))}, "not a single array"),
    "cut short": ({"x_test": npy(sound()["x_test"])[:-1]}, "not a single array"),
    "empty": ({"x_test": b""}, "not a single array"),
    "shape negative": ({"x_train": header(shape=(-20, 8, 8))}, "not a single array|shape"),
    "shape beyond the machine": ({"x_train": header(shape=(2**40, 2**40, 8))}, "not a single array"),
    "shape beyond 64 bits": ({"x_train": header(shape=(10**30, 8, 8))}, "not a single array"),
    "labels of terabytes": ({"y_train": header("<i8", (2**40,))}, "not a single array"),
    "labels float": ({"y_train": npy(np.zeros(20))}, "integers"),
    "no labels": ({"y_train": None}, "no such file"),
    "labels of none": ({"y_train": npy(np.zeros(0, int))}, "not a single array|0 labels"),
    "a number": ({"x_train": npy(np.uint8(1))}, "has shape"),
    "fields": ({"x_train": npy(np.zeros((20, 8, 8), [("r", "u1")]))}, "the pixels are"),
    "a gigabyte of layout": ({"layout": header(f"<U{2**28}", ())}, "not a single array|layout"),
    "a header of nested parentheses": ({"x_train": raw_header(NESTED)}, "not a single array"),
    "a header of Python 2": ({"x_train": raw_header("{'descr': '|u1', 'fortran_order': False, 'shape': (20L, 8L, 9L)}")}, "not a single array"),
}  # fmt: skip


@pytest.mark.parametrize(("files", "message"), HURT.values(), ids=HURT.keys())
def test_a_hostile_folder_of_arrays_is_refused(
    student: Path, tmp_path: Path, files: dict[str, bytes | None], message: str
) -> None:
    path = folder(tmp_path / "arrays", **files)
    with untouched(tmp_path):
        found = command("run", student, "--samples", 1, "--data", f"npy:{path}")
    assert "arrays" in found.error and re.search(message, found.error), found.error


def test_places_that_are_no_files(student: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    path = folder(tmp_path / "arrays", x_train=None)
    os.mkfifo(path / "x_train.npy")
    (tmp_path / "loop").symlink_to("loop")
    for spec in (
        "npz:pipe",
        "npz:.",
        "npz:loop",
        "npz:/dev/zero",
        "npz:/dev/null",
        "npy:arrays",
        "npy:pipe",
        "npy:loop",
    ):
        assert spec[4:] in command("evaluate", student, "--data", spec).error
    assert "too long" in command("evaluate", student, "--data", f"npz:{'x' * 5000}").error


@pytest.mark.parametrize("path", sorted((CORPUS / "npz").glob("*.npz")), ids=lambda p: p.stem)
def test_archives_of_the_corpus(student: Path, path: Path) -> None:
    assert path.name in command("evaluate", student, "--data", f"npz:{path}").error
    assert not MARK.exists()
