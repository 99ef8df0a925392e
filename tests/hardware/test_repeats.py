"""Outputs that repeat one input are copied and not multiplied: the currents are those of the whole layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st

from exporters.graph import IF, Conv2d, Input, Linear, Output, SpikingGraph, chain
from hardware.emulator import repeats, run
from hardware.emulator.repeats import repeats_of


@pytest.fixture(autouse=True)
def of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "LEAST_WEIGHTS", 1)
    monkeypatch.setattr(repeats, "AT_ONCE", 50)


def relayed(rng: np.random.Generator, shape: tuple[int, ...], share: float) -> np.ndarray:
    """Weights of which a share of the outputs have one synapse each, and others none."""
    weight = rng.integers(-9, 10, shape)
    for output in np.flatnonzero(rng.random(shape[0]) < share):
        weight[output] = 0
        weight[(output, *(rng.integers(n) for n in shape[1:]))] = rng.integers(0, 5000)
    return weight.astype(np.int32)


def current(graph: SpikingGraph, frames: np.ndarray) -> torch.Tensor:
    found = []
    run(graph, frames, observe=lambda name, values: found.append(values.double()) if name == "w" else None)
    return found[0]


@settings(max_examples=25, deadline=None)
@example(234409091, "spikes", 0.3)  # the outputs that repeat nothing have no weights
@given(st.integers(0, 2**31), st.sampled_from(["spikes", "frames"]), st.sampled_from([0.3, 0.8, 1.0]))
def test_convolutions(seed: int, encoding: str, share: float) -> None:
    rng = np.random.default_rng(seed)
    inputs, outputs = rng.integers(1, 12, 2).tolist()
    kernel, stride, dilation, padding = (
        tuple(rng.integers(low, high, 2).tolist()) for low, high in ((1, 4), (1, 3), (1, 3), (0, 3))
    )
    shape = (inputs, *rng.integers(5, 9, 2).tolist())
    node = Conv2d(relayed(rng, (outputs, inputs, *kernel), share), None, stride, padding, dilation)
    expected_shape = chain([("in", Input(shape, "spikes")), ("w", node), ("n", IF(9)), ("out", Output())], 3).shapes[
        "w"
    ]
    bias = [None, rng.integers(-99, 99, outputs), rng.integers(-99, 99, expected_shape)][seed % 3]
    node = Conv2d(node.weight, None if bias is None else bias.astype(np.int32), stride, padding, dilation)
    scale = None if encoding == "spikes" else 3  # currents within the register
    graph = chain([("in", Input(shape, encoding, scale)), ("w", node), ("n", IF(9)), ("out", Output())], 3)
    frames = rng.integers(0, 2 if scale is None else 4, (2, 3, *shape)).astype(np.float32)
    x, weight = torch.from_numpy(frames).double().transpose(0, 1), torch.from_numpy(node.weight).double()
    expected = F.conv2d(x.flatten(0, 1), weight, None, stride, padding, dilation).view(3, 2, *expected_shape)
    if bias is not None:
        expected = expected + torch.from_numpy(bias.reshape(outputs, *(bias.shape[1:] or (1, 1)))).double()
    assert torch.equal(current(graph, frames), expected)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.5, 1.0]))
def test_dense_layers(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    inputs, outputs = rng.integers(1, 90, 2).tolist()
    node = Linear(relayed(rng, (outputs, inputs), share), rng.integers(-99, 99, outputs).astype(np.int32))
    graph = chain([("in", Input((inputs,), "spikes")), ("w", node), ("n", IF(9)), ("out", Output())], 3)
    frames = rng.integers(0, 2, (2, 3, inputs)).astype(np.float32)
    x = torch.from_numpy(frames).double().transpose(0, 1)
    assert torch.equal(
        current(graph, frames), F.linear(x, *(torch.from_numpy(a).double() for a in (node.weight, node.bias)))
    )


def test_what_is_left_to_multiply_is_small() -> None:
    """A relay for each of 40 channels beside a layer from 3 of them to 4 outputs, one of which reads nothing."""
    weight = np.zeros((44, 40, 3, 3), np.int32)
    weight[:3, 5:8] = 2
    weight[4 + np.arange(40), np.arange(40), 1, 1] = 700
    found = repeats_of(Conv2d(weight, padding=(1, 1)))
    assert found is not None and found.layer is not None
    assert found.layer.weight.shape == (4, 3, 3, 3) and found.read.tolist() == [5, 6, 7]
    assert found.outputs.tolist() == list(range(4, 44)) and list(found.taps) == [(1, 1)]


def test_layers_with_few_repeats_or_groups_are_left_alone() -> None:
    weight = np.ones((16, 16), np.int32)
    weight[0, 1:] = 0
    assert repeats_of(Linear(weight)) is None
    assert repeats_of(Conv2d(np.eye(4, dtype=np.int32).reshape(4, 4, 1, 1)[:, :1], groups=4)) is None
