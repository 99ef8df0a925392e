"""An ANN in an ONNX file, of this program or of another, is looked through and run on onnxruntime.

As with spiking networks (`exporters.onnx.check`), what could ask a runtime for any amount of memory or time is refused: bodies
of loops, functions, operators of other domains, weights in other files, and shapes that cannot be worked out for one sample or
are too large.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, shape_inference

from exporters.graph import Array, Shape
from exporters.onnx.check import MAX_NODES, MAX_TOTAL, MAX_WORK, read_proto, require_inside, work
from exporters.onnx.facts import OnnxError, first_line
from exporters.onnx.outline import MAX_ELEMENTS


@dataclass(frozen=True, eq=False)
class AnnModel:
    """The ANN was looked through and may be run.

    Attributes:
        path: where it came from.
        graph: its graph with every shape worked out, for one sample.
        proto: the model.
        input_shape: of one sample.
        classes: logits.
        metadata: what of its metadata is JSON.
        largest: elements of the largest tensor for one sample.
        one_by_one: whether it takes one sample at a time.
    """

    path: Path
    graph: onnx.GraphProto
    proto: onnx.ModelProto
    input_shape: Shape
    classes: int
    metadata: Mapping[str, Any]
    largest: int
    one_by_one: bool

    def session(self) -> Callable[[Array], Array]:
        """It is loaded into onnxruntime: samples (N, *input_shape) as float32 → logits (N, classes).

        Raises:
            OnnxError: onnxruntime cannot run it.
        """
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 4
        try:
            session = ort.InferenceSession(
                self.proto.SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
        except Exception as error:  # onnxruntime raises a dozen unrelated types
            raise self._cannot_run(error) from error
        name, size = session.get_inputs()[0].name, 1 if self.one_by_one else max(1, 2**24 // self.largest)

        def run(x: Array) -> Array:
            x = np.ascontiguousarray(x, np.float32)
            try:
                return np.concatenate([session.run(None, {name: x[i : i + size]})[0] for i in range(0, len(x), size)])
            except Exception as error:
                raise self._cannot_run(error) from error

        return run

    def _cannot_run(self, error: Exception) -> OnnxError:
        return OnnxError(f"{self.path.name}: onnxruntime cannot run it ({first_line(error)})")


def is_spiking(path: Path) -> bool:
    """Whether a model says of itself that it is a spiking network of this program.

    Raises:
        OnnxError: no such file, or not a model.
    """
    found = {p.key: p.value for p in read_proto(path).metadata_props}
    return found.get("kdsnn_deploy_form") in ('"sequence"', '"loop"', '"step"') or "neurons" in found


def load_ann(path: Path) -> AnnModel:
    """A model without state is read and looked through: one input (N, *shape) of float32, one output (N, classes).

    Raises:
        OnnxError: no such file, not a model, or not such an ANN; in one line.
    """
    proto = read_proto(path)
    try:
        return _looked_through(path, proto)
    except OnnxError as error:
        raise OnnxError(f"{path.name}: {error}") from error
    except Exception as error:  # onnx's checker and shape inference raise a handful of unrelated types
        raise OnnxError(f"{path.name}: the model is damaged inside ({first_line(error)})") from error


def _looked_through(path: Path, proto: onnx.ModelProto) -> AnnModel:
    graph = proto.graph
    if len(graph.node) > MAX_NODES:
        raise OnnxError(f"more than {MAX_NODES} operators")
    if proto.functions or graph.sparse_initializer or any(node.domain not in ("", "ai.onnx") for node in graph.node):
        raise OnnxError("functions, sparse weights or operators of other domains than ONNX's are not run here")
    attributes = [a for node in graph.node for a in node.attribute]
    if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in attributes):
        raise OnnxError("an operator holds a graph of its own, such as a loop; an ANN here has none")
    for tensor in (*graph.initializer, *(a.t for a in attributes if a.HasField("t"))):
        require_inside(tensor)
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise OnnxError(f"it has {len(inputs)} inputs and {len(graph.output)} outputs; an ANN here has one of each")
    kind = inputs[0].type.tensor_type
    batch, *shape = [d.dim_value if d.HasField("dim_value") else 0 for d in kind.shape.dim] or [0]
    if kind.elem_type != TensorProto.FLOAT or not shape or min(shape) < 1 or max(shape) > MAX_ELEMENTS or batch > 1:
        raise OnnxError("its input must be float32 (N, …) with all sizes but N fixed, and N free or 1")
    one = onnx.ModelProto()
    one.CopyFrom(proto)
    first = next(value for value in one.graph.input if value.name == inputs[0].name)
    first.type.tensor_type.shape.dim[0].dim_value = 1
    del one.graph.value_info[:]
    for dim in one.graph.output[0].type.tensor_type.shape.dim:
        dim.Clear()
    inferred = shape_inference.infer_shapes(one, strict_mode=True, data_prop=True).graph
    shapes = sizes(inferred)
    return AnnModel(
        path, inferred, proto, tuple(shape), _classes(inferred, shapes), _metadata(proto), _largest(inferred, shapes),
        batch == 1,
    )  # fmt: skip


def sizes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """Every tensor's shape that onnx has worked out, by name."""
    found = {t.name: tuple(t.dims) for t in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in dims):
            found[value.name] = tuple(d.dim_value for d in dims)
    return found


def _classes(graph: onnx.GraphProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    shape = shapes.get(graph.output[0].name, ())
    if len(shape) != 2 or shape[0] != 1:
        raise OnnxError(
            f"its output must be logits (N, classes), and for one sample it is {shape or 'of unknown shape'}"
        )
    return shape[1]


def _largest(graph: onnx.GraphProto, shapes: dict[str, tuple[int, ...]]) -> int:
    largest, total, done = 1, 0, 0
    for node in graph.node:
        for name in filter(None, node.output):
            if name not in shapes:
                raise OnnxError(f"the shape of {name[:60]} cannot be worked out")
            size = math.prod(shapes[name])
            largest, total = max(largest, size), total + size
        done += work(node, shapes)
    if largest > MAX_ELEMENTS or total > MAX_TOTAL or done > MAX_WORK:
        raise OnnxError(f"one sample would take {total:.3g} values and {done:.3g} multiplications: too many")
    return largest


def _metadata(proto: onnx.ModelProto) -> dict[str, Any]:
    found = {}
    for entry in proto.metadata_props:
        with suppress(ValueError, RecursionError):
            found[entry.key] = json.loads(entry.value)
    return found
