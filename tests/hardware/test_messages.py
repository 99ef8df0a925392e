"""Messages between cores, against every synapse that a network has."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from exporters.graph import IF, Conv2d, Flatten, Input, Linear, Output, chain
from hardware.chips import limits
from hardware.chips.axons import FanOut, alike
from hardware.chips.blocks import Block
from hardware.chips.placement import PlacedLayer, messages, place

rng = np.random.default_rng(4)
CONV = rng.integers(-1, 2, (6, 2, 3, 3)).astype(np.int32)
STRIDED = rng.integers(-1, 2, (4, 6, 2, 2)).astype(np.int32)
DENSE = rng.integers(-1, 2, (9, 36)).astype(np.int32)


def small_chip(folder: Path, name: str) -> limits.Target:
    data = json.loads((Path(limits.__file__).parent / "data" / f"{name}.json").read_text(encoding="utf-8"))
    data["limits"]["compartments"]["value"] = 5
    (folder / "chip.json").write_text(json.dumps(data), encoding="utf-8")
    return limits.load(folder / "chip.json")


def cores_of(layer: PlacedLayer) -> np.ndarray:
    """The core of every neuron, flat."""
    grid = layer.shape if len(layer.shape) == 3 else (*layer.shape, 1, 1)
    cores = np.full(grid, -1)
    for core, block in enumerate(layer.blocks):
        for neuron in itertools.product(*(range(*span) for span in (block.channels, block.rows, block.columns))):
            cores[neuron] = core
    return cores.ravel()


@pytest.mark.parametrize("name", ["loihi1", "loihi2"])
def test_a_spike_is_one_message_to_every_core_it_feeds(tmp_path: Path, name: str) -> None:
    graph = chain(
        [
            ("input", Input((2, 6, 6), "spikes")),
            *(("a", Conv2d(CONV, None, (1, 1), (1, 1))), ("a.if", IF(3))),
            *(("b", Conv2d(STRIDED, None, (2, 2))), ("b.if", IF(3)), ("flat", Flatten())),
            *(("c", Linear(DENSE)), ("c.if", IF(3)), ("output", Output())),
        ],
        2,
    )
    placement = place(graph, small_chip(tmp_path, name))
    assert all(layer.cores > 1 for layer in placement.layers)
    # synapses (sources, neurons) of a layer: what a network without biases answers to one spike at a time
    pixels = torch.eye(6 * 36).reshape(-1, 6, 6, 6)
    synapses = [
        F.conv2d(pixels, torch.tensor(np.abs(STRIDED)).float(), stride=2).reshape(6 * 36, -1).numpy() != 0,
        DENSE.T != 0,
    ]
    expected = 0.0
    spikes = {"a.if": 100.0, "b.if": 7.0, "c.if": 3.0}
    for layer, following, reached in zip(placement.layers, placement.layers[1:], synapses, strict=False):
        cores = cores_of(following)
        each = spikes[layer.neurons_name] / layer.neurons
        expected += each * sum(len(set(cores[source])) for source in reached)
    assert messages(placement, spikes) == pytest.approx(expected)
    assert messages(placement, spikes | {"c.if": 1e6}) == pytest.approx(expected)  # nobody but the host reads it
    by_synapse = {layer.name: spikes[layer.neurons_name] for layer in placement.layers}
    assert messages(placement, by_synapse) == pytest.approx(expected)


@pytest.mark.parametrize("cores", [0, 1, 9, 130])
@pytest.mark.parametrize("collide", [False, True])
def test_neurons_that_feed_the_same_cores_are_alike(cores: int, collide: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the sums by which they are told apart are equal: with factors of 1, core 0 of one word is as core 64, of the next."""
    rng = np.random.default_rng(cores)
    listens = rng.integers(0, 2, (6, cores)).astype(bool)
    if cores > 64:
        listens[:2] = np.eye(cores, dtype=bool)[[0, 64]]
    listens = listens[rng.integers(0, 6, 40)]
    width = 8 * -(-cores // 64)
    bits = np.zeros((40, width), np.uint8)
    bits[:, : -(-cores // 8)] = np.packbits(listens, axis=1, bitorder="little")
    nothing = np.zeros((5, 4, 2), np.int64)
    if collide:
        ones = type("Ones", (), {"integers": lambda self, low, high, size, dtype: np.zeros(size, dtype)})
        monkeypatch.setattr(np.random, "default_rng", lambda _: ones())
    found = FanOut(*alike(bits), cores, nothing, nothing, "discrete")
    kind, of_kind = found.kind, found.listens
    np.testing.assert_array_equal(of_kind[kind], listens)
    assert len(of_kind) == max(1, len(np.unique(listens, axis=0)) if cores else 1)
    block = Block((1, 3), (0, 3), (1, 2))
    own = listens.reshape(5, 4, 2, cores)[block.slices].reshape(6, cores)
    np.testing.assert_array_equal(found.messages(block), own.sum(axis=0))
    np.testing.assert_array_equal(found.listeners(block), own.any(axis=0))


def test_neurons_that_feed_one_core_each_are_told_apart_by_their_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last core of every word too, for which a whole word times an odd number is the same in all of them."""
    bits = np.packbits(np.eye(256, dtype=bool), axis=1, bitorder="little")
    unique = np.unique

    def by_sums(values: np.ndarray, axis: int | None = None, **how: bool) -> object:
        assert axis is None, "the slow way was gone"
        return unique(values, **how)

    monkeypatch.setattr(np, "unique", by_sums)
    nothing = np.zeros((256, 1, 1), np.int64)
    found = FanOut(*alike(bits), 256, nothing, nothing, "discrete")
    np.testing.assert_array_equal(found.listens[found.kind], np.eye(256, dtype=bool))
