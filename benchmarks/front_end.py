"""What stands between a torch module and its graphs: tracing ResNet18, and lowering it with its proof, against running it once."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks._measure import Measured, compare, rounds
from benchmarks._networks import CIFAR, MNIST, T, inference, pictures, settled
from exporters.from_torch import from_torch
from kdsnn.deploy.lower import lower

LOWERED = "kdsnn.lower: traced, proven on the module's own spikes, quantized"


def rows(quick: bool) -> Iterator[Measured]:
    name, shape = ("cnn2", MNIST) if quick else ("resnet18", CIFAR)
    module = settled(name, shape)
    proof = lower(module, input_shape=shape, T=T).proof
    assert proof is not None  # the module is there
    steps = {
        "SpikingJelly, one sample": inference(module, pictures(1, shape)),
        "from_torch": lambda: from_torch(module, shape, T),
        LOWERED: lambda: lower(module, input_shape=shape, T=T),
    }
    notes = {
        LOWERED: f"{proof.compared:,} spikes and outputs of {proof.samples} samples compared, {proof.differences} differ"
    }
    yield from compare(
        f"{name} {shape}, T = {T}, to one forward of the module", steps, rounds=rounds(quick, 5), notes=notes
    )
