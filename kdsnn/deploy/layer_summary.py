"""The layers of a network, in whatever form it comes, as the rows of a summary."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdsnn.errors import KdsnnError

if TYPE_CHECKING:
    from torch import nn

    from exporters.graph import Shape, SpikingGraph
    from exporters.onnx import AnnModel
    from exporters.onnx.check import CheckedModel
    from hardware.chips.placement import Placement


@dataclass(frozen=True)
class LayerSummary:
    """A layer; None is what a layer of its kind has not.

    Attributes:
        name, kind: of the layer: its node, its module's class, or its operator.
        shape: of what it gives out, without batch or time.
        parameters: weights and biases.
        macs: dense multiply-accumulates of one time step, padding included; of an ANN of one image.
        neurons: how many.
        threshold, leak, current_leak, reset: of the neurons, in the network's own units.
        cores: that it takes on the chip.
    """

    name: str
    kind: str
    shape: Shape
    parameters: int = 0
    macs: int | None = None
    neurons: int | None = None
    threshold: float | None = None
    leak: float | None = None
    current_leak: float | None = None
    reset: str | None = None
    cores: int | None = None


def graph_layers(graph: SpikingGraph, placed: Placement | None, members: Mapping[str, Any]) -> list[LayerSummary]:
    """Those of a graph, with the cores of its placement.

    Where a chip holds several layers in one (`members`: neuron layer → [layer of the chip, …], see
    `exporters.passes.relays`), the first of them has the cores. A layer that only the chip has is a row of its own.
    """
    from exporters.graph import Input, Neuron, Output, Synapse
    from profilers.counting.sizes import layer_shape

    cores, others = _cores(graph, placed, members)
    rows = []
    for name, node in graph.nodes.items():
        found = LayerSummary(name, type(node).__name__, graph.shapes[name], cores=cores.get(name))
        if isinstance(node, Input | Output) and found.cores is None:
            continue
        more: dict[str, Any] = {}
        if isinstance(node, Synapse):
            size = layer_shape(graph, name)
            more = {"parameters": size.weights + size.biases, "macs": size.macs}
        elif isinstance(node, Neuron):
            more = {
                "neurons": math.prod(found.shape), "threshold": node.threshold, "leak": node.leak, "reset": node.reset,
                "current_leak": node.current_leak,
            }  # fmt: skip
        rows.append(LayerSummary(**{**vars(found), **more}))
    return [*rows, *others]


def _cores(
    graph: SpikingGraph, placed: Placement | None, members: Mapping[str, Any]
) -> tuple[dict[str, int], list[LayerSummary]]:
    """Layer of the graph → cores, and what only the chip has."""
    first: dict[str, str] = {}
    for member, (home, *_) in members.items():
        first.setdefault(home, member)
    cores: dict[str, int] = {}
    others: list[LayerSummary] = []
    for layer in () if placed is None else placed.layers:
        names = (first.get(layer.neurons_name, ""), layer.neurons_name, layer.name)
        if (name := next((name for name in names if name in graph.nodes), None)) is None:
            others.append(LayerSummary(layer.neurons_name, "on the chip", layer.shape, cores=layer.cores))
        else:
            cores[name] = cores.get(name, 0) + layer.cores
    return cores, others


def spiking_onnx_layers(model: CheckedModel) -> list[LayerSummary]:
    """Those of a spiking network's `.onnx` file of this program."""
    from exporters.onnx.layers import spiking_layers

    rows = []
    for layer in spiking_layers(model):
        facts = model.facts["neurons"].get(layer.name)
        more: dict[str, Any] = {}
        if isinstance(facts, dict):  # which may have come out of anybody's file
            numbers = {name: facts.get(name, 1.0 if name == "leak" else None) for name in ("threshold", "leak")}
            more = {name: value for name, value in numbers.items() if isinstance(value, int | float)}
            more |= {"neurons": math.prod(layer.shape), "reset": str(facts.get("reset", ""))[:10]}
        rows.append(LayerSummary(layer.name, layer.kind, layer.shape, layer.parameters, layer.macs, **more))
    return rows


def ann_onnx_layers(model: AnnModel) -> list[LayerSummary]:
    """Those of an ANN's `.onnx` file."""
    from exporters.onnx.layers import ann_layers

    return [LayerSummary(x.name, x.kind, x.shape, x.parameters, x.macs) for x in ann_layers(model)]


def module_layers(name: str, module: nn.Module, input_shape: Shape) -> list[LayerSummary]:
    """Those of a torch module without time: its innermost modules in the order in which one sample passes them. Parameters that
    two modules share are the first one's; what else a forward multiplies, and parameters of no innermost module, come last.

    Raises:
        KdsnnError: it does not take a sample of this shape.
    """
    import torch

    rows: list[LayerSummary] = []
    names = {part: called for called, part in module.named_modules()}
    leaves = [part for part in names if not any(part.children())]
    known: set[Any] = set()

    def seen(part: nn.Module, inputs: Any, output: Any) -> None:
        own = [p for p in part.parameters() if p not in known]
        known.update(own)
        shape = tuple(output.shape[1:]) if isinstance(output, torch.Tensor) else ()
        parameters = sum(p.numel() for p in own)
        rows.append(LayerSummary(names[part] or name, type(part).__name__, shape, parameters, _macs(part, output)))

    hooks = [part.register_forward_hook(seen) for part in leaves]
    try:
        with torch.no_grad(), _counted(module) as macs:
            module(torch.zeros(1, *input_shape, dtype=torch.float32))
    except Exception as error:  # whatever a user's own forward raises
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise KdsnnError(f"{name}: it does not take a sample of shape {input_shape} ({reason})") from error
    finally:
        for hook in hooks:
            hook.remove()
    others = 0 if macs is None else macs() - sum(row.macs or 0 for row in rows)
    parameters = sum(p.numel() for p in module.parameters() if p not in known)
    return [*rows, LayerSummary("in no layer of these", "", (), parameters, others)] if others or parameters else rows


@contextmanager
def _counted(module: nn.Module) -> Iterator[Callable[[], int] | None]:
    """What counts all multiply-accumulates of the block; None for this project's networks, in which only layers multiply: torch's
    counter takes longer to start than they to run."""
    from kdsnn.models import StagedNetwork

    if isinstance(module, StagedNetwork):
        yield None
        return
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        yield lambda: counter.get_total_flops() // 2  # it calls a multiply-accumulate two operations


def _macs(part: nn.Module, output: Any) -> int | None:
    from torch import nn

    match part:
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
            return int(output.numel()) * part.weight[0].numel()
        case nn.Linear():
            return int(output.numel()) * part.in_features
        case _:
            return None
