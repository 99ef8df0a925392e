"""ONNX on onnxruntime against the emulator: every neuron's spikes at every step, in every form."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporters import onnx as export
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
from exporters.onnx import functions
from exporters.onnx.neuron_kinds import KINDS, kind_of
from exporters.passes.exact import make_exact
from exporters.passes.quantize import quantize
from hardware.emulator import Recorder, run
from kdsnn.models import build as build_model
from tests.networks import Case, random_integer_chain, randomize, spiking_modules

SHARED = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def assert_equals_emulator(graph: SpikingGraph, x: np.ndarray, folder: Path, forms=export.FORMS) -> dict[str, Recorder]:
    """Every neuron layer, the read-out and the scores, in every form."""
    recorder = Recorder(graph)
    expected = run(graph, graph.encode(x), observe=recorder)
    for form in forms:
        path = export.write(graph, folder / f"{form}.onnx", form)
        assert not any(export.verify(path, x, recorder.spikes).values()), form
        found = export.run(path, x)
        if graph.output.readout == "rate":
            np.testing.assert_array_equal(found["spikes"], expected.output)
        elif graph.is_integer:  # to the last bit: the file rounds the exact value once
            np.testing.assert_array_equal(found["membrane"], expected.output.astype(np.float32))
        else:
            np.testing.assert_allclose(found["membrane"], expected.output, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(found["scores"], expected.scores(), rtol=1e-5, atol=1e-6)
    return recorder


@SHARED
@given(spiking_modules())
def test_float_forms_equal_the_emulator(tmp_path: Path, case: Case) -> None:
    graph = make_exact(from_torch(case.module, case.shape, case.T))
    for n in (1, 3):  # the batch is dynamic
        assert_equals_emulator(graph, case.input(n).numpy().astype(np.float32), tmp_path)


@SHARED
@given(spiking_modules())
def test_integer_forms_equal_the_emulator(tmp_path: Path, case: Case) -> None:
    graph, _ = quantize(from_torch(case.module, case.shape, case.T))
    assert_equals_emulator(graph, case.input().numpy().astype(np.float32), tmp_path)


@SHARED
@given(st.integers(0, 10**6))
def test_integer_chains_equal_the_emulator(tmp_path: Path, seed: int) -> None:
    """These are not fitted to Lava's registers, so currents wrap and membranes saturate as they would on it."""
    graph = random_integer_chain(seed)
    x = np.random.default_rng(seed).random((3, *graph.input.shape)).astype(np.float32)
    assert_equals_emulator(graph, x, tmp_path)


@pytest.mark.parametrize("reset", ["hard", "soft"])
@pytest.mark.parametrize("leak", [None, 0.0, 1234 / 4096, 4095 / 4096])
def test_registers_wrap_saturate_and_leak_as_on_the_chip(tmp_path: Path, leak: float | None, reset) -> None:
    rng = np.random.default_rng(7)
    neuron = IF(131_072, reset) if leak is None else LIF(131_072, leak, reset)
    small = IF(1000, reset) if leak is None else LIF(1000, leak, reset)
    # 255 · 127 · 600 = 19 million: wraps the 24-bit sum, and again the 24 bits with six fractional ones
    lean = np.repeat([-110, -60, 0, 3, 60, 110], 7)[:40, None]  # some rows wrap upwards, some downwards, some not
    weight = np.clip(rng.integers(-20, 21, (40, 600)) + lean, -127, 127)
    narrow = rng.integers(-100, 128, (40, 40))
    graph = chain(
        [
            ("in", Input((600,), "direct", 255)),
            ("wide", Linear(weight, rng.integers(-32768, 32768, 40))), ("big", neuron),
            ("narrow", Linear(narrow, rng.integers(0, 3, 40))), ("sn", small),
            ("last", Linear(30_000 * narrow[:5] // 128, rng.integers(-900, 900, 5))), ("out", Output("membrane", 3.7)),
        ],
        9,
    )  # fmt: skip
    x = (rng.integers(0, 256, (5, 600)) / 255).astype(np.float32)
    recorder = assert_equals_emulator(graph, x, tmp_path)
    currents = x * 255 @ weight.T
    assert currents.max() > 2**23 and currents.min() < -(2**23) and 0 < recorder.spikes["big"].mean() < 1
    kinds = {t.name: t.data_type for t in onnx.load(str(tmp_path / "loop.onnx")).graph.initializer}
    assert kinds["wide/weight"] == onnx.TensorProto.INT8 and kinds["last/weight"] == onnx.TensorProto.INT32


def test_sums_beyond_a_byte_and_grouped_pools(tmp_path: Path) -> None:
    """Average pools sum pixels past 255, residual sums of spikes, a max-pool of sums, fine pixels: float32 takes over."""
    rng = np.random.default_rng(3)
    weights = [rng.integers(-40, 46, shape) for shape in [(4, 3, 3, 3), (4, 2, 3, 3), (4, 4, 1, 1), (6, 8)]]
    nodes = {
        "in": Input((3, 9, 9), "direct", 4095), "pool": AvgPool2d((2, 2), (1, 1), (1, 1)),
        "a": Conv2d(weights[0], None, (1, 2), (1, 1)), "a.if": IF(30_000),
        "b": Conv2d(weights[1], rng.integers(0, 9, 4), padding=(1, 1), groups=2), "b.if": LIF(30, 0.5),
        "max": MaxPool2d((3, 3), (2, 2), (1, 1)), "c": Conv2d(weights[2], None), "c.if": IF(20),
        "mean": AvgPool2d((3, 2), (2, 2)), "flat": Flatten(), "d": Linear(weights[3]), "d.if": IF(35), "out": Output(),
    }  # fmt: skip
    names = list(nodes)
    edges = [*itertools.pairwise(names), ("a.if", "max")]
    graph = SpikingGraph(nodes, tuple(edges), 4)
    x = (rng.integers(0, 4096, (3, 3, 9, 9)) / 4095).astype(np.float32)
    recorder = assert_equals_emulator(graph, x, tmp_path)
    rates = {name: spikes.mean() for name, spikes in recorder.spikes.items()}
    assert all(0 < rate < 1 for rate in rates.values()), rates


MODELS = {
    "cnn2": ((1, 12, 12), {"channels": (6, 8), "hidden": 16}),
    "vgg11": ((3, 16, 16), {"widths": (4, 4, 8, 8, 8), "hidden": (12, 12)}),
    "wrn16-2": ((3, 12, 12), {"stem": 4, "widths": (4, 8, 8)}),
    "resnet18": ((3, 12, 12), {"stem": 4, "widths": (4, 4, 8, 8)}),
    "resnet14": ((3, 12, 12), {"stem": 4, "widths": (4, 8, 8)}),
}


@pytest.mark.parametrize("name", MODELS)
def test_students_of_the_paper(tmp_path: Path, name: str) -> None:
    """Float against SpikingJelly (all but ties that BatchNorm's rounding decides) and the emulator; integers too."""
    shape, options = MODELS[name]
    student = build_model(name, spiking=True, input_shape=shape, classes=10, **options)
    randomize(student, 1)
    x = (np.random.default_rng(0).integers(0, 256, (3, *shape)) / 255).astype(np.float32)
    lowered = from_torch(student, shape, 4)
    exact, (integer, _) = make_exact(lowered), quantize(lowered)
    recorder = assert_equals_emulator(exact, x, tmp_path)
    assert_equals_emulator(integer, x, tmp_path)
    case = Case(student, shape, 4, True, 0)
    import torch

    _, layers = case.run(torch.from_numpy(x.astype(np.float64)))
    differ = sum(int((layers[n].numpy() != recorder.spikes[n]).sum()) for n in recorder.spikes)
    assert differ <= 1e-3 * sum(s.size for s in recorder.spikes.values())
    loops = {}
    for T in (1, 4, 8):  # one file for any T
        path = export.write(exact.with_nodes({}, T=T), tmp_path / f"T{T}.onnx", "loop")
        loops[T] = export.node_count(path)
        recorder = Recorder(graph := exact.with_nodes({}, T=T))
        run(graph, graph.encode(x), observe=recorder)
        assert not any(export.verify(tmp_path / "T1.onnx", x, recorder.spikes, T=T).values())
    assert len(set(loops.values())) == 1


def small(encoding: str = "direct"):
    w = np.array([[0.5, 0.25], [1, -1]], np.float32)
    return chain([("in", Input((2,), encoding)), ("fc", Linear(w)), ("sn", IF(1.0)), ("out", Output())], 3)


@pytest.mark.parametrize("form", export.FORMS)
def test_state_is_kept_over_steps_and_not_over_calls(tmp_path: Path, form: export.Form) -> None:
    path = export.write(small(), tmp_path / "net.onnx", form)
    x = np.array([[1, 0.5]], np.float32)
    for _ in range(2):  # 0.625, 1.25 → reset; 0.5, 1.0 → reset
        assert export.run(path, x)["spikes"].tolist() == [[[0, 0], [1, 1], [0, 0]]]


@pytest.mark.parametrize("integer", [False, True])
def test_spike_input(tmp_path: Path, integer: bool) -> None:
    graph = small("spikes")
    if integer:
        graph, _ = quantize(graph)
    x = np.random.default_rng(0).integers(0, 2, (4, 3, 2)).astype(np.float32)
    assert_equals_emulator(graph, x, tmp_path)
    path = tmp_path / "loop.onnx"
    np.testing.assert_array_equal(export.run(path, x[:, :2], T=2)["spikes"], run(graph, x).output[:, :2])


def test_large_batches_are_cut_into_pieces(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((7, 2)).astype(np.float32)
    for form in export.FORMS:
        path = export.write(small(), tmp_path / "net.onnx", form)
        whole = export.run(path, x, layers=["sn"])
        for name, values in export.run(path, x, layers=["sn"], batch_size=3).items():
            np.testing.assert_array_equal(values, whole[name])


def test_file_is_standard_and_compact(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    w = rng.normal(0, 0.1, (300, 400))
    graph = chain([("in", Input((400,))), ("fc", Linear(w)), ("sn", IF(1.0)), ("out", Output())], 8)
    for integer, form in [(i, f) for i in (False, True) for f in export.FORMS]:
        path = export.write(quantize(graph)[0] if integer else make_exact(graph), tmp_path / "net.onnx", form)
        model = onnx.load(str(path))
        onnx.checker.check_model(model, full_check=True)
        prefix = "Loihi" if integer else ""
        assert path.stat().st_size < (1.1 * 300 * 400 if integer else 1.02 * 4 * 300 * 400)
        assert f"{prefix}IFStep" in {f.name for f in model.functions}
        standard = {(o.domain, o.op_type) for f in model.functions for o in f.node}
        assert {d for d, kind in standard if not kind.endswith("Step")} == {""}  # functions of standard operators
        assert model.opset_import[0].version >= 18
        assert all(n.name for n in model.graph.node)


def test_metadata_says_what_is_needed_to_run_it(tmp_path: Path) -> None:
    graph, _ = quantize(chain([*list(small().nodes.items())], 3, metadata={"source": "a.safetensors", "accuracy": 0.9}))
    facts = export.load(export.write(graph, tmp_path / "net.onnx", "step")).facts
    assert facts["kdsnn_deploy_form"] == "step" and facts["arithmetic"] == "integer" and facts["T"] == 3
    assert facts["input_encoding"] == "direct" and facts["input_scale"] == 255 and facts["readout"] == "rate"
    assert facts["neurons"]["sn"]["threshold"] == graph.neurons["sn"].threshold and facts["latency_steps"] == 1
    assert facts["neurons"]["sn"]["reset"] == "hard" and facts["neurons"]["sn"]["scale"] == graph.neurons["sn"].scale
    assert facts["source"] == {"source": "a.safetensors", "accuracy": 0.9}
    model = onnx.load(str(tmp_path / "net.onnx"))
    assert [i.name for i in model.graph.input] == ["input", "sn/v"]
    assert [o.name for o in model.graph.output] == ["spikes", "sn/v_next"]


def test_names_of_layers_may_be_those_of_inputs_and_outputs(tmp_path: Path) -> None:
    w = np.array([[0.5, 0.25], [1, -1]], np.float32)
    nodes = [("T", Input((2,))), ("spikes", Linear(w)), ("input", IF(0.5)), ("scores", Linear(w)), ("step", IF(0.7))]
    graph = chain([*nodes, ("membrane", Output())], 3)
    assert_equals_emulator(graph, np.ones((2, 2), np.float32), tmp_path)
    assert_equals_emulator(quantize(graph)[0], np.ones((2, 2), np.float32), tmp_path)


def test_verify_counts_differences_per_layer(tmp_path: Path) -> None:
    path = export.write(small(), tmp_path / "net.onnx")
    x = np.array([[1, 0.5]], np.float32)
    expected = np.array([[[0, 0], [1, 0], [1, 0]]])
    assert export.verify(path, x, {"sn": expected}) == {"sn": 2}
    with pytest.raises(export.OnnxError, match="sn gives spikes"):
        export.verify(path, x, {"sn": expected[:, :2]})
    with pytest.raises(export.OnnxError, match="no neuron layer 'other'; it has sn"):
        export.verify(path, x, {"other": expected})


def test_what_integers_do_not_express_is_refused_by_name() -> None:
    pixels, w = ("in", Input((1, 4, 4), "direct", 255)), np.ones((1, 1, 1, 1), np.int32)
    end = [("sn", IF(1)), ("out", Output())]
    with pytest.raises(export.OnnxError, match="mean: in an integer network only neurons read currents"):
        export.build(chain([pixels, ("conv", Conv2d(w)), ("mean", AvgPool2d((2, 2), (2, 2))), *end], 1))
    with pytest.raises(export.OnnxError, match="mean: an average pool of an integer network only sums"):
        export.build(chain([pixels, ("mean", AvgPool2d((2, 2), (2, 2), divisor=4)), ("conv", Conv2d(w)), *end], 1))
    with pytest.raises(export.OnnxError, match=r"conv: its currents can reach .* exactly"):
        export.build(chain([pixels, ("conv", Conv2d(w * 100_000)), *end], 1))
    with pytest.raises(export.OnnxError, match="sn: a bias of"):
        export.build(chain([pixels, ("conv", Conv2d(w, np.array([2**23]))), *end], 1))
    with pytest.raises(export.OnnxError, match="the form is 'unrolled'; choose sequence, loop, step"):
        export.build(small(), "unrolled")  # type: ignore[arg-type]

    lasting = [("fc", Linear(np.array([[40_000]], np.int32))), ("sn", LIF(9, 0.5, current_leak=0.5)), ("out", Output())]
    with pytest.raises(
        export.OnnxError, match=r"sn: its currents can reach 1\.02e\+07, and where they persist only 2\^23"
    ):
        export.build(chain([("in", Input((1,), "direct", 255)), *lasting], 2))


def test_average_pools_that_divide(tmp_path: Path) -> None:
    """As `from_torch` leaves them, before `make_exact` turns them into sums. Dyadic numbers, so that no sum rounds."""
    w = np.random.default_rng(2).integers(-8, 16, (3, 2, 2, 2)) / 8
    graph = chain(
        [
            ("in", Input((2, 8, 8), "spikes")), ("pool", AvgPool2d((2, 2), (2, 2), (1, 1), 4)), ("c", Conv2d(w)),
            ("sn", IF(1.5)), ("out", Output()),
        ],
        4,
    )  # fmt: skip
    x = (np.random.default_rng(0).random((3, 4, 2, 8, 8)) < 0.4).astype(np.float32)
    assert 0.05 < assert_equals_emulator(graph, x, tmp_path).spikes["sn"].mean() < 0.95


def test_a_failed_export_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args, **kwargs):
        raise onnx.checker.ValidationError("no\nreally")

    monkeypatch.setattr(onnx.checker, "check_model", fail)
    with pytest.raises(export.OnnxError, match=r"^net\.onnx: the model is not valid ONNX \(no\)$"):
        export.write(small(), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_teachers_export(tmp_path: Path) -> None:
    import torch
    from torch import nn

    for name, (shape, options) in MODELS.items():
        teacher = build_model(name, spiking=False, input_shape=shape, classes=10, **options)
        randomize(teacher, 2)
        path = tmp_path / f"{name}.onnx"
        export.write_ann(teacher, shape, path)
        model = onnx.load(str(path))
        assert "BatchNormalization" not in {n.op_type for n in model.graph.node} or name == "wrn16-2"
        assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
        assert next(teacher.parameters()).dtype == torch.float64  # the module stays as it was

    class Odd(nn.Module):
        def forward(self, x):
            raise RuntimeError("not\ntoday")

    with pytest.raises(export.OnnxError, match=r"odd\.onnx: the network cannot be exported \(not\)"):
        export.write_ann(Odd(), (3,), tmp_path / "odd.onnx")

    class Branches(nn.Module):
        """What the first sample takes is all that a traced model can do."""

        def forward(self, x):
            return x if x.shape[0] == 1 else 2 * x

    with pytest.raises(
        export.OnnxError, match=r"^odd\.onnx: the exported model's logits differ from torch's by 0\.\d+$"
    ):
        export.write_ann(Branches(), (3,), tmp_path / "odd.onnx")
    assert not (tmp_path / "odd.onnx").exists()


def test_neurons_are_functions_of_these_names() -> None:
    """The names are part of the file format, and each is made from what the neurons do."""
    layers = {
        "IF": IF(2), "IFSoft": IF(2, "soft"), "LIF": LIF(2, 0.5), "LIFSoft": LIF(2, 0.5, "soft"), "I": Output("membrane"),
        "CubaLIF": LIF(2, 0.5, current_leak=0.5), "CubaLIFSoft": LIF(2, 0.5, "soft", current_leak=0.5),
    }  # fmt: skip
    for name, layer in layers.items():
        assert kind_of(layer, integer=True).name == f"Loihi{name}"
        # in float32 a persistent current has the membrane's own unit
        assert kind_of(layer, integer=False).name == name.removeprefix("Cuba")
        assert {kind_of(layer, integer=integer) for integer in (False, True)} <= set(KINDS)
        if not isinstance(layer, Output):  # only all steps know where they start
            kinds = [kind_of(replace(layer, start=start), integer=True) for start in (0, 1)]
            assert [kind.name for kind in kinds] == [f"Loihi{name}", f"Loihi{name}From"]
            assert kinds[0].step_name == kinds[1].step_name
            assert kinds[1] in KINDS
    # a membrane that is read saturates where a current wraps; in float32 both are one function
    leaking = Output("membrane", leak=0.5)
    assert [kind_of(leaking, integer=integer).name for integer in (True, False)] == ["LoihiLIMembrane", "LI"]
    assert {kind_of(leaking, integer=integer) for integer in (False, True)} <= set(KINDS)
    assert len(functions.ALL_STEPS) == len(KINDS) == 25
    assert len(functions.STEPS) == 15
