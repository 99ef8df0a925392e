"""Training on a grid: what it computes, by hand; and that a chip is given exactly what it saw, on every architecture."""

from __future__ import annotations

import copy
import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from spikingjelly.activation_based.functional import reset_net
from torch import nn

import kdsnn
from exporters.errors import DeployError
from exporters.from_torch import from_torch
from exporters.graph import IF, LIF, AvgPool2d, Conv2d, Flatten, Input, Linear, MaxPool2d, Output, SpikingGraph, chain
from exporters.passes.quantize import quantize
from hardware import emulator
from kdsnn import checkpoint
from kdsnn.checkpoint import CheckpointInfo
from kdsnn.data import DataSet, load
from kdsnn.errors import KdsnnError
from kdsnn.models import Network, build
from kdsnn.models.folded import FoldedNetwork, _module_of, described
from kdsnn.models.layer_list import graph_of, layer_list
from kdsnn.models.register_neurons import RegisterNode
from kdsnn.models.rounding import Rounded
from kdsnn.train import DivergedError, RunFiles, TrainConfig, distill
from kdsnn.train.grid import QuantizedNetwork, deviations, quantized

SMALL = {
    "cnn2": {"channels": (6, 6), "hidden": 16},
    "vgg11": {"widths": (4, 6, 6, 8, 8), "hidden": (16, 16)},
    "vgg16": {"widths": (4, 6, 6, 8, 8), "hidden": (16, 16)},
    "resnet14": {"stem": 4, "widths": (4, 6, 8)},
    "resnet18": {"stem": 4, "widths": (4, 6, 8, 8)},
    "resnet19": {"stem": 4, "widths": (4, 6, 8), "hidden": (12,)},
    "wrn16-2": {"stem": 4, "widths": (6, 8, 10)},
}
KINDS = ({}, {"readout": "membrane", "neuron": "lif"})


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def size_of(name: str) -> int:
    return 16 if name.startswith("vgg") else 8


def student(name: str, **changes) -> Network:
    """As training leaves one: BatchNorms with statistics and affine parameters of their own, and firing neurons."""
    torch.manual_seed(0)
    shape = (1, size_of(name), size_of(name))
    network = build(name, spiking=True, input_shape=shape, classes=5, **{**SMALL.get(name, {}), **changes})
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.6)
    for _ in range(4):
        network.forward_static(torch.rand(16, *shape), 4)
        reset_net(network)
    return network.eval()


def pixels(name: str, count: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 1, size_of(name), size_of(name)), generator=generator) / 255


def on_grid(network: Network, name: str, bits: int) -> QuantizedNetwork:
    return quantized(network, (1, size_of(name), size_of(name)), 4, bits)


def spikes_of(network: Network, x: torch.Tensor, names: list[str]) -> tuple[torch.Tensor, dict[str, np.ndarray]]:
    """The output over 4 steps, and the spikes (N, T, …) of the named neurons."""
    spikes: dict[str, np.ndarray] = {}

    def keeper(name):
        return lambda module, args, out: spikes.__setitem__(name, out.movedim(0, 1).numpy())

    for name in names:
        network.get_submodule(name).register_forward_hook(keeper(name))
    with torch.no_grad():
        return network.forward_static(x, 4), spikes


# -- by hand -----------------------------------------------------------------------------------------


def test_rounding_and_its_straight_through_gradient():
    x = torch.tensor([-1.0, -0.3, 0.1, 0.26, 0.74], requires_grad=True)
    rounded = Rounded.apply(x, 4.0, 3)
    assert rounded.tolist() == [-0.75, -0.25, 0.0, 0.25, 0.75]  # -4 is clipped to -3; rint(-1.2, 0.4, 1.04, 2.96)
    (rounded.square() * torch.arange(1.0, 6.0)).sum().backward()
    # d(a x̂²)/dx = 2 a x̂, as if x̂ were x
    assert x.grad.tolist() == [2 * 1 * -0.75, 2 * 2 * -0.25, 0.0, 2 * 4 * 0.25, 2 * 5 * 0.75]


def by_hand() -> QuantizedNetwork:
    """One pixel, two neurons, an average over 2 × 1 of them, and one output; 3 bits, so q = 3."""
    nodes = [
        ("input", Input((1, 2, 1))),
        ("stem", Conv2d(np.array([0.75, 0.3]).reshape(2, 1, 1, 1), np.array([0.1, -0.2]))),
        ("body.act", IF(1.0)),
        ("body.pool", AvgPool2d((2, 1), (2, 1), divisor=2)),
        ("body.flat", Flatten()),
        ("body.fc", Linear(np.array([[1.5, -1.0]]))),
        ("output", Output("membrane")),
    ]
    return QuantizedNetwork(chain(nodes, T=2), (), bits=3)


def test_scales_thresholds_and_biases_by_hand():
    network = by_hand()
    found = network.integers()
    # stem, (c/3) (3, 1) nearest to (0.75, 0.3): c = 3 (3·0.75 + 0.3)/10 = 0.765, and clipped at the largest, 0.75.
    # It reads units of 1/255, so S = 3 · 255 / 0.75 and V = 1020; float32 may put S just above or below
    scale = 1020
    assert found.weights["stem"].flatten().tolist() == [3, 1]
    assert found.biases["stem"].tolist() == [0.1 * scale, -0.2 * scale]
    assert found.thresholds["body.act"] in (scale, scale + 1)
    # fc reads halves, and 1.5 : -1 is 3 : -2 exactly, so nothing is clipped: S = 3 / 0.75
    assert found.weights["body.fc"].tolist() == [[3, -2]] and found.biases["body.fc"] is None
    deployed = network.deployed()
    torch.testing.assert_close(deployed.get_submodule("body.fc").weight, torch.tensor([[1.5, -1.0]]))
    level = deployed.get_submodule("body.act").v_threshold
    stem = deployed.get_submodule("stem")
    unit = stem.weight[0].item() / 3 / 255  # what one integer is worth
    assert level / unit == pytest.approx(found.thresholds["body.act"] - 0.5, rel=1e-5)
    assert (stem.bias / unit).tolist() == pytest.approx(found.biases["stem"].tolist(), rel=1e-5)


def test_the_gradient_of_a_network_is_that_of_its_grid_by_hand():
    """The last layer's gradient: what it reads times the gradient behind it, whatever was rounded."""
    network = by_hand()
    x = torch.tensor([1.0, 0.6]).reshape(1, 1, 2, 1)
    out = network.forward_static(x, T=2)
    reset_net(network)
    spikes = network.deployed()
    read = []
    spikes.get_submodule("body.fc").register_forward_pre_hook(lambda module, args: read.append(args[0]))
    torch.testing.assert_close(spikes.forward_static(x, T=2), out)
    (3 * out).sum().backward()
    assert read[0].sum() > 0
    torch.testing.assert_close(network.get_submodule("body.fc").weight.grad, 3 * read[0].sum((0, 1))[None])
    assert network.get_submodule("stem").weight.grad.abs().sum() > 0  # through the neurons' surrogate


# -- exact folding, exact deployment -----------------------------------------------------------------


@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("name", SMALL)
def test_folding_changes_nothing(name, kinds):
    network = student(name, **kinds).double()
    x = pixels(name).double()
    graph = from_torch(network, tuple(x.shape[1:]), 4)
    folded = FoldedNetwork(graph, network.taps).double().eval()
    for synapse, node in graph.synapses.items():  # in double precision from the start
        folded.get_submodule(synapse).weight.data = torch.from_numpy(node.weight)
        if node.bias is not None:
            folded.get_submodule(synapse).bias.data = torch.from_numpy(node.bias)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.no_grad():
        expected, found = network.forward_static(x, 4), folded.forward_static(x, 4)
        reset_net(folded)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        assert torch.equal(folded(x.expand(4, *x.shape)), found)


def every_kind() -> SpikingGraph:
    """All nodes that a folded network knows, a sum among them."""
    rng = np.random.default_rng(0)
    nodes = {
        "image": Input((2, 8, 8)),
        "a": Conv2d(rng.normal(size=(4, 1, 3, 3)), rng.normal(size=4), (2, 1), (1, 0), (1, 2), groups=2),
        "b": Conv2d(rng.normal(size=(4, 2, 3, 5)), None, (2, 1), (1, 0)),
        "a.sum": LIF(0.7, 1 - 1 / 3),
        "average": AvgPool2d((2, 2), (2, 2), divisor=4),
        "maximum": MaxPool2d((2, 1), (1, 1), (1, 0)),
        "flat": Flatten(),
        "fc": Linear(rng.normal(size=(5, 24)), rng.normal(size=5)),
        "out": IF(0.3, "soft", start=0.125),
        "output": Output("rate"),
    }
    edges = [
        ("image", "a"),
        ("image", "b"),
        ("a", "a.sum"),
        ("b", "a.sum"),
        ("a.sum", "average"),
        ("average", "maximum"),
    ]
    edges += itertools.pairwise(["maximum", "flat", "fc", "out", "output"])
    return SpikingGraph(nodes, tuple(edges), 4)


def test_a_graph_of_every_kind_of_node_runs_as_the_emulator_does_and_comes_back_from_json():
    graph = every_kind()
    folded = FoldedNetwork(graph).double().eval()
    for name, synapse in graph.synapses.items():
        folded.get_submodule(name).weight.data = torch.from_numpy(synapse.weight)
        if synapse.bias is not None:
            folded.get_submodule(name).bias.data = torch.from_numpy(synapse.bias)
    x = torch.rand(7, 2, 8, 8, dtype=torch.float64)
    recorder = emulator.Recorder(graph)
    emulator.run(graph, x.numpy(), observe=recorder)
    _, spikes = spikes_of(folded, x, list(graph.neurons))
    for name, expected in recorder.spikes.items():
        assert 0 < expected.mean() < 1
        np.testing.assert_array_equal(spikes[name], expected)
    layers = json.loads(json.dumps(folded.description()))
    again = described(checkpoint._tuples(layers), (), (2, 8, 8), 5)
    again.double().load_state_dict(folded.state_dict())
    reset_net(folded)
    with torch.no_grad():
        assert torch.equal(again.forward_static(x, 4), folded.forward_static(x, 4))
    assert again.description() == folded.description() and copy.deepcopy(again).description() == folded.description()


def test_leaky_neurons_of_earlier_files_have_a_time_constant():
    layers = [dict(one) for one in layer_list(every_kind())]
    leaky = next(one for one in layers if one["kind"] == "lif")
    assert leaky["arguments"] == {"v_threshold": 0.7, "leak": 1 - 1 / 3}
    leaky["arguments"] = {"v_threshold": 0.7, "tau": 2.0}
    graph = graph_of(layers, (2, 8, 8), 4)
    assert graph.neurons["a.sum"].leak == 0.5 and graph.output.readout == "rate"
    assert described(layers, (), (2, 8, 8), 5).get_submodule("a.sum").tau == 2.0
    leaky["arguments"] = {"v_threshold": 0.7}
    with pytest.raises(TypeError, match="a leak, or a time constant"):
        graph_of(layers, (2, 8, 8), 4)


def test_a_bias_may_be_a_whole_map():
    weight, bias = np.ones((2, 1, 3, 3)), np.arange(32.0).reshape(2, 4, 4)
    made = _module_of("conv", Conv2d(weight, bias, padding=(1, 1)))
    x = torch.rand(3, 5, 1, 4, 4)
    expected = nn.functional.conv2d(x.flatten(0, 1), torch.ones(2, 1, 3, 3), padding=1) + torch.from_numpy(bias).float()
    torch.testing.assert_close(made(x).flatten(0, 1), expected)
    assert made.bias.requires_grad


def test_what_a_folded_network_cannot_be():
    graph = every_kind()
    with pytest.raises(KdsnnError, match=r"out: .*current persists"):
        FoldedNetwork(graph.with_nodes({"out": LIF(1.0, 0.5, current_leak=0.5)}))
    layers = [dict(one) for one in layer_list(graph)]
    layers[-2]["arguments"] = {"v_threshold": 0.3, "reset": "sometimes"}
    with pytest.raises(ValueError, match="'sometimes' is unknown; there are hard and soft"):
        graph_of(layers, (2, 8, 8), 4)
    nodes = [("image", Input((4,))), ("a.b", Linear(np.ones((4, 4)))), ("a", IF(1.0)), ("output", Output())]
    with pytest.raises(ValueError, match="layer a does not follow from those before it"):
        FoldedNetwork(chain(nodes, 1))


@pytest.mark.parametrize(("name", "kinds"), [(name, KINDS[i % 2]) for i, name in enumerate(SMALL)])
def test_the_chip_is_given_what_training_saw(name, kinds, tmp_path):
    """The checkpoint, lowered and quantized as every other: the same integers, and the same spikes in every layer."""
    network = student(name, **kinds)
    x = pixels(name)
    for bits in (2, 4):
        trained = on_grid(network, name, bits)
        with torch.no_grad():  # away from the start, as an optimizer step would
            for parameter in trained.parameters():
                parameter.mul_(1 + 0.1 * torch.rand_like(parameter))
            seen = trained.eval().forward_static(x, 4)
        description = {"bits": bits, "layers": trained.deployed().description()}
        info = CheckpointInfo(
            model=name, options=SMALL[name], spiking=True, T=4, input_shape=tuple(x.shape[1:]), classes=5, data="random",
            readout=kinds.get("readout", "rate"), neuron=kinds.get("neuron", "if"), quantized=description,
        )  # fmt: skip
        checkpoint.save(tmp_path / "q.safetensors", trained.deployed(), info)
        loaded, read = checkpoint.load(tmp_path / "q.safetensors")
        assert read == info
        graph, _ = quantize(from_torch(loaded, read.input_shape, 4), bits=bits)
        integers = trained.integers()
        assert graph.synapses.keys() == integers.weights.keys()
        for layer, synapse in graph.synapses.items():
            np.testing.assert_array_equal(synapse.weight, integers.weights[layer].numpy())
            bias = integers.biases[layer]
            ours = np.zeros(len(synapse.weight)) if bias is None else bias.numpy()
            np.testing.assert_array_equal(np.zeros_like(ours) if synapse.bias is None else synapse.bias, ours)
        assert {layer: node.threshold for layer, node in graph.neurons.items()} == integers.thresholds
        output, spikes = spikes_of(loaded, x, list(graph.neurons))
        torch.testing.assert_close(output, seen)
        recorder = emulator.Recorder(graph)
        emulator.run(graph, graph.encode(x.numpy()), observe=recorder)
        assert 0.02 < np.mean([s.mean() for s in spikes.values()]) < 0.7
        for layer, expected in recorder.spikes.items():
            np.testing.assert_array_equal(spikes[layer], expected)


def spikes_on(network: nn.Module, x: torch.Tensor, T: int, names: list[str]) -> dict[str, np.ndarray]:
    kept: dict[str, np.ndarray] = {}

    def keeper(name):
        return lambda module, args, out: kept.__setitem__(name, out.movedim(0, 1).numpy())

    hooks = [network.get_submodule(name).register_forward_hook(keeper(name)) for name in names]
    with torch.no_grad():
        network.forward_static(x, T)
    reset_net(network)
    for hook in hooks:
        hook.remove()
    return kept


def randomly(rng: np.random.Generator, leak: float, reset: str, start: float) -> SpikingGraph:
    """Random weights, every neuron with this leak and reset, thresholds and starts of their own."""

    def neurons(threshold: float) -> IF | LIF:
        if leak == 1:
            return IF(threshold, reset, start=start * threshold)
        return LIF(threshold, leak, reset, start=start * threshold)

    nodes = {
        "image": Input((2, 6, 6)),
        "a": Conv2d(rng.normal(size=(5, 2, 3, 3)), rng.normal(size=5) / 4, padding=(1, 1)),
        "fires": neurons(0.9),
        "b": Conv2d(rng.normal(size=(5, 5, 3, 3)) / 2, rng.normal(size=5) / 9, padding=(1, 1)),
        "same": Conv2d(rng.normal(size=(5, 1, 1, 1)), None, groups=5),
        "again": neurons(1.3),
        "average": AvgPool2d((2, 2), (2, 2), divisor=4),
        "flat": Flatten(),
        "fc": Linear(rng.normal(size=(7, 45)) / 2, rng.normal(size=7) / 9),
        "out": neurons(0.4),
        "output": Output("rate"),
    }
    edges = [*itertools.pairwise(["image", "a", "fires", "b", "again", "average", "flat", "fc", "out", "output"])]
    return SpikingGraph(nodes, (*edges, ("fires", "same"), ("same", "again")), 12)


@pytest.mark.parametrize("leak", [1.0, 0.5, 0.9])
@pytest.mark.parametrize(("reset", "start"), [("soft", 0.0), ("soft", 0.45), ("hard", -0.3)])
def test_reset_by_subtraction_and_starts_train_with_the_registers_of_the_chip(leak, reset, start):
    """The grid's forward pass gives the spikes of the deployed network, whatever its bits and how long it runs."""
    rng, T = np.random.default_rng(int(100 * leak)), 12
    x = rng.integers(0, 256, (5, 2, 6, 6)) / 255
    for bits in (2, 3, 6):
        trained = QuantizedNetwork(randomly(rng, leak, reset, start), (), bits).eval()
        with torch.no_grad():
            for parameter in trained.parameters():
                parameter.mul_(1 + 0.1 * torch.rand_like(parameter))
        deployed = trained.deployed().eval()
        assert deviations(trained, deployed, (2, 6, 6), T) == ()
        layers = json.loads(json.dumps(deployed.description()))
        again = described(checkpoint._tuples(layers), (), (2, 6, 6), 7)
        again.load_state_dict(deployed.state_dict())
        graph, _ = quantize(from_torch(again.eval(), (2, 6, 6), T), bits=bits)
        recorder = emulator.Recorder(graph)
        emulator.run(graph, graph.encode(x.astype(np.float32)), observe=recorder)
        images, names = torch.from_numpy(x).float(), list(graph.neurons)
        seen, floats = (spikes_on(network, images, T, names) for network in (trained, again))
        for name, expected in recorder.spikes.items():
            assert 0.02 < expected.mean() < 0.98
            np.testing.assert_array_equal(seen[name], expected)
            if leak == 1:  # a network of floats has no level apart from what it subtracts: whole membranes need none
                np.testing.assert_array_equal(floats[name], expected)


def test_registers_by_hand():
    """S = 4, V = 6, leak 1/2: fires above 5, takes 6 away, and cuts off toward zero in 64ths."""
    node = RegisterNode(0.5, "soft")
    node.hold(4.0, 6, 3)
    x = torch.tensor([1.1, 0.0, 0.9, 2.0, -3.0]).reshape(5, 1)  # 4, 0, 4, 8, -12 units
    # 1.5 + 4 = 5.5 fires: -0.5; -0.25; -0.125 + 4 = 3.875; 1.9375 + 8 fires: 3.9375; 1.96875 → 126/64 - 12
    assert node(x).flatten().tolist() == [1, 0, 0, 1, 0]
    assert node.v.item() == 126 / 64 - 12
    node.reset()
    assert node(x[:1]).item() == 1 and node.v.item() == -0.5


@pytest.mark.parametrize(("leak", "reset"), [(1.0, "soft"), (0.5, "soft"), (1.0, "hard")])
def test_gradients_through_registers_are_those_of_spikingjelly(leak, reset):
    """On a fine grid both are the same network."""
    torch.manual_seed(0)
    scale = 2.0**14
    ours = RegisterNode(leak, reset)
    ours.hold(scale, 2**14, 0)
    theirs = _module_of("theirs", IF(1.0, reset) if leak == 1 else LIF(1.0, leak, reset))
    weights, found = torch.randn(6, 50), []
    for node in (ours, theirs):
        x = torch.randn(6, 50, generator=torch.Generator().manual_seed(1)).add(0.3).requires_grad_()
        spikes = node(x)
        (spikes * weights).sum().backward()
        found.append((spikes, x.grad))
    assert 0.1 < found[0][0].mean() < 0.6 and torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], rtol=2e-3, atol=2e-3)


def test_a_register_that_sets_the_scale_is_named():
    """A stem of tiny weights: in 8 bits its threshold would pass 17 bits, so the exporter takes a smaller scale."""
    network = student("cnn2")
    with torch.no_grad():
        network.get_submodule("stem.bn").weight.mul_(0.05)
    trained = on_grid(network, "cnn2", 8)
    assert trained.integers().thresholds["body.stage1.act1"] > 2**17
    assert set(deviations(trained, trained.deployed().eval(), (1, 8, 8), 4)) == {"stem.conv", "body.stage1.act1"}
    fine = on_grid(network, "cnn2", 4)
    assert deviations(fine, fine.deployed().eval(), (1, 8, 8), 4) == ()


def test_what_cannot_be_put_on_a_grid_is_refused():
    for bits in (1, 9):
        with pytest.raises(DeployError, match=f"{bits}-bit weights are not possible; choose 2 to 8 bits"):
            on_grid(student("cnn2"), "cnn2", bits)
    # an identity shortcut brings the stem's currents, from pixels of 1/255, into the membranes of spikes
    with pytest.raises(KdsnnError, match="stem_2: in 4 bits all its weights round to zero"):
        on_grid(student("wrn16-2", widths=(4, 6, 8)), "wrn16-2", 4)
    dead = student("cnn2")
    nn.init.zeros_(dead.get_submodule("body.head.classifier").weight)
    with pytest.raises(KdsnnError, match="classifier: all its weights are zero"):
        on_grid(dead, "cnn2", 4)


# -- training ----------------------------------------------------------------------------------------

CONFIG = TrainConfig(epochs=2, batch_size=256, lr=0.01, T=2, warmup_epochs=0, ema=0.9)
OPTIONS = {"input_shape": (1, 8, 8), "classes": 10, "channels": (2, 4), "hidden": 8}


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture(scope="module")
def networks(digits):
    """A teacher, and a student trained for a few epochs."""
    torch.manual_seed(0)
    teacher, fresh = (build("cnn2", spiking=spiking, **OPTIONS) for spiking in (False, True))
    distill(fresh, digits, replace(CONFIG, epochs=3, lr=0.1), method="none")
    return teacher, fresh


@pytest.mark.parametrize("method", ["feature", "none"])
def test_training_goes_on_bit_identical_where_it_was_killed(digits, networks, tmp_path, method):
    teacher, trained = networks

    def run(**rest):
        module = quantized(copy.deepcopy(trained), (1, 8, 8), CONFIG.T, 3)
        found = distill(module, digits, CONFIG, method=method, teacher=teacher, **rest)
        return {name: tensor.clone() for name, tensor in found.module.deployed().state_dict().items()}, found.history

    def killed(done, total):
        if done == 7:
            raise KeyboardInterrupt

    state = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        run(files=RunFiles(state, every_seconds=0), on_step=killed)
    resumed, history = run(files=RunFiles(state, every_seconds=0, resume=True))
    whole, expected = run()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert [record.loss for record in history] == [record.loss for record in expected]
    start = quantized(copy.deepcopy(trained), (1, 8, 8), CONFIG.T, 3).deployed().state_dict()
    assert any(not torch.equal(start[name], whole[name]) for name in whole)


def test_a_student_that_resets_by_subtraction_is_distilled_quantized_and_deployed(tmp_path):
    """By the verbs: the reset is in the checkpoint, and the accuracy written there is that of the integers."""
    rng = np.random.default_rng(0)
    dots, labels = rng.integers(0, 256, (48, 1, 8, 8)).astype(np.uint8), np.arange(48) % 4
    data = DataSet("dots", dots, labels, dots[:20], labels[:20], classes=4)
    small = {"channels": (4, 4), "hidden": 16}
    common = {"data": data, "method": "none", "epochs": 2, "batch_size": 12}
    start = kdsnn.distill("cnn2", **common, T=3, options=small, reset="soft", neuron="lif")
    assert start.info.reset == "soft" and start.module.get_submodule("body.stage1.act1").v_reset is None
    found = kdsnn.distill("cnn2", **common, quantize=3, start=start)
    checkpoint.save(tmp_path / "q.safetensors", found.module, found.info)
    read, info = checkpoint.load(tmp_path / "q.safetensors")
    assert info.reset == "soft" and info == found.info
    kinds = {one["arguments"].get("reset", "hard") for one in info.quantized["layers"] if one["kind"] == "lif"}
    assert kinds == {"soft"} and read.get_submodule("body.stage1.act1").v_reset is None
    ran = kdsnn.run(tmp_path / "q.safetensors", data, on=["emulator"])
    assert ran.to_dict()["runs"][0]["accuracy"] == pytest.approx(info.metrics["test_accuracy"])


def test_weights_that_diverge_are_noticed(digits, networks):
    module = quantized(networks[1], (1, 8, 8), CONFIG.T, 3)

    def poison(done, total):
        with torch.no_grad():
            module.get_submodule("stem.conv").weight.fill_(float("nan"))

    with pytest.raises(DivergedError, match="diverged in epoch 1"):
        distill(module, digits, replace(CONFIG, ema=0.0), method="none", on_step=poison)
    assert all(torch.isfinite(tensor).all() for tensor in module.deployed().state_dict().values())
