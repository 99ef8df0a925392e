"""`kdsnn.predict` decides as `evaluate` does, on files that are made what training made of them."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import kdsnn
from kdsnn import checkpoint, data, models
from kdsnn.checkpoint import CheckpointInfo
from kdsnn.cli.app import main
from kdsnn.data import DataSet
from kdsnn.data.sample_files import SampleShape, read_samples
from kdsnn.deploy.classifiers import wanted_by
from kdsnn.errors import KdsnnError, OptionError
from kdsnn.train import decisions
from tests.event_files import SIZE, stream, write
from tests.networks import randomize

OPTIONS = {"channels": (4, 6), "hidden": 16}
NAMES = tuple("abcdefghij")


def trained(spiking: bool, spec: str = "digits", shape: tuple[int, int, int] = (1, 8, 8), **more: Any) -> Any:
    """Random weights and what a checkpoint says about them."""
    module = models.build("cnn2", spiking=spiking, input_shape=shape, classes=10, **OPTIONS)
    randomize(module, 4)  # with which it tells several classes apart
    kinds: dict[str, Any] = {"readout": "rate", "neuron": "if", "T": 4} if spiking else {}
    info = CheckpointInfo("cnn2", spiking, shape, 10, spec, OPTIONS, metrics={"test_accuracy": 0.1}, **kinds | more)
    return kdsnn.TrainedNetwork(module.float().eval(), info)


@pytest.fixture(scope="module")
def digits() -> DataSet:
    return kdsnn.load_data("digits")


@pytest.fixture(scope="module")
def files(digits: DataSet, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Thirty test images as files."""
    folder = tmp_path_factory.mktemp("images")
    paths = [folder / f"{i:02}.{'png' if i % 2 else 'bmp'}" for i in range(30)]
    for path, image in zip(paths, digits.x_test, strict=False):
        Image.fromarray(image[0]).save(path)
    return paths


@pytest.fixture(scope="module")
def snn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = trained(True, class_names=NAMES)
    path = tmp_path_factory.mktemp("snn") / "snn.safetensors"
    checkpoint.save(path, found.module, found.info)
    return path


@pytest.mark.parametrize("spiking", [True, False])
def test_it_decides_as_evaluate_does(digits: DataSet, files: list[Path], spiking: bool) -> None:
    network = trained(spiking)
    found = kdsnn.predict(network, files)
    expected = decisions(network.module, digits, T=4 if spiking else None)[:, :30]
    assert np.array([one.by_step for one in found.decisions]).T.tolist() == expected.tolist()
    assert len(set(expected[-1])) > 2 and found.ok and found.scored == ("rate" if spiking else "logit")
    assert [one.file for one in found.decisions] == list(map(str, files))
    with torch.no_grad():  # the score is the module's own output
        if not spiking:
            x = torch.from_numpy(digits.x_test[:30] / 255).float()
            assert np.stack([one.scores[-1] for one in found.decisions]) == pytest.approx(
                network.module(x).numpy(), abs=1e-5
            )


def test_on_every_back_end_scores_are_those_of_run(
    snn: Path, digits: DataSet, files: list[Path], tmp_path: Path
) -> None:
    kdsnn.export(snn, tmp_path, to=["onnx", "netx", "nir"], form=["loop"], quantized=True)
    few = DataSet("few", digits.x_test[:30], digits.y_test[:30], digits.x_test[:30], digits.y_test[:30], 10)
    ran = {run.backend: run for run in kdsnn.run(snn, few, on=["onnx", "emulator"], samples=30).runs}
    cases = [
        (snn, "onnx", ran["onnx"]), (tmp_path / "snn.loop.onnx", None, ran["onnx"]), (tmp_path / "snn.nir", "onnx", ran["onnx"]),
        (snn, "emulator", ran["emulator"]), (tmp_path / "snn.net", None, ran["emulator"]),
        (tmp_path / "snn.int8.loop.onnx", None, ran["emulator"]),
    ]  # fmt: skip
    for source, on, expected in cases:
        found = kdsnn.predict(source, files, on=on)
        scores = np.stack([one.scores for one in found.decisions])
        assert scores[:, -1] == pytest.approx(expected.scores, abs=1e-6), source
        rates = expected.output.cumsum(axis=1) / np.arange(1, 5)[:, None]
        assert scores == pytest.approx(rates, abs=1e-6), source
        assert found.class_names == NAMES or source.suffix in (".nir", ".net")


def test_an_anns_onnx_decides_as_the_ann(digits: DataSet, files: list[Path], tmp_path: Path) -> None:
    network = trained(False)
    kdsnn.export(network, tmp_path, to=["onnx"])
    (path,) = tmp_path.glob("*.onnx")
    a, b = kdsnn.predict(path, files), kdsnn.predict(network, files)
    assert [x.label for x in a.decisions] == [x.label for x in b.decisions] and a.on == "onnx"
    few = DataSet("few", digits.x_test[:30], digits.y_test[:30], digits.x_test[:30], digits.y_test[:30], 10)
    ran = kdsnn.run(path, few, on=["onnx"], samples=30)
    assert ran.accuracy["onnx"] == kdsnn.evaluate(network, few).accuracy and "(ANN)" in str(ran)
    with pytest.raises(OptionError, match="no time steps"):
        kdsnn.run(path, few, on=["onnx"], T=4)


def images(folder: Path, size: Callable[[int], tuple[int, int]]) -> Path:
    """Two classes of colored images, one gray among them."""
    rng = np.random.default_rng(0)
    for i in range(12):
        place = folder / ("cat" if i % 2 else "dog") / f"{i:02}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (*size(i), 3), np.uint8)
        Image.fromarray(pixels[:, :, 0] if i == 4 else pixels).save(place)
    return folder


@pytest.mark.parametrize("variants", ["+9x7", "+9x7+gray", "+gray+6x5", "+12x12+6x6"])
def test_images_are_made_what_training_made_of_them(tmp_path: Path, variants: str) -> None:
    mixed = not variants.startswith("+gray")
    folder = images(tmp_path / "set", lambda i: (8 + i, 20 - i) if mixed else (10, 9))
    loaded = data.load(f"folder:{folder}{variants}")
    info = trained(True, loaded.name, loaded.input_shape, class_names=()).info
    wanted = wanted_by(info, None)
    every = np.concatenate([read_samples(path, wanted) for path in sorted(folder.rglob("*.png"))])
    for x in (loaded.x_train, loaded.x_test):
        for image in x:
            assert (every == image).all(axis=(1, 2, 3)).sum() == 1
    assert len(every) == len(loaded.x_train) + len(loaded.x_test)


def test_recordings_are_cut_as_training_cut_them(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for i in range(8):
        place = folder / ("left" if i % 2 else "right")
        place.mkdir(parents=True, exist_ok=True)
        corners = [(0, 0, 500, 1), *stream(i), (SIZE - 1, SIZE - 1, 300_001, 0)]
        write(place / f"{i}.bin", corners)
    for variants in ("+frames4", "+frames4-by-number-counts", "+down2+frames4"):
        loaded = data.load(f"events:{folder}{variants}")
        preprocessing = checkpoint.GRADED if loaded.graded else checkpoint.SPIKES
        info = trained(True, loaded.name, loaded.input_shape, preprocessing=preprocessing).info
        wanted = wanted_by(info, None)
        every = np.concatenate([read_samples(path, wanted) for path in sorted(folder.rglob("*.bin"))])
        both = np.concatenate([loaded.x_train, loaded.x_test])
        assert every.shape == both.shape and {x.tobytes() for x in every} == {x.tobytes() for x in both}
    np.save(tmp_path / "frames.npy", every[:3])
    assert (read_samples(tmp_path / "frames.npy", wanted) == every[:3]).all()
    assert (read_samples(tmp_path / "frames.npy", wanted)[0] == every[0]).all()
    np.savez(tmp_path / "cut.npz", frames=every[0].astype(np.int64) * 3)
    assert (read_samples(tmp_path / "cut.npz", wanted)[0] == every[0]).all()


def test_arrays_are_images_of_any_layout(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)

    def stored(array: np.ndarray[Any, Any]) -> Path:
        np.save(tmp_path / "x.npy", array)
        return tmp_path / "x.npy"

    gray, colored = rng.integers(0, 256, (5, 1, 8, 6), np.uint8), rng.integers(0, 256, (5, 3, 8, 6), np.uint8)
    for array in (gray, gray[:, 0], gray.transpose(0, 2, 3, 1), gray / 255):
        assert (read_samples(stored(array), SampleShape((1, 8, 6))) == gray).all()
    for array in (gray[0], gray[0, 0], gray[0].transpose(1, 2, 0), (gray[0] / 255).astype(np.float32)):
        assert (read_samples(stored(array), SampleShape((1, 8, 6))) == gray[:1]).all()
    for array in (colored, colored.transpose(0, 2, 3, 1)):
        assert (read_samples(stored(array), SampleShape((3, 8, 6))) == colored).all()
    assert (read_samples(stored(colored[0].transpose(1, 2, 0)), SampleShape((3, 8, 6))) == colored[:1]).all()
    assert read_samples(stored(gray[0, 0]), SampleShape((48,))).reshape(-1).tolist() == gray[0].reshape(-1).tolist()
    assert read_samples(stored(gray.reshape(5, 48)), SampleShape((48,))).shape == (5, 1, 1, 48)
    assert (read_samples(stored(gray[0]), SampleShape((3, 8, 6))) == gray[:1].repeat(3, 1)).all()
    for array in (gray.astype(np.int64), gray / 128, gray[:, :, :4], np.array(["a"]), np.zeros((0, 8, 6))):
        with pytest.raises(KdsnnError, match=r"x\.npy"):
            read_samples(stored(array), SampleShape((1, 8, 6)))
    for frames in (np.full((4, 2, 3, 3), 2), np.zeros((5, 2, 3, 3)), np.zeros((4, 2, 3))):
        with pytest.raises(KdsnnError, match=r"x\.npy"):
            read_samples(stored(frames), SampleShape((2, 3, 3), over_time=True, T=4))


def cli(*arguments: object) -> tuple[int, str, list[str]]:
    out, err = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, ["kdsnn-deploy", *map(str, arguments)]
    code = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.argv = before
    return code, out.getvalue(), [line for line in err.getvalue().splitlines() if line.startswith("error: ")]


def test_a_file_that_cannot_be_used_is_a_line_and_the_others_go_on(
    snn: Path, files: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "cut.png").write_bytes(files[1].read_bytes()[:60])
    Image.fromarray(np.zeros((9, 8), np.uint8)).save(tmp_path / "large.png")
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(tmp_path / "colored.png")
    (tmp_path / "text.txt").write_text("no image")
    wrong = [tmp_path / name for name in ("cut.png", "large.png", "colored.png", "text.txt", "nowhere.png")]
    code, out, errors = cli("predict", snn, wrong[0], files[0], *wrong[1:], files[1], "--top", 3)
    assert code == 1 and out.count("00.bmp") == out.count("01.png") == 1
    assert [next(path.name for path in wrong if path.name in line) for line in errors] == [path.name for path in wrong]
    assert "--image-size 8,8" in errors[1]
    code, out, errors = cli("predict", snn, *wrong)
    assert (code, out, len(errors)) == (2, "", len(wrong))
    code, out, errors = cli("predict", snn, tmp_path / "large.png", files[0], "--image-size", "8", "--json")
    assert (code, errors) == (0, [])
    told = json.loads(out)
    assert told["samples"][0]["name"] == NAMES[told["samples"][0]["class"]] and len(told["samples"][0]["scores"]) == 10
    assert cli("predict", snn, files[0], "--on", "loihi")[0] == 2


def test_it_prints_what_it_decided(snn: Path, files: list[Path]) -> None:
    found = kdsnn.predict(snn, files[:3], top=2)
    lines = str(found).splitlines()
    assert lines[0] == "snn.safetensors on torch" and "after time step" in lines[2]
    first = found.decisions[0]
    assert found.class_name(first.label) in lines[4].split() and first.best(10)[0] == first.label
    assert sorted(first.best(10)) == list(range(10))
    assert found.to_frame()["class"].tolist() == [one.label for one in found.decisions]
    for on in ("onnx", "lava"):
        with pytest.raises(OptionError, match="an ANN, which runs on torch"):
            kdsnn.predict(trained(False), files, on=on)
