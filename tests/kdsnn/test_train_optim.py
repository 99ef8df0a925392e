"""Schedules, decay, clipping and the running average, each by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from kdsnn.data import DataSet
from kdsnn.errors import KdsnnError
from kdsnn.train import TrainConfig, evaluate, pretrain
from kdsnn.train.optim import Average, optimizer_of, schedule


def test_step_schedule():
    config = TrainConfig(epochs=20, warmup_epochs=2, schedule="step", milestones=(0.5, 0.75), lr_decay=0.2)
    rates = [schedule(epoch, config) for epoch in (0, 1, 2, 9.99, 10, 14.99, 15, 20)]
    assert rates == pytest.approx([0, 0.5, 1, 1, 0.2, 0.2, 0.04, 0.04])


@pytest.mark.parametrize("milestones", [(0.75, 0.5), (0.0, 0.5), (0.5, 1.0), (0.5, 0.5)])
def test_milestones_out_of_order_are_refused(milestones):
    with pytest.raises(KdsnnError, match=r"^milestones is"):
        TrainConfig(milestones=milestones)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("schedule", "linear"),
        ("lr_decay", 0.0),
        ("clip_norm", -1.0),
        ("ema", 1.0),
        ("precision", "fp16"),
        ("feature_weight", -1.0),
        ("teacher_weight", float("nan")),
        ("self_weight", float("inf")),
        ("selective_teacher_weight", -1.0),
        ("selective_self_weight", float("inf")),
    ],
)
def test_values_out_of_range_are_refused(name, value):
    with pytest.raises(KdsnnError, match=f"^{name} is"):
        TrainConfig(**{name: value})


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_fused_steps_are_those_of_a_loop(kind):
    """Weights with channels innermost; gradients and moments, as a file brings them, not: torch's kernels would not notice."""

    def trained(fused):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 4)).to(memory_format=torch.channels_last)
        found = optimizer_of(module, TrainConfig(optimizer=kind, lr=0.1, weight_decay=0.01))
        assert all(group["fused"] for group in found.param_groups)
        for group in found.param_groups:
            group["fused"] = fused
        for step in range(4):
            for parameter in module.parameters():
                parameter.grad = torch.randn(parameter.shape)
            if step == 2:
                before = found.state_dict()
                kept = {i: {k: v.contiguous() for k, v in one.items()} for i, one in before["state"].items()}
                found.load_state_dict({**before, "state": kept})
            found.step()
        return [parameter.detach().clone() for parameter in module.parameters()]

    for one, other in zip(trained(True), trained(False), strict=True):
        torch.testing.assert_close(one, other)


def test_weights_with_holes_in_memory_are_not_fused():
    module = nn.Linear(4, 4, bias=False)
    module.weight = nn.Parameter(torch.randn(4, 8)[:, ::2])
    found = optimizer_of(module, TrainConfig(momentum=0.0, lr=0.5, weight_decay=0.0))
    before = module.weight.detach().clone()
    module.weight.grad = torch.ones(4, 4)
    found.step()
    torch.testing.assert_close(module.weight.detach(), before - 0.5)


def test_average_by_hand():
    module = nn.BatchNorm1d(1)
    average = Average(module, decay=0.3)
    weight = 1.0
    for step, value in enumerate((2.0, -1.0, 5.0), start=1):
        with torch.no_grad():
            module.weight.fill_(value)
            module.running_mean.fill_(10 * value)
            module.num_batches_tracked.add_(1)
        average.update(module, step)
        decay = min(0.3, (1 + step) / (10 + step))
        weight = decay * weight + (1 - decay) * value
    assert average.tensors["weight"].item() == pytest.approx(weight, rel=1e-6)
    assert average.tensors["num_batches_tracked"].item() == 3
    with average.applied(module):
        assert module.weight.item() == pytest.approx(weight, rel=1e-6)
    assert module.weight.item() == 5.0


@pytest.fixture(scope="module")
def data() -> DataSet:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (32, 1, 4, 4)).astype(np.uint8), np.arange(32) % 4
    return DataSet("dots", images, labels, images[:16], labels[:16], classes=4)


def line():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 4))


PLAIN = TrainConfig(epochs=2, batch_size=16, lr=0.1, momentum=0.0, weight_decay=0.0, warmup_epochs=0)


def by_hand(data, config):
    """The same training without kdsnn: SGD, cosine, clipping, average."""
    module, step = line(), 0
    average = {k: v.clone() for k, v in module.state_dict().items()}
    for epoch in range(config.epochs):
        order = torch.randperm(32, generator=torch.Generator().manual_seed(config.seed * 1_000_003 + epoch))
        for half in (order[:16], order[16:]):
            x, y = torch.from_numpy(data.x_train)[half].float() / 255, torch.from_numpy(data.y_train)[half]
            loss = nn.functional.cross_entropy(module(x), y)
            grads = torch.autograd.grad(loss, list(module.parameters()))
            norm = torch.sqrt(sum(g.square().sum() for g in grads))
            scale = min(1.0, config.clip_norm / norm.item()) if config.clip_norm else 1.0
            lr = config.lr * 0.5 * (1 + np.cos(np.pi * (step + 0.5) / 4))
            with torch.no_grad():
                for p, g in zip(module.parameters(), grads, strict=True):
                    p -= lr * scale * g
            step += 1
            decay = min(config.ema, (1 + step) / (10 + step))
            average = {k: decay * average[k] + (1 - decay) * v for k, v in module.state_dict().items()}
    return average if config.ema else module.state_dict()


@pytest.mark.parametrize("changes", [{}, {"clip_norm": 0.05}, {"ema": 0.2}, {"clip_norm": 0.05, "ema": 0.2}])
def test_training_is_what_it_says(data, changes):
    config = replace(PLAIN, **changes)
    trained = pretrain(line(), data, config)
    for name, expected in by_hand(data, config).items():
        torch.testing.assert_close(trained.module.state_dict()[name], expected, msg=name)
    assert trained.history[-1].accuracy == evaluate(trained.module, data)[0]
    assert trained.history[-1].lr == pytest.approx(0.1 * 0.5 * (1 + np.cos(np.pi * 3.5 / 4)))
