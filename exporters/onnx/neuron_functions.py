"""Neurons are local functions made of standard operators; `exporters.onnx.neuron_kinds` says which kinds there are.

The integer kinds are Lava's `PyLifModelBitAcc` (lava-nc 0.10): the current is int32 in units of the integer weights, the
membrane int32 in units of 1/64 of that, saturating at ±(2²³ − 1), the leak (4096 − decay)/4096 truncated toward zero, and a
neuron fires above (threshold − 1)·64. A persistent current has those units of 1/64 too, and wraps.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from exporters.graph.registers import CURRENT_REGISTER, DECAY_ONE, FRACTION, MEMBRANE_REGISTER
from exporters.onnx.neuron_kinds import NeuronKind
from exporters.onnx.operators import DOMAIN, attribute_value, constant, function, node, refer

_INT, _FLOAT = onnx.AttributeProto.INT, onnx.AttributeProto.FLOAT


def one_step(kind: NeuronKind) -> onnx.FunctionProto:
    """One time step of a kind is (v (N, …), current (N, …)) → (v_next, spikes or membrane)."""
    nodes = _integer_step(kind) if kind.integer else _float_step(kind)
    outputs = ["v_next", "spikes" if kind.fires else "membrane"]
    return function(kind.step_name, ["v", "current"], outputs, nodes, kind.attributes)


def all_steps(kind: NeuronKind) -> onnx.FunctionProto:
    """All steps of a kind are (current (T·N, …), T) → (T·N, …): its single step, T times; the state starts at zero,
    or at the attribute `start`, which has the units of a threshold.

    Time is folded into the batch axis, time major.
    """
    state = TensorProto.INT32 if kind.integer else TensorProto.FLOAT
    result = TensorProto.UINT8 if kind.integer and kind.fires else state
    call = node(kind.step_name, ["v", "x"], ["v_next", "y"], domain=DOMAIN)
    for attribute in kind.attributes:
        refer(call, attribute, attribute, _INT if kind.integer else _FLOAT)
    types = {"v": state, "x": state, "v_next": state, "y": result}
    info = [helper.make_tensor_value_info(name, type_, None) for name, type_ in types.items()]
    body = helper.make_graph([call], "one_step", info[:2], info[2:])
    start = "start" if kind.starts else "zero"
    nodes = [
        constant("all", np.array([-1], np.int64)),
        *(_start(integer=kind.integer) if kind.starts else [_zero(integer=kind.integer)]),
        node("Shape", ["current"], ["rest"], start=1),
        node("Concat", ["T", "all", "rest"], ["unfolded"], axis=0),
        node("Reshape", ["current", "unfolded"], ["steps"]),
        node("Shape", ["steps"], ["state"], start=1),
        node("Expand", [start, "state"], ["v_start"]),
        node("Scan", ["v_start", "steps"], ["v_end", "results"], body=body, num_scan_inputs=1),
        node("Concat", ["all", "rest"], ["folded"], axis=0),
        node("Reshape", ["results", "folded"], ["y"]),
    ]
    own = ("start",) if kind.starts else ()
    return function(kind.name, ["current", "T"], ["y"], nodes, (*kind.attributes, *own))


def _zero(*, integer: bool) -> onnx.NodeProto:
    return constant("zero", np.array(0, np.int32 if integer else np.float32))


def _start(*, integer: bool) -> list[onnx.NodeProto]:
    if not integer:
        return [attribute_value("start", "value_float", _FLOAT)]
    return [
        attribute_value("start", "value_int", _INT, output="start_wide"),
        node("Cast", ["start_wide"], ["start_units"], to=TensorProto.INT32),
        constant("fraction", np.int32(FRACTION)),
        node("Mul", ["start_units", "fraction"], ["start"]),
    ]


def turned(x: str, y: str, limit: int) -> list[onnx.NodeProto]:
    """These operators bring a register into −limit (exclusive) to limit: it turns around once, not modulo."""
    return [
        constant("limit", np.int32(limit)),
        constant("minus_limit", np.int32(-limit)),
        constant("turn", np.int32(2 * limit)),
        node("Greater", [x, "limit"], ["above"]),
        node("Sub", [x, "turn"], ["turned_down"]),
        node("Where", ["above", "turned_down", x], ["low"]),
        node("LessOrEqual", ["low", "minus_limit"], ["below"]),
        node("Add", ["low", "turn"], ["turned_up"]),
        node("Where", ["below", "turned_up", "low"], [y]),
    ]


def _float_step(kind: NeuronKind) -> list[onnx.NodeProto]:
    nodes = [attribute_value(name, "value_float", _FLOAT) for name in kind.attributes]
    nodes += [node("Mul", ["v", "leak"], ["kept"])] if kind.leaky else []
    kept = "kept" if kind.leaky else "v"
    if not kind.fires:
        return [*nodes, node("Add", [kept, "current"], ["v_next"]), node("Identity", ["v_next"], ["membrane"])]
    nodes += [
        node("Add", [kept, "current"], ["charged"]),
        node("GreaterOrEqual", ["charged", "threshold"], ["fires"]),
        node("Cast", ["fires"], ["spikes"], to=TensorProto.FLOAT),
    ]
    if kind.soft_reset:
        return [*nodes, node("Mul", ["spikes", "threshold"], ["taken"]), node("Sub", ["charged", "taken"], ["v_next"])]
    return [*nodes, constant("zero", np.float32(0)), node("Where", ["fires", "zero", "charged"], ["v_next"])]


def _integer_step(kind: NeuronKind) -> list[onnx.NodeProto]:
    nodes = [
        constant("fraction", np.int32(FRACTION)),
        constant("lowest", np.int32(-MEMBRANE_REGISTER)),
        constant("highest", np.int32(MEMBRANE_REGISTER)),
        node("Identity", ["current"], ["added"])
        if kind.reads_register
        else node("Mul", ["current", "fraction"], ["added"]),
        *(_decay() if kind.leaky else ()),
        node("Add", ["kept" if kind.leaky else "v", "added"], ["charged"]),
    ]
    state = "saturated" if kind.fires else "v_next"
    if kind.wraps:
        nodes += turned("charged", state, CURRENT_REGISTER)
    else:
        nodes.append(node("Clip", ["charged", "lowest", "highest"], [state]))
    if not kind.fires:
        return [*nodes, node("Identity", ["v_next"], ["membrane"])]
    return [*nodes, *_integer_spikes(soft_reset=kind.soft_reset)]


def _decay() -> list[onnx.NodeProto]:
    # 23 bits times 12 bits need 64; integer division truncates toward zero, as Loihi does
    return [
        attribute_value("decay", "value_int", _INT),
        constant("whole", np.int64(DECAY_ONE)),
        node("Sub", ["whole", "decay"], ["keep"]),
        node("Cast", ["v"], ["v_wide"], to=TensorProto.INT64),
        node("Mul", ["v_wide", "keep"], ["product"]),
        node("Div", ["product", "whole"], ["kept_wide"]),
        node("Cast", ["kept_wide"], ["kept"], to=TensorProto.INT32),
    ]


def _integer_spikes(*, soft_reset: bool) -> list[onnx.NodeProto]:
    return [
        attribute_value("threshold", "value_int", _INT, output="threshold_wide"),
        node("Cast", ["threshold_wide"], ["threshold"], to=TensorProto.INT32),
        node("Mul", ["threshold", "fraction"], ["register"]),
        node("Sub", ["register", "fraction"], ["fires_above"]),
        node("Greater", ["saturated", "fires_above"], ["fires"]),
        node("Cast", ["fires"], ["spikes"], to=TensorProto.UINT8),
        node("Sub", ["saturated", "register"], ["reset"]) if soft_reset else constant("reset", np.int32(0)),
        node("Where", ["fires", "reset", "saturated"], ["v_next"]),
    ]
