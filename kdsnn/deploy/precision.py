"""The precision of a training that writes files: the same in all of them, and after a stop the same as before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kdsnn.deploy.devices import computing_on
from kdsnn.errors import UserError

if TYPE_CHECKING:
    from kdsnn.train import TrainConfig


def with_precision(config: TrainConfig, out: Path | None, *, resume: bool, device: str | None = None) -> TrainConfig:
    """Settle the precision "auto" before training, so that checkpoints and the twin's run tell what was used.

    Args:
        config: of the run.
        out: its checkpoint, beside which its state lies.
        resume: whether it goes on with a run that was cut off, which may have been started on another machine.
        device: that it is to run on, None for the one that accelerate chooses.
    """
    if config.precision != "auto":
        return config
    from accelerate import Accelerator

    from kdsnn import checkpoint
    from kdsnn.train.precision import settled

    state = None
    if resume and out is not None:
        state = out.with_name(f"{out.stem}.training")
        try:
            begun = None if state.exists() else checkpoint.read_info(out).training.get("precision")
        except UserError:
            begun = None  # there is no student of this run yet
        if begun in ("fp32", "bf16"):  # the student is finished, its twin is not
            return replace(config, precision=begun)
    with computing_on(device):
        return settled(config, Accelerator().device, state)
