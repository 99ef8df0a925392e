"""Peak memory of whole processes: emulation beside SpikingJelly's inference, and the commands, against importing torch.

This module imports nothing heavy: a child's peak starts at the size of the process that it was forked from.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks._measure import Measured, alternate, relative, rounds
from benchmarks._process import CLI, peak, python, run


def rows(quick: bool) -> Iterator[Measured]:
    few, many, pictures = (8, 16, 8) if quick else (64, 10_000, 1000)
    call = "from benchmarks import memory; memory."
    batches = {
        f"SpikingJelly, float, {few} samples": python(f"{call}spikingjelly({few})"),
        f"emulator, integer, {few} samples": python(f"{call}emulate({few})"),
        f"emulator, integer, {many:,} samples": python(f"{call}emulate({many})"),
    }
    title = "cnn2 (1, 28, 28), T = 4, peak memory; the emulator's with lowering and quantizing the module"
    yield from peaks(title, batches, rounds=rounds(quick, 3))
    with tempfile.TemporaryDirectory() as folder:
        run(python(f"{call}write_files({folder!r}, {pictures})"))
        student, data = f"{folder}/cnn2.safetensors", f"npz:{folder}/random.npz"
        name = "cnn2" if quick else "resnet18"
        deep = f"{folder}/{name}.safetensors"
        tested = ["--data", data, "--samples", str(pictures)]
        exported, report = ["--to", "onnx", "--to", "netx", "--out", folder], ["--out", f"{folder}/report"]
        commands = {
            'python -c "import torch"': python("import torch"),
            "check cnn2 --target loihi1": [CLI, "check", student, "--target", "loihi1"],
            f"export {name} --to onnx --to netx": [CLI, "export", deep, *exported],
            f"run cnn2 --on emulator --samples {pictures}": [CLI, "run", student, "--on", "emulator", *tested],
            f"profile cnn2 --samples {pictures}": [CLI, "profile", student, *report, *tested],
        }
        yield from peaks("kdsnn-deploy, peak memory", commands, rounds=rounds(quick, 3))


def peaks(group: str, commands: Mapping[str, Sequence[str]], *, rounds: int) -> Iterator[Measured]:
    """Peak resident bytes of the commands, in turn; ratios to the first."""
    measured = {name: lambda command=command: float(peak(command)) for name, command in commands.items()}
    yield from relative(group, alternate(measured, rounds=rounds, warm_up=False), unit="B")


# -- what the child processes do -------------------------------------------------------------------------


def spikingjelly(samples: int) -> None:
    from benchmarks._networks import MNIST, inference, pictures, settled

    inference(settled("cnn2", MNIST), pictures(samples, MNIST))()


def emulate(samples: int) -> None:
    from benchmarks._networks import MNIST, T, pictures, settled
    from exporters.from_torch import from_torch
    from exporters.passes.quantize import quantize
    from hardware import emulator

    graph, _ = quantize(from_torch(settled("cnn2", MNIST), MNIST, T))
    emulator.run(graph, graph.encode(pictures(samples, MNIST)))


def write_files(folder: str, samples: int) -> None:
    from benchmarks._networks import CIFAR, MNIST, write_checkpoint, write_data

    write_checkpoint(Path(folder), "resnet18", CIFAR)
    write_checkpoint(Path(folder), "cnn2", MNIST)
    write_data(Path(folder), samples, MNIST)
