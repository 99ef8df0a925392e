"""A training step of three students (T = 4) against SpikingJelly's plain multi-step loop, and what a machine allows.

Each side runs in a process of its own, in turn, so that neither profits from the other's allocator. The roofline is what
a step takes where nothing but its multiplications counts, at the rate of a convolution measured here, and nothing but its
memory traffic, at the bandwidth of a copy measured here; the sum of both, since one waits for the other.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks._measure import Measured, alternate, relative, rounds
from benchmarks._process import python, run

T, STEPS = 4, 4

STUDENTS = {"cnn2": ((1, 28, 28), 64), "resnet14": ((3, 32, 32), 32), "wrn16-2": ((3, 32, 32), 32)}
"""Architecture → (input shape, batch)."""

WITHOUT_NUMBA = "cnn2"
"""The student that is also trained as where numba is missing."""

PASSES = {"conv": 6, "layer": 9}
"""How often a value is read or written in a step. A convolution's output: written; its gradient read for weights and for
inputs; its input read twice and its gradient written. A layer of BatchNorm and neurons: forward read twice and written
once, backward the currents read twice, the spikes' gradient once, that of the currents written twice and read once."""


def plain(name: str) -> list[float]:
    """SpikingJelly's way: the image repeated T times, everything computed T times."""
    import torch
    from spikingjelly.activation_based import functional
    from torch import nn

    from kdsnn import models

    shape, batch = STUDENTS[name]
    torch.manual_seed(0)
    net = models.build(name, spiking=True, input_shape=shape, classes=10)  # of SpikingJelly's own layers
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    images, labels = torch.rand(batch, *shape), torch.randint(0, 10, (batch,))
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


def ours(name: str, precision: str, kernels: bool = True) -> list[float]:
    """`kdsnn.train.distill`, timed from step to step; without `kernels` as where numba is missing."""
    import numpy as np
    import torch

    from kdsnn import models, train
    from kdsnn.data import DataSet
    from kdsnn.train.fast_neurons import compiled

    if not kernels:
        compiled.kernels = lambda: None  # type: ignore[assignment]
    shape, batch = STUDENTS[name]
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (batch * (STEPS + 2), *shape)).astype(np.uint8)
    y = rng.integers(0, 10, len(x)).astype(np.int64)
    data = DataSet("random", x, y, x[:8], y[:8], 10)
    torch.manual_seed(0)
    net = models.build(name, spiking=True, input_shape=shape, classes=10)
    config = train.TrainConfig(epochs=1, batch_size=batch, lr=0.05, warmup_epochs=0, T=T, precision=precision)  # type: ignore[arg-type]
    ends: list[float] = []
    train.distill(net, data, config, method="none", on_step=lambda done, total: ends.append(time.perf_counter()))
    return [b - a for a, b in itertools.pairwise(ends)][1:]  # the first may have waited for a compiler


@dataclass(frozen=True)
class Roofline:
    """A step multiplies and moves so much, and this machine does that at these rates, per second."""

    products: float
    product_rate: float
    bytes_moved: float
    bandwidth: float

    @property
    def seconds(self) -> float:
        return self.products / self.product_rate + self.bytes_moved / self.bandwidth

    def __str__(self) -> str:
        return (
            f"{self.products / 1e9:.3g} G multiplications at {self.product_rate / 1e9:.3g} G/s, "
            f"{self.bytes_moved / 1e9:.3g} GB at {self.bandwidth / 1e9:.3g} GB/s"
        )


def roofline(name: str, precision: str) -> Roofline:
    """A step at this machine's own rates."""
    import torch
    from spikingjelly.activation_based import functional
    from torch import nn

    from kdsnn import models

    shape, batch = STUDENTS[name]
    net = models.build(name, spiking=True, input_shape=shape, classes=10)
    products, values = 0, {"conv": 0, "layer": 0}

    def count(module: nn.Module, args: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        nonlocal products
        if isinstance(module, nn.Conv2d | nn.Linear):
            products += out.numel() * math.prod(module.weight.shape[1:])
            values["conv"] += out.numel()
        elif isinstance(module, nn.BatchNorm2d):
            values["layer"] += out.numel()

    for module in net.modules():
        module.register_forward_hook(count)
    with torch.no_grad():
        net.forward_static(torch.rand(batch, *shape), T)
    functional.reset_net(net)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    conv = nn.Conv2d(128, 128, 3, padding=1).to(dtype, memory_format=torch.channels_last)
    maps = torch.rand(64, 128, 14, 14).to(dtype, memory_format=torch.channels_last)
    source = torch.rand(2**25).to(dtype)
    target = torch.empty_like(source)
    with torch.no_grad():
        rate = maps.numel() * 128 * 9 / fastest(lambda: conv(maps))
    bandwidth = 2 * source.nbytes / fastest(lambda: target.copy_(source))
    moved = sum(PASSES[kind] * count for kind, count in values.items()) * source.itemsize
    return Roofline(3 * products, rate, moved, bandwidth)


def fastest(function) -> float:  # type: ignore[no-untyped-def]
    """Seconds of the fastest of a few calls: what the machine can."""
    taken = []
    for _ in range(5):
        started = time.perf_counter()
        function()
        taken.append(time.perf_counter() - started)
    return min(taken)


def sides(name: str) -> dict[str, str]:
    """What is measured side by side, each as an expression of a process of its own; bf16 where the processor has units."""
    import torch

    from kdsnn.train.precision import faster_in_bf16

    precisions = ["fp32", *(["bf16"] if faster_in_bf16(torch.device("cpu")) else [])]
    found = {"SpikingJelly, plain loop": f"plain({name!r})"}
    found |= {f"kdsnn.train.distill, {kind}": f"ours({name!r}, {kind!r})" for kind in precisions}
    if name == WITHOUT_NUMBA:
        found["kdsnn.train.distill, fp32, without numba"] = f"ours({name!r}, 'fp32', False)"
    return found | {f"roofline, {kind}": f"roofline({name!r}, {kind!r})" for kind in precisions}


def rows(quick: bool) -> Iterator[Measured]:
    for name, (shape, batch) in list(STUDENTS.items())[: 1 if quick else None]:
        notes: dict[str, str] = {}
        measured = {side: lambda side=side, call=call: apart(call, notes, side) for side, call in sides(name).items()}
        found = alternate(measured, rounds=rounds(quick, 2), warm_up=False)
        group = f"{name} {shape}, T = {T}, one optimizer step of batch {batch}, median of {STEPS} in each process"
        yield from relative(group, found, notes=notes)


def apart(call: str, notes: dict[str, str], side: str) -> float:
    """The seconds of a step that a call gives in a process of its own; of a roofline, `notes` tell what they are made of."""
    code = f"from benchmarks.training_throughput import *; import json; print(json.dumps(said({call})))"
    seconds, notes[side] = json.loads(run(python(code)).output.splitlines()[-1])
    return float(seconds)


def said(found: Sequence[float] | Roofline) -> tuple[float, str]:
    if isinstance(found, Roofline):
        return found.seconds, str(found)
    return statistics.median(found), ""
