"""A `SpikingGraph` is written as an `.onnx` file."""

from __future__ import annotations

from pathlib import Path

import onnx

from exporters.files import atomic_path
from exporters.graph import SpikingGraph
from exporters.onnx.build_model import build
from exporters.onnx.facts import Form, OnnxError, first_line
from exporters.onnx.operators import OPSET


def write(graph: SpikingGraph, path: Path, form: Form = "sequence", *, opset: int = OPSET) -> Path:
    """A graph is written as an ONNX model: float32 from a float graph, integers from a quantized one.

    Args:
        graph: what to write.
        path: the `.onnx` file.
        form: "sequence", "loop" or "step".
        opset: the version of ONNX's operators, one of `OPSETS`.

    Raises:
        OnnxError: another opset; the model fails onnx.checker, is larger than ONNX's 2 GB, or the graph is integer
            and holds something that integers do not express.
    """
    try:
        model = build(graph, form, opset=opset)
        onnx.checker.check_model(model, full_check=True)
        with atomic_path(path) as temporary:
            onnx.save(model, str(temporary))
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise OnnxError(f"{path.name}: the model is not valid ONNX ({first_line(error)})") from error
    return path
