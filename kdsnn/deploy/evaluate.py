"""The verb `evaluate`: the accuracy of a trained network, after every time step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdsnn.deploy.devices import moved, require_device
from kdsnn.deploy.images import require_trained_fit
from kdsnn.deploy.load import load
from kdsnn.deploy.own_data import load_own, own_of
from kdsnn.deploy.tables import Result
from kdsnn.deploy.trained import TrainedNetwork
from kdsnn.errors import OptionError
from kdsnn.factory import is_factory
from profilers.text_table import TextTable, table

if TYPE_CHECKING:
    from torch import nn

    from kdsnn.checkpoint import CheckpointInfo
    from kdsnn.deploy.images import ImageSize


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
        arithmetic: what was measured, in words: other verbs quantize the network, and fold BatchNorm into its weights.
    """

    name: str
    model: str
    data: str
    samples: int
    spiking: bool
    accuracies: tuple[float, ...]
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

    def rows(self) -> list[dict[str, Any]]:
        """One row per time step."""
        if not self.spiking:
            return [{"accuracy": self.accuracy}]
        return [{"time_steps": t + 1, "accuracy": a} for t, a in enumerate(self.accuracies)]

    def to_dict(self) -> dict[str, Any]:
        """The network, the data, and the accuracies."""
        return {
            "checkpoint": self.name, "data": self.data, "samples": self.samples, "arithmetic": self.arithmetic,
            "accuracy": list(self.accuracies),
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

    Raises:
        KdsnnError: a damaged checkpoint, or a network and data that do not fit.
    """
    from kdsnn import train

    # what is wrong with them is said before data is waited for
    require_device(device)
    network = _network(source, weights) if isinstance(source, str | Path) else source
    images = load_own(
        data, own_of(network), image_size=image_size, noise=noise, noise_kind=noise_kind, noise_on=noise_on
    )
    if not isinstance(network, TrainedNetwork):
        kind = type(network).__name__
        with moved(network, device):
            found = train.evaluate(network, images, T=T)
        return Evaluation(kind.lower(), kind, images.name, len(images.y_test), T is not None, tuple(found))
    info = network.info
    name = str(source) if isinstance(source, str | Path) else info.model
    require_trained_fit(Path(name).name, network, images)
    with moved(network.module, device):
        found = train.evaluate(network.module, images, T=info.T if info.spiking else None)
    return Evaluation(name, info.model, images.name, len(images.y_test), info.spiking, tuple(found), _arithmetic(info))


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
