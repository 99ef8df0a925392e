"""Real Lava and the emulator agree on every spike of every layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import layer, neuron
from torch import nn

from exporters import netx
from exporters.from_torch import from_torch
from exporters.graph import IF, LIF, Conv2d, Flatten, Input, Linear, MaxPool2d, Output, SpikingGraph, chain
from exporters.quantize import quantize
from exporters.to_chain import layers, to_chain
from hardware.emulator import Recorder, run
from hardware.lava import client
from tests.networks import Residual, random_integer_chain, randomize

pytestmark = pytest.mark.usefixtures("lava_environment")


def assert_lava_agrees(graph: SpikingGraph, path: Path, samples: int = 3, seed: int = 0) -> None:
    chained = to_chain(graph)
    rng = np.random.default_rng(seed)
    if chained.input.encoding == "direct":
        frames = rng.integers(0, 256, (samples, *chained.input.shape)).astype(np.int32)
        repeated = np.repeat(frames[:, None], chained.T, axis=1)
    else:
        frames = repeated = rng.integers(0, 2, (samples, chained.T, *chained.input.shape)).astype(np.int32)
    recorder = Recorder(chained)
    expected = run(chained, frames.astype(np.float32), observe=recorder)
    netx.write(chained, path)
    found = client.run(path, repeated, T=chained.T, message_bits=netx.message_bits(chained), probes=True)
    for k, step in enumerate(layers(chained)):
        np.testing.assert_array_equal(found.layers[k], recorder.spikes[step.neuron_name], err_msg=step.neuron_name)
    np.testing.assert_array_equal(found.spikes, expected.output)
    rate = np.mean([s.mean() for s in recorder.spikes.values()])
    assert 0.005 < rate < 0.995, f"a degenerate network proves nothing (rate {rate})"


@pytest.mark.parametrize("seed", range(12))
def test_random_networks(tmp_path: Path, seed: int) -> None:
    """Dense and convolutional layers with stride, padding, dilation, groups, max-pools, biases, 8-bit pixels."""
    assert_lava_agrees(random_integer_chain(1000 + seed), tmp_path / "net.net", seed=seed)


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


@pytest.mark.parametrize("seed", range(6))
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


@pytest.mark.parametrize("seed", range(8))
def test_residual_networks_with_average_pools(tmp_path: Path, seed: int) -> None:
    """Membrane adds and SEW adds, strided downsampling, pools: straightened into chains, against real Lava."""
    torch.manual_seed(seed)
    sew, stride = seed % 2 == 0, 1 + seed // 2 % 2
    neurons = neuron.IFNode if seed < 4 else lambda: neuron.LIFNode(tau=2.0, decay_input=False, v_reset=0.0)
    out = 3 * stride
    pool = layer.AvgPool2d(2) if seed % 3 else layer.MaxPool2d(2)
    net = nn.Sequential(
        layer.Conv2d(1, 3, 3, 1, 1), layer.BatchNorm2d(3), neurons(), pool, Residual(3, out, stride, sew, neurons),
        Residual(out, out, 1, not sew, neurons), layer.Flatten(), layer.Linear(out * (4 // stride) ** 2, 5), neurons(),
    )  # fmt: skip
    randomize(net, seed)
    graph, _ = quantize(from_torch(net, (1, 8, 8), 4))
    assert_lava_agrees(graph, tmp_path / "residual.net", seed=seed)
