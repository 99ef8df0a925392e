"""A model says of every tensor in it what type and shape it has, so that a viewer can show them along the edges."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from onnx import shape_inference

SAMPLES, STEPS, FOLDED = "N", "T", "T*N"
"""What free dimensions are called: samples, time steps, and time folded into the samples."""


def with_shapes(model: onnx.ModelProto, front: str, known: Iterable[onnx.ValueInfoProto] = ()) -> onnx.ModelProto:
    """A copy of the model has `value_info` for every tensor, in the bodies of its loops too, as onnx works it out.

    Args:
        model: a model whose inputs and outputs have their shapes already.
        front: what the first dimension of a tensor is called that onnx finds to be free; in the body of a loop, and further
            behind, it is `SAMPLES`.
        known: what to say of tensors of which onnx knows only the type (states, as a loop leaves them).

    Raises:
        onnx.shape_inference.InferenceError: the operators do not fit each other.
        ValueError: the model is larger than 2 GB.
    """
    inferred = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    infos = {info.name: info for info in (*inferred.graph.value_info, *known)}
    del inferred.graph.value_info[:]
    inferred.graph.value_info.extend(infos.values())
    _name_free_dimensions(inferred.graph, front)
    for node in inferred.graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _name_free_dimensions(attribute.g, SAMPLES)
    return inferred


def _name_free_dimensions(graph: onnx.GraphProto, front: str) -> None:
    places: dict[str, int] = {}  # onnx's name for what it finds to be free → the last place where that stands
    dimensions = [
        (place, dim)
        for info in (*graph.value_info, *graph.output)
        for place, dim in enumerate(info.type.tensor_type.shape.dim)
        if dim.dim_param.startswith("unk__")
    ]
    for place, dim in dimensions:
        places[dim.dim_param] = max(place, places.get(dim.dim_param, 0))
    for _, dim in dimensions:
        dim.dim_param = SAMPLES if places[dim.dim_param] else front
