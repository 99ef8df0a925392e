"""An ANN's `.onnx` file is looked through, run, and read layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from exporters import onnx as export
from exporters.graph import Neuron, SpikingGraph, Synapse
from exporters.onnx.layers import ann_layers, spiking_layers
from profilers.counting.sizes import graph_size, layer_shape
from tests.networks import random_integer_network, random_recurrent

SHAPE = (3, 8, 8)


class Ann(nn.Module):
    """Convolutions, BatchNorm that cannot be folded, a branch, pools, a `view` of the batch's own size, a shared layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.stem = nn.Conv2d(3, 6, 3, padding=1, groups=3)
        self.same = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(96, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(self.norm(x)).relu()
        x = self.pool(x + self.same(self.same(x)).relu())
        return self.fc(x.view(x.size(0), -1))


@pytest.fixture(scope="module")
def ann(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    torch.manual_seed(0)
    module, path = Ann().eval(), tmp_path_factory.mktemp("ann") / "ann.onnx"
    export.write_ann(module, SHAPE, path)
    return module, path


def test_it_computes_what_the_module_does(ann: tuple[nn.Module, Path]) -> None:
    module, path = ann
    model = export.load_ann(path)
    assert not export.is_spiking(path) and (model.input_shape, model.classes) == (SHAPE, 5)
    x = np.random.default_rng(0).random((70, *SHAPE), np.float32)
    with torch.no_grad():
        assert model.session()(x) == pytest.approx(module(torch.from_numpy(x)).numpy(), abs=1e-5)


def test_layers_are_those_of_the_module(ann: tuple[nn.Module, Path]) -> None:
    module, path = ann
    layers = ann_layers(export.load_ann(path))
    assert sum(layer.macs or 0 for layer in layers) == 64 * 6 * 9 + 2 * 64 * 6 * 54 + 5 * 96
    assert sum(layer.parameters for layer in layers) == sum(p.numel() for p in module.parameters())
    assert [x.shape for x in layers if x.kind in ("Conv", "Gemm")] == [(6, 8, 8)] * 3 + [(5,)]
    assert [x.parameters for x in layers if x.kind == "Conv"] == [60, 324, 0]  # the third is the second again


def test_a_fixed_batch_of_one_runs_too(ann: tuple[nn.Module, Path], tmp_path: Path) -> None:
    module, _ = ann
    path = tmp_path / "one.onnx"
    torch.onnx.export(module, (torch.zeros(1, *SHAPE),), str(path), dynamo=False)
    x = np.random.default_rng(0).random((3, *SHAPE), np.float32)
    with torch.no_grad():
        assert export.load_ann(path).session()(x) == pytest.approx(module(torch.from_numpy(x)).numpy(), abs=1e-5)


def test_spiking_models_are_told_apart(tmp_path: Path) -> None:
    path = export.write(random_integer_network(3), tmp_path / "snn.onnx")
    assert export.is_spiking(path)
    with pytest.raises(export.OnnxError, match="operators of other domains"):
        export.load_ann(path)
    with pytest.raises(export.OnnxError, match="no such file"):
        export.is_spiking(tmp_path / "nowhere.onnx")


def _outside(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def _loop(model: onnx.ModelProto) -> None:
    body = helper.make_graph([], "b", [], [])
    model.graph.node.insert(0, helper.make_node("Loop", ["", ""], [], body=body))


def _enormous(model: onnx.ModelProto) -> None:
    size = numpy_helper.from_array(np.array([1, 2**14, 2**14, 4], np.int64), "size")
    model.graph.initializer.append(size)
    model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["size"], ["much"]))


def _second_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, ["N", 3]))


def _bytes(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8


def _foreign(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "com.microsoft"


def _unknown(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "Nonsense"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_outside, "in another file"), (_loop, "graph of its own"), (_enormous, "too many"), (_second_input, "2 inputs"),
        (_bytes, "float32"), (_foreign, "other domains"), (_unknown, "unknown shape"),
    ],
)  # fmt: skip
def test_hostile_files_are_refused(
    ann: tuple[nn.Module, Path], tmp_path: Path, change: Callable[[onnx.ModelProto], None], said: str
) -> None:
    model = onnx.load(ann[1])
    change(model)
    path = tmp_path / "bad.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(export.OnnxError, match=said) as caught:
        export.load_ann(path)
    assert str(caught.value).startswith("bad.onnx: ") and "\n" not in str(caught.value)
    path.write_bytes(model.SerializeToString()[:50])
    with pytest.raises(export.OnnxError):
        export.load_ann(path)


def rows(graph: SpikingGraph) -> dict[str, tuple[tuple[int, ...], int | None]]:
    """Synapse and neuron layers → shape and multiply-accumulates of a step, from the graph itself."""
    return {
        name: (graph.shapes[name], layer_shape(graph, name).macs if isinstance(node, Synapse) else None)
        for name, node in graph.nodes.items()
        if isinstance(node, Synapse | Neuron)
    }


@pytest.mark.parametrize("form", export.FORMS)
def test_layers_of_a_spiking_model_are_those_of_its_graph(tmp_path: Path, form: export.Form) -> None:
    for graph in (random_integer_network(1), random_integer_network(2), random_integer_network(5), random_recurrent(1)):
        model = export.load(export.write(graph, tmp_path / "m.onnx", form))
        found = {layer.name: layer for layer in spiking_layers(model)}
        expected = rows(graph)
        assert {name: (found[name].shape, found[name].macs) for name in expected} == expected
        assert sum(layer.parameters for layer in found.values()) == graph_size(graph).parameters
