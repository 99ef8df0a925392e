"""The layers of a model are read off its operators and its tensors' names: shapes, parameters, multiply-accumulates."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper, shape_inference

from exporters.graph import Shape
from exporters.onnx.ann_model import AnnModel, sizes
from exporters.onnx.check import CheckedModel, work
from exporters.onnx.facts import spikes_of
from exporters.onnx.operators import IR_VERSION, OPSET
from exporters.onnx.outline import outline

WEIGHTED = ("Conv", "ConvInteger", "Gemm", "MatMul", "MatMulInteger")
"""Operators of multiply-accumulates."""

SHAPED = ("MaxPool", "AveragePool", "Flatten")
"""Others that are layers in a spiking network."""

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
    proto = helper.make_model(drawn, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    inferred = shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True).graph
    shapes = sizes(inferred)
    stored = {t.name: math.prod(t.dims) for t in graph.initializer if t.name.endswith(("/weight", "/bias"))}
    spikes = {spikes_of(name): name for name in neurons}

    def parameters(name: str) -> int:
        return sum(stored.pop(f"{name}/{part}", 0) for part in ("weight", "bias"))

    found = []
    for node in inferred.node:
        output = node.output[0]
        if output in spikes and (name := spikes[output]) in neurons:
            facts = neurons.pop(name)
            kind = "LIF" if "leak" in facts else "IF"
            found.append(OnnxLayer(name, kind, tuple(facts["shape"]), parameters(name), None))
        elif node.op_type in WEIGHTED or node.op_type in SHAPED:
            name, rows = output.rpartition("/")[0] or output, shapes[output][0]
            macs = work(node, shapes) // rows if node.op_type in WEIGHTED else None
            found.append(OnnxLayer(name, node.op_type, shapes[output][1:], parameters(name), macs))
    return found


def ann_layers(model: AnnModel) -> list[OnnxLayer]:
    """An ANN has these operators, in order, with the stored numbers that each is the first to use."""
    shapes = sizes(model.graph)
    stored = {t.name: t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT}
    return list(_operators(model.graph, shapes, stored))


def _operators(
    graph: onnx.GraphProto, shapes: Mapping[str, tuple[int, ...]], stored: dict[str, onnx.TensorProto]
) -> Iterator[OnnxLayer]:
    for node in graph.node:
        shape = shapes[node.output[0]]
        learned = list(node.input)[: STATISTICS.get(node.op_type)]
        parameters = sum(math.prod(stored.pop(name).dims) for name in learned if name in stored)
        if node.op_type in UNSHOWN or (len(shape) < 2 and not parameters):
            continue
        name = (node.name or node.output[0]).strip("/").replace("/", ".")
        macs = work(node, dict(shapes)) if node.op_type in WEIGHTED else None
        yield OnnxLayer(name, node.op_type, shape[1:], parameters, macs)
