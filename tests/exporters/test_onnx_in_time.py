"""ONNX of delays and loops: against the emulator, against shifted arrays, by hand, and with files that are hostile."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from exporters import onnx as export
from exporters.graph import (
    IF,
    LIF,
    AvgPool2d,
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
from hardware.emulator import Recorder, run
from tests.exporters.test_onnx_hostile import attack, damage, find, set_prop
from tests.networks import random_recurrent

SHARED = settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def samples(graph: SpikingGraph, count: int, seed: int = 0) -> np.ndarray:
    """Real-valued samples in sixteenths, or spikes."""
    rng = np.random.default_rng(seed)
    size = (count, *([graph.T] if graph.input.over_time else []), *graph.input.shape)
    drawn = rng.integers(0, 16, size) / 16 if graph.input.is_graded else rng.random(size) < 0.5
    return drawn.astype(np.float32)


def assert_equals_emulator(graph: SpikingGraph, x: np.ndarray, folder: Path) -> dict[str, np.ndarray]:
    """Every neuron layer and the read-out at every step, in every form."""
    recorder = Recorder(graph)
    expected = run(graph, graph.encode(x), observe=recorder)
    for form in export.FORMS:
        path = export.write(graph, folder / f"{form}.onnx", form)
        found = export.run(path, x, layers=list(recorder.spikes))
        for name, spikes in recorder.spikes.items():
            np.testing.assert_array_equal(found[name], spikes, f"{name}, {form}")
        read = found["spikes" if graph.output.readout == "rate" else "membrane"]
        np.testing.assert_array_equal(read, expected.output.astype(np.float32), form)
        np.testing.assert_allclose(found["scores"], expected.scores(), rtol=1e-5, atol=1e-6)
    return recorder.spikes


@pytest.mark.parametrize("integer", [False, True])
@SHARED
@given(st.integers(0, 10**6), st.sampled_from(["spikes", "frames", "direct"]))
def test_delays_and_loops_equal_the_emulator(tmp_path: Path, integer: bool, seed: int, encoding: str) -> None:
    graph = random_recurrent(seed, integer=integer, encoding=encoding)
    assert_equals_emulator(graph, samples(graph, 3, seed), tmp_path)


@pytest.mark.parametrize("integer", [False, True])
@pytest.mark.parametrize("encoding", ["spikes", "direct"])
@pytest.mark.parametrize("steps", [[0, 0, 0], [2, 2, 2], [3, 3, 3], [9, 9, 9], [0, 1, 7], [1, 2, 3]])
def test_a_delay_shifts_what_arrives(tmp_path: Path, steps: list[int], encoding: str, integer: bool) -> None:
    one = np.eye(3).astype(int) if integer else np.eye(3)
    nodes = [("d", Delay(np.array(steps))), ("w", Linear(one)), ("n", IF(1)), ("out", Output())]
    graph = chain([("in", Input((3,), encoding, 1 if integer and encoding == "direct" else None)), *nodes], 3)  # type: ignore[arg-type]
    x = np.array([[[1, 1, 1], [0, 1, 0], [1, 0, 1]], [[0, 0, 0], [1, 1, 0], [1, 1, 1]]], np.float32)
    if encoding == "direct":
        x = x[:, 2]
    arriving = x if encoding == "spikes" else np.repeat(x[:, None], 3, axis=1)
    expected = np.zeros((2, 3, 3))
    for i, lag in enumerate(steps):
        expected[:, lag:, i] = arriving[:, : max(0, 3 - lag), i]
    for form in export.FORMS:
        path = export.write(graph, tmp_path / "net.onnx", form)
        np.testing.assert_array_equal(export.run(path, x)["spikes"], expected, form)


def recurrent(encoding: str = "spikes", *, integer: bool = False) -> SpikingGraph:
    """Two neurons that drive each other, one step later one way and two the other."""
    across = np.array([[0, 1], [1, 0]]) if integer else np.array([[0.0, 1.0], [1.0, 0.0]])
    nodes = {
        "in": Input((2,), encoding, 1 if integer and encoding != "spikes" else None),  # type: ignore[arg-type]
        "w": Linear(across),
        "n": IF(1),
        "back": Delay(np.array([1, 2])),
        "u": Linear(across),
        "out": Output(),
    }
    edges = (("in", "w"), ("w", "n"), ("n", "back"), ("back", "u"), ("u", "n"), ("n", "out"))
    return SpikingGraph(nodes, edges, 6)


@pytest.mark.parametrize("integer", [False, True])
def test_a_step_is_driven_by_hand(tmp_path: Path, integer: bool) -> None:
    """A spike goes round: from the second neuron after two steps, from the first after one."""
    path = export.write(recurrent(integer=integer), tmp_path / "net.onnx", "step")
    session = onnxruntime.InferenceSession(path)
    assert {i.name: i.shape[1:] for i in session.get_inputs()} == {"input": [2], "back/past": [2, 2], "n/v": [2]}
    past, v = (
        np.zeros((1, 2, 2), np.uint8 if integer else np.float32),
        np.zeros((1, 2), np.int32 if integer else np.float32),
    )
    fired = []
    for t in range(6):
        frame = np.array([[0, t == 0]], np.float32)
        spikes, next_past, v = session.run(
            ["spikes", "back/past_next", "n/v_next"], {"input": frame, "back/past": past, "n/v": v}
        )
        fired.append(spikes[0].tolist())
        np.testing.assert_array_equal(next_past, np.concatenate([past[:, 1:], spikes[:, None]], axis=1))
        past = next_past
    assert fired == [[1, 0], [0, 1], [0, 0], [1, 0], [0, 1], [0, 0]]
    delays = export.load(path).facts["delays"]
    assert delays == {"back": {"shortest": 1, "longest": 2, "shape": [2]}}


def test_one_file_of_a_loop_takes_any_number_of_steps(tmp_path: Path) -> None:
    path = export.write(recurrent(), tmp_path / "net.onnx", "loop")
    graph = recurrent().with_nodes({}, T=9)
    x = samples(graph, 2)
    np.testing.assert_array_equal(export.run(path, x, T=9)["spikes"], run(graph, x).output)


@pytest.mark.parametrize("integer", [False, True])
def test_neurons_of_all_kinds_in_a_loop(tmp_path: Path, integer: bool) -> None:
    """Persistent currents, membranes that do not start at 0, biases, pools within the loop, pixels beyond a byte, and a loop
    that nothing reads."""
    rng = np.random.default_rng(4)
    unit = 1 if integer else 1 / 64

    def weight(*size: int) -> np.ndarray:
        return rng.integers(-20, 41, size) * unit

    nodes = {
        "in": Input((1, 4, 4), "frames", 4095 if integer else None),
        "late": Delay(rng.integers(0, 3, (1, 4, 4))),
        "w": Conv2d(weight(2, 1, 3, 3), weight(2), padding=(1, 1)),
        "a": LIF(60_000 if integer else 1.5, 0.75, current_leak=0.5, start=9 * unit),
        "back": Delay(rng.integers(1, 4, (2, 4, 4))),
        "max": MaxPool2d((3, 3), (1, 1), (1, 1)),
        "u": Conv2d(weight(2, 2, 1, 1) * (200 if integer else 1), weight(2)),
        "mean": AvgPool2d((2, 2), (2, 2)),
        "b.w": Conv2d(weight(2, 2, 1, 1), weight(2)),
        "b": IF(50 * unit, "soft", start=-20 * unit),
        "flat": Flatten(),
        "last": Linear(weight(3, 8)),
        "c": LIF(70 * unit, 0.5, start=5 * unit),
        "alone": IF(20 * unit),
        "around": Delay(np.ones(3, int)),
        "alone.w": Linear(weight(3, 3)),
        "alone.u": Linear(weight(3, 3)),
        "out": Output(),
    }
    edges = [
        ("in", "late"), ("late", "w"), ("w", "a"), ("a", "back"), ("back", "max"), ("max", "u"), ("u", "a"), ("a", "mean"),
        ("mean", "b.w"), ("b.w", "b"), ("b", "flat"), ("flat", "last"), ("last", "c"), ("c", "out"), ("c", "alone.w"),
        ("alone.w", "alone"), ("alone", "around"), ("around", "alone.u"), ("alone.u", "alone"),
    ]  # fmt: skip
    graph = SpikingGraph(nodes, tuple(edges), 7)
    assert graph.loops == (("back", "max", "u", "a"), ("around", "alone.u", "alone"))
    spikes = assert_equals_emulator(graph, samples(graph, 4), tmp_path)
    assert all(0 < found.mean() < 1 for found in spikes.values()), {n: s.mean() for n, s in spikes.items()}


def test_a_delay_longer_than_any_model_is_refused() -> None:
    late = chain([("in", Input((1,), "spikes")), ("d", Delay(np.array([5000]))), ("w", Linear(np.eye(1))), ("n", IF(1.0)), ("out", Output())], 2)  # fmt: skip
    with pytest.raises(export.OnnxError, match="d: it delays by 5000 steps; a model has at most 4096"):
        export.build(late)


# -- hostile -----------------------------------------------------------------------------------------


def body(model: onnx.ModelProto, kind: str) -> onnx.GraphProto:
    return next(a.g for a in find(model, kind).attribute if a.HasField("g"))


def longer_scan(model: onnx.ModelProto) -> None:
    """What has six steps of two features is scanned as twelve of one."""
    shape = next(t for t in model.graph.initializer if t.name.endswith("steps_of/back/shape"))
    shape.CopyFrom(numpy_helper.from_array(np.array([12, -1, 1]), shape.name))


def scan_without_input(model: onnx.ModelProto) -> None:
    next(a for a in find(model, "Scan").attribute if a.name == "num_scan_inputs").i = 0


def backward_scan(model: onnx.ModelProto) -> None:
    find(model, "Scan").attribute.append(helper.make_attribute("scan_input_directions", [1]))


def nested_scan(model: onnx.ModelProto) -> None:
    inner = onnx.NodeProto()
    inner.CopyFrom(find(model, "Scan"))
    next(a.g for a in inner.attribute if a.HasField("g")).CopyFrom(helper.make_graph([], "empty", [], []))
    inner.output[:] = [f"{name}/nested" for name in inner.output]
    body(model, "Scan").node.append(inner)


def one_name_twice(model: onnx.ModelProto) -> None:
    inner = body(model, "Scan").node[-1]
    inner.output[-1] = "w/current"


def growing_state(model: onnx.ModelProto) -> None:
    """All frames are kept and none forgotten."""
    output = next(o for o in body(model, "Loop").output if o.name == "back/past_next")
    output.name = "back/frames"


def large_state(model: onnx.ModelProto) -> None:
    rest = next(n for n in model.graph.node if n.output[0] == "back/past_start")
    rest.attribute[0].ints[0] = 10**9


@pytest.mark.parametrize(
    ("change", "form", "message"),
    [
        (longer_scan, "sequence", "a scan over it does not run for T steps"),
        (scan_without_input, "sequence", "the loop's body does not fit the loop"),
        (backward_scan, "sequence", "Scan .* is not as this program writes it"),
        (nested_scan, "sequence", "Scan .* holds a graph of its own"),
        (one_name_twice, "sequence", "two tensors are called w/current"),
        (growing_state, "loop", r"back/past_start has shape \(1, 2, 2\), and \(1, 3, 2\) one step later"),
        (large_state, "loop", "would have 2e.09 elements for one sample"),
        (lambda model: set_prop(model, "delays", "3"), "step", "its metadata lacks delays"),
    ],
)
def test_hostile_loops(
    tmp_path: Path, change: Callable[[onnx.ModelProto], None], form: export.Form, message: str
) -> None:
    assert re.search(message, attack(tmp_path, change, form, recurrent()))


def test_random_damage_of_a_recurrent_model_gives_one_line(tmp_path: Path) -> None:
    damage(tmp_path, recurrent(), samples(recurrent(), 2), "n", 30)
