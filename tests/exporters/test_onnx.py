"""ONNX on onnxruntime against torch: every neuron's spikes at every step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings

from exporters import onnx as export
from exporters.exact import make_exact
from exporters.from_torch import from_torch
from exporters.graph import IF, Input, Linear, Output, chain
from hardware.emulator import Recorder, run
from tests.networks import Case, spiking_modules

SHARED = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@SHARED
@given(spiking_modules())
def test_onnxruntime_gives_the_same_spikes(tmp_path: Path, case: Case) -> None:
    graph = make_exact(from_torch(case.module, case.shape, case.T))
    path = export.write(graph, tmp_path / "net.onnx")
    for n in (1, 3):  # the batch is dynamic
        x = case.input(n).numpy().astype(np.float32)
        recorder = Recorder(graph)
        expected = run(graph, graph.encode(x), observe=recorder)
        found = export.run(path, x, layers=list(graph.neurons))
        for name, spikes in recorder.spikes.items():
            np.testing.assert_array_equal(found[name], spikes, err_msg=name)
        if graph.output.readout == "rate":
            np.testing.assert_array_equal(found["spikes"], expected.output)
            np.testing.assert_allclose(found["scores"], expected.scores(), atol=1e-7)
        else:
            np.testing.assert_allclose(found["membrane"], expected.output, rtol=1e-6, atol=1e-6)


def small(encoding: str = "direct"):
    w = np.array([[0.5, 0.25], [1, -1]], np.float32)
    return chain([("in", Input((2,), encoding)), ("fc", Linear(w)), ("sn", IF(1.0)), ("out", Output())], 3)


def test_state_is_kept_over_steps_and_not_over_calls(tmp_path: Path) -> None:
    path = export.write(small(), tmp_path / "net.onnx")
    x = np.array([[1, 0.5]], np.float32)
    for _ in range(2):
        assert export.run(path, x)["spikes"].tolist() == [
            [[0, 0], [1, 1], [0, 0]]
        ]  # 0.625, 1.25 → reset; 0.5, 1.0 → reset


def test_spike_input(tmp_path: Path) -> None:
    graph = small("spikes")
    path = export.write(graph, tmp_path / "net.onnx")
    x = np.random.default_rng(0).integers(0, 2, (4, 3, 2)).astype(np.float32)
    np.testing.assert_array_equal(export.run(path, x)["spikes"], run(graph, x).output)


def test_file_is_standard_and_compact(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    graph = make_exact(
        chain(
            [("in", Input((400,))), ("fc", Linear(rng.normal(0, 0.1, (300, 400)))), ("sn", IF(1.0)), ("out", Output())],
            8,
        )
    )
    path = export.write(graph, tmp_path / "net.onnx")
    model = onnx.load(str(path))
    onnx.checker.check_model(model, full_check=True)
    assert path.stat().st_size < 1.02 * 4 * 300 * 400
    assert {o.domain for f in model.functions for o in f.node} == {""}  # local functions of standard operators only
    assert [f.name for f in model.functions] == ["RepeatOverTime", "IF"]
    assert {p.key: p.value for p in model.metadata_props}["T"] == "8"
    assert model.opset_import[0].version >= 18


@pytest.mark.parametrize("content", [b"", b"not onnx", None])
def test_unreadable_models_give_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "bad.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(export.OnnxError, match=r"bad\.onnx: (no such file|onnxruntime cannot run it)") as caught:
        export.run(path, np.zeros((1, 2), np.float32))
    assert "\n" not in str(caught.value)


def test_wrong_input_shape_gives_one_line(tmp_path: Path) -> None:
    path = export.write(small(), tmp_path / "net.onnx")
    with pytest.raises(export.OnnxError, match=r"net\.onnx: onnxruntime cannot run it"):
        export.run(path, np.zeros((1, 5), np.float32))
