"""Real Lava and the emulator agree on every spike of every layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import layer, neuron
from torch import nn

from benchmarks.lava_parity import Lava
from exporters import netx
from exporters.from_torch import from_torch
from exporters.graph import (
    IF,
    LIF,
    AvgPool2d,
    Conv2d,
    Flatten,
    Input,
    Linear,
    MaxPool2d,
    Output,
    SpikingGraph,
    chain,
)
from exporters.passes.chain import chain_layers, member_spikes, to_chain
from exporters.passes.quantize import quantize
from hardware.emulator import Recorder, run
from hardware.lava import client
from tests.networks import Residual, random_integer_network, randomize

pytestmark = pytest.mark.usefixtures("lava_environment")


def random_frames(graph: SpikingGraph, samples: int, seed: int) -> np.ndarray:
    """What a graph consumes: (N, *shape) pixels, or (N, T, *shape) spikes."""
    rng = np.random.default_rng(seed)
    if graph.input.encoding == "direct":
        return rng.integers(0, (graph.input.scale or 0) + 1, (samples, *graph.input.shape)).astype(np.int32)
    return rng.integers(0, 2, (samples, graph.T, *graph.input.shape)).astype(np.int32)


def on_lava(
    chained: SpikingGraph, frames: np.ndarray, path: Path, run: Callable[..., client.LavaRun] = client.run
) -> client.LavaRun:
    """A chain written to a file and run by Lava, every layer probed."""
    repeated = np.repeat(frames[:, None], chained.T, axis=1) if chained.input.encoding == "direct" else frames
    membrane = chained.output.readout == "membrane"
    bits = netx.message_bits(chained)
    return run(netx.write(chained, path), repeated, T=chained.T, message_bits=bits, probes=True, membrane=membrane)


def assert_lava_agrees(
    graph: SpikingGraph, path: Path, samples: int = 3, seed: int = 0, found: client.LavaRun | None = None
) -> None:
    """Lava, the emulator on the chain and the emulator on the graph: every spike of every layer, and the read-out."""
    chained = to_chain(graph)
    frames = random_frames(graph, samples, seed)
    on_chain, on_graph = Recorder(chained), Recorder(graph)
    expected = run(chained, frames.astype(np.float32), observe=on_chain)
    same = run(graph, frames.astype(np.float32), observe=on_graph)
    if found is None:
        found = on_lava(chained, frames, path)
    lava = {step.neuron_name: found.layers[k] for k, step in enumerate(chain_layers(chained))}
    for name, spikes in on_chain.spikes.items():
        np.testing.assert_array_equal(lava[name], spikes, err_msg=name)
    members = member_spikes(chained, lava)
    for name, spikes in on_graph.spikes.items():
        np.testing.assert_array_equal(members[name], spikes, err_msg=name)
    np.testing.assert_array_equal(same.output, expected.output.reshape(same.output.shape))
    if graph.output.readout == "membrane":
        assert found.membrane is not None  # the register has 6 fractional bits
        np.testing.assert_array_equal(found.membrane / 64, expected.output[:, -1])
    else:
        np.testing.assert_array_equal(found.spikes, expected.output.reshape(found.spikes.shape))
    rate = np.mean([s.mean() for s in on_chain.spikes.values()] or [0.5])
    assert 0.005 < rate < 0.995, f"a degenerate network proves nothing (rate {rate})"


RANDOM_NETWORKS = (*range(100, 130), 135, 143)
"""Seeds of networks that have all kinds of layers among them."""


@pytest.fixture(scope="module")
def random_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Future[client.LavaRun]]]:
    """Lava's runs of the random networks, one after another on one Lava."""
    folder = tmp_path_factory.mktemp("random")

    def one(seed: int) -> client.LavaRun:
        graph = random_integer_network(seed)
        return on_lava(to_chain(graph), random_frames(graph, 3, seed), folder / f"{seed}.net", lava.run)

    with Lava() as lava, ThreadPoolExecutor(1) as pool:
        yield {seed: pool.submit(one, seed) for seed in RANDOM_NETWORKS}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("seed", RANDOM_NETWORKS)
def test_random_networks(tmp_path: Path, random_runs: dict[int, Future[client.LavaRun]], seed: int) -> None:
    """Everything that `to_chain` lowers (see `random_integer_network`), 44 networks, three samples each."""
    assert_lava_agrees(random_integer_network(seed), tmp_path / "net.net", seed=seed, found=random_runs[seed].result())


def test_random_networks_cover_what_they_should() -> None:
    """The batch is no proof if the generator stopped drawing what it is there for."""
    graphs = [random_integer_network(seed) for seed in RANDOM_NETWORKS]
    nodes = [node for graph in graphs for node in graph.nodes.values()]
    convolutions = [n for n in nodes if isinstance(n, Conv2d)]
    counts = {
        "max-pools": sum(isinstance(n, MaxPool2d) for n in nodes),
        "average pools": sum(isinstance(n, AvgPool2d) for n in nodes),
        "groups": sum(n.groups > 1 for n in convolutions),
        "dilation": sum(n.dilation != (1, 1) for n in convolutions),
        "biases": sum(n.bias is not None for n in convolutions),
        "LIF": sum(isinstance(n, LIF) and n.current_leak == 0 for n in nodes),
        "CUBA": sum(isinstance(n, LIF) and n.current_leak > 0 for n in nodes),
        "membrane adds": sum(g.in_signal(n) == "current" and len(g.sources(n)) > 1 for g in graphs for n in g.neurons),
        "SEW adds": sum(g.in_signal(n) == "spikes" and len(g.sources(n)) > 1 for g in graphs for n in g.nodes),
        "spike input": sum(g.input.encoding == "spikes" for g in graphs),
        "few-bit pixels": sum(g.input.scale in (1, 7, 63) for g in graphs),
        "membrane read-outs": sum(g.output.readout == "membrane" for g in graphs),
    }
    assert all(count >= 3 for count in counts.values()), counts


def test_wide_max_pool_and_spike_input(tmp_path: Path) -> None:
    """128 channels: more groups than Lava can count, so the pool is block-diagonal."""
    rng = np.random.default_rng(0)
    graph = chain(
        [("in", Input((2, 4, 4), "spikes")), ("c", Conv2d(rng.integers(-30, 60, (128, 2, 1, 1)).astype(np.int32))), ("s", IF(40)),
         ("pool", MaxPool2d((2, 2), (2, 2))), ("flat", Flatten()), ("fc", Linear(rng.integers(-60, 61, (5, 512)).astype(np.int32))), ("o", IF(100)), ("out", Output())],
        3,
    )  # fmt: skip
    assert_lava_agrees(graph, tmp_path / "wide.net")


def test_membrane_readout(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    graph = chain(
        [("in", Input((6,), scale=255)), ("fc1", Linear(rng.integers(-50, 60, (8, 6)).astype(np.int32))), ("s", IF(3000)),
         ("fc2", Linear(rng.integers(-50, 60, (4, 8)).astype(np.int32), np.array([5, -7, 0, 90], np.int32))), ("out", Output("membrane"))],
        4,
    )  # fmt: skip
    frames = rng.integers(0, 256, (5, 6)).astype(np.int32)
    expected = run(graph, frames.astype(np.float32)).output[:, -1]
    path = netx.write(to_chain(graph), tmp_path / "m.net")
    found = client.run(path, np.repeat(frames[:, None], 4, axis=1), T=4, message_bits=8, membrane=True)
    np.testing.assert_array_equal(found.membrane / 64, expected)  # the register has 6 fractional bits


def test_currents_that_wrap_do_so_alike(tmp_path: Path) -> None:
    """`quantize` never makes such a network, but a foreign file may: pixels × weights beyond the current register."""
    rng = np.random.default_rng(2)
    graph = chain(
        [("in", Input((2, 5, 5), scale=255)), ("c", Conv2d(rng.integers(-255, 256, (4, 2, 3, 3)).astype(np.int32) * 9, np.array([900, -900, 0, 7], np.int32))), ("s", IF(60_000)),
         ("flat", Flatten()), ("fc", Linear(rng.integers(-60, 61, (5, 36)).astype(np.int32))), ("o", IF(50)), ("out", Output())],
        4,
    )  # fmt: skip
    assert_lava_agrees(graph, tmp_path / "wrap.net", samples=6)


@pytest.mark.parametrize("seed", range(3))
def test_leaky_neurons(tmp_path: Path, seed: int) -> None:
    """12-bit decays and their truncation, over enough steps for fractions to matter."""
    rng = np.random.default_rng(seed)
    decay = int(rng.integers(1, 4096))
    graph = chain(
        [("in", Input((4,), scale=255)), ("fc", Linear(rng.integers(-90, 120, (20, 4)).astype(np.int32), rng.integers(-300, 900, 20).astype(np.int32))),
         ("s", LIF(int(rng.integers(5_000, 40_000)), (4096 - decay) / 4096)),
         ("fc2", Linear(rng.integers(-60, 81, (6, 20)).astype(np.int32))), ("o", LIF(70, 3000 / 4096)), ("out", Output())],
        12,
    )  # fmt: skip
    assert_lava_agrees(graph, tmp_path / "lif.net", samples=4, seed=seed)


@pytest.mark.parametrize(
    "decays", [(4096, 1), (4095, 4095), (1, 1), (0, 4096), (0, 0), (2048, 0), (3000, 700), (17, 2900)]
)
def test_currents_that_persist(tmp_path: Path, decays: tuple[int, int]) -> None:
    """slayer's CUBA neurons with pairs of (iDecay, vDecay), dense and convolutional, over enough steps for u to wrap."""
    rng = np.random.default_rng(sum(decays))
    cuba = {"leak": (4096 - decays[1]) / 4096, "current_leak": (4096 - decays[0]) / 4096}
    high = 1 + 20 * (decays[0] < 1000)
    graph = chain(
        [("in", Input((2, 4, 4), scale=255)),
         ("c", Conv2d(rng.integers(-60, 80, (6, 2, 3, 3)).astype(np.int32) * high, rng.integers(-900, 900, 6).astype(np.int32))),
         ("s", LIF(90_000 if decays[1] < 4000 else 15_000, **cuba)), ("flat", Flatten()),
         ("fc", Linear(rng.integers(-90, 111, (7, 24)).astype(np.int32), rng.integers(-99, 99, 7).astype(np.int32))),
         ("o", LIF(600 if decays[1] < 4000 else 60, **cuba)), ("out", Output())],
        12,
    )  # fmt: skip
    assert_lava_agrees(graph, tmp_path / "cuba.net", samples=4, seed=sum(decays))


def test_a_file_that_slayer_wrote() -> None:
    """As it is, no sidecar, no rewriting: lava-dl's own file on Lava gives what slayer's forward gave."""
    data = Path(__file__).parents[1] / "exporters" / "data"
    with np.load(data / "slayer_cuba.npz") as expected:
        found = client.run(data / "slayer_cuba.net", expected["x"].astype(np.int32), T=12, message_bits=0)
        np.testing.assert_array_equal(found.spikes, expected["y"])


def test_dense_currents_beyond_24_bits(tmp_path: Path) -> None:
    """A dense layer's sum has 32 bits where a convolution's has 24; 200 bright pixels exceed both registers of the current."""
    rng = np.random.default_rng(4)
    weight = np.clip(rng.integers(-70, 70, (12, 200)) + np.linspace(-250, 250, 12)[:, None], -256, 254).astype(np.int32)
    graph = chain([("in", Input((200,), scale=255)), ("fc", Linear(weight)), ("s", IF(131_072)), ("out", Output())], 3)
    assert_lava_agrees(graph, tmp_path / "dense.net")
    assert np.abs(weight.sum(axis=1)).max() * 127 > 2**22  # so that some do


@pytest.mark.parametrize("seed", range(4))
def test_residual_networks_with_average_pools(tmp_path: Path, seed: int) -> None:
    """Membrane adds and SEW adds, strided downsampling, pools: straightened into chains, against real Lava."""
    torch.manual_seed(seed)
    sew, stride = seed % 2 == 0, 1 + seed // 2 % 2
    neurons = neuron.IFNode if seed < 2 else lambda: neuron.LIFNode(tau=2.0, decay_input=False, v_reset=0.0)
    out = 3 * stride
    pool = layer.AvgPool2d(2) if seed % 3 else layer.MaxPool2d(2)
    net = nn.Sequential(
        layer.Conv2d(1, 3, 3, 1, 1), layer.BatchNorm2d(3), neurons(), pool, Residual(3, out, stride, sew, neurons),
        Residual(out, out, 1, not sew, neurons), layer.Flatten(), layer.Linear(out * (4 // stride) ** 2, 5), neurons(),
    )  # fmt: skip
    randomize(net, seed)
    graph, _ = quantize(from_torch(net, (1, 8, 8), 4))
    assert_lava_agrees(graph, tmp_path / "residual.net", seed=seed)
