"""`--data folder:DIR` on images and folders that are damaged, odd or meant to do harm."""

from __future__ import annotations

import io
import os
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kdsnn.data import DataSet, load
from kdsnn.errors import KdsnnError
from tests.fuzz.harness import CORPUS, command, damaged, examples, tell, untouched

CLASSES = tuple("abcdefghij")


def picture(seed: int, mode: str = "L", size: tuple[int, int] = (8, 8)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(format_: str, image: Image.Image | None = None, **options: object) -> bytes:
    buffer = io.BytesIO()
    (picture(0) if image is None else image).save(buffer, format_, **options)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten classes of three gray 8×8 images; the student's."""
    for k, name in enumerate(CLASSES):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(3):
            picture(10 * k + i).save(tmp_path / "data" / name / f"{i}.png")
    return tmp_path / "data"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int = 8, height: int = 8, *, depth: int = 8, color: int = 0, data: bytes | None = None, more: bytes = b""
) -> bytes:
    """A PNG whose header says anything."""
    rows = bytes(9) * 8 if data is None else data
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + more + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


POSTSCRIPT = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(unpickled) (w) file closefile\nshowpage\n%%EOF\n"
)

REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "not an image"),
    "text": (lambda: b"hello", "not an image"),
    "cut in the header": (lambda: encoded("PNG")[:20], "cannot be read"),
    "cut in the data": (lambda: encoded("PNG")[:60], "cannot be read"),
    "a JPEG cut short": (lambda: encoded("JPEG")[:-40], "cannot be read"),
    "a GIF cut short": (lambda: encoded("GIF")[:-30], "cannot be read"),
    "PostScript, a program": (lambda: POSTSCRIPT, "not an image"),
    "PDF": (lambda: encoded("PDF"), "not an image"),
    "an icon of another format": (lambda: encoded("ICO"), "not an image"),
    "a bomb, a hundred million pixels": (lambda: png(10_000, 10_000), "decompression bomb"),
    "a bomb of 2^62 pixels": (lambda: png(2**31 - 1, 2**31 - 1), "cannot be read|bomb"),
    "no pixels": (lambda: png(0, 8), "cannot be read"),
    "more pixels than data": (lambda: png(8, 8, data=bytes(20)), "cannot be read"),
    "other size": (lambda: encoded("PNG", picture(0, size=(8, 9))), "all images must have one size"),
    "16 bits, gray": (lambda: png(depth=16, data=bytes(17) * 8), "more than 8 bits"),
    "16 bits, gray with transparency": (lambda: png(depth=16, color=4, data=bytes(33) * 8), "more than 8 bits"),
    "16 bits, color": (lambda: png(depth=16, color=2, data=bytes(49) * 8), "more than 8 bits"),
    "16 bits, color with transparency": (lambda: png(depth=16, color=6, data=bytes(65) * 8), "more than 8 bits"),
    "16 bits, color PPM": (lambda: b"P6 8 8 65535\n" + bytes(384), "more than 8 bits"),
    "16 bits, color PPM of text": (lambda: b"P3 8 8 65535\n" + b"7 " * 192, "more than 8 bits"),
    "16 bits, PGM": (lambda: b"P5 8 8 65535\n" + bytes(128), "more than 8 bits"),
    "floats": (lambda: encoded("TIFF", Image.fromarray(np.zeros((8, 8), np.float32))), "more than 8 bits"),
    "a PPM of no maximum": (lambda: b"P6 8 8 0\n" + bytes(192), "cannot be read"),
    "a PPM of huge numbers": (lambda: b"P6 " + b"9" * 40 + b" 8 255\n", "cannot be read"),
    "a metadata bomb": (lambda: png(more=chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(4 << 20)))), "cannot be read"),
}  # fmt: skip
"""What is wrong with an image, how it is made, and what the line says."""


@pytest.mark.parametrize(("build", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_hostile_image_is_refused(
    student: Path, folder: Path, build: Callable[[], bytes], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "c" / "1.png").write_bytes(build())
    with untouched(folder):
        found = command("evaluate", student, "--data", f"folder:{folder}")
    assert "c/1.png" in found.error and re.search(message, found.error), found.error
    assert capfd.readouterr() == ("", "")


def frames(count: int, mode: str = "L") -> dict[str, object]:
    return {"save_all": True, "append_images": [picture(i, mode) for i in range(1, count)]}


def transparent_palette() -> bytes:
    image = picture(0, "P")
    image.info["transparency"] = bytes(range(256))
    return encoded("PNG", image, transparency=bytes(range(256)))


ACCEPTED: dict[str, tuple[Callable[[], bytes], int]] = {
    "an animation": (lambda: encoded("GIF", **frames(5)), 3),
    "an animation with colors": (lambda: encoded("GIF", picture(0, "P"), **frames(5, "P")), 3),
    "an animated PNG": (lambda: encoded("PNG", **frames(3)), 1),
    "pages": (lambda: encoded("TIFF", **frames(3)), 1),
    "a palette": (lambda: encoded("PNG", picture(0, "P")), 3),
    "a palette with transparent colors": (transparent_palette, 3),
    "CMYK": (lambda: encoded("JPEG", picture(0, "CMYK")), 3),
    "YCbCr": (lambda: encoded("TIFF", picture(0, "YCbCr")), 3),
    "one bit": (lambda: encoded("PNG", picture(0, "1")), 1),
    "two bits": (lambda: png(depth=2, data=bytes(3) * 8), 1),
    "transparency": (lambda: encoded("PNG", picture(0, "LA")), 1),
    "color with transparency": (lambda: encoded("WEBP", picture(0, "RGBA")), 3),
    "another format than the name says": (lambda: encoded("BMP"), 1),
    "broken Exif": (lambda: encoded("JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"), 1),
    "a broken color profile": (lambda: encoded("PNG", icc_profile=b"no profile"), 1),
    "something behind the end": (lambda: encoded("PNG") + b"\0" * 5000, 1),
}


@pytest.mark.parametrize(("build", "channels"), ACCEPTED.values(), ids=ACCEPTED.keys())
def test_an_odd_image_is_taken(
    folder: Path, build: Callable[[], bytes], channels: int, capfd: pytest.CaptureFixture[str]
) -> None:
    content = build()
    for i in range(3):
        (folder / "c" / f"{i}.png").write_bytes(content)
    data = load(f"folder:{folder}")
    assert data.input_shape == (channels, 8, 8) and not data.notes[1:]
    with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content)) as image:
        expected = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    for image in data.x_test[data.y_test == 2]:
        assert np.array_equal(image, expected[None] if channels == 1 else expected.transpose(2, 0, 1))
    assert capfd.readouterr() == ("", "")


SOUND = {
    "PNG": encoded("PNG"), "palette": transparent_palette(), "JPEG": encoded("JPEG"), "CMYK": encoded("JPEG", picture(0, "CMYK")),
    "GIF": encoded("GIF", **frames(2)), "BMP": encoded("BMP"), "TIFF": encoded("TIFF"), "LZW": encoded("TIFF", compression="tiff_lzw"),
    "JPEG in TIFF": encoded("TIFF", picture(0, "RGB"), compression="jpeg"), "WEBP": encoded("WEBP"), "PPM": encoded("PPM"),
}  # fmt: skip


@examples(150)
@given(data=st.data())
def test_a_mutated_image_is_refused_or_loads(
    tmp_path_factory: pytest.TempPathFactory, capfd: pytest.CaptureFixture[str], data: st.DataObject
) -> None:
    content = damaged(SOUND[data.draw(st.sampled_from(list(SOUND)))], data)
    folder = tmp_path_factory.getbasetemp() / "mutated"
    (folder / "one").mkdir(parents=True, exist_ok=True)
    for i in range(3):
        (folder / "one" / f"{i}.png").write_bytes(content)
    try:
        assert isinstance(load(f"folder:{folder}"), DataSet)
        tell("folders of images", "a result")
    except KdsnnError as error:
        tell("folders of images", "refused")
        assert "mutated" in str(error) and "\n" not in str(error) and "0x7f" not in str(error), str(error)
    assert capfd.readouterr() == ("", "")  # libraries in C print what they please


@pytest.mark.parametrize("path", sorted((CORPUS / "images").glob("*")), ids=lambda p: p.stem)
def test_images_of_the_corpus(student: Path, folder: Path, path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (folder / "c" / f"1{path.suffix}").write_bytes(path.read_bytes())
    assert f"c/1{path.suffix}" in command("evaluate", student, "--data", f"folder:{folder}").error
    assert capfd.readouterr() == ("", "")


# --- folders


def deep(data: Path) -> None:
    place = data / "a" / "/".join(["deeper"] * 100)
    place.mkdir(parents=True)
    (data / "a" / "2.png").rename(place / "2.png")


def others(data: Path) -> None:
    (data / "a" / "Thumbs.db").write_bytes(b"\0")
    os.mkfifo(data / "b" / "pipe.png")
    (data / "c" / "gone.png").symlink_to("nowhere.png")
    (data / "d" / "loop.png").symlink_to("loop.png")
    (data / "e" / "up").symlink_to("..")
    (data / "f" / "zeros.png").symlink_to("/dev/zero")


def hidden(data: Path) -> None:
    (data / "a" / ".ipynb_checkpoints").mkdir()
    (data / "a" / ".ipynb_checkpoints" / "0-checkpoint.png").write_bytes((data / "a" / "0.png").read_bytes())
    (data / "a" / "._0.png").write_bytes(b"what a Mac leaves behind")
    (data / ".git").mkdir()
    (data / "readme.txt").write_text("on top")


def class_elsewhere(data: Path) -> None:
    (data / "j").rename(data.parent / "elsewhere")
    (data / "j").symlink_to("../elsewhere")


def odd_names(data: Path) -> None:
    for k, name in enumerate(("a\nb", "x" * 255, "ü 字 \x1b[31m", os.fsdecode(b"\xff\xfe"))):
        (data / CLASSES[k]).rename(data / name)


@pytest.mark.parametrize(
    ("change", "left_out"),
    [(deep, 0), (others, 6), (hidden, 0), (class_elsewhere, 0), (odd_names, 0)],
)
def test_an_odd_folder_loses_nothing(
    student: Path, folder: Path, change: Callable[[Path], None], left_out: int
) -> None:
    """All thirty images are there, and no more; what was left out is said."""
    change(folder)
    with untouched(folder):
        data = load(f"folder:{folder}")
        found = command("evaluate", student, "--data", f"folder:{folder}")
    assert found.code == 0 and len(data.y_train) == 20 and len(data.y_test) == 10
    shown = {image.tobytes() for image in (*data.x_train, *data.x_test)}
    assert shown == {picture(10 * k + i).tobytes() for k in range(10) for i in range(3)}
    left = "1 file that is no image was" if left_out == 1 else f"{left_out} files that are no images were"
    assert any(f"{left} left out" in note for note in data.notes) == bool(left_out)
    said = [line for line in found.stderr.splitlines() if line.startswith("note: ")]
    assert len(said) == len(data.notes) + 1 and "10 classes: " in said[-1]


def nothing_but_pipes(data: Path) -> None:
    for path in (data / "a").iterdir():
        path.unlink()
        os.mkfifo(path)


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a class that is a link to its own folder": (lambda d: (d / "z").symlink_to("."), "z is a link"),
    "a class that is a link to the root": (lambda d: (d / "z").symlink_to("/"), "z is a link"),
    "a class of pipes": (nothing_but_pipes, "a holds no images"),
    "a class without images": (lambda d: (d / "z").mkdir(), "z holds no images"),
    "a class too few": (lambda d: (d / "j").rename(d.parent / "j"), "10 classes .* has 9"),
    "training without a test": (lambda d: (d / "a").rename(d / "train"), "none named test"),
}


@pytest.mark.parametrize(("change", "message"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_folder_is_refused(
    student: Path, folder: Path, change: Callable[[Path], object], message: str
) -> None:
    change(folder)
    with untouched(folder):
        assert re.search(message, command("evaluate", student, "--data", f"folder:{folder}").error)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without the rights of the superuser, whom no permission stops."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("place", ["", "a", "a/deeper", "a/0.png"])
def test_what_may_not_be_read_is_not_left_out_silently(folder: Path, place: str) -> None:
    (folder / "a" / "deeper").mkdir()
    for parent in (folder, *folder.parents[:4]):  # pytest's own, one more where it runs in parallel
        mode = parent.stat().st_mode
        if parent.stat().st_uid == os.getuid() and mode & 0o055 != 0o055:
            parent.chmod(mode | 0o055)
    load(f"folder:{folder}")  # imports what it needs
    (folder / place).chmod(0)
    try:
        with as_nobody(), pytest.raises(KdsnnError, match="ermission denied") as caught:
            load(f"folder:{folder}")
    finally:
        (folder / place).chmod(0o755)
    assert str(folder / place) in str(caught.value) and "\n" not in str(caught.value)
