"""`SpikingGraph` → ONNX model in memory, in three forms that share everything but how time passes.

* sequence: time is folded into the batch axis, (T·N, …) time major; neurons carry time inside.
* loop: a `Loop` whose body computes one step; T is an input of the model.
* step: one step, the membranes are inputs and outputs.

What is the same at every step, a direct-coded input and all before the first neurons, is `static`: in
sequence and loop it is computed once, in front of the loop.

A float graph becomes float32 arithmetic. An integer graph becomes integers: signals uint8 (pixels,
spikes and sums up to 255), weights int8, currents and membranes int32, neurons with Lava's registers.
Where a signal exceeds 255 or a weight 8 bits (a relay's, say), the layer computes in float32 on int32
weights, which is exact because the worst sum stays below 2²⁴ (`exporters.graph.bounds`).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

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
    Synapse,
)
from exporters.graph.bounds import EXACT_IN_FLOAT32, input_bounds, sum_bound
from exporters.graph.editing import over_positions
from exporters.graph.registers import CURRENT_LIMIT, CURRENT_REGISTER, FRACTION
from exporters.onnx import functions
from exporters.onnx.facts import FORMS, Form, OnnxError, metadata

Kind = Literal["float32", "uint8", "int32"]

_TYPES = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8, "int32": TensorProto.INT32}


def build(graph: SpikingGraph, form: Form = "sequence") -> onnx.ModelProto:
    """The model of a graph.

    Raises:
        OnnxError: an unknown form, or an integer graph with something that integers do not express.
    """
    if form not in FORMS:
        raise OnnxError(f"the form is {form!r}; choose {', '.join(FORMS)}")
    builder = _Builder(graph, form)
    for name, layer in graph.nodes.items():
        builder.node(name, layer)
    used = {needed for name in builder.functions for needed in (name, *functions.needs(name))}
    model = helper.make_model(
        helper.make_graph(builder.outer, "spiking_network", builder.inputs, builder.outputs, builder.initializers),
        functions=[functions.make(name) for name in sorted(used, key=lambda n: (not n.endswith("Step"), n))],
        opset_imports=[helper.make_opsetid("", functions.OPSET), helper.make_opsetid(functions.DOMAIN, 1)],
        ir_version=functions.IR_VERSION,
        producer_name="kdsnn-deploy",
    )
    helper.set_model_props(model, {key: json.dumps(value) for key, value in metadata(graph, form).items()})
    return model


def spikes_of(name: str) -> str:
    """The tensor in the model that holds a neuron layer's spikes: (T·N, *shape) in a sequence, else (N, *shape)."""
    return f"{name}/spikes"


def membrane_of(name: str) -> str:
    """The input of a `step` model that takes a layer's membrane (N, *shape); the output is `…/v_next`."""
    return f"{name}/v"


def current_of(name: str) -> str:
    """As `membrane_of`: what takes the synaptic current (N, *shape) of a layer where it persists."""
    return f"{name}/u"


@dataclass(frozen=True)
class _Value:
    """A tensor: (N, …), the same at every step, where `static`; otherwise with time as its form has it."""

    tensor: str
    kind: Kind
    static: bool


class _Builder:
    """Collects the model's parts while the graph's nodes are visited in topological order."""

    def __init__(self, graph: SpikingGraph, form: Form) -> None:
        self.graph, self.form = graph, form
        self.integer = graph.is_integer
        self.bounds = input_bounds(graph)
        self.outer: list[onnx.NodeProto] = []
        self.inner: list[onnx.NodeProto] = [] if form == "loop" else self.outer  # the body of the loop
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.values: dict[str, _Value] = {}  # node → its output
        self.states: dict[str, str] = {}  # tensor → the layer of neurons whose state it is
        self.persistent = {name for name, layer in graph.neurons.items() if layer.current_leak}
        self.late = {name for name in graph.synapses if not self.persistent.isdisjoint(graph.targets(name))}
        self.functions: set[str] = set()
        self.written: set[str] = set()

    # -- parts of the model --------------------------------------------------------------------

    def constant(self, name: str, value: Array) -> str:
        if name not in self.written:
            self.written.add(name)
            self.initializers.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def op(self, kind: str, inputs: Sequence[str], output: str, *, static: bool = False, **attributes: Any) -> str:
        """An operator in the body, or in front of it where its result is static; once per output."""
        if output not in self.written:
            self.written.add(output)
            (self.outer if static else self.inner).append(functions.node(kind, inputs, [output], **attributes))
        return output

    def call(
        self, function: str, inputs: Sequence[str], outputs: Sequence[str], *, static: bool = False, **attributes: Any
    ) -> None:
        self.functions.add(function)
        nodes = self.outer if static else self.inner
        nodes.append(functions.node(function, inputs, outputs, domain=functions.DOMAIN, **attributes))

    def cast(self, x: _Value, kind: Kind) -> _Value:
        if x.kind == kind:
            return x
        output = self.op("Cast", [x.tensor], f"{x.tensor}/{kind}", static=x.static, to=_TYPES[kind])
        return _Value(output, kind, x.static)

    # -- values --------------------------------------------------------------------------------

    def incoming(self, name: str) -> _Value:
        """The sum of a node's sources."""
        values = [self.values[s] for s in self.graph.sources(name)]
        if self.form == "sequence" and not all(v.static for v in values):
            values = [self.every_step(v) for v in values]
        total, *others = values
        if not others:
            return total
        static = all(v.static for v in values)
        current = all(v.kind == "int32" for v in values)
        for i, other in enumerate(others):
            if not current:  # sums of signals, exact in float32 too
                total, other = self.cast(total, "float32"), self.cast(other, "float32")
            added = self.op("Add", [total.tensor, other.tensor], f"{name}/sum{i + 1}", static=static)
            total = _Value(added, total.kind, static)
        return total if current else self.signal(total, self.bounds[name])

    def signal(self, x: _Value, bound: float) -> _Value:
        """Non-negative integers as uint8 where they fit (integer graphs only)."""
        return self.cast(x, "uint8") if self.integer and bound <= 255 else x

    def every_step(self, x: _Value) -> _Value:
        """In a sequence, a static tensor once per time step: (T·N, …)."""
        if not x.static or self.form != "sequence":
            return x
        output = f"{x.tensor}/every_step"
        if output not in self.written:
            self.written.add(output)
            self.call(functions.REPEAT, [x.tensor, self.time()], [output])
        return _Value(output, x.kind, False)

    def time(self) -> str:
        if self.form == "sequence":
            return self.constant("T", np.array([self.graph.T], np.int64))
        if "T" not in self.written:
            self.written.add("T")
            self.inputs.append(helper.make_tensor_value_info("T", TensorProto.INT64, []))
        return "T"

    # -- nodes ---------------------------------------------------------------------------------

    def node(self, name: str, node: Node) -> None:
        if isinstance(node, Input):
            self.values[name] = self.input(node)
            return
        x = self.incoming(name)
        if self.integer and x.kind == "int32" and not isinstance(node, IF | LIF | Output):
            raise OnnxError(f"{name}: in an integer network only neurons read currents; put a neuron layer before it")
        match node:
            case Conv2d() | Linear():
                make = self.integer_synapse if self.integer else self.float_synapse
                self.values[name] = make(name, node, x)
            case MaxPool2d():
                pads = (*node.padding, *node.padding)
                output = self.op(
                    "MaxPool", [x.tensor], f"{name}/pooled", static=x.static,
                    kernel_shape=node.kernel, strides=node.stride, pads=pads,
                )  # fmt: skip
                self.values[name] = replace(x, tensor=output)
            case AvgPool2d():
                self.values[name] = self.average_pool(name, node, x)
            case Flatten():
                output = self.op("Flatten", [x.tensor], f"{name}/flat", static=x.static, axis=1)
                self.values[name] = replace(x, tensor=output)
            case IF() | LIF():
                spikes = self.neurons(name, node, x, spikes_of(name))
                self.values[name] = _Value(spikes, "uint8" if self.integer else "float32", False)
            case Output(readout="rate"):
                self.read_out(node, self.every_step(x))
            case Output():
                membrane = self.neurons(name, node, x, f"{name}/membrane")
                self.read_out(node, _Value(membrane, "int32" if self.integer else "float32", False))

    def input(self, node: Input) -> _Value:
        """`input`, real-valued float32; to integers where the graph says so."""
        spikes = node.encoding == "spikes"
        frames: dict[str, list[Any]] = {"sequence": [self.graph.T], "loop": ["T"], "step": []}
        shape = ["N", *(frames[self.form] if spikes else []), *node.shape]
        self.inputs.append(helper.make_tensor_value_info("input", TensorProto.FLOAT, shape))
        x = _Value("input", "float32", self.form != "step" and not (spikes and self.form == "sequence"))
        static = x.static
        if node.scale is not None:
            scale = self.constant("input/scale", np.array(node.scale, np.float32))
            scaled = self.op("Mul", ["input", scale], "input/scaled", static=static)
            x = replace(x, tensor=self.op("Round", [scaled], "input/integers", static=static))
            if self.integer:
                least = self.constant("input/zero", np.array(0, np.float32))
                clipped = self.op("Clip", [x.tensor, least, scale], "input/clipped", static=static)
                x = self.signal(replace(x, tensor=clipped), node.scale)
        elif self.integer:
            x = self.cast(x, "uint8")
        if spikes and self.form == "sequence":
            major = self.op("Transpose", [x.tensor], "input/time_major", perm=[1, 0, *range(2, len(shape))])
            flat = self.constant("input/shape", np.array([-1, *node.shape], np.int64))
            return replace(x, tensor=self.op("Reshape", [major, flat], "input/frames"))
        if spikes and self.form == "loop":
            frame = self.op("Gather", [x.tensor, "step"], "input/frame", axis=1)
            return replace(x, tensor=frame, static=False)
        return x

    def float_synapse(self, name: str, node: Synapse, x: _Value) -> _Value:
        inputs = [x.tensor, self.constant(f"{name}/weight", node.weight.astype(np.float32))]
        output, whole_map = f"{name}/current", False
        if node.bias is not None and name not in self.late:
            bias, whole_map = self.constant(f"{name}/bias", node.bias.astype(np.float32)), node.bias.ndim > 1
            inputs += [] if whole_map else [bias]
        products = f"{name}/products" if whole_map else output
        if isinstance(node, Conv2d):
            self.op("Conv", inputs, products, static=x.static, **_window(node))
        else:
            self.op("Gemm", inputs, products, static=x.static, transB=1)
        if whole_map:
            self.op("Add", [products, bias], output, static=x.static)
        return replace(x, tensor=output)

    def integer_synapse(self, name: str, node: Synapse, x: _Value) -> _Value:
        """The current as int32 without the bias, which Lava adds in the neurons."""
        weight = node.weight if isinstance(node, Conv2d) else node.weight.T
        bound = sum_bound(node, self.bounds[name], bias=False)
        is_conv = isinstance(node, Conv2d)
        window = _window(node) if isinstance(node, Conv2d) else {}
        output = f"{name}/current"
        if x.kind == "uint8" and weight.min() >= -128 and weight.max() <= 127 and bound < 2**30:
            # runtimes multiply unsigned by unsigned bytes exactly and fast everywhere; unsigned by signed ones
            # saturate at 16 bits on x86 without VNNI, so the int8 weights are moved by their zero point
            stored = self.constant(f"{name}/weight", weight.astype(np.int8))
            if (moved := f"{name}/weight_offset") not in self.written:
                self.written.add(moved)
                self.call(functions.OFFSET, [stored], [moved], static=True)
            zero = self.constant("zero_points/signal", np.array(0, np.uint8))
            offset = self.constant("zero_points/weight", np.array(128, np.uint8))
            kind = "ConvInteger" if is_conv else "MatMulInteger"
            self.op(kind, [x.tensor, moved, zero, offset], output, static=x.static, **window)
            return _Value(output, "int32", x.static)
        if bound >= EXACT_IN_FLOAT32:
            raise OnnxError(f"{name}: its currents can reach {bound:g}; no more than 2^24 can be computed exactly")
        stored = self.constant(f"{name}/weight", weight.astype(np.int32))
        exact = self.op("Cast", [stored], f"{name}/weight_float", static=True, to=TensorProto.FLOAT)
        x = self.cast(x, "float32")
        summed = self.op("Conv" if is_conv else "MatMul", [x.tensor, exact], f"{name}/sums", static=x.static, **window)
        return _Value(self.op("Cast", [summed], output, static=x.static, to=TensorProto.INT32), "int32", x.static)

    def average_pool(self, name: str, node: AvgPool2d, x: _Value) -> _Value:
        if self.integer and node.divisor != 1:
            raise OnnxError(f"{name}: an average pool of an integer network only sums (divisor 1, not {node.divisor})")
        x = self.cast(x, "float32")
        output, pads = f"{name}/pooled", (*node.padding, *node.padding)
        if node.divisor == node.kernel[0] * node.kernel[1]:
            self.op(
                "AveragePool", [x.tensor], output, static=x.static, kernel_shape=node.kernel,
                strides=node.stride, pads=pads, count_include_pad=1,
            )  # fmt: skip
        else:  # a sum, exactly: a convolution with ones, which rounds nothing
            channels = self.graph.in_shape(name)[0]
            ones = np.full((channels, 1, *node.kernel), 1 / node.divisor, np.float32)
            inputs = [x.tensor, self.constant(f"{name}/window", ones)]
            self.op("Conv", inputs, output, static=x.static, strides=node.stride, pads=pads, group=channels)
        pooled = replace(x, tensor=output)
        return self.signal(pooled, self.bounds[name] * node.kernel[0] * node.kernel[1])

    # -- neurons and read-out ------------------------------------------------------------------

    def neurons(self, name: str, node: IF | LIF | Output, x: _Value, output: str) -> str:
        """Fire, or integrate for a membrane read-out; one function call either way."""
        if self.integer:
            x = self.chip_current(name, node, x)
        else:
            x = self.biased(name, self.current(name, node, x), [s for s in self.graph.sources(name) if s in self.late])
        kind = functions.neuron_kind(node, integer=self.integer)
        attributes = functions.neuron_attributes(node, integer=self.integer)
        if self.form == "sequence":
            self.call(kind, [self.every_step(x).tensor, self.time()], [output], **attributes)
        else:
            v = membrane_of(name)
            self.call(f"{kind}Step", [v, x.tensor], [f"{v}_next", output], **attributes)
            self.states[v] = name
        return output

    def current(self, name: str, node: IF | LIF | Output, x: _Value) -> _Value:
        """The synaptic current, leaked from step to step where it persists."""
        if isinstance(node, Output) or not node.current_leak:
            return x
        kind, output = "LoihiLI" if self.integer else "LI", f"{name}/lasting"
        attributes = functions.current_attributes(node, integer=self.integer)
        if self.form == "sequence":
            self.call(kind, [self.every_step(x).tensor, self.time()], [output], **attributes)
        else:
            u = current_of(name)
            self.call(f"{kind}Step", [u, x.tensor], [f"{u}_next", output], **attributes)
            self.states[u] = name
        return replace(x, tensor=output, static=False)

    def chip_current(self, name: str, node: IF | LIF | Output, x: _Value) -> _Value:
        """What reaches an integer membrane: where Lava's registers can wrap they do, and only then comes the bias."""
        synapses = {s: self.graph.synapses[s] for s in self.graph.sources(name) if s in self.graph.synapses}
        x = self.cast(x, "int32")
        bound = sum(sum_bound(s, self.bounds[n], bias=False) for n, s in synapses.items())
        if name in self.persistent and bound >= CURRENT_REGISTER:
            raise OnnxError(
                f"{name}: its currents can reach {bound:g}, and where they persist only 2^23 can be computed"
            )
        if name not in self.persistent and bound > CURRENT_LIMIT:
            wrapped = f"{name}/wrapped"
            convolved = len(self.graph.shapes[name]) == 3
            self.call(functions.WRAP if convolved else functions.WRAP_DENSE, [x.tensor], [wrapped], static=x.static)
            x = replace(x, tensor=wrapped)
        return self.biased(name, self.current(name, node, x), synapses)

    def biased(self, name: str, x: _Value, synapses: Collection[str]) -> _Value:
        """The current with the biases of these synapse layers, which the neurons add themselves."""
        biases = [b for s in synapses if (b := self.graph.synapses[s].bias) is not None]
        if not biases:
            return x
        kind = np.int64 if self.integer else np.float32
        total: Array = functools.reduce(
            np.add, [over_positions(b.astype(kind), self.graph.shapes[name]) for b in biases]
        )
        if self.integer and np.abs(total).max() >= 2**17:
            raise OnnxError(f"{name}: a bias of {np.abs(total).max()} exceeds Lava's 16 bits by far")
        if self.integer and name in self.persistent:
            total = total * FRACTION
        bias = self.constant(f"{name}/bias", total.astype(np.int32 if self.integer else np.float32))
        return replace(x, tensor=self.op("Add", [x.tensor, bias], f"{name}/biased", static=x.static))

    def read_out(self, node: Output, x: _Value) -> None:
        """The model's outputs, from spikes or membranes as the form has them."""
        features = self.graph.shapes[self.graph.output_name]
        readout = "spikes" if node.readout == "rate" else "membrane"
        kind: Kind = "uint8" if self.integer and node.readout == "rate" else "float32"
        if self.form == "step":
            self.membranes()
            self.scaled(node, x, readout)
            self.outputs.insert(0, helper.make_tensor_value_info(readout, _TYPES[kind], ["N", *features]))
            return
        self.time()
        steps = "output/steps"
        if self.form == "sequence":
            shape = self.constant("output/shape", np.array([self.graph.T, -1, *features], np.int64))
            self.op("Reshape", [x.tensor, shape], steps)
        else:
            self.loop(x, steps)
            self.inner = self.outer  # what follows comes after the loop
        self.scaled(node, replace(x, tensor=steps), "output/real")
        self.op("Transpose", ["output/real"], readout, perm=[1, 0, *range(2, 2 + len(features))])
        real = self.cast(_Value("output/real", kind, False), "float32")
        if node.readout == "rate":
            time = self.constant("output/axis", np.array([0], np.int64))
            self.op("ReduceMean", [real.tensor, time], "scores", keepdims=0)
        else:
            last = self.op("Gather", [real.tensor, self.constant("output/last", np.array(-1))], "output/final", axis=0)
            self.op("Div", [last, self.op("Cast", ["T"], "output/T", to=TensorProto.FLOAT)], "scores")
        T = self.graph.T if self.form == "sequence" else "T"
        self.outputs.append(helper.make_tensor_value_info(readout, _TYPES[kind], ["N", T, *features]))
        self.outputs.append(helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", *features]))

    def scaled(self, node: Output, x: _Value, output: str) -> None:
        """Spikes as they are; membranes divided by their scale (in float64 from integers, so that it rounds once)."""
        if node.readout == "rate":
            self.op("Identity", [x.tensor], output)
        elif not self.integer:
            self.op("Div", [x.tensor, self.constant("output/scale", np.array(node.scale, np.float32))], output)
        else:
            wide = self.op("Cast", [x.tensor], "output/register", to=TensorProto.DOUBLE)
            fraction = self.constant("output/fraction", np.array(FRACTION, np.float64))
            whole = self.op("Div", [wide, fraction], "output/units")
            scale = self.constant("output/scale", np.array(node.scale, np.float64))
            real = self.op("Div", [whole, scale], "output/wide")
            self.op("Cast", [real], output, to=TensorProto.FLOAT)

    def state_infos(self, suffix: str) -> list[onnx.ValueInfoProto]:
        kind = TensorProto.INT32 if self.integer else TensorProto.FLOAT
        return [
            helper.make_tensor_value_info(tensor + suffix, kind, ["N", *self.graph.shapes[name]])
            for tensor, name in self.states.items()
        ]

    def membranes(self) -> None:
        self.inputs += self.state_infos("")
        self.outputs += self.state_infos("_next")

    def loop(self, x: _Value, steps: str) -> None:
        """Close the body: a `Loop` over T steps, membranes carried, the read-out collected into (T, N, …)."""
        features = self.graph.shapes[self.graph.output_name]
        result = self.op("Identity", [x.tensor], "output/step")
        self.op("Identity", ["running"], "still_running")
        info = helper.make_tensor_value_info
        body = helper.make_graph(
            self.inner,
            "one_step",
            [info("step", TensorProto.INT64, []), info("running", TensorProto.BOOL, []), *self.state_infos("")],
            [
                info("still_running", TensorProto.BOOL, []),
                *self.state_infos("_next"),
                info(result, _TYPES[x.kind], ["N", *features]),
            ],
        )
        rest = f"Loihi{functions.AT_REST}" if self.integer else functions.AT_REST
        starts, ends = ([f"{tensor}_{end}" for tensor in self.states] for end in ("start", "end"))
        for name, start in zip(self.states.values(), starts, strict=True):
            self.call(rest, ["input"], [start], static=True, shape=list(self.graph.shapes[name]))
        self.outer.append(functions.node("Loop", ["T", "", *starts], [*ends, steps], body=body))


def _window(node: Conv2d) -> dict[str, Any]:
    return {
        "kernel_shape": node.weight.shape[2:],
        "strides": node.stride,
        "pads": (*node.padding, *node.padding),
        "dilations": node.dilation,
        "group": node.groups,
    }
