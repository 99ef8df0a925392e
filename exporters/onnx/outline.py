"""The outline of a model is its graph for one sample, with no weights and nothing but standard operators, from which onnx
works out every shape without running anything.

Operators of the same shapes stand in for local functions, and one step for the body of a loop.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from exporters.onnx import delay_functions, functions
from exporters.onnx.facts import OnnxError
from exporters.onnx.neuron_kinds import NeuronKind
from exporters.onnx.operators import DOMAIN, constant
from exporters.onnx.operators import node as operator

MAX_ELEMENTS = 2**28
"""One tensor has at most this many elements for one sample and all its steps (1 GB of float32)."""
LOOPS = {"Loop": ["body"], "Scan": ["body", "num_scan_inputs"]}
"""These operators hold a body that they run for every time step; they have these attributes and no others."""


@dataclass(frozen=True, eq=False)
class Outline:
    """An outline, and what of it is a loop's.

    Attributes:
        graph: the outline.
        repeated: tensors that come into being at every step.
        states: pairs of tensors, a loop's state before a step and after it.
        scanned: tensors that are read step by step.
    """

    graph: onnx.GraphProto
    repeated: set[str] = field(default_factory=set)
    states: list[tuple[str, str]] = field(default_factory=list)
    scanned: list[str] = field(default_factory=list)


def outline(graph: onnx.GraphProto, facts: dict[str, Any]) -> Outline:
    """The outline of a model's graph is drawn.

    Raises:
        OnnxError: a size beyond `MAX_ELEMENTS`, or a loop whose body does not fit it.
    """
    drawn = Outline(onnx.GraphProto(name="outline"))
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.INT64 and math.prod(tensor.dims) <= 8:
            drawn.graph.initializer.append(tensor)  # T, and targets of Reshape
        else:
            shape_only = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            drawn.graph.input.append(shape_only)
    drawn.graph.input.extend(_one_sample(value) for value in graph.input)
    for node in graph.node:
        drawn.graph.node.extend(_of_one_step(drawn, node, facts) if node.op_type in LOOPS else _stand_ins(node, facts))
    drawn.graph.output.extend(
        helper.make_tensor_value_info(o.name, o.type.tensor_type.elem_type, None) for o in graph.output
    )
    return drawn


def _one_sample(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    dims = value.type.tensor_type.shape.dim
    if any(d.HasField("dim_value") and not 0 < d.dim_value <= MAX_ELEMENTS for d in dims):
        raise OnnxError(f"{value.name[:60]}: a dimension of {max(d.dim_value for d in dims)}")
    shape = [d.dim_value if d.HasField("dim_value") else 1 for d in dims]
    return helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, shape)


# -- operators in place of functions -----------------------------------------------------------------


def _stand_ins(node: onnx.NodeProto, facts: dict[str, Any]) -> Iterable[onnx.NodeProto]:
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
        return _zeros(node, y)
    if name in functions.ALL_STEPS:
        return [_result(functions.ALL_STEPS[name], x, y)]
    if name in delay_functions.MAKERS:
        return _delay(node, facts)
    state, current = node.input
    return [operator("Identity", [state], [node.output[0]]), _result(functions.STEPS[name], current, y)]


def _result(kind: NeuronKind, current: str, y: str) -> onnx.NodeProto:
    """There are as many spikes or membranes as currents."""
    if not kind.fires:
        return operator("Identity", [current], [y])
    return operator("Cast", [current], [y], to=TensorProto.UINT8 if kind.integer else TensorProto.FLOAT)


def _zeros(node: onnx.NodeProto, y: str) -> list[onnx.NodeProto]:
    zero = np.zeros(1, functions.RESTS[node.op_type])
    shape = [1, *next(a.ints for a in node.attribute)]
    if math.prod(shape) > MAX_ELEMENTS or min(shape) < 1:
        raise OnnxError(f"{y[:60]} would have {math.prod(shape):.3g} elements for one sample")
    size = constant(f"{y}/size", np.array(shape, np.int64))
    return [size, operator("ConstantOfShape", [f"{y}/size"], [y], value=numpy_helper.from_array(zero))]


def _delay(node: onnx.NodeProto, facts: dict[str, Any]) -> list[onnx.NodeProto]:
    name, (x, *others), y = node.op_type, node.input, node.output[-1]
    if name == delay_functions.PLACES:
        return [operator("Cast", [x], [y], to=TensorProto.INT64)]
    if name == delay_functions.READ:
        return [operator("Gather", [x, others[0]], [y], axis=1)]
    if name == delay_functions.READ_EACH:
        return [
            operator("Flatten", [x], [f"{y}/flat"], axis=1),
            operator("Gather", [f"{y}/flat", *others], [y], axis=1),
        ]
    if name == delay_functions.WRITE:
        (now,) = others
        added = [constant(f"{y}/axis", np.array([1])), operator("Unsqueeze", [now, f"{y}/axis"], [f"{y}/now"])]
        added.append(operator("Concat", [x, f"{y}/now"], [y], axis=1))
        return [*added, operator("Identity", [x], [node.output[0]])]
    # behind as many steps of zeros; where each element has its own steps, it also has a place for every step
    twice = operator("Concat", [x, x], [f"{y}/twice"], axis=0)
    places = operator("Concat", [others[1]] * facts["T"], [f"{y}/places"], axis=0)
    return [twice, *([places] if name == delay_functions.ALL_STEPS_EACH else []), operator("Identity", [x], [y])]


# -- one step in place of a loop ---------------------------------------------------------------------


def _of_one_step(drawn: Outline, loop: onnx.NodeProto, facts: dict[str, Any]) -> Iterator[onnx.NodeProto]:
    """A loop's body stands between its states and what it reads, and gives its results."""
    body = next(a.g for a in loop.attribute if a.HasField("g"))
    is_scan = loop.op_type == "Scan"
    reads = next(a.i for a in loop.attribute if a.name == "num_scan_inputs") if is_scan else 0
    entering, inside = (loop.input, body.input) if is_scan else (loop.input[2:], body.input[2:])
    leaving = body.output if is_scan else body.output[1:]
    count, results = len(entering) - reads, len(loop.output) - len(entering) + reads
    fits = len(inside) == len(entering) and len(leaving) == len(loop.output) and count >= 0
    if not fits or results < 1 or (reads < 1 if is_scan else results > 1):
        raise OnnxError("the loop's body does not fit the loop")
    if not is_scan:
        yield constant(body.input[0].name, np.array(0))
        yield constant(body.input[1].name, np.array(True))
    for outer, inner in zip(entering[:count], inside[:count], strict=True):
        yield operator("Identity", [outer], [inner.name])
    for outer, inner in zip(entering[count:], inside[count:], strict=True):
        yield constant(f"{inner.name}/first", np.array(0))
        yield operator("Gather", [outer, f"{inner.name}/first"], [inner.name], axis=0)
    for node in body.node:
        for stand_in in _stand_ins(node, facts):
            drawn.repeated.update(stand_in.output)
            yield stand_in
    for inner, outer in zip(leaving[:count], loop.output[:count], strict=True):
        yield operator("Identity", [inner.name], [outer])
    for inner, outer in zip(leaving[count:], loop.output[count:], strict=True):
        yield constant(f"{outer}/axis", np.array([0]))
        yield operator("Unsqueeze", [inner.name, f"{outer}/axis"], [f"{outer}/first" if is_scan else outer])
        if is_scan:
            yield operator("Concat", [f"{outer}/first"] * facts["T"], [outer], axis=0)
    drawn.states.extend(zip(entering[:count], (inner.name for inner in leaving[:count]), strict=True))
    drawn.scanned.extend(entering[count:])
