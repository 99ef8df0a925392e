"""Exported ONNX models on onnxruntime against SpikingJelly's module and the emulator: the same batch in one run, and one image,
which is the latency of an answer. Sessions are made, and the emulator has planned, before."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from benchmarks._measure import Measured, compare, rounds
from benchmarks._networks import CIFAR, MNIST, T, in_a_long_run, inference, pictures, settled
from exporters import onnx
from exporters.from_torch import from_torch
from exporters.graph import Array, SpikingGraph
from exporters.passes.exact import make_exact
from exporters.passes.quantize import quantize
from hardware import emulator

NETWORKS: list[tuple[str, tuple[int, int, int], int, dict[str, Any]]] = [
    ("cnn2", MNIST, 1, {}),
    ("cnn2", MNIST, 16, {}),
    ("resnet18", CIFAR, 1, {}),
]
TINY = [("cnn2", MNIST, 2, {"channels": (4, 4), "hidden": 16})]
FORMS: tuple[onnx.Form, ...] = ("sequence", "loop")


def rows(quick: bool) -> Iterator[Measured]:
    if not quick:
        in_a_long_run()
    for name, shape, samples, options in TINY if quick else NETWORKS:
        module, x = settled(name, shape, **options), pictures(samples, shape)
        lowered = from_torch(module, shape, T)
        graphs = {"float": make_exact(lowered), "integer": quantize(lowered)[0]}
        candidates: dict[str, Callable[[], object]] = {"SpikingJelly, float": inference(module, x)}
        notes = {}
        with tempfile.TemporaryDirectory() as folder:
            for kind, graph in graphs.items():
                candidates[f"emulator, {kind}"] = emulate(graph, x)
                for form in FORMS:
                    path = onnx.write(graph, Path(folder) / f"{form}.{kind}.onnx", form)
                    candidates[f"onnx {form}, {kind}"] = run(path, x)
                    notes[f"onnx {form}, {kind}"] = f"{path.stat().st_size / 1e6:.2f} MB, {onnx.node_count(path)} nodes"
            group = f"{name} {shape}, T = {T}, batch {samples}, per sample"
            yield from compare(group, candidates, rounds=rounds(quick, 5), per=samples, notes=notes)


def emulate(graph: SpikingGraph, x: Array) -> Callable[[], object]:
    planned, frames = emulator.prepare(graph), graph.encode(x)
    return lambda: planned.run(frames)


def run(path: Path, x: Array) -> Callable[[], object]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    everything = {"input": x, "T": np.array(T, np.int64)}
    feed = {i.name: everything[i.name] for i in session.get_inputs()}
    return lambda: session.run(None, feed)
