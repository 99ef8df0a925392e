"""The proof that a graph is its module: it finds every change, calls only ties ties, and comes before every answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn

import kdsnn
from exporters.from_torch import lower_module
from exporters.graph import Synapse
from kdsnn.deploy.author import run_author
from kdsnn.deploy.faithful import proven
from kdsnn.deploy.proof import Proof, prove
from kdsnn.errors import KdsnnError, UnfaithfulError
from kdsnn.models import build

SHAPE, T = (2, 8, 8), 4


def network(kind: str = "IFNode", step_mode: str = "m", **arguments: object) -> nn.Sequential:
    torch.manual_seed(0)

    def fire() -> nn.Module:
        return getattr(neuron, kind)(surrogate_function=surrogate.ATan(), **arguments)  # type: ignore[no-any-return]

    net = nn.Sequential(
        layer.Conv2d(2, 6, 3, padding=1, bias=False), layer.BatchNorm2d(6), fire(),
        layer.MaxPool2d(2), layer.Conv2d(6, 6, 3), fire(), layer.Flatten(), layer.Linear(24, 5), fire(),
    )  # fmt: skip
    net[0].weight.data *= 8
    net[4].weight.data *= 8
    net[7].weight.data *= 12
    functional.set_step_mode(net, step_mode)
    return net.eval()


def samples(n: int = 3) -> np.ndarray:
    return np.random.default_rng(1).random((n, *SHAPE)).astype(np.float32)


KINDS = [
    ("IFNode", {}), ("IFNode", {"v_reset": None}), ("LIFNode", {}), ("LIFNode", {"decay_input": False, "tau": 3.0}),
    ("ParametricLIFNode", {}),
]  # fmt: skip


@pytest.mark.parametrize("step_mode", ["s", "m"])
@pytest.mark.parametrize(("kind", "arguments"), KINDS)
@pytest.mark.parametrize("double", [True, False])
def test_the_graph_is_the_module(kind: str, arguments: dict, step_mode: str, double: bool) -> None:
    net = network(kind, step_mode, **arguments)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    made = lower_module(net, SHAPE, T)
    ran = run_author(net, made.graph, made.calling, samples(), double=double)
    assert ran.roundoff == (2.0**-53 if double else 2.0**-24)
    assert set(ran.spikes) == set(made.graph.neurons) and all(s.any() for s in ran.spikes.values())
    found = prove(made.graph, samples(), ran.spikes, ran.output, roundoff=ran.roundoff, factor=made.calling.factor)
    assert found.ok and found.first == ""
    assert found.compared == sum(s.size for s in ran.spikes.values()) + ran.output.size
    assert found.ties == 0 or not double
    assert not net.training and all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(getattr(m, "v", 0.0) == 0.0 for m in net.modules())  # at rest


@pytest.mark.parametrize(("kind", "arguments"), KINDS)
def test_float32_first_finds_what_float64_finds(kind: str, arguments: dict) -> None:
    """A layer with any difference is computed in float64 again; one without has none there either, but for ties."""
    net = network(kind, **arguments)
    made = lower_module(net, SHAPE, T)
    ran = run_author(net, made.graph, made.calling, samples())
    wrong = {name: s ^ (np.random.default_rng(len(name)).random(s.shape) < 0.1) for name, s in ran.spikes.items()}

    def found(spikes: dict, *, coarse: bool) -> Proof:
        return prove(made.graph, samples(), spikes, ran.output, roundoff=2.0**-24, coarse=coarse)

    coarse, fine = ((found(wrong, coarse=how), found(ran.spikes, coarse=how)) for how in (True, False))
    assert coarse[0].rows() == fine[0].rows() and all(layer.differences for layer in fine[0].layers[:-1])
    assert coarse[1].ok and fine[1].ok and coarse[1].ties <= fine[1].ties


def test_a_membrane_read_out_and_a_mean_are_compared_too() -> None:
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network()[:-1]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.body(x)
            return out.mean(0)

    for net, steps in ((network()[:-1], T), (Mean().eval(), 1)):
        made = lower_module(net, SHAPE, T)
        ran = run_author(net, made.graph, made.calling, samples(), double=True)
        assert ran.output.shape == (3, steps, 5)
        arguments = {"roundoff": ran.roundoff, "factor": made.calling.factor}
        assert prove(made.graph, samples(), ran.spikes, ran.output, **arguments).ok
        wrong = prove(made.graph, samples(), ran.spikes, ran.output + 1e-6, **arguments)
        assert not wrong.ok and wrong.first.startswith("output, sample 0, step 1, output (0,)")


@pytest.mark.parametrize(("layer_name", "size"), [("conv2d0", 1e-3), ("conv2d4", 0.02), ("linear7", 0.3)])
def test_other_weights_are_found_at_their_layer(layer_name: str, size: float) -> None:
    net = network()
    made = lower_module(net, SHAPE, T)
    synapse = made.graph.synapses[layer_name]
    assert isinstance(synapse, Synapse)
    changed = made.graph.with_nodes({layer_name: replace(synapse, weight=synapse.weight * (1 + size))})
    x = samples(64)
    ran = run_author(net, made.graph, made.calling, x, double=True)
    found = prove(changed, x, ran.spikes, ran.output, roundoff=ran.roundoff)
    differ = [one.name for one in found.layers if one.differences]
    assert differ == [made.graph.targets(layer_name)[0]]  # the layers behind it are fed the module's own spikes
    assert found.first.startswith(f"{differ[0]}, sample ") and "threshold 1" in found.first


def test_another_threshold_leak_or_reset_is_found() -> None:
    net = network("LIFNode")
    made = lower_module(net, SHAPE, T)
    x = samples(16)
    ran = run_author(net, made.graph, made.calling, x, double=True)
    name, node = next(iter(made.graph.neurons.items()))
    for other in ({"threshold": 1.01}, {"leak": 0.49}, {"reset": "soft"}):
        changed = made.graph.with_nodes({name: replace(node, **other)})
        found = prove(changed, x, ran.spikes, ran.output, roundoff=ran.roundoff)
        assert [one.name for one in found.layers if one.differences] == [name], other


def test_a_membrane_at_its_threshold_is_a_tie_and_no_difference() -> None:
    net = nn.Sequential(layer.Flatten(), layer.Linear(128, 3, bias=False), neuron.IFNode()).eval()
    functional.set_step_mode(net, "m")
    nn.init.constant_(net[1].weight, 1 / 128)
    made = lower_module(net, SHAPE, T)
    ones = np.ones((2, *SHAPE), np.float32)
    ran = run_author(net, made.graph, made.calling, ones, double=True)
    silent = {name: np.zeros_like(spikes) for name, spikes in ran.spikes.items()}
    first_step = {name: np.concatenate([spikes[:, :1] * 0, spikes[:, 1:]], 1) for name, spikes in ran.spikes.items()}
    found = prove(made.graph, ones, first_step, first_step[next(iter(first_step))], roundoff=2.0**-24)
    assert (
        found.ties == 2 * 3 and not found.layers[0].differences
    )  # at 1.0 exactly in step 1 they might as well not fire
    assert prove(made.graph, ones, silent, silent[next(iter(silent))], roundoff=2.0**-24).layers[0].differences > 0


def test_it_comes_before_every_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network()
    assert kdsnn.lower(net, input_shape=SHAPE, T=T).proof.ok

    def other(module: nn.Module, shape: tuple[int, ...], steps: int, **metadata: object) -> object:
        made = lower_module(module, shape, steps, **metadata)
        synapse = made.graph.synapses["conv2d4"]
        return replace(made, graph=made.graph.with_nodes({"conv2d4": replace(synapse, weight=-synapse.weight)}))

    monkeypatch.setattr("exporters.from_torch.lower_module", other)
    for verb in (kdsnn.lower, lambda *a, **k: kdsnn.check(*a, "loihi1", **k), lambda *a, **k: kdsnn.run(*a, **k)):
        with pytest.raises(UnfaithfulError, match="sequential: what was lowered is not this network: ifnode5, sample"):
            verb(net, input_shape=SHAPE, T=T)


def test_compiled_networks_and_parts_are_run_as_they_were_written() -> None:
    expected = run_author(net := network(), *_made(net), samples())
    parts = network()
    parts[0] = torch.compile(parts[0])
    parts[4].compile()
    for compiled in (torch.compile(network()), parts):
        ran = run_author(compiled, *_made(compiled), samples())
        assert len(ran.spikes) == len(expected.spikes)
        for ours, theirs in zip(ran.spikes.values(), expected.spikes.values(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(ran.output, expected.output)


def _made(net: nn.Module) -> tuple:
    made = lower_module(net, SHAPE, T)
    return made.graph, made.calling


def test_what_cannot_compute_in_double_is_compared_in_its_own_type() -> None:
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.dtype == torch.float64:
                raise TypeError("single precision only")
            out: torch.Tensor = self.body(x)
            return out

    net = Single().eval()
    made = lower_module(net, SHAPE, T)
    assert run_author(net, made.graph, made.calling, samples(), double=True).roundoff == 2.0**-24
    assert proven("single", net, made.graph, made.calling).ok


def test_what_cannot_compute_in_its_own_type_is_run_in_double() -> None:
    class Double(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network().float()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if type(x) is torch.Tensor and x.dtype == torch.float32:
                raise TypeError("double precision only")
            out: torch.Tensor = self.body(x)
            return out

    net = Double().eval()
    made = lower_module(net, SHAPE, T)
    with pytest.raises(TypeError):
        net(torch.zeros(T, 1, *SHAPE, dtype=torch.float32))
    assert run_author(net, made.graph, made.calling, samples()).roundoff == 2.0**-53


def test_what_runs_in_no_type_is_one_line() -> None:
    class Refuses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network().float()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.device.type == "cpu" and x.requires_grad is False and type(x) is torch.Tensor:
                raise RuntimeError(f"no kernel for {x.dtype}\nDeclaration: …")
            out: torch.Tensor = self.body(x)
            return out

    net = Refuses().eval()
    made = lower_module(net, SHAPE, T)
    for double in (True, False):
        with pytest.raises(
            KdsnnError, match=r"Refuses: the network itself does not run on samples, .*: no kernel for torch.float32$"
        ):
            run_author(net, made.graph, made.calling, samples(), double=double)


@pytest.mark.parametrize("name", ["cnn2", "resnet14"])
def test_our_own_students_are_proven(name: str) -> None:
    small = {"channels": (4, 4), "hidden": 16} if name == "cnn2" else {"stem": 4, "widths": (4, 6, 8)}
    net = build(name, spiking=True, input_shape=(1, 8, 8), classes=10, **small).eval()
    found = kdsnn.lower(net, input_shape=(1, 8, 8), T=4)
    assert found.proof is not None and found.proof.ok and found.proof.ties == 0


# -- recurrent networks --------------------------------------------------------------------------------------


class ByHand(nn.Module):
    """Neurons and recurrence written out, which no hook sees."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.rec, self.out = nn.Linear(9, 7), nn.Linear(7, 7), nn.Linear(7, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        v, spikes, out = torch.zeros(x.shape[1], 7).to(x), torch.zeros(x.shape[1], 7).to(x), []
        for frame in x:
            v = 0.7 * v * (1 - spikes) + self.fc(frame) + self.rec(spikes)
            spikes = (v > 0.2).to(x)
            out.append(self.out(spikes))
        return torch.stack(out)


def contained() -> nn.Module:
    net = nn.Sequential(
        layer.Linear(9, 7),
        layer.LinearRecurrentContainer(neuron.LIFNode(v_threshold=0.2), 7, 7),
        layer.Delay(1),
        layer.Linear(7, 3),
    )
    functional.set_step_mode(net, "m")
    return net


@pytest.mark.parametrize("make", [ByHand, contained])
def test_a_recurrent_graph_is_its_module_and_no_other(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(1)
    net = make().eval()
    for parameter in net.parameters():
        nn.init.normal_(parameter, 0.05, 0.5)
    made = lower_module(net, (9,), 12, encoding="spikes")
    assert made.graph.loops
    x = (np.random.default_rng(1).random((3, 12, 9)) > 0.6).astype(np.float32)
    proof = proven("net", net, made.graph, made.calling, x)
    assert proof.ok and proof.ties == 0 and proof.compared >= 3 * 12 * 3
    (back,) = (n for n in made.graph.loops[0] if n in made.graph.synapses)
    weight = made.graph.synapses[back].weight
    wrong = made.graph.with_nodes({back: replace(made.graph.synapses[back], weight=-weight)})
    with pytest.raises(UnfaithfulError, match="what was lowered is not this network"):
        proven("net", net, wrong, made.calling, x)
