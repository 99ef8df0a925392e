"""netx files: what is written reads back, and what Lava would not run right is found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporters import netx
from exporters.errors import DeployError
from exporters.graph import IF, Input, Linear, Output, chain
from exporters.to_chain import to_chain
from hardware.emulator import run
from tests.networks import random_integer_chain


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """A network of convolutions and dense layers, written."""
    seed = next(s for s in range(100) if {"conv0", "conv1", "dense0"} <= set(random_integer_chain(s).nodes))
    return netx.write(to_chain(random_integer_chain(seed)), tmp_path / "sound.net")


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**31))
def test_round_trip_keeps_every_number(tmp_path: Path, seed: int) -> None:
    graph = to_chain(random_integer_chain(seed))
    again = netx.read(netx.write(graph, tmp_path / f"{seed}.net"))
    assert (again.T == graph.T and again.input == graph.input) or again.input.shape == graph.input.shape
    assert list(again.synapses) == list(graph.synapses) and list(again.neurons) == list(graph.neurons)
    for name, synapse in graph.synapses.items():
        np.testing.assert_array_equal(again.synapses[name].weight, synapse.weight)
        assert (again.synapses[name].bias is None) == (synapse.bias is None)
    x = np.random.default_rng(seed).integers(0, 256, (3, *graph.input.shape)).astype(np.float32)
    np.testing.assert_array_equal(run(again, x).output, run(graph, x).output)


def test_membrane_readout_is_neurons_that_never_fire(tmp_path: Path) -> None:
    graph = chain(
        [
            ("in", Input((3,), "spikes")),
            ("fc", Linear(np.array([[1, -2, 3], [2, 0, 1]], np.int32))),
            ("out", Output("membrane", 4.0)),
        ],
        3,
    )
    path = netx.write(to_chain(graph), tmp_path / "m.net")
    with h5py.File(path) as file:
        assert file["layer/1/neuron/vThMant"][()] == 131_072
    assert json.loads(netx.sidecar_path(path).read_text())["readout"] == "membrane"
    x = np.ones((1, 3, 3), np.float32)
    np.testing.assert_array_equal(run(netx.read(path), x).output, [[[0.5, 0.75], [1, 1.5], [1.5, 2.25]]])


def test_file_is_in_the_format_of_lava_dl(sound: Path) -> None:
    with h5py.File(sound) as file:
        kinds = [file[f"layer/{i}/type"][0].decode() for i in range(len(file["layer"]))]
        assert kinds[0] == "input" and "flatten" in kinds and set(kinds) <= {"input", "conv", "dense", "flatten"}
        assert file["layer/1/type"].dtype == "S10"
        neuron = file["layer/1/neuron"]
        assert neuron["type"][0] == b"CUBA" and neuron["iDecay"][()] == 4096 and neuron["vDecay"][()] == 0
    beside = json.loads(netx.sidecar_path(sound).read_text())
    assert beside["latency_steps"] == len(beside["layers"]) and beside["reset_interval"] == beside["T"]


def damage(path: Path, change) -> Path:
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def replace(file: h5py.File, key: str, value) -> None:
    del file[key]
    file[key] = value


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (lambda f: replace(f, "layer/1/type", np.array([b"maxpool"])), "maxpool.*Lava skips or refuses"),
        (lambda f: f["layer"].move("1", "9"), "without a gap"),
        (lambda f: f.move("layer", "layers"), "no 'layer' group"),
        (lambda f: replace(f, "layer/1/weight", f["layer/1/weight"][()] * 0), "all weights are zero"),
        (lambda f: replace(f, "layer/1/weight", f["layer/1/weight"][()] + 0.5), "fractions"),
        (lambda f: replace(f, "layer/1/weight", f["layer/1/weight"][()] * np.nan), "NaN"),
        (lambda f: replace(f, "layer/1/groups", 128), "128 groups"),
        (lambda f: replace(f, "layer/1/stride", [200, 1]), "stride"),
        (lambda f: replace(f, "layer/1/bias", np.full(len(f["layer/1/weight"]), 40_000.0)), "40000; Lava keeps it in 16 bits"),
        (lambda f: replace(f, "layer/1/neuron/vThMant", -1), "vThMant -1"),
        (lambda f: replace(f, "layer/1/neuron/vThMant", 200_000), "vThMant 200000"),
        (lambda f: replace(f, "layer/1/neuron/iDecay", 0), "iDecay 0"),
        (lambda f: replace(f, "layer/1/neuron/type", np.array([b"SDNN"])), "type SDNN"),
        (lambda f: f["layer/1"].pop("neuron"), "neuron missing"),
        (lambda f: f["layer/1"].pop("stride"), "stride missing"),
    ],
)  # fmt: skip
def test_validator_finds(sound: Path, change, finding: str) -> None:
    assert netx.validate(sound) == []
    damage(sound, change)
    import re

    assert any(re.search(finding, problem) for problem in netx.validate(sound)), netx.validate(sound)
    with pytest.raises(netx.NetxError):
        netx.read(sound)


@pytest.mark.parametrize(
    ("low", "high", "finding"), [(-300, 5, "clips"), (1, 255, "clips"), (-5, 0, "no weight is positive")]
)
def test_validator_finds_dense_weights_lava_mishandles(tmp_path: Path, low: int, high: int, finding: str) -> None:
    w = np.array([[low, high], [high, low]], np.int32)
    graph = chain([("in", Input((2,), scale=255)), ("fc", Linear(w)), ("sn", IF(5)), ("out", Output())], 2)
    with pytest.raises(netx.NetxError, match=finding):
        netx.write(graph, tmp_path / "x.net")
    assert not (tmp_path / "x.net").exists() and not list(tmp_path.iterdir())


def test_reading_without_sidecar_needs_the_time_steps(sound: Path) -> None:
    netx.sidecar_path(sound).unlink()
    with pytest.raises(netx.NetxError, match=r"no sound\.net\.json beside it says how many time steps"):
        netx.read(sound)
    assert netx.read(sound, T=7).T == 7


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(netx.NetxError, match="no such file"):
        netx.read(tmp_path / "none.net")
    (tmp_path / "text.net").write_text("hello")
    with pytest.raises(netx.NetxError, match=r"text\.net: not a readable netx"):
        netx.read(tmp_path / "text.net")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_give_one_clear_error_or_a_sound_network(
    sound: Path, tmp_path: Path, data: st.DataObject
) -> None:
    content = bytearray(sound.read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    hurt = tmp_path / "hurt.net"
    hurt.write_bytes(content)
    shutil.copy(netx.sidecar_path(sound), netx.sidecar_path(hurt))
    try:
        netx.read(hurt)
    except DeployError as error:
        assert "\n" not in str(error)
