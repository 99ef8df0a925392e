"""A network remembers what it was trained on, and verbs say what they do with it."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch import nn

import kdsnn
from kdsnn import checkpoint
from kdsnn.cli.options import spelled
from kdsnn.data import load
from kdsnn.deploy.devices import computing_on, moved
from kdsnn.deploy.own_data import OwnData, agreed
from kdsnn.errors import Caution, Notice, OptionError

SMALL: dict[str, Any] = {"options": {"channels": (4, 4), "hidden": 8}, "epochs": 1, "batch_size": 8}
NAMES = ("apple", "pear", "plum")

pytestmark = pytest.mark.filterwarnings("ignore::kdsnn.errors.Notice")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 12×12 images, a teacher, and a student that was told its data no more."""
    place = tmp_path_factory.mktemp("own")
    for label, name in enumerate(NAMES):
        folder = place / "fruit" / name
        folder.mkdir(parents=True)
        for i, image in enumerate(np.random.default_rng(label).integers(0, 256, (10, 12, 12), dtype=np.uint8)):
            Image.fromarray(image).save(folder / f"{i}.png")
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore", Notice)
        patch.chdir(place)
        torch.manual_seed(0)
        kdsnn.pretrain("cnn2", "fruit", out="ann.safetensors", **SMALL)
        kdsnn.distill("cnn2", teacher="ann.safetensors", T=2, out="snn.safetensors", **SMALL)
        kdsnn.export("snn.safetensors", "files", to=["onnx", "netx", "nir"], quantized=True)
    return place


@pytest.fixture(autouse=True)
def there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def test_verbs_take_the_data_that_a_network_was_trained_on() -> None:
    assert kdsnn.load("snn.safetensors").info.data == "folder:fruit"  # the teacher's
    own, named = kdsnn.evaluate("snn.safetensors"), kdsnn.evaluate("snn.safetensors", "fruit")
    assert own.data == "folder:fruit" and own.to_dict() == named.to_dict()
    for source in ("snn.safetensors", *(f"files/snn.{kind}" for kind in ("net", "nir", "onnx", "int8.onnx"))):
        on = ["onnx"] if source.endswith("onnx") else ["emulator"]
        ran = kdsnn.run(source, on=on, samples=6)
        assert (
            ran.title.endswith("on folder:fruit")
            and ran.accuracy == kdsnn.run(source, "fruit", on=on, samples=6).accuracy
        )
    report = kdsnn.profile("snn.safetensors", teacher="ann.safetensors", target=["loihi1"])
    assert report.data == "6 test images of folder:fruit (3 classes: apple, pear, plum)"
    assert report.students[0].float_run.accuracy == own.accuracy
    assert kdsnn.profile("ann.safetensors").teacher.accuracy == kdsnn.evaluate("ann.safetensors").accuracy  # type: ignore[union-attr]


def test_calibration_takes_them_too() -> None:
    own, named = (kdsnn.lower("snn.safetensors", bits=3, calibrate=data) for data in (True, load("fruit")))
    assert own.integer.metadata["quantization"]["calibration"] == {
        "data": "folder:fruit",
        "part": "train",
        "samples": 24,
    }
    assert own.to_dict() == named.to_dict()
    assert kdsnn.lower("files/snn.nir", calibrate=True).calibrated
    assert kdsnn.check("snn.safetensors", "loihi1", calibrate=True).fits
    untold = dataclasses.replace(kdsnn.lower("snn.safetensors").graph, metadata={})  # type: ignore[type-var]
    with pytest.raises(OptionError, match="calibrate: network does not say what it was trained on; name the data"):
        kdsnn.lower(untold, calibrate=True)


@pytest.mark.parametrize(
    ("verb", "option"),
    [
        (lambda: kdsnn.evaluate("snn.safetensors"), "--data"),
        (lambda: kdsnn.run("snn.safetensors"), "--data"),
        (lambda: kdsnn.run("files/snn.onnx", on=["onnx"]), "--data"),
        (lambda: kdsnn.profile("snn.safetensors"), "--data"),
        (lambda: kdsnn.distill("cnn2", teacher="ann.safetensors", **SMALL), "--data"),
        (lambda: kdsnn.check("snn.safetensors", "loihi1", calibrate=True), "--calibrate"),
        (lambda: kdsnn.export("snn.safetensors", "other", calibrate=True), "--calibrate"),
    ],
)
def test_where_the_folder_is_gone_it_is_named(verb: Callable[[], Any], option: str, place: Path) -> None:
    away = (place / "fruit").rename(place / "away")
    try:
        with pytest.raises(OptionError) as found:
            verb()
    finally:
        away.rename(place / "fruit")
    text = found.value.worded(spelled)
    assert "was trained on folder:fruit, which cannot be had here (fruit: no such folder" in text
    assert text.endswith(f"name the data with {option}") and "\n" not in text


def test_arrays_of_python_have_no_name_that_leads_to_them() -> None:
    x, y = np.zeros((20, 8, 8), np.uint8), np.arange(20) % 2
    student = kdsnn.distill("cnn2", (x, y), method="none", T=2, **SMALL)
    with pytest.raises(OptionError, match=r"was trained on arrays, which cannot be had here \(neither a name"):
        kdsnn.evaluate(student)
    assert kdsnn.evaluate(student, (x, y)).samples == 4


def test_noise_is_remembered() -> None:
    noise = {"noise": 0.5, "noise_kind": "var", "noise_on": "test"}
    student = kdsnn.distill("cnn2", "fruit", method="none", T=2, **noise, **SMALL)
    assert student.info.training["noise"] == noise
    noisy = kdsnn.load_data("fruit", **noise).x_test
    seen: list[np.ndarray] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "kdsnn.train.decisions", lambda module, data, **how: seen.append(data.x_test) or data.y_test[None]
        )
        kdsnn.evaluate(student)
        kdsnn.evaluate(student, "fruit")
    assert (seen[0] == noisy).all() and (seen[1] == kdsnn.load_data("fruit").x_test).all()
    assert kdsnn.lower(student).graph.metadata["noise"] == noise  # type: ignore[union-attr]


def test_of_networks_with_different_data_the_user_chooses() -> None:
    a, b = OwnData("digits", "a"), OwnData("mnist", "b")
    assert agreed([None, a, OwnData("digits", "c")]) == a and agreed([None]) is None
    with pytest.raises(
        OptionError, match="a was trained on digits and b on mnist; say on which to compare them with data"
    ):
        agreed([a, None, b])
    with pytest.raises(OptionError, match="with other noise"):
        agreed([a, OwnData("digits", "c", {"noise": 0.1})])


def test_class_names_go_into_files_and_back() -> None:
    facts = {p.key: p.value for p in onnx.load("files/snn.onnx").metadata_props}
    assert tuple(json.loads(facts["source"])["class_names"]) == NAMES
    for source in ("files/snn.net", "files/snn.nir"):
        lowered = kdsnn.lower(source)
        assert tuple((lowered.graph or lowered.integer).metadata["class_names"]) == NAMES
    others = dataclasses.replace(load("fruit"), class_names=("apple", "pear", "fig"))
    for source in ("snn.safetensors", "files/snn.net", "files/snn.onnx"):
        with pytest.raises(kdsnn.KdsnnError, match="class 2 is 'plum' for the network and 'fig' in the data"):
            kdsnn.run(source, others, on=["onnx" if source.endswith("onnx") else "emulator"])


def test_accuracies_say_what_they_are_of() -> None:
    assert (
        str(kdsnn.evaluate("snn.safetensors")).splitlines()[0].endswith("; float, not quantized, BatchNorm not folded")
    )
    few = kdsnn.distill("cnn2", teacher="ann.safetensors", quantize=4, start="snn.safetensors", epochs=1, batch_size=8)
    assert kdsnn.evaluate(few).arithmetic == "trained on the grid of 4-bit weights, in float arithmetic"
    report = kdsnn.profile("snn.safetensors", bits=3, samples=3, target=["loihi1"])
    told = " ".join(report.notes)
    assert "with BatchNorm folded" in told and "snn is quantized to 3-bit weights and 8-bit input" in told


def test_what_trains_to_nothing_is_said() -> None:
    x, y = np.zeros((20, 8, 8), np.uint8), np.zeros(20, int)
    with pytest.warns(
        Caution, match="arrays has one class only: any network classifies it rightly, so that its accuracy says"
    ):
        kdsnn.load_data((x, y))
    with pytest.warns(
        Notice, match="a batch of 500 is more than the 24 training images: every epoch is one step on all of"
    ):
        kdsnn.pretrain("cnn2", "fruit", **{**SMALL, "batch_size": 500})


@pytest.mark.parametrize("kind", ["onnx", "net", "nir"])
def test_a_file_that_is_no_checkpoint_is_sent_to_run(kind: str) -> None:
    for verb in (kdsnn.evaluate, kdsnn.load):
        with pytest.raises(kdsnn.KdsnnError, match=rf"`run` tells the accuracy of a \.{kind} file"):
            verb(f"files/snn.{kind}")


def test_settings_are_options_and_a_device_is_chosen(tmp_path: Path) -> None:
    given = {
        "optimizer": "adamw",
        "weight_decay": 0.01,
        "schedule": "step",
        "warmup_epochs": 0.5,
        "label_smoothing": 0.1,
    }
    out = tmp_path / "a.safetensors"
    kdsnn.pretrain("cnn2", "fruit", out=out, precision="fp32", device="cpu", **given, **SMALL)
    training = checkpoint.read_info(out).training
    assert {name: training[name] for name in given} == given and training["precision"] == "fp32"
    by_default = kdsnn.pretrain("cnn2", "fruit", precision="fp32", **given, **SMALL).module.state_dict()
    assert all(torch.equal(value, by_default[name]) for name, value in kdsnn.load(out).module.state_dict().items())
    before = Accelerator().device
    with computing_on("cpu:0"):
        assert Accelerator().device == torch.device("cpu:0") != before
    assert Accelerator().device == before
    module = nn.Linear(1, 1)
    with moved(module, "cpu"):
        assert module.weight.device.type == "cpu"
    with pytest.raises(OptionError, match=r"device=cuda:99: torch has no such device here \("):
        kdsnn.evaluate("snn.safetensors", device="cuda:99")
