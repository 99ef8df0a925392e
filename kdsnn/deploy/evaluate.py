"""The verb `evaluate`: the accuracy of a trained network, after every time step."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdsnn.deploy.images import load_data, require_trained_fit
from kdsnn.deploy.load import load
from kdsnn.deploy.progress import Progress, silent
from kdsnn.deploy.tables import Result
from kdsnn.deploy.trained import TrainedNetwork
from kdsnn.errors import OptionError
from kdsnn.factory import is_factory
from profilers.text_table import TextTable, table

if TYPE_CHECKING:
    from torch import nn

    from kdsnn.deploy.images import ImageSize


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
    """

    name: str
    model: str
    data: str
    samples: int
    spiking: bool
    accuracies: tuple[float, ...]

    @property
    def accuracy(self) -> float:
        """The accuracy after the last step."""
        return self.accuracies[-1]

    def tables(self) -> tuple[TextTable, ...]:
        """Accuracy, for a spiking network at every step."""
        from profilers.report.numbers import percent

        title = f"{Path(self.name).name}: {self.model} on {self.data}, {self.samples} test images"
        if not self.spiking:
            return (table(title, ["accuracy"], [[percent(self.accuracy, 2)]]),)
        rows = [[str(t + 1), percent(a, 2)] for t, a in enumerate(self.accuracies)]
        return (table(title, ["time steps", "accuracy"], rows),)

    def rows(self) -> list[dict[str, Any]]:
        """One row per time step."""
        if not self.spiking:
            return [{"accuracy": self.accuracy}]
        return [{"time_steps": t + 1, "accuracy": a} for t, a in enumerate(self.accuracies)]

    def to_dict(self) -> dict[str, Any]:
        """The network, the data, and the accuracies."""
        return {
            "checkpoint": self.name, "data": self.data, "samples": self.samples, "accuracy": list(self.accuracies),
        }  # fmt: skip


def evaluate(
    source: str | Path | TrainedNetwork | nn.Module,
    data: Any = "digits",
    *,
    weights: str | Path | None = None,
    T: int | None = None,
    image_size: ImageSize = None,
    noise: float = 0.0,
    noise_kind: str = "std",
    noise_on: str = "train,test",
    progress: Progress = silent,
) -> Evaluation:
    """Measure the test accuracy, for a spiking network after each of its T steps.

    Args:
        source: a checkpoint, what `pretrain`, `distill` or `load` returned, a torch module, or `package.module:factory`.
        data: whatever `load_data` takes; `image_size`, `noise`, `noise_kind`, `noise_on` as there.
        weights: for a factory, the checkpoint of its network.
        T: time steps, for a spiking torch module; None for an ANN.
        progress: told how far it is.

    Raises:
        KdsnnError: a damaged checkpoint, or a network and data that do not fit.
    """
    from kdsnn import train

    # what is wrong with it is said before data is waited for
    network = _network(source, weights) if isinstance(source, str | Path) else source
    images = load_data(data, image_size=image_size, noise=noise, noise_kind=noise_kind, noise_on=noise_on)
    told = functools.partial(progress, f"evaluate on {images.name}")
    if not isinstance(network, TrainedNetwork):
        kind = type(network).__name__
        found = train.evaluate(network, images, T=T, progress=told)
        return Evaluation(kind.lower(), kind, images.name, len(images.y_test), T is not None, tuple(found))
    info = network.info
    name = str(source) if isinstance(source, str | Path) else info.model
    require_trained_fit(Path(name).name, network, images)
    found = train.evaluate(network.module, images, T=info.T if info.spiking else None, progress=told)
    return Evaluation(name, info.model, images.name, len(images.y_test), info.spiking, tuple(found))


def _network(source: str | Path, weights: str | Path | None) -> TrainedNetwork:
    if not is_factory(str(source)):
        return load(source)
    if weights is None:
        raise OptionError(f"{source}: give the checkpoint of its network as {{weights}}", weights=None)
    return load(weights, module=str(source))
