"""A lowered graph as the plain layers that `kdsnn.models.folded` and `kdsnn.train.grid` build networks of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kdsnn.errors import KdsnnError

if TYPE_CHECKING:
    from torch import Tensor

    from exporters.graph import Node, SpikingGraph
    from kdsnn.models import Network
    from kdsnn.models.folded import Layer
    from kdsnn.train.grid import QuantizedNetwork


def quantized(student: Network, input_shape: tuple[int, int, int], T: int, bits: int) -> QuantizedNetwork:
    """A trained student with its BatchNorm folded and its weights on a grid of `bits` bits, to train on.

    Raises:
        DeployError: it cannot be lowered; KdsnnError: other bits, or all weights of a membrane are zero.
    """
    from exporters.from_torch import from_torch
    from exporters.passes.membranes import membranes_of
    from kdsnn.train.grid import QuantizedNetwork

    graph = from_torch(student.eval(), input_shape, T)
    groups = [(group.synapses, group.ends) for group in membranes_of(graph)]
    return QuantizedNetwork(layers_of(graph), weights_of(graph), student.taps, groups, bits)


def deviations(
    trained: QuantizedNetwork, deployed: Network, input_shape: tuple[int, int, int], T: int
) -> tuple[str, ...]:
    """The layers in which a chip would be given other integers than training saw.

    There are some only where a register of the chip, not the weights, sets the scale: a first layer in 8 bits.

    Raises:
        DeployError: the network cannot be quantized any more.
    """
    import numpy as np

    from exporters.from_torch import from_torch
    from exporters.passes.quantize import quantize

    graph, _ = quantize(from_torch(deployed, input_shape, T), bits=trained.bits)
    seen = trained.integers()

    def same(name: str) -> bool:
        if name not in seen.weights:
            return False
        synapse, weight, bias = graph.synapses[name], seen.weights[name].numpy(), seen.biases[name]
        ours = np.zeros(len(weight)) if bias is None else bias.numpy()
        theirs = np.zeros(len(weight)) if synapse.bias is None else synapse.bias
        return np.array_equal(synapse.weight, weight) and np.array_equal(theirs, ours)

    differ = [name for name in graph.synapses if not same(name)]
    differ += [name for name, node in graph.neurons.items() if node.threshold != seen.thresholds.get(name)]
    return tuple(differ)


def layers_of(graph: SpikingGraph) -> tuple[Layer, ...]:
    """The layers of a graph, in order, without their weights.

    Raises:
        KdsnnError: neurons that reset by subtraction.
    """
    from kdsnn.models.folded import INPUT, Layer

    standing_for = {graph.input_name: INPUT}
    return tuple(
        Layer(name, kind, tuple(standing_for.get(source, source) for source in graph.sources(name)), arguments)
        for name, node in graph.nodes.items()
        if name != graph.input_name
        for kind, arguments in [_described(name, node)]
    )


def weights_of(graph: SpikingGraph) -> dict[str, Tensor]:
    """The state dict of a graph's layers, float64."""
    import torch

    arrays = {
        f"{name}.{part}": array
        for name, synapse in graph.synapses.items()
        for part, array in (("weight", synapse.weight), ("bias", synapse.bias))
        if array is not None
    }
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _described(name: str, node: Node) -> tuple[str, dict[str, Any]]:
    from exporters.graph import IF, LIF, AvgPool2d, Conv2d, Linear, MaxPool2d, Output

    match node:
        case Conv2d(weight=weight):
            return "conv", {
                "in_channels": weight.shape[1] * node.groups,
                "out_channels": weight.shape[0],
                "kernel_size": weight.shape[2:],
                "stride": node.stride,
                "padding": node.padding,
                "dilation": node.dilation,
                "groups": node.groups,
                "bias": node.bias is not None,
            }
        case Linear(weight=weight):
            shape = {"in_features": weight.shape[1], "out_features": weight.shape[0]}
            return "linear", {**shape, "bias": node.bias is not None}
        case MaxPool2d(kernel=kernel):
            return "max_pool", {"kernel_size": kernel, "stride": node.stride, "padding": node.padding}
        case AvgPool2d(kernel=kernel):
            window = {"kernel_size": kernel, "stride": node.stride, "padding": node.padding}
            return "avg_pool", {**window, "divisor_override": node.divisor}
        case IF(threshold=threshold) | LIF(threshold=threshold):
            if node.reset != "hard":
                raise KdsnnError(f"{name}: reset by subtraction does not exist on the chip; train with hard reset")
            if node.current_leak:
                raise KdsnnError(f"{name}: its current persists; fine-tuning knows no such neurons")
            leak = {"tau": 1 / (1 - node.leak)} if isinstance(node, LIF) else {}
            return ("lif" if leak else "if"), {"v_threshold": threshold, **leak}
        case Output():
            return "output", {}
    return "flatten", {}
