"""SOURCE on the command line: what a user points at, lowered to graphs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporters.graph import SpikingGraph
from kdsnn.errors import KdsnnError

if TYPE_CHECKING:
    from torch import nn

    from exporters.quantize import LayerScale
    from kdsnn.data import DataSet


@dataclass(frozen=True, eq=False)
class Source:
    """A network in all the forms that the verbs need.

    Attributes:
        name: for file names and titles.
        module: the spiking torch module in eval mode, None for a file that has none (`.net`).
        exact: the float graph with exact arithmetic (`make_exact`), None where there is no float form.
        integer: the quantised graph.
        scales: how each synapse layer was quantised.
        metadata: of the checkpoint.
    """

    name: str
    module: nn.Module | None
    exact: SpikingGraph | None
    integer: SpikingGraph
    scales: tuple[LayerScale, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)


def require_fit(name: str, shape: tuple[int, ...], data: DataSet) -> None:
    """Compare a network's input shape with the images of a data set.

    Raises:
        KdsnnError: they differ; a flat input takes images of as many pixels.
    """
    if data.input_shape != shape and (math.prod(data.input_shape),) != shape:
        raise KdsnnError(f"{name} takes input of shape {shape}, {data.name} has images of {data.input_shape}")


def load(source: str, *, bits: int = 8, input_bits: int = 8, T: int | None = None) -> Source:
    """Load a checkpoint (`.safetensors`) or a netx file (`.net`).

    Raises:
        KdsnnError, DeployError: missing, damaged or of another kind; one line each.
    """
    path = Path(source)
    if path.suffix == ".net":
        from exporters import netx

        graph = netx.read(path, T=T)
        return Source(path.stem, None, None, graph, metadata=dict(graph.metadata))
    if path.suffix == ".safetensors":
        return _checkpoint(path, bits, input_bits)
    raise KdsnnError(f"{source}: not a source; give a checkpoint (.safetensors) or a netx file (.net)")


def _checkpoint(path: Path, bits: int, input_bits: int) -> Source:
    from kdsnn import checkpoint

    module, info = checkpoint.load(path)
    if not info.spiking or info.T is None:
        raise KdsnnError(f"{path}: this is an ANN ({info.model}); give a spiking student, which distill writes")
    metadata = {"checkpoint": path.name, "model": info.model, "data": info.data, "metrics": dict(info.metrics)}
    return lower(path.stem, module, info.input_shape, info.T, bits=bits, input_bits=input_bits, metadata=metadata)


def lower(
    name: str,
    module: nn.Module,
    input_shape: tuple[int, ...],
    T: int,
    *,
    bits: int = 8,
    input_bits: int = 8,
    metadata: dict[str, Any] | None = None,
) -> Source:
    """Lower a spiking module to its exact float graph and its integer graph."""
    from exporters.exact import make_exact
    from exporters.from_torch import from_torch
    from exporters.quantize import quantize

    graph = from_torch(module.eval(), input_shape, T, **(metadata or {}))
    integer, scales = quantize(graph, bits=bits, input_bits=input_bits)
    return Source(name, module, make_exact(graph), integer, scales, metadata or {})
