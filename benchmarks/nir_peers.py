"""NIR files of other frameworks' own exporters read here, and files from here in their importers: spikes that differ.

Each framework is skipped where it is not installed. They need `nirtorch`, which this project does not install:
pip install --no-deps --target DIR nirtorch snntorch norse sinabs pbr rockpool, then
PYTHONPATH=DIR python -m benchmarks nir_peers. `python -m benchmarks.nir_peers FOLDER` also keeps their files with
the spikes that they give, which is where tests/exporters/data comes from.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nir as upstream
import numpy as np
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

from exporters import nir
from exporters.from_torch import from_torch
from exporters.graph import LIF, Input, Linear, Node, Output, SpikingGraph, chain
from hardware import emulator

T = 8


@dataclass(frozen=True)
class Case:
    """A network of another framework: its NIR graph, what it gives, how to read it here, and ours in its importer.

    `x`: (N, *shape), the same at every step. `expected`: (N, T, F) spikes. `how`: arguments of `nir.read`.
    `back`: a graph of ours and what its importer makes of our file, spikes (N, T, F).
    """

    name: str
    title: str
    network: Any
    x: torch.Tensor
    expected: np.ndarray
    how: dict[str, Any] = field(default_factory=dict)
    back: tuple[SpikingGraph, Callable[[Path], np.ndarray]] | None = None


def main(keep: Path | None = None) -> None:
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for package, function in PEERS.items():
            torch.manual_seed(0)
            try:
                for case in function(folder):
                    report(case, folder, keep)
            except ImportError as error:
                print(f"  {package}: skipped ({error})")


def report(case: Case, folder: Path, keep: Path | None) -> None:
    path = folder / f"{case.name}.nir"
    if case.network is not None:
        upstream.write(path, case.network)
    x = case.x.numpy()
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        content = np.frombuffer(path.read_bytes(), np.uint8)  # HDF5 is mostly air, which the archive compresses
        spikes = case.expected.astype(np.uint8)
        np.savez_compressed(keep / f"{case.name}.npz", nir=content, x=x.astype(np.float32), spikes=spikes)
    try:
        theirs = emulator.run(nir.read(path, T=T, **case.how), x).output
    except nir.NirError as error:
        print(f"  {case.title:42} refused: {error}", flush=True)
        return
    rate, differ = case.expected.mean(), int((theirs != case.expected).sum())
    text = f"their file here: {differ} of {case.expected.size} differ, rates {rate:.3f} and {theirs.mean():.3f}"
    if case.back is not None:
        graph, imported = case.back
        ours = emulator.run(graph, x).output
        found = imported(nir.write(graph, folder / "ours.nir"))
        text += f"; our file there: {int((found != ours).sum())} of {ours.size} differ"
    print(f"  {case.title:42} {text}", flush=True)


def version(package: str) -> str:
    return importlib.metadata.version(package)


def strengthen(net: nn.Module, gain: float, shift: float) -> None:
    """Weights with which neurons fire neither always nor never."""
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("weight"):
                parameter.mul_(gain).add_(shift)


def with_lasting_currents(network: Any, dt: float) -> Any:
    """What Norse and Rockpool compute, where currents take in x itself; they leave w_in at 1, which says dt/tau_syn·x."""
    for node in network.nodes.values():
        if isinstance(node, upstream.CubaLIF):
            node.w_in = np.asarray(node.tau_syn) / dt
    return network


# -- the frameworks ------------------------------------------------------------------------------------


def spikingjelly(folder: Path) -> Iterator[Case]:
    from spikingjelly.activation_based import nir_exchange

    x = torch.rand(8, 1, 12, 12)
    kinds = {
        "IF": (lambda: neuron.IFNode(), 2.0),
        "LIF": (lambda: neuron.LIFNode(tau=2.0, decay_input=False, v_reset=0.0), 2.5),
        "LIF, decay_input": (lambda: neuron.LIFNode(tau=2.0, v_reset=0.0), 5.0),
    }
    for i, (kind, (make, gain)) in enumerate(kinds.items()):
        net = nn.Sequential(
            layer.Conv2d(1, 4, 3, padding=1), make(), layer.AvgPool2d(2), layer.Conv2d(4, 6, 3), make(),
            layer.Flatten(), layer.Linear(96, 10), make(),
        ).eval()  # fmt: skip
        strengthen(net, gain, 0.02)
        with torch.inference_mode():
            expected = torch.stack([net(x) for _ in range(T)], 1).numpy()
        functional.reset_net(net)
        nir_exchange.export_to_nir(net, x[:1], folder / f"spikingjelly_{i}.nir")

        def imported(path: Path) -> np.ndarray:
            return stateful(nir_exchange.import_from_nir(path), x)

        ours = (from_torch(net, (1, 12, 12), T), imported)
        yield Case(f"spikingjelly_{i}", f"SpikingJelly {version('spikingjelly')}, {kind}", None, x, expected, {}, ours)


def snntorch(folder: Path) -> Iterator[Case]:
    import snntorch as snn
    from snntorch import utils
    from snntorch.export_nir import export_to_nir
    from snntorch.import_nir import import_from_nir

    x = torch.rand(8, 16)

    def leaky(n: int, reset: str) -> Any:  # its exporter needs constants per neuron, or nir refuses the file
        return snn.Leaky(
            beta=torch.full((n,), 0.75), threshold=torch.ones(n), init_hidden=True, reset_mechanism=reset,
            reset_delay=False,
        )  # fmt: skip

    for reset in ("zero", "subtract"):
        net = nn.Sequential(nn.Linear(16, 24), leaky(24, reset), nn.Linear(24, 10), leaky(10, reset))
        # subtracting, it does so late where a membrane stays above the threshold: keep them below twice that
        strengthen(net, *((2, 0.05) if reset == "zero" else (1, 0.02)))
        network = export_to_nir(net, x[:1], ignore_dims=[0])
        utils.reset(net)
        with torch.inference_mode():
            expected = torch.stack([net(x) for _ in range(T)], 1).numpy()
        back = None
        if reset == "zero":
            nodes: list[tuple[str, Node]] = [("input", Input((16,)))]
            for i, module in enumerate(m for m in net if isinstance(m, nn.Linear)):
                weight, bias = (p.detach().numpy() for p in (module.weight, module.bias))
                nodes += [(f"fc{i}", Linear(weight, bias)), (f"n{i}", LIF(1.0, 0.75))]
            ours = chain([*nodes, ("output", Output())], T)
            # its importer refuses IF neurons unless R = 1, and what it makes of those fails when it runs
            back = (ours, lambda path: stateful(import_from_nir(upstream.read(path)), x))
        title = f"snnTorch {version('snntorch')}, Leaky, reset {reset}"
        how = {"reset": "soft"} if reset == "subtract" else {}
        yield Case(f"snntorch_{reset}", title, network, x, expected, how, back)

    yield from snntorch_recurrent(x, leaky)


def snntorch_recurrent(x: torch.Tensor, leaky: Callable[[int, str], Any]) -> Iterator[Case]:
    """Its RSynaptic has no reset within the step, which NIR means: with `reset_delay=False` it fails where it keeps its state. Its
    importer fails on what its exporter makes of RLeaky."""
    import snntorch as snn
    from snntorch import utils
    from snntorch.export_nir import export_to_nir

    for reset in ("zero", "subtract"):
        loop = snn.RLeaky(
            beta=torch.full((24,), 0.75), threshold=torch.ones(24), linear_features=24, init_hidden=True,
            reset_mechanism=reset, reset_delay=False,
        )  # fmt: skip
        net = nn.Sequential(nn.Linear(16, 24), loop, nn.Linear(24, 10), leaky(10, reset))
        strengthen(net, *((2, 0.03) if reset == "zero" else (1, 0.025)))
        network = export_to_nir(net, x[:1], ignore_dims=[0])
        utils.reset(net)
        with torch.inference_mode():
            expected = torch.stack([net(x) for _ in range(T)], 1).numpy()
        title = f"snnTorch {version('snntorch')}, RLeaky, reset {reset}"
        how = {"reset": "soft"} if reset == "subtract" else {}
        yield Case(f"snntorch_recurrent_{reset}", title, network, x, expected, how)


def norse(folder: Path) -> Iterator[Case]:
    """Its exporter multiplies time constants by dt, so it is called with dt = 1; steps are 1 ms."""
    from norse.torch import IAFCell, LIFBoxCell, LIFBoxParameters, LIFCell, LIFParameters, SequentialState
    from norse.torch.functional.iaf import IAFParameters
    from norse.torch.utils.export_nir import to_nir

    x = torch.rand(8, 16)

    def box(n: int) -> Any:
        zero = torch.zeros(n)
        return LIFBoxCell(LIFBoxParameters(torch.full((n,), 250.0), zero, torch.full((n,), 0.3), zero))

    def current(n: int, tau_syn_inv: float) -> Any:
        zero = torch.zeros(n)
        return LIFCell(
            LIFParameters(torch.full((n,), tau_syn_inv), torch.full((n,), 250.0), zero, torch.full((n,), 0.3), zero)
        )

    kinds: dict[str, tuple[str, Callable[[int], Any], dict[str, Any]]] = {
        "box": ("LIFBoxCell", box, {"dt": 1e-3}),
        "if": ("IAFCell", lambda n: IAFCell(IAFParameters(torch.ones(n), torch.zeros(n))), {}),
        "lif": ("LIFCell, no current memory", lambda n: current(n, 1000.0), {"dt": 1e-3}),
        "cuba": ("LIFCell, current memory", lambda n: current(n, 400.0), {"dt": 1e-3}),
    }
    for kind, (title, make, how) in kinds.items():
        bias = kind != "cuba"  # NIR would pass it through the current, which chips do not, so it is refused
        net = SequentialState(nn.Linear(16, 24, bias), make(24), nn.Linear(24, 10, bias), make(10))
        strengthen(net, 2, 0.1)
        network = with_lasting_currents(to_nir(net, x[0], dt=1.0), 1e-3)
        state, steps = None, []
        with torch.inference_mode():
            for _ in range(T):
                y, state = net(x, state)
                steps.append(y)
        yield Case(
            f"norse_{kind}", f"Norse {version('norse')}, {title}", network, x, torch.stack(steps, 1).numpy(), how
        )

    yield from norse_recurrent(x)


def norse_recurrent(x: torch.Tensor) -> Iterator[Case]:
    """The recurrent CubaLIF of the NIR paper's Braille network, in Norse's importer, which nirtorch runs; what goes back without
    a bias, since nirtorch leaves that out at the first step."""
    from norse.torch.functional import reset
    from norse.torch.utils.import_nir import from_nir

    def cuba(n: int, tau_syn: float, tau_mem: float) -> Any:
        zero, one = np.zeros(n), np.ones(n)
        return upstream.CubaLIF(tau_syn * one, tau_mem * one, tau_mem * 1e4 * one, zero, one, zero, tau_syn * 1e4 * one)

    def weight(rows: int, columns: int, shift: float) -> np.ndarray:
        return ((torch.rand(rows, columns) - 0.5) * 2 / columns**0.5 + shift).numpy()

    nodes = {
        "input": upstream.Input(np.array([16])), "fc1": upstream.Affine(weight(24, 16, 0.02), np.zeros(24, np.float32)),
        "lif1.lif": cuba(24, 4e-4, 6.67e-4), "lif1.w_rec": upstream.Linear(weight(24, 24, 0.0)),
        "fc2": upstream.Linear(weight(10, 24, 0.1)), "lif2": cuba(10, 1.8e-4, 3.3e-4), "output": upstream.Output(np.array([10])),
    }  # fmt: skip
    row = ["input", "fc1", "lif1.lif", "fc2", "lif2", "output"]
    loop = ["lif1.lif", "lif1.w_rec", "lif1.lif"]  # first: nirtorch gives out what it ran last
    network = upstream.NIRGraph(nodes, [*itertools.pairwise(loop), *itertools.pairwise(row)])
    for kind, method in (("zero", reset.reset_value), ("subtract", reset.reset_subtract)):
        imported = from_nir(network, ignore_warnings=True, dt=1e-4, reset_method=method)
        title = f"Norse {version('norse')}, recurrent CubaLIF, reset {kind}"
        how = {"reset": "soft"} if kind == "subtract" else {}
        back = None
        if kind == "zero":
            ours = nir.from_nir(network, T=T)
            back = (ours, lambda path: stateful(from_nir(upstream.read(path), ignore_warnings=True, dt=1e-4), x))
        yield Case(f"norse_recurrent_{kind}", title, network, x, stateful(imported, x), how, back)


def sinabs(folder: Path) -> Iterator[Case]:
    """Its time constants count steps: dt = 1, leak exp(−1/tau)."""
    import sinabs.activation as activation
    import sinabs.layers as sl
    from sinabs.nir import to_nir

    x = torch.rand(8, 1, 8, 8)
    flat = torch.rand(8, 16)
    resets = {"zero": activation.MembraneReset, "subtract": activation.MembraneSubtract}
    for reset, reset_fn in resets.items():
        fires = {"spike_fn": activation.SingleSpike, "reset_fn": reset_fn(), "batch_size": 8}
        soft = {"reset": "soft"} if reset == "subtract" else {}
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3, bias=False), sl.IAFSqueeze(**fires), sl.SumPool2d(2), nn.Conv2d(4, 6, 2, bias=False),
            sl.IAFSqueeze(**fires), nn.Flatten(), nn.Linear(24, 10, bias=False), sl.IAFSqueeze(**fires),
        ).eval()  # fmt: skip
        strengthen(net, 1.5, 0.03)
        frames = x.repeat_interleave(T, 0)
        with torch.inference_mode():
            expected = net(frames).reshape(8, T, -1).numpy()
        network = to_nir(net, frames)
        network.infer_types()  # its exporter leaves shapes out, without which nir 1.0.8 does not write the file
        title = f"sinabs {version('sinabs')}, IAF, reset {reset}"
        yield Case(f"sinabs_if_{reset}", title, network, x, expected, soft)

        def lif(n: int, fires: dict[str, Any] = fires) -> Any:
            return sl.LIFSqueeze(
                tau_mem=torch.full((n,), 4.0), spike_threshold=torch.full((n,), 0.3), norm_input=True, **fires
            )

        dense = nn.Sequential(nn.Linear(16, 24), lif(24), nn.Linear(24, 10), lif(10)).eval()
        strengthen(dense, 2, 0.1)
        frames = flat.repeat_interleave(T, 0)
        with torch.inference_mode():
            expected = dense(frames).reshape(8, T, -1).numpy()
        how = {"dt": 1.0, "method": "exponential", **soft}
        title = f"sinabs {version('sinabs')}, LIF, reset {reset}"
        yield Case(f"sinabs_lif_{reset}", title, to_nir(dense, frames), flat, expected, how)


def rockpool(folder: Path) -> Iterator[Case]:
    """Neurons take in x; the R that its exporter writes makes that exp(−dt/tau)·x, which is the less off the slower they are."""
    from rockpool.nn.combinators import Sequential
    from rockpool.nn.modules.torch import LIFNeuronTorch, LIFTorch, LinearTorch
    from rockpool.nn.modules.torch.nir import to_nir

    x = torch.rand(8, 16)
    kinds = {
        "lif": ("LIFNeuronTorch, tau 20 dt", LIFNeuronTorch, {"tau_mem": 20e-3}),
        "lif_slow": ("LIFNeuronTorch, tau 500 dt", LIFNeuronTorch, {"tau_mem": 500e-3}),
        "cuba": ("LIFTorch, tau 20 and 4 dt", LIFTorch, {"tau_mem": 20e-3, "tau_syn": 4e-3}),
    }
    for kind, (title, neurons, extra) in kinds.items():

        def make(n: int, neurons: Any = neurons, extra: dict[str, float] = extra) -> Any:
            constants = {name: torch.full((n,), value) for name, value in extra.items()}
            return neurons(
                n, threshold=torch.ones(n), bias=torch.zeros(n), dt=1e-3, max_spikes_per_dt=torch.tensor(1.0),
                **constants,
            )  # fmt: skip

        net = Sequential(LinearTorch((16, 24)), make(24), LinearTorch((24, 10)), make(10))
        strengthen(net, 0.5, 0.02)
        expected = net(x[:, None].expand(8, T, 16))[0].detach().numpy()
        how = {"dt": 1e-3, "reset": "soft"} | ({"method": "exponential"} if kind == "cuba" else {})
        network = with_lasting_currents(to_nir(net, x[:1]), 1e-3)
        yield Case(f"rockpool_{kind}", f"Rockpool {version('rockpool')}, {title}", network, x, expected, how)


PEERS: dict[str, Callable[[Path], Iterator[Case]]] = {
    "spikingjelly": spikingjelly, "snntorch": snntorch, "norse": norse, "sinabs": sinabs, "rockpool": rockpool,
}  # fmt: skip


def stateful(imported: Any, x: torch.Tensor) -> np.ndarray:
    state, found = None, []
    with torch.inference_mode():
        for _ in range(T):
            y, state = imported(x, state)
            found.append(y)
    return torch.stack(found, 1).numpy()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
