"""A graph's recurrent parts are computed step by step: in a sequence each is one `Scan` over time, and all around it runs
over all steps at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper

from exporters.graph import Neuron, Node
from exporters.onnx.delay_calls import write_delay
from exporters.onnx.facts import spikes_of
from exporters.onnx.model_builder import TENSOR_TYPES, ModelBuilder, ModelTensor
from exporters.onnx.operators import node as operator

Add = Callable[[ModelBuilder, str, Node], ModelTensor]
"""This adds one node of the graph to the model, and returns the tensor that it gives."""


def add_loop(model: ModelBuilder, loop: tuple[str, ...], add: Add) -> None:
    """The nodes of a loop are added, each by `add`; their tensors are put into the model's values."""
    if not model.folded:
        _add_step(model, loop, add)
        return
    graph = model.graph
    outside = {s: None for name in loop for s in graph.sources(name) if s not in loop}
    entering = {s: model.every_step(model.values[s]) for s in outside}
    steps = {s: _unfolded(model, s, x, f"{x.tensor}/steps_of/{loop[0]}") for s, x in entering.items()}
    now = {s: ModelTensor(f"{steps[s]}/now", x.kind, False) for s, x in entering.items()}
    with model.one_step() as body:
        model.values |= now
        _add_step(model, loop, add)
        leaving = {name: model.values[name] for name in loop if _is_read(model, name, loop)}
        graph_of_step = helper.make_graph(
            body,
            "one_step",
            [*model.state_infos(""), *(_info(model, s, x) for s, x in now.items())],
            [*model.state_infos("_next"), *(_info(model, name, x) for name, x in leaving.items())],
        )
        states = dict(model.states)
    model.values |= {s: entering[s] for s in now}
    results = [f"{name}/all_steps" for name in leaving]
    starts, ends = model.add_starts(states), model.add_ends(states)
    model.outer.append(
        operator("Scan", [*starts, *steps.values()], [*ends, *results], body=graph_of_step, num_scan_inputs=len(steps))
    )
    for (name, x), result in zip(leaving.items(), results, strict=True):
        model.values[name] = _folded(model, name, x, result)


def _add_step(model: ModelBuilder, loop: tuple[str, ...], add: Add) -> None:
    for name in loop:
        model.values[name] = add(model, name, model.graph.nodes[name])
    for name in loop:
        if model.graph.closes_loop(name):  # its neurons have fired by now
            write_delay(model, name)


def _is_read(model: ModelBuilder, name: str, loop: tuple[str, ...]) -> bool:
    """Whether something behind the loop reads a node of it; spikes can be asked for in any case."""
    graph = model.graph
    return isinstance(graph.nodes[name], Neuron) or not set(loop).issuperset(graph.targets(name))


def _unfolded(model: ModelBuilder, name: str, x: ModelTensor, output: str) -> str:
    """Values (T·N, *shape) get their time axis: (T, N, *shape)."""
    shape = np.array([model.graph.T, -1, *model.graph.shapes[name]], np.int64)
    return model.op("Reshape", [x.tensor, model.constant(f"{output}/shape", shape)], output)


def _folded(model: ModelBuilder, name: str, x: ModelTensor, steps: str) -> ModelTensor:
    """What a `Scan` gave for all steps is (T·N, *shape) for all that follows."""
    output = spikes_of(name) if isinstance(model.graph.nodes[name], Neuron) else f"{name}/folded"
    shape = model.constant(f"{steps}/shape", np.array([-1, *model.graph.shapes[name]], np.int64))
    return ModelTensor(model.op("Reshape", [steps, shape], output), x.kind, False)


def _info(model: ModelBuilder, name: str, x: ModelTensor) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(x.tensor, TENSOR_TYPES[x.kind], ["N", *model.graph.shapes[name]])
