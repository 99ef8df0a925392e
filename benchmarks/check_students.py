"""The paper's students on Loihi 1 and Loihi 2, and NxTF's MobileNet: the tables of docs/check.md, in markdown.

`python -m benchmarks check_students`. Untrained weights: a placement depends on which weights are zero
and on their bits, and quantization gives both alike.
"""

from __future__ import annotations

import numpy as np
import torch

from exporters.from_torch import from_torch
from exporters.graph import IF, Conv2d, Flatten, Input, Linear, Node, Output, SpikingGraph, chain
from exporters.passes.chain import to_chain
from exporters.passes.quantize import quantize
from hardware.chips import limits
from hardware.chips.fit import host_layers
from hardware.chips.placement import place
from hardware.chips.search import PlacementError
from kdsnn import models

T = 4
MNIST, CIFAR = (1, 28, 28), (3, 32, 32)
STUDENTS = [
    ("cnn2", MNIST), ("cnn2", CIFAR), ("vgg11", CIFAR), ("vgg16", CIFAR), ("wrn16-2", CIFAR), ("resnet14", CIFAR),
    ("resnet18", CIFAR),
]  # fmt: skip


def main() -> None:
    print("| student | input | target | neurons placed | cores | chips | verdict | most cores | limited by |")
    print("|---|---|---|---:|---:|---:|---|---|---|")
    for name, shape in STUDENTS:
        torch.manual_seed(0)
        net = models.build(name, spiking=True, input_shape=shape, classes=10).eval()
        graph, _ = quantize(from_torch(net, shape, T))
        chain = to_chain(graph)
        for target in limits.targets().values():
            cells = [name, "×".join(map(str, shape)), target.title]
            try:
                found = place(chain, target, host_layers=host_layers(chain, target))
            except PlacementError as error:
                cells += ["–", "–", "–", "does not fit", error.layer, str(error)]
            else:
                largest = max(found.layers, key=lambda layer: layer.cores)
                neurons = sum(layer.neurons for layer in found.layers)
                cells += [f"{neurons:,}", f"{found.cores:,}", str(found.chips)]
                cells += ["fits one chip" if found.chips == 1 else f"fits {found.chips} chips"]
                cells += [f"{largest.name}, {largest.cores}", largest.limited_by]
            print("| " + " | ".join(cells) + " |", flush=True)
    placed = place(mobilenet(), limits.target("loihi1"))
    neurons = sum(layer.neurons for layer in placed.layers)
    print(
        f"MobileNet, soft reset, without its input layer: {neurons:,} neurons, {placed.cores} cores, {placed.chips} chips"
    )


def mobilenet() -> SpikingGraph:
    """MobileNet on 3 × 32 × 32 with stride 1 in its first layer, as its 413 k neurons say (NxTF names no layers)."""
    rng = np.random.default_rng(0)
    nodes: list[tuple[str, Node]] = [("input", Input((3, 32, 32), "spikes"))]

    def conv(into: int, out: int, kernel: int, stride: int, groups: int = 1) -> None:
        weight = rng.integers(-127, 128, (out, into // groups, kernel, kernel)).astype(np.int32)
        padding = kernel // 2 if kernel == 3 else 0
        layer = Conv2d(weight, None, (stride, stride), (padding, padding), (1, 1), groups)
        nodes.extend([(f"conv{len(nodes)}", layer), (f"if{len(nodes)}", IF(200, "soft"))])

    conv(3, 32, 3, 1)
    before = 32
    for out, stride in [
        (64, 1),
        (128, 2),
        (128, 1),
        (256, 2),
        (256, 1),
        (512, 2),
        *[(512, 1)] * 5,
        (1024, 2),
        (1024, 1),
    ]:
        conv(before, before, 3, stride, groups=before)
        conv(before, out, 1, 1)
        before = out
    conv(before, before, 2, 2, groups=before)  # the average pool, which is a layer of neurons in NxTF
    dense = Linear(rng.integers(-127, 128, (10, before)).astype(np.int32))
    return chain([*nodes, ("flat", Flatten()), ("dense", dense), ("if", IF(200, "soft")), ("output", Output())], 4)


if __name__ == "__main__":
    main()
