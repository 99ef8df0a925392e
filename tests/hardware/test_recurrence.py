"""Delays and loops: the emulator against every neuron written out, one step, one synapse at a time."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from exporters.errors import DeployError
from exporters.graph import (
    IF,
    LIF,
    Conv2d,
    Delay,
    Flatten,
    Input,
    Linear,
    MaxPool2d,
    Output,
    SpikingGraph,
    chain,
)
from exporters.passes.integer_inputs import integer_inputs
from exporters.passes.quantize import quantize
from exporters.passes.split import split_encoder
from hardware.emulator import Recorder, layers, recurrence, run, running
from hardware.emulator.calibration import calibrate
from profilers.counting.activity import ActivityCounter
from tests.networks import random_frames, random_recurrent


def written_out(graph: SpikingGraph, frames: np.ndarray) -> dict[str, np.ndarray]:
    """Every node's values (N, T, *shape) in float64, step after step; what a delay gives is looked up in what was fired."""
    N = len(frames)
    made = {name: np.zeros((N, graph.T, *graph.shapes[name])) for name in graph.nodes}
    membrane = {name: np.full((N, *graph.shapes[name]), float(node.start)) for name, node in graph.neurons.items()}
    total = np.zeros((N, *graph.shapes[graph.output_name]))
    for t in range(graph.T):
        for name, node in graph.nodes.items():
            x = sum(made[s][:, t] for s in graph.sources(name))
            match node:
                case Input():
                    value = frames[:, t] if node.over_time else frames
                case Conv2d():
                    y = F.conv2d(torch.from_numpy(x), torch.from_numpy(node.weight.astype(float)), padding=node.padding)
                    value = y.numpy() + (0 if node.bias is None else node.bias[:, None, None])
                case Linear():
                    value = x @ node.weight.T.astype(float) + (0 if node.bias is None else node.bias)
                case Flatten():
                    value = x.reshape(N, -1)
                case Delay():
                    value = np.zeros((N, *graph.shapes[name]))
                    for where in np.ndindex(*graph.shapes[name]):
                        then = t - node.steps[where]
                        if then >= 0:
                            value[(slice(None), *where)] = sum(
                                made[s][(slice(None), then, *where)] for s in graph.sources(name)
                            )
                case IF() | LIF():
                    v = membrane[name]
                    # integers leak in 1/64ths, toward zero
                    v = np.trunc(v * 64 * node.leak) / 64 if graph.is_integer else v * node.leak
                    v = v + x
                    value = (v > node.threshold - 1) if graph.is_integer else (v >= node.threshold)
                    membrane[name] = np.where(value, 0 if node.reset == "hard" else v - node.threshold, v)
                case Output():
                    total = total + x
                    value = x if node.readout == "rate" else total
                case _:
                    raise AssertionError(name)
            made[name][:, t] = value
    return made


@pytest.mark.parametrize("integer", [False, True])
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_delays_and_loops_are_what_they_say(integer: bool, seed: int) -> None:
    graph = random_recurrent(seed, integer=integer)
    frames = random_frames(graph, 3, seed)
    expected = written_out(graph, frames)
    recorder, counter = Recorder(graph), ActivityCounter(graph)

    def observe(name: str, values: torch.Tensor) -> None:
        recorder(name, values)
        counter(name, values)
        assert len(values) in (1, graph.T)

    ran = run(graph, frames, observe=observe, batch_size=2)
    for name, spikes in recorder.spikes.items():
        np.testing.assert_array_equal(spikes, expected[name], name)
    np.testing.assert_array_equal(ran.output, expected["out"])
    counted = counter.result()
    for name, synapse in graph.synapses.items():
        read = sum(expected[s] for s in graph.sources(name))
        if len(graph.sources(name)) == 1 and isinstance(synapse, Linear):
            source = graph.sources(name)[0]
            events = expected["b"] if source == "flat" else read
            found = counted.synapses[name]
            np.testing.assert_array_equal(found.events, (events != 0).reshape(len(frames), graph.T, -1).sum(2))
            np.testing.assert_array_equal(found.operations, found.events * len(synapse.weight))


def test_a_dense_loop_by_hand() -> None:
    """One neuron that drives itself: it fires at every second step from the first spike on."""
    graph = SpikingGraph(
        {
            "in": Input((1,), "spikes"),
            "w": Linear(np.array([[1.0]])),
            "n": IF(1.0),
            "back": Delay(np.array([2])),
            "u": Linear(np.array([[1.0]])),
            "out": Output(),
        },
        (("in", "w"), ("w", "n"), ("n", "back"), ("back", "u"), ("u", "n"), ("n", "out")),
        6,
    )
    frames = np.zeros((1, 6, 1), np.float32)
    frames[0, 1] = 1
    assert run(graph, frames).output[0, :, 0].tolist() == [0, 1, 0, 1, 0, 1]
    assert graph.loops == (("back", "u", "n"),)
    assert list(graph.nodes) == ["in", "w", "back", "u", "n", "out"]


@pytest.mark.parametrize("seed", range(12))
def test_a_quantized_loop_is_calibrated_and_runs_on_the_same_scales(seed: int) -> None:
    graph = random_recurrent(seed, encoding="spikes")  # beside pixels' weights, those of a loop may round to nothing
    whole = integer_inputs(graph, 255)
    frames = random_frames(graph, 4, seed)
    encoded = frames if whole.input.scale is None else np.rint(frames * 255).astype(np.float32)
    measured = calibrate(whole, encoded)
    for moments in (None, measured.inputs):
        small, scales = quantize(graph, moments=moments)
        assert small.is_integer
        assert len(small.loops) == len(graph.loops)
        expected = written_out(small, encoded)
        recorder = Recorder(small)
        run(small, encoded, observe=recorder)
        for name, spikes in recorder.spikes.items():
            np.testing.assert_array_equal(spikes, expected[name], name)
        by_end = {end: {row.scale for row in scales if end in small.targets(row.name)} for end in small.neurons}
        assert all(len(found) == 1 for found in by_end.values()), "what adds up in a membrane has one scale"


LOOP = {"in": Input((2,), "spikes"), "w": Linear(np.eye(2)), "n": IF(1.0), "out": Output()}
EDGES = (("in", "w"), ("w", "n"), ("n", "out"))


@pytest.mark.parametrize(
    ("nodes", "edges", "message"),
    [
        ({"u": Linear(np.eye(2))}, [("n", "u"), ("u", "n")], "within one step; a Delay of at least 1"),
        (
            {"d": Delay(np.array([0, 1])), "u": Linear(np.eye(2))},
            [("n", "d"), ("d", "u"), ("u", "n")],
            "cycle through .* within one step",
        ),
        ({"d": Delay(np.array([1])), "u": Linear(np.ones((2, 1)))}, [("n", "d"), ("d", "u"), ("u", "n")], "n gives"),
        ({"d": Delay(np.array([1.5, 1]))}, [("n", "d"), ("d", "w")], "whole steps"),
        ({"d": Delay(np.array([1, 1])), "e": Delay(np.array([1, 1]))}, [("d", "e"), ("e", "d"), ("d", "w")], "neurons"),
    ],
)
def test_loops_that_mean_nothing_are_refused(nodes: dict, edges: list, message: str) -> None:
    with pytest.raises(DeployError, match=message):
        SpikingGraph({**LOOP, **nodes}, (*EDGES, *edges), 2)


def test_delays_stand_before_synapses_and_look_back() -> None:
    late = [("in", Input((2,), "spikes")), ("w", Linear(np.eye(2))), ("d", Delay(np.array([1, 1]))), ("n", IF(1.0))]
    with pytest.raises(DeployError, match="d: a delay takes spikes or frames, but current arrives"):
        chain([*late, ("out", Output())], 2)
    early = [("in", Input((2,), "spikes")), ("d", Delay(np.array([1, -1]))), ("w", Linear(np.eye(2))), ("n", IF(1.0))]
    with pytest.raises(DeployError, match="d: it delays by -1 steps"):
        chain([*early, ("out", Output())], 2)


def test_a_pool_may_stand_behind_the_delay_of_a_loop() -> None:
    nodes = {
        "in": Input((1, 2, 2), "spikes"),
        "w": Conv2d(np.ones((1, 1, 1, 1))),
        "n": IF(1.0),
        "back": Delay(np.ones((1, 2, 2), int)),
        "pool": MaxPool2d((2, 2), (2, 2)),
        "flat": Flatten(),
        "m.w": Linear(np.ones((1, 1))),
        "m": IF(1.0),
        "out": Output(),
    }
    chained = ["in", "w", "n", "back", "pool", "flat", "m.w", "m", "out"]
    graph = SpikingGraph(nodes, tuple(itertools.pairwise(chained)), 3)
    frames = np.zeros((1, 3, 1, 2, 2), np.float32)
    frames[0, 0, 0, 1, 1] = 1
    assert run(graph, frames).output[0, :, 0].tolist() == [0, 1, 0]
    assert not graph.loops


def test_a_recurrent_encoder_stays_on_the_chip() -> None:
    nodes = {**LOOP, "in": Input((2,)), "d": Delay(np.array([1, 1])), "u": Linear(np.eye(2))}
    nodes |= {"v": Linear(np.eye(2)), "m": IF(1.0)}
    edges = [("in", "w"), ("w", "n"), ("n", "d"), ("d", "u"), ("u", "n"), ("n", "v"), ("v", "m"), ("m", "out")]
    with pytest.raises(DeployError, match="n: the first layer is recurrent"):
        split_encoder(SpikingGraph(nodes, tuple(edges), 2))


def test_a_small_loop_runs_with_one_thread_and_leaves_the_number_as_it_was(monkeypatch):
    graph = random_recurrent(3)
    frames = random_frames(graph, 3, 4)
    loop = {name for one in graph.loops for name in one}
    seen: dict[bool, set[int]] = {}

    def watched(plan, name, *rest):
        seen.setdefault(name in loop, set()).add(torch.get_num_threads())
        return layers.compute(plan, name, *rest)

    monkeypatch.setattr(recurrence, "compute", watched)
    monkeypatch.setattr(running, "compute", watched)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        found = run(graph, frames).output
        assert seen == {True: {1}, False: {3}} and torch.get_num_threads() == 3
        monkeypatch.setattr(recurrence, "SMALL_STEP", 0)
        seen.clear()
        np.testing.assert_array_equal(run(graph, frames).output, found)
        assert seen == {True: {3}, False: {3}}
    finally:
        torch.set_num_threads(before)
