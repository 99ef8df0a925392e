"""The ANN teacher becomes ONNX by torch's own exporter, and is verified against torch."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, version_converter

from exporters.files import atomic_path
from exporters.graph import Array, Shape
from exporters.onnx.facts import OnnxError, ann_metadata, first_line
from exporters.onnx.operators import OPSET, producer, require_opset
from exporters.onnx.tensor_shapes import SAMPLES, with_shapes

if TYPE_CHECKING:
    from torch import nn

TOLERANCE = 1e-4
"""A logit may differ by this share of the largest: float32 adds up in another order, and BatchNorm is folded."""

NEWEST_OF_TORCH = 20
"""The newest opset that torch's exporter writes; onnx's converter goes on from there."""


def write_ann(
    module: nn.Module,
    input_shape: Shape,
    path: Path,
    *,
    x: Array | None = None,
    opset: int = OPSET,
    source: Mapping[str, Any] | None = None,
) -> float:
    """Write a network without state as ONNX: `input` (N, *input_shape) float32 → `logits` (N, classes).

    BatchNorm is folded into the layer before it, where there is one; the batch is dynamic. The file is run on onnxruntime and compared with the
    module before it gets its name.

    Args:
        module: the network; a copy of it is run in eval mode.
        input_shape: (C, H, W) or (F,), without batch.
        path: where to write.
        x: samples to verify with; random ones by default.
        opset: the version of ONNX's operators, one of `OPSETS`.
        source: what to say in the file's metadata about where it comes from, JSON values; `class_names` among them.

    Returns:
        The largest difference of a logit from torch's.

    Raises:
        OnnxError: another opset; torch cannot export it, or the exported model computes something else.
        OSError: the file cannot be written.
    """
    import onnxruntime as ort
    import torch

    require_opset(opset)
    if x is None:
        x = np.random.default_rng(0).random((3, *input_shape))
    samples = torch.from_numpy(np.ascontiguousarray(x, np.float32))
    try:
        network = copy.deepcopy(module).eval().float()
        with atomic_path(path) as temporary:
            with torch.inference_mode():
                expected = network(samples).numpy()
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")  # it announces its successor, which needs another package
                torch.onnx.export(
                    network, (samples[:1],), str(temporary), dynamo=False, opset_version=min(opset, NEWEST_OF_TORCH), input_names=["input"],
                    output_names=["logits"], dynamic_axes={"input": {0: "N"}, "logits": {0: "N"}},
                )  # fmt: skip
            facts = ann_metadata(input_shape, source or {})
            onnx.save(_readable(onnx.load(str(temporary)), opset, facts), str(temporary))
            onnx.checker.check_model(str(temporary), full_check=True)
            options = ort.SessionOptions()
            options.log_severity_level = 4
            session = ort.InferenceSession(str(temporary), options, providers=["CPUExecutionProvider"])
            found = session.run(["logits"], {"input": samples.numpy()})[0]
            error = float(np.abs(found - expected).max())
            if not error <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
                raise OnnxError(f"{path.name}: the exported model's logits differ from torch's by {error:.3g}")
    except (OnnxError, OSError):
        raise
    except Exception as error:  # torch's exporter and onnxruntime raise a dozen unrelated types
        raise OnnxError(f"{path.name}: the network cannot be exported ({first_line(error)})") from error
    return error


def _readable(model: onnx.ModelProto, opset: int, facts: Mapping[str, Any]) -> onnx.ModelProto:
    """What torch wrote, in the opset that was asked for, with the names, shapes and facts that a viewer shows."""
    _name_weights(model.graph)
    if opset > NEWEST_OF_TORCH:
        model = version_converter.convert_version(model, opset)
    del model.graph.value_info[:]  # torch's, of weights as they were called
    model.graph.name = "network"
    made = helper.make_model(model.graph, **producer(opset))
    helper.set_model_props(made, {key: json.dumps(value) for key, value in facts.items()})
    return with_shapes(made, SAMPLES)


def _name_weights(graph: onnx.GraphProto) -> None:
    """Every weight gets the name of its layer.

    Folding BatchNorm leaves weights called `onnx::Conv_147`, and torch writes weights that are equal once, the others as an
    `Identity` of these.
    """
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for node in [n for n in graph.node if n.op_type == "Identity" and n.input[0] in weights]:
        own = graph.initializer.add()
        own.CopyFrom(weights[node.input[0]])
        own.name = node.output[0]
        graph.node.remove(node)
    taken = {tensor.name for tensor in graph.initializer}
    renamed: dict[str, str] = {}
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name in taken and name.startswith("onnx::") and name not in renamed:
                role = {1: "weight", 2: "bias"}.get(place, f"input{place}")
                wanted = f"{_layer(node)}.{role}"
                renamed[name] = wanted if wanted not in taken else f"{wanted}.{name.rpartition('_')[2]}"
                taken.add(renamed[name])
    for tensor in graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]


def _layer(node: onnx.NodeProto) -> str:
    """The module that an operator is of: `body.stage1.0.conv1`, which torch writes as `/body/stage1/stage1.0/conv1/Conv`."""
    found: list[str] = []
    for part in node.name.strip("/").split("/")[:-1]:
        if found and part.startswith(f"{found[-1]}."):
            found.pop()
        found.append(part)
    return ".".join(found) or node.op_type.lower()
