"""Files that may be broken or hostile are looked through here before a runtime sees them.

A model can ask for any amount of memory or time in a few bytes: a size of 10⁹, a loop of 10¹² steps, a
constant that lies about its length, functions that call themselves, weights in another file. So only what
this program writes is accepted: its operators, its local functions to the byte, and tensors whose
shapes, worked out for one sample, stay within bounds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from exporters.onnx import functions
from exporters.onnx.facts import OnnxError, first_line, parse
from exporters.onnx.operators import DOMAIN, OPSETS, producer
from exporters.onnx.outline import LOOPS, MAX_ELEMENTS, Outline, outline

MAX_BYTES = 2**31
"""A file has at most this many bytes, which is what protobuf can hold."""
MAX_NODES = 20_000
MAX_TOTAL = 2**30
"""All tensors of one sample together have at most this many elements: a model can keep them all until its end."""
MAX_WORK = 2**40
"""One sample takes at most this many multiplications and comparisons, those of ImageNet's ResNet-18 for 150 steps:
runtimes cannot be
interrupted."""
OPERATORS = {
    "Add", "AveragePool", "Cast", "Clip", "Conv", "ConvInteger", "Div", "Flatten", "Gather", "Gemm", "Identity",
    "Loop", "MatMul", "MatMulInteger", "MaxPool", "Mul", "ReduceMean", "Reshape", "Round", "Scan", "Transpose",
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
    proto = read_proto(path)
    try:
        facts = parse(proto)
        for part in _graphs(proto.graph):
            del part.value_info[:]  # for viewers; a stranger's claims about shapes are not believed
        _check_structure(proto, facts["T"])
        return CheckedModel(path, proto, facts, _largest_tensor(proto, facts))
    except OnnxError as error:
        raise OnnxError(f"{path.name}: {error}") from error
    except Exception as error:  # onnx's shape inference raises a handful of unrelated types
        raise OnnxError(f"{path.name}: the model is damaged inside ({first_line(error)})") from error


def read_proto(path: Path) -> onnx.ModelProto:
    """A file is read as a model, and nothing of it is looked at.

    Raises:
        OnnxError: no such file, or not a model.
    """
    if not path.is_file():
        raise OnnxError(f"{path}: no such file")
    if path.stat().st_size > MAX_BYTES:
        raise OnnxError(f"{path.name}: it is larger than the {MAX_BYTES >> 30} GB that an ONNX model can have")
    try:
        return onnx.load_model_from_string(path.read_bytes())
    except Exception as error:  # protobuf's own types differ between its implementations
        raise OnnxError(f"{path.name}: not a readable ONNX model; it is truncated or of another kind") from error


def require_inside(tensor: onnx.TensorProto) -> None:
    """Raise OnnxError for a constant whose numbers are in another file."""
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        raise OnnxError(f"{tensor.name[:60]}: its weights are in another file, which is not followed")


def work(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """An operator takes this many multiplications or comparisons for one sample."""
    size = math.prod(shapes[node.output[0]])
    if node.op_type in ("Conv", "ConvInteger"):  # weights per output channel
        return size * math.prod(shapes[node.input[1]][1:])
    if node.op_type in ("Gemm", "MatMul", "MatMulInteger"):
        return size * max(shapes[node.input[0]], default=1)
    window = next((a.ints for a in node.attribute if a.name == "kernel_shape"), ())
    return size * math.prod(window)


# -- inside ------------------------------------------------------------------------------------------


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph comes first, then the bodies of its loops; a loop within a loop is not ours."""
    yield graph
    for outer in graph.node:
        for attribute in outer.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH and outer.op_type in LOOPS:
                yield attribute.g


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    """The tensors that come into being here and not in its loops' bodies."""
    yield from (value.name for value in graph.input)
    yield from (tensor.name for tensor in graph.initializer)
    yield from (name for node in graph.node for name in node.output if name)


def _check_structure(proto: onnx.ModelProto, T: int) -> None:
    graph = proto.graph
    bodies = list(_graphs(graph))
    if sum(len(g.node) for g in bodies) > MAX_NODES:
        raise OnnxError(f"more than {MAX_NODES} operators")
    known = _check_functions(proto, _opset(proto))
    made = Counter(name for part in bodies for name in _names(part))
    twice = next((name for name, times in made.items() if times > 1), None)
    if twice is not None:
        raise OnnxError(f"two tensors are called {twice[:60]}")
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
        if steps.size != 1 or int(steps.flat[0]) != T:
            raise OnnxError(f"T is {steps.tolist()}, but its metadata say {T}")


def _opset(proto: onnx.ModelProto) -> int:
    opset = next((entry.version for entry in proto.opset_import if not entry.domain), 0)
    if opset not in OPSETS:
        raise OnnxError(f"its opset is {opset}; this program writes {OPSETS[0]} to {OPSETS[-1]}")
    return opset


def _check_functions(proto: onnx.ModelProto, opset: int) -> set[str]:
    known = set()
    for function in proto.functions:
        try:
            expected = functions.make(function.name, opset)
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
            node.op_type not in LOOPS or inside or attribute.type == onnx.AttributeProto.GRAPHS
        ):
            raise OnnxError(f"{where} holds a graph of its own")
    if node.op_type in LOOPS and (inside or sorted(a.name for a in node.attribute) != LOOPS[node.op_type]):
        raise OnnxError(f"{where} is not as this program writes it")
    if node.op_type == "Loop" and list(node.input[:2]) != ["T", ""]:
        raise OnnxError(f"{where} does not run for T steps")
    takes = list(functions.make(node.op_type).input) if own else []
    if "T" in takes and (len(node.input) != len(takes) or node.input[takes.index("T")] != "T"):
        raise OnnxError(f"{where} does not run for T steps")


def _check_tensor(tensor: onnx.TensorProto) -> None:
    """The constant must hold as many numbers as it says, in this file."""
    name = tensor.name[:60]
    require_inside(tensor)
    if any(d < 0 for d in tensor.dims) or not tensor.HasField("raw_data"):
        raise OnnxError(f"{name}: not a constant as this program writes them")
    expected = math.prod(tensor.dims) * np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
    if expected != len(tensor.raw_data):
        raise OnnxError(f"{name}: it says {list(tensor.dims)} but holds {len(tensor.raw_data)} bytes, not {expected}")


def _largest_tensor(proto: onnx.ModelProto, facts: dict[str, Any]) -> int:
    """The elements of the largest tensor are counted for one sample, from shapes that onnx works out."""
    drawn = outline(proto.graph, facts)
    model = helper.make_model(drawn.graph, **producer(_opset(proto)))
    inferred = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    largest = max((math.prod(t.dims) for t in proto.graph.initializer), default=0)
    infos = {v.name: v.type.tensor_type.shape for v in (*inferred.input, *inferred.value_info, *inferred.output)}
    shapes = {t.name: tuple(t.dims) for t in inferred.initializer}
    shapes |= {name: tuple(d.dim_value for d in shape.dim) for name, shape in infos.items()}
    total = done = 0
    for node in inferred.node:
        for name in node.output:
            if name not in infos or not all(d.HasField("dim_value") for d in infos[name].dim):
                raise OnnxError(f"the shape of {name[:60]} cannot be worked out")
            size = math.prod(shapes[name])
            largest, total = max(largest, size), total + size
            if size > MAX_ELEMENTS:
                raise OnnxError(f"{name[:60]} would have {size:.3g} elements for one sample")
        in_body = node.output[0] in drawn.repeated
        done += work(node, shapes) * (facts["T"] if in_body or facts["kdsnn_deploy_form"] == "step" else 1)
    _check_steps(drawn, shapes, facts["T"])
    if total > MAX_TOTAL:
        raise OnnxError(f"its tensors would have {total:.3g} elements together for one sample")
    if done > MAX_WORK:
        raise OnnxError(f"one sample would take {done:.3g} multiplications and comparisons")
    return largest


def _check_steps(drawn: Outline, shapes: Mapping[str, tuple[int, ...]], T: int) -> None:
    """States must not grow from step to step, and a scan runs for as many steps as what it reads has."""
    for before, after in drawn.states:
        if shapes[before] != shapes[after]:
            raise OnnxError(f"{before[:60]} has shape {shapes[before]}, and {shapes[after]} one step later")
    for name in drawn.scanned:
        if shapes[name][:1] != (T,):
            raise OnnxError(f"{name[:60]} has shape {shapes[name]}; a scan over it does not run for T steps")
