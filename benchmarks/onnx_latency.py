"""Exported ONNX models on onnxruntime against SpikingJelly's module and the emulator: the same batch in one run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from spikingjelly.activation_based import functional

from benchmarks._timing import compare
from exporters import onnx
from exporters.exact import make_exact
from exporters.from_torch import from_torch
from exporters.graph import SpikingGraph
from exporters.quantize import quantize
from hardware import emulator
from kdsnn.models import build

T = 4


def main() -> None:
    for name, shape, samples in (("cnn2", (1, 28, 28), 16), ("resnet18", (3, 32, 32), 2)):
        torch.manual_seed(0)
        module = build(name, spiking=True, input_shape=shape, classes=10).eval()
        x = (np.random.default_rng(0).integers(0, 256, (samples, *shape)) / 255).astype(np.float32)
        lowered = from_torch(module, shape, T)
        graphs = {"float": make_exact(lowered), "integer": quantize(lowered)[0]}
        candidates: dict[str, Callable[[], object]] = {"SpikingJelly": spikingjelly(module, x)}
        print(f"  {name} {shape}, T={T}, {samples} samples, {torch.get_num_threads()} thread(s), time per sample")
        with tempfile.TemporaryDirectory() as folder:
            for kind, graph in graphs.items():
                candidates[f"emulator, {kind}"] = emulate(graph, x)
                for form in ("sequence", "loop"):
                    path = onnx.write(graph, Path(folder) / f"{form}.{kind}.onnx", form)
                    candidates[f"onnx {form}, {kind}"] = run(path, x)
                    size = path.stat().st_size / 1e6
                    print(f"  {form}, {kind}: {size:.2f} MB, {onnx.node_count(path)} nodes")
            compare(candidates, unit=samples)


def spikingjelly(module: torch.nn.Module, x: np.ndarray) -> Callable[[], object]:
    batch = torch.from_numpy(x)

    def function() -> object:
        functional.reset_net(module)
        with torch.inference_mode():
            return module(batch.expand(T, *batch.shape))

    return function


def emulate(graph: SpikingGraph, x: np.ndarray) -> Callable[[], object]:
    frames = graph.encode(x)
    return lambda: emulator.run(graph, frames)


def run(path: Path, x: np.ndarray) -> Callable[[], object]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    everything = {"input": x, "T": np.array(T, np.int64)}
    feed = {i.name: everything[i.name] for i in session.get_inputs()}
    return lambda: session.run(None, feed)


if __name__ == "__main__":
    main()
