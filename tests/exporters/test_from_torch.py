"""`from_torch` against SpikingJelly itself: the same spikes in every layer, and refusals by name."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

from exporters.from_torch import LoweringError, from_torch
from exporters.from_torch.lowering import Lowering
from exporters.from_torch.symbolic import Symbolic
from exporters.graph import AvgPool2d, GraphError, Linear, MaxPool2d
from hardware.emulator import Recorder, run
from tests.networks import Case, Residual, randomize, spiking_modules


def assert_same_spikes(case: Case) -> None:
    graph = from_torch(case.module, case.shape, case.T)
    x = case.input()
    output, layers = case.run(x)
    recorder = Recorder(graph)
    found = run(graph, graph.encode(x.numpy()).astype(np.float64), observe=recorder, dtype=torch.float64)
    spikes = list(recorder.spikes.values())
    assert len(spikes) == len(layers)
    expected = {name: s.numpy() for name, s in layers.items()}
    for name, got in recorder.spikes.items():
        path = name if name in expected else name.lstrip("abcdefghijklmnopqrstuvwxyz")
        np.testing.assert_array_equal(got, expected[path], err_msg=name)
    if graph.output.readout == "rate":
        np.testing.assert_array_equal(found.output, output.numpy())
    else:
        np.testing.assert_allclose(found.output, output.numpy().cumsum(1), atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(spiking_modules())
def test_every_layer_spikes_as_in_spikingjelly(case: Case) -> None:
    # pixels / 255 are not float32 numbers: compare on the float32 grid that `encode` gives
    case.input = lambda n=3, original=case.input: original(n).float().double()
    assert_same_spikes(case)


class PreActivation(nn.Module):
    """BatchNorm and neurons before the convolution: one sum of currents is read by two BatchNorms."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = layer.Conv2d(2, 4, 3, 1, 1)
        self.bn1, self.sn1, self.conv1 = layer.BatchNorm2d(4), neuron.IFNode(), layer.Conv2d(4, 4, 3, 1, 1)
        self.bn2, self.sn2, self.conv2 = layer.BatchNorm2d(4), neuron.IFNode(), layer.Conv2d(4, 4, 3, 1, 1)
        self.bn3, self.sn3, self.pool = layer.BatchNorm2d(4), neuron.IFNode(), layer.AdaptiveAvgPool2d(1)
        self.fc = layer.Linear(4, 3)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.conv1(self.sn1(self.bn1(x)))
        x += self.conv2(self.sn2(self.bn2(x)))
        x = self.pool(self.sn3(self.bn3(x)))
        return self.fc(torch.flatten(x, 2))


def test_pre_activation_network() -> None:
    net = PreActivation()
    functional.set_step_mode(net, "m")
    randomize(net, 3)
    case = Case(net, (2, 6, 6), 4, True, 1)
    case.input = lambda n=3, original=case.input: original(n).float().double()
    assert_same_spikes(case)
    graph = from_torch(net, (2, 6, 6), 4)
    assert len([n for n in graph.nodes if n.startswith("stem")]) == 3  # one copy per BatchNorm that reads it


def test_forward_with_direct_coding_and_time_mean() -> None:
    class Coded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(
                layer.Conv2d(1, 3, 3), neuron.IFNode(), layer.Flatten(), layer.Linear(48, 2), neuron.IFNode()
            )

        def forward(self, x):
            x_seq = x.unsqueeze(0).repeat(4, 1, 1, 1, 1)
            return self.body(x_seq).mean(0)

    net = Coded()
    functional.set_step_mode(net, "m")
    randomize(net, 5)
    x = torch.from_numpy(np.random.default_rng(0).random((3, 1, 6, 6)).astype(np.float32)).double()
    with torch.no_grad():
        rate = net(x).numpy()
    graph = from_torch(net, (1, 6, 6), 4)
    np.testing.assert_array_equal(run(graph, x.numpy(), dtype=torch.float64).scores(), rate)


def test_batch_norm_before_a_convolution_folds_with_padding_and_without() -> None:
    for padding in (0, 1):
        net = nn.Sequential(
            layer.BatchNorm2d(2),
            layer.Conv2d(2, 3, 3, padding=padding),
            neuron.IFNode(),
            layer.Flatten(),
            layer.Linear(3 * (4 + 2 * padding) ** 2, 2),
        )
        functional.set_step_mode(net, "m")
        randomize(net, 9)
        case = Case(net, (2, 6, 6), 3, True, 2)
        case.input = lambda n=3, original=case.input: original(n).float().double()
        assert_same_spikes(case)
        bias = from_torch(net, (2, 6, 6), 3).synapses["conv2d1"].bias
        assert bias is not None and bias.shape == ((3,) if padding == 0 else (3, 6, 6))


def test_pools_stay_and_dropout_goes() -> None:
    net = nn.Sequential(
        layer.Conv2d(1, 2, 3),
        neuron.IFNode(),
        layer.MaxPool2d(2),
        layer.Dropout(0.5),
        layer.AvgPool2d(2),
        layer.Flatten(),
        layer.Linear(2, 2),
    )
    graph = from_torch(net, (1, 8, 8), 4)
    kinds = [type(n) for n in graph.nodes.values()]
    assert MaxPool2d in kinds and AvgPool2d in kinds and len(kinds) == 8


def test_batch_norm_folds_to_the_formula() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), neuron.IFNode())
    randomize(net, 1)
    linear, bn = net[0], net[1]
    node = next(n for n in from_torch(net, (3,), 2).nodes.values() if isinstance(n, Linear))
    gain = (bn.weight / (bn.running_var + bn.eps).sqrt()).detach().numpy()
    np.testing.assert_allclose(node.weight, linear.weight.detach().numpy() * gain[:, None], rtol=1e-12)
    expected = (linear.bias.detach().numpy() - bn.running_mean.numpy()) * gain + bn.bias.detach().numpy()
    np.testing.assert_allclose(node.bias, expected, rtol=1e-12)


class SharedNeuron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.sn = layer.Linear(3, 3), layer.Linear(3, 3), neuron.IFNode()

    def forward(self, x):
        return self.sn(self.fc2(self.sn(self.fc1(x))))


class DataDependent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = layer.Linear(3, 3)

    def forward(self, x):
        return self.fc(x) if x.sum() > 0 else x


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (nn.Sequential(layer.Linear(3, 3), nn.ReLU()), "1: ReLU cannot be lowered; this is an ANN layer"),
        (SharedNeuron(), "sn: its call 2 reads step 1: this neuron layer is called twice"),
        (DataDependent(), "DataDependent: its forward compares a single number that the network computes"),
        (nn.Sequential(layer.Linear(3, 3), neuron.IFNode(v_reset=0.1)), "v_reset is 0.1"),
        (nn.Sequential(layer.Linear(3, 3), neuron.IFNode(v_threshold=-1.0)), "the threshold is -1.0"),
        (nn.Sequential(layer.Linear(4, 3), neuron.IFNode()), "the weight expects 4 inputs, but 3 arrive"),
        (nn.Sequential(layer.Conv2d(1, 1, 3), neuron.IFNode()), r"a convolution needs \(C, H, W\) input"),
    ],
)  # fmt: skip
def test_refusals_name_the_module(net: nn.Module, message: str) -> None:
    with pytest.raises((LoweringError, GraphError), match=message):
        from_torch(net, (3,), 4)


def test_nan_weights_are_refused() -> None:
    net = nn.Sequential(layer.Linear(3, 3), neuron.IFNode())
    net[0].weight.data[0, 0] = float("nan")
    with pytest.raises(GraphError, match="linear0: the weight contains NaN"):
        from_torch(net, (3,), 4)


def test_identity_shortcut_into_a_membrane_is_a_synapse_of_weight_one() -> None:
    block = Residual(2, 2, 1, False, neuron.IFNode)
    net = nn.Sequential(layer.Conv2d(1, 2, 3), neuron.IFNode(), block, layer.Flatten(), layer.Linear(32, 2))
    graph = from_torch(net, (1, 6, 6), 2)
    assert len(graph.sources("2.sn2") if "2.sn2" in graph.nodes else graph.sources("ifnode2.sn2")) == 2


@pytest.mark.parametrize(("current_decay", "voltage_decay"), [(0.25, 0.5), (0.5, 0.0), (1.0, 0.25), (1.0, 0.0)])
@pytest.mark.parametrize("threshold", [0.75, 1.0])
def test_current_based_neurons_of_spikingjelly(current_decay: float, voltage_decay: float, threshold: float) -> None:
    """`lava_exchange.CubaLIFNode` computes in units of 1/4096: numbers that never need a finer one, so that nothing is truncated."""
    from spikingjelly.activation_based.lava_exchange import CubaLIFNode

    neurons = [CubaLIFNode(current_decay, voltage_decay, threshold) for _ in range(2)]
    net = nn.Sequential(
        layer.Linear(4, 30, bias=False), neurons[0], layer.Linear(30, 8, bias=False), neurons[1]
    ).double()
    torch.manual_seed(1)
    for m in net.modules():
        if isinstance(m, nn.Linear):
            m.weight.data = torch.randint(-3, 6, m.weight.shape).float() / 8
    x = torch.randint(0, 5, (6, 4)).float() / 4
    graph = from_torch(net.eval(), (4,), 4)
    functional.reset_net(net)
    expected = torch.stack([net(x) for _ in range(4)], 1).detach().numpy()
    found = run(graph, x.numpy(), dtype=torch.float64).output
    np.testing.assert_array_equal(found, expected)
    assert 0.02 < expected.mean() < 0.98


def test_current_based_neurons_that_cannot_be_lowered() -> None:
    from spikingjelly.activation_based.lava_exchange import CubaLIFNode

    biased = nn.Sequential(layer.Linear(2, 3), CubaLIFNode(0.5, 0.1))
    with pytest.raises(LoweringError, match=r"cubalifnode1: a bias .* current"):
        from_torch(biased, (2,), 2)
    mixed = nn.Sequential(layer.Linear(2, 3, bias=False), CubaLIFNode(np.array([0.5, 0.6, 0.7]), 0.1))
    with pytest.raises(LoweringError, match="cubalifnode1: its decays differ"):
        from_torch(mixed, (2,), 2)


# -- forms that few networks have --------------------------------------------------------------------


class DenseResidual(nn.Module):
    """Spikes added to the currents of the next layer: no module stands between them."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.sn1 = layer.Linear(5, 4), neuron.IFNode()
        self.fc2, self.sn2 = layer.Linear(4, 4), neuron.IFNode()

    def forward(self, x):
        x = self.sn1(self.fc1(x))
        return self.sn2(self.fc2(x) + x)


FORMS = {
    "string padding": (
        (1, 8, 9),
        lambda: [
            layer.Conv2d(1, 3, (3, 5), padding="same", dilation=(1, 2)), neuron.IFNode(),
            layer.Conv2d(3, 2, 3, padding="valid"), neuron.IFNode(),
        ],
    ),
    "a layer behind a layer": ((4,), lambda: [layer.Linear(4, 5), layer.Linear(5, 3), neuron.IFNode()]),
    "BatchNorm behind BatchNorm": (
        (2, 6, 6),
        lambda: [layer.BatchNorm2d(2), layer.BatchNorm2d(2), layer.Conv2d(2, 3, 3), neuron.IFNode()],
    ),
    "BatchNorm before the flatten": (
        (2, 3, 4),
        lambda: [layer.BatchNorm2d(2), layer.Flatten(), layer.Linear(24, 5), neuron.IFNode()],
    ),
    "a pool that enlarges": (
        (1, 6, 6),
        lambda: [
            layer.Conv2d(1, 3, 3, 2), neuron.IFNode(), layer.AdaptiveAvgPool2d((4, 6)), layer.Flatten(),
            layer.Linear(72, 5), neuron.IFNode(),
        ],
    ),
    "a pool that keeps the height": (
        (1, 6, 6),
        lambda: [
            layer.Conv2d(1, 3, 3), neuron.IFNode(), layer.AdaptiveAvgPool2d((None, 2)), layer.Flatten(),
            layer.Linear(24, 5), neuron.IFNode(),
        ],
    ),
    "nothing to flatten": ((4,), lambda: [layer.Linear(4, 5), neuron.IFNode(), layer.Flatten(), layer.Linear(5, 3), neuron.IFNode()]),
    "a dense residual": ((5,), lambda: [DenseResidual()]),
    "windows that fit in ceil mode": (
        (1, 6, 6),
        lambda: [layer.Conv2d(1, 3, 3), neuron.IFNode(), layer.MaxPool2d(2, ceil_mode=True), layer.Conv2d(3, 8, 1), neuron.IFNode(),
                 layer.AvgPool2d(2, ceil_mode=True), layer.Conv2d(8, 6, 1), neuron.IFNode()],
    ),
    "BatchNorm before a pool that enlarges": (
        (1, 6, 6),
        lambda: [layer.Conv2d(1, 3, 3), neuron.IFNode(), layer.BatchNorm2d(3), layer.AdaptiveAvgPool2d(8), layer.Flatten(),
                 layer.Linear(192, 30), neuron.IFNode()],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_forms_that_few_networks_have_spike_as_in_spikingjelly(name: str) -> None:
    shape, layers = FORMS[name]
    net = nn.Sequential(*layers())
    functional.set_step_mode(net, "m")
    randomize(net, len(name))
    case = Case(net, shape, 5, True, 3)
    case.input = lambda n=3, original=case.input: original(n).float().double()
    assert_same_spikes(case)
    assert 0.02 < case.run(case.input(8))[0].mean() < 0.98  # spikes that all come or all stay away prove little


class Forward(nn.Module):
    """A network whose forward is a function of its layers and its input."""

    def __init__(self, forward) -> None:
        super().__init__()
        self.conv, self.narrow, self.sn = layer.Conv2d(2, 2, 3, 1, 1), layer.Conv2d(2, 2, 3), neuron.IFNode()
        self._forward = forward

    def forward(self, x):
        return self._forward(self, x)


class TwoInputs(Forward):
    def forward(self, x, y):
        return self.conv(x) + self.conv(y)


def behind_neurons(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(layer.Conv2d(2, 2, 3, 2), neuron.IFNode(), *layers)  # (2, 6, 6) → (2, 2, 2)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (nn.Sequential(layer.Conv2d(2, 3, 3), layer.BatchNorm2d(3, track_running_stats=False)), "batchnorm2d1: this norm keeps no running statistics"),
        (nn.Sequential(layer.Conv2d(2, 3, 3), layer.BatchNorm2d(4)), "batchnorm2d1: it normalizes 4 channels, but 3 arrive"),
        (nn.Sequential(layer.Conv2d(2, 2, 3), neuron.IFNode(), layer.MaxPool2d(3, 2, ceil_mode=True)), "maxpool2d2: max-pool with ceil_mode has no counterpart where"),
        (nn.Sequential(layer.Conv2d(2, 2, 3), neuron.IFNode(), layer.MaxPool2d(2, dilation=2)), "maxpool2d2: max-pool with dilation"),
        (nn.Sequential(layer.Conv2d(2, 2, 3), neuron.IFNode(), layer.AvgPool2d(3, 2, ceil_mode=True)), "avgpool2d2: average-pool with ceil_mode has no counterpart where"),
        (behind_neurons(layer.AvgPool2d(2, padding=1, count_include_pad=False)), "avgpool2d2: average-pool with count_include_pad=False"),
        (behind_neurons(layer.AdaptiveAvgPool2d((2, 3))), r"adaptiveavgpool2d2: adaptive pooling of \(2, 2\) to \(2, 3\) has windows of unequal size"),
        (behind_neurons(layer.Flatten(0)), r"Sequential: it returns a tensor of shape \(4, 24\) for 4 steps of 3 samples"),
        (nn.Sequential(layer.Conv2d(2, 2, 3), layer.MaxPool2d(2)), "maxpool2d1: a max-pool over membrane currents"),
        *((behind_neurons(layer.Flatten(), pool), r"a pool needs \(C, H, W\) input, but \(8,\) arrives") for pool in (layer.MaxPool2d(2), layer.AvgPool2d(2))),
        (behind_neurons(layer.Flatten(), layer.AdaptiveAvgPool2d(1)), "Sequential: it returns a tensor of shape"),
        (behind_neurons(layer.AdaptiveAvgPool2d(4), layer.Conv2d(2, 2, 3)), "conv2d3: before it the pixels of its map are moved"),
        (behind_neurons(layer.AdaptiveAvgPool2d(4), layer.MaxPool2d(2)), "maxpool2d3: before it the pixels of its map are moved"),
        (behind_neurons(layer.AdaptiveAvgPool2d(4), layer.Flatten(), layer.Linear(30, 2)), "linear4: the weight expects 30 inputs, but 32 arrive"),
        (TwoInputs(None), r"TwoInputs: .*missing 1 required positional argument: 'y'"),
        (Forward(lambda net, x: (net.conv(x), x)), r"Forward: its forward returns a tuple of 2; choose one tensor of it with output="),
        (Forward(lambda net, x: net.sn(net.conv(x), x)), "sn: it is called with 2 inputs"),
        (Forward(lambda net, x: net.sn(net.conv(x) + net.narrow(x))), r"Forward: it adds shapes \(2, 6, 6\) and \(2, 4, 4\); a downsample is missing"),
    ],
)  # fmt: skip
def test_forms_without_a_counterpart_are_refused_by_name(net: nn.Module, message: str) -> None:
    with pytest.raises((LoweringError, GraphError), match=message) as caught:
        from_torch(net.eval(), (2, 6, 6), 4)
    assert "\n" not in str(caught.value)


def test_the_encoding_is_one_of_three() -> None:
    with pytest.raises(LoweringError, match='the encoding is \'rate\'; it must be "direct", "frames" or "spikes"'):
        from_torch(nn.Sequential(layer.Linear(3, 3)), (3,), 4, encoding="rate")  # type: ignore[arg-type]


def test_a_norm_inside_current_based_neurons_is_refused() -> None:
    from spikingjelly.activation_based.lava_exchange import BatchNorm2d, CubaLIFNode

    net = nn.Sequential(layer.Conv2d(2, 3, 3, bias=False), CubaLIFNode(0.5, 0.1, norm=BatchNorm2d(3)))
    with pytest.raises(LoweringError, match="cubalifnode1: a norm inside the neuron has no counterpart"):
        from_torch(net, (2, 4, 4), 2)


@pytest.mark.parametrize("mode", ["s", "m"])
def test_nothing_symbolic_waits_for_the_garbage_collector(mode: str) -> None:
    """Of large maps it would hold hundreds of megabytes."""
    net = nn.Sequential(
        layer.Conv2d(1, 2, 3), neuron.IFNode(), layer.Flatten(), layer.Linear(72, 3), neuron.IFNode()
    ).eval()
    functional.set_step_mode(net, mode)
    from_torch(net, (1, 8, 8), 4)
    gc.collect()
    gc.disable()
    try:
        from_torch(net, (1, 8, 8), 4)
        try:
            from_torch(nn.Sequential(net, nn.Softmax(-1)).eval(), (1, 8, 8), 4)
            raise AssertionError("a softmax was lowered")
        except LoweringError:  # not by pytest, which would keep the traceback
            pass
        left = [type(x).__name__ for x in gc.get_objects() if isinstance(x, Symbolic | Lowering)]
    finally:
        gc.enable()
    assert not left
