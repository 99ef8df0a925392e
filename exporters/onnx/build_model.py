"""A `SpikingGraph` becomes an ONNX model in memory, in three forms that share everything but how time passes.

* sequence: time is folded into the batch axis, (T·N, …) time major; neurons carry time inside, and each loop of a recurrent
  graph is one `Scan` over time.
* loop: a `Loop` whose body computes one step; T is an input of the model.
* step: one step, the membranes and what delays remember are inputs and outputs.

What is the same at every step, a direct-coded input and all before the first neurons, is `static`: in
sequence and loop it is computed once, in front of the loop.

A float graph becomes float32 arithmetic, an integer graph integers with Lava's registers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import assert_never

import onnx
from onnx import helper

from exporters.graph import (
    IF,
    LIF,
    AvgPool2d,
    Conv2d,
    Delay,
    Flatten,
    Input,
    Linear,
    MaxPool2d,
    Node,
    Output,
    SpikingGraph,
)
from exporters.onnx import functions
from exporters.onnx.delay_calls import add_delay, read_delay
from exporters.onnx.facts import FORMS, Form, OnnxError, metadata, spikes_of
from exporters.onnx.loop_operators import add_loop
from exporters.onnx.model_builder import ModelBuilder, ModelTensor
from exporters.onnx.neuron_calls import add_neurons
from exporters.onnx.operators import OPSET, producer, require_opset
from exporters.onnx.readout_operators import add_read_out
from exporters.onnx.synapse_operators import add_average_pool, add_flatten, add_input, add_max_pool, add_synapses
from exporters.onnx.tensor_shapes import FOLDED, SAMPLES, STEPS, with_shapes

FRONT: Mapping[Form, str] = {"sequence": FOLDED, "loop": STEPS, "step": SAMPLES}
"""What stands in front in each form where it is not known how many."""


def build(graph: SpikingGraph, form: Form = "sequence", *, opset: int = OPSET) -> onnx.ModelProto:
    """The graph's model is built in memory, with types and shapes of all its tensors.

    Raises:
        OnnxError: an unknown form or opset, or an integer graph with something that integers do not express.
        ValueError: the model is larger than the 2 GB that ONNX allows.
    """
    require_opset(opset)
    if form not in FORMS:
        raise OnnxError(f"the form is {form!r}; choose {', '.join(FORMS)}")
    model = ModelBuilder(graph, form)
    loops = {name: loop for loop in graph.loops for name in loop}
    for name, node in graph.nodes.items():
        if name in loops and name not in model.values:
            add_loop(model, loops[name], _add)
        elif name not in loops and name != graph.output_name:
            model.values[name] = _add(model, name, node)
    _add(model, graph.output_name, graph.output)  # which comes last, even where a loop feeds nothing
    used = {needed for name in model.functions for needed in (name, *functions.needs(name))}
    proto = helper.make_model(
        helper.make_graph(model.outer, "spiking_network", model.inputs, model.outputs, model.initializers),
        # a function comes behind those that it calls
        functions=[functions.make(name, opset) for name in sorted(used, key=lambda n: (n not in functions.STEPS, n))],
        **producer(opset),
    )
    helper.set_model_props(proto, {key: json.dumps(value) for key, value in metadata(graph, form).items()})
    return with_shapes(proto, FRONT[form], model.ends)


def _add(model: ModelBuilder, name: str, node: Node) -> ModelTensor:
    """Add one node of the graph to the model; returns the tensor that it gives."""
    if isinstance(node, Input):
        return add_input(model, node)
    if isinstance(node, Delay) and model.graph.closes_loop(name):
        return read_delay(model, name, node)
    x = model.incoming(name)
    if model.integer and x.kind == "int32" and not isinstance(node, IF | LIF | Output):
        raise OnnxError(f"{name}: in an integer network only neurons read currents; put a neuron layer before it")
    match node:
        case Conv2d() | Linear():
            return add_synapses(model, name, node, x)
        case MaxPool2d():
            return add_max_pool(model, name, node, x)
        case AvgPool2d():
            return add_average_pool(model, name, node, x)
        case Delay():
            return add_delay(model, name, node, x)
        case Flatten():
            return add_flatten(model, name, node, x)
        case IF() | LIF():
            return add_neurons(model, name, node, x, model.now(spikes_of(name)))
        case Output(readout="rate"):
            steps = model.every_step(x)
            add_read_out(model, node, steps)
            return steps
        case Output():
            membrane = add_neurons(model, name, node, x, f"{name}/membrane")
            add_read_out(model, node, membrane)
            return membrane
        case _:
            assert_never(node)
