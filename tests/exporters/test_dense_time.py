"""Delays and recurrence of dense layers: into a netx chain, into its file and back, and what netx cannot say."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from exporters import netx
from exporters.errors import DeployError
from exporters.graph import (
    IF,
    AvgPool2d,
    Conv2d,
    Delay,
    Flatten,
    Input,
    Linear,
    MaxPool2d,
    Node,
    Output,
    SpikingGraph,
)
from exporters.netx.dense import held
from exporters.passes.chain import chain_layers, member_spikes, to_chain
from hardware.emulator import Recorder, run
from tests.networks import random_dense_time, random_frames, random_recurrent

KINDS: Counter[str] = Counter()


def spikes(graph: SpikingGraph, frames: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    recorder = Recorder(graph)
    output = run(graph, frames, observe=recorder).output
    return recorder.spikes, output


@pytest.mark.parametrize("seed", range(24))
def test_the_chain_and_its_file_fire_as_the_network(tmp_path: Path, seed: int) -> None:
    graph = random_dense_time(seed)
    frames = random_frames(graph, 2, seed)
    expected, output = spikes(graph, frames)
    chained = to_chain(graph)
    again = netx.read(netx.write(chained, tmp_path / "n.net"))
    assert list(again.synapses) == list(chained.synapses) and list(again.neurons) == list(chained.neurons)
    for found in (chained, again):
        fired, same = spikes(found, frames)
        members = member_spikes(chained, fired)
        for name, values in expected.items():
            np.testing.assert_array_equal(members[name], values, name)
        np.testing.assert_array_equal(same.reshape(output.shape), output)
    for one, other in zip(chain_layers(chained), chain_layers(to_chain(again)), strict=True):
        np.testing.assert_array_equal(one.synapse.weight, other.synapse.weight)
        for what in ("delays", "recurrent", "lags"):
            a, b = (None if step.time is None else getattr(step.time, what) for step in (one, other))
            np.testing.assert_equal(a, b)
            KINDS[what] += a is not None
        KINDS["relays"] += one.name.endswith(".late")


def test_the_networks_have_what_they_are_drawn_for() -> None:
    if KINDS:  # the tests above ran in this process
        assert all(KINDS[what] >= 4 for what in ("delays", "recurrent", "lags", "relays")), KINDS


def test_loops_of_any_kind_become_a_chain_or_are_refused() -> None:
    chains = 0
    for seed in range(25):
        graph = random_recurrent(seed, integer=True, convolutional=False)
        try:
            chained = to_chain(graph)
        except DeployError as error:
            assert "go around several layers" in str(error)
            continue
        frames = random_frames(graph, 2, seed)
        expected, output = spikes(graph, frames)
        found, same = spikes(chained, frames)
        np.testing.assert_array_equal(same, output)
        for name, values in expected.items():
            np.testing.assert_array_equal(member_spikes(chained, found)[name], values)
        chains += 1
    assert chains >= 5


def dense(n: int, f: int, seed: int = 0) -> Linear:
    return Linear(np.random.default_rng(seed).integers(-9, 20, (n, f)).astype(np.int32))


def one(n: int) -> np.ndarray:
    return np.ones(n, int)


def graph_of(nodes: dict[str, Node], *edges: str) -> SpikingGraph:
    return SpikingGraph(nodes, tuple((a, b) for a, b in (edge.split(">") for edge in edges)), 4)


LOOP = {"in": Input((3,), "spikes"), "w": dense(4, 3), "n": IF(9), "back": Delay(one(4)), "u": dense(4, 4, 1)}
EDGES = ("in>w", "w>n", "n>back", "back>u", "u>n")
IMAGE = {"in": Input((2, 4, 4), "spikes"), "c": Conv2d(np.ones((2, 2, 1, 1), np.int32)), "n": IF(2)}
REFUSED: dict[str, tuple[dict[str, Node], tuple[str, ...], str]] = {
    "a recurrent convolution": (
        {**IMAGE, "back": Delay(np.ones((2, 4, 4), int)), "u": Conv2d(np.ones((2, 2, 1, 1), np.int32)), "out": Output()},
        ("in>c", "c>n", "n>back", "back>u", "u>n", "n>out"),
        "^[cu]: a recurrent layer is dense in netx, and this is a convolution",
    ),
    "a delayed convolution": (
        {**IMAGE, "d": Delay(np.ones((2, 4, 4), int)), "out": Output()},
        ("in>d", "d>c", "c>n", "n>out"),
        "^c: a layer with delays is dense in netx, and this is a convolution",
    ),
    "a delay before the read-out": (
        {"in": Input((3,), "spikes"), "w": dense(4, 3), "n": IF(9), "d": Delay(one(4)), "out": Output()},
        ("in>w", "w>n", "n>d", "d>out"),
        "^out: delayed spikes reach it without synapses",
    ),
    "a delayed average": (
        {**IMAGE, "p": AvgPool2d((2, 2), (2, 2), divisor=1), "d": Delay(np.ones((2, 2, 2), int)), "flat": Flatten(), "w": dense(3, 8), "m": IF(4), "out": Output()},
        ("in>c", "c>n", "n>p", "p>d", "d>flat", "flat>w", "w>m", "m>out"),
        "^d: an average pool feeds it; only synapse layers can absorb one",
    ),
    "a loop of two layers": (
        {"in": Input((3,), "spikes"), "w": dense(4, 3), "n": IF(9), "v": dense(5, 4), "m": IF(9), "back": Delay(one(5)), "u": dense(4, 5), "out": Output()},
        ("in>w", "w>n", "n>v", "v>m", "m>back", "back>u", "u>n", "m>out"),
        r"spikes go around several layers \(n, m\)",
    ),
    "pixels through several delays": (
        {"in": Input((3,), "direct", 255), "w": dense(4, 3), "d": Delay(one(3)), "v": dense(4, 3, 2), "n": IF(9), "out": Output()},
        ("in>w", "w>n", "in>d", "d>v", "v>n", "n>out"),
        "neuron 0 of n reads input 0 of in through several delays; a netx synapse has one",
    ),
    "two layers read": (
        {**LOOP, "v": dense(4, 3, 2), "x": dense(3, 3), "k": IF(9), "out": Output()},
        (*EDGES, "in>x", "x>k", "k>v", "v>n", "n>out"),
        "n: it reads in and k; a netx layer with delays or recurrence reads one layer",
    ),
    "a skip past a recurrent layer": (
        {**LOOP, "v": dense(5, 4), "s": dense(5, 3), "m": IF(9), "out": Output()},
        (*EDGES, "n>v", "v>m", "in>s", "s>m", "m>out"),
        "^n: it is recurrent, or its synapses are delayed, and a skip connection runs past it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_netx_cannot_say_is_refused_by_name(what: str) -> None:
    nodes, edges, message = REFUSED[what]
    with pytest.raises(DeployError, match=message):
        to_chain(graph_of(nodes, *edges))


def test_the_writer_refuses_what_a_chain_can_and_netx_cannot(tmp_path: Path) -> None:
    far = {"in": Input((3,), "spikes"), "d": Delay(np.array([63, 0, 1])), "w": dense(4, 3), "n": IF(9), "out": Output()}
    late = {**LOOP, "back": Delay(one(4) * 2), "out": Output()}
    pixels = {**LOOP, "in": Input((3,), "direct", 255), "d": Delay(one(3)), "out": Output()}
    refused = (
        (graph_of(far, "in>d", "d>w", "w>n", "n>out"), "^w: spikes come 63 steps late; netx and Lava hold delays of 62"),
        (graph_of(late, *EDGES, "n>out"), "^w: it is recurrent and has delays, which netx cannot say"),
        (graph_of(pixels, "in>d", "d>w", *EDGES[1:], "n>out"), "^w: it is recurrent and has delays, which netx cannot say"),
    )
    for graph, message in refused:
        with pytest.raises(netx.NetxError, match=message):
            netx.write(to_chain(graph), tmp_path / "x.net")
        assert not list(tmp_path.iterdir())


def test_delays_behind_pools_and_delays_of_no_steps() -> None:
    """A max-pool may follow a delay's neurons, an average pool the delay itself; a delay of 0 steps is none."""
    for pool in (MaxPool2d((2, 2), (2, 2)), AvgPool2d((2, 2), (2, 2), divisor=1)):
        late = isinstance(pool, AvgPool2d)
        shape = (2, 4, 4) if late else (2, 2, 2)
        nodes = {**IMAGE, "d": Delay(np.random.default_rng(0).integers(0, 3, shape)), "p": pool}
        nodes |= {"z": Delay(np.zeros(8, int)), "flat": Flatten(), "w": dense(3, 8), "m": IF(14), "out": Output()}
        middle = ("n>d", "d>p", "p>flat") if late else ("n>p", "p>d", "d>flat")
        behind = ("flat>w",) if late else ("flat>z", "z>w")
        if late:
            del nodes["z"]
        graph = graph_of(nodes, "in>c", "c>n", *middle, *behind, "w>m", "m>out")
        frames = random_frames(graph, 3, 0)
        chained = to_chain(graph)
        np.testing.assert_array_equal(run(chained, frames).output, run(graph, frames).output)
        assert chain_layers(chained)[-1].time is not None


def test_the_file_says_what_netx_reads(tmp_path: Path) -> None:
    """A layer with delays and a recurrent one: the datasets, and the timing beside them."""
    nodes: dict[str, Node] = {"in": Input((3,), "spikes"), "d": Delay(np.array([0, 2, 5])), "w": dense(4, 3), "n": IF(9)}
    nodes |= {"v": dense(5, 4), "back": Delay(one(5)), "u": dense(5, 5, 1), "m": IF(9), "out": Output()}
    graph = graph_of(nodes, "in>d", "d>w", "w>n", "n>v", "v>m", "m>back", "back>u", "u>m", "m>out")
    path = netx.write(to_chain(graph), tmp_path / "n.net")
    with h5py.File(path) as file:
        assert [file[f"layer/{i}/type"][0] for i in range(3)] == [b"input", b"dense", b"dense_rec"]
        used = nodes["w"].weight != 0  # type: ignore[union-attr]
        np.testing.assert_array_equal(file["layer/1/delay"][()], np.array([0, 2, 5]) * used)
        np.testing.assert_array_equal(file["layer/2/weight_rec"][()], nodes["u"].weight)  # type: ignore[union-attr]
        assert "delay" not in file["layer/2"]
    beside = json.loads(netx.sidecar_path(path).read_text())
    assert (beside["T"], beside["reset_interval"], beside["reset_offset"]) == (4, 5, 1)
    assert beside["clears"] == [
        {"layer": 0, "synapse": "synapse", "interval": 5, "offset": 4},
        {"layer": 1, "synapse": "synapse_rec", "interval": 5, "offset": 1},
    ]


def file_of(path: Path, **datasets: Any) -> Path:
    """One dense layer, as others write it."""
    weight = np.asarray(datasets.pop("weight"))
    with h5py.File(path, "w") as file:
        layer = file.create_group("layer/0")
        layer["type"] = np.array([b"dense_rec" if "weight_rec" in datasets else b"dense"], "S10")
        layer["shape"] = np.array([datasets.pop("neurons", len(weight))])
        layer["weight"] = weight
        for name, value in datasets.items():
            layer[name] = value
        for name, value in {"type": b"CUBA", "iDecay": 4096, "vDecay": 0, "vThMant": 3}.items():
            layer[f"neuron/{name}"] = value
    return path


PULSE = np.zeros((1, 8, 2), np.float32)
PULSE[0, 0] = 1
WEIGHT = np.array([[4, 0], [0, 4], [4, 4]])


@pytest.mark.parametrize(
    ("datasets", "expected"),
    [
        ({"weight": WEIGHT, "delay": np.int64(2)}, [[2], [2], [2]]),
        ({"weight": WEIGHT, "delay": np.array([1.0, 0, 3], np.float32)}, [[1], [0], [3]]),
        ({"weight": WEIGHT, "delay": np.array([1, 4])}, [[1], [4], [1, 4]]),
        ({"weight": WEIGHT, "delay": np.array([[0, 7], [7, 5], [2, 3]])}, [[0], [5], [2, 3]]),
        ({"weight": WEIGHT.ravel(), "neurons": 3, "delay": np.array([1, 4])}, [[1], [4], [1, 4]]),
        ({"weight": WEIGHT[1:], "delay": np.array([0, 3])}, [[0], [3]]),  # as many inputs: they are of the neurons
        ({"weight": WEIGHT, "delay": np.zeros(2)}, [[0], [0], [0]]),
        ({"weight": WEIGHT * [1, 0], "weight_rec": 4 * np.eye(3, k=-1)}, [[0], [1], [0, 2]]),
        ({"weight": (WEIGHT * [1, 0]).ravel(), "neurons": 3, "weight_rec": 4 * np.eye(3, k=-1).ravel()}, [[0], [1], [0, 2]]),
        ({"weight": WEIGHT, "weight_rec": np.zeros((3, 3))}, [[0], [0], [0]]),
    ],
)  # fmt: skip
def test_files_of_others_mean_what_lava_computes(tmp_path: Path, datasets: dict[str, Any], expected: list) -> None:
    path = file_of(tmp_path / "n.net", **datasets)
    assert netx.validate(path) == []
    output = run(netx.read(path, T=8, encoding="spikes"), PULSE).output[0]
    assert [np.flatnonzero(neuron).tolist() for neuron in output.T] == expected


@pytest.mark.parametrize(
    ("datasets", "finding"),
    [
        ({"delay": np.array([1, 2, 3, 4])}, r"delays of shape \(4,\); Lava takes one number, \(3,\), \(2,\) or \(3, 2\)"),
        ({"delay": np.array([0, 63])}, "a delay of 63 steps; Lava cuts it to 62"),
        ({"delay": np.array([0, -1])}, "a delay of -1 steps; nothing arrives before it is sent"),
        ({"delay": np.array([0, 1.5])}, "a delay that is no whole number; Lava cuts off fractions"),
        ({"delay": np.array([0, np.nan])}, "a delay that is no whole number"),
        ({"weight_rec": np.ones((3, 2))}, r"weight_rec has shape \(3, 2\), expected \(3, 3\)"),
        ({"weight_rec": np.ones(9)}, r"weight_rec has shape \(9,\)"),
        ({"weight_rec": np.full((3, 3), 0.5)}, "weight_rec holds fractions"),
        ({"weight_rec": np.full((3, 3), np.inf)}, "weight_rec holds NaN, infinite"),
        ({"weight_rec": np.full((3, 3), 255)}, "weight_rec reaches from 255 to 255; Lava clips dense weights to −256…254"),
        ({"weight_rec": -np.eye(3), "weight": WEIGHT * 0}, "no weight is positive"),
        ({"weight_rec": np.zeros((3, 3)), "weight": WEIGHT * 0}, "all weights are zero"),
        ({"weight_rec": np.array([[-129, 0, 0], [0, 5, 0], [0, 0, 0]])}, "Lava makes 0 of 4 in weight"),
        ({"weight_rec": -8 * np.eye(3)}, "Lava makes -6 of -8 in weight_rec"),
        ({"weight_rec": np.eye(3), "delay": np.zeros((3, 2))}, "delays in a recurrent layer, where netx loses the exponent"),
    ],
)  # fmt: skip
def test_validator_finds_what_lava_would_get_wrong(tmp_path: Path, datasets: dict[str, Any], finding: str) -> None:
    path = file_of(tmp_path / "n.net", **{"weight": WEIGHT, **datasets})
    found = netx.validate(path)
    assert any(re.search(finding, problem) for problem in found), found
    with pytest.raises(netx.NetxError):
        netx.read(path, T=4, encoding="spikes")


def test_weights_of_eight_bits_are_held() -> None:
    """What `quantize` makes by default, of whichever signs, but for the one case that the validator names."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        weight, back = (rng.integers(-127, 128, (3, n)) * rng.choice([-1, 0, 1]) for n in (4, 3))
        weight[0, 0], back[0, 0] = 127, -1
        for given, found in zip((weight, back), held(weight, back), strict=True):
            np.testing.assert_array_equal(found, given)
