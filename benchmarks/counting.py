"""Counting against plain emulation of the same batch, and against NeuroBench's and SpikingJelly's counters.

NeuroBench is installed, without its dependencies, into a temporary folder of its own; where that fails it is skipped.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from spikingjelly.activation_based import functional, layer, neuron
from spikingjelly.activation_based.op_counter import DispatchCounterMode, SynOpCounter
from torch import nn

from benchmarks._timing import compare
from benchmarks.emulator import settled
from exporters.from_torch import from_torch
from exporters.quantize import quantize
from hardware import emulator
from profilers.counts import Activity, ActivityCounter

T, BATCH, SHAPE = 4, 64, (1, 28, 28)
NEUROBENCH = ["neurobench==2.3.0", "snntorch==1.0.0"]  # snnTorch: NeuroBench imports it, whatever is counted


def main() -> None:
    images = np.random.default_rng(0).integers(0, 256, (BATCH, *SHAPE)) / np.float32(255)
    x = torch.from_numpy(images.astype(np.float32))
    counting_costs(images)
    net = pruned()
    graph = from_torch(net, SHAPE, T)
    functional.reset_net(net)
    frames = graph.encode(images)

    def ours() -> Activity:
        counter = ActivityCounter(graph)
        emulator.run(graph, frames, observe=counter)
        return counter.result()

    def spikingjelly() -> int:
        counter = SynOpCounter()
        functional.reset_net(net)
        with torch.no_grad(), DispatchCounterMode([counter]):
            net(repeated(x))
        return int(counter.get_total())

    print(f" cnn2 without BatchNorm, half of its weights zero, T = {T}, batch {BATCH}: run and count, processor time")
    activity = ours()
    candidates: dict[str, Any] = {"here: emulate and count": ours, "SpikingJelly, SynOpCounter": spikingjelly}
    print(f"  SynOps: {int(activity.synops.sum()):,} here, {spikingjelly():,} by SpikingJelly")
    with tempfile.TemporaryDirectory() as folder:
        count = neurobench(Path(folder))
        if count is not None:
            candidates["NeuroBench, SynapticOperations"] = lambda: count(net, x)
            theirs = round(count(net, x)["Effective_ACs"] * BATCH)
            print(
                f"  of non-zero weight: {int(activity.synops_nonzero.sum()):,} here, {theirs:,} by NeuroBench (float32)"
            )
            small = pruned(8, 32)
            small_graph = from_torch(small, SHAPE, T)
            counter = ActivityCounter(small_graph)
            emulator.run(small_graph, small_graph.encode(images[:2]), observe=counter)
            nonzero = int(counter.result().synops_nonzero.sum())
            theirs = round(count(small, x[:2])["Effective_ACs"] * 2)
            print(f"  in a network whose sums float32 can hold: {nonzero:,} here, {theirs:,} by NeuroBench")
        candidates["here: emulate only"] = lambda: emulator.run(graph, frames)
        candidates["SpikingJelly: run only"] = lambda: run_only(net, x)
        seconds = compare(candidates, repeats=5, unit=BATCH, clock=time.process_time)
        if count is not None:
            ours_alone = seconds["here: emulate and count"] - seconds["here: emulate only"]
            theirs_alone = seconds["NeuroBench, SynapticOperations"] - seconds["SpikingJelly: run only"]
            if ours_alone > 0:  # a small difference of two large times: on a busy machine it can be anything
                print(f"  counting alone: NeuroBench takes {theirs_alone / ours_alone:.0f} × as long as here")


def counting_costs(images: np.ndarray) -> None:
    graph, _ = quantize(from_torch(settled("cnn2", SHAPE), SHAPE, T))
    frames = graph.encode(images)
    print(f" cnn2 {SHAPE}, quantised, T = {T}, batch {BATCH}, per sample, processor time")
    compare(
        {
            "emulate": lambda: emulator.run(graph, frames),
            "emulate and count": lambda: emulator.run(graph, frames, observe=ActivityCounter(graph)),
        },
        unit=BATCH,
        clock=time.process_time,
    )


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


def neurobench(folder: Path) -> Callable[[nn.Module, torch.Tensor], dict[str, float]] | None:
    """What runs NeuroBench's SynapticOperations on one batch of a network; None where NeuroBench cannot be had."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), *NEUROBENCH]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
        print(f"  NeuroBench: skipped, it cannot be installed ({reason})")
        return None
    sys.path.insert(0, str(folder))
    try:
        from neurobench.metrics.workload.synaptic_operations import SynapticOperations
        from neurobench.models.torch_model import TorchModel
    except ImportError as error:
        print(f"  NeuroBench: skipped ({error})")
        return None
    finally:
        sys.path.remove(str(folder))

    def count(net: nn.Module, x: torch.Tensor) -> dict[str, float]:
        functional.reset_net(net)
        model, metric = TorchModel(net), SynapticOperations()
        model.register_hooks()
        with torch.no_grad():
            predictions = model(repeated(x))
            found: dict[str, float] = metric(model, predictions, (x, None))
        model.cleanup_hooks()
        return found

    return count


if __name__ == "__main__":
    main()
