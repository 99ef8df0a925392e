"""Delays are local functions made of standard operators: over all steps at once, or step by step on the frames that came
before.

What one step of a delay remembers is `past` (N, D, *shape), the last D frames that arrived, the oldest first; zeros before
the first step. `back` counts in it from the end: 1 is the newest frame.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
from onnx import TensorProto

from exporters.onnx.operators import constant, function, node

ALL_STEPS, ALL_STEPS_EACH = "Delay", "DelayEach"
PLACES, READ, READ_EACH, WRITE = "DelayPlaces", "DelayRead", "DelayReadEach", "DelayWrite"


def _all_steps() -> onnx.FunctionProto:
    """Everything comes later by as many steps: (x (T·N, …), T, steps ()) → (T·N, …), time major."""
    nodes = [
        *_behind_zeros("padded"),
        node("Shape", ["x"], ["rest"], start=1),
        node("Concat", ["twice", "all", "rest"], ["wide"], axis=0),
        node("Reshape", ["padded", "wide"], ["unfolded"]),
        node("Add", ["first", "T"], ["last"]),
        node("Slice", ["unfolded", "first", "last", "axis"], ["later"]),
        node("Reshape", ["later", "shape"], ["y"]),
    ]
    return function(ALL_STEPS, ["x", "T", "steps"], ["y"], nodes)


def _all_steps_each() -> onnx.FunctionProto:
    """Each element comes later by steps of its own: (x (T·N, *shape), T, steps (*shape)) → (T·N, *shape)."""
    nodes = [
        *_behind_zeros("padded"),
        constant("zero", np.int64(0)),
        constant("one", np.int64(1)),
        node("Size", ["steps"], ["size"]),
        node("Unsqueeze", ["size", "axis"], ["sizes"]),
        node("Concat", ["twice", "all", "sizes"], ["wide"], axis=0),
        node("Reshape", ["padded", "wide"], ["unfolded"]),
        node("Transpose", ["unfolded"], ["by_sample"], perm=[1, 0, 2]),
        node("Flatten", ["by_sample"], ["flat"], axis=1),
        # element f of step t lies at t·size + f, behind T steps of zeros
        node("Range", ["zero", "size", "one"], ["elements"]),
        node("Reshape", ["first", "all"], ["first_flat"]),
        node("Mul", ["first_flat", "size"], ["first_offset"]),
        node("Add", ["first_offset", "elements"], ["first_place"]),
        node("Squeeze", ["T"], ["count"]),
        node("Range", ["zero", "count", "one"], ["times"]),
        node("Mul", ["times", "size"], ["offset"]),
        constant("column", np.array([1], np.int64)),
        node("Unsqueeze", ["offset", "column"], ["offsets"]),
        node("Add", ["offsets", "first_place"], ["places"]),
        node("Gather", ["flat", "places"], ["later"], axis=1),
        node("Transpose", ["later"], ["by_time"], perm=[1, 0, 2]),
        node("Reshape", ["by_time", "shape"], ["y"]),
    ]
    return function(ALL_STEPS_EACH, ["x", "T", "steps"], ["y"], nodes)


def _behind_zeros(output: str) -> list[onnx.NodeProto]:
    """T steps of zeros and then x (2T·N, …); and at which of these steps a delay begins to read, `first`."""
    return [
        constant("all", np.array([-1], np.int64)),
        constant("axis", np.array([0], np.int64)),
        constant("nothing", np.float32(0)),
        node("CastLike", ["nothing", "x"], ["rest_value"]),
        node("Shape", ["x"], ["shape"]),
        node("Expand", ["rest_value", "shape"], ["before"]),
        node("Concat", ["before", "x"], [output], axis=0),
        node("Add", ["T", "T"], ["twice"]),
        node("Cast", ["steps"], ["steps_wide"], to=TensorProto.INT64),
        node("Min", ["steps_wide", "T"], ["lag"]),
        node("Sub", ["T", "lag"], ["first"]),
    ]


def _places() -> onnx.FunctionProto:
    """Where in flattened frames each element of a delay is read, counted from the end: (back (*shape)) → (*shape)."""
    nodes = [
        constant("zero", np.int64(0)),
        constant("one", np.int64(1)),
        constant("all", np.array([-1], np.int64)),
        node("Cast", ["back"], ["wide"], to=TensorProto.INT64),
        node("Reshape", ["wide", "all"], ["flat"]),
        node("Size", ["back"], ["size"]),
        node("Range", ["zero", "size", "one"], ["elements"]),
        node("Mul", ["flat", "size"], ["offsets"]),
        node("Sub", ["elements", "offsets"], ["places_flat"]),
        node("Shape", ["back"], ["shape"]),
        node("Reshape", ["places_flat", "shape"], ["places"]),
    ]
    return function(PLACES, ["back"], ["places"], nodes)


def _read() -> onnx.FunctionProto:
    """One frame of those kept is read: (frames (N, D, *shape), back ()) → (N, *shape)."""
    nodes = [node("Neg", ["back"], ["place"]), node("Gather", ["frames", "place"], ["y"], axis=1)]
    return function(READ, ["frames", "back"], ["y"], nodes)


def _read_each() -> onnx.FunctionProto:
    """Each element is read from a frame of its own: (frames (N, D, *shape), places (*shape)) → (N, *shape)."""
    nodes = [node("Flatten", ["frames"], ["flat"], axis=1), node("Gather", ["flat", "places"], ["y"], axis=1)]
    return function(READ_EACH, ["frames", "places"], ["y"], nodes)


def _write() -> onnx.FunctionProto:
    """A frame is remembered and the oldest forgotten: (past (N, D, *shape), x (N, *shape)) → (past_next, frames),
    where `frames` (N, D + 1, *shape) still has both."""
    nodes = [
        constant("axis", np.array([1], np.int64)),
        constant("second", np.array([1], np.int64)),
        constant("end", np.array([np.iinfo(np.int64).max], np.int64)),
        node("Unsqueeze", ["x", "axis"], ["now"]),
        node("Concat", ["past", "now"], ["frames"], axis=1),
        node("Slice", ["frames", "second", "end", "axis"], ["past_next"]),
    ]
    return function(WRITE, ["past", "x"], ["past_next", "frames"], nodes)


MAKERS: Mapping[str, Callable[[], onnx.FunctionProto]] = {
    ALL_STEPS: _all_steps,
    ALL_STEPS_EACH: _all_steps_each,
    PLACES: _places,
    READ: _read,
    READ_EACH: _read_each,
    WRITE: _write,
}
"""Each function of a delay has this maker."""
