"""Networks whose last layer is a map that they flatten, as convolutional classifiers do: the graph ends in features, too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import layer, neuron
from torch import nn

from exporters import netx
from exporters.graph import Conv2d, Linear
from exporters.passes.chain import to_chain
from exporters.passes.quantize import quantize
from hardware import emulator
from tests.exporters.faithful import assert_faithful, pixels

pytestmark = pytest.mark.usefixtures("in_float64")


def fires() -> nn.Module:
    return neuron.IFNode(v_threshold=0.2)


def body(*ends: nn.Module) -> nn.Sequential:
    return nn.Sequential(layer.Conv2d(1, 4, 3), fires(), *ends)


class Squeezed(nn.Module):
    """Skips a layer, and drops the axes of one pixel by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.end = body(), layer.Conv2d(4, 5, 6)
        self.skipped = layer.Conv2d(4, 4, 3, padding=1)
        self.between, self.fires = fires(), fires()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = self.between(self.skipped(x) + x)
        return self.fires(self.end(x)).squeeze(-1).squeeze(-1)


NETWORKS = {
    "spikes": lambda: body(layer.Conv2d(4, 5, 6), fires(), layer.Flatten()),
    "spikes of maps": lambda: body(layer.Flatten()),
    "spikes behind a skip": Squeezed,
    "currents": lambda: body(layer.Conv2d(4, 5, 6), layer.BatchNorm2d(5), layer.Flatten()),
    "currents of a padded convolution": lambda: body(
        layer.Conv2d(4, 6, (5, 4), stride=8, padding=(2, 1), dilation=(2, 1), groups=2, bias=False), layer.Flatten()
    ),
    "global mean": lambda: body(layer.Conv2d(4, 5, 1), fires(), layer.AdaptiveAvgPool2d(1), layer.Flatten()),
    "votes": lambda: body(layer.Conv2d(4, 6, 6), fires(), layer.Flatten(), layer.VotingLayer(2)),
    "votes of maps": lambda: body(layer.Conv2d(4, 6, 5), fires(), layer.Flatten(), layer.VotingLayer(8)),
    "global maximum": lambda: body(layer.Conv2d(4, 5, 1), fires(), layer.MaxPool2d(6), layer.Flatten()),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_graph_ends_in_features_on_the_chip_too(name: str, tmp_path: Path) -> None:
    network = NETWORKS[name]()
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.bias)
    graph = assert_faithful(network, (1, 8, 8), 4).graph
    features = network.double()(pixels(1, (1, 8, 8))).shape[1:]
    assert graph.shapes[graph.output_name] == tuple(features)
    integer, _ = quantize(graph)
    chained = to_chain(integer)
    netx.write(chained, tmp_path / "end.net")
    back = netx.read(tmp_path / "end.net", T=graph.T)
    frames = integer.encode(pixels(3, (1, 8, 8)).numpy())
    results = [emulator.run(g, frames) for g in (integer, chained, back)]
    assert all(np.array_equal(r.output, results[0].output) for r in results[1:])
    assert results[0].output.any()


def test_a_layer_whose_map_is_read_elsewhere_too_stays_a_convolution() -> None:
    """Its maps are flattened for the end, and go into neurons as they are."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.end, self.fires = body(), layer.Conv2d(4, 5, 6, bias=False), fires()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.end(self.body(x))
            return x.flatten(1) + self.fires(x).flatten(1)

    graph = assert_faithful(Twice(), (1, 8, 8), 4).graph
    assert isinstance(graph.nodes["end"], Conv2d | Linear)
    assert graph.shapes[graph.output_name] == (5,)
