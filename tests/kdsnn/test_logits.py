"""Logits of spiking students: the factor on rates, what counts as a rate, and votes, against plain sums of spikes."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from spikingjelly.activation_based import layer, neuron
from spikingjelly.activation_based.functional import reset_net
from torch import nn
from torch.nn.functional import cross_entropy

import kdsnn
from exporters.from_torch import from_torch
from exporters.graph import Linear
from kdsnn import checkpoint
from kdsnn.checkpoint import CheckpointInfo
from kdsnn.data import DataSet
from kdsnn.errors import KdsnnError
from kdsnn.models import build
from kdsnn.models.kit import VOTERS
from kdsnn.train import TrainConfig, distill, evaluate, pretrain
from kdsnn.train.calling import convention_of
from kdsnn.train.grid import quantized
from kdsnn.train.learner import Learner
from kdsnn.train.logits import Logits, automatic_scale, full_rate
from kdsnn.train.loop import Job, fit
from kdsnn.train.objectives import labels_only
from kdsnn.train.resume import RunFiles

SHAPE, T, CLASSES = (1, 8, 8), 4, 4
SMALL = {"input_shape": SHAPE, "classes": CLASSES, "channels": (4, 8), "hidden": 16}
CONFIG = TrainConfig(epochs=1, batch_size=40, lr=1e-4, warmup_epochs=0, T=T)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data() -> DataSet:
    """Four classes: a bright quadrant in noise."""
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 4
    images = rng.integers(0, 120, (40, *SHAPE))
    for image, label in zip(images, labels, strict=True):
        row, column = 4 * (label // 2), 4 * (label % 2)
        image[0, row : row + 4, column : column + 4] += 100
    return DataSet("quadrants", images.astype(np.uint8), labels, images.astype(np.uint8), labels, classes=CLASSES)


def student(readout: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build("cnn2", spiking=True, readout=readout, **SMALL)


def teacher() -> nn.Module:
    torch.manual_seed(1)
    return build("cnn2", spiking=False, **SMALL).eval()


def foreign(end: nn.Module | None, *, over_time: str = "steps") -> nn.Module:
    """A module of SpikingJelly's layers with `end` behind its classifier."""

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            hidden = [layer.Flatten(step_mode="m"), layer.Linear(64, 12, step_mode="m"), neuron.IFNode(step_mode="m")]
            self.layers = nn.Sequential(
                *hidden, layer.Linear(12, CLASSES, step_mode="m"), *([] if end is None else [end])
            )

        def forward(self, x):
            out = self.layers(x)
            out = torch.stack(out) if isinstance(out, list) else out  # as neurons that do not fire give it
            return {"steps": out, "sum": out.sum(0), "mean": out.mean(0)}[over_time]

    torch.manual_seed(0)
    return Own()


def silent() -> nn.Module:
    """Neurons that give their membrane."""
    made = neuron.NonSpikingIFNode()
    made.step_mode = "m"
    return made


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_a_class_that_always_fires_alone_is_sure(classes):
    rates = torch.eye(classes)[:1] * automatic_scale(classes)
    assert rates.softmax(-1)[0, 0].item() == pytest.approx(1000 / 1001)


@pytest.mark.parametrize(
    ("made", "unit"),
    [
        (lambda: student("rate"), 1),
        (lambda: student("voting"), 1),
        (lambda: student("membrane"), None),
        (lambda: foreign(neuron.IFNode(step_mode="m")), 1),
        (lambda: foreign(neuron.IFNode(step_mode="m"), over_time="mean"), 1),
        (lambda: foreign(neuron.LIFNode(step_mode="m"), over_time="sum"), T),
        (lambda: foreign(silent()), None),
        (lambda: foreign(None), None),
        (lambda: quantized(student("voting").eval(), SHAPE, T, 4), 1),
    ],
    ids=["rate", "voting", "membrane", "own", "own mean", "own sum", "does not fire", "currents", "on a grid"],
)
def test_what_is_a_rate_is_found(made, unit):
    module = made()
    before = copy.deepcopy(module.state_dict())
    found, classes = full_rate(module, convention_of(module, SHAPE, T), SHAPE, T)
    assert classes == CLASSES and (found is None if unit is None else found == pytest.approx(unit))
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert not any(node._forward_hooks for node in module.modules())


def outputs(module: nn.Module, data: DataSet) -> torch.Tensor:
    """What SpikingJelly's modules give in training mode, (T, N, K), on the training images."""
    images = torch.from_numpy(data.x_train).float() / 255
    found = module.train()(images.expand(T, *images.shape))
    reset_net(module)
    return found.detach()


@pytest.mark.parametrize(("readout", "setting"), [("rate", 0.0), ("rate", 5.0), ("voting", 0.0), ("membrane", 0.0)])
def test_the_loss_is_that_of_scaled_rates(data, readout, setting):
    by_hand = copy.deepcopy(student(readout))
    scale = {"membrane": 1.0}.get(readout, setting or 1.0)  # a factor that is learned starts at 1
    logits = scale * outputs(by_hand, data).mean(0)
    expected = cross_entropy(logits, torch.from_numpy(data.y_train)).item()
    config = replace(CONFIG, logit_scale=setting)
    assert distill(student(readout), data, config, method="none").history[0].loss == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("readout", ["rate", "voting"])
def test_accuracy_is_that_of_spike_counts(data, readout):
    """At every t, whatever the factor that training used: of all spikes of a class's neurons so far, the most win."""
    trained = distill(student(readout), data, replace(CONFIG, epochs=3, lr=0.05), method="response", teacher=teacher())
    spikes: list[torch.Tensor] = []
    watched = trained.module.body.head.output.register_forward_hook(lambda module, args, out: spikes.append(out))
    found = evaluate(trained.module, data, T=T)
    watched.remove()
    (fired,) = [one for one in spikes if one.shape[1] == len(data.y_test)]
    votes = fired.reshape(T, len(data.y_test), CLASSES, -1).sum(-1).long()
    assert fired.shape[-1] == CLASSES * (VOTERS if readout == "voting" else 1)
    counted = votes.cumsum(0).numpy()
    right = [(step.argmax(-1) == data.y_test).mean() for step in counted]
    assert found == pytest.approx(right) and trained.history[-1].by_step == pytest.approx(right)
    assert 0 < fired.mean() < 1


@pytest.mark.parametrize("method", ["temporal", "selective"])
def test_a_step_that_can_never_be_sure_is_refused(data, method):
    with pytest.raises(
        KdsnnError, match=rf"logit_scale is 1: method {method} cannot teach 4 classes .* take 0, .* or 8\.01"
    ):
        distill(student("rate"), data, replace(CONFIG, logit_scale=1.0), method=method, teacher=teacher())
    distill(student("membrane"), data, replace(CONFIG, logit_scale=1.0), method=method, teacher=teacher())


def test_the_factor_multiplies_and_stays_out_of_the_gradient():
    rates = torch.rand(T, 3, CLASSES, dtype=torch.float64).float().requires_grad_()
    wanted = torch.randn(T, 3, CLASSES)
    for fixed in (0.0, 6.0):
        logits = Logits(2.0, CLASSES, fixed)
        if not fixed:
            logits.log_scale.data.fill_(math.log(3.0))
        scale = fixed or 3.0
        out = logits(2 * rates)
        torch.testing.assert_close(out, scale * rates)
        found = torch.autograd.grad((out * wanted).sum(), [rates, *logits.parameters()])
        torch.testing.assert_close(found[0], wanted)  # that of x → x
        if not fixed:
            torch.testing.assert_close(found[1], scale * (rates * wanted).sum())  # d exp(p) / dp = exp(p)


def test_a_learned_factor_grows_within_bounds_and_is_no_part_of_the_student(data):
    module = student("rate")
    logits = Logits(1.0, CLASSES)
    names = module.state_dict().keys()
    hot = replace(CONFIG, epochs=15, batch_size=20, lr=0.1)
    learner = Learner(module, T, convention_of(module, data.input_shape, T), logits=logits)
    fit(learner, labels_only(hot), Job(data, hot, {}, None, None, RunFiles(), None, None), Accelerator(cpu=True))
    assert 1.2 < logits.log_scale.exp().item() <= automatic_scale(CLASSES) * 1.0001
    assert module.state_dict().keys() == names
    logits.log_scale.data.fill_(50.0)
    assert logits(torch.ones(1, 1, CLASSES)).max().item() == pytest.approx(automatic_scale(CLASSES))


def test_a_hot_teacher_ruins_no_run(data):
    """α τ² is 32 here, which raw rates do not survive."""
    taught = distill(student("rate", 2), data, replace(CONFIG, epochs=15, batch_size=20, lr=0.1), method="none").module
    assert evaluate(taught, data, T=T)[-1] > 0.9  # what labels alone reach
    hot = replace(CONFIG, epochs=15, batch_size=20, lr=0.1, alpha=0.9, temperature=6.0)
    ann = build("cnn2", spiking=False, **SMALL)
    pretrain(ann, data, replace(hot, lr=0.05))
    distilled = distill(student("rate", 2), data, hot, method="response", teacher=ann).module
    assert evaluate(distilled, data, T=T)[-1] > 0.9


def test_votes_come_back_from_a_checkpoint_and_stay_votes_on_a_grid(data, tmp_path):
    module = distill(student("voting"), data, replace(CONFIG, epochs=2, lr=0.05), method="none").module
    info = CheckpointInfo(
        "cnn2", True, SHAPE, CLASSES, data.name, {"channels": (4, 8), "hidden": 16}, readout="voting", neuron="if", T=T
    )
    checkpoint.save(tmp_path / "voting.safetensors", module, info)
    again, _ = checkpoint.load(tmp_path / "voting.safetensors")
    assert torch.equal(outputs(again, data), outputs(copy.deepcopy(module), data))
    on_grid = quantized(module.eval(), SHAPE, T, 3)
    trained = distill(on_grid, data, replace(CONFIG, epochs=2, lr=0.05), method="none").module
    graph = from_torch(trained.deployed().eval(), SHAPE, T)
    last = graph.nodes[graph.sources(graph.output_name)[0]]
    assert isinstance(last, Linear)
    np.testing.assert_allclose(last.weight, np.kron(np.eye(CLASSES), np.full(VOTERS, 1 / VOTERS)), rtol=1e-6)


def test_the_default_readout_is_that_of_the_recipe(data):
    quick = {"method": "none", "epochs": 1, "batch_size": 16, "options": {"channels": (2, 2), "hidden": 4}, "T": 2}
    assert kdsnn.distill("cnn2", data, **quick).info.readout == "membrane"
    assert kdsnn.distill("cnn2", data, readout="voting", **quick).info.readout == "voting"
    digits = kdsnn.distill("cnn2", "digits", **quick)
    assert digits.info.readout == "rate" and digits.info.training["logit_scale"] == 1
    every_step = kdsnn.distill("cnn2", "digits", teacher=digits_teacher(), **{**quick, "method": "temporal"})
    assert every_step.info.readout == "rate" and every_step.info.training["logit_scale"] == 0


def digits_teacher() -> nn.Module:
    return build("cnn2", spiking=False, input_shape=(1, 8, 8), classes=10, channels=(2, 2), hidden=4).eval()
