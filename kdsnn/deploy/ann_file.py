"""An ANN in an ONNX file, run on a data set: it has no time axis, and its scores are its logits."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdsnn.deploy.backends import BackendRun
from kdsnn.deploy.images import Pixels, class_names_in, require_fit, some_tests
from kdsnn.deploy.own_data import load_own, own_data
from kdsnn.deploy.progress import Progress
from kdsnn.errors import OptionError

if TYPE_CHECKING:
    from exporters.graph import Array
    from exporters.onnx import AnnModel
    from kdsnn.deploy.images import ImageSize


def run_ann_file(
    path: Path, data: Any, samples: int, image_size: ImageSize, T: int | None, progress: Progress
) -> tuple[str, BackendRun, Array, Array]:
    """Run test images through an ANN's `.onnx` file: a title, the run, the labels, and what was fed in (N, *shape).

    Raises:
        OptionError: time steps for a network that has none; OnnxError, KdsnnError: a file or data that cannot be used.
    """
    from exporters import onnx

    if T is not None:
        raise OptionError(f"{{T}}: {path.name} is an ANN and has no time steps; leave it out", T=T)
    model = onnx.load_ann(path)
    images = load_own(data, own_data(model.metadata.get("source"), path.name), image_size=image_size)
    require_fit(
        path.stem, model.input_shape, images, classes=model.classes, class_names=names_in(model),
        over_time=images.T is not None, graded=images.graded,
    )  # fmt: skip
    chosen, labels = some_tests(images, samples)
    x = seen_by_ann(Pixels(chosen, model.input_shape, images.graded)[:])
    run = model.session()
    progress("run on onnx", 0, 1)
    started = time.perf_counter()
    scores = run(x)
    seconds = time.perf_counter() - started
    progress("run on onnx", 1, 1)
    return f"{path.name} (ANN) on {images.name}", BackendRun("onnx", scores[:, None], scores, {}, seconds), labels, x


def source_in(path: Path) -> Any:
    """What the `.onnx` file of an ANN or a spiking network remembers of where it came from, for `own_data`; None where it does not.

    Raises:
        OnnxError: no such file, or not such a model.
    """
    from exporters import onnx

    facts = onnx.load(path).facts if onnx.is_spiking(path) else onnx.load_ann(path).metadata
    return facts.get("source")


def names_in(model: AnnModel) -> tuple[str, ...]:
    """The class names that a model's metadata holds, if it does."""
    return class_names_in(model.metadata.get("source")) or class_names_in(model.metadata)


def seen_by_ann(x: Array) -> Array:
    """What an ANN sees: images (N, …) as they are, and of frames over time (N, T, C, H, W) the mean."""
    return x.mean(axis=1, dtype=x.dtype) if x.ndim == 5 else x
