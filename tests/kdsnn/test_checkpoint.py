import hashlib
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporters.graph import IF, Conv2d, Flatten, Input, Linear, Output, chain
from kdsnn import checkpoint
from kdsnn.checkpoint import CheckpointInfo, load, read_info, save
from kdsnn.errors import KdsnnError
from kdsnn.models.folded import FoldedNetwork

INFO = CheckpointInfo(
    model="cnn2",
    options={"channels": (2, 3), "hidden": 5},
    spiking=True,
    readout="rate",
    neuron="if",
    T=4,
    input_shape=(1, 8, 8),
    classes=10,
    data="digits",
    metrics={"accuracy": 0.975},
    training={"method": "response", "teacher": "teacher.safetensors", "epochs": 30, "lr": 0.1},
)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return INFO.build()


@pytest.fixture
def path(tmp_path, network) -> Path:
    save(tmp_path / "student.safetensors", network, INFO)
    return tmp_path / "student.safetensors"


def refused(path, pattern) -> None:
    for read in (load, read_info):
        with pytest.raises(KdsnnError, match=pattern) as caught:
            read(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "info",
    [
        INFO,
        replace(INFO, readout="membrane", neuron="lif", reset="soft"),
        replace(INFO, spiking=False, readout=None, neuron=None, T=None),
        replace(INFO, model="preresnet20", options={}, spiking=False, readout=None, neuron=None, T=None),
    ],
)
def test_round_trip(tmp_path, info):
    network = info.build()
    save(tmp_path / "new" / "folder.safetensors", network, info)
    loaded, described = load(str(tmp_path / "new" / "folder.safetensors"))
    assert described == info == read_info(tmp_path / "new" / "folder.safetensors")
    assert not loaded.training
    assert {k: v.tolist() for k, v in loaded.state_dict().items()} == {
        k: v.tolist() for k, v in network.state_dict().items()
    }


def test_the_same_network_gives_the_same_bytes(tmp_path, path, network):
    save(tmp_path / "again.safetensors", network, INFO)
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_info_needs_no_torch(path):
    code = f"import sys, kdsnn.checkpoint as c; print(c.read_info({str(path)!r}).T); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "4\n"), done.stderr


def test_a_failed_save_leaves_the_old_file(path, network, monkeypatch):
    before = path.read_bytes()

    def killed(*_args, **_kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(safetensors.torch, "save_file", killed)
    with pytest.raises(KdsnnError, match="disk full"):
        save(path, network, INFO)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_save_refuses_what_load_would_refuse(tmp_path):
    broken = INFO.build()
    with torch.no_grad():
        next(broken.parameters()).view(-1)[0] = float("nan")
    with pytest.raises(KdsnnError, match="NaN or infinite"):
        save(tmp_path / "broken.safetensors", broken, INFO)
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_checkpoints(tmp_path):
    refused(tmp_path / "none.safetensors", "no such file")
    refused(tmp_path, "not a readable .safetensors")
    for content in (b"", b"hello", b"\x00" * 100):
        (tmp_path / "other").write_bytes(content)
        refused(tmp_path / "other", "not a readable .safetensors")
    for metadata in (None, {"format": "pt"}):
        safetensors.torch.save_file({"w": torch.zeros(2)}, tmp_path / "foreign", metadata=metadata)
        refused(tmp_path / "foreign", "not a checkpoint of kdsnn-deploy")


def forged(path, weights, **header) -> None:
    """A file with right checksums whatever it says, as another program could write it."""
    info = json.loads(json.dumps({**asdict(INFO), **header.pop("info", {})}))
    full = {
        "format": checkpoint.FORMAT,
        "info": info,
        "info_sha256": hashlib.sha256(json.dumps(info, sort_keys=True).encode()).hexdigest(),
        "weights_sha256": checkpoint._digest_weights(weights),
        **header,
    }
    safetensors.torch.save_file(weights, path, metadata={checkpoint.KEY: json.dumps(full)})


def test_the_forger_can_write_a_good_one(tmp_path, network):
    forged(tmp_path / "f", network.state_dict())
    assert load(tmp_path / "f")[1] == INFO


@pytest.mark.parametrize(
    ("header", "pattern"),
    [
        ({"format": 2}, "checkpoint format 2"),
        ({"info_sha256": "0"}, "checksum"),
        ({"weights_sha256": None}, "checksum"),
        ({"info": {"surprise": 1}}, "entries"),
        ({"info": {"T": "4"}}, "'T' has the wrong type"),
        ({"info": {"T": None}}, "needs T"),
        ({"info": {"options": []}}, "'options' has the wrong type"),
        ({"info": {"input_shape": [1, 8]}}, "input shape"),
        ({"info": {"input_shape": 8}}, "description"),
        ({"info": {"classes": 0}}, "classes"),
        ({"info": {"preprocessing": "mean/std"}}, "preprocessing"),
    ],
)
def test_wrong_descriptions(tmp_path, network, header, pattern):
    forged(tmp_path / "f", network.state_dict(), **header)
    refused(tmp_path / "f", pattern)


def grid_network():
    """A network of three layers, as `distill --quantize` lists one."""
    rng = np.random.default_rng(0)
    nodes = [
        ("input", Input((1, 8, 8))),
        ("stem.conv", Conv2d(rng.normal(size=(2, 1, 3, 3)), rng.normal(size=2), padding=(1, 1))),
        ("body.act", IF(0.1 + 0.2)),
        ("body.flatten", Flatten()),
        ("body.fc", Linear(rng.normal(size=(10, 128)))),
        ("output", Output("membrane")),
    ]
    return FoldedNetwork(chain(nodes, T=4))


def test_a_quantized_network_comes_back_with_its_layers_and_thresholds(tmp_path):
    network = grid_network()
    info = replace(INFO, readout="membrane", quantized={"bits": 3, "layers": network.description()})
    save(tmp_path / "q", network, info)
    loaded, described = load(tmp_path / "q")
    assert described == info == read_info(tmp_path / "q")
    assert loaded.description() == network.description() and loaded.get_submodule("body.act").v_threshold == 0.1 + 0.2
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(loaded.forward_static(x, 4), network.forward_static(x, 4))


def test_an_ordinary_checkpoint_says_nothing_of_layers(path):
    with safetensors.safe_open(path, framework="pt") as file:
        assert "quantized" not in json.loads(file.metadata()[checkpoint.KEY])["info"]


@pytest.mark.parametrize(
    ("layer", "change", "pattern"),
    [
        (0, {"kind": "exec"}, "unknown kind 'exec'"),
        (0, {"sources": ["body.fc"]}, "does not follow"),
        (0, {"sources": []}, "does not follow"),
        (0, {"name": "limb.conv"}, "does not follow"),
        (1, {"arguments": {"v_threshold": 0.0}}, "needs a positive one"),
        (1, {"arguments": {"v_threshold": "1"}}, "cannot be built"),
        (1, {"arguments": {"device": "cuda"}}, "cannot be built"),
        (1, {"name": "body"}, "cannot be built|does not follow"),
        (1, {"name": ""}, "cannot be built"),
        (1, {"name": 7}, "cannot be built"),
        (1, {"extra": 1}, "cannot be built"),
        (3, {"arguments": {"in_features": 99, "out_features": 10, "bias": False}}, "cannot be built"),
        (3, {"arguments": {"in_features": 128, "out_features": 7, "bias": False}}, "not in 10 classes"),
        (4, {"kind": "flatten"}, "cannot be built"),
        (None, {"bits": 1}, "2 to 8 bits"),
        (None, {"bits": "4"}, "2 to 8 bits"),
        (None, {"layers": None}, "'layers' has the wrong type"),
        (None, {"layers": [1]}, "'layers' has the wrong type"),
        (None, {"layers": []}, "cannot be built"),
        (None, {"surprise": 1}, "2 to 8 bits and layers"),
    ],
)
def test_layers_that_make_no_network(tmp_path, layer, change, pattern):
    network = grid_network()
    quantized = json.loads(json.dumps({"bits": 3, "layers": network.description()}))
    if layer is None:
        quantized |= change
    else:
        quantized["layers"][layer] |= change
    forged(tmp_path / "f", network.state_dict(), info={"quantized": quantized})
    with pytest.raises(KdsnnError, match=pattern) as caught:
        load(tmp_path / "f")
    assert "\n" not in str(caught.value) and str(tmp_path / "f") in str(caught.value)


@pytest.mark.parametrize(
    ("info", "pattern"),
    [
        ({"model": "resnet1000"}, "cannot be built"),
        ({"options": {"width": 3}}, "cannot be built"),
        ({"options": {"readout": "rate"}}, "cannot be built"),
        ({"options": {"channels": [2, 4], "hidden": 5}}, "do not fit"),
        ({"model": "resnet14", "options": {}}, "do not fit"),
    ],
)
def test_descriptions_of_another_network(tmp_path, network, info, pattern):
    forged(tmp_path / "f", network.state_dict(), info=info)
    with pytest.raises(KdsnnError, match=pattern):
        load(tmp_path / "f")


def test_weights_of_another_kind(tmp_path, network):
    weights = network.state_dict()
    name = next(iter(weights))
    for changed, pattern in (
        ({k: v for k, v in weights.items() if k != name}, f"{name} is absent in the file"),
        ({**weights, "extra": torch.zeros(1)}, "extra is .* absent in the network"),
        ({**weights, name: weights[name].half()}, "float16"),
        ({**weights, name: weights[name] * float("inf")}, "NaN or infinite"),
    ):
        forged(tmp_path / "f", changed)
        with pytest.raises(KdsnnError, match=pattern):
            load(tmp_path / "f")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_damage_goes_unnoticed(path, network, data):
    """Any truncation and any flipped bits: a KdsnnError, never another network and never another exception."""
    good = path.read_bytes()
    damaged = bytearray(good)
    header = 8 * int.from_bytes(good[:8], "little") + 64
    for flip in data.draw(st.lists(st.integers(0, header - 1) | st.integers(0, 8 * len(good) - 1), max_size=4)):
        damaged[flip // 8] ^= 1 << flip % 8
    length = data.draw(st.integers(0, len(good)) | st.just(len(good)))
    target = path.with_name("damaged")
    target.write_bytes(damaged[:length])
    try:
        read_info(target)
    except KdsnnError as error:
        assert "\n" not in str(error)
    try:
        loaded, info = load(target)
    except KdsnnError as error:
        assert "\n" not in str(error)
    else:
        assert info == INFO
        assert all(torch.equal(v, network.state_dict()[k]) for k, v in loaded.state_dict().items())


def test_class_names_are_kept_where_there_are_any(tmp_path, network, path):
    names = tuple("abcdefghij")
    save(tmp_path / "named.safetensors", network, replace(INFO, class_names=names))
    assert read_info(tmp_path / "named.safetensors").class_names == names
    assert read_info(path).class_names == ()
    with safetensors.safe_open(path, framework="pt") as file:  # as files were before there were names
        assert "class_names" not in json.loads(file.metadata()[checkpoint.KEY])["info"]


@pytest.mark.parametrize("names", [["a"], "abcdefghij", [1] * 10, {"a": 1}, 3])
def test_class_names_that_are_none_are_refused(tmp_path, network, names):
    forged(tmp_path / "f", network.state_dict(), info={"class_names": names})
    refused(tmp_path / "f", "its description cannot be used")
