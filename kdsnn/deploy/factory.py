"""What a network of the user's own needs besides its factory: its weights, and the shape of its samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdsnn.deploy.weights import load_weights
from kdsnn.errors import OptionError, notice
from kdsnn.factory import is_factory, made_by

if TYPE_CHECKING:
    from torch import nn

LONGEST_AXIS, LARGEST_SAMPLE = 1 << 20, 1 << 28
"""Of one image, in pixels or features: along an axis, and in all."""


def require_factory(source: Any, weights: str | Path | None) -> None:
    """Refuse weights where a source has its own.

    Raises:
        OptionError: there are some, and the source is no `package.module:factory`.
    """
    if weights is None or (isinstance(source, str | Path) and is_factory(str(source))):
        return
    called = str(source) if isinstance(source, str | Path) else f"a {type(source).__name__}"
    raise OptionError(
        f"{{weights}}: {called} has its own, and only package.module:factory takes others; leave it out",
        weights=weights,
    )


def module_of(
    source: str, weights: str | Path | None = None, *, option: str = "weights", trained: bool = True
) -> nn.Module:
    """The module that `package.module:factory` makes, in eval mode, with its weights loaded.

    Args:
        source: the factory; its package is looked for in the current folder too.
        weights: a state dict (`.safetensors` or `.pt`), see `load_weights`, or None for the factory's own.
        option: what the weights are called where something is wrong with them.
        trained: whether it is to be used as it is; then it is said where it has only the weights of its factory.

    Raises:
        KdsnnError: it cannot be built or is no torch module, or the weights are not its.
    """
    module = made_by(source)
    if weights is not None:
        load_weights(module, Path(weights), option)
    elif trained:
        notice(f"{source} has the weights that its factory gives it: random ones, unless that loads some")
    return module


def has_spiking_neurons(module: nn.Module) -> bool:
    """Whether SpikingJelly's neurons, or other layers of it that keep a state, are in a module."""
    from spikingjelly.activation_based.base import MemoryModule

    return any(isinstance(part, MemoryModule) for part in module.modules())


def require_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of a sample as a tuple.

    Raises:
        KdsnnError: it is neither (C, H, W) nor (C, L) nor (F,), or an axis is not possible.
    """
    if len(shape) not in (1, 2, 3) or not all(1 <= length <= LONGEST_AXIS for length in shape):
        raise shape_error(",".join(map(str, shape)))
    if (values := math.prod(shape)) > LARGEST_SAMPLE:
        raise OptionError(
            f"{{input_shape}}: these are {values:,} values, and a sample has {LARGEST_SAMPLE:,} at most",
            input_shape=",".join(map(str, shape)),
        )
    return tuple(shape)


def shape_error(given: str) -> OptionError:
    """What to say of a text that is no shape of a sample."""
    return OptionError(
        f"{{input_shape}}: it must read C,H,W (such as 3,32,32), C,L (such as 2,100) or F, each from 1 to {LONGEST_AXIS:,}",
        input_shape=given[:100],
    )
