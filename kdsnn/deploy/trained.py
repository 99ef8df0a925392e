"""A trained network with what is known about it: what `pretrain`, `distill` and `load` return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdsnn.deploy.tables import Result
from kdsnn.errors import KdsnnError
from profilers.text_table import TextTable, table

if TYPE_CHECKING:
    from torch import nn

    from kdsnn.checkpoint import CheckpointInfo
    from kdsnn.train import EpochRecord


@dataclass(frozen=True, eq=False, repr=False)
class TrainedNetwork(Result):
    """An ANN or a spiking network after training.

    Attributes:
        module: the torch module, in eval mode.
        info: what it is, how it was trained and how well it does.
        history: one record per epoch; empty where it was loaded from a checkpoint.
        path: its checkpoint, where there is one.
        cost: spikes and SynOps per image, where they were counted.
        twin: the same network trained without a teacher, where that was asked for.
        best: the same network after the epoch that did best on the images held out for validation, where some were.
    """

    module: nn.Module
    info: CheckpointInfo
    history: tuple[EpochRecord, ...] = ()
    path: Path | None = None
    cost: Mapping[str, float] | None = None
    twin: TrainedNetwork | None = None
    best: TrainedNetwork | None = None

    @property
    def accuracy(self) -> float:
        """Accuracy on the test set, 0…1, with all T steps.

        Raises:
            KdsnnError: a checkpoint that does not say it.
        """
        if "test_accuracy" not in self.info.metrics:
            raise KdsnnError(f"{self.path or self.info.model}: it does not say its test accuracy; evaluate it")
        return self.info.metrics["test_accuracy"]

    @property
    def sentence(self) -> str:
        """What came out, in one line."""
        from profilers.report.numbers import percent

        steps = f" at T={self.info.T}" if self.info.spiking else ""
        if self.info.quantized and not self.info.spiking:
            bits = self.info.quantized
            steps = f" with {bits['bits']}-bit weights and {bits['activation_bits']}-bit activations"
        return f"{self.info.model} on {self.info.data}: test accuracy {percent(self.accuracy, 2, space=' ')}{steps}"

    def save(self, path: str | Path) -> Path:
        """Write the checkpoint (`.safetensors`, no pickle) and return its path.

        Raises:
            KdsnnError: another ending; OSError: the file cannot be written.
        """
        from kdsnn import checkpoint
        from kdsnn.deploy.places import require_checkpoint_name

        path = Path(path)
        require_checkpoint_name(path)
        checkpoint.save(path, self.module, self.info)
        return path

    def facts(self) -> dict[str, Any]:
        """The checkpoint and its figures in one row."""
        where = {} if self.path is None else {"checkpoint": str(self.path)}
        steps = {"T": self.info.T} if self.info.spiking else {}
        epochs = {"epochs": len(self.history)} if self.history else {}
        return {**where, **self.info.metrics, **epochs, **steps, **(self.cost or {})}

    def best_facts(self) -> dict[str, Any]:
        """Those of the best epoch under "best", where there is one."""
        return {} if self.best is None else {"best": self.best.facts()}

    def tables(self) -> tuple[TextTable, ...]:
        """One line for the network, one for its twin; with images held out for validation, each after its last and its
        best epoch."""
        from profilers.report.numbers import percent, quantity

        pairs = [("student" if self.info.spiking else "teacher", self)]
        if self.twin is not None:
            pairs = [("distilled", self), ("without a teacher", self.twin)]
        if self.best is not None:
            pairs = [row for name, one in pairs for row in one._last_and_best(name)]
        columns = ["network", *(["validation"] if self.best else []), "test accuracy"]
        columns += [name for name in ("spikes", "SynOps") if self.cost]
        columns += ["checkpoint"] if self.path else []
        rows = []
        for name, one in pairs:
            counted = [quantity(value, plain_below=0, trim=True) for value in (one.cost or {}).values()]
            held_out = [percent(one.info.metrics["val_accuracy"], 2)] if self.best else []
            where = [str(one.path)] if self.path else []
            known = "test_accuracy" in one.info.metrics
            rows.append([name, *held_out, percent(one.accuracy, 2) if known else "–", *counted, *where])
        T = f", T={self.info.T}" if self.info.spiking else ""
        return (table(f"{self.info.model} on {self.info.data}{T}", columns, rows),)

    def _last_and_best(self, name: str) -> list[tuple[str, TrainedNetwork]]:
        best = self.best
        if best is None:
            return [(name, self)]
        return [
            (f"{name}, last epoch", self),
            (f"{name}, best in validation: epoch {best.info.training['epoch']}", best),
        ]

    def rows(self) -> list[dict[str, Any]]:
        """The history, one row an epoch; the figures of the checkpoint where there is none."""
        return self._epochs() or [self.facts()]

    def _epochs(self) -> list[dict[str, Any]]:
        found = [asdict(record) for record in self.history]
        return [{key: value for key, value in row.items() if value is not None} for row in found]

    def to_dict(self) -> dict[str, Any]:
        """The figures, the history, those of the best epoch, and the twin's."""
        twin = {} if self.twin is None else {"twin": self.twin.to_dict()}
        return {**self.facts(), "history": self._epochs(), **self.best_facts(), **twin}


def torch_module(network: TrainedNetwork | nn.Module | None) -> nn.Module | None:
    """The module of a trained network; any other is its own."""
    return network.module if isinstance(network, TrainedNetwork) else network
