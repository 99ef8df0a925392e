"""The KDSNN paper's Table 3: sizes and costs, by our own builders, with and without trained students."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MNIST, CIFAR = (1, 28, 28), (3, 32, 32)


@dataclass(frozen=True)
class Entry:
    """One network of Table 3; `cost` is printed there as FLOPs of an ANN and as SynOps of an SNN, in millions."""

    name: str
    model: str
    spiking: bool
    shape: tuple[int, int, int]
    parameters: float
    cost: float


ENTRIES = (
    Entry("ResNet18, MNIST", "resnet18", False, MNIST, 11.17, 457.72),
    Entry("ResNet18, CIFAR-10", "resnet18", False, CIFAR, 11.17, 557.88),
    Entry("WRN28-4, CIFAR-10", "wrn28-4", False, CIFAR, 5.85, 849.33),
    Entry("Pyramidnet18, CIFAR-10", "pyramidnet18", False, CIFAR, 1.56, 368.74),
    Entry("2conv, MNIST", "cnn2", True, MNIST, 7.39, 0.05),
    Entry("VGG11, CIFAR-10", "vgg11", True, CIFAR, 9.75, 0.09),
    Entry("WRN16-2, CIFAR-10", "wrn16-2", True, CIFAR, 0.69, 0.15),
    Entry("ResNet18, CIFAR-10", "resnet18", True, CIFAR, 11.17, 0.44),
)

COLUMNS = (
    "network", "kind", "parameters, paper (M)", "ours", "FLOPs, paper (M)", "thop, ours (M)", "“SynOps”, paper (M)",
    "spikes, ours (M)", "SynOps by fan-out, ours (M)", "MACs of the first layer, ours (M)", "accuracy",
)  # fmt: skip

NOTES = (
    "FLOPs are thop's: multiply-accumulates of convolutions and linear layers + 4 per BatchNorm element.",
    "The paper's “SynOps” at T = 4 are 1000 times too few for operations at synapses; as spikes they are plausible rates "
    "of 0.10 to 0.20 per step. Ours are given as both, with what the analog image costs once in the first layer.",
    "Spikes, SynOps and MACs are means per test image of the checkpoints given; empty without one.",
)


def table_3(
    checkpoints: Sequence[Path], samples: int, data: str | None
) -> tuple[Sequence[str], list[list[str]], Sequence[str]]:
    """Columns, rows and notes. `data` in place of what the checkpoints were trained on.

    A checkpoint of a network that Table 3 does not have is named in the notes; of two of the same, the last counts.
    Raises KdsnnError when one cannot be read.
    """
    from kdsnn.models import build
    from profilers.counting.flops import count_module

    measured, others = _measured(checkpoints, samples, data)
    rows = []
    for entry in ENTRIES:
        ann = build(entry.model, spiking=False, input_shape=entry.shape, classes=10)
        counts = count_module(ann, entry.shape)
        parameters = counts.parameters
        if entry.spiking:
            net = build(entry.model, spiking=True, input_shape=entry.shape, classes=10)
            parameters = sum(p.numel() for p in net.parameters())
        rows.append([
            entry.name, "SNN, T = 4" if entry.spiking else "ANN", f"{entry.parameters:.2f}", f"{parameters / 1e6:.2f}",
            "" if entry.spiking else f"{entry.cost:.2f}", "" if entry.spiking else f"{counts.thop / 1e6:.2f}",
            f"{entry.cost:.2f}" if entry.spiking else "", *measured.get((entry.model, entry.shape), ("",) * 4),
        ])  # fmt: skip
    return COLUMNS, rows, (*NOTES, *others)


def _measured(
    checkpoints: Sequence[Path], samples: int, data: str | None
) -> tuple[dict[tuple[str, tuple[int, int, int]], tuple[str, ...]], list[str]]:
    """(model, image shape) → the last four cells of its row; and a note on every checkpoint without a row."""
    from exporters.from_torch import from_torch
    from hardware import emulator
    from kdsnn import checkpoint
    from kdsnn.data import load
    from kdsnn.deploy.images import pixels
    from profilers.counting.activity import ActivityCounter

    known = {(entry.model, entry.shape) for entry in ENTRIES if entry.spiking}
    found: dict[tuple[str, tuple[int, int, int]], tuple[str, ...]] = {}
    others = []
    for path in checkpoints:
        module, info = checkpoint.load(path)
        if not info.spiking or info.T is None or (info.model, info.input_shape) not in known:
            others.append(
                f"{path.name} is left out: Table 3 has no spiking {info.model} for images of {info.input_shape}."
            )
            continue
        images = load(data or info.data)
        graph = from_torch(module, info.input_shape, info.T)
        counter = ActivityCounter(graph)
        outcome = emulator.run(graph, graph.encode(pixels(images.x_test[:samples])), observe=counter)
        activity = counter.result()
        found[info.model, info.input_shape] = (
            f"{activity.spikes.sum(1).mean() / 1e6:.3f}",
            f"{activity.synops.sum(1).mean() / 1e6:.2f}",
            f"{activity.macs_once / 1e6:.2f}",
            f"{100 * outcome.accuracy(images.y_test[:samples]):.2f}",
        )
    return found, others
