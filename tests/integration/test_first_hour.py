"""A first hour with images of one's own, as the README tells it: every command works, and says what it has to on a screen."""

from __future__ import annotations

import io
import json
import shlex
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdsnn.cli.app import main

SCREEN = 62
"""Lines of a terminal on half of a screen."""

WIDTH = 100


@pytest.fixture(scope="module")
def hour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as people have them: class sub-folders, images of several sizes, modes and formats, and what is no image."""
    folder = tmp_path_factory.mktemp("hour")
    rng = np.random.default_rng(0)
    for label, name in enumerate(("bars", "dots", "plain")):
        place = folder / "images" / name
        place.mkdir(parents=True)
        for i in range(14):
            size = int(rng.integers(12, 20))
            pixels = rng.integers(0, 60, (size, size, 3)).astype(np.uint8)
            if name != "plain":
                pixels[:: 2 + 2 * label, :: 1 + label] += 180
            image = Image.fromarray(pixels)
            image = [image, image.convert("L"), image.convert("P")][i % 3]
            image.save(place / f"{i}.{('png', 'bmp', 'gif')[i % 3]}")
    (folder / "images" / "bars" / "notes.txt").write_text("not an image")
    return folder


SMALL = "--option channels=2,3 --option hidden=8 --epochs 2 --batch-size 8"
STEPS = {
    "list": "list models",
    "teacher": f"pretrain cnn2 {SMALL} --data images --image-size 12 --out teacher.safetensors",
    "student": f"distill cnn2 {SMALL} --teacher teacher.safetensors --twin --out student.safetensors",
    "evaluate": "evaluate student.safetensors --confusion",
    "predict": "predict student.safetensors images/dots/3.png images/bars/0.png --top 3",
    "summary": "summary student.safetensors",
    "export": "export student.safetensors --to onnx --form sequence --form step --quantized --to netx --to nir --out exported",
    "run": "run student.safetensors --on torch,onnx,emulator --compare --samples 6",
    "check": "check student.safetensors --target loihi1",
    "benchmark": "benchmark student.safetensors --on torch,emulator --samples 6 --repeats 3",
    "profile": "profile student.safetensors --teacher teacher.safetensors --out report",
}


def test_every_command_of_the_first_hour_fits_a_screen(hour: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(hour)
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    said: dict[str, str] = {}
    for name, line in STEPS.items():
        monkeypatch.setattr(sys, "argv", ["kdsnn-deploy", *shlex.split(line)])
        with redirect_stdout(io.StringIO()) as out:
            try:
                main()
            except SystemExit as end:
                assert not end.code, (name, out.getvalue())
        said[name] = out.getvalue()
    for name, text in said.items():
        lines = text.splitlines()
        assert 0 < len(lines) <= SCREEN, (name, len(lines), text)
        assert max(map(len, lines)) <= WIDTH, (name, text)
    assert all(name in said["evaluate"] for name in ("bars", "dots", "plain"))
    assert "images/dots/3.png" in said["predict"] and "plain" in said["predict"]
    assert {p.suffix for p in (hour / "exported").iterdir()} >= {".onnx", ".net", ".nir"}
    report = json.loads((hour / "report" / "report.json").read_text(encoding="utf-8"))
    assert report["verdict"] and "3 classes: bars, dots, plain" in report["data"]
