"""Checkpoints as trained networks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdsnn.deploy.trained import TrainedNetwork
from kdsnn.errors import KdsnnError

if TYPE_CHECKING:
    from torch import nn

RUNNABLE = (".onnx", ".net", ".nir")
"""Files of networks that are no checkpoints."""


def load(path: str | Path, *, module: str | nn.Module | None = None) -> TrainedNetwork:
    """The trained network of a checkpoint (`.safetensors`), an ANN or a spiking one.

    Args:
        path: the checkpoint.
        module: for a network of your own, the module, or `package.module:factory`: reading a file never runs the code it names.

    Raises:
        KdsnnError: missing, damaged, no checkpoint of this program, or weights that do not fit the module; one line each.
    """
    from kdsnn import checkpoint
    from kdsnn.factory import made_by

    if (kind := Path(path).suffix) in RUNNABLE:
        raise KdsnnError(
            f"{path}: a checkpoint (.safetensors) or package.module:factory is taken here; `run` tells the accuracy of a {kind} file"
        )
    found, info = checkpoint.load(Path(path), made_by(module) if isinstance(module, str) else module)
    return TrainedNetwork(found, info, path=Path(path))


def trained_by_us(path: str | Path) -> bool:
    """Whether a file is a checkpoint of this program, and not a bare state dict."""
    from kdsnn import checkpoint

    if Path(path).suffix != ".safetensors":
        return False
    try:
        checkpoint.read_info(path)
    except KdsnnError:  # whoever reads it as a state dict says what is wrong with it
        return False
    return True


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
