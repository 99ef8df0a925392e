"""Real Lava with delays and recurrence: its own rules, as docs/netx.md states them, and the emulator beside it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

import kdsnn
from benchmarks.lava_parity import Lava, compared
from exporters import netx
from exporters.graph import IF, Delay, Input, Linear, Output, SpikingGraph
from exporters.netx.dense import held
from exporters.passes.chain import chain_layers, to_chain
from hardware import lava
from hardware.emulator import run
from hardware.lava import client
from tests.networks import random_dense_time, random_frames

pytestmark = pytest.mark.usefixtures("lava_environment")

NETWORKS = (0, 8, 13, 31, 39)
"""Of those that `python -m benchmarks lava_parity --kind time` compares."""

DESCRIBED = 29
"""With delays and recurrence, read from its spikes."""


@pytest.fixture(scope="module")
def rules(lava_python: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What Lava does by itself; see lava_rules.py."""
    found = tmp_path_factory.mktemp("rules") / "rules.json"
    graph = to_chain(random_dense_time(DESCRIBED))
    net, frames = netx.write(graph, found.with_name("n.net")), found.with_name("frames.npy")
    np.save(frames, random_frames(graph, 3, DESCRIBED).astype(int))
    script, worker = Path(__file__).with_name("lava_rules.py"), Path(lava.__file__).with_name("worker")
    done = subprocess.run(
        [lava_python, "-I", script, worker, found, net, frames], env={**os.environ, "TMPDIR": str(found.parent)}, check=False,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(found.read_text()))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        # a neuron's spike reaches its own layer one step after it was fired
        ("recurrent", [[4], [5], [6]]),
        # 0 is as without delays, and N numbers are for the neurons, also where there are as many inputs
        ("delays of neurons", [[4], [5], [6], [7]]),
        ("one delay", [[3], [3]]),
        ("as many delays as inputs", [[1], [4], [1, 4]]),
        ("as many neurons as inputs", [[1], [4]]),
        ("a delay for each synapse", [[1], [2, 4]]),
        # the reset of a sample leaves what is on its way; the next sample would begin at step 5
        ("recurrent, a sample of 4", [[4], [5], [6]]),
        ("recurrent, a sample of 4, cleared", [[4], [], []]),
        ("delays, a sample of 4", [[4], [5], [6], [7]]),
        ("delays, a sample of 4 and a step, cleared", [[4], [], [], []]),
        # a weight of 4 below a threshold of 5 fires: netx has lost the exponent
        ("a delay beside recurrence", [[1, 2, 3, 4, 5, 6, 7, 8, 9]]),
    ],
)
def test_the_rules_of_lava(rules: dict[str, Any], rule: str, expected: list[list[int]]) -> None:
    assert rules[rule] == expected


def test_the_json_file_says_how_samples_follow_one_another(rules: dict[str, Any]) -> None:
    graph = to_chain(random_dense_time(DESCRIBED))
    assert graph.input.over_time and {clear.synapse for clear in netx.timing(graph).clears} == {
        "synapse",
        "synapse_rec",
    }
    expected = run(graph, random_frames(graph, 3, DESCRIBED)).output
    assert expected.any() and not expected.all()
    assert rules["by its description"] == expected.tolist()


def test_weights_of_recurrent_layers_are_held_as_lava_holds_them(rules: dict[str, Any]) -> None:
    wrong = 0
    for weight, back, *expected in rules["held"]:
        found = held(np.array(weight), np.array(back))
        assert [part.tolist() for part in found] == expected, (weight, back)
        wrong += [weight, back] != expected
    assert 5 < wrong < len(rules["held"]) - 5


@pytest.fixture(scope="module")
def random_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Future[dict[str, int]]]]:
    """Lava's runs of random networks, one after another on one Lava."""
    folder = tmp_path_factory.mktemp("random")
    with Lava() as lava, ThreadPoolExecutor(1) as pool:
        paths = {seed: netx.write(to_chain(random_dense_time(seed)), folder / f"{seed}.net") for seed in NETWORKS}
        yield {seed: pool.submit(compared, "time", seed, path, lava) for seed, path in paths.items()}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("seed", NETWORKS)
def test_random_networks(random_runs: dict[int, Future[dict[str, int]]], seed: int) -> None:
    """Every layer of three samples, one behind the other; neurons with biases go on firing between them."""
    found = random_runs[seed].result()
    assert found["values that differ"] == 0
    assert found["layers with delays"] + found["recurrent layers"] > 0
    assert 0.01 * found["values compared"] < found["spikes"] < 0.99 * found["values compared"]


def test_the_random_networks_have_what_they_are_drawn_for() -> None:
    steps = [
        step for seed in NETWORKS for step in chain_layers(to_chain(random_dense_time(seed))) if step.time is not None
    ]
    assert sum(step.time is not None and step.time.delays is not None for step in steps) >= 4
    assert sum(step.time is not None and step.time.recurrent is not None for step in steps) >= 3
    graphs = [random_dense_time(seed) for seed in NETWORKS]
    assert {graph.input.is_graded for graph in graphs} == {True, False}
    assert any(graph.output.readout == "membrane" for graph in graphs)


def test_parts_of_a_session_know_nothing_of_one_another(tmp_path: Path) -> None:
    """A loop that goes on for ever once it has begun, by itself, and delays that reach beyond the sample."""
    nodes = {
        "in": Input((2,), "spikes"),
        "d": Delay(np.array([0, 3])),
        "w": Linear(np.array([[4, 3], [3, 4]], np.int32)),
        "n": IF(4),
    }
    nodes |= {
        "v": Linear(np.array([[4, 0], [0, 4]], np.int32), np.array([0, 2], np.int32)),
        "back": Delay(np.ones(2, int)),
    }
    nodes |= {"u": Linear(np.array([[4, -1], [0, 4]], np.int32)), "m": IF(4), "out": Output()}
    edges = ("in d", "d w", "w n", "n v", "v m", "m back", "back u", "u m", "m out")
    graph = SpikingGraph(nodes, tuple((a, b) for a, b in map(str.split, edges)), 5)
    chained = to_chain(graph)
    path = netx.write(chained, tmp_path / "n.net")
    frames = np.zeros((6, 5, 2), np.float32)
    frames[0, 4], frames[1, 1, 0], frames[3, 2:] = 1, 1, 1  # samples 2, 4 and 5 are silent
    expected = run(graph, frames).output
    assert expected[[0, 1, 3]].any() and expected.any(axis=1).sum() < expected.shape[0] * 2
    with client.LavaSession(path, T=5, message_bits=0) as session:
        for part in (slice(0, 1), slice(1, 4), slice(4, 6)):
            np.testing.assert_array_equal(session.run(frames[part].astype(np.int32)).spikes, expected[part])


def test_a_recurrent_module_of_spikingjelly_goes_to_lava(tmp_path: Path) -> None:
    """From the module over its quantized graph and its file to the spikes of every layer, by the verbs."""
    torch.manual_seed(0)
    net = nn.Sequential(
        layer.Linear(30, 12), layer.LinearRecurrentContainer(neuron.LIFNode(v_threshold=0.2), 12, 12), layer.Delay(2),
        layer.Linear(12, 4), neuron.IFNode(v_threshold=0.3),
    )  # fmt: skip
    functional.set_step_mode(net, "m")
    network = kdsnn.lower(net.eval(), input_shape=(30,), T=7, input_coding="spikes")
    x = (np.random.default_rng(0).random((4, 7, 30)) < 0.2).astype(np.uint8)
    (written,) = kdsnn.export(network, tmp_path, to=["netx"]).files
    assert written.mismatches == 0
    found = kdsnn.run(network, (x, np.arange(4)), on=["emulator", "lava"], samples=4)
    (compared_with,) = found.comparisons
    assert compared_with.mismatches == compared_with.hidden == 0 and compared_with.hidden_compared
