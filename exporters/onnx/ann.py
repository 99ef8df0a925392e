"""The ANN teacher becomes ONNX by torch's own exporter, and is verified against torch."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from exporters.files import atomic_path
from exporters.graph import Array, Shape
from exporters.onnx.facts import OnnxError, first_line
from exporters.onnx.operators import OPSET

if TYPE_CHECKING:
    from torch import nn

TOLERANCE = 1e-4
"""A logit may differ by this share of the largest: float32 adds up in another order, and BatchNorm is folded."""


def write_ann(module: nn.Module, input_shape: Shape, path: Path, *, x: Array | None = None) -> float:
    """Write a network without state as ONNX: `input` (N, *input_shape) float32 → `logits` (N, classes).

    BatchNorm is folded into the layer before it, where there is one; the batch is dynamic. The file is run on onnxruntime and compared with the
    module before it gets its name.

    Args:
        module: the network; a copy of it is run in eval mode.
        input_shape: (C, H, W) or (F,), without batch.
        path: where to write.
        x: samples to verify with; random ones by default.

    Returns:
        The largest difference of a logit from torch's.

    Raises:
        OnnxError: torch cannot export it, or the exported model computes something else.
        OSError: the file cannot be written.
    """
    import onnxruntime as ort
    import torch

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
                    network, (samples[:1],), str(temporary), dynamo=False, opset_version=OPSET, input_names=["input"],
                    output_names=["logits"], dynamic_axes={"input": {0: "N"}, "logits": {0: "N"}},
                )  # fmt: skip
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
