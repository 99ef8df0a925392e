"""Every exported model is made of these pieces: operators, constants and local functions of one domain and opset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from exporters.onnx.facts import OnnxError
from exporters.version import VERSION

OPSETS = range(18, 24)
"""Opsets in which a model can be written; what it is made of means the same in all of them."""
OPSET = 20
"""The opset in which it is written if nothing else is asked for."""
PRODUCER = "kdsnn-deploy"
DOMAIN = "kdsnn.deploy"


def require_opset(opset: int) -> None:
    """An opset must be one of `OPSETS`.

    Raises:
        OnnxError: it is another.
    """
    if opset not in OPSETS:
        raise OnnxError(
            f"opset {opset}: models can be written in opset {OPSETS[0]} to {OPSETS[-1]}; choose one of these"
        )


def producer(opset: int) -> dict[str, Any]:
    """What `onnx.helper.make_model` is told besides a graph and its functions: who wrote the model, and for which runtimes."""
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, 1)]
    return {
        "producer_name": PRODUCER,
        "producer_version": VERSION,
        "opset_imports": imports,
        "ir_version": helper.find_min_ir_version_for(imports[:1]),  # the oldest, which most runtimes read
    }


def node(kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> onnx.NodeProto:
    """An operator has, in a viewer, the name of its first output."""
    return helper.make_node(kind, list(inputs), list(outputs), name=outputs[0], **attributes)


def constant(name: str, value: Any) -> onnx.NodeProto:
    """Inside a local function an operator gives a constant."""
    return node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(value)))


def attribute_value(name: str, field: str, kind: int, output: str | None = None) -> onnx.NodeProto:
    """An operator gives the attribute `name` of the local function around it, as a tensor called `output` (`name` by
    default).

    `field` is the attribute of `Constant` that takes such a value (value_int, say), `kind` its type in `onnx.AttributeProto`.
    """
    return refer(node("Constant", [], [output or name]), field, name, kind)


def refer(to: onnx.NodeProto, field: str, attribute: str, kind: int) -> onnx.NodeProto:
    """An operator's attribute `field` takes its value from the local function's `attribute` from now on; the operator
    is returned."""
    to.attribute.append(onnx.AttributeProto(name=field, ref_attr_name=attribute, type=kind))  # type: ignore[arg-type]
    return to


def function(
    name: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    nodes: Sequence[onnx.NodeProto],
    attributes: Sequence[str] = (),
) -> onnx.FunctionProto:
    """A local function belongs to the domain `kdsnn.deploy`."""
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_function(DOMAIN, name, list(inputs), list(outputs), list(nodes), opsets, list(attributes))
