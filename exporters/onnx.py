"""ONNX: the whole sequence of T steps in one model, standard operators only, right at every time step.

The `sequence` form. Weights appear once: a layer computes all T steps at a time, with time folded into
the batch axis (time major); what is the same at every step (direct-coded input) is computed once. The
neurons carry their membrane over time in a `Scan` inside a local function `IF` or `LIF` of domain
`kdsnn.deploy`, so a viewer shows neurons instead of forty elementwise operators.

Inputs and outputs: `input` (N, *shape), or (N, T, *shape) for spike input; `spikes` (N, T, F) and `scores`
(N, F), the firing rate; for a membrane read-out `membrane` (N, T, F) and `scores`, its last value / T.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from exporters.errors import DeployError
from exporters.files import atomic_path
from exporters.graph import (
    IF,
    LIF,
    Array,
    AvgPool2d,
    Conv2d,
    Flatten,
    Input,
    Linear,
    MaxPool2d,
    Node,
    Output,
    SpikingGraph,
)

OPSET = 20
IR_VERSION = 10
DOMAIN = "kdsnn.deploy"


class OnnxError(DeployError):
    """An ONNX model that could not be written, or does not compute what it should."""


def write(graph: SpikingGraph, path: Path) -> Path:
    """Write the `sequence` form of a graph (pass it through `make_exact` first for exact spikes).

    Raises:
        OnnxError: the model fails onnx.checker.
    """
    model = build(graph)
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as error:
        raise OnnxError(f"{path.name}: the model is not valid ONNX ({str(error).splitlines()[0]})") from error
    with atomic_path(path) as temporary:
        onnx.save(model, str(temporary))
    return path


def build(graph: SpikingGraph) -> onnx.ModelProto:
    """The `sequence` form as a model in memory."""
    builder = _Builder(graph)
    for name, node in graph.nodes.items():
        builder.node(name, node)
    model = helper.make_model(
        helper.make_graph(builder.nodes, "spiking_network", builder.inputs, builder.outputs, builder.initializers),
        functions=[_repeat_function(), *(_neuron_function(kind) for kind in sorted(builder.used))],
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)],
        ir_version=IR_VERSION,
        producer_name="kdsnn-deploy",
    )
    helper.set_model_props(model, {key: json.dumps(value) for key, value in _metadata(graph).items()})
    return model


def run(path: Path, x: Array, *, layers: Sequence[str] = ()) -> dict[str, Array]:
    """Run a model on onnxruntime (CPU).

    Args:
        path: the `.onnx` file.
        x: what the graph's `input` takes, real-valued float32 (N, …).
        layers: neuron layers whose spikes to return as well, (N, T, *shape) under their own name.

    Raises:
        OnnxError: the file cannot be loaded or does not fit x.
    """
    import onnxruntime as ort  # a third of a second to import, and only needed here

    if not path.is_file():
        raise OnnxError(f"{path}: no such file")
    try:
        model: Any = str(path)
        if layers:
            proto = onnx.load(str(path))
            known = {value.name for value in proto.graph.output}
            proto.graph.output.extend(
                helper.make_tensor_value_info(spikes_of(name), TensorProto.FLOAT, None)
                for name in layers
                if spikes_of(name) not in known
            )
            model = proto.SerializeToString()
        options = ort.SessionOptions()
        options.log_severity_level = 3
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        names = [o.name for o in session.get_outputs()]
        feed = {session.get_inputs()[0].name: np.ascontiguousarray(x, np.float32)}
        results = dict(zip(names, session.run(names, feed), strict=True))
    except Exception as error:  # onnxruntime and protobuf raise a dozen unrelated types
        raise OnnxError(f"{path.name}: onnxruntime cannot run it ({str(error).strip().splitlines()[0]})") from error
    for name in layers:
        flat = results.pop(spikes_of(name))
        results[name] = np.moveaxis(flat.reshape(-1, len(x), *flat.shape[1:]), 0, 1)
    return results


def spikes_of(name: str) -> str:
    """The tensor in the model that holds a neuron layer's spikes, (T·N, *shape), time major."""
    return f"{name}/spikes"


# -- building ----------------------------------------------------------------------------------------


class _Builder:
    """Collects the model's parts while the graph's nodes are visited in topological order."""

    def __init__(self, graph: SpikingGraph) -> None:
        self.graph = graph
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.tensor: dict[str, str] = {}  # node → the tensor of its output
        self.static: dict[str, bool] = {}  # … and whether that is (N, …), the same at every step
        self.used: set[str] = set()
        self.constant("T", np.array([graph.T], np.int64))

    def constant(self, name: str, value: Array) -> str:
        if name not in {t.name for t in self.initializers}:
            self.initializers.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def op(self, kind: str, inputs: Sequence[str], output: str, *, domain: str = "", **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=output, domain=domain, **attributes))
        return output

    def sum_of_sources(self, name: str) -> str:
        sources = self.graph.sources(name)
        self.static[name] = all(self.static[s] for s in sources)
        tensors = [self.repeated(s) if self.static[s] and not self.static[name] else self.tensor[s] for s in sources]
        return tensors[0] if len(tensors) == 1 else self.op("Sum", tensors, f"{name}/sum")

    def repeated(self, source: str) -> str:
        """A static tensor, once per time step: (T·N, …)."""
        output = f"{self.tensor[source]}/every_step"
        if output not in {n.output[0] for n in self.nodes}:
            self.op("RepeatOverTime", [self.tensor[source], "T"], output, domain=DOMAIN)
        return output

    def node(self, name: str, node: Node) -> None:
        if isinstance(node, Input):
            self.tensor[name], self.static[name] = self.input(node), node.encoding == "direct"
            return
        x = self.sum_of_sources(name)
        match node:
            case Conv2d():
                inputs = [x, *self.weights(name, node.weight, node.bias)]
                self.tensor[name] = self.op(
                    "Conv", inputs, name, kernel_shape=node.weight.shape[2:], strides=node.stride,
                    pads=(*node.padding, *node.padding), dilations=node.dilation, group=node.groups,
                )  # fmt: skip
            case Linear():
                self.tensor[name] = self.op("Gemm", [x, *self.weights(name, node.weight, node.bias)], name, transB=1)
            case MaxPool2d():
                pads = (*node.padding, *node.padding)
                self.tensor[name] = self.op(
                    "MaxPool", [x], name, kernel_shape=node.kernel, strides=node.stride, pads=pads
                )
            case AvgPool2d():
                self.tensor[name] = self.average_pool(name, node, x)
            case Flatten():
                self.tensor[name] = self.op("Flatten", [x], name, axis=1)
            case IF() | LIF():
                self.tensor[name] = self.neurons(name, node, self.over_time(name, x))
                self.static[name] = False
            case Output():
                self.output(name, node, self.over_time(name, x))

    def input(self, node: Input) -> str:
        shape = ["N", *(() if node.encoding == "direct" else (self.graph.T,)), *node.shape]
        self.inputs.append(helper.make_tensor_value_info("input", TensorProto.FLOAT, shape))
        if node.encoding == "spikes":
            axes = [1, 0, *range(2, len(shape))]
            x = self.op("Transpose", ["input"], "input/time_major", perm=axes)
            flat = self.constant("input/shape", np.array([-1, *node.shape], np.int64))
            return self.op("Reshape", [x, flat], "input/frames")
        if node.scale is None:
            return "input"
        scale = self.constant("input/scale", np.array(node.scale, np.float32))
        return self.op("Round", [self.op("Mul", ["input", scale], "input/scaled")], "input/integers")

    def weights(self, name: str, weight: Array, bias: Array | None) -> list[str]:
        found = [self.constant(f"{name}/weight", weight.astype(np.float32))]
        if bias is not None:
            found.append(self.constant(f"{name}/bias", bias.astype(np.float32)))
        return found

    def average_pool(self, name: str, node: AvgPool2d, x: str) -> str:
        mean = node.divisor == node.kernel[0] * node.kernel[1]
        pads = (*node.padding, *node.padding)
        if mean:
            return self.op(
                "AveragePool", [x], name, kernel_shape=node.kernel, strides=node.stride, pads=pads, count_include_pad=1
            )
        # a sum of spikes, exactly: a convolution with ones, which rounds nothing
        channels = self.graph.in_shape(name)[0]
        ones = np.full((channels, 1, *node.kernel), 1 / node.divisor, np.float32)
        weight = self.constant(f"{name}/window", ones)
        return self.op("Conv", [x, weight], name, strides=node.stride, pads=pads, group=channels)

    def over_time(self, name: str, x: str) -> str:
        """The input of neurons or the output: (T·N, …), static values repeated."""
        if not self.static[name]:
            return x
        output = f"{name}/every_step"
        return self.op("RepeatOverTime", [x, "T"], output, domain=DOMAIN)

    def neurons(self, name: str, node: IF | LIF, x: str) -> str:
        kind = type(node).__name__ + ("" if node.reset == "hard" else "Soft")
        self.used.add(kind)
        attributes = {"threshold": float(node.threshold)}
        if isinstance(node, LIF):
            attributes["leak"] = float(node.leak)
        return self.op(kind, [x, "T"], spikes_of(name), domain=DOMAIN, **attributes)

    def output(self, name: str, node: Output, x: str) -> None:
        readout = "spikes" if node.readout == "rate" else "membrane"
        features = self.graph.shapes[name]
        shape = self.constant("output/shape", np.array([self.graph.T, -1, *features], np.int64))
        steps = self.op("Reshape", [x, shape], "output/steps")
        axis = self.constant("output/time", np.array(0, np.int64))
        if node.readout == "membrane":
            scale = self.constant("output/scale", np.array(node.scale, np.float32))
            steps = self.op("Div", [self.op("CumSum", [steps, axis], "output/integrated"), scale], "output/membrane")
        self.op("Transpose", [steps], readout, perm=[1, 0, *range(2, 2 + len(features))])
        if node.readout == "rate":
            time = self.constant("output/axis", np.array([0], np.int64))
            self.op("ReduceMean", [steps, time], "scores", keepdims=0)
        else:
            last = self.op(
                "Gather", [steps, self.constant("output/last", np.array(self.graph.T - 1))], "output/final", axis=0
            )
            self.op("Div", [last, self.constant("output/steps_count", np.array(self.graph.T, np.float32))], "scores")
        self.outputs.append(helper.make_tensor_value_info(readout, TensorProto.FLOAT, ["N", self.graph.T, *features]))
        self.outputs.append(helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", *features]))


def _node(kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, list(inputs), list(outputs), **attributes)


def _constant(name: str, value: Array) -> onnx.NodeProto:
    return _node("Constant", [], [name], value=numpy_helper.from_array(value))


def _from_attribute(name: str) -> onnx.NodeProto:
    """A scalar that holds the function's attribute of the same name."""
    node = _node("Constant", [], [name])
    node.attribute.append(onnx.AttributeProto(name="value_float", ref_attr_name=name, type=onnx.AttributeProto.FLOAT))
    return node


def _repeat_function() -> onnx.FunctionProto:
    """RepeatOverTime(x (N, …), T) → (T·N, …): every sample's frame at every step, time major."""
    nodes = [
        _constant("all", np.array([-1], np.int64)),
        _constant("first", np.array([0], np.int64)),
        _node("Shape", ["x"], ["shape"]),
        _node("Shape", ["x"], ["rest"], start=1),
        _node("Concat", ["T", "shape"], ["wide"], axis=0),
        _node("Unsqueeze", ["x", "first"], ["frame"]),
        _node("Expand", ["frame", "wide"], ["steps"]),
        _node("Concat", ["all", "rest"], ["flat"], axis=0),
        _node("Reshape", ["steps", "flat"], ["y"]),
    ]
    return helper.make_function(
        DOMAIN, "RepeatOverTime", ["x", "T"], ["y"], nodes, [helper.make_opsetid("", OPSET)], []
    )


def _neuron_function(kind: str) -> onnx.FunctionProto:
    """IF or LIF, hard or soft reset: (current (T·N, …), T) → spikes (T·N, …), membranes start at zero."""
    leaky, soft = kind.startswith("LIF"), kind.endswith("Soft")
    attributes = ["threshold", "leak"] if leaky else ["threshold"]
    step = [_node("Mul", ["v", "leak"], ["kept"])] if leaky else []
    step += [
        _node("Add", ["kept" if leaky else "v", "x"], ["charged"]),
        _node("GreaterOrEqual", ["charged", "threshold"], ["fires"]),
        _node("Cast", ["fires"], ["spike"], to=TensorProto.FLOAT),
    ]
    if soft:
        step += [_node("Mul", ["spike", "threshold"], ["taken"]), _node("Sub", ["charged", "taken"], ["v_next"])]
    else:
        step += [_node("Where", ["fires", "zero", "charged"], ["v_next"])]
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("v", "x", "v_next", "spike")]
    body = helper.make_graph(step, "one_step", value[:2], value[2:])
    nodes = [
        *(_from_attribute(name) for name in attributes),
        _constant("all", np.array([-1], np.int64)),
        _constant("zero", np.array(0, np.float32)),
        _node("Shape", ["current"], ["rest"], start=1),
        _node("Concat", ["T", "all", "rest"], ["unfolded"], axis=0),
        _node("Reshape", ["current", "unfolded"], ["steps"]),
        _node("Shape", ["steps"], ["state"], start=1),
        _node("Expand", ["zero", "state"], ["v_start"]),
        _node("Scan", ["v_start", "steps"], ["v_end", "fired"], body=body, num_scan_inputs=1),
        _node("Concat", ["all", "rest"], ["folded"], axis=0),
        _node("Reshape", ["fired", "folded"], ["spikes"]),
    ]
    return helper.make_function(
        DOMAIN, kind, ["current", "T"], ["spikes"], nodes, [helper.make_opsetid("", OPSET)], attributes
    )


def _metadata(graph: SpikingGraph) -> Mapping[str, Any]:
    return {
        "kdsnn_deploy_form": "sequence",
        "T": graph.T,
        "input_encoding": graph.input.encoding,
        "input_scale": graph.input.scale,
        "readout": graph.output.readout,
        "neurons": {
            name: {"threshold": node.threshold, "reset": node.reset, "scale": node.scale}
            | ({"leak": node.leak} if isinstance(node, LIF) else {})
            for name, node in graph.neurons.items()
        },
        "source": dict(graph.metadata),
    }
