"""Margins, pairs, regressors; and every teacher with every student by every method."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import nn

from kdsnn.checkpoint import CheckpointInfo, load, save
from kdsnn.data import DataSet
from kdsnn.errors import KdsnnError
from kdsnn.models import MODELS, build, stage_taps
from kdsnn.train import TrainConfig, distill, features
from tests.kdsnn.stages import stage_features

TINY = {
    "cnn2": {"channels": (4, 4), "hidden": 8},
    "vgg11": {"widths": (8, 8, 12, 16, 16), "hidden": (32, 32)},
    "vgg16": {"widths": (8, 8, 12, 16, 16), "hidden": (32, 32)},
    "cnn-dvs": {"widths": (8, 8, 8, 8, 8), "hidden": (32,)},
    "resnet14": {"stem": 4, "widths": (4, 6, 8)},
    "resnet18": {"stem": 4, "widths": (4, 4, 6, 8)},
    "resnet19": {"stem": 4, "widths": (4, 6, 8), "hidden": (8,)},
    "preresnet20": {"stem": 4, "widths": (4, 6, 8)},
    "wrn16-2": {"stem": 4, "widths": (4, 6, 8)},
    "wrn28-4": {"stem": 4, "widths": (4, 6, 8), "blocks": (1, 1, 1)},
    "pyramidnet18": {"alpha": 12, "blocks": 2},
}
TEACHERS = ("resnet18", "wrn28-4", "pyramidnet18", "preresnet20")
STUDENTS = ("cnn2", "vgg11", "vgg16", "wrn16-2", "resnet14", "resnet18", "resnet19")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def noise() -> DataSet:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (8, 3, 32, 32)).astype(np.uint8), np.arange(8) % 4
    return DataSet("noise", images, labels, images[:4], labels[:4], classes=4)


def tiny(name: str, *, spiking: bool, size: int = 32, seed: int = 0, **more):
    torch.manual_seed(seed)
    return build(name, spiking=spiking, input_shape=(3, size, size), classes=4, **{**TINY[name], **more})


@pytest.mark.parametrize(("mu", "s"), [(0.0, 1.0), (0.5, 1.0), (-0.7, 0.3), (1.2, -0.5), (3.0, 1.0)])
def test_the_margin_is_the_mean_of_the_negative_part(mu, s):
    bn = nn.BatchNorm2d(1)
    nn.init.constant_(bn.bias, mu)
    nn.init.constant_(bn.weight, s)

    def density(x):
        return math.exp(-(((x - mu) / s) ** 2) / 2) / (abs(s) * math.sqrt(2 * math.pi))

    low = min(mu, 0.0) - 12 * abs(s)
    mass = quad(density, low, 0.0, epsabs=1e-14)[0]
    mean = quad(lambda x: x * density(x), low, 0.0, epsabs=1e-14)[0] / mass
    assert mass > 0.001
    assert features.margins(bn).item() == pytest.approx(mean, rel=1e-6)


def test_a_channel_that_is_hardly_ever_negative_has_a_margin_of_three_deviations():
    bn = nn.BatchNorm2d(3)
    with torch.no_grad():
        bn.bias.copy_(torch.tensor([3.1, -2.0, 1.0]))
        bn.weight.copy_(torch.tensor([-1.0, 0.0, 0.0]))  # Phi(-3.1) < 0.001; dead channels
    assert features.margins(bn).tolist() == pytest.approx([-3.0, -2.0, 0.0], abs=1e-9)
    plain = features.margins(nn.BatchNorm2d(2))  # mean 0 and deviation 1, as one without parameters has
    assert torch.equal(features.margins(nn.BatchNorm2d(2, affine=False)), plain)


def test_margin_relu():
    x = torch.tensor([[-2.0, -0.1, 3.0], [-2.0, -0.1, 3.0]]).reshape(1, 2, 1, 3)
    expected = [[-0.5, -0.1, 3.0], [-2.0, -0.1, 3.0]]
    assert features.margin_relu(x, torch.tensor([-0.5, -4.0])).reshape(2, 3).tolist() == [
        pytest.approx(row) for row in expected
    ]


def test_the_last_stages_are_paired_on_one_grid():
    teacher, student = tiny("resnet18", spiking=False), tiny("cnn2", spiking=True)
    found = features.pairs(teacher, student)
    assert [t for t, _ in found] == list(stage_taps(teacher)[-2:]) and [s for _, s in found] == list(
        stage_taps(student)
    )
    a, b = torch.rand(2, 3, 8, 4), torch.rand(2, 3, 2, 8)
    small_a, small_b = features.same_size(a, b)
    assert small_a.shape == small_b.shape == (2, 3, 2, 4)
    torch.testing.assert_close(small_a, a.reshape(2, 3, 2, 4, 4).mean(3))
    assert features.same_size(a, a)[0] is a


def test_regressors():
    taps = features.pairs(tiny("wrn28-4", spiking=False), tiny("wrn16-2", spiking=True))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    a, b = features.regressors(taps, seed=3), features.regressors(taps, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    for regressor, (teacher, student) in zip(a, taps, strict=True):
        assert regressor(torch.rand(2, student.channels, 3, 3)).shape == (2, teacher.channels, 3, 3)
        assert regressor[0].bias is None


def test_the_first_step_is_the_papers_loss(noise):
    """Loss of a first epoch of one step, computed by hand from the features of both networks."""
    teacher, student = tiny("resnet18", spiking=False, seed=1).eval(), tiny("wrn16-2", spiking=True)
    config = TrainConfig(epochs=1, batch_size=8, T=2, feature_weight=1e-2)
    x, y = torch.from_numpy(noise.x_train).float() / 255, torch.from_numpy(noise.y_train)
    with torch.no_grad():
        made = features.regressors(features.pairs(teacher, student), seed=config.seed)
        twin = tiny("wrn16-2", spiking=True)
        with stage_features(teacher) as of_teacher:
            teacher(x)
        with stage_features(twin) as of_student:
            output = twin.forward_static(x, 2)
        expected = nn.functional.cross_entropy(output.mean(0), y).item()
        for i, (regress, rate, feature) in enumerate(zip(made, of_student, of_teacher[-3:], strict=True)):
            bn = teacher.get_submodule(stage_taps(teacher)[-3:][i].bn)
            t, s = feature.clamp_min(-math.inf), regress(rate)
            t = torch.maximum(t, features.margins(bn)[:, None, None])
            if t.shape != s.shape:
                size = [min(a, b) for a, b in zip(t.shape[-2:], s.shape[-2:], strict=True)]
                t, s = (nn.functional.adaptive_avg_pool2d(z, size) for z in (t, s))
            expected += 1e-2 * (((t - s) ** 2) * ~((s <= t) & (t <= 0))).sum().item() / 8 / 2 ** (2 - i)
    trained = distill(student, noise, config, method="feature", teacher=teacher)
    assert trained.history[0].loss == pytest.approx(expected, rel=1e-4)


def test_regressors_learn_and_never_leave(noise, tmp_path, monkeypatch):
    made = []
    original = features.regressors
    monkeypatch.setattr(features, "regressors", lambda *a, **k: made.append(original(*a, **k)) or made[-1])
    teacher, student = tiny("resnet18", spiking=False), tiny("cnn2", spiking=True)
    names = set(student.state_dict())
    trained = distill(
        student, noise, TrainConfig(epochs=1, batch_size=4, T=2), method="feature", teacher=teacher
    ).module
    fresh = original(features.pairs(teacher, student), seed=0)
    assert not torch.equal(made[0][0][0].weight, fresh[0][0].weight)
    assert set(trained.state_dict()) == names
    info = CheckpointInfo("cnn2", True, (3, 32, 32), 4, "noise", {**TINY["cnn2"]}, readout="rate", neuron="if", T=2)
    save(tmp_path / "s.safetensors", trained, info)
    assert set(load(tmp_path / "s.safetensors")[0].state_dict()) == names


def test_feature_needs_networks_with_stages(noise):
    with pytest.raises(KdsnnError, match=r"give taps, .*in the student body.stage1.act1, .*in the teacher 0, 1\."):
        distill(
            tiny("cnn2", spiking=True),
            noise,
            TrainConfig(epochs=1, batch_size=4),
            method="feature",
            teacher=nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4)),
        )


@pytest.mark.parametrize("student", STUDENTS)
def test_every_pair_and_method_learns(noise, student):
    """On one batch that it may overfit, the loss of the last epochs is below that of the first."""
    config = TrainConfig(epochs=6, batch_size=8, T=2, lr=0.01, warmup_epochs=0, optimizer="adamw")
    for teacher, method in itertools.product(TEACHERS, ("response", "feature", "temporal")):
        module = tiny(student, spiking=True, readout="membrane")
        history = distill(module, noise, config, method=method, teacher=tiny(teacher, spiking=False, seed=1)).history
        assert min(r.loss for r in history[1:]) < history[0].loss, (teacher, method)
        assert all(math.isfinite(r.loss) for r in history)


@pytest.mark.parametrize("method", ["response", "feature", "temporal", "selective", "none"])
def test_rate_readout_learns_by_every_method(noise, method):
    config = TrainConfig(epochs=6, batch_size=8, T=2, lr=0.01, warmup_epochs=0, optimizer="adamw")
    module, teacher = tiny("cnn2", spiking=True), tiny("resnet18", spiking=False, seed=1)
    history = distill(module, noise, config, method=method, teacher=teacher).history
    assert min(r.loss for r in history[1:]) < history[0].loss


def test_other_sizes_of_image_and_lif():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 3, 20, 20)).astype(np.uint8)
    data = DataSet("odd", images, np.arange(4), images, np.arange(4), classes=4)
    student = tiny("vgg11", spiking=True, size=20, neuron="lif")
    config = replace(TrainConfig(), epochs=1, batch_size=4, T=2)
    history = distill(student, data, config, method="feature", teacher=tiny("resnet18", spiking=False, size=20)).history
    assert math.isfinite(history[0].loss)


def test_tiny_options_name_every_model():
    assert TINY.keys() == MODELS.keys()
