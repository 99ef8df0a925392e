"""The local functions of an exported model are known by name: the neurons, and what else deserves a name in a viewer.

Every function is made of standard operators that mean the same in all opsets from 18 on; runtimes inline them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import onnx
from onnx import TensorProto

from exporters.graph.registers import CONVOLUTION_BITS, CURRENT_REGISTER, DENSE_BITS, FRACTION
from exporters.onnx import delay_functions
from exporters.onnx.neuron_functions import all_steps, one_step, turned
from exporters.onnx.neuron_kinds import KINDS, NeuronKind
from exporters.onnx.operators import OPSET, attribute_value, constant, function, node

ALL_STEPS: Mapping[str, NeuronKind] = {kind.name: kind for kind in KINDS}
"""These functions run neurons for T steps."""
STEPS: Mapping[str, NeuronKind] = {kind.step_name: kind for kind in KINDS}
"""These functions run neurons for one step."""

REPEAT, OFFSET = "RepeatOverTime", "OffsetBy128"
WRAP, WRAP_DENSE = "Wrap24Bit", "Wrap26Bit"
WRAPS: Mapping[str, int] = {WRAP: CONVOLUTION_BITS, WRAP_DENSE: DENSE_BITS}
"""These functions wrap a synaptic current as Lava does; its sum has so many bits, as a convolution's or a dense
layer's."""
RESTS: Mapping[str, type[np.generic]] = {"AtRest": np.float32, "LoihiAtRest": np.int32, "AtRestBytes": np.uint8}
"""These functions give the state before the first step, in this type: of membranes, or of what a delay remembers."""


def make(name: str, opset: int = OPSET) -> onnx.FunctionProto:
    """A name of the tables above stands for one local function, here of operators of this opset.

    Raises:
        KeyError: there is none.
    """
    made = _MAKERS[name]()
    made.opset_import[0].version = opset
    return made


def needs(name: str) -> tuple[str, ...]:
    """A function calls these others."""
    return (ALL_STEPS[name].step_name,) if name in ALL_STEPS else ()


def _repeat() -> onnx.FunctionProto:
    """Every sample's frame is repeated at every step, time major: (x (N, …), T) → (T·N, …)."""
    nodes = [
        constant("all", np.array([-1], np.int64)),
        constant("first", np.array([0], np.int64)),
        node("Shape", ["x"], ["shape"]),
        node("Shape", ["x"], ["rest"], start=1),
        node("Concat", ["T", "shape"], ["wide"], axis=0),
        node("Unsqueeze", ["x", "first"], ["frame"]),
        node("Expand", ["frame", "wide"], ["steps"]),
        node("Concat", ["all", "rest"], ["flat"], axis=0),
        node("Reshape", ["steps", "flat"], ["y"]),
    ]
    return function(REPEAT, ["x", "T"], ["y"], nodes)


def _at_rest(name: str) -> onnx.FunctionProto:
    """States start at zero, as many as there are samples: (samples (N, …)) with the attribute `shape` → (N,
    *shape)."""
    nodes = [
        attribute_value("shape", "value_ints", onnx.AttributeProto.INTS),
        constant("zero", np.array(0, RESTS[name])),
        node("Shape", ["samples"], ["count"], end=1),
        node("Concat", ["count", "shape"], ["state"], axis=0),
        node("Expand", ["zero", "state"], ["v"]),
    ]
    return function(name, ["samples"], ["v"], nodes, ["shape"])


def _wrap(name: str) -> onnx.FunctionProto:
    """A current passes Lava's registers: a 24-bit sum, which wraps, then 24 bits with six fractional ones, turned
    around once.

    These are the sum of `PyConvModelFixed` (`signed_clamp`, which wraps) and the current u of `PyLifModelBitAcc`. A dense
    layer's sum has 32 bits, of which the neuron shifts six out: 26 are left.
    """
    bits = WRAPS[name]
    nodes = [
        constant("half", np.int32(2 ** (bits - 1))),
        constant("whole", np.int32(2**bits)),
        node("Add", ["x", "half"], ["shifted"]),
        node("Mod", ["shifted", "whole"], ["remainder"]),
        node("Sub", ["remainder", "half"], ["sum"]),
        *turned("sum", "y", CURRENT_REGISTER // FRACTION),
    ]
    return function(name, ["x"], ["y"], nodes)


def _offset() -> onnx.FunctionProto:
    """Weights in int8 become the uint8 weights with zero point 128 that mean the same."""
    nodes = [
        constant("offset", np.int32(128)),
        node("Cast", ["weight"], ["wide"], to=TensorProto.INT32),
        node("Add", ["wide", "offset"], ["moved"]),
        node("Cast", ["moved"], ["y"], to=TensorProto.UINT8),
    ]
    return function(OFFSET, ["weight"], ["y"], nodes)


_MAKERS: Mapping[str, Callable[[], onnx.FunctionProto]] = {
    REPEAT: _repeat,
    OFFSET: _offset,
    **delay_functions.MAKERS,
    **{name: partial(_at_rest, name) for name in RESTS},
    **{name: partial(_wrap, name) for name in WRAPS},
    **{name: partial(one_step, kind) for name, kind in STEPS.items()},
    **{name: partial(all_steps, kind) for name, kind in ALL_STEPS.items()},
}
