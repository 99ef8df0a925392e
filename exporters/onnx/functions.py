"""The local functions of an exported model: neurons, and what else deserves a name in a viewer.

Each neuron exists twice. `IFStep(v, current) → (v_next, spikes)` is one time step. `IF(current, T) →
spikes` is T steps: a `Scan` over `IFStep` with time folded into the batch axis, time major, (T·N, …).
`LIF` leaks, `…Soft` resets by subtraction, `I` integrates and never fires (a membrane read-out), `LI` leaks
and never fires: the synaptic current of a current-based neuron, which a `LIF` reads.

`Loihi…` are the same neurons in the fixed-point arithmetic of Lava's `PyLifModelBitAcc` (lava-nc 0.10):
current int32 in units of the integer weights, membrane int32 in units of 1/64 of that, saturating at
±(2²³ − 1), leak (4096 − decay)/4096 truncated toward zero, firing above (threshold − 1)·64. `LoihiLI` gives
its current, which wraps, in those units of 1/64, and `LoihiCubaLIF` is a `LoihiLIF` that takes them.

Every function is made of standard operators of opset 20; runtimes inline them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from exporters.graph import IF, LIF, Output
from exporters.graph.registers import (
    CONVOLUTION_BITS,
    CURRENT_REGISTER,
    DECAY_ONE,
    DENSE_BITS,
    FRACTION,
    MEMBRANE_REGISTER,
    decay_of,
)

OPSET = 20
IR_VERSION = 10
DOMAIN = "kdsnn.deploy"

REPEAT, AT_REST, OFFSET = "RepeatOverTime", "AtRest", "OffsetBy128"
WRAP, WRAP_DENSE = "Wrap24Bit", "Wrap26Bit"


def node(kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> onnx.NodeProto:
    """An operator; its name in a viewer is that of its first output."""
    return helper.make_node(kind, list(inputs), list(outputs), name=outputs[0], **attributes)


def neuron_kind(layer: IF | LIF | Output, *, integer: bool) -> str:
    """Which function computes a layer, by name; a membrane read-out is an integrator `I`."""
    if isinstance(layer, Output):
        return "LoihiI" if integer else "I"
    kind = type(layer).__name__ + ("" if layer.reset == "hard" else "Soft")
    return f"Loihi{'Cuba' if layer.current_leak else ''}{kind}" if integer else kind


def neuron_attributes(layer: IF | LIF | Output, *, integer: bool) -> dict[str, Any]:
    """The attributes of a call of that function."""
    if isinstance(layer, Output):
        return {}
    found: dict[str, Any] = {"threshold": int(layer.threshold) if integer else float(layer.threshold)}
    if isinstance(layer, LIF):
        found |= {"decay": decay_of(layer.leak)} if integer else {"leak": float(layer.leak)}
    return found


def current_attributes(layer: IF | LIF, *, integer: bool) -> dict[str, Any]:
    """The attributes of a call of `LI`, for a current that persists."""
    leak = layer.current_leak
    return {"decay": decay_of(leak)} if integer else {"leak": float(leak)}


def make(name: str) -> onnx.FunctionProto:
    """The local function of that name.

    Raises:
        KeyError: there is none.
    """
    helpers = {
        REPEAT: _repeat,
        AT_REST: _at_rest,
        f"Loihi{AT_REST}": _at_rest,
        WRAP: _wrap,
        WRAP_DENSE: _wrap,
        OFFSET: _offset,
    }
    if name in helpers:
        return helpers[name](name)
    base = name.removesuffix("Step")
    cuba = base in ("LoihiCubaLIF", "LoihiCubaLIFSoft")
    if not cuba and base.removeprefix("Loihi") not in ("I", "LI", "IF", "LIF", "IFSoft", "LIFSoft"):
        raise KeyError(name)
    return _one_step(name) if name != base else _all_steps(name)


def needs(name: str) -> tuple[str, ...]:
    """The functions that a function calls."""
    is_neuron = name not in (REPEAT, AT_REST, f"Loihi{AT_REST}", WRAP, WRAP_DENSE, OFFSET)
    return (f"{name}Step",) if is_neuron and not name.endswith("Step") else ()


# -- inside ------------------------------------------------------------------------------------------


def _constant(name: str, value: Any) -> onnx.NodeProto:
    return node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(value)))


def _function(
    name: str, inputs: Sequence[str], outputs: Sequence[str], nodes: Sequence[onnx.NodeProto], attributes: Sequence[str]
) -> onnx.FunctionProto:
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_function(DOMAIN, name, list(inputs), list(outputs), list(nodes), opsets, list(attributes))


def _refer(to: onnx.NodeProto, field: str, attribute: str, kind: int) -> onnx.NodeProto:
    """Let an operator's attribute `field` take its value from the function's `attribute`."""
    to.attribute.append(onnx.AttributeProto(name=field, ref_attr_name=attribute, type=kind))  # type: ignore[arg-type]
    return to


def _attribute_names(kind: str) -> list[str]:
    leaky = [] if "LI" not in kind else ["decay" if kind.startswith("Loihi") else "leak"]
    if kind.endswith("LI"):
        return leaky
    return [] if kind.endswith("I") else ["threshold", *leaky]


def _one_step(name: str) -> onnx.FunctionProto:
    kind = name.removesuffix("Step")
    nodes = _loihi_step(kind) if kind.startswith("Loihi") else _float_step(kind)
    outputs = ["v_next", "membrane" if kind.endswith("I") else "spikes"]
    return _function(name, ["v", "current"], outputs, nodes, _attribute_names(kind))


def _float_step(kind: str) -> list[onnx.NodeProto]:
    if kind == "I":
        return [node("Add", ["v", "current"], ["v_next"]), node("Identity", ["v_next"], ["membrane"])]
    leaky, soft = kind.startswith("LI"), kind.endswith("Soft")
    nodes = [
        _refer(node("Constant", [], [name]), "value_float", name, onnx.AttributeProto.FLOAT)
        for name in _attribute_names(kind)
    ]
    nodes += [node("Mul", ["v", "leak"], ["kept"])] if leaky else []
    if kind == "LI":
        return [*nodes, node("Add", ["kept", "current"], ["v_next"]), node("Identity", ["v_next"], ["membrane"])]
    nodes += [
        node("Add", ["kept" if leaky else "v", "current"], ["charged"]),
        node("GreaterOrEqual", ["charged", "threshold"], ["fires"]),
        node("Cast", ["fires"], ["spikes"], to=TensorProto.FLOAT),
    ]
    if soft:
        return [*nodes, node("Mul", ["spikes", "threshold"], ["taken"]), node("Sub", ["charged", "taken"], ["v_next"])]
    return [*nodes, _constant("zero", np.float32(0)), node("Where", ["fires", "zero", "charged"], ["v_next"])]


def _loihi_step(kind: str) -> list[onnx.NodeProto]:
    leaky, soft = "LI" in kind, kind.endswith("Soft")
    in_registers = node("Identity", ["current"], ["added"])
    nodes = [
        _constant("fraction", np.int32(FRACTION)),
        _constant("lowest", np.int32(-MEMBRANE_REGISTER)),
        _constant("highest", np.int32(MEMBRANE_REGISTER)),
        in_registers if "Cuba" in kind else node("Mul", ["current", "fraction"], ["added"]),
    ]
    if leaky:  # 23 bits times 12 bits need 64; integer division truncates toward zero, as Loihi does
        nodes += [
            _refer(node("Constant", [], ["decay"]), "value_int", "decay", onnx.AttributeProto.INT),
            _constant("whole", np.int64(DECAY_ONE)),
            node("Sub", ["whole", "decay"], ["keep"]),
            node("Cast", ["v"], ["v_wide"], to=TensorProto.INT64),
            node("Mul", ["v_wide", "keep"], ["product"]),
            node("Div", ["product", "whole"], ["kept_wide"]),
            node("Cast", ["kept_wide"], ["kept"], to=TensorProto.INT32),
        ]
    nodes.append(node("Add", ["kept" if leaky else "v", "added"], ["charged"]))
    if kind == "LoihiLI":
        return [*nodes, *_turned("charged", "v_next", CURRENT_REGISTER), node("Identity", ["v_next"], ["membrane"])]
    saturated = node("Clip", ["charged", "lowest", "highest"], ["v_next" if kind.endswith("I") else "saturated"])
    nodes.append(saturated)
    if kind.endswith("I"):
        return [*nodes, node("Identity", ["v_next"], ["membrane"])]
    nodes += [
        _refer(node("Constant", [], ["threshold_wide"]), "value_int", "threshold", onnx.AttributeProto.INT),
        node("Cast", ["threshold_wide"], ["threshold"], to=TensorProto.INT32),
        node("Mul", ["threshold", "fraction"], ["register"]),
        node("Sub", ["register", "fraction"], ["fires_above"]),
        node("Greater", ["saturated", "fires_above"], ["fires"]),
        node("Cast", ["fires"], ["spikes"], to=TensorProto.UINT8),
    ]
    if soft:
        nodes.append(node("Sub", ["saturated", "register"], ["reset"]))
    else:
        nodes.append(_constant("reset", np.int32(0)))
    return [*nodes, node("Where", ["fires", "reset", "saturated"], ["v_next"])]


def _all_steps(name: str) -> onnx.FunctionProto:
    """(current (T·N, …), T) → (T·N, …): `NAMEStep` at every step, membranes start at zero."""
    state = TensorProto.INT32 if name.startswith("Loihi") else TensorProto.FLOAT
    fired = TensorProto.UINT8 if name.startswith("Loihi") and not name.endswith("I") else state
    call = node(f"{name}Step", ["v", "x"], ["v_next", "y"], domain=DOMAIN)
    for attribute in _attribute_names(name):
        is_integer = name.startswith("Loihi")
        _refer(call, attribute, attribute, onnx.AttributeProto.INT if is_integer else onnx.AttributeProto.FLOAT)
    value = {"v": state, "x": state, "v_next": state, "y": fired}
    info = [helper.make_tensor_value_info(n, kind, None) for n, kind in value.items()]
    body = helper.make_graph([call], "one_step", info[:2], info[2:])
    nodes = [
        _constant("all", np.array([-1], np.int64)),
        _constant("zero", np.array(0, np.int32 if state == TensorProto.INT32 else np.float32)),
        node("Shape", ["current"], ["rest"], start=1),
        node("Concat", ["T", "all", "rest"], ["unfolded"], axis=0),
        node("Reshape", ["current", "unfolded"], ["steps"]),
        node("Shape", ["steps"], ["state"], start=1),
        node("Expand", ["zero", "state"], ["v_start"]),
        node("Scan", ["v_start", "steps"], ["v_end", "results"], body=body, num_scan_inputs=1),
        node("Concat", ["all", "rest"], ["folded"], axis=0),
        node("Reshape", ["results", "folded"], ["y"]),
    ]
    return _function(name, ["current", "T"], ["y"], nodes, _attribute_names(name))


def _repeat(name: str) -> onnx.FunctionProto:
    """(x (N, …), T) → (T·N, …): every sample's frame at every step, time major."""
    nodes = [
        _constant("all", np.array([-1], np.int64)),
        _constant("first", np.array([0], np.int64)),
        node("Shape", ["x"], ["shape"]),
        node("Shape", ["x"], ["rest"], start=1),
        node("Concat", ["T", "shape"], ["wide"], axis=0),
        node("Unsqueeze", ["x", "first"], ["frame"]),
        node("Expand", ["frame", "wide"], ["steps"]),
        node("Concat", ["all", "rest"], ["flat"], axis=0),
        node("Reshape", ["steps", "flat"], ["y"]),
    ]
    return _function(name, ["x", "T"], ["y"], nodes, [])


def _at_rest(name: str) -> onnx.FunctionProto:
    """(samples (N, …)) with attribute `shape` → membranes at zero, (N, *shape)."""
    nodes = [
        _refer(node("Constant", [], ["shape"]), "value_ints", "shape", onnx.AttributeProto.INTS),
        _constant("zero", np.array(0, np.int32 if name.startswith("Loihi") else np.float32)),
        node("Shape", ["samples"], ["count"], end=1),
        node("Concat", ["count", "shape"], ["state"], axis=0),
        node("Expand", ["zero", "state"], ["v"]),
    ]
    return _function(name, ["samples"], ["v"], nodes, ["shape"])


def _wrap(name: str) -> onnx.FunctionProto:
    """The current's registers on Lava: a 24-bit sum, then 24 bits with six fractional ones, turned around once.

    `PyConvModelFixed` (`signed_clamp`, which wraps) and the current u of `PyLifModelBitAcc`. A dense layer's
    sum has 32 bits, of which the neuron shifts six out: 26 are left.
    """
    bits = CONVOLUTION_BITS if name == WRAP else DENSE_BITS
    nodes = [
        _constant("half", np.int32(2 ** (bits - 1))),
        _constant("whole", np.int32(2**bits)),
        node("Add", ["x", "half"], ["shifted"]),
        node("Mod", ["shifted", "whole"], ["remainder"]),
        node("Sub", ["remainder", "half"], ["sum"]),
        *_turned("sum", "y", CURRENT_REGISTER // FRACTION),
    ]
    return _function(name, ["x"], ["y"], nodes, [])


def _turned(x: str, y: str, limit: int) -> list[onnx.NodeProto]:
    """A register from −limit (exclusive) to limit, turned around once, not modulo."""
    return [
        _constant("limit", np.int32(limit)),
        _constant("minus_limit", np.int32(-limit)),
        _constant("turn", np.int32(2 * limit)),
        node("Greater", [x, "limit"], ["above"]),
        node("Sub", [x, "turn"], ["turned_down"]),
        node("Where", ["above", "turned_down", x], ["low"]),
        node("LessOrEqual", ["low", "minus_limit"], ["below"]),
        node("Add", ["low", "turn"], ["turned_up"]),
        node("Where", ["below", "turned_up", "low"], [y]),
    ]


def _offset(name: str) -> onnx.FunctionProto:
    """int8 weights → the uint8 weights with zero point 128 that mean the same."""
    nodes = [
        _constant("offset", np.int32(128)),
        node("Cast", ["weight"], ["wide"], to=TensorProto.INT32),
        node("Add", ["wide", "offset"], ["moved"]),
        node("Cast", ["moved"], ["y"], to=TensorProto.UINT8),
    ]
    return _function(name, ["weight"], ["y"], nodes, [])
