"""Files that may be broken or hostile are looked through here before a runtime sees them.

A model can ask for any amount of memory or time in a few bytes: a size of 10⁹, a loop of 10¹² steps, a
constant that lies about its length, functions that call themselves, weights in another file. So only what
this program writes is accepted: its operators, its local functions to the byte, and tensors whose
shapes, worked out for one sample, stay within bounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from exporters.onnx import functions
from exporters.onnx.facts import MAX_T, OnnxError, first_line, parse
from exporters.onnx.neuron_kinds import NeuronKind
from exporters.onnx.operators import DOMAIN, IR_VERSION, OPSET
from exporters.onnx.operators import node as operator

MAX_BYTES = 2**31
"""A file has at most this many bytes, which is what protobuf can hold."""
MAX_NODES = 20_000
MAX_ELEMENTS = 2**28
"""One tensor has at most this many elements for one sample and all its steps (1 GB of float32)."""
MAX_TOTAL = 2**30
"""All tensors of one sample together have at most this many elements: a model can keep them all until its end."""
MAX_WORK = 2**40
"""One sample takes at most this many multiplications and comparisons, those of ImageNet's ResNet-18 for 150 steps:
runtimes cannot be
interrupted."""
OPERATORS = {
    "Add", "AveragePool", "Cast", "Clip", "Conv", "ConvInteger", "Div", "Flatten", "Gather", "Gemm", "Identity",
    "Loop", "MatMul", "MatMulInteger", "MaxPool", "Mul", "ReduceMean", "Reshape", "Round", "Transpose",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class CheckedModel:
    """The model was looked through and may be run.

    Attributes:
        path: where it came from.
        proto: the model.
        facts: its metadata (`exporters.onnx.facts`), parsed.
        largest: elements of the largest tensor for one sample (all T steps in a sequence, one step otherwise).
    """

    path: Path
    proto: onnx.ModelProto
    facts: dict[str, Any]
    largest: int

    @property
    def form(self) -> str:
        """The model's form is sequence, loop or step."""
        return str(self.facts["kdsnn_deploy_form"])


def load(path: Path) -> CheckedModel:
    """A model of this program is read and looked through.

    Raises:
        OnnxError: no such file, not a model, or one that this program would not have written; in one line.
    """
    if not path.is_file():
        raise OnnxError(f"{path}: no such file")
    if path.stat().st_size > MAX_BYTES:
        raise OnnxError(f"{path.name}: it is larger than the {MAX_BYTES >> 30} GB that an ONNX model can have")
    try:
        proto = onnx.load_model_from_string(path.read_bytes())
    except Exception as error:  # protobuf's own types differ between its implementations
        raise OnnxError(f"{path.name}: not a readable ONNX model; it is truncated or of another kind") from error
    try:
        facts = parse(proto)
        _check_structure(proto)
        return CheckedModel(path, proto, facts, _largest_tensor(proto, facts))
    except OnnxError as error:
        raise OnnxError(f"{path.name}: {error}") from error
    except Exception as error:  # onnx's shape inference raises a handful of unrelated types
        raise OnnxError(f"{path.name}: the model is damaged inside ({first_line(error)})") from error


# -- inside ------------------------------------------------------------------------------------------


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph comes first, then the body of its loop; a loop within a loop is not ours."""
    yield graph
    for outer in graph.node:
        for attribute in outer.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH and outer.op_type == "Loop":
                yield attribute.g


def _check_structure(proto: onnx.ModelProto) -> None:
    graph = proto.graph
    bodies = list(_graphs(graph))
    if sum(len(g.node) for g in bodies) > MAX_NODES:
        raise OnnxError(f"more than {MAX_NODES} operators")
    known = _check_functions(proto)
    for part in bodies:
        for node in part.node:
            _check_node(node, known, inside=part is not graph)
        for tensor in (*part.initializer, *(a.t for n in part.node for a in n.attribute if a.HasField("t"))):
            _check_tensor(tensor)
        if part.sparse_initializer:
            raise OnnxError("sparse weights, which this program does not write")
    constants = {t.name: t for t in graph.initializer}
    if "T" in constants:
        steps = numpy_helper.to_array(constants["T"])
        if steps.size != 1 or not 1 <= int(steps.flat[0]) <= MAX_T:
            raise OnnxError(f"T is {steps.tolist()}; it must be from 1 to {MAX_T}")


def _check_functions(proto: onnx.ModelProto) -> set[str]:
    known = set()
    for function in proto.functions:
        try:
            expected = functions.make(function.name)
        except KeyError:
            raise OnnxError(f"the local function {function.name[:60]!r} is not of this program") from None
        if function.domain != DOMAIN or function.SerializeToString() != expected.SerializeToString():
            raise OnnxError(f"the local function {function.name} differs from this program's; export the network again")
        known.add(function.name)
    return known


def _check_node(node: onnx.NodeProto, known: set[str], *, inside: bool) -> None:
    where = f"the operator {node.op_type[:60]} ({node.name[:60]})"
    own = node.domain == DOMAIN
    if node.op_type not in (known if own else OPERATORS) or (node.domain and not own):
        raise OnnxError(f"{where} is not one that this program writes")
    for attribute in node.attribute:
        if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) and (
            node.op_type != "Loop" or inside or attribute.type == onnx.AttributeProto.GRAPHS
        ):
            raise OnnxError(f"{where} holds a graph of its own")
    if node.op_type == "Loop" and list(node.input[:2]) != ["T", ""]:
        raise OnnxError(f"{where} does not run for T steps")
    takes_steps = own and "T" in functions.make(node.op_type).input
    if takes_steps and list(node.input[1:]) != ["T"]:
        raise OnnxError(f"{where} does not run for T steps")


def _check_tensor(tensor: onnx.TensorProto) -> None:
    """The constant must hold as many numbers as it says, in this file."""
    name = tensor.name[:60]
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        raise OnnxError(f"{name}: its weights are in another file, which is not followed")
    if any(d < 0 for d in tensor.dims) or not tensor.HasField("raw_data"):
        raise OnnxError(f"{name}: not a constant as this program writes them")
    expected = math.prod(tensor.dims) * np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
    if expected != len(tensor.raw_data):
        raise OnnxError(f"{name}: it says {list(tensor.dims)} but holds {len(tensor.raw_data)} bytes, not {expected}")


def _largest_tensor(proto: onnx.ModelProto, facts: dict[str, Any]) -> int:
    """The elements of the largest tensor are counted for one sample, from shapes that onnx works out."""
    outline = helper.make_model(
        _outline(proto.graph, facts), opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )  # fmt: skip
    inferred = shape_inference.infer_shapes(outline, strict_mode=True, data_prop=True).graph
    largest = max((math.prod(t.dims) for t in proto.graph.initializer), default=0)
    infos = {v.name: v.type.tensor_type.shape for v in (*inferred.input, *inferred.value_info, *inferred.output)}
    shapes = {t.name: tuple(t.dims) for t in inferred.initializer}
    shapes |= {name: tuple(d.dim_value for d in shape.dim) for name, shape in infos.items()}
    total = work = 0
    for node in inferred.node:
        for name in node.output:
            if name not in infos or not all(d.HasField("dim_value") for d in infos[name].dim):
                raise OnnxError(f"the shape of {name[:60]} cannot be worked out")
            size = math.prod(shapes[name])
            largest, total = max(largest, size), total + size
            if size > MAX_ELEMENTS:
                raise OnnxError(f"{name[:60]} would have {size:.3g} elements for one sample")
        work += _work(node, shapes)
    steps = 1 if facts["kdsnn_deploy_form"] == "sequence" else facts["T"]
    if total > MAX_TOTAL:
        raise OnnxError(f"its tensors would have {total:.3g} elements together for one sample")
    if work * steps > MAX_WORK:
        raise OnnxError(f"one sample would take {work * steps:.3g} multiplications and comparisons")
    return largest


def _work(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> int:
    """An operator takes this many multiplications or comparisons for one sample."""
    size = math.prod(shapes[node.output[0]])
    if node.op_type in ("Conv", "ConvInteger"):  # weights per output channel
        return size * math.prod(shapes[node.input[1]][1:])
    if node.op_type in ("Gemm", "MatMul", "MatMulInteger"):
        return size * max(shapes[node.input[0]], default=1)
    window = next((a.ints for a in node.attribute if a.name == "kernel_shape"), ())
    return size * math.prod(window)


def _outline(graph: onnx.GraphProto, facts: dict[str, Any]) -> onnx.GraphProto:
    """The outline is the graph for one sample, without its weights, and with operators of the same shapes in place of
    functions."""
    small, shapes_only = [], []
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.INT64 and math.prod(tensor.dims) <= 8:
            small.append(tensor)  # T, and targets of Reshape
        else:
            shapes_only.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    inputs = [_one_sample(value) for value in graph.input]
    nodes = [stand_in for node in graph.node for stand_in in _stand_ins(node, facts)]
    outputs = [helper.make_tensor_value_info(o.name, o.type.tensor_type.elem_type, None) for o in graph.output]
    return helper.make_graph(nodes, "outline", [*inputs, *shapes_only], outputs, small)


def _one_sample(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    dims = value.type.tensor_type.shape.dim
    if any(d.HasField("dim_value") and not 0 < d.dim_value <= MAX_ELEMENTS for d in dims):
        raise OnnxError(f"{value.name[:60]}: a dimension of {max(d.dim_value for d in dims)}")
    shape = [d.dim_value if d.HasField("dim_value") else 1 for d in dims]
    return helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, shape)


def _stand_ins(node: onnx.NodeProto, facts: dict[str, Any]) -> Iterable[onnx.NodeProto]:
    if node.op_type == "Loop":
        return _unrolled_once(node, facts)
    if node.domain != DOMAIN:
        return [node]
    name, x, y = node.op_type, node.input[0], node.output[-1]
    if name == functions.REPEAT:
        return [operator("Concat", [x] * facts["T"], [y], axis=0)]
    if name == functions.OFFSET:
        return [operator("Cast", [x], [y], to=TensorProto.UINT8)]
    if name in functions.WRAPS:
        return [operator("Identity", [x], [y])]
    if name in functions.RESTS:
        zero = np.zeros(1, functions.RESTS[name])
        shape = [1, *next(a.ints for a in node.attribute)]
        if math.prod(shape) > MAX_ELEMENTS or min(shape) < 1:
            raise OnnxError(f"{y[:60]} would have {math.prod(shape):.3g} elements for one sample")
        size = operator("Constant", [], [f"{y}/size"], value=numpy_helper.from_array(np.array(shape, np.int64)))
        return [size, operator("ConstantOfShape", [f"{y}/size"], [y], value=numpy_helper.from_array(zero))]
    if name in functions.ALL_STEPS:
        return [_result(functions.ALL_STEPS[name], x, y)]
    state, current = node.input
    return [operator("Identity", [state], [node.output[0]]), _result(functions.STEPS[name], current, y)]


def _result(kind: NeuronKind, current: str, y: str) -> onnx.NodeProto:
    """There are as many spikes or membranes as currents."""
    if not kind.fires:
        return operator("Identity", [current], [y])
    return operator("Cast", [current], [y], to=TensorProto.UINT8 if kind.integer else TensorProto.FLOAT)


def _unrolled_once(loop: onnx.NodeProto, facts: dict[str, Any]) -> Iterator[onnx.NodeProto]:
    """One step stands for the loop: its body between its membranes, its results as the first of T."""
    body = next(a.g for a in loop.attribute if a.HasField("g"))
    states = len(loop.input) - 2
    if len(body.input) != states + 2 or len(body.output) != states + 2 or len(loop.output) != states + 1:
        raise OnnxError("the loop's body does not fit the loop")
    entering: list[tuple[str, Any]] = [(body.input[0].name, np.array(0)), (body.input[1].name, np.array(True))]
    for name, value in entering:
        yield operator("Constant", [], [name], value=numpy_helper.from_array(value))
    for outside, inside in zip(loop.input[2:], body.input[2:], strict=True):
        yield operator("Identity", [outside], [inside.name])
    for node in body.node:
        yield from _stand_ins(node, facts)
    for inside, outside in zip(body.output[1:-1], loop.output[:-1], strict=True):
        yield operator("Identity", [inside.name], [outside])
    first, result = f"{loop.output[-1]}/first", body.output[-1].name
    yield operator("Constant", [], [first], value=numpy_helper.from_array(np.array([0])))
    yield operator("Unsqueeze", [result, first], [loop.output[-1]])
