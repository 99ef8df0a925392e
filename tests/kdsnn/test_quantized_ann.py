"""ANNs of few bits: their activations by hand, integers that compute the same, and training, files and refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import kdsnn
from kdsnn import checkpoint
from kdsnn.data import DataSet
from kdsnn.errors import KdsnnError, OptionError
from kdsnn.models import build
from kdsnn.models.quantized_activations import QuantizedReLU, clips_measured, levels_read, quantize_activations
from kdsnn.models.rounding import best_clip
from kdsnn.train.quantized_ann import QuantizedAnn

SMALL = {
    "cnn2": {"channels": (6, 6), "hidden": 16},
    "vgg11": {"widths": (4, 6, 6, 8, 8), "hidden": (16, 16)},
    "resnet14": {"stem": 4, "widths": (4, 6, 8)},
    "resnet19": {"stem": 4, "widths": (4, 6, 8), "hidden": (12,)},
    "wrn16-2": {"stem": 4, "widths": (6, 8, 10)},
}


@pytest.fixture(scope="module")
def data() -> DataSet:
    full = kdsnn.load_data("digits")
    return replace(
        full, x_train=full.x_train[:512], y_train=full.y_train[:512], x_test=full.x_test[:128], y_test=full.y_test[:128]
    )


def ann(name: str, size: int = 16) -> nn.Module:
    torch.manual_seed(0)
    return build(name, spiking=False, input_shape=(1, size, size), classes=5, **SMALL[name])


def test_an_activation_rounds_to_its_levels_by_hand() -> None:
    relu = QuantizedReLU(2).eval()
    relu.clip.data.fill_(1.5)  # levels 0, 0.5, 1, 1.5
    x = torch.tensor([[-3.0, 0.2, 0.3, 0.7, 0.8, 1.4, 9.0]])
    assert relu(x).tolist() == [[0.0, 0.0, 0.5, 0.5, 1.0, 1.5, 1.5]]
    relu.clip.data.neg_()
    assert relu(x).tolist() == [[0.0, 0.0, 0.5, 0.5, 1.0, 1.5, 1.5]]


def test_gradients_go_straight_through_inside_and_to_the_clip_outside() -> None:
    relu = QuantizedReLU(2).train()
    relu.clip.data.fill_(1.5)
    x = torch.tensor([[-3.0, 0.3, 9.0, 9.0]], requires_grad=True)
    relu(x).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [[0.0, 1.0, 0.0, 0.0]]
    # each clipped value gives 1, the one inside its rounding error in steps of α: (0.5 - 0.3) / 1.5; 4 elements, 3 steps
    assert relu.clip.grad is not None
    assert float(relu.clip.grad) == pytest.approx((2 + 0.2 / 1.5) / np.sqrt(4 * 3), rel=1e-5)


def test_the_best_clip_beats_every_other_on_a_fine_grid() -> None:
    rng = np.random.default_rng(0)
    values = torch.from_numpy(rng.standard_normal(2000))

    def error(clip: float) -> float:
        levels = torch.linspace(-clip, clip, 15, dtype=torch.float64)  # 7 steps to each side
        return float((values[:, None] - levels).abs().min(1).values.square().sum())

    found = best_clip(values, 7, lowest=-7)
    top = float(values.abs().max())
    assert error(found) <= min(error(top * n / 64) for n in range(1, 65)) * (1 + 1e-12)
    assert found < top


@pytest.mark.parametrize("name", SMALL)
def test_a_layer_reads_few_levels_and_weighs_few_integers(name: str) -> None:
    images = torch.rand(48, 1, 16, 16)
    trained = QuantizedAnn(ann(name), 4, 2, images)
    trained(images).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained.parameters())
    network = trained.deployed()
    trained.eval()
    torch.testing.assert_close(network(images), trained(images), rtol=0, atol=0)
    levels = levels_read(network, images)
    assert next(iter(levels.values())) == 0 and all(0 < n <= 4 for n in list(levels.values())[1:])
    for part in network.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            k = part.weight.double() / (part.weight.double().abs().max() / 7)
            assert (k - k.round()).abs().max() < 1e-5 and len(part.weight.unique()) <= 15


def test_integers_and_thresholds_compute_the_same_classes() -> None:
    """A chip that adds integers and steps at thresholds per channel sees what the network computes in floats."""
    torch.manual_seed(1)
    plain = nn.Sequential(
        nn.Flatten(), nn.Linear(16, 12, bias=False), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 3, bias=False)
    )
    images = torch.randint(0, 256, (200, 1, 4, 4)) / 255
    plain[2].momentum = 1.0
    plain.train()(images)  # statistics that are true
    plain[2].weight.data.uniform_(0.5, 1.5)
    plain[2].bias.data.uniform_(-0.5, 0.5)
    network = QuantizedAnn(plain, 8, 3, images).deployed().double()
    _, first, norm, relu, last = network
    k = first.weight / (first.weight.abs().max() / 127)
    sums = (images.double().flatten(1) * 255).round() @ k.round().T  # integers
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    unit = first.weight.abs().max() / 127 / 255
    clip, level = relu.clip.abs(), torch.zeros(200, 12, dtype=torch.long)
    for n in range(1, 8):  # level n is reached from (n - 1/2) of a step on
        threshold = ((n - 0.5) * clip / 7 - norm.bias) / scale + norm.running_mean
        level += sums * unit >= threshold
    integers = level.double() @ (last.weight / (last.weight.abs().max() / 127)).round().T
    assert level.max() == 7
    assert torch.equal(integers.argmax(1), network(images.double()).argmax(1))


def test_clips_are_measured_only_inside_the_context() -> None:
    network = quantize_activations(nn.Sequential(nn.ReLU()), 3)
    x = torch.linspace(-1, 5, 100)[:, None]
    network(x)
    assert network[0].clip.item() == 1
    with clips_measured(network):
        network(x)
    assert 4 < network[0].clip.item() <= 5
    before = network[0].clip.item()
    network(10 * x)
    assert network[0].clip.item() == before


def test_pretrain_writes_a_twin_that_evaluate_reads(data: DataSet, tmp_path: Path) -> None:
    out = tmp_path / "qann.safetensors"
    twin = kdsnn.pretrain(
        "cnn2",
        data,
        out=out,
        quantize_activations=3,
        quantize=4,
        epochs=10,
        batch_size=32,
        options={"channels": (16, 16), "hidden": 32},
    )
    assert twin.info.quantized == {"bits": 4, "activation_bits": 3}
    assert "4-bit weights and 3-bit activations" in twin.sentence
    assert twin.accuracy > 0.3  # chance is 0.1: it learned
    again = kdsnn.load(out)
    assert kdsnn.evaluate(again, data).accuracy == twin.accuracy
    for (name, a), (_, b) in zip(again.module.state_dict().items(), twin.module.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    assert max(list(levels_read(again.module, torch.rand(32, 1, 8, 8)).values())[1:]) <= 8
    # finished, it is read and not trained again; other bits are another run
    with pytest.warns(Warning, match="finished already"):
        kdsnn.pretrain(
            "cnn2", data, out=out, quantize_activations=3, quantize=4, epochs=10, batch_size=32, resume=True,
            options={"channels": (16, 16), "hidden": 32},
        )  # fmt: skip
    with pytest.raises(OptionError, match="not of the run"):
        kdsnn.pretrain(
            "cnn2", data, out=out, quantize_activations=2, quantize=4, epochs=10, batch_size=32, resume=True,
            options={"channels": (16, 16), "hidden": 32},
        )  # fmt: skip


def test_fine_tuning_starts_from_a_trained_ann(data: DataSet) -> None:
    floats = kdsnn.pretrain("cnn2", data, epochs=6, options={"channels": (8, 8), "hidden": 16})
    before = [p.clone() for p in floats.module.parameters()]
    twin = kdsnn.pretrain("cnn2", data, quantize_activations=3, start=floats, epochs=1)
    assert dict(twin.info.options) == {"channels": (8, 8), "hidden": 16}
    assert twin.info.training["lr"] == pytest.approx(floats.info.training["lr"] / 10)
    assert twin.accuracy > floats.accuracy - 0.1
    assert all(torch.equal(a, b) for a, b in zip(before, floats.module.parameters(), strict=True))


def test_a_module_of_ones_own_gets_its_activations_back(data: DataSet, tmp_path: Path) -> None:
    def made() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 10))

    out = tmp_path / "own.safetensors"
    twin = kdsnn.pretrain(made(), data, out=out, quantize_activations=3, epochs=1)
    module, info = checkpoint.load(out, made())
    assert info.quantized == {"bits": 8, "activation_bits": 3}
    x = torch.rand(5, 1, 8, 8)
    assert torch.equal(module(x), twin.module(x))


def test_refusals_are_one_line(data: DataSet, tmp_path: Path) -> None:
    def told(**options: object) -> str:
        with pytest.raises(KdsnnError) as caught:
            kdsnn.pretrain(options.pop("model", "cnn2"), data, epochs=1, **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "1 to 8 bits" in told(quantize_activations=9)
    assert "2 to 8 bits" in told(quantize_activations=3, quantize=1)
    assert "give that too" in told(quantize=8)
    assert "torch.nn.ReLU" in told(model=nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), quantize_activations=3)
    between = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.LayerNorm(8), nn.Linear(8, 10))
    assert "4 reads values that are no activation of 3 bits" in told(model=between, quantize_activations=3)
    floats = kdsnn.pretrain("cnn2", data, epochs=1, options={"channels": (4, 4), "hidden": 8})
    twin = kdsnn.pretrain("cnn2", data, quantize_activations=3, start=floats, epochs=1)
    assert "quantized already" in told(quantize_activations=3, start=twin)
    assert "not a vgg11" in told(model="vgg11", quantize_activations=3, start=floats)
    path = tmp_path / "bad.safetensors"
    checkpoint.save(path, twin.module, replace(twin.info, quantized={"bits": 8, "activation_bits": 9}))
    with pytest.raises(KdsnnError, match="activations of 1 to 8"):
        kdsnn.load(path)
