"""A graph's neurons become one call of a local function each, behind what their currents pass on the way."""

from __future__ import annotations

import functools
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np

from exporters.graph import AnyNeuron, Array, Output
from exporters.graph.bounds import sum_bound
from exporters.graph.editing import over_positions
from exporters.graph.registers import CURRENT_LIMIT, CURRENT_REGISTER, FRACTION
from exporters.onnx import functions
from exporters.onnx.facts import OnnxError, current_of, membrane_of, state_at
from exporters.onnx.model_builder import CarriedState, ModelBuilder, ModelTensor
from exporters.onnx.neuron_kinds import (
    NeuronKind,
    current_attributes,
    kind_of,
    membrane_attributes,
    persistent_current,
    start_attribute,
)


def add_neurons(model: ModelBuilder, name: str, node: AnyNeuron | Output, x: ModelTensor, output: str) -> ModelTensor:
    """A layer of neurons gives its spikes, a read-out its membrane, under the name `output`.

    Raises:
        OnnxError: an integer layer whose currents or biases are beyond what can be computed.
    """
    if model.integer:
        x = _chip_current(model, name, node, x)
    else:
        late = [s for s in model.graph.sources(name) if s in model.late]
        x = _biased(model, name, _lasting(model, name, node, x), late)
    kind = kind_of(node, integer=model.integer)
    attributes = membrane_attributes(node, integer=model.integer)
    start = 0.0 if isinstance(node, Output) else state_at(node.start, integer=model.integer)
    if model.folded:
        attributes |= start_attribute(node, integer=model.integer)
    _call(model, name, kind, membrane_of(name), x, output, attributes, start)
    if not model.integer:
        return ModelTensor(output, "float32", False)
    return ModelTensor(output, "uint8" if kind.fires else "int32", False)


def _call(
    model: ModelBuilder,
    name: str,
    kind: NeuronKind,
    state: str,
    x: ModelTensor,
    output: str,
    attributes: dict[str, Any],
    start: float = 0.0,
) -> None:
    """Where time is folded all steps are called at once; otherwise one step is called, whose state enters and leaves the
    model or the body around it."""
    if model.folded:
        model.call(kind.name, [model.every_step(x).tensor, model.time()], [output], **attributes)
    else:
        model.call(kind.step_name, [state, x.tensor], [f"{state}_next", output], **attributes)
        model.states[state] = CarriedState("int32" if model.integer else "float32", model.graph.shapes[name], start)


def _lasting(model: ModelBuilder, name: str, node: AnyNeuron | Output, x: ModelTensor) -> ModelTensor:
    """The synaptic current leaks from step to step where it persists."""
    if isinstance(node, Output) or not node.current_leak:
        return x
    kind, output = persistent_current(integer=model.integer), f"{name}/lasting"
    _call(model, name, kind, current_of(name), x, output, current_attributes(node, integer=model.integer))
    return replace(x, tensor=output, static=False)


def _chip_current(model: ModelBuilder, name: str, node: AnyNeuron | Output, x: ModelTensor) -> ModelTensor:
    """On its way to an integer membrane a current wraps where Lava's registers can, and only then comes the bias."""
    synapses = {s: model.graph.synapses[s] for s in model.graph.sources(name) if s in model.graph.synapses}
    x = model.cast(x, "int32")
    bound = sum(sum_bound(s, model.bounds[n], bias=False) for n, s in synapses.items())
    if name in model.persistent and bound >= CURRENT_REGISTER:
        raise OnnxError(f"{name}: its currents can reach {bound:g}, and where they persist only 2^23 can be computed")
    if name not in model.persistent and bound > CURRENT_LIMIT:
        wrapped = f"{name}/wrapped"
        convolved = len(model.graph.shapes[name]) == 3
        model.call(functions.WRAP if convolved else functions.WRAP_DENSE, [x.tensor], [wrapped], static=x.static)
        x = replace(x, tensor=wrapped)
    return _biased(model, name, _lasting(model, name, node, x), synapses)


def _biased(model: ModelBuilder, name: str, x: ModelTensor, synapses: Collection[str]) -> ModelTensor:
    """The neurons add the biases of these synapse layers to their current themselves."""
    biases = [b for s in synapses if (b := model.graph.synapses[s].bias) is not None]
    if not biases:
        return x
    kind = np.int64 if model.integer else np.float32
    total: Array = functools.reduce(np.add, [over_positions(b.astype(kind), model.graph.shapes[name]) for b in biases])
    if model.integer and np.abs(total).max() >= 2**17:
        raise OnnxError(f"{name}: a bias of {np.abs(total).max()} exceeds Lava's 16 bits by far")
    if model.integer and name in model.persistent:
        total = total * FRACTION
    bias = model.constant(f"{name}/bias", total.astype(np.int32 if model.integer else np.float32))
    return replace(x, tensor=model.op("Add", [x.tensor, bias], f"{name}/biased", static=x.static))
