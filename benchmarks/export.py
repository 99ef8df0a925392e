"""Lowering and writing ResNet18 at full width, step by step and as a command, against building the module."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks._measure import Measured, compare, rounds
from benchmarks._networks import CIFAR, MNIST, T, settled, write_checkpoint
from benchmarks._process import CLI, python
from benchmarks.startup import processes
from exporters import netx, nir, onnx
from exporters.from_torch import from_torch
from exporters.passes.chain import to_chain
from exporters.passes.exact import make_exact
from exporters.passes.quantize import quantize
from kdsnn import models


def rows(quick: bool) -> Iterator[Measured]:
    name, shape = ("cnn2", MNIST) if quick else ("resnet18", CIFAR)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        module = settled(name, shape)
        graph = from_torch(module, shape, T)
        exact, (integer, _) = make_exact(graph), quantize(graph)
        chain = to_chain(integer)
        steps = {
            "build the module": lambda: models.build(name, spiking=True, input_shape=shape, classes=10),
            "from_torch": lambda: from_torch(module, shape, T),
            "make_exact": lambda: make_exact(graph),
            "quantize, 8 bits": lambda: quantize(graph),
            "onnx.write, float, checked": lambda: onnx.write(exact, folder / "float.onnx"),
            "onnx.write, integer, checked": lambda: onnx.write(integer, folder / "integer.onnx"),
            "to_chain": lambda: to_chain(integer),
            "netx.write, validated": lambda: netx.write(chain, folder / "net.net"),
            "nir.write": lambda: nir.write(graph, folder / "net.nir"),
        }
        yield from compare(f"{name} {shape}, one step of it", steps, rounds=rounds(quick, 5))

        source = str(write_checkpoint(folder, name, shape))
        start = f"from kdsnn import models; models.build({name!r}, spiking=True, input_shape={shape}, classes=10)"
        both = ["--to", "onnx", "--to", "netx", "--out", temporary]
        commands = {
            "python: import, build the module": python(start),
            "kdsnn-deploy export --to onnx --to netx --no-verify": [CLI, "export", source, *both, "--no-verify"],
            "kdsnn-deploy export --to onnx --to netx": [CLI, "export", source, *both],
        }
        group = f"{name} {shape}, whole processes; verified are 16 samples, every spike of every layer"
        yield from processes(group, commands, rounds=rounds(quick, 3))
