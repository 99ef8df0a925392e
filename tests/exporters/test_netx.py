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
from exporters.graph import IF, LIF, Input, Linear, Output, chain
from exporters.passes.chain import to_chain
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
        (lambda f: replace(f, "layer/1/neuron/iDecay", 4097), "iDecay 4097"),
        (lambda f: replace(f, "layer/1/neuron/vDecay", [0, 5, 0]), "vDecay differs between neurons"),
        (lambda f: replace(f, "layer/1/neuron/gradedSpike", True), "graded spikes"),
        (lambda f: f.create_dataset("layer/1/neuron/weight_exp", data=2), "weight exponent"),
        (lambda f: f.create_dataset("layer/1/delay", data=[0.0, 3.0]), "synaptic delays, which Lava ignores"),
        (lambda f: replace(f, "layer/1/type", np.array([b"pool"])), "pool.*Lava skips or refuses"),
        (lambda f: replace(f, "layer/1/type", np.array([b"dense_rec"])), "layer 1 .dense_rec.: the weight has shape"),
        (lambda f: f.create_group("layer/0/neuron"), "input.*neuron: type, iDecay, vDecay, vThMant missing"),
        (lambda f: replace(f, "layer/1/neuron/type", np.array([b"SDNN"])), "type SDNN"),
        (lambda f: f["layer/1"].pop("neuron"), "neuron missing"),
        (lambda f: f["layer/1"].pop("stride"), "stride missing"),
        (lambda f: f["layer/0"].pop("shape"), "no input layer says the shape of what its first convolution reads"),
        (lambda f: replace(f, "layer/1/type", np.array([b"input"])), r"layer 1 \(input\): only the first layer can be the input"),
        (lambda f: [f["layer"].pop(key) for key in list(f["layer"]) if key != "0"], "it has no conv or dense layer"),
        (lambda f: replace(f, "layer/1/weight", np.ones((2, 2), np.float32)), r"the weight has shape \(2, 2\)"),
        (lambda f: replace(f, "layer/1/bias", np.ones(99, np.float32)), r"the bias has shape \(99,\), expected"),
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
        for bit in data.draw(st.sets(st.integers(0, 8 * len(content) - 1), min_size=1, max_size=4)):
            content[bit // 8] ^= 1 << bit % 8
    hurt = tmp_path / "hurt.net"
    hurt.write_bytes(content)
    shutil.copy(netx.sidecar_path(sound), netx.sidecar_path(hurt))
    with pytest.raises(DeployError) as caught:  # never a network that merely looks sound
        netx.read(hurt)
    assert "\n" not in str(caught.value)
    netx.sidecar_path(hurt).unlink()
    try:  # nobody says what the file should be: then a sound one, or again one line
        netx.read(hurt, T=2)
    except DeployError as error:
        assert "\n" not in str(error)


def test_a_changed_sidecar_is_noticed(sound: Path) -> None:
    beside = netx.sidecar_path(sound)
    facts = json.loads(beside.read_text())
    beside.write_text(json.dumps(facts))  # laid out otherwise, the same facts
    netx.read(sound)
    facts["T"] += 1
    beside.write_text(json.dumps(facts))
    with pytest.raises(netx.NetxError, match=r"sound\.net\.json was damaged or changed"):
        netx.read(sound)


@pytest.mark.parametrize("content", ["{", "[]", '{"version": 99}', "\udcff"])
def test_a_file_beside_it_that_is_no_sidecar(sound: Path, content: str) -> None:
    netx.sidecar_path(sound).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(netx.NetxError, match=r"^sound\.net\.json: not a sidecar of this program \(.+\); export"):
        netx.read(sound)


def test_large_weights_are_packed(tmp_path: Path) -> None:
    """The chain of a residual network is mostly zeros."""
    weight = np.diag(np.arange(1, 251)).astype(np.int32)
    graph = chain([("in", Input((250,), "spikes")), ("fc", Linear(weight)), ("sn", IF(5)), ("out", Output())], 2)
    path = netx.write(graph, tmp_path / "large.net")
    assert path.stat().st_size < weight.nbytes / 4
    np.testing.assert_array_equal(netx.read(path).synapses["fc"].weight, weight)


# -- files that slayer writes ------------------------------------------------------------------------

DATA = Path(__file__).with_name("data")


def test_a_file_of_slayer_gives_slayers_spikes() -> None:
    """`slayer_cuba.net` and `.npz` come from lava-dl 0.6 itself: its Conv and Dense blocks of CUBA neurons with
    three pairs of decays, its export, and what its forward (delay_shift=False) gave for 6 samples of 12 steps."""
    path = DATA / "slayer_cuba.net"
    assert netx.validate(path) == []
    graph = netx.read(path, T=12, encoding="spikes")
    assert [round(n.current_leak * 4096) for n in graph.neurons.values() if isinstance(n, LIF)] == [2662, 2048]
    with np.load(DATA / "slayer_cuba.npz") as expected:
        np.testing.assert_array_equal(run(graph, expected["x"].astype(np.float32)).output, expected["y"])
        assert 0.05 < expected["y"].mean() < 0.95


def foreign(path: Path, **changes) -> Path:
    """A file in slayer's layout: an input block with neurons, a dense layer, and slayer's Affine."""
    layers: dict[str, dict] = {
        "0": {"type": b"input", "shape": [3], "weight": np.array([[3.0]], np.float32), "bias": np.array([[-2.0]], np.float32),
              "neuron": {"type": "CUBA", "iDecay": 4096, "vDecay": 512, "vThMant": 400, "refDelay": 1, "gradedSpike": False}},
        "1": {"type": b"dense", "shape": [2], "weight": np.array([[10, -4, 6], [2, 2, 2]], np.float32), "inFeatures": 3, "outFeatures": 2,
              "neuron": {"type": "CUBA", "iDecay": 1024, "vDecay": 0, "vThMant": 11, "refDelay": 1, "gradedSpike": False}},
        "2": {"type": b"dense", "shape": [2], "weight": np.array([[4, -2], [0, 6]], np.float32), "inFeatures": 2, "outFeatures": 2,
              "neuron": {"type": "CUBA", "iDecay": 0, "vDecay": 4096, "vThMant": 2**18 - 1, "refDelay": 1, "gradedSpike": False}},
    }  # fmt: skip
    for key, value in changes.items():
        layer, _, field = key[1:].partition("_")
        layers[layer].pop(field) if value is None else layers[layer].update({field: value})
    with h5py.File(path, "w") as file:
        for name, layer in layers.items():
            for key, value in layer.items():
                if key == "neuron":
                    for field, number in value.items():
                        file[f"layer/{name}/neuron/{field}"] = number
                else:
                    file[f"layer/{name}/{key}"] = np.array([value], "S10") if key == "type" else value
    return path


def by_hand(x: np.ndarray, T: int) -> np.ndarray:
    """The network of `foreign` as Lava computes it when weight·x + bias is written to the input block's bias_mant."""
    v0, v1, u1, sums, found = np.zeros(3, int), np.zeros(2, int), np.zeros(2, int), np.zeros(2, int), []
    for _ in range(T):
        v0 = np.sign(v0) * (np.abs(v0) * (4096 - 512) >> 12) + ((3 * x - 2) << 6)
        s0 = v0 > 400 << 6
        v0[s0] = 0
        u1 = np.sign(u1) * (np.abs(u1) * (4096 - 1024) >> 12) + ((np.array([[10, -4, 6], [2, 2, 2]]) @ s0) << 6)
        v1 = v1 + u1
        s1 = v1 > 11 << 6
        v1[s1] = 0
        sums = sums + np.array([[4, -2], [0, 6]]) @ s1
        found.append(sums)
    return np.array(found)


def test_input_blocks_with_neurons_and_affine_read_outs(tmp_path: Path) -> None:
    graph = netx.read(foreign(tmp_path / "f.net"), T=9)
    x = np.array([[255, 60, 90], [0, 130, 134], [200, 201, 7]])
    found = run(graph, x.astype(np.float32)).output
    np.testing.assert_array_equal(found, [by_hand(row, 9) for row in x])
    assert found.any()
    # the last layer without any neurons is the same to netx
    bare = netx.read(foreign(tmp_path / "bare.net", _2_neuron=None), T=9)
    np.testing.assert_array_equal(run(bare, x.astype(np.float32)).output, found)


def blocks(path: Path, *layers: dict) -> Path:
    """A file of layers of CUBA neurons as lava-dl's slayer lays them out."""
    neuron = {
        "type": np.bytes_("CUBA"),
        "iDecay": 1024,
        "vDecay": 128,
        "vThMant": 80,
        "refDelay": 1,
        "gradedSpike": False,
    }
    with h5py.File(path, "w") as file:
        for index, layer in enumerate(layers):
            for key, value in layer.items():
                file[f"layer/{index}/{key}"] = np.array([value], "S10") if key == "type" else value
            for key, value in neuron.items() if "weight" in layer else ():
                file[f"layer/{index}/neuron/{key}"] = value
    return path


def even(*shape: int) -> np.ndarray:
    return 2.0 * np.random.default_rng(len(shape)).integers(-20, 30, shape).astype(np.float32)


HIDDEN = {"type": b"dense", "shape": [8], "weight": even(8, 16)}
GEOMETRY = {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1, "inChannels": 1, "outChannels": 3}
CONVOLUTION = {"type": b"conv", "shape": [3, 4, 4], "weight": even(3, 1, 3, 3), **GEOMETRY}


@pytest.mark.parametrize(
    ("bare", "whole"),
    [
        ([HIDDEN], [{"type": b"input", "shape": [16]}, HIDDEN]),
        ([{"type": b"input"}, HIDDEN], [{"type": b"input", "shape": [16]}, HIDDEN]),
        ([{"type": b"flatten", "shape": [16]}, HIDDEN], [{"type": b"input", "shape": [16]}, HIDDEN]),
        (
            [HIDDEN, {"type": b"dense", "shape": [1], "weight": even(8)}],
            [{"type": b"input", "shape": [16]}, HIDDEN, {"type": b"dense", "shape": [1], "weight": even(8)[None]}],
        ),
        (
            [{"type": b"input", "shape": [1, 6, 6]}, {**CONVOLUTION, "weight": CONVOLUTION["weight"][..., None]}],
            [{"type": b"input", "shape": [1, 6, 6]}, CONVOLUTION],
        ),
    ],
    ids=["no input", "input without shape", "flatten first", "flat weights of one output", "an axis for time"],
)  # fmt: skip
def test_what_lava_loads_is_read(tmp_path: Path, bare: list[dict], whole: list[dict]) -> None:
    """`lava.lib.dl.netx` 0.6 loads all of these; it folds 1-D weights by the shape and drops a fifth axis of length 1."""
    found, expected = (
        netx.read(blocks(tmp_path / f"{i}.net", *layers), T=8, encoding="spikes")
        for i, layers in enumerate((bare, whole))
    )
    assert found.input.shape == expected.input.shape
    x = np.random.default_rng(0).integers(0, 2, (4, 8, *found.input.shape)).astype(np.float32)
    spikes = run(found, x).output
    np.testing.assert_array_equal(spikes, run(expected, x).output)
    assert 0 < spikes.mean() < 1
    assert netx.validate(netx.write(to_chain(found), tmp_path / "again.net")) == []


@pytest.mark.parametrize(
    ("layers", "finding"),
    [
        ([CONVOLUTION], "no input layer says the shape"),
        ([{**HIDDEN, "weight": even(15)}], r"the weight has shape \(15,\)"),
        (
            [{"type": b"input", "shape": [1, 6, 6]}, {**CONVOLUTION, "weight": even(3, 1, 3, 3, 2)}],
            r"shape \(3, 1, 3, 3, 2\)",
        ),
        ([{**HIDDEN, "shape": [0], "weight": even(8)}], r"the weight has shape \(8,\)"),
    ],
)
def test_what_lava_would_not_load_either(tmp_path: Path, layers: list[dict], finding: str) -> None:
    with pytest.raises(netx.NetxError, match=finding):
        netx.read(blocks(tmp_path / "n.net", *layers), T=4)


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({"_0_weight": np.array([[1.5]], np.float32)}, r"layer 0 \(input\): the weight holds fractions"),
        ({"_0_weight": np.ones((3, 1), np.float32)}, r"layer 0 \(input\): the weight of an input layer has shape"),
        ({"_0_bias": np.array([[40_000.0]], np.float32)}, "a bias of 40000"),
        ({"_1_delay": np.array([0.0, 2.5, 1.0], np.float32)}, r"layer 1 \(dense\): a delay that is no whole number"),
        ({"_1_type": b"average"}, r"layer 1 \(average\): Lava skips or refuses"),
        ({"_1_neuron": None}, r"layer 1 \(dense\): neuron missing"),
        ({"_2_neuron": None, "_2_bias": np.ones(2, np.float32)}, "a bias but no neurons"),
        ({"_2_neuron": {"type": "CUBA", "iDecay": 1024, "vDecay": 0, "vThMant": 2**18 - 1}}, r"it cannot fire .* and its current persists \(iDecay 1024"),
        ({"_0_shape": np.array([b"x"])}, r"f\.net: it cannot be understood \(.*\); write it again"),
    ],
)  # fmt: skip
def test_what_slayer_writes_and_lava_would_not_run_right(tmp_path: Path, changes: dict, finding: str) -> None:
    with pytest.raises(netx.NetxError, match=finding):
        netx.read(foreign(tmp_path / "f.net", **changes), T=4)
