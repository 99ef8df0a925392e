"""Starting a student from an ANN or from another student."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn

import kdsnn
from kdsnn.data import DataSet
from kdsnn.deploy.trained import TrainedNetwork
from kdsnn.errors import KdsnnError
from kdsnn.models import build
from kdsnn.train import evaluate
from kdsnn.train.initialization import calibration_images, initialize, rate_one, remeasure, scaled_weights

SHAPE, T = (1, 8, 8), 4
SMALL: dict[str, dict[str, Any]] = {
    "cnn2": {"channels": (4, 6), "hidden": 8},
    "resnet14": {"stem": 4, "widths": (4, 6, 8), "blocks": (2, 1, 1)},
    "wrn16-2": {"stem": 4, "widths": (4, 6, 8), "blocks": (1, 1, 1)},
    "pyramidnet18": {"alpha": 8, "blocks": 1},
}


@pytest.fixture(scope="module")
def data() -> DataSet:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (80, *SHAPE)).astype(np.uint8)
    return DataSet("random", x, np.arange(80) % 10, x[:20], np.arange(20) % 10, 10)


def trained(name: str) -> nn.Module:
    """An ANN whose BatchNorms have statistics and scales of their own."""
    torch.manual_seed(0)
    ann = build(name, spiking=False, input_shape=SHAPE, classes=10, **SMALL[name])
    for part in ann.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor in (part.weight, part.bias, part.running_mean, part.running_var):
                assert tensor is not None
                nn.init.uniform_(tensor, 0.3, 2.0)
    return ann.eval()


def student_of(name: str, readout: Any = "rate") -> nn.Module:
    return build(name, spiking=True, input_shape=SHAPE, classes=10, readout=readout, **SMALL[name])


class Own(nn.Module):
    """A network as people write them: functions, biases, a flattening by hand."""

    def __init__(self, act: Any = torch.relu) -> None:
        super().__init__()
        self.conv, self.fc, self.out, self.act = (
            nn.Conv2d(1, 4, 3, padding=1),
            nn.Linear(64, 12),
            nn.Linear(12, 10),
            act,
        )

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(nn.functional.relu(self.conv(x)), 2)
        out: Tensor = self.out(self.act(self.fc(x.view(x.size(0), -1))))
        return out


@pytest.mark.parametrize("name", [*SMALL, "own"])
def test_the_scaled_ann_computes_the_same_but_for_one_factor(name: str, data: DataSet) -> None:
    torch.manual_seed(1)
    ann = (Own() if name == "own" else trained(name)).double().eval()
    images = calibration_images(data).double()
    for rate in (False, True):
        other = copy.deepcopy(ann)
        changed = scaled_weights(ann, images, T=T, neurons=neuron.IFNode(), rate=rate)
        other.load_state_dict({**ann.state_dict(), **changed})
        before, after = ann(images), other(images)
        factor = before.abs().max() / after.abs().max()
        assert torch.allclose(after * factor, before, rtol=1e-9, atol=1e-9)
        assert (abs(factor - 1) > 1e-3) if rate else torch.allclose(after, before)
        assert changed


def test_activations_are_rates_of_neurons_afterwards(data: DataSet) -> None:
    ann, images = trained("cnn2"), calibration_images(data)
    outputs: list[float] = []
    for part in ann.modules():
        if isinstance(part, nn.ReLU):
            part.register_forward_hook(lambda m, x, y: outputs.append(float(rate_one(y, T, neuron.IFNode()))))
    with torch.no_grad():
        ann(images)
        assert max(abs(scale - 1) for scale in outputs) > 0.3
        ann.load_state_dict(
            {**ann.state_dict(), **scaled_weights(ann, images, T=T, neurons=neuron.IFNode(), rate=True)}
        )
        outputs.clear()
        ann(images)
    assert outputs == pytest.approx([1.0] * len(outputs), rel=1e-3)


@pytest.mark.parametrize("node", [neuron.IFNode(), neuron.LIFNode(tau=2.0, decay_input=False, step_mode="m")])
def test_a_rate_of_one_stands_for_what_errs_least(node: Any) -> None:
    x = torch.randn(2000, generator=torch.Generator().manual_seed(0)) * 3
    scale = rate_one(x, T, node)
    leak = 0.5 if isinstance(node, neuron.LIFNode) else 1.0

    def error(one: float) -> float:
        v, spikes = torch.zeros_like(x), torch.zeros_like(x)
        for _ in range(T):
            v = leak * v + x / one
            spikes, v = spikes + (v >= 1), torch.where(v >= 1, 0.0, v)
        return float((x.relu() - one * spikes / T).square().mean())

    assert error(scale) < min(error(scale * 1.3), error(scale / 1.3), error(float(x.max())))
    assert rate_one(-x.abs(), T, node) == 1.0


def test_statistics_are_those_of_the_spikes(data: DataSet) -> None:
    student, images = student_of("cnn2"), calibration_images(data)[:50]
    norms = [part for part in student.modules() if isinstance(part, nn.BatchNorm2d)]
    momenta = [part.momentum for part in norms]
    remeasure(student, images, T)
    seen: list[Tensor] = []
    for part in norms:
        part.register_forward_pre_hook(lambda m, x: seen.append(x[0].transpose(0, 2).flatten(1)))
    student.train()
    functional.reset_net(student)
    student.forward_static(images, T)  # type: ignore[operator]
    for part, values in zip(norms, seen, strict=True):
        assert part.running_mean is not None and part.running_var is not None
        assert torch.allclose(part.running_mean, values.mean(1), atol=1e-5)
        assert torch.allclose(part.running_var, values.var(1), rtol=1e-4)
    assert [part.momentum for part in norms] == momenta


@pytest.fixture(scope="module")
def digits() -> DataSet:
    whole = kdsnn.load_data("digits")
    return replace(whole, x_train=whole.x_train[:800], y_train=whole.y_train[:800])


@pytest.fixture(scope="module")
def teacher(digits: DataSet, tmp_path_factory: pytest.TempPathFactory) -> TrainedNetwork:
    out = tmp_path_factory.mktemp("ann") / "ann.safetensors"
    return kdsnn.pretrain(
        "cnn2", digits, out=out, epochs=4, batch_size=32, options={"channels": (8, 16), "hidden": 32}, precision="fp32"
    )


@pytest.mark.parametrize("readout", ["rate", "membrane"])
@pytest.mark.parametrize("kind", ["if", "lif"])
def test_a_student_starts_far_ahead_of_random_weights(
    readout: Any, kind: Any, digits: DataSet, teacher: TrainedNetwork
) -> None:
    options: dict[str, Any] = {**teacher.info.options, "readout": readout, "neuron": kind}
    student = build("cnn2", spiking=True, input_shape=SHAPE, classes=10, **options)
    before = copy.deepcopy(teacher.module.state_dict())
    initialize(student, teacher.module, digits, T)
    assert evaluate(student, digits, T=T)[-1] > 0.2  # chance is 0.1, the ANN is at 0.76
    after = teacher.module.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_a_student_of_ones_own_takes_the_weights_of_its_ann(data: DataSet) -> None:
    torch.manual_seed(0)
    ann = Own().eval()
    student = nn.Module()
    student.conv, student.fc, student.out = (
        layer.Conv2d(1, 4, 3, padding=1),
        layer.Linear(64, 12),
        layer.Linear(12, 10),
    )
    student.act1, student.act2 = neuron.IFNode(), neuron.IFNode()
    student.forward = lambda x: student.out(  # type: ignore[method-assign]
        student.act2(student.fc(nn.functional.max_pool2d(student.act1(student.conv(x)), 2).flatten(1)))
    )
    initialize(student, ann, data, T)
    expected = scaled_weights(ann, calibration_images(data), T=T, neurons=neuron.IFNode(), rate=False)
    assert torch.equal(student.conv.weight, expected["conv.weight"])  # type: ignore[union-attr]


def test_neurons_that_vote_share_a_class_of_the_ann(data: DataSet) -> None:
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False)).eval()
    errors = []
    for voters in (1, 8):
        student = nn.Sequential(layer.Flatten(), layer.Linear(64, 10 * voters, bias=False), neuron.IFNode())
        if voters > 1:
            student.append(layer.VotingLayer(voters))
        functional.set_step_mode(student, "m")
        initialize(student, ann, data, T)
        currents = copy.deepcopy(ann)
        scaled = scaled_weights(ann, calibration_images(data), T=T, neurons=neuron.IFNode(), rate=True)
        currents.load_state_dict(scaled)
        images = calibration_images(data)
        functional.reset_net(student)
        with torch.no_grad():
            rates, wanted = student(images.expand(T, *images.shape)).mean(0), currents(images)
        errors.append((rates - wanted.clamp(0, 1)).square().mean())
        assert rates.shape == wanted.shape
    assert errors[1] < errors[0] / 2
    assert torch.unique(student[1].weight, dim=0).shape[0] == 80  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("act", "said"),
    [(torch.sigmoid, "sigmoid does not commute"), (nn.Sigmoid(), "Sigmoid does not commute")],
)
def test_what_does_not_commute_with_a_factor_is_refused(act: Any, said: str, data: DataSet) -> None:
    with pytest.raises(KdsnnError, match=said):
        scaled_weights(Own(act), calibration_images(data), T=T, neurons=neuron.IFNode(), rate=False)


def test_a_layer_that_is_used_twice_is_refused(data: DataSet) -> None:
    conv = nn.Conv2d(1, 1, 3, padding=1)
    ann = nn.Sequential(conv, nn.ReLU(), conv, nn.ReLU(), nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(KdsnnError, match="layer 0 is used twice"):
        scaled_weights(ann, calibration_images(data), T=T, neurons=neuron.IFNode(), rate=False)


def test_weights_to_start_from_learn_slower(digits: DataSet, teacher: TrainedNetwork) -> None:
    few = replace(digits, x_train=digits.x_train[:64], y_train=digits.y_train[:64])
    rates = {
        name: kdsnn.distill("cnn2", few, method="none", epochs=1, batch_size=64, **given).info.training["lr"]
        for name, given in {"random": {}, "ann": {"init": teacher}, "user": {"init": teacher, "lr": 0.07}}.items()
    }
    assert rates["ann"] == pytest.approx(rates["random"] / 5) and rates["user"] == 0.07


def test_the_twin_of_a_run_starts_from_the_same_weights(digits: DataSet, teacher: TrainedNetwork) -> None:
    few = replace(digits, x_train=digits.x_train[:64], y_train=digits.y_train[:64])
    still = {"epochs": 1, "batch_size": 64, "lr": 1e-9, "precision": "fp32", "warmup_epochs": 0.0}
    found = kdsnn.distill("cnn2", few, teacher=teacher, init="teacher", twin=True, **still)
    assert found.twin is not None
    expected = build("cnn2", spiking=True, input_shape=SHAPE, classes=10, **teacher.info.options)
    initialize(expected, teacher.module, few, T)
    for name, tensor in expected.named_parameters():
        for one in (found, found.twin):
            assert torch.allclose(one.module.get_parameter(name), tensor, atol=1e-6)
    again = kdsnn.distill("cnn2", few, method="none", init=found, **still)
    for name, tensor in found.module.named_parameters():
        assert torch.allclose(again.module.get_parameter(name), tensor, atol=1e-6)


def test_an_ann_is_trained_on(digits: DataSet, teacher: TrainedNetwork, tmp_path: Path) -> None:
    few = replace(digits, x_train=digits.x_train[:64], y_train=digits.y_train[:64])
    one = {"epochs": 1, "batch_size": 64, "precision": "fp32", "warmup_epochs": 0.0}
    still = kdsnn.pretrain("cnn2", few, init=teacher, out=tmp_path / "on.safetensors", lr=1e-9, **one)
    assert still.info.options == teacher.info.options and still.info.model == "cnn2"
    for name, tensor in teacher.module.named_parameters():
        assert torch.allclose(still.module.get_parameter(name), tensor, atol=1e-6)
    rates = [kdsnn.pretrain("cnn2", few, **one, **more).info.training["lr"] for more in ({}, {"init": teacher})]
    assert rates[1] == pytest.approx(rates[0] / 5)
    module = build("cnn2", spiking=False, input_shape=SHAPE, classes=10, **teacher.info.options)
    own = kdsnn.pretrain(module, few, init=teacher.module, lr=1e-9, **one).module
    assert torch.allclose(own.get_parameter("stem.conv.weight"), teacher.module.get_parameter("stem.conv.weight"))
    spiking = build("cnn2", spiking=True, input_shape=SHAPE, classes=10, **teacher.info.options)
    for more, said in (
        ({"init": spiking}, "init: it has spiking neurons"),
        ({"init": teacher, "options": {"hidden": 16}}, r"init: .*fc1.weight is \(32, 64\) in it and \(16, 64\)"),
        ({"init": tmp_path / "none.safetensors"}, "no such file"),
        ({"init": "teacher"}, "no such file"),
        ({"init": teacher, "start": teacher, "quantize_activations": 3}, "leave init out"),
    ):
        with pytest.raises(KdsnnError, match=said):
            kdsnn.pretrain("cnn2", few, **one, **more)
    with pytest.raises(KdsnnError, match=r"this is a cnn2, not a vgg11"):
        kdsnn.pretrain("vgg11", few, init=teacher.path, **one)


def test_another_network_is_refused_by_name(digits: DataSet, teacher: TrainedNetwork, tmp_path: Path) -> None:
    path = teacher.path
    for more, said in (
        ({"init": path, "options": {"hidden": 16}}, r"init: .*fc1.weight is \(32, 64\) in it and \(16, 64\)"),
        ({"init": "teacher", "teacher": None}, "method=none: it needs teacher"),
        ({"init": tmp_path / "none.safetensors"}, "no such file"),
    ):
        with pytest.raises(KdsnnError, match=said):
            kdsnn.distill("cnn2", digits, method="none", epochs=1, **more)
    with pytest.raises(KdsnnError, match=r"init=.*this is a cnn2, not a vgg11"):
        kdsnn.distill("vgg11", digits, method="none", epochs=1, init=path)
    student = kdsnn.distill("cnn2", digits, method="none", init=path, epochs=1, lr=1e-9)
    with pytest.raises(KdsnnError, match="leave init out"):
        kdsnn.distill("cnn2", digits, method="none", quantize=4, start=student, init=path)
