"""What a verb would do nothing with, or what a network says itself and otherwise, is refused in one line that names it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import layer, neuron

import kdsnn
from kdsnn import checkpoint, models
from kdsnn.checkpoint import CheckpointInfo
from kdsnn.errors import KdsnnError, OptionError
from tests.networks import randomize

OPTIONS = {"channels": (2, 3), "hidden": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student and an ANN of random weights, and the student as files of every kind."""
    place = tmp_path_factory.mktemp("unused")
    for spiking in (True, False):
        module = models.build("cnn2", spiking=spiking, input_shape=(1, 8, 8), classes=10, **OPTIONS)
        randomize(module, 0)
        kinds: dict[str, Any] = {"readout": "rate", "neuron": "if", "T": 3} if spiking else {}
        info = CheckpointInfo(
            "cnn2", spiking, (1, 8, 8), 10, "digits", OPTIONS, metrics={"test_accuracy": 0.1}, **kinds
        )
        checkpoint.save(place / f"{'student' if spiking else 'ann'}.safetensors", module.float(), info)
    kdsnn.export(place / "student.safetensors", place, to=["netx", "onnx", "nir"], verify=False)
    np.save(place / "image.npy", np.zeros((1, 9, 9), np.uint8))
    return place


LOWERING: list[tuple[str, Mapping[str, Any], str]] = [
    ("student.safetensors", {"weights": "ann.safetensors"}, "weights"),
    ("student.safetensors", {"input_shape": (3, 8, 8)}, "input_shape=3,8,8: student takes 1,8,8"),
    ("student.safetensors", {"calibration_samples": 9}, "calibration_samples=9: nothing is calibrated; add calibrate"),
    ("student.net", {"weights": "ann.safetensors"}, "weights"),
    ("student.net", {"bits": 4}, "bits=4: student is quantized already"),
    ("student.net", {"input_bits": 4}, "input_bits=4: student is quantized already"),
    ("student.nir", {"weights": "ann.safetensors"}, "weights"),
    ("student.nir", {"input_shape": (64,)}, "input_shape=64: student takes 1,8,8"),
    ("student.nir", {"nir": {"dt": 1.0}}, "says everything itself; leave dt out"),
    ("student.nir", {"nir": {"reset": "soft"}}, "says everything itself; leave reset out"),
    ("student.nir", {"nir": {"method": "exponential"}}, "says everything itself; leave method out"),
]


@pytest.mark.parametrize(("file", "said", "line"), LOWERING, ids=lambda one: one if isinstance(one, str) else None)
def test_what_a_file_says_itself_is_not_said_otherwise(
    file: str, said: Mapping[str, Any], line: str, folder: Path
) -> None:
    with pytest.raises(kdsnn.UserError) as caught:
        kdsnn.lower(folder / file, **said)
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_said_twice_alike_is_no_mistake(folder: Path) -> None:
    assert kdsnn.lower(folder / "student.safetensors", input_shape=(1, 8, 8), T=3).bits == 8
    assert kdsnn.lower(folder / "student.net", input_bits=8, T=3).input_shape == (1, 8, 8)
    assert kdsnn.lower(folder / "student.nir", nir={"dt": 1e-4}).graph is not None


def test_a_lowered_network_or_a_graph_keeps_its_steps_and_bits(folder: Path) -> None:
    net = kdsnn.lower(folder / "student.safetensors")
    for source, said, name in (
        (net, {"T": 5}, "T=5"), (net.graph, {"T": 5}, "T=5"), (net, {"input_bits": 3}, "input_bits=3"),
        (net.graph, {"weights": "x.pt"}, "weights"), (net.module, {"weights": "x.pt", "input_shape": (1, 8, 8), "T": 3}, "weights"),
    ):  # fmt: skip
        with pytest.raises(OptionError, match=name):
            kdsnn.check(source, "loihi1", **said)
    for said in ({"bits": 4}, {"timesteps": 2}):
        with pytest.raises(KdsnnError, match="lower"):
            kdsnn.profile(net, "digits", samples=2, **said)


VERBS: list[tuple[str, str, Mapping[str, Any], str]] = [
    ("run", "student.safetensors", {"timeout": 5}, "timeout=5: only Lava has one"),
    ("run", "student.safetensors", {"stock_lava": True}, "stock_lava=True: only Lava has one"),
    ("run", "student.safetensors", {"on": "lava", "timeout": float("nan")}, "timeout=nan: it must be seconds above 0"),
    ("run", "student.safetensors", {"on": []}, "on: it names no back end"),
    ("run", "student.safetensors", {"samples": 0}, "samples=0: it must be 1 or more"),
    ("run", "student.safetensors", {"samples": 2.5}, "samples=2.5: it must be 1 or more"),
    ("run", "student.onnx", {"input_bits": 3}, "finished model"),
    ("run", "student.onnx", {"calibration_samples": 3}, "finished model"),
    ("benchmark", "student.onnx", {"bits": 3}, "finished model"),
    ("benchmark", "student.safetensors", {"seconds": float("nan")}, "seconds=nan"),
    ("check", "student.safetensors", {"target": "loihi1", "chips": 0}, "chips=0"),
    ("check", "student.safetensors", {"target": Path("none.json")}, "none.json: no such file"),
    ("summary", "ann.safetensors", {"T": 4}, "is an ANN, which it does not change"),
    ("summary", "student.onnx", {"input_shape": (1, 2, 3)}, "finished model"),
    ("evaluate", "student.safetensors", {"weights": "ann.safetensors"}, "weights=ann.safetensors: student.safetensors has its own, and only package.module:factory"),
    ("evaluate", "student.safetensors", {"noise_kind": "var"}, "noise_kind=var: there is no noise; add noise"),
    ("predict", "student.safetensors", {"files": "image.npy", "exact": True}, "exact: "),
    ("predict", "student.safetensors", {"files": "image.npy", "T": 7}, "T: "),
    ("predict", "student.onnx", {"files": "image.npy", "bits": 4}, "finished model"),
    ("predict", "student.safetensors", {"files": np.zeros(3)}, "ndarray is given; give paths"),
    ("export", "ann.safetensors", {"out": "out", "to": ["onnx", "nir"]}, "is written as onnx alone"),
    ("export", "ann.safetensors", {"out": "out", "form": ["step"]}, "form: "),
    ("export", "ann.safetensors", {"out": "out", "bits": 4}, "bits: "),
    ("export", "ann.safetensors", {"out": "out", "quantized": True}, "quantized: "),
    ("export", "student.safetensors", {"out": "out", "to": "nir", "bits": 4}, "bits=4: no file holds the quantized network"),
    ("export", "student.safetensors", {"out": "out", "to": "netx", "form": "step"}, "form: no ONNX model is asked for"),
    ("export", "student.safetensors", {"out": "out", "to": "nir", "quantized": True}, "quantized: no ONNX model"),
    ("distill", "cnn2", {"method": "none", "teacher": "no.safetensors"}, "teacher: method=none learns from labels alone"),
    ("distill", "cnn2", {"method": "none", "alpha": 0.5}, "alpha: only method response does something with it"),
    ("distill", "cnn2", {"method": "feature", "teacher": "ann.safetensors", "temperature": 2.0}, "temperature: only method"),
    ("distill", "some.module:net", {"method": "none", "neuron": "lif"}, "neuron=lif: some.module:net is a network of your own"),
    ("pretrain", "some.module:net", {"options": {"hidden": 3}}, "options: some.module:net is a network of your own"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("verb", "source", "said", "line"), VERBS, ids=lambda one: one if isinstance(one, str) else None
)
def test_no_verb_takes_what_it_would_do_nothing_with(
    verb: str, source: str, said: Mapping[str, Any], line: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(kdsnn.UserError) as caught:
        getattr(kdsnn, verb)(source, **said)
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_a_module_without_values_and_a_file_in_place_of_a_module_are_named() -> None:
    with torch.device("meta"):
        empty = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    with pytest.raises(KdsnnError, match="on the meta device, without values; load them first"):
        kdsnn.lower(empty, input_shape=(1, 2, 2), T=2)
    with pytest.raises(KdsnnError, match="write mine:net"):
        kdsnn.evaluate("mine.py:net", "digits", weights="x.safetensors")


def test_of_one_tensor_nothing_is_chosen_and_spikes_have_no_bits() -> None:
    module = torch.nn.Sequential(layer.Flatten(), layer.Linear(4, 2), neuron.IFNode())
    with pytest.raises(OptionError, match="output=3: sequential returns one tensor; leave it out"):
        kdsnn.lower(module, input_shape=(1, 2, 2), T=2, output=3)
    with pytest.raises(OptionError, match="input_bits=4: sequential reads spikes of 0 and 1, not pixels"):
        kdsnn.lower(module, input_shape=(1, 2, 2), T=2, input_coding="spikes", input_bits=4)


def test_a_checkpoint_of_another_network_is_told_from_an_old_one(folder: Path) -> None:
    with pytest.raises(
        KdsnnError, match=r"do not fit the network that is given, they are those of 'cnn2': .* give its own"
    ):
        kdsnn.load(folder / "ann.safetensors", module=torch.nn.Linear(2, 2))


def test_nothing_is_written_over_what_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    x, y = np.zeros((10, 8, 8), np.uint8), np.arange(10)
    np.savez("data.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    (folder / "link.npz").symlink_to("data.npz")
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    for source, data, save in (
        ("student.safetensors", "digits", "student.safetensors"), ("student.onnx", "npz:data.npz", "data.npz"),
        ("student.onnx", "data.npz", "link.npz"), ("student.net", "digits", Path("student.net")),
    ):  # fmt: skip
        with pytest.raises(OptionError, match="is what is read; choose another name"):
            kdsnn.run(source, data, save=save, samples=2)
    for file, kind in (("student.nir", "nir"), ("student.net", "netx")):
        with pytest.raises(OptionError, match="is what is read"):
            kdsnn.export(file, ".", to=kind)
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_one_name_does_where_several_may_be_given(folder: Path, tmp_path: Path) -> None:
    assert list(kdsnn.run(folder / "student.onnx", "digits", on="onnx", samples=2).accuracy) == ["onnx"]
    for named in ("nir", ["nir", "nir"]):  # twice is once
        (file,) = kdsnn.export(folder / "student.safetensors", tmp_path, to=named, verify=False).files
        assert file.format == "nir"


def test_arrays_are_resized_as_images_are(folder: Path) -> None:
    (one,) = kdsnn.predict(folder / "student.safetensors", folder / "image.npy", image_size=8).decisions
    assert one.scores.shape == (3, 10)
