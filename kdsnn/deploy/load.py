"""Checkpoints as trained networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdsnn.deploy.trained import TrainedNetwork


def load(path: str | Path) -> TrainedNetwork:
    """The trained network of a checkpoint (`.safetensors`), an ANN or a spiking one.

    Raises:
        KdsnnError: missing, damaged or no checkpoint of this program; one line each.
    """
    from kdsnn import checkpoint

    module, info = checkpoint.load(Path(path))
    return TrainedNetwork(module, info, path=Path(path))


def ann_of(source: Any) -> TrainedNetwork | None:
    """The ANN that a source is, if it is one: what `pretrain` returned, or its checkpoint.

    Raises:
        KdsnnError: as `load`.
    """
    from kdsnn import checkpoint

    if isinstance(source, TrainedNetwork):
        return None if source.info.spiking else source
    if not isinstance(source, str | Path) or Path(source).suffix != ".safetensors":
        return None
    return None if checkpoint.read_info(Path(source)).spiking else load(source)
