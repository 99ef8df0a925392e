"""Training step of 2conv on MNIST shapes (T = 4, batch 64) against SpikingJelly's plain multi-step loop.

Each side runs in a process of its own, in turn, so that neither profits from the other's allocator.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

from benchmarks._measure import Measured, alternate, relative, rounds
from benchmarks._process import python, run

T, BATCH, STEPS = 4, 64, 4


def plain() -> list[float]:
    """SpikingJelly's way: the image repeated T times, everything computed T times."""
    import torch
    from spikingjelly.activation_based import functional, layer, neuron, surrogate
    from torch import nn

    def spiking() -> nn.Module:
        node: nn.Module = neuron.IFNode(surrogate_function=surrogate.ATan(), detach_reset=True)
        return node

    torch.manual_seed(0)
    net = nn.Sequential(
        layer.Conv2d(1, 128, 3, padding=1, bias=False), layer.BatchNorm2d(128), spiking(), layer.MaxPool2d(2),
        layer.Conv2d(128, 128, 3, padding=1, bias=False), layer.BatchNorm2d(128), spiking(), layer.MaxPool2d(2),
        layer.Flatten(), layer.Linear(6272, 1152, bias=False), spiking(), layer.Linear(1152, 10, bias=False), spiking(),
    )  # fmt: skip
    functional.set_step_mode(net, "m")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    images, labels = torch.rand(BATCH, 1, 28, 28), torch.randint(0, 10, (BATCH,))
    seconds = []
    for _ in range(STEPS + 1):
        started = time.perf_counter()
        functional.reset_net(net)
        optimizer.zero_grad()
        rate = net(images.unsqueeze(0).repeat(T, 1, 1, 1, 1)).mean(0)
        torch.autograd.backward(nn.functional.cross_entropy(rate, labels))
        optimizer.step()
        seconds.append(time.perf_counter() - started)
    return seconds[1:]


def ours(precision: str) -> list[float]:
    """`kdsnn.train.distill`, timed from step to step."""
    import numpy as np
    import torch

    from kdsnn import models, train
    from kdsnn.data import DataSet

    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (BATCH * (STEPS + 1), 1, 28, 28)).astype(np.uint8)
    y = rng.integers(0, 10, len(x)).astype(np.int64)
    data = DataSet("random", x, y, x[:64], y[:64], 10)
    torch.manual_seed(0)
    net = models.build("cnn2", spiking=True, input_shape=(1, 28, 28), classes=10)
    config = train.TrainConfig(epochs=1, batch_size=BATCH, lr=0.05, warmup_epochs=0, T=T, precision=precision)  # type: ignore[arg-type]
    ends: list[float] = []
    train.distill(net, data, config, method="none", on_step=lambda done, total: ends.append(time.perf_counter()))
    return [b - a for a, b in itertools.pairwise(ends)]


SIDES = {
    "SpikingJelly, plain loop": "plain()",
    "kdsnn.train.distill, fp32": "ours('fp32')",
    "kdsnn.train.distill, bf16": "ours('bf16')",
}


def rows(quick: bool) -> Iterator[Measured]:
    sides = {name: lambda call=call: one(call) for name, call in SIDES.items()}
    group = f"cnn2 (1, 28, 28), T = {T}, one optimizer step of batch {BATCH}, median of {STEPS} in each process"
    yield from relative(group, alternate(sides, rounds=rounds(quick, 3), warm_up=False))


def one(call: str) -> float:
    """Median seconds of a step, in a process of its own."""
    code = f"import statistics; from benchmarks.training_throughput import *; print(statistics.median({call}))"
    return float(run(python(code)).output.split()[-1])
