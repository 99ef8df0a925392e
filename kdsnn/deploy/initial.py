"""Where the weights of a student come from: the option `init` of `distill`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

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
    quantize: int | None,
) -> TrainedNetwork | nn.Module:
    """The network whose weights a student starts from.

    Args:
        init: as `distill` takes it.
        teacher: the teacher, loaded.
        model: the student's architecture, or the student.
        quantize: bits of a student that is trained on a grid, which has a start of its own.

    Raises:
        KdsnnError: a network of another architecture, one on a grid, or no network; or a start was given already.
    """
    if quantize is not None:
        raise OptionError("{quantize}: it goes on from {start}; leave {init} out", quantize=None, start=None, init=None)
    if init == TEACHER:
        assert teacher is not None  # `distill` has refused that
        found: TrainedNetwork | nn.Module = teacher
    else:
        found = load(init) if isinstance(init, str | Path) else init
    if not isinstance(found, TrainedNetwork):
        return found
    info, called = found.info, init if isinstance(init, str | Path) else found.path or found.info.model
    if isinstance(model, str) and info.model != model:
        raise OptionError(
            f"{{init}}: this is a {info.model}, not a {model}; give a network of the student's architecture",
            init=called,
        )
    if info.quantized is not None:
        raise OptionError(
            "{init}: this student was trained on a grid, its weights are those of other layers; give the student that it "
            "started from",
            init=called,
        )
    return found
