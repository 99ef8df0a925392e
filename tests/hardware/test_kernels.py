"""The compiled kernel of neurons gives every spike and every membrane of torch's operations, bit for bit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from exporters.graph import IF, LIF, Neuron
from hardware import emulator
from hardware.emulator import membranes
from tests.networks import random_frames, random_integer_network, random_recurrent

NEVER, AT_ONCE = 2**62, 0


def neuron(leak: float, threshold: float, reset: str) -> Neuron:
    return IF(threshold, reset=reset) if leak == 1 else LIF(threshold, reset=reset, leak=leak)  # type: ignore[arg-type]


@pytest.mark.parametrize("integer", [True, False])
@pytest.mark.parametrize("leak", [1, 0.75, 1 / 3])
def test_it_is_torch_bit_for_bit(leak: float, integer: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x = (
        torch.randn(4 * 3, 5, 37, 29, generator=torch.Generator().manual_seed(0)) * 40
    )  # several blocks, none of them full
    compiled = []
    original = membranes._fire_compiled
    monkeypatch.setattr(membranes, "_fire_compiled", lambda *a, **k: (compiled.append(1), original(*a, **k)))
    for reset, steps, innermost, saturates in itertools.product(("hard", "soft"), (4, 1), (True, False), (True, False)):
        current = x.round() * (2**15 if saturates else 1) if integer else x
        if innermost:
            current = current.contiguous(memory_format=torch.channels_last)
        current = current.view(4, 3, 5, 37, 29)[:steps]
        node = neuron(leak, 30 if integer else 30.7, reset)
        found = []
        for pays in (NEVER, AT_ONCE):
            monkeypatch.setattr(membranes, "PAYS", pays)
            v = torch.full_like(current[0], 2)
            kind = torch.uint8 if integer else torch.float32
            spikes = membranes.fire(node, current, v, 4, integer=integer, saturates=saturates, dtype=kind)
            found.append((spikes, v))
        (one, left), (other, also) = found
        assert torch.equal(one, other) and torch.equal(left, also) and one.stride() == other.stride()
        assert 0 < one.float().mean() < 1
    assert len(compiled) == 16


def test_networks_give_the_same_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for graph in [*map(random_integer_network, range(8)), *map(random_recurrent, range(4))]:
        frames, runs = random_frames(graph, 3, 0), []
        for pays in (NEVER, AT_ONCE):
            monkeypatch.setattr(membranes, "PAYS", pays)
            recorder = emulator.Recorder(graph)
            runs.append((emulator.run(graph, frames, observe=recorder).output, recorder.spikes))
        (one, layers), (other, also) = runs
        np.testing.assert_array_equal(one, other)
        assert all(np.array_equal(layers[name], also[name]) for name in layers)


def test_layouts_that_differ_are_left_to_torch() -> None:
    x = torch.zeros(2, 3, 4, 5, 6)
    v, spikes = torch.zeros(3, 4, 5, 6), torch.zeros(2, 3, 4, 5, 6, dtype=torch.int8)
    assert membranes._rows(x, v, spikes) is not None
    assert membranes._rows(x, v.contiguous(memory_format=torch.channels_last), spikes) is None
    assert membranes._rows(torch.zeros(2, 3, 4, 6, 5).transpose(3, 4), v, spikes) is None
    assert membranes._rows(torch.zeros(4, 3, 4, 5, 6)[::2], v, spikes) is None


def test_without_numba_it_is_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membranes, "_kernels", lambda: None)
    monkeypatch.setattr(membranes, "PAYS", AT_ONCE)
    v = torch.zeros(1, 3)
    spikes = membranes.fire(IF(2), torch.ones(1, 1, 3), v, 4, integer=True, saturates=False, dtype=torch.uint8)
    assert spikes[:, 0, 0].tolist() == [0, 1, 0, 1]
