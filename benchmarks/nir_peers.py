"""NIR files to and from SpikingJelly's and snnTorch's own exporters and importers: spikes that differ.

They need `nirtorch`, which this project does not install: pip install --no-deps --target DIR nirtorch snntorch,
then PYTHONPATH=DIR python -m benchmarks nir_peers. What is missing is skipped.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import nir as upstream
import numpy as np
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

from exporters import nir
from exporters.from_torch import from_torch
from exporters.graph import LIF, Input, Linear, Node, Output, chain
from hardware import emulator

T = 8


def main() -> None:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        for title, function in (("SpikingJelly", spikingjelly), ("snnTorch", snntorch)):
            try:
                function(Path(folder))
            except ImportError as error:
                print(f"  {title}: skipped ({error})")


def spikingjelly(folder: Path) -> None:
    from spikingjelly.activation_based import nir_exchange

    x = torch.rand(8, 1, 12, 12)
    kinds = {
        "IF": (lambda: neuron.IFNode(), 2.0),
        "LIF": (lambda: neuron.LIFNode(tau=2.0, decay_input=False, v_reset=0.0), 2.5),
        "LIF, decay_input": (lambda: neuron.LIFNode(tau=2.0, v_reset=0.0), 5.0),
    }
    for kind, (make, gain) in kinds.items():
        net = nn.Sequential(
            layer.Conv2d(1, 8, 3, padding=1), make(), layer.AvgPool2d(2), layer.Conv2d(8, 12, 3), make(),
            layer.Flatten(), layer.Linear(192, 10), make(),
        ).eval()  # fmt: skip
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.data = module.weight.data * gain + 0.02
        with torch.inference_mode():
            expected = torch.stack([net(x) for _ in range(T)], 1).numpy()
        functional.reset_net(net)
        nir_exchange.export_to_nir(net, x[:1], folder / "theirs.nir")
        theirs = emulator.run(nir.read(folder / "theirs.nir", T=T), x.numpy()).output
        ours = from_torch(net, (1, 12, 12), T)
        imported = nir_exchange.import_from_nir(nir.write(ours, folder / "ours.nir"))
        report(f"SpikingJelly, {kind}", expected, theirs, emulator.run(ours, x.numpy()).output, steps(imported, x))


def snntorch(folder: Path) -> None:
    import snntorch as snn
    from snntorch import utils
    from snntorch.export_nir import export_to_nir
    from snntorch.import_nir import import_from_nir

    x = torch.rand(8, 16)

    def leaky(n: int) -> Any:  # their exporter needs constants per neuron, or nir's shape inference refuses the file
        return snn.Leaky(
            beta=torch.full((n,), 0.75),
            threshold=torch.ones(n),
            init_hidden=True,
            reset_mechanism="zero",
            reset_delay=False,
        )

    net = nn.Sequential(nn.Linear(16, 24), leaky(24), nn.Linear(24, 10), leaky(10))
    for module in net.modules():
        if isinstance(module, nn.Linear):
            module.weight.data = module.weight.data * 2 + 0.1
    upstream.write(folder / "theirs.nir", export_to_nir(net, x[:1], ignore_dims=[0]))
    utils.reset(net)
    with torch.inference_mode():
        expected = torch.stack([net(x) for _ in range(T)], 1).numpy()
    read = nir.read(folder / "theirs.nir", T=T)
    theirs = emulator.run(read, x.numpy()).output
    nodes: list[tuple[str, Node]] = [("input", Input((16,)))]
    for i, module in enumerate(m for m in net if isinstance(m, nn.Linear)):
        weight, bias = (p.detach().numpy() for p in (module.weight, module.bias))
        nodes += [(f"fc{i}", Linear(weight, bias)), (f"n{i}", LIF(1.0, 0.75))]
    ours = chain([*nodes, ("output", Output())], T)
    # their importer refuses IF neurons unless R = 1, and what it makes of those fails when it runs
    imported = import_from_nir(upstream.read(nir.write(ours, folder / "ours.nir")))
    report("snnTorch, Leaky", expected, theirs, emulator.run(ours, x.numpy()).output, steps(imported, x))


def steps(imported: Any, x: torch.Tensor) -> np.ndarray:
    state, found = None, []
    with torch.inference_mode():
        for _ in range(T):
            y, state = imported(x, state)
            found.append(y)
    return torch.stack(found, 1).numpy()


def report(title: str, expected: np.ndarray, theirs: np.ndarray, ours: np.ndarray, imported: np.ndarray) -> None:
    inward = (
        "" if expected is None else f"their file here: {int((theirs != expected).sum())} of {expected.size} differ, "
    )
    print(
        f"  {title:30} {inward}our file there: {int((imported != ours).sum())} of {ours.size} differ, rate {ours.mean():.2f}"
    )


if __name__ == "__main__":
    main()
