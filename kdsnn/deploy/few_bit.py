"""Trained ANNs of few bits, set beside a spiking student in a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kdsnn.deploy.counting import some
from kdsnn.deploy.evaluate import accuracies
from kdsnn.deploy.images import Pixels, require_trained_fit
from kdsnn.deploy.load import load
from kdsnn.deploy.progress import Progress, silent
from kdsnn.deploy.report_options import distinct
from kdsnn.deploy.trained import TrainedNetwork
from kdsnn.errors import OptionError

if TYPE_CHECKING:
    from exporters.graph import Array
    from kdsnn.data import DataSet
    from profilers import report

Qann = str | Path | TrainedNetwork
"""A checkpoint, or what `pretrain` returned."""

PIXEL_BITS = 8


def named(given: Qann | Sequence[Qann] | None) -> dict[str, TrainedNetwork]:
    """The networks by the names that a report calls them.

    Raises:
        KdsnnError: a damaged file, a spiking network, or an ANN of floats.
    """
    if given is None:
        return {}
    several = [given] if isinstance(given, str | Path | TrainedNetwork) else given
    if not isinstance(several, Sequence):
        raise OptionError("{qann}: it must be a checkpoint, what `pretrain` returned, or several of them", qann=given)
    found = [one if isinstance(one, TrainedNetwork) else load(one) for one in several]
    files = [str(one.path) if one.path else f"quantized ANN {i}" for i, one in enumerate(found, start=1)]
    for name, network in zip(files, found, strict=True):
        if network.info.spiking or network.info.quantized is None:
            kind = "a spiking network" if network.info.spiking else "an ANN with float activations"
            raise OptionError(
                f"{{qann}}: this is {kind}; give an ANN of few bits, which pretrain makes with {{quantize_activations}}",
                qann=name, quantize_activations=None,
            )  # fmt: skip
    return dict(zip(distinct(files), found, strict=True))


def _pixel_bits(images: DataSet) -> int:
    """Bits of what an ANN sees: a pixel, or the mean of T frames, which is their sum."""
    if images.T is None:
        return PIXEL_BITS
    return (images.T * (2**PIXEL_BITS - 1 if images.graded else 1)).bit_length()


def count_few_bit(
    name: str, ann: TrainedNetwork, images: DataSet, x: Array, labels: Array, *, progress: Progress = silent
) -> report.FewBitAnn:
    """The accuracy of an ANN of few bits on x, test images of `images`, and what it does and moves on some of them.

    Raises:
        KdsnnError: a network for other images; DeployError: layers that cannot be counted.
    """
    import torch

    from exporters.errors import DeployError
    from kdsnn.models.quantized_activations import levels_read
    from kdsnn.train.learner import still
    from profilers import report
    from profilers.counting.flops import count_module
    from profilers.counting.zero_skipping import active_macs
    from profilers.energy import movement, operations

    info = ann.info
    assert info.quantized is not None  # `named` refuses others
    require_trained_fit(name, ann, images)
    progress(f"count {name}", 0, 1)
    accuracy = accuracies(ann.module, replace(images, x_test=x, y_test=labels), frames=info.frames)[-1]
    few = still(torch.from_numpy(Pixels(some(x), info.input_shape, images.graded)[:]))
    active, levels = active_macs(ann.module, few), levels_read(ann.module, few)
    if active.other:
        raise DeployError(
            f"{name}: not only convolutions and linear layers multiply in it; such a network is not counted"
        )
    bits, activation_bits = info.quantized["bits"], info.quantized["activation_bits"]
    pixel_bits = _pixel_bits(images)
    dense = [
        movement.AnnLayer(
            shape, float(shape.macs), bits, activation_bits if levels[layer] else pixel_bits, activation_bits
        )
        for layer, shape in active.shapes.items()
    ]
    done = [
        replace(one, done=float(active.layers[layer].mean())) for layer, one in zip(active.shapes, dense, strict=True)
    ]
    progress(f"count {name}", 1, 1)
    return report.FewBitAnn(
        name, accuracy, bits, activation_bits, count_module(ann.module, info.input_shape),
        weight_bits=bits * sum(shape.weights for shape in active.shapes.values()),
        active=sum(one.done for one in done),
        budget=movement.ann_budget(done),
        dense=movement.with_movement(operations.dense_ann(active.shapes.values()), movement.ann_movement(dense)),
        zero_skipping=movement.with_movement(
            operations.zero_skipping_ann(active.shapes, active.mean_by_layer), movement.ann_movement(done)
        ),
        samples=len(x),
    )  # fmt: skip
