"""Lowering step 1: any torch network of spiking neurons → `SpikingGraph`, by running its own forward on symbolic values."""

from __future__ import annotations

from typing import Any

from torch import nn

from exporters.from_torch.calling import Calling, Lowered, Task, run_all
from exporters.from_torch.readout import Chosen
from exporters.from_torch.refusals import LoweringError, node_name
from exporters.graph import Shape, SpikingGraph

__all__ = ["Calling", "Lowered", "LoweringError", "from_torch", "lowered", "node_name"]


def from_torch(
    module: nn.Module, input_shape: Shape, T: int, *, encoding: str = "direct", output: Chosen = None, **metadata: Any
) -> SpikingGraph:
    return lowered(module, input_shape, T, encoding=encoding, output=output, **metadata).graph


def lowered(
    module: nn.Module, input_shape: Shape, T: int, *, encoding: str = "direct", output: Chosen = None, **metadata: Any
) -> Lowered:
    if encoding not in ("direct", "spikes"):
        raise LoweringError(f'the encoding is {encoding!r}; it must be "direct" or "spikes"')
    return run_all(Task(module, tuple(input_shape), T, encoding, output, metadata))
