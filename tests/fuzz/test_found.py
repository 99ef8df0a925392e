"""What mutations found: each of these once ended in a traceback, a hang, or letters that steer a terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from spikingjelly.activation_based import layer, neuron

import kdsnn
from exporters import netx, nir
from exporters.graph import IF, Input, Linear, Output, chain
from exporters.netx.sidecar import digest, sidecar_path
from exporters.passes.chain import to_chain
from kdsnn import checkpoint
from kdsnn.errors import OptionError, UserError
from tests.fuzz.harness import command
from tests.networks import random_dense_time, random_recurrent


class Counted:
    """A data set of torch's kind that does not know how long it is."""

    def __len__(self) -> Any:
        return "many"

    def __getitem__(self, index: int) -> Any:
        return torch.zeros(1, 8, 8), index % 2


X, Y = np.zeros((9, 1, 8, 8), np.uint8), np.arange(9) % 3
CALLS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a label beyond 64 bits": (lambda _: kdsnn.load_data([(X[0], 10**30)] * 9), "item 0 has the label 1000"),
    "a length that is none": (lambda _: kdsnn.load_data(Counted()), "its items cannot be counted"),
    "a size that is a fraction": (lambda _: kdsnn.load_data((X, Y), image_size=1.5), "H,W or one number"),  # type: ignore[arg-type]
    "noise that is a text": (lambda _: kdsnn.load_data((X, Y), noise="x"), "noise is x: it must be 0 or more"),  # type: ignore[arg-type]
    "steps without end": (lambda _: kdsnn.evaluate(torch.nn.Flatten(), (X, Y), T=2**31), "T=2147483648: it must be 1 to 4,096"),
    "a setting of NIR that is none": (lambda p: kdsnn.lower(p / "x.nir", nir={"x": 1}), "nir: x is none of dt, method, reset"),
    "settings of NIR for a module": (lambda _: kdsnn.lower(torch.nn.Flatten(), nir={"dt": 1}), "nir: a Flatten is not a .nir file"),
    "a lowered network to be evaluated": (lambda p: kdsnn.evaluate(kdsnn.lower(p / "snn.safetensors"), (X, Y)), "a Lowered is no trained network"),
    "an export of nothing": (lambda p: kdsnn.export(p / "snn.safetensors", p / "out", to=[]), "to form: they name no file to write"),
    "a sample of a trillion pixels": (lambda _: kdsnn.summary(torch.nn.Flatten(), input_shape=(1, 2**20, 2**20), T=1), "a sample has 268,435,456 at most"),
    "a method that is none": (lambda _: kdsnn.distill("cnn2", "digits", teacher=torch.nn.Flatten(), method="kd"), "method=kd: choose from response"),
    "a spiking network as an ANN": (lambda _: kdsnn.pretrain(torch.nn.Sequential(layer.Flatten(), layer.Linear(64, 10), neuron.IFNode()), "digits"), "it has spiking neurons"),
    "a quantized ANN that is none": (lambda p: kdsnn.profile(p / "snn.safetensors", (X, Y), qann=3), "qann=3: it must be a checkpoint"),
    "a seed below 0": (lambda p: kdsnn.export(p / "snn.safetensors", p / "out", to=["nir"], seed=-1), "seed=-1: it must be 0 to 2^32 - 1"),
    "a chip of too many digits": (lambda p: kdsnn.check(p / "snn.safetensors", str(p / "digits.json")), "digits.json: not a readable JSON file"),
    "an accuracy that nobody measured": (lambda p: kdsnn.load(p / "snn.safetensors").accuracy, "does not say its test accuracy; evaluate it"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "message"), CALLS.values(), ids=CALLS.keys())
def test_a_call_is_refused_in_one_line(
    student: Path, tmp_path: Path, call: Callable[[Path], Any], message: str
) -> None:
    (tmp_path / student.name).write_bytes(student.read_bytes())
    (tmp_path / "digits.json").write_text("9" * 5000)
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        call(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_message_has_one_line_and_repeats_no_array() -> None:
    assert str(UserError("a\nb: no such\n")) == "a b: no such"
    assert str(OptionError("{data}: no", data=X)) == "data: no"
    assert str(OptionError("{bits}: no", bits=9)) == "bits=9: no"


def test_names_in_the_json_beside_a_netx_file_are_texts(tmp_path: Path) -> None:
    path = netx.write(to_chain(random_dense_time(0)), tmp_path / "n.net")
    sound = json.loads(sidecar_path(path).read_text())
    named, scaled = (
        [{**row, key: value} for row in sound["layers"]] for key, value in {"neuron": 3, "scale": 10**400}.items()
    )
    for changed in ({**sound, "layers": named}, {**sound, "layers": scaled}, {**sound, "input": 3}):
        changed["digest"] = digest(path, changed)
        sidecar_path(path).write_text(json.dumps(changed))
        with pytest.raises(UserError, match=r"n\.net: it cannot be understood"):
            kdsnn.lower(path)


def test_weights_beyond_float32_are_infinite() -> None:
    with pytest.raises(UserError, match=r"w: the weight contains NaN or infinite values"):
        chain(
            [("in", Input((2,))), ("w", Linear(np.full((1, 2), 1e39))), ("if", IF(1.0)), ("out", Output("rate"))], T=2
        )


def test_complex_numbers_are_refused(tmp_path: Path) -> None:
    path = nir.write(random_recurrent(1), tmp_path / "n.nir")
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        name = next(n for n in names if n.endswith("v_threshold"))
        value = file[name][()] * (1 + 1j)
        del file[name]
        file[name] = value
    with pytest.raises(UserError, match="v_threshold: its numbers are complex"):
        kdsnn.lower(path)


@pytest.mark.parametrize(
    "changes", [{"metrics": {"test_accuracy": "good"}}, {"training": {"noise": 3}}, {"class_names": ("\x1b[31m",) * 10}]
)
def test_what_a_checkpoint_says_beside_its_network(student: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    module, info = checkpoint.load(student)
    path = tmp_path / "described.safetensors"
    checkpoint.save(path, module, replace(info, **changes))
    np.save(tmp_path / "image.npy", X[0])
    found = command("predict", path, tmp_path / "image.npy")
    assert found.code == (2 if "metrics" in changes else 0), found
    assert "class_names" not in changes or r"\x1b[31m" in found.stdout
    assert command("check", path, "--target", "loihi1").code == (2 if "metrics" in changes else 0)


def test_an_ann_that_is_exported_is_called_by_its_name(teacher: Path, tmp_path: Path) -> None:
    found = kdsnn.export(kdsnn.load(teacher), tmp_path, to=["onnx"])
    assert found.source == "cnn2"
    assert "\n\n" not in str(kdsnn.load(teacher).path) and "–" in str(kdsnn.load(teacher))
