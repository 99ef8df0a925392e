"""Read-outs whose membrane leaks: the module, the graph and every file give the same membranes and scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nir
import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

from exporters import netx, onnx
from exporters import nir as nir_files
from exporters.errors import DeployError
from exporters.from_torch import LoweringError, lower_module
from exporters.graph import LIF, GraphError, Input, Linear, Output, SpikingGraph, chain
from exporters.graph.registers import FRACTION, MEMBRANE_REGISTER, decay_of
from exporters.passes.chain import chain_layers, to_chain
from exporters.passes.quantize import quantize
from hardware.emulator import run
from tests.exporters.faithful import assert_faithful, pixels

T, SHAPE = 5, (2, 4, 4)
NEVER = float("inf")


class Read(nn.Module):
    """Two layers, of which the second feeds membranes that are read as `read` says."""

    def __init__(self, read: Callable[..., torch.Tensor], membrane: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.c, self.n = layer.Conv2d(2, 3, 3), neuron.IFNode(v_threshold=0.3)
        self.f, self.l, self.m = layer.Flatten(), layer.Linear(12, 4), membrane
        self.read = read

    def currents(self, x: torch.Tensor) -> torch.Tensor:
        return self.l(self.f(self.n(self.c(x))))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.read(self, x)


def many(module: nn.Module) -> nn.Module:
    functional.set_step_mode(module, "m")
    return module


def through(s: Read, x: torch.Tensor) -> torch.Tensor:
    return s.m(s.currents(x))


def stepped(s: Read, x: torch.Tensor) -> torch.Tensor:
    for _ in range(T):
        s.m(s.currents(x))
    return s.m.v


def one_step(s: Read, x: torch.Tensor) -> torch.Tensor:
    s.m(s.currents(x))
    return s.m.v


def written_out(s: Read, x: torch.Tensor) -> torch.Tensor:
    v, found = 0.0, []
    for _ in range(T):
        v = 0.9 * v + s.currents(x)
        found.append(v)
    return torch.stack(found).mean(0)


def lif(**how: object) -> nn.Module:
    return neuron.LIFNode(v_threshold=NEVER, **how)


LEAKS: dict[str, tuple[float, str, Callable[[], nn.Module]]] = {
    "the last": (0.5, "last", lambda: many(Read(through, neuron.NonSpikingLIFNode(2.0, "last_mem")))),
    "the mean": (2 / 3, "mean", lambda: many(Read(through, neuron.NonSpikingLIFNode(3.0, "mean-mem")))),
    "every step, a list": (0.5, "mean", lambda: many(Read(through, neuron.NonSpikingLIFNode(2.0)))),
    "every step, stacked": (0.5, "mean", lambda: many(Read(lambda s, x: torch.stack(through(s, x)), neuron.NonSpikingLIFNode(2.0)))),
    "the sum": (0.5, "mean", lambda: many(Read(lambda s, x: sum(through(s, x)), neuron.NonSpikingLIFNode(2.0)))),
    "plain, every step": (1.0, "mean", lambda: many(Read(through, neuron.NonSpikingIFNode()))),
    "plain, the mean": (1.0, "mean", lambda: many(Read(through, neuron.NonSpikingIFNode("mean-mem")))),
    "a LIF at its end": (0.75, "last", lambda: Read(stepped, lif(tau=4.0, decay_input=False))),
    "a LIF that scales": (0.75, "last", lambda: Read(stepped, lif(tau=4.0))),
    "a LIF at every call": (0.75, "mean", lambda: Read(one_step, lif(tau=4.0))),
    "a PLIF": (0.5, "last", lambda: Read(stepped, neuron.ParametricLIFNode(init_tau=2.0, v_threshold=NEVER))),
    "written by hand": (0.9, "mean", lambda: Read(written_out)),
}  # fmt: skip


@pytest.mark.parametrize("name", LEAKS)
def test_a_membrane_is_read_as_the_module_reads_it(name: str) -> None:
    leak, score, make = LEAKS[name]
    found = assert_faithful(make(), SHAPE, T)
    assert found.graph.output.leak == pytest.approx(leak, rel=1e-6) and found.graph.output.score == score
    assert found.graph.output.readout == "membrane"


def test_steps_of_a_membrane_are_those_of_the_module() -> None:
    module = many(Read(lambda s, x: torch.stack(through(s, x)), neuron.NonSpikingLIFNode(3.0))).double().eval()
    graph, x = lower_module(module, SHAPE, T).graph, pixels(3, SHAPE)
    functional.reset_net(module)
    with torch.no_grad():
        theirs = module(x.expand(T, *x.shape)).transpose(0, 1).numpy()
    ours = run(graph, graph.encode(x.numpy()).astype(np.float64), dtype=torch.float64).output
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


REFUSED = {
    "two leaks": lambda s, x: (lambda c: s.m(c)[-1] + c.mean(0))(s.currents(x)),
    "weights of its own": lambda s, x: (s.currents(x) * torch.tensor([1.0, 2, 4, 7, 9]).view(-1, 1, 1)).sum(0),
    "the first membranes": lambda s, x: torch.stack(s.m(s.currents(x)))[:3].mean(0),
    "growing": lambda s, x: sum(1.5 ** (T - t) * c for t, c in enumerate(s.currents(x))) / torch.tensor([1.0, 2, 3, 4]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_weights_of_the_steps_are_refused(name: str) -> None:
    module = many(Read(REFUSED[name], neuron.NonSpikingLIFNode(2.0)))
    with pytest.raises(LoweringError, match=r"^\w+: .*(weighs the steps|is of step|called twice)"):
        lower_module(module, SHAPE, T)


# -- graphs and files ----------------------------------------------------------------------------------


def network(leak: float = 0.8, score: str = "last", seed: int = 0, **scale: float) -> SpikingGraph:
    rng = np.random.default_rng(seed)
    return chain(
        [
            ("input", Input((6,), "spikes")),
            ("a", Linear(rng.normal(size=(8, 6)))),
            ("n", LIF(0.7, 0.5)),
            ("b", Linear(rng.normal(size=(3, 8)), rng.normal(size=3))),
            ("output", Output("membrane", leak=leak, score=score, **scale)),
        ],
        7,
    )  # fmt: skip


def samples(n: int = 6, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2, (n, 7, 6)).astype(np.float32)


def by_hand(graph: SpikingGraph, x: np.ndarray) -> np.ndarray:
    """The membranes of an integer network in Python's integers: (N, T, F), in Lava's registers."""
    (a, n, b), keep = (
        [graph.nodes[k] for k in "anb"],
        lambda v, d: (abs(v) * (4096 - d) // 4096) * (1 if v >= 0 else -1),
    )
    found = np.zeros((len(x), graph.T, len(b.weight)), np.int64)
    for i, sample in enumerate(x.astype(int)):
        hidden, out = [0] * len(a.weight), [0] * len(b.weight)
        for t in range(graph.T):
            fired = []
            for j, row in enumerate(a.weight):
                v = keep(hidden[j], decay_of(n.leak)) + FRACTION * sum(
                    int(w) * s for w, s in zip(row, sample[t], strict=True)
                )
                fired.append(v > (n.threshold - 1) * FRACTION)
                hidden[j] = 0 if fired[-1] else v
            for k, row in enumerate(b.weight):
                x_k = int(b.bias[k]) + sum(int(w) for w, f in zip(row, fired, strict=True) if f)
                v = keep(out[k], decay_of(graph.output.leak)) + FRACTION * x_k
                out[k] = max(-MEMBRANE_REGISTER, min(MEMBRANE_REGISTER, v))
                found[i, t, k] = out[k]
    return found


@pytest.mark.parametrize("score", ["last", "mean"])
@pytest.mark.parametrize("leak", [0.8, 0.99999, 0.0])
def test_integers_are_those_of_lavas_registers(leak: float, score: str) -> None:
    graph, _ = quantize(network(leak, score))
    assert graph.output.leak < 1 and (graph.output.leak * 4096).is_integer()
    x = samples()
    expected = by_hand(graph, x) / FRACTION / graph.output.scale
    found = run(graph, x)
    np.testing.assert_array_equal(found.output, expected)
    np.testing.assert_allclose(found.scores(), expected.mean(1) if score == "mean" else expected[:, -1] / 7, rtol=1e-12)
    assert np.abs(expected).max() > 0 and found.output[:, 1:].var() > 0


@pytest.mark.parametrize("form", ["sequence", "loop", "step"])
@pytest.mark.parametrize("score", ["last", "mean"])
@pytest.mark.parametrize("integer", [False, True])
def test_onnxruntime_gives_the_same(form: str, score: str, integer: bool, tmp_path: Path) -> None:
    graph = network(0.8, score)
    graph = quantize(graph)[0] if integer else graph
    path, x = tmp_path / "net.onnx", samples()
    onnx.write(graph, path, form=form)
    found, expected = onnx.run(path, x), run(graph, x)
    close = {"rtol": 1e-6 if integer else 1e-5, "atol": 1e-6}
    np.testing.assert_allclose(found["membrane"], expected.output, **close)
    np.testing.assert_allclose(found["scores"], expected.scores(), **close)


@pytest.mark.parametrize("score", ["last", "mean"])
@pytest.mark.parametrize("integer", [False, True])
def test_nir_keeps_the_leak(score: str, integer: bool, tmp_path: Path) -> None:
    graph = network(0.8, score)
    graph = quantize(graph)[0] if integer else graph
    back = nir_files.read(nir_files.write(graph, tmp_path / "net.nir"))
    assert back.output == graph.output or vars(back.output) == vars(graph.output)
    assert list(back.nodes) == list(graph.nodes)
    x = samples()
    np.testing.assert_array_equal(run(back, x).output, run(graph, x).output)
    # what other programs see: r·(1 − leak) is the gain, 1 − dt/tau the leak
    li = nir.read(tmp_path / "net.nir").nodes["output"]
    assert isinstance(li, nir.LI)
    np.testing.assert_allclose(1 - 1e-4 / li.tau, graph.output.leak)
    np.testing.assert_allclose(li.r * (1 - graph.output.leak) * graph.output.scale, 1)


def test_netx_keeps_the_leak(tmp_path: Path) -> None:
    graph = to_chain(quantize(network(0.8, "mean"))[0])
    assert chain_layers(graph)[-1].decay == decay_of(0.8)
    back = netx.read(netx.write(graph, tmp_path / "net.net"))
    assert vars(back.output) == vars(graph.output)
    np.testing.assert_array_equal(run(back, samples()).output, run(graph, samples()).output)


def test_the_scale_uses_the_room_that_a_leak_leaves() -> None:
    def scale(leak: float) -> float:
        graph = network(leak)
        wide = chain(
            [(n, Linear(5e3 * v.weight, 5e3 * v.bias) if n == "b" else v) for n, v in graph.nodes.items()], 4000
        )
        return float(quantize(wide)[0].output.scale)

    assert scale(0.5) > 1.5 * scale(1.0)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (Output("membrane", leak=1.5), "output: the leak is 1.5; a read-out keeps from 0 to 1"),
        (Output("membrane", score="best"), "output: the score is 'best'"),  # type: ignore[arg-type]
        (Output("rate", leak=0.5), 'output: a "rate" is the mean of spikes'),
    ],
)
def test_read_outs_that_make_no_sense(node: Output, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        network().with_nodes({"output": node})


def test_fine_tuning_refuses_a_leak() -> None:
    from kdsnn.errors import KdsnnError
    from kdsnn.models.folded import FoldedNetwork

    with pytest.raises(KdsnnError, match="output: fine-tuning knows membranes only that sum"):
        FoldedNetwork(network())


def test_a_current_that_persists_in_a_read_out_of_netx_is_refused(tmp_path: Path) -> None:
    import h5py

    path = netx.write(to_chain(quantize(network())[0]), tmp_path / "net.net")
    with h5py.File(path, "a") as file:
        file["layer/2/neuron/iDecay"][()] = 1000
    (tmp_path / "net.net.json").unlink()
    with pytest.raises(DeployError, match=r"its current persists \(iDecay 1000, vDecay 819\)"):
        netx.read(path, T=7, encoding="spikes")
