"""Real Lava and the emulator agree on every spike of networks whose biases have a value at every position."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from exporters.graph import IF, LIF, Conv2d, Flatten, Input, Linear, Output, chain
from tests.exporters.test_whole_map_biases import with_maps
from tests.integration.test_lava_equals_emulator import assert_lava_agrees
from tests.networks import random_integer_network

pytestmark = pytest.mark.usefixtures("lava_environment")

RANDOM_NETWORKS = (104, 115, 116, 122, 127, 130, 144)


@pytest.mark.parametrize("seed", RANDOM_NETWORKS)
def test_random_networks(tmp_path: Path, seed: int) -> None:
    """Strides, groups, pools, residual sums through relays, pixels and spikes, IF and leaky neurons."""
    assert_lava_agrees(with_maps(random_integer_network(seed), seed), tmp_path / "maps.net", seed=seed)


def test_random_networks_cover_what_they_should() -> None:
    graphs = [with_maps(random_integer_network(seed), seed) for seed in RANDOM_NETWORKS]
    maps = [s.bias for g in graphs for s in g.synapses.values() if s.bias is not None and s.bias.ndim == 3]
    assert len(maps) >= 20 and sum(m.shape[1] != m.shape[2] for m in maps) >= 10
    assert any(len(g.sources(n)) > 1 for g in graphs for n in g.nodes), "a residual sum"
    assert any(n.current_leak > 0 for g in graphs for n in g.neurons.values()), "a current that persists"
    assert {g.input.encoding for g in graphs} == {"direct", "spikes"}


@pytest.mark.parametrize("current_leak", [0.0, 0.5])
def test_oblong_maps_beside_currents_that_wrap(tmp_path: Path, current_leak: float) -> None:
    """Lava adds a bias behind the registers that wrap and decay: the map must not wrap with them, nor persist."""
    rng = np.random.default_rng(2)
    weight = rng.integers(-255, 256, (4, 2, 3, 3)).astype(np.int32) * (9 if current_leak == 0 else 1)
    first = Conv2d(weight, rng.integers(-9000, 9000, (4, 3, 5)).astype(np.int32))
    neurons = IF(60_000) if current_leak == 0 else LIF(60_000, 0.75, current_leak=current_leak)
    graph = chain(
        [("in", Input((2, 5, 7), scale=255)), ("c", first), ("s", neurons), ("flat", Flatten()),
         ("fc", Linear(rng.integers(-60, 61, (5, 60)).astype(np.int32))), ("o", IF(50)), ("out", Output())],
        6,
    )  # fmt: skip
    assert_lava_agrees(graph, tmp_path / "wrap.net", samples=4)
