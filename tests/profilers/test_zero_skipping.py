from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from exporters.errors import DeployError
from profilers.counting.zero_skipping import active_macs


def test_a_convolution_equals_a_loop_over_every_product() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2)
    x = torch.relu(torch.randn(2, 4, 5, 6))
    output = conv(x)
    expected = [0, 0]
    for n, o, y, column in itertools.product(range(2), range(6), *map(range, output.shape[2:])):
        for c, a, b in itertools.product(range(2), range(3), range(2)):
            i, j = 2 * y - 1 + a, column - 2 + 2 * b
            if 0 <= i < 5 and 0 <= j < 6 and x[n, (o // 3) * 2 + c, i, j] != 0:
                expected[n] += 1
    found = active_macs(conv, x)
    assert found.active.tolist() == expected
    assert found.dense == output[0].numel() * 2 * 6
    assert found.other == 0


@pytest.mark.parametrize("seed", range(12))
def test_networks_equal_unfolded_windows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    kernel, stride, padding = (int(rng.integers(1, 4)) for _ in range(3))
    dilation = int(rng.integers(1, 3))
    groups = int(rng.choice([1, 2, 4]))
    first = nn.Conv2d(3, 8, 3, padding="same")
    second = nn.Conv2d(8, 12, kernel, stride, padding - 1, dilation, groups, bias=False)
    body = nn.Sequential(first, nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), second, nn.ReLU(), nn.Flatten())
    x = torch.rand(5, 3, 14, 12) * (torch.rand(5, 3, 14, 12) < 0.5)
    size = body.eval()(x).shape[1]
    net = nn.Sequential(body, nn.Linear(size, 7))
    found = active_macs(net.train(), x, batch_size=2)
    assert net.training

    net.eval()
    hidden = body[:4](x)
    windows = F.unfold((hidden != 0).float(), kernel, dilation, padding - 1, stride).sum((1, 2))
    expected = {
        "0.0": 8 * F.unfold((x != 0).float(), 3, padding=1).sum((1, 2)),
        "0.4": 12 // groups * windows,
        "1": 7 * (body(x) != 0).sum(1),
    }
    assert list(found.layers) == list(expected)
    for name, counts in expected.items():
        assert found.layers[name].tolist() == counts.tolist()
    assert found.active.tolist() == sum(expected.values()).tolist()
    shapes = found.shapes
    assert (shapes["0.0"].biases, shapes["0.4"].biases, shapes["1"].biases) == (8, 0, 7)
    assert shapes["0.4"].kernel_words == 12 * kernel * kernel
    assert found.dense == sum(shape.macs for shape in shapes.values())
    assert found.mean_by_layer["1"] == pytest.approx(float(expected["1"].float().mean()))


def test_padding_that_is_not_zero_counts() -> None:
    conv = nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular")
    assert active_macs(conv, torch.tensor([[[0.0, 0.0, 5.0, 0.0]]])).active.tolist() == [3]
    zeros = nn.Conv1d(1, 1, 3, padding=1)
    assert active_macs(zeros, torch.tensor([[[5.0, 0.0, 0.0, 0.0]]])).active.tolist() == [2]


def test_products_outside_layers_are_never_skipped() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project = nn.Linear(4, 4, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.project(x)
            return y @ y.transpose(1, 2)

    found = active_macs(Attention(), torch.zeros(2, 3, 4))
    assert (found.dense, found.other) == (3 * 4 * 4 + 3 * 3 * 4, 36)
    assert found.active.tolist() == [36, 36]


def test_what_cannot_be_counted_is_explained() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.fc(x))

    with pytest.raises(DeployError, match="layer fc runs 2 times"):
        active_macs(Twice(), torch.ones(2, 3))
    with pytest.raises(DeployError, match="ReLU has no convolution"):
        active_macs(nn.ReLU(), torch.ones(2, 3))
    with pytest.raises(DeployError, match="no samples"):
        active_macs(nn.Linear(3, 3), torch.ones(0, 3))

    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x.reshape(1, -1, 3))

    with pytest.raises(DeployError, match="layer fc does not keep the samples"):
        active_macs(Joined(), torch.ones(2, 3))
