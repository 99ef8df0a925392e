"""Checkpoints, `.net`, `.nir` and `.onnx` files of the corpus, and of one kind under the name of another.

Mutations of each kind are in tests/kdsnn/test_checkpoint.py, tests/integration/test_hostile_files.py and
tests/exporters/test_nir.py and test_onnx_hostile.py; here is what is meant to do harm, as a command meets it.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdsnn import checkpoint
from tests.fuzz.harness import command, damaged, examples, tell, untouched
from tests.fuzz.test_arrays import MARK, Harm, archive, sound

KINDS = ("safetensors", "net", "nir", "onnx")


@pytest.fixture(scope="module")
def made(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The student in every form, and images for it."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "snn.safetensors").write_bytes(student.read_bytes())
    command("export", student, "--to", "onnx", "--to", "netx", "--to", "nir", "--out", folder)
    (folder / "good.npz").write_bytes(archive(sound()))
    for kind in KINDS:
        assert command("run", folder / f"snn.{kind}", "--samples", 2, "--data", f"npz:{folder / 'good.npz'}").code == 0
    return folder


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def tried(path: Path, made: Path) -> str:
    """The line with which `run` refuses a file, which it must name."""
    with untouched(made), untouched(path.parent):
        found = command("run", path, "--samples", 1, "--data", f"npz:{made / 'good.npz'}")
    assert path.name in found.error or path.stem in found.error, found.error
    return found.error


CONTENTS = (*KINDS, "npz", "pickle", "torch", "nothing", "zeros", "link", "folder")


@pytest.mark.parametrize(
    ("name", "content"), [(name, content) for name in KINDS for content in CONTENTS if content != name]
)
def test_one_kind_under_the_name_of_another(made: Path, tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / f"strange.{name}"
    if content in KINDS:
        path.write_bytes((made / f"snn.{content}").read_bytes())
    elif content == "torch":
        torch.save({"w": Harm(MARK)}, path)
    elif content == "link":
        path.symlink_to(path.name)
    elif content == "folder":
        path.mkdir()
    else:
        raw = {"npz": archive(sound()), "pickle": pickle.dumps(Harm(MARK)), "nothing": b"", "zeros": bytes(10_000)}
        path.write_bytes(raw[content])
    tried(path, made)
    assert not MARK.exists()


def tensors(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


SAFETENSORS: dict[str, bytes] = {
    "a header of exabytes": tensors(b"{}", length=2**60),
    "a header of 2^64": tensors(b"{}", length=2**64 - 1),
    "brackets in brackets": tensors(b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
    "a tensor of exabytes": tensors(json.dumps({"w": {"dtype": "F32", "shape": [2**30, 2**30], "data_offsets": [0, 2**62]}}).encode()),
    "a shape that overflows": tensors(json.dumps({"w": {"dtype": "U8", "shape": [2**32, 2**32], "data_offsets": [0, 0]}}).encode()),
    "tensors that overlap": tensors(json.dumps({n: {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]} for n in "ab"}).encode(), bytes(4)),
    "metadata in brackets": tensors(json.dumps({"__metadata__": {"kdsnn-deploy": "[" * 50_000}}).encode()),
    "metadata of digits": tensors(json.dumps({"__metadata__": {"kdsnn-deploy": "9" * 50_000}}).encode()),
}  # fmt: skip


@pytest.mark.parametrize("content", SAFETENSORS.values(), ids=SAFETENSORS.keys())
def test_hostile_safetensors(made: Path, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(content)
    tried(path, made)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"T": 10**12}, "time steps"),
        ({"T": 10**400}, "time steps|too large"),
        ({"classes": 10**12}, "number of classes"),
        ({"input_shape": (1, 2**20, 2**20)}, "cannot be built|out of memory|do not fit"),
        ({"input_shape": (10**30, 8, 8)}, "input shape"),
        ({"options": {"channels": (2**20, 2**20), "hidden": 4}}, "cannot be built"),
        ({"options": {"channels": (10**30, 2), "hidden": 4}}, "cannot be built"),
        ({"model": "../../etc/passwd"}, "no architecture of this version"),
        ({"neuron": "os.system"}, "the neuron is"),
        ({"reset": "os.system"}, "the reset is"),
    ],
)
def test_a_checkpoint_that_describes_what_cannot_be(
    made: Path, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    """Its checksums are right: who writes such a file can count them too."""
    module, info = checkpoint.load(made / "snn.safetensors")
    path = tmp_path / "described.safetensors"
    checkpoint.save(path, module, replace(info, **changes))
    assert re.search(message, tried(path, made))


def hdf5(change: Callable[[h5py.File, str], object]) -> Callable[[Path, str], None]:
    def write(path: Path, weight: str) -> None:
        with h5py.File(path, "r+") as file:
            change(file, weight)

    return write


def instead(file: h5py.File, name: str, **declared: object) -> None:
    del file[name]
    file.create_dataset(name, **declared)


def link(file: h5py.File, name: str, target: object) -> None:
    del file[name]
    file[name] = target


HDF5: dict[str, Callable[[Path, str], None]] = {
    "terabytes that were never written": hdf5(lambda f, w: instead(f, w, shape=(2**20, 2**20), dtype="f4", chunks=(64, 64))),
    "exabytes that were never written": hdf5(lambda f, w: instead(f, w, shape=(2**31, 2**29), dtype="f4", chunks=(64, 64))),
    "a link to another file": hdf5(lambda f, w: link(f, w, h5py.ExternalLink("/etc/hostname", "/"))),
    "a link to itself": hdf5(lambda f, w: link(f, w, h5py.SoftLink(f"/{w}"))),
    "data in another file": hdf5(lambda f, w: instead(f, w, shape=(4, 4), dtype="u1", external=[("/etc/passwd", 0, 16)])),
    "a group in place of weights": hdf5(lambda f, w: (f.pop(w), f.create_group(w))),
    "weights of text": hdf5(lambda f, w: instead(f, w, data="weights")),
    "weights of references": hdf5(lambda f, w: instead(f, w, shape=(4, 4), dtype=h5py.ref_dtype)),
    "weights of nothing": hdf5(lambda f, w: instead(f, w, data=h5py.Empty("f4"))),
    "complex weights": hdf5(lambda f, w: instead(f, w, data=np.ones((4, 4), complex))),
}  # fmt: skip


def first_weight(path: Path) -> str:
    """The name of a network's first synapses."""
    found: list[str] = []
    with h5py.File(path) as file:
        file.visititems(lambda n, o: found.append(n) if n.endswith("weight") and isinstance(o, h5py.Dataset) else None)
    return found[0]


@pytest.mark.parametrize("kind", ["net", "nir"])
@pytest.mark.parametrize("write", HDF5.values(), ids=HDF5.keys())
def test_hostile_hdf5(made: Path, tmp_path: Path, kind: str, write: Callable[[Path, str], None]) -> None:
    path = tmp_path / f"hostile.{kind}"
    path.write_bytes((made / f"snn.{kind}").read_bytes())
    if kind == "net":
        (tmp_path / "hostile.net.json").write_bytes((made / "snn.net.json").read_bytes())
    write(path, first_weight(path))
    tried(path, made)


def test_weights_that_are_a_program(made: Path, tmp_path: Path) -> None:
    (tmp_path / "program_factory.py").write_text(
        "from torch import nn\nfrom spikingjelly.activation_based import layer, neuron\n"
        "def make(): return nn.Sequential(layer.Flatten(), layer.Linear(64, 10), neuron.IFNode())\n"
    )
    torch.save(Harm(MARK), tmp_path / "weights.pt")
    (tmp_path / "old.pt").write_bytes(pickle.dumps({"1.weight": Harm(MARK)}))
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "renamed.safetensors").write_bytes((tmp_path / "weights.pt").read_bytes())
    os.mkfifo(tmp_path / "pipe.pt")
    for name in ("weights.pt", "old.pt", "text.pt", "renamed.safetensors", "pipe.pt", "missing.pt"):
        arguments = ("--input-shape", "1,8,8", "--timesteps", 2, "--weights", name)
        assert f"--weights {name}" in command("run", "program_factory:make", *arguments).error
    assert not MARK.exists()


@examples(40)
@given(data=st.data())
def test_mutated_networks(made: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Any kind of file, damaged anywhere: it runs, or one line names it."""
    kind = data.draw(st.sampled_from(KINDS))
    path = tmp_path_factory.getbasetemp() / f"mutated.{kind}"
    path.write_bytes(damaged((made / f"snn.{kind}").read_bytes(), data))
    if kind == "net":
        path.with_name("mutated.net.json").write_bytes((made / "snn.net.json").read_bytes())
    found = command("run", path, "--samples", 1, "--data", f"npz:{made / 'good.npz'}")
    tell("networks, bytes", "refused" if found.code else "a result")
    # damage to numbers may leave a sound file of a network that cannot be deployed: then a layer is named
    assert found.code == 0 or re.search(r"mutated|stem\.|body\.", found.error), found.error
