"""A graph's memoryless nodes become operators: its input, synapse layers and pools.

A float graph becomes float32 arithmetic. In an integer graph signals are uint8 (pixels, spikes and sums up to 255), weights
int8 and currents int32; where a signal exceeds 255 or a weight 8 bits (a relay's, say), the layer computes in float32 on
int32 weights, which is exact because the worst sum stays below 2²⁴ (`exporters.graph.bounds`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, assert_never

import numpy as np
from onnx import TensorProto, helper

from exporters.graph import AnySynapse, AvgPool2d, Conv2d, Flatten, Input, Linear, MaxPool2d
from exporters.graph.bounds import EXACT_IN_FLOAT32, sum_bound
from exporters.onnx import functions
from exporters.onnx.facts import OnnxError
from exporters.onnx.model_builder import ModelBuilder, ModelTensor


def add_input(model: ModelBuilder, node: Input) -> ModelTensor:
    """The model's `input` is real-valued float32, and is turned into integers where the graph says so."""
    form, over_time = model.form, node.over_time
    frames: dict[str, list[Any]] = {"sequence": [model.graph.T], "loop": ["T"], "step": []}
    shape = ["N", *(frames[form] if over_time else []), *node.shape]
    model.inputs.append(helper.make_tensor_value_info("input", TensorProto.FLOAT, shape))
    static = form != "step" and not (over_time and form == "sequence")
    x = ModelTensor("input", "float32", static)
    if node.scale is not None:
        scale = model.constant("input/scale", np.array(node.scale, np.float32))
        scaled = model.op("Mul", ["input", scale], "input/scaled", static=static)
        x = replace(x, tensor=model.op("Round", [scaled], "input/integers", static=static))
        if model.integer:
            least = model.constant("input/zero", np.array(0, np.float32))
            clipped = model.op("Clip", [x.tensor, least, scale], "input/clipped", static=static)
            x = model.signal(replace(x, tensor=clipped), node.scale)
    elif model.integer:
        x = model.cast(x, "uint8")
    if over_time and form == "sequence":
        major = model.op("Transpose", [x.tensor], "input/time_major", perm=[1, 0, *range(2, len(shape))])
        flat = model.constant("input/shape", np.array([-1, *node.shape], np.int64))
        return replace(x, tensor=model.op("Reshape", [major, flat], "input/frames"))
    if over_time and form == "loop":
        frame = model.op("Gather", [x.tensor, "step"], "input/frame", axis=1)
        return replace(x, tensor=frame, static=False)
    return x


def add_synapses(model: ModelBuilder, name: str, node: AnySynapse, x: ModelTensor) -> ModelTensor:
    """A synapse layer gives a current.

    Raises:
        OnnxError: an integer layer whose sums cannot be computed exactly.
    """
    return _integer_synapses(model, name, node, x) if model.integer else _float_synapses(model, name, node, x)


def _float_synapses(model: ModelBuilder, name: str, node: AnySynapse, x: ModelTensor) -> ModelTensor:
    inputs = [x.tensor, model.constant(f"{name}/weight", node.weight.astype(np.float32))]
    bias = None if node.bias is None or name in model.late else node.bias.astype(np.float32)
    is_map = bias is not None and bias.ndim > 1  # which no operator takes
    if bias is not None and not is_map:
        inputs.append(model.constant(f"{name}/bias", bias))
    output = f"{name}/current"
    summed = f"{name}/products" if is_map else output
    match node:
        case Conv2d():
            model.op("Conv", inputs, summed, static=x.static, **_geometry(node))
        case Linear():
            model.op("Gemm", inputs, summed, static=x.static, transB=1)
        case _:
            assert_never(node)
    if bias is not None and is_map:
        model.op("Add", [summed, model.constant(f"{name}/bias", bias)], output, static=x.static)
    return replace(x, tensor=output)


def _integer_synapses(model: ModelBuilder, name: str, node: AnySynapse, x: ModelTensor) -> ModelTensor:
    """The current is int32 and without the bias, which Lava adds in the neurons."""
    match node:
        case Conv2d():
            weight, of_bytes, of_floats, geometry = node.weight, "ConvInteger", "Conv", _geometry(node)
        case Linear():
            weight, of_bytes, of_floats, geometry = node.weight.T, "MatMulInteger", "MatMul", {}
        case _:
            assert_never(node)
    bound = sum_bound(node, model.bounds[name], bias=False)
    output = f"{name}/current"
    if x.kind == "uint8" and weight.min() >= -128 and weight.max() <= 127 and bound < 2**30:
        # runtimes multiply unsigned by unsigned bytes exactly and fast everywhere; unsigned by signed ones
        # saturate at 16 bits on x86 without VNNI, so the int8 weights are moved by their zero point
        stored = model.constant(f"{name}/weight", weight.astype(np.int8))
        moved = f"{name}/weight_offset"
        model.call(functions.OFFSET, [stored], [moved], static=True)
        zero = model.constant("zero_points/signal", np.array(0, np.uint8))
        offset = model.constant("zero_points/weight", np.array(128, np.uint8))
        model.op(of_bytes, [x.tensor, moved, zero, offset], output, static=x.static, **geometry)
        return ModelTensor(output, "int32", x.static)
    if bound >= EXACT_IN_FLOAT32:
        raise OnnxError(f"{name}: its currents can reach {bound:g}; no more than 2^24 can be computed exactly")
    stored = model.constant(f"{name}/weight", weight.astype(np.int32))
    exact = model.op("Cast", [stored], f"{name}/weight_float", static=True, to=TensorProto.FLOAT)
    x = model.cast(x, "float32")
    summed = model.op(of_floats, [x.tensor, exact], f"{name}/sums", static=x.static, **geometry)
    return ModelTensor(model.op("Cast", [summed], output, static=x.static, to=TensorProto.INT32), "int32", x.static)


def add_max_pool(model: ModelBuilder, name: str, node: MaxPool2d, x: ModelTensor) -> ModelTensor:
    """A max-pool gives the maxima of its windows."""
    pads = (*node.padding, *node.padding)
    output = model.op(
        "MaxPool", [x.tensor], f"{name}/pooled", static=x.static,
        kernel_shape=node.kernel, strides=node.stride, pads=pads,
    )  # fmt: skip
    return replace(x, tensor=output)


def add_average_pool(model: ModelBuilder, name: str, node: AvgPool2d, x: ModelTensor) -> ModelTensor:
    """An average pool gives the sums of its windows, over its divisor.

    Raises:
        OnnxError: the pool of an integer graph divides.
    """
    if model.integer and node.divisor != 1:
        raise OnnxError(f"{name}: an average pool of an integer network only sums (divisor 1, not {node.divisor})")
    x = model.cast(x, "float32")
    output, pads = f"{name}/pooled", (*node.padding, *node.padding)
    if node.divisor == node.kernel[0] * node.kernel[1]:
        model.op(
            "AveragePool", [x.tensor], output, static=x.static, kernel_shape=node.kernel,
            strides=node.stride, pads=pads, count_include_pad=1,
        )  # fmt: skip
    else:  # a sum, exactly: a convolution with ones, which rounds nothing
        channels = model.graph.in_shape(name)[0]
        ones = np.full((channels, 1, *node.kernel), 1 / node.divisor, np.float32)
        inputs = [x.tensor, model.constant(f"{name}/window", ones)]
        model.op("Conv", inputs, output, static=x.static, strides=node.stride, pads=pads, group=channels)
    pooled = replace(x, tensor=output)
    return model.signal(pooled, model.bounds[name] * node.kernel[0] * node.kernel[1])


def add_flatten(model: ModelBuilder, name: str, _: Flatten, x: ModelTensor) -> ModelTensor:
    """Flattening gives (N, C·H·W) from (N, C, H, W)."""
    return replace(x, tensor=model.op("Flatten", [x.tensor], f"{name}/flat", static=x.static, axis=1))


def _geometry(node: Conv2d) -> dict[str, Any]:
    return {
        "kernel_shape": node.weight.shape[2:],
        "strides": node.stride,
        "pads": (*node.padding, *node.padding),
        "dilations": node.dilation,
        "group": node.groups,
    }
