"""A model is built up from the operators, constants, inputs and outputs that a graph's nodes add to it one after
another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from exporters.graph import Array, Shape, SpikingGraph
from exporters.graph.bounds import input_bounds
from exporters.onnx import functions
from exporters.onnx.facts import Form
from exporters.onnx.operators import DOMAIN, node

Kind = Literal["float32", "uint8", "int32"]

TENSOR_TYPES = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8, "int32": TensorProto.INT32}


@dataclass(frozen=True)
class CarriedState:
    """A state is carried from step to step by every sample: a tensor (N, *shape) that is at `start` before the first, in its
    own units."""

    kind: Kind
    shape: Shape
    start: float = 0.0


@dataclass(frozen=True)
class ModelTensor:
    """A tensor of the model is (N, …), the same at every step, where `static`; otherwise it has time as the model's
    form has it."""

    tensor: str
    kind: Kind
    static: bool


class ModelBuilder:
    """The builder collects a model's parts while the graph's nodes are visited in topological order.

    Attributes:
        outer: operators that run once.
        inner: operators of one time step: the body of a loop or of a scan, and else `outer` itself.
        folded: whether time is folded into the batch where operators are added now, as in a sequence but for its scans.
        values: node of the graph → the tensor that it gives.
        states: tensor → the state that it is, where states enter from outside (all but what is folded).
        persistent: layers of neurons whose synaptic current persists from step to step.
        late: synapse layers whose bias the neurons add, because it must not pass through a persistent current.
        functions: names of the local functions that are called.
        ends: what the states are like when a loop leaves them.
    """

    def __init__(self, graph: SpikingGraph, form: Form) -> None:
        self.graph, self.form = graph, form
        self.integer = graph.is_integer
        self.bounds = input_bounds(graph)
        self.outer: list[onnx.NodeProto] = []
        self.inner: list[onnx.NodeProto] = [] if form == "loop" else self.outer
        self.folded = form == "sequence"
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.values: dict[str, ModelTensor] = {}
        self.states: dict[str, CarriedState] = {}
        self.persistent = {name for name, layer in graph.neurons.items() if layer.current_leak}
        self.late = {name for name in graph.synapses if not self.persistent.isdisjoint(graph.targets(name))}
        self.functions: set[str] = set()
        self.ends: list[onnx.ValueInfoProto] = []
        self._written: set[str] = set()

    # -- parts ---------------------------------------------------------------------------------

    def constant(self, name: str, value: Array) -> str:
        """A constant is written once per name, which is returned."""
        if self._is_new(name):
            self.initializers.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def op(self, kind: str, inputs: Sequence[str], output: str, *, static: bool = False, **attributes: Any) -> str:
        """An operator is written once per output, which is returned: into the body, or in front of it where its result
        is static."""
        if self._is_new(output):
            (self.outer if static else self.inner).append(node(kind, inputs, [output], **attributes))
        return output

    def call(
        self, function: str, inputs: Sequence[str], outputs: Sequence[str], *, static: bool = False, **attributes: Any
    ) -> None:
        """A call of a local function is written once per last output."""
        if self._is_new(outputs[-1]):
            self.functions.add(function)
            nodes = self.outer if static else self.inner
            nodes.append(node(function, inputs, outputs, domain=DOMAIN, **attributes))

    def _is_new(self, name: str) -> bool:
        if name in self._written:
            return False
        self._written.add(name)
        return True

    # -- values --------------------------------------------------------------------------------

    def cast(self, x: ModelTensor, kind: Kind) -> ModelTensor:
        """The tensor is cast to another type, unless it has it."""
        if x.kind == kind:
            return x
        output = self.op("Cast", [x.tensor], f"{x.tensor}/{kind}", static=x.static, to=TENSOR_TYPES[kind])
        return ModelTensor(output, kind, x.static)

    def signal(self, x: ModelTensor, bound: float) -> ModelTensor:
        """Non-negative integers travel as uint8 where they fit (integer graphs only)."""
        return self.cast(x, "uint8") if self.integer and bound <= 255 else x

    def incoming(self, name: str) -> ModelTensor:
        """A node reads the sum of its sources."""
        values = [self.values[s] for s in self.graph.sources(name)]
        if not all(v.static for v in values):
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
            total = ModelTensor(added, total.kind, static)
        return total if current else self.signal(total, self.bounds[name])

    def every_step(self, x: ModelTensor) -> ModelTensor:
        """Where time is folded into the batch a static tensor is repeated once per time step: (T·N, …)."""
        if not x.static or not self.folded:
            return x
        output = f"{x.tensor}/every_step"
        self.call(functions.REPEAT, [x.tensor, self.time()], [output])
        return ModelTensor(output, x.kind, False)

    def time(self) -> str:
        """T is a constant in a sequence, an input of the model otherwise; its tensor is returned."""
        if self.form == "sequence":
            return self.constant("T", np.array([self.graph.T], np.int64))
        if self._is_new("T"):
            self.inputs.append(helper.make_tensor_value_info("T", TensorProto.INT64, []))
        return "T"

    def state_infos(self, suffix: str) -> list[onnx.ValueInfoProto]:
        """All states are described as inputs (suffix "") or outputs ("_next") of a step."""
        return [
            helper.make_tensor_value_info(tensor + suffix, TENSOR_TYPES[state.kind], ["N", *state.shape])
            for tensor, state in self.states.items()
        ]

    def add_starts(self, states: Mapping[str, CarriedState]) -> list[str]:
        """Operators give these states before the first step, for as many samples as come in; their tensors are returned."""
        for tensor, state in states.items():
            zeros = f"{tensor}_zeros" if state.start else f"{tensor}_start"
            rest = next(name for name, kind in functions.RESTS.items() if kind == np.dtype(state.kind))
            self.call(rest, ["input"], [zeros], static=True, shape=list(state.shape))
            if state.start:
                level = self.constant(f"{tensor}_start_at", np.array(state.start, state.kind))
                self.op("Add", [zeros, level], f"{tensor}_start", static=True)
        return [f"{tensor}_start" for tensor in states]

    def add_ends(self, states: Mapping[str, CarriedState]) -> list[str]:
        """A loop leaves these states as they came in, of the same type and shape; the tensors of their ends are returned."""
        for tensor, state in states.items():
            end = helper.make_tensor_value_info(f"{tensor}_end", TENSOR_TYPES[state.kind], ["N", *state.shape])
            self.ends.append(end)
        return [f"{tensor}_end" for tensor in states]

    @contextmanager
    def one_step(self) -> Iterator[list[onnx.NodeProto]]:
        """In here operators of one step of a sequence are added, to the list that it gives, with states of their own."""
        around = self.inner, self.states, self.folded
        self.inner, self.states, self.folded = [], {}, False
        try:
            yield self.inner
        finally:
            self.inner, self.states, self.folded = around

    def now(self, tensor: str) -> str:
        """A tensor of all steps of a sequence has this name in one step of it; in the other forms there is but one."""
        return f"{tensor}/now" if self.form == "sequence" and not self.folded else tensor
