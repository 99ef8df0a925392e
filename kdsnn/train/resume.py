"""The state of a training run in a file, from which a killed run goes on as if nothing had happened.

The file is safetensors (no pickle): `weights.*` of the learner, regressors included; `optimizer.I.*` of parameter
number I; `average.*` of the weights' running average; `best.*` of the epoch that did best in validation; `loss`, the
sum over the epoch so far. Its metadata has one entry, `kdsnn-deploy-state`, a JSON object:

    {"format": 1, "run": {…}, "epoch": …, "step": …, "seconds": …, "history": […], "sha256": of the tensors}

`run` says what is being trained and how; a run that differs in it is refused. No state of a random number
generator is kept: training seeds each step from (seed, epoch, step).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from exporters.files import atomic_path
from kdsnn.digest import digest_weights
from kdsnn.errors import KdsnnError
from kdsnn.train.history import EpochRecord
from kdsnn.train.optim import Average

FORMAT = 1
KEY = "kdsnn-deploy-state"


@dataclass(frozen=True)
class RunFiles:
    """A run writes these files while it trains, but for those that are None.

    * `state`: see `kdsnn.train.resume`; written after the first step, when `every_seconds` have passed since the last
      time (0: at every step), when a signal says stop, and at the end. `resume` goes on from it if it is there. Delete
      it once the checkpoint is written.
    * `history`: see `kdsnn.train.history.write_csv`. `tensorboard`: a folder, see `kdsnn.train.history.tensorboard`.
    * `plot`: an SVG of this run's curves under the name `label`, and of the `others`, label → history CSV (where
      it is there); see `kdsnn.train.curves`.
    """

    state: Path | None = None
    every_seconds: float = 60.0
    resume: bool = False
    history: Path | None = None
    tensorboard: Path | None = None
    plot: Path | None = None
    label: str = "student"
    others: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Position:
    """A position says where a run stands: `step` steps of epoch number `epoch` (from 0) are done.

    `loss`: sum of the losses of these steps, on the device; `seconds` that they took; `history` of the
    epochs before, and the state dict of the `best` of them, where images are held out for validation.
    """

    epoch: int
    step: int
    loss: Tensor
    seconds: float
    history: tuple[EpochRecord, ...]
    best: Mapping[str, Tensor] | None = None


def save(
    path: Path,
    run: Mapping[str, Any],
    position: Position,
    learner: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Average | None,
) -> None:
    """Write the state to `path`, whole or not at all. Raises KdsnnError when it cannot be written."""
    tensors = {f"weights.{name}": tensor for name, tensor in learner.state_dict().items()}
    for i, entries in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{i}.{name}": value for name, value in entries.items() if value is not None}
    if average is not None:
        tensors |= {f"average.{name}": tensor for name, tensor in average.tensors.items()}
    tensors |= {f"best.{name}": tensor for name, tensor in (position.best or {}).items()}
    tensors["loss"] = position.loss
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {
        "format": FORMAT,
        "run": run,
        "epoch": position.epoch,
        "step": position.step,
        "seconds": position.seconds,
        "history": [asdict(record) for record in position.history],
        "sha256": digest_weights(tensors),
    }
    try:
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata={KEY: json.dumps(header, allow_nan=False)})
    except (OSError, safetensors.SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        further = ", then resume from the one before it" if path.exists() else ""
        raise KdsnnError(
            f"{path}: the state of the run cannot be written ({reason}): make room there{further}."
        ) from error


def restore(
    path: Path,
    run: Mapping[str, Any],
    learner: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Average | None,
    device: torch.device,
) -> Position:
    """Bring learner, optimizer and average to the state in `path`, all in place, and say where it stands.

    Raises KdsnnError when the file is missing, damaged, or of a run that differs in anything.
    """
    header, tensors = _read(path)
    # both through JSON, so that tuples and lists compare equal
    theirs, ours = header["run"], json.loads(json.dumps(run))
    wrong = sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name))
    if wrong:
        differences = ", ".join(f"{name} was {theirs.get(name)}, is {ours.get(name)}" for name in wrong[:3])
        raise KdsnnError(
            f"{path}: this run had another configuration ({differences}): use the same, or start anew without resuming."
        )
    groups: dict[str, dict[str, Tensor]] = {"weights": {}, "average": {}, "optimizer": {}, "best": {}}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind in groups:
            groups[kind][rest] = tensor
    entries: dict[int, dict[str, Tensor]] = {}
    for name, tensor in groups["optimizer"].items():
        number, _, key = name.partition(".")
        entries.setdefault(int(number), {})[key] = tensor
    try:
        learner.load_state_dict(groups["weights"])
        optimizer.load_state_dict({**optimizer.state_dict(), "state": entries})
        if average is not None:
            for name, tensor in average.tensors.items():
                tensor.copy_(groups["average"][name])
    except (RuntimeError, KeyError, ValueError) as error:
        raise KdsnnError(
            f"{path}: this run trained another network: use the same, or start anew without resuming."
        ) from error
    history = tuple(EpochRecord(**{**r, "by_step": tuple(r["by_step"])}) for r in header["history"])
    loss, best = tensors["loss"].to(device), groups["best"] or None
    return Position(header["epoch"], header["step"], loss, header["seconds"], history, best)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        header = json.loads(metadata[KEY])
        intact = header["format"] == FORMAT and header["sha256"] == digest_weights(tensors)
    except (OSError, safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise _unusable(path) from error
    if not intact:
        raise _unusable(path)
    return dict(header), tensors


def _unusable(path: Path) -> KdsnnError:
    return KdsnnError(f"{path}: not the state of a run of this version, or damaged: start anew without resuming.")
