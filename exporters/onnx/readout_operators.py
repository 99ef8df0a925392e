"""A graph's output becomes spikes or membranes, and scores, as each of the three forms has them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from onnx import TensorProto, helper

from exporters.graph import Output
from exporters.graph.registers import FRACTION
from exporters.onnx.model_builder import TENSOR_TYPES, Kind, ModelBuilder, ModelTensor
from exporters.onnx.operators import node as operator


def add_read_out(model: ModelBuilder, node: Output, x: ModelTensor) -> None:
    """The model's outputs are made from `x`, spikes for a rate and else membranes; in a loop this closes its body."""
    features = model.graph.shapes[model.graph.output_name]
    readout = "spikes" if node.readout == "rate" else "membrane"
    kind: Kind = "uint8" if model.integer and node.readout == "rate" else "float32"
    if model.form == "step":
        model.inputs += model.state_infos("")
        model.outputs += model.state_infos("_next")
        _add_real(model, node, x, readout)
        model.outputs.insert(0, helper.make_tensor_value_info(readout, TENSOR_TYPES[kind], ["N", *features]))
        return
    model.time()
    steps = "output/steps"
    if model.form == "sequence":
        shape = model.constant("output/shape", np.array([model.graph.T, -1, *features], np.int64))
        model.op("Reshape", [x.tensor, shape], steps)
    else:
        _close_loop(model, x, steps)
        model.inner = model.outer  # what follows comes after the loop
    _add_real(model, node, replace(x, tensor=steps), "output/real")
    model.op("Transpose", ["output/real"], readout, perm=[1, 0, *range(2, 2 + len(features))])
    _add_scores(model, node, kind)
    T = model.graph.T if model.form == "sequence" else "T"
    model.outputs.append(helper.make_tensor_value_info(readout, TENSOR_TYPES[kind], ["N", T, *features]))
    model.outputs.append(helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", *features]))


def _add_scores(model: ModelBuilder, node: Output, kind: Kind) -> None:
    """The scores are the mean of the spikes (or membranes) over time, or the last membrane / T."""
    real = model.cast(ModelTensor("output/real", kind, False), "float32")
    if node.readout == "rate" or node.score == "mean":
        time = model.constant("output/axis", np.array([0], np.int64))
        model.op("ReduceMean", [real.tensor, time], "scores", keepdims=0)
        return
    last = model.op("Gather", [real.tensor, model.constant("output/last", np.array(-1))], "output/final", axis=0)
    model.op("Div", [last, model.op("Cast", ["T"], "output/T", to=TensorProto.FLOAT)], "scores")


def _add_real(model: ModelBuilder, node: Output, x: ModelTensor, output: str) -> None:
    """Spikes stay as they are; membranes are divided by their scale (in float64 from integers, so that it rounds
    once)."""
    if node.readout == "rate":
        model.op("Identity", [x.tensor], output)
    elif not model.integer:
        model.op("Div", [x.tensor, model.constant("output/scale", np.array(node.scale, np.float32))], output)
    else:
        wide = model.op("Cast", [x.tensor], "output/register", to=TensorProto.DOUBLE)
        fraction = model.constant("output/fraction", np.array(FRACTION, np.float64))
        whole = model.op("Div", [wide, fraction], "output/units")
        scale = model.constant("output/scale", np.array(node.scale, np.float64))
        real = model.op("Div", [whole, scale], "output/wide")
        model.op("Cast", [real], output, to=TensorProto.FLOAT)


def _close_loop(model: ModelBuilder, x: ModelTensor, steps: str) -> None:
    """A `Loop` runs T steps: states are carried from step to step, `x` is collected into `steps` (T, N, …)."""
    features = model.graph.shapes[model.graph.output_name]
    result = model.op("Identity", [x.tensor], "output/step")
    model.op("Identity", ["running"], "still_running")
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        model.inner,
        "one_step",
        [info("step", TensorProto.INT64, []), info("running", TensorProto.BOOL, []), *model.state_infos("")],
        [
            info("still_running", TensorProto.BOOL, []),
            *model.state_infos("_next"),
            info(result, TENSOR_TYPES[x.kind], ["N", *features]),
        ],
    )
    starts, ends = model.add_starts(model.states), model.add_ends(model.states)
    model.outer.append(operator("Loop", ["T", "", *starts], [*ends, steps], body=body))
