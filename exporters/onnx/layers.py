"""The layers of a model are read off its operators and its tensors' names: shapes, parameters, multiply-accumulates."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper, shape_inference

from exporters.graph import Shape
from exporters.onnx.ann_model import AnnModel, sizes
from exporters.onnx.check import CheckedModel
from exporters.onnx.facts import spikes_of
from exporters.onnx.outline import outline

WEIGHTED = ("Conv", "ConvInteger", "Gemm", "MatMul", "MatMulInteger")
"""Operators of multiply-accumulates."""

UNSHOWN = ("Constant", "Identity", "Shape", "ConstantOfShape", "Cast")
"""Operators of an ANN that are no layers."""

STATISTICS = {"BatchNormalization": 3}
"""From this input on it holds what was measured and not learned."""


@dataclass(frozen=True)
class OnnxLayer:
    """A layer of a model gives out `shape` without batch, for which one time step takes `macs` dense multiply-accumulates; None
    where it does none. `parameters` are stored numbers, each counted with the first layer that uses it."""

    name: str
    kind: str
    shape: Shape
    parameters: int
    macs: int | None


def spiking_layers(model: CheckedModel) -> list[OnnxLayer]:
    """A spiking model of this program has synapses, pools, and neurons, in order; their metadata says more of these."""
    graph, neurons = model.proto.graph, dict(model.facts["neurons"])
    drawn = outline(graph, model.facts).graph
    opset = [found for found in model.proto.opset_import if found.domain == ""]
    proto = helper.make_model(drawn, opset_imports=opset, ir_version=model.proto.ir_version)
    inferred = shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True).graph
    shapes = sizes(inferred)
    stored = {t.name: math.prod(t.dims) for t in graph.initializer if t.name.endswith(("/weight", "/bias"))}
    stored.pop("zero_points/weight", None)  # what integer operators subtract from weights
    spikes = {spikes_of(name): name for name in neurons}

    def parameters(name: str) -> int:
        return sum(stored.pop(f"{name}/{part}", 0) for part in ("weight", "bias"))

    found = []
    for node in inferred.node:
        output = node.output[0]
        if output in spikes and (name := spikes[output]) in neurons:
            facts = neurons.pop(name)
            kind = "LIF" if isinstance(facts, dict) and "leak" in facts else "IF"
            found.append(OnnxLayer(name, kind, shapes[output][1:], parameters(name), None))
        elif output.endswith(
            "/pooled"
        ):  # an average pool of integers is a convolution of ones, which are no parameters
            stored.pop(f"{output.rpartition('/')[0]}/weight", None)
            kind = "MaxPool" if node.op_type == "MaxPool" else "AveragePool"
            found.append(OnnxLayer(output.rpartition("/")[0], kind, shapes[output][1:], 0, None))
        elif node.op_type in WEIGHTED or node.op_type == "Flatten":
            name, rows = output.rpartition("/")[0] or output, shapes[output][0]
            macs = _macs(node, shapes) // rows if node.op_type in WEIGHTED else None
            found.append(OnnxLayer(name, node.op_type, shapes[output][1:], parameters(name), macs))
    left: dict[str, int] = {}
    for name, size in stored.items():  # a bias of a read-out, which is no operator
        left[name.rpartition("/")[0]] = left.get(name.rpartition("/")[0], 0) + size
    return [*found, *(OnnxLayer(name, "bias", (), size, None) for name, size in left.items())]


def ann_layers(model: AnnModel) -> list[OnnxLayer]:
    """An ANN has these operators, in order, with the stored numbers that each is the first to use."""
    shapes = sizes(model.graph)
    stored = {t.name: math.prod(t.dims) for t in model.graph.initializer if t.data_type == TensorProto.FLOAT}
    return list(_operators(model.graph, shapes, stored))


def _operators(
    graph: onnx.GraphProto, shapes: Mapping[str, tuple[int, ...]], stored: dict[str, int]
) -> Iterator[OnnxLayer]:
    # torch's exporter keeps numbers that are equal once, and gives each parameter its name by an Identity
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in stored:
            stored[node.output[0]] = stored[node.input[0]]
    for node in graph.node:
        shape = shapes[node.output[0]]
        learned = list(node.input)[: STATISTICS.get(node.op_type)]
        if node.op_type in UNSHOWN:
            continue
        parameters = sum(stored.pop(name) for name in learned if name in stored)
        if len(shape) < 2 and not parameters:
            continue
        name = (node.name or node.output[0]).strip("/").replace("/", ".")
        macs = _macs(node, shapes) if node.op_type in WEIGHTED else None
        yield OnnxLayer(name, node.op_type, shape[1:], parameters, macs)


def _macs(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """All outputs together take so many multiply-accumulates."""
    size = math.prod(shapes[node.output[0]])
    if node.op_type in ("Conv", "ConvInteger"):
        return size * math.prod(shapes[node.input[1]][1:])
    transposed = any(a.name == "transA" and a.i for a in node.attribute)
    return size * shapes[node.input[0]][0 if transposed else -1]
