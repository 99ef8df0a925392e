"""Peak memory of whole processes: emulation and `profile` beside SpikingJelly's inference, and the commands, against
importing torch.

This module imports nothing heavy: a child's peak starts at the size of the process that it was forked from.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks._measure import Measured, alternate, relative, rounds
from benchmarks._process import CLI, peak, python, run

SHAPES = {"cnn2": (1, 28, 28), "resnet18": (3, 32, 32)}
"""Student → shape of its images."""

ROUNDS = 2


def rows(quick: bool) -> Iterator[Measured]:
    few, many, pictures = (8, 16, 20) if quick else (64, 10_000, 1000)
    call = "from benchmarks import memory; memory."
    batches = {
        f"SpikingJelly, float, {few} samples": python(f"{call}spikingjelly('cnn2', {few})"),
        f"emulator, integer, {few} samples": python(f"{call}emulate({few})"),
        f"emulator, integer, {many:,} samples": python(f"{call}emulate({many})"),
    }
    title = "cnn2 (1, 28, 28), T = 4, peak memory; the emulator's with lowering and quantizing the module"
    yield from peaks(title, batches, rounds=rounds(quick, ROUNDS))
    students = ("cnn2",) if quick else tuple(SHAPES)
    with tempfile.TemporaryDirectory() as folder:
        run(python(f"{call}write_files({folder!r}, {students}, {pictures})"))
        yield from peaks(
            "kdsnn-deploy, peak memory", commands(folder, students[-1], pictures), rounds=rounds(quick, ROUNDS)
        )
        for name in students:
            sides = {
                "SpikingJelly, float": python(f"{call}spikingjelly({name!r}, {few})"),
                "kdsnn-deploy profile": profiling(folder, name, few),
            }
            group = (
                f"{name} {SHAPES[name]}, T = 4, {few} samples, peak memory of a report beside one batch of the module"
            )
            yield from peaks(group, sides, rounds=rounds(quick, ROUNDS))


def commands(folder: str, deep: str, pictures: int) -> dict[str, list[str]]:
    """Every command as a user gives it, and what it is compared with."""
    student = f"{folder}/cnn2.safetensors"
    tested = ["--data", data("cnn2", folder), "--samples", str(pictures)]
    exported = ["--to", "onnx", "--to", "netx", "--out", folder]
    return {
        'python -c "import torch"': python("import torch"),
        "check cnn2 --target loihi1": [CLI, "check", student, "--target", "loihi1"],
        f"export {deep} --to onnx --to netx": [CLI, "export", f"{folder}/{deep}.safetensors", *exported],
        f"run cnn2 --on emulator --samples {pictures}": [CLI, "run", student, "--on", "emulator", *tested],
        f"profile cnn2 --samples {pictures}": profiling(folder, "cnn2", pictures),
    }


def profiling(folder: str, name: str, samples: int) -> list[str]:
    tested = ["--data", data(name, folder), "--samples", str(samples)]
    return [CLI, "profile", f"{folder}/{name}.safetensors", "--out", f"{folder}/report", *tested]


def data(name: str, folder: str) -> str:
    """Where the random images are that a student of `SHAPES` takes."""
    return f"npz:{folder}/{SHAPES[name][0]}/random.npz"


def peaks(group: str, commands: Mapping[str, Sequence[str]], *, rounds: int) -> Iterator[Measured]:
    """Peak resident bytes of the commands, in turn; ratios to the first."""
    measured = {name: lambda command=command: float(peak(command)) for name, command in commands.items()}
    yield from relative(group, alternate(measured, rounds=rounds, warm_up=False), unit="B")


# -- what the child processes do -------------------------------------------------------------------------


def spikingjelly(name: str, samples: int) -> None:
    from benchmarks._networks import inference, pictures, settled

    inference(settled(name, SHAPES[name]), pictures(samples, SHAPES[name]))()


def emulate(samples: int) -> None:
    from benchmarks._networks import T, pictures, settled
    from exporters.from_torch import from_torch
    from exporters.passes.quantize import quantize
    from hardware import emulator

    shape = SHAPES["cnn2"]
    graph, _ = quantize(from_torch(settled("cnn2", shape), shape, T))
    emulator.run(graph, graph.encode(pictures(samples, shape)))


def write_files(folder: str, students: Sequence[str], samples: int) -> None:
    from benchmarks._networks import write_checkpoint, write_data

    for name in students:
        channels = Path(folder) / str(SHAPES[name][0])
        write_checkpoint(Path(folder), name, SHAPES[name])
        if not channels.exists():
            channels.mkdir()
            write_data(channels, samples, SHAPES[name])
