"""The verb `evaluate`: the accuracy of a trained network, after every time step."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdsnn.deploy.devices import moved, require_device
from kdsnn.deploy.factory import require_factory
from kdsnn.deploy.images import require_trained_fit
from kdsnn.deploy.load import load
from kdsnn.deploy.own_data import load_own, own_of
from kdsnn.deploy.processes import ranks
from kdsnn.deploy.progress import Progress, silent
from kdsnn.deploy.tables import Result
from kdsnn.deploy.trained import TrainedNetwork
from kdsnn.errors import KdsnnError, OptionError
from kdsnn.factory import is_factory
from kdsnn.train.config import LARGEST_T
from profilers.text_table import TextTable, table

if TYPE_CHECKING:
    from torch import nn

    from exporters.graph import Array
    from kdsnn.checkpoint import CheckpointInfo
    from kdsnn.data import DataSet
    from kdsnn.deploy.images import ImageSize
    from profilers.counting.confusion import Confusion


AS_TRAINED = "float, not quantized, BatchNorm not folded"


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation(Result):
    """Accuracy on a test set.

    Attributes:
        name: of the network.
        model: its architecture.
        data: the data set's name.
        samples: test images.
        spiking: whether the network has time steps.
        accuracies: 0…1; of a spiking network after each of its T steps, of an ANN one value.
        confusion: which classes were taken for which, after the last step.
        arithmetic: what was measured, in words: other verbs quantize the network, and fold BatchNorm into its weights.
    """

    name: str
    model: str
    data: str
    samples: int
    spiking: bool
    accuracies: tuple[float, ...]
    confusion: Confusion
    arithmetic: str = AS_TRAINED

    @property
    def accuracy(self) -> float:
        """The accuracy after the last step."""
        return self.accuracies[-1]

    def tables(self) -> tuple[TextTable, ...]:
        """Accuracy, for a spiking network at every step."""
        from profilers.report.numbers import percent

        title = f"{Path(self.name).name}: {self.model} on {self.data}, {self.samples} test images; {self.arithmetic}"
        if not self.spiking:
            return (table(title, ["accuracy"], [[percent(self.accuracy, 2)]]),)
        rows = [[str(t + 1), percent(a, 2)] for t, a in enumerate(self.accuracies)]
        return (table(title, ["time steps", "accuracy"], rows),)

    def confusion_table(self) -> TextTable:
        """The confusion matrix, rows the labels; of more than ten classes a line for each, with what it is most often taken
        for."""
        from profilers.report.class_tables import MOST_IN_A_MATRIX, class_lines, matrix_lines

        if self.confusion.classes <= MOST_IN_A_MATRIX:
            return table("rows are the labels, columns what they are taken for", *matrix_lines(self.confusion))
        return table("class by class", *class_lines(self.confusion))

    def classes(self) -> list[dict[str, Any]]:
        """One row per class: its name, samples, the share of them that was recognized, and the share of what was taken for
        it that is of it; None where there is no such share."""
        found = self.confusion
        columns = zip(found.samples, found.recall, found.precision, strict=True)
        return [
            {"class": label, "name": found.name(label), "samples": samples, "recall": recall, "precision": precision}
            for label, (samples, recall, precision) in enumerate(columns)
        ]

    def rows(self) -> list[dict[str, Any]]:
        """One row per time step."""
        if not self.spiking:
            return [{"accuracy": self.accuracy}]
        return [{"time_steps": t + 1, "accuracy": a} for t, a in enumerate(self.accuracies)]

    def to_dict(self) -> dict[str, Any]:
        """The network, the data, the accuracies, those of every class, and the confusion matrix, rows the labels."""
        return {
            "checkpoint": self.name, "data": self.data, "samples": self.samples, "arithmetic": self.arithmetic,
            "accuracy": list(self.accuracies), "classes": self.classes(), "confusion": self.confusion.matrix.tolist(),
        }  # fmt: skip


def evaluate(
    source: str | Path | TrainedNetwork | nn.Module,
    data: Any = None,
    *,
    weights: str | Path | None = None,
    T: int | None = None,
    device: str | None = None,
    image_size: ImageSize = None,
    noise: float = 0.0,
    noise_kind: str = "std",
    noise_on: str = "train,test",
    progress: Progress = silent,
) -> Evaluation:
    """Measure the test accuracy, for a spiking network after each of its T steps.

    Args:
        source: a checkpoint, what `pretrain`, `distill` or `load` returned, a torch module, or `package.module:factory`.
        data: whatever `load_data` takes; `image_size`, `noise`, `noise_kind`, `noise_on` as there. By default what the network
            was trained on; digits where it does not say.
        weights: for a factory, the checkpoint of its network.
        T: time steps, for a spiking torch module; None for an ANN.
        device: where torch computes, "cpu", "cuda", "cuda:1", "mps"; None leaves a module where it is, that of a checkpoint on
            the CPU.
        progress: told how far it is.

    Raises:
        KdsnnError: a damaged checkpoint, or a network and data that do not fit.
    """
    # what is wrong with them is said before data is waited for
    require_device(device)
    if T is not None and not 1 <= T <= LARGEST_T:
        raise OptionError(f"{{T}}: it must be 1 to {LARGEST_T:,} time steps", T=T)
    require_factory(source, weights)
    network = _network(source, weights) if isinstance(source, str | Path) else source
    _require_module(network)
    if isinstance(network, TrainedNetwork) and T not in (None, network.info.T):
        own = f"T = {network.info.T}" if network.info.spiking else "no time steps"
        raise OptionError(f"{{T}}: {network.path or network.info.model} was trained with {own}; leave it out", T=T)
    images = load_own(
        data, own_of(network), image_size=image_size, noise=noise, noise_kind=noise_kind, noise_on=noise_on
    )
    told = functools.partial(progress, f"evaluate on {images.name}")
    if not isinstance(network, TrainedNetwork):
        kind = type(network).__name__
        with moved(network, device):
            return _evaluated(network, kind.lower(), kind, images, T=T, progress=told)
    info = network.info
    name = str(source) if isinstance(source, str | Path) else info.model
    require_trained_fit(Path(name).name, network, images)
    T = info.T if info.spiking else None
    with moved(network.module, device):
        found = _evaluated(network.module, name, info.model, images, T=T, frames=info.frames, progress=told)
    return replace(found, arithmetic=_arithmetic(info))


def _require_module(network: Any) -> None:
    from torch import nn

    if not isinstance(network, TrainedNetwork | nn.Module):
        raise KdsnnError(
            f"a {type(network).__name__} is no trained network: give a checkpoint, a TrainedNetwork or a torch module; "
            "run takes lowered networks and graphs"
        )


def _evaluated(module: nn.Module, name: str, model: str, images: DataSet, *, T: int | None, **how: Any) -> Evaluation:
    from profilers.counting.confusion import confusion

    found, labels = _decisions(module, images, T=T, **how), images.y_test
    counted = confusion(labels, found[-1], images.classes, images.class_names)
    return Evaluation(name, model, images.name, len(labels), T is not None, _right(found, labels), counted)


def accuracies(module: nn.Module, images: DataSet, **how: Any) -> tuple[float, ...]:
    """What `kdsnn.train.evaluate` finds, `how` as there; of several processes of a launcher each takes a share of the test set."""
    return _right(_decisions(module, images, **how), images.y_test)


def _right(found: Array, labels: Array) -> tuple[float, ...]:
    return tuple(right / len(labels) for right in (found == labels).sum(axis=1).tolist())


def _decisions(module: nn.Module, images: DataSet, **how: Any) -> Array:
    import numpy as np

    from kdsnn import train

    group = ranks()
    mine = group.part(len(images.y_test))
    part = replace(images, x_test=images.x_test[mine], y_test=images.y_test[mine])
    found = train.decisions(module, part, **how) if len(part.y_test) else None
    return np.concatenate([one for one in group.gather(found) if one is not None], axis=1)


def _arithmetic(info: CheckpointInfo) -> str:
    if info.quantized is None:
        return AS_TRAINED
    bits = info.quantized["bits"]
    if info.spiking:
        return f"trained on the grid of {bits}-bit weights, in float arithmetic"
    return f"{bits}-bit weights, {info.quantized['activation_bits']}-bit activations"


def _network(source: str | Path, weights: str | Path | None) -> TrainedNetwork:
    if not is_factory(str(source)):
        return load(source)
    if weights is None:
        raise OptionError(f"{source}: give the checkpoint of its network as {{weights}}", weights=None)
    return load(weights, module=str(source))
