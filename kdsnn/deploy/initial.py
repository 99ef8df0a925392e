"""Where the weights come from that a network starts with: the option `init` of `pretrain` and `distill`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdsnn.deploy.load import load
from kdsnn.deploy.trained import TrainedNetwork
from kdsnn.errors import OptionError

if TYPE_CHECKING:
    from torch import nn

TEACHER = "teacher"
"""The value of `init` that stands for the teacher."""


def source_of(
    init: str | Path | TrainedNetwork | nn.Module,
    teacher: TrainedNetwork | nn.Module | None,
    model: str | nn.Module,
    **grid: int | None,
) -> TrainedNetwork | nn.Module:
    """The network whose weights a student, or an ANN, starts from.

    Args:
        init: as `distill` takes it.
        teacher: the teacher, loaded; None for an ANN.
        model: the architecture that is trained, or the module.
        **grid: the option with which it is trained on a grid, from a start of its own, and its bits; None where it is not.

    Raises:
        KdsnnError: a network of another architecture, one on a grid, or no network; or a start was given already.
    """
    for option, bits in grid.items():
        if bits is not None:
            text = f"{{{option}}}: it goes on from {{start}}; leave {{init}} out"
            raise OptionError(text, **{option: bits}, start=None, init=None)
    if init == TEACHER and teacher is not None:
        found: TrainedNetwork | nn.Module = teacher
    else:
        found = load(init) if isinstance(init, str | Path) else init
    if not isinstance(found, TrainedNetwork):
        return found
    info, called = found.info, init if isinstance(init, str | Path) else found.path or found.info.model
    if isinstance(model, str) and info.model != model:
        raise OptionError(
            f"{{init}}: this is a {info.model}, not a {model}; give a network of that architecture",
            init=called,
        )
    if info.quantized is not None:
        raise OptionError(
            "{init}: this was trained on a grid, its weights are those of other layers; give the network that it "
            "started from",
            init=called,
        )
    return found


def options_from(source: TrainedNetwork | nn.Module, options: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The architecture's options: those that the source has, and those that were given."""
    return {**(source.info.options if isinstance(source, TrainedNetwork) else {}), **(options or {})}
