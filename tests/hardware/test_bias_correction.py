"""Biases corrected layer after layer: the mean currents that are left, measured with numpy on every node's recorded values."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporters.errors import DeployError
from exporters.from_torch import from_torch
from exporters.graph import IF, LIF, Conv2d, Input, Linear, Node, Output, SpikingGraph, chain
from exporters.graph.registers import BIAS_LIMIT, CURRENT_LIMIT
from exporters.passes.exact import make_exact
from exporters.passes.integer_inputs import integer_inputs
from exporters.passes.quantize import quantize
from hardware.emulator import layers, run
from hardware.emulator.bias_correction import correct_biases, mean_currents
from hardware.emulator.calibration import calibrate
from tests.hardware.test_calibration import recorded, samples
from tests.networks import Case, random_frames, random_integer_network, random_recurrent, spiking_modules


def into(graph: SpikingGraph, frames: np.ndarray) -> dict[str, np.ndarray]:
    """Mean current per channel into every neuron layer and membrane read-out."""
    values = recorded(graph, frames)
    ends = [*graph.neurons, *([graph.output_name] if graph.output.readout == "membrane" else [])]
    return {end: np.sum([values[s] for s in graph.sources(end)], axis=0).swapaxes(0, 2).reshape(graph.in_shape(end)[0], -1).mean(axis=1) for end in ends}  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31))
def test_mean_currents_are_what_numpy_finds(seed: int) -> None:
    graph = random_integer_network(seed)
    frames = graph.encode(samples(graph, 5, seed))
    expected = into(graph, frames)
    measured = calibrate(graph, frames, batch_size=2).currents
    assert expected.keys() == measured.keys()
    for end, currents in measured.items():
        np.testing.assert_allclose(currents, expected[end], rtol=1e-5, atol=1e-3)
        np.testing.assert_allclose(mean_currents(graph, [end], frames)[end], expected[end], rtol=1e-5, atol=1e-3)


@settings(max_examples=30, deadline=None)
@given(spiking_modules(), st.integers(2, 5))
def test_every_layer_gets_the_mean_current_it_had(case: Case, bits: int) -> None:
    """To half an integer: the layers before it have been corrected when it is measured, and do not change any more."""
    graph = from_torch(case.module, case.shape, case.T)
    exact, x = make_exact(graph), case.input(6).numpy()
    before = calibrate(exact, exact.encode(x))
    try:
        integer, _ = quantize(graph, bits=bits, moments=before.inputs)
    except DeployError as error:
        assert re.search("round to zero|no scale fits", str(error)), error
        return
    frames = integer.encode(x)
    told: list[tuple[int, int]] = []
    corrected = correct_biases(integer, before.currents, frames, lambda done, total: told.append((done, total)))
    wanted, found = into(exact, exact.encode(x)), into(corrected, frames)
    for end, currents in wanted.items():
        node = corrected.output if end == corrected.output_name else corrected.neurons[end]
        feeding = [corrected.synapses[s] for s in corrected.sources(end)]
        if any(s.bias is not None and np.abs(s.bias).max() == BIAS_LIMIT for s in feeding):
            continue
        if len(corrected.targets(corrected.sources(end)[0])) == 1:
            np.testing.assert_allclose(found[end], node.scale * currents, atol=0.501, rtol=1e-5)
    assert told[-1][0] == told[-1][1] and told == sorted(told)
    for name, synapse in integer.synapses.items():  # biases alone change
        np.testing.assert_array_equal(corrected.synapses[name].weight, synapse.weight)
    assert corrected.is_integer and corrected.neurons == integer.neurons


def test_by_hand_what_a_layer_hands_on_less_is_made_up_for_behind_it() -> None:
    """The first layer's weight became 2 of 3 units, so that its neuron fires every second step instead of every step; its bias
    takes that back, and the second layer has nothing left to correct."""
    nodes: list[tuple[str, Node]] = [
        ("in", Input((1,), "spikes")), ("a", Linear(np.array([[2]], np.int32))), ("na", IF(3, scale=3.0)),
        ("b", Linear(np.array([[5]], np.int32))), ("nb", IF(5, scale=5.0)), ("out", Output()),
    ]  # fmt: skip
    graph = chain(nodes, 4)
    frames = np.ones((2, 4, 1), np.float32)
    assert mean_currents(graph, ["na"], frames)["na"] == [2] and mean_currents(graph, ["nb"], frames)["nb"] == [2.5]
    corrected = correct_biases(graph, {"nb": np.array([1.0]), "na": np.array([1.0])}, frames)
    assert corrected.synapses["a"].bias is not None and corrected.synapses["a"].bias.tolist() == [1]
    assert corrected.synapses["b"].bias is None
    assert run(corrected, frames).output.mean() == 1


def test_nothing_runs_behind_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = random_integer_network(3)
    first, *_, last = graph.neurons
    frames = graph.encode(samples(graph, 2, 3))
    ran: list[str] = []
    compute = layers.synaptic_current
    monkeypatch.setattr(
        layers, "synaptic_current", lambda plan, name, *rest: (ran.append(name), compute(plan, name, *rest))[1]
    )
    mean_currents(graph, [first], frames)
    assert ran and set(ran) < set(graph.synapses)
    order = list(graph.nodes)
    assert max(order.index(name) for name in ran) < order.index(last)


def test_layers_that_share_a_layer_are_left_or_corrected_together() -> None:
    """`a` feeds both neuron layers; `b` only the second, so that it can take up what is missing there."""
    one = np.array([[4]], np.int32)
    nodes: dict[str, Node] = {
        "in": Input((1,), "spikes"), "a": Linear(one), "b": Linear(one), "first": IF(8, scale=8.0), "second": IF(8, scale=8.0),
        "c": Linear(one), "d": Linear(one), "last": IF(8, scale=8.0), "out": Output(),
    }  # fmt: skip
    edges = [
        ("in", "a"), ("in", "b"), ("a", "first"), ("a", "second"), ("b", "second"), ("first", "c"), ("second", "d"), ("c", "last"),
        ("d", "last"), ("last", "out"),
    ]  # fmt: skip
    graph = SpikingGraph(nodes, tuple(edges), 2)
    frames = np.ones((1, 2, 1), np.float32)
    corrected = correct_biases(graph, {"first": np.array([1.0]), "second": np.array([2.0])}, frames)
    assert corrected.synapses["a"].bias is None
    assert corrected.synapses["b"].bias is not None and corrected.synapses["b"].bias.tolist() == [8]


def biases(graph: SpikingGraph) -> list[int] | None:
    bias = graph.synapses["fc"].bias
    return None if bias is None else list(bias.tolist())


def test_registers_hold_what_is_corrected() -> None:
    """A bias stops at the end of its register; where a read-out's membrane could leave its own, nothing changes; a bias passes a
    current by that persists."""
    weight, frames = np.array([[100]], np.int32), np.ones((1, 3, 1), np.float32)
    fc = ("fc", Linear(weight))
    wanted = {"n": np.array([1e6])}
    fires = chain([("in", Input((1,), "spikes")), fc, ("n", IF(100, scale=1.0)), ("out", Output())], 3)
    assert biases(correct_biases(fires, wanted, frames)) == [BIAS_LIMIT]
    # 5 steps of 100 and a bias: a register of 131,071 has room for 26,114 of it
    frames = np.ones((1, 5, 1), np.float32)
    read = chain([("in", Input((1,), "spikes")), fc, ("out", Output("membrane"))], 5)
    assert biases(correct_biases(read, {"out": np.array([100.0 + 26_114])}, frames)) == [26_114]
    assert 5 * (100 + 26_114) <= CURRENT_LIMIT < 5 * (100 + 26_115)
    assert biases(correct_biases(read, {"out": np.array([100.0 + 26_115])}, frames)) is None
    leaky = chain([("in", Input((1,), "spikes")), fc, ("n", LIF(100, 0.9, current_leak=0.5)), ("out", Output())], 3)
    assert correct_biases(leaky, wanted, frames) is leaky


@pytest.mark.parametrize("seed", range(6))
def test_a_loop_stays_the_network_it_is(seed: int) -> None:
    """What fires back into a layer changes with its bias: such a layer is brought nearer, and not exactly."""
    graph = random_recurrent(seed, encoding="spikes")
    whole = integer_inputs(graph, 255)
    frames = random_frames(graph, 4, seed)
    encoded = frames if whole.input.scale is None else np.rint(frames * 255).astype(np.float32)
    before = calibrate(whole, encoded)
    small, _ = quantize(graph, moments=before.inputs)
    corrected = correct_biases(small, before.currents, encoded)
    assert corrected.is_integer and corrected.edges == small.edges
    for name, synapse in small.synapses.items():
        np.testing.assert_array_equal(corrected.synapses[name].weight, synapse.weight)


def test_channels_of_a_map_and_a_bias_of_a_whole_map() -> None:
    """A bias per position takes its channel's correction at every position."""
    weight = np.ones((2, 1, 1, 1), np.int32)
    bias = np.arange(8, dtype=np.int32).reshape(2, 2, 2)
    graph = chain(
        [
            ("in", Input((1, 2, 2), "spikes")),
            ("conv", Conv2d(weight, bias)),
            ("n", IF(50, scale=2.0)),
            ("out", Output()),
        ],
        2,
    )
    corrected = correct_biases(graph, {"n": np.array([5.0, 1.0])}, np.zeros((1, 2, 1, 2, 2), np.float32))
    assert corrected.synapses["conv"].bias is not None
    # means 1.5 and 5.5 are to be 10 and 2; halves go to the even number
    np.testing.assert_array_equal(corrected.synapses["conv"].bias, bias + np.array([8, -4]).reshape(2, 1, 1))
