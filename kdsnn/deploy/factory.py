"""What a network of the user's own needs besides its factory: its weights, and the shape of its samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdsnn.errors import OptionError
from kdsnn.factory import made_by

if TYPE_CHECKING:
    from torch import nn

LONGEST_AXIS = 1 << 20
"""Of one image, in pixels or features."""


def module_of(source: str, weights: str | Path | None = None, *, option: str = "weights") -> nn.Module:
    """The module that `package.module:factory` makes, in eval mode, with its weights loaded.

    Args:
        source: the factory; its package is looked for in the current folder too.
        weights: a state dict (`.safetensors` or `.pt`), or None for the factory's own.
        option: what the weights are called where something is wrong with them.

    Raises:
        KdsnnError: it cannot be built or is no torch module, or the weights are not its.
    """
    module = made_by(source)
    if weights is not None:
        _load_weights(module, Path(weights), option)
    return module


def require_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of a sample as a tuple.

    Raises:
        KdsnnError: it is neither (C, H, W) nor (F,), or an axis is not possible.
    """
    if len(shape) not in (1, 3) or not all(1 <= length <= LONGEST_AXIS for length in shape):
        raise shape_error(",".join(map(str, shape)))
    return tuple(shape)


def shape_error(given: str) -> OptionError:
    """What to say of a text that is no shape of a sample."""
    return OptionError(
        f"{{input_shape}}: it must read C,H,W (such as 3,32,32) or F, each from 1 to {LONGEST_AXIS:,}",
        input_shape=given[:100],
    )


def _load_weights(module: nn.Module, path: Path, option: str) -> None:
    """Load a state dict; a `.pt` file is read without running anything that is pickled in it."""
    import torch
    from safetensors.torch import load_file

    if not path.is_file():
        raise OptionError(f"{{{option}}}: no such file", **{option: path})
    try:
        state = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
        module.load_state_dict(state)
    except Exception as error:  # safetensors, pickle and torch raise a dozen unrelated types
        reason = " ".join(str(error).split())[:300]
        raise OptionError(f"{{{option}}}: not a state dict of this network ({reason})", **{option: path}) from error
