"""The emulator against SpikingJelly's float inference of the same student, and against Lava."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from spikingjelly.activation_based import functional

from benchmarks._timing import compare
from exporters import netx
from exporters.from_torch import from_torch
from exporters.quantize import quantize
from exporters.to_chain import to_chain
from hardware import emulator
from hardware.lava import client, environment
from kdsnn import models

T = 4
NETWORKS = [("cnn2", (1, 28, 28), 64), ("wrn16-2", (3, 32, 32), 32), ("vgg11", (3, 32, 32), 32)]
LAVA_SAMPLES = 10


def settled(name: str, shape: tuple[int, int, int]) -> torch.nn.Module:
    """A network with random weights whose BatchNorm statistics fit, so that neurons fire as in a trained one."""
    torch.manual_seed(0)
    net = models.build(name, spiking=True, input_shape=shape, classes=10)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        net.train()(torch.rand(T, 8, *shape))
    functional.reset_net(net)
    return net.eval()


def main() -> None:
    environment.setup(print)
    for name, shape, batch in NETWORKS:
        net = settled(name, shape)
        graph, _ = quantize(from_torch(net, shape, T))
        x = np.random.default_rng(0).integers(0, 256, (batch, *shape)) / np.float32(255)
        images, frames = torch.from_numpy(x.astype(np.float32)), graph.encode(x)

        def spikingjelly(net: torch.nn.Module = net, images: torch.Tensor = images) -> None:
            with torch.inference_mode():
                functional.reset_net(net)
                net(images.expand(T, *images.shape))

        print(f" {name} {shape}, T = {T}, batch {batch}, per sample")
        medians = compare(
            {
                "SpikingJelly float inference": spikingjelly,
                "emulator, integer": lambda g=graph, f=frames: emulator.run(g, f),
            },
            unit=batch,
        )
        ours = medians["emulator, integer"]
        if name == "cnn2":
            chain = to_chain(graph)
            with tempfile.TemporaryDirectory() as folder:
                path = netx.write(chain, Path(folder) / "net.net")
                repeated = np.repeat(frames[:LAVA_SAMPLES, None].astype(np.int32), T, axis=1)
                for label, fast in (("stock", False), ("fast convolution", True)):
                    run = client.run(path, repeated, T=T, message_bits=8, fast_conv=fast)
                    per_sample = run.seconds / LAVA_SAMPLES
                    print(
                        f"  Lava, pipelined, {label:<15} {1000 * per_sample:9.1f} ms{'':17}   {per_sample / ours:8.0f} × the emulator"
                    )


if __name__ == "__main__":
    main()
