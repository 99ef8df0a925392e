"""Counting against plain emulation of the same batch, and against NeuroBench's and SpikingJelly's counters.

NeuroBench is installed, without its dependencies, into a temporary folder of its own.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from spikingjelly.activation_based import functional, layer, neuron
from spikingjelly.activation_based.op_counter import DispatchCounterMode, SynOpCounter
from torch import nn

from benchmarks._measure import Measured, compare, rounds
from benchmarks._networks import MNIST, T, pictures, settled
from benchmarks._process import BenchmarkError, run
from exporters.from_torch import from_torch
from exporters.graph import Array, SpikingGraph
from exporters.passes.quantize import quantize
from hardware import emulator
from profilers.counting.activity import Activity, ActivityCounter

BATCH = 64
NEUROBENCH = ["neurobench==2.3.0", "snntorch==1.0.0"]  # snnTorch: NeuroBench imports it, whatever is counted
OURS, THEIRS = "here: emulate and count", "NeuroBench: SynapticOperations"

Counter = Callable[[nn.Module, torch.Tensor], dict[str, float]]


def rows(quick: bool) -> Iterator[Measured]:
    batch = 8 if quick else BATCH
    options: dict[str, Any] = {"channels": (8, 8), "hidden": 32} if quick else {}
    images = pictures(batch, MNIST)
    graph, _ = quantize(from_torch(settled("cnn2", MNIST, **options), MNIST, T))
    frames = graph.encode(images)
    yield from compare(
        f"cnn2 {MNIST}, 8 bits, T = {T}, batch {batch}, per sample",
        {"emulate": lambda: emulator.run(graph, frames), "emulate and count": lambda: emulate_and_count(graph, frames)},
        rounds=rounds(quick, 7),
        per=batch,
    )
    with tempfile.TemporaryDirectory() as folder:
        yield from against_counters(images, Path(folder), quick)


def against_counters(images: Array, folder: Path, quick: bool) -> Iterator[Measured]:
    """Run and count; where NeuroBench cannot be had, the others all the same."""
    net = pruned(8, 32) if quick else pruned()
    graph = from_torch(net, MNIST, T)
    functional.reset_net(net)
    frames, x = graph.encode(images), torch.from_numpy(images)
    activity = emulate_and_count(graph, frames)
    candidates: dict[str, Callable[[], object]] = {
        OURS: lambda: emulate_and_count(graph, frames),
        "SpikingJelly: SynOpCounter": lambda: spikingjelly(net, x),
    }
    notes = {
        OURS: f"{int(activity.synops.sum()):,} SynOps, {int(activity.synops_nonzero.sum()):,} of non-zero weight",
        "SpikingJelly: SynOpCounter": f"{spikingjelly(net, x):,} SynOps",
    }
    missing = None
    try:
        count = neurobench(folder)
        candidates[THEIRS] = lambda: count(net, x)
        notes[THEIRS] = (
            f"{synops(count, net, x):,} SynOps of non-zero weight, in float32; {small_network(count, images)}"
        )
    except BenchmarkError as error:
        missing = error
    alone = {"here: emulate": lambda: emulator.run(graph, frames), "SpikingJelly: run": lambda: run_only(net, x)}
    group = f"cnn2 {MNIST} without BatchNorm, float, half of its weights zero, T = {T}, batch {len(x)}, per sample"
    found = list(compare(group, candidates | alone, rounds=rounds(quick, 5), per=len(x), notes=notes))
    yield from found
    if missing is not None:
        raise missing
    yield from differences({row.name: row.values for row in found})


def differences(seconds: Mapping[str, tuple[float, ...]]) -> Iterator[Measured]:
    """What counting adds, round by round: small differences of large times, so no ratio is taken of them."""
    for name, both, plain in (("here", OURS, "here: emulate"), ("NeuroBench", THEIRS, "SpikingJelly: run")):
        values = tuple(a - b for a, b in zip(seconds[both], seconds[plain], strict=True))
        yield Measured("what counting adds to the rows above, per sample", name, values, note=f"{both}, less {plain}")


def emulate_and_count(graph: SpikingGraph, frames: Array) -> Activity:
    counter = ActivityCounter(graph)
    emulator.run(graph, frames, observe=counter)
    return counter.result()


def spikingjelly(net: nn.Module, x: torch.Tensor) -> int:
    counter = SynOpCounter()
    functional.reset_net(net)
    with torch.no_grad(), DispatchCounterMode([counter]):
        net(repeated(x))
    return int(counter.get_total())


def synops(count: Counter, net: nn.Module, x: torch.Tensor) -> int:
    return round(count(net, x)["Effective_ACs"] * len(x))


def small_network(count: Counter, images: Array) -> str:
    """The two counts where float32 can hold NeuroBench's sums: they must be the same."""
    net, few = pruned(8, 32), images[:2]
    graph = from_torch(net, MNIST, T)
    ours = int(emulate_and_count(graph, graph.encode(few)).synops_nonzero.sum())
    return f"in a small network {synops(count, net, torch.from_numpy(few)):,}, here {ours:,}"


def repeated(x: torch.Tensor) -> torch.Tensor:
    return x.expand(T, *x.shape).contiguous()


def run_only(net: nn.Module, x: torch.Tensor) -> None:
    functional.reset_net(net)
    with torch.no_grad():
        net(repeated(x))


def pruned(channels: int = 128, hidden: int = 1152) -> nn.Sequential:
    """The layers of cnn2 without BatchNorm, so that lowering changes no weight, gains that let neurons fire."""
    torch.manual_seed(0)
    net = nn.Sequential(
        layer.Conv2d(1, channels, 3, padding=1, bias=False, step_mode="m"),
        neuron.IFNode(step_mode="m"),
        layer.MaxPool2d(2, step_mode="m"),
        layer.Conv2d(channels, channels, 3, padding=1, bias=False, step_mode="m"),
        neuron.IFNode(step_mode="m"),
        layer.MaxPool2d(2, step_mode="m"),
        layer.Flatten(step_mode="m"),
        layer.Linear(channels * 7 * 7, hidden, bias=False, step_mode="m"),
        neuron.IFNode(step_mode="m"),
        layer.Linear(hidden, 10, bias=False, step_mode="m"),
        neuron.IFNode(step_mode="m"),
    ).eval()
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.data *= 4 * (torch.rand_like(module.weight) < 0.5)
    return net


def neurobench(folder: Path) -> Counter:
    """What runs NeuroBench's SynapticOperations on one batch of a network.

    Raises:
        BenchmarkError: it cannot be installed or imported.
    """
    run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), *NEUROBENCH])
    sys.path.insert(0, str(folder))
    try:
        metrics = importlib.import_module("neurobench.metrics.workload.synaptic_operations")
        models = importlib.import_module("neurobench.models.torch_model")
    except ImportError as error:
        raise BenchmarkError(f"NeuroBench cannot be imported: {error}") from error
    finally:
        sys.path.remove(str(folder))

    def count(net: nn.Module, x: torch.Tensor) -> dict[str, float]:
        functional.reset_net(net)
        model, metric = models.TorchModel(net), metrics.SynapticOperations()
        model.register_hooks()
        with torch.no_grad():
            predictions = model(repeated(x))
            found: dict[str, float] = metric(model, predictions, (x, None))
        model.cleanup_hooks()
        return found

    return count
