"""What a viewer shows of a model: shapes along its edges, names of weights, who wrote it, and in which opset."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper
from spikingjelly.activation_based import layer, neuron

import kdsnn
from exporters import onnx as export
from exporters.from_torch import from_torch
from exporters.graph import SpikingGraph
from exporters.passes.exact import make_exact
from exporters.passes.quantize import quantize
from exporters.version import VERSION
from hardware.emulator import Recorder, run
from kdsnn.models import build
from tests.networks import Case, random_recurrent, randomize, spiking_modules

FEW = settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
N = 3


def tensors(graph: onnx.GraphProto) -> Iterator[tuple[onnx.GraphProto, str]]:
    """Every tensor that an operator gives, with the graph it is in."""
    for node in graph.node:
        for name in filter(None, node.output):
            yield graph, name
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from tensors(attribute.g)


def said(graph: onnx.GraphProto) -> dict[str, onnx.TypeProto.Tensor]:
    return {v.name: v.type.tensor_type for v in (*graph.value_info, *graph.output)}


def assert_shapes_are_those_of_a_run(model: onnx.ModelProto, feed: dict[str, np.ndarray], T: int) -> None:
    """onnxruntime gives every tensor outside of loops; each must have the type and shape that the model says."""
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    known = {o.name for o in whole.graph.output}
    names = [name for graph, name in tensors(model.graph) if graph is model.graph]
    whole.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    found = onnxruntime.InferenceSession(whole.SerializeToString(), options).run(names, feed)
    sizes = {"N": N, "T": T, "T*N": T * N}
    for name, value in zip(names, found, strict=True):
        info = said(model.graph)[name]
        assert helper.tensor_dtype_to_np_dtype(info.elem_type) == value.dtype, name
        assert tuple(d.dim_value or sizes.get(d.dim_param, d.dim_param or 0) for d in info.shape.dim) == value.shape, (
            name
        )
    for graph, name in tensors(model.graph):
        assert said(graph)[name].HasField("shape"), name
        assert not any(d.dim_param.startswith("unk") for d in said(graph)[name].shape.dim), name


def feed_of(graph: SpikingGraph, model: onnx.ModelProto, form: str) -> dict[str, np.ndarray]:
    sizes = {"N": N, "T": graph.T}
    feed = {}
    for info in model.graph.input:
        tensor = info.type.tensor_type
        shape = [d.dim_value or sizes[d.dim_param] for d in tensor.shape.dim]
        feed[info.name] = np.zeros(shape, helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return feed | ({"T": np.array(graph.T, np.int64)} if form == "loop" else {})


@pytest.mark.parametrize("form", export.FORMS)
@FEW
@given(spiking_modules(), st.booleans())
def test_every_tensor_has_the_shape_of_a_run(form: export.Form, case: Case, integer: bool) -> None:
    graph = from_torch(case.module, case.shape, case.T)
    graph = quantize(graph)[0] if integer else graph
    model = export.build(graph, form)
    assert_shapes_are_those_of_a_run(model, feed_of(graph, model, form), graph.T)


@pytest.mark.parametrize("form", export.FORMS)
@FEW
@given(st.integers(0, 10**6), st.booleans(), st.sampled_from(["spikes", "frames", "direct"]))
def test_so_have_delays_and_loops(form: export.Form, seed: int, integer: bool, encoding: str) -> None:
    graph = random_recurrent(seed, integer=integer, encoding=encoding)
    model = export.build(graph, form)
    assert_shapes_are_those_of_a_run(model, feed_of(graph, model, form), graph.T)


def test_what_a_strangers_file_says_of_shapes_is_not_believed(tmp_path: Path) -> None:
    graph = random_recurrent(1, integer=False, encoding="direct")
    path = export.write(graph, tmp_path / "net.onnx")
    x = np.random.default_rng(0).random((2, *graph.input.shape)).astype(np.float32)
    expected = export.run(path, x)
    model = onnx.load(str(path))
    for info in model.graph.value_info:
        info.CopyFrom(helper.make_tensor_value_info(info.name, onnx.TensorProto.FLOAT, [10**9, 10**9]))
    onnx.save(model, str(path))
    for name, values in export.run(path, x).items():
        np.testing.assert_array_equal(values, expected[name])


@pytest.mark.parametrize("opset", export.OPSETS)
def test_every_opset_gives_the_same_spikes(tmp_path: Path, opset: int) -> None:
    student = build("cnn2", spiking=True, input_shape=(1, 8, 8), classes=3, channels=(2, 3), hidden=4)
    randomize(student, 1)
    lowered = from_torch(student, (1, 8, 8), 2)
    forms = export.FORMS if opset in (export.OPSETS[0], export.OPSETS[-1]) else ("sequence",)
    recurrent = random_recurrent(3, integer=False, encoding="spikes")
    for graph, form in [
        (quantize(lowered)[0], "sequence"),
        (make_exact(lowered), "loop"),
        *((recurrent, f) for f in forms),
    ]:
        frames = [graph.T] if graph.input.over_time else []
        x = (np.random.default_rng(0).random((2, *frames, *graph.input.shape)) < 0.5).astype(np.float32)
        recorder = Recorder(graph)
        run(graph, graph.encode(x), observe=recorder)
        path = export.write(graph, tmp_path / "net.onnx", form, opset=opset)
        assert not any(export.verify(path, x, recorder.spikes).values())
        model = onnx.load(str(path))
        written = {o.version for part in (model, *model.functions) for o in part.opset_import if not o.domain}
        assert written == {opset}


def test_another_opset_is_refused(tmp_path: Path) -> None:
    graph = random_recurrent(1, integer=False, encoding="direct")
    for opset in (17, 24):
        with pytest.raises(export.OnnxError, match=rf"^opset {opset}: models can be written in opset 18 to 23"):
            export.write(graph, tmp_path / "net.onnx", opset=opset)
        with pytest.raises(export.OnnxError, match=f"^opset {opset}: "):
            export.write_ann(torch.nn.Linear(2, 2), (2,), tmp_path / "ann.onnx", opset=opset)
    assert not list(tmp_path.iterdir())
    path = export.write(graph, tmp_path / "net.onnx")
    model = onnx.load(str(path))
    model.opset_import[0].version = 17
    onnx.save(model, str(path))
    with pytest.raises(export.OnnxError, match=r"net\.onnx: its opset is 17; this program writes 18 to 23"):
        export.load(path)


@pytest.mark.parametrize("opset", [18, 23])
def test_a_teacher_says_the_same_of_itself(tmp_path: Path, opset: int) -> None:
    teacher = build("preresnet20", spiking=False, input_shape=(1, 8, 8), classes=3)
    path = tmp_path / "teacher.onnx"
    source = {"model": "preresnet20", "class_names": ["zero", "one", "two"]}
    export.write_ann(teacher, (1, 8, 8), path, opset=opset, source=source)  # a network of weights that are equal, too
    model = onnx.load(str(path))
    assert (model.producer_name, model.producer_version) == ("kdsnn-deploy", VERSION)
    assert [o.version for o in model.opset_import if not o.domain] == [opset]
    facts = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert facts["T"] == 1 and facts["input_encoding"] == "direct" and facts["input_shape"] == [1, 8, 8]
    assert facts["classes"] == ["zero", "one", "two"] and facts["license"] == "none" and facts["source"] == source
    layers = {name for name, _ in teacher.named_modules()}
    for tensor in model.graph.initializer:
        layer, _, role = tensor.name.rpartition(".")
        assert layer in layers and role in ("weight", "bias", "running_mean", "running_var"), tensor.name
    assert {node.op_type for node in model.graph.node}.isdisjoint({"Identity", "Constant"})
    assert_shapes_are_those_of_a_run(model, {"input": np.zeros((N, 1, 8, 8), np.float32)}, 1)


def test_a_network_says_who_wrote_it_and_what_its_classes_are_called() -> None:
    graph = random_recurrent(1, integer=False, encoding="direct")
    named = SpikingGraph(graph.nodes, graph.edges, graph.T, {"class_names": ["cat", "dog"]})
    for form in export.FORMS:
        model = export.build(named, form)
        assert (model.producer_name, model.producer_version) == ("kdsnn-deploy", VERSION)
        facts = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
        assert facts["classes"] == ["cat", "dog"] and facts["license"] == "none" and facts["T"] == graph.T
        assert all(tensor.name and "::" not in tensor.name for tensor in model.graph.initializer)


def test_export_takes_the_opset(tmp_path: Path) -> None:
    module = torch.nn.Sequential(layer.Linear(4, 3), neuron.IFNode())
    net = kdsnn.lower(module, input_shape=(4,), T=2)
    kdsnn.export(net, tmp_path, to=["onnx"], form=["sequence", "step"], quantized=True, opset=18)
    written = {path.name: onnx.load(str(path)).opset_import[0].version for path in tmp_path.glob("*.onnx")}
    assert len(written) == 4 and set(written.values()) == {18}
    with pytest.raises(kdsnn.UserError, match=r"opset=17: models are written in opset 18 to 23; choose one of these"):
        kdsnn.export(net, tmp_path, opset=17)
    with pytest.raises(kdsnn.UserError, match="opset=18: no ONNX model is asked for; add to=onnx"):
        kdsnn.export(net, tmp_path, to=["netx"], opset=18)
