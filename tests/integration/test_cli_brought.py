"""The options about a network of one's own, as they are typed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import layer, neuron
from torch import nn

from tests.integration.test_cli import cli, error_line

IMAGES = ["--input-shape", "1,8,8", "--timesteps", 3]
EVENTS = ["--input-shape", "2,6,6", "--timesteps", 4]


class Hidden(nn.Module):
    """An IF neuron in numpy."""

    def __init__(self) -> None:
        super().__init__()
        self.v: object = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = self.v + x.detach().numpy()
        spikes = (values >= 0.5).astype(values.dtype)
        self.v = values * (1 - spikes)
        return torch.from_numpy(spikes)


class Both(nn.Module):
    """Gives scores and maps; its neuron hides what it does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.own = layer.Conv2d(1, 2, 3, padding=1), Hidden()
        self.fc, self.last = layer.Linear(128, 10), neuron.IFNode(v_threshold=0.3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        maps = self.own(self.conv(x))
        return self.last(self.fc(maps.flatten(1))), maps


def both() -> nn.Module:
    return Both().float()


def events() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        layer.Conv2d(2, 3, 3), neuron.LIFNode(v_threshold=0.2), layer.Flatten(), layer.Linear(48, 4), neuron.IFNode()
    ).float()


@pytest.fixture(autouse=True)
def factories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "own_factories", sys.modules[__name__])


def test_output_neurons_and_normalization(tmp_path: Path) -> None:
    own = ["own_factories:both", *IMAGES, "--neuron-as", "Hidden=IF:v_threshold=0.5", "--normalize", "0.3/0.4"]
    found = json.loads(cli("run", *own, "--output", 0, "--on", "torch,onnx", "--samples", 8, "--json").stdout)
    compared = {c["backend"]: (c["hidden"], c["hidden_compared"]) for c in found["comparisons"]}
    assert compared == {"torch": (0, 8 * 3 * 138), "onnx": (0, 8 * 3 * 138)}
    written = ["export", *own, "--output", 0, "--to", "onnx,netx", "--out", tmp_path, "--json"]
    assert json.loads(cli(*written).stdout)["unwritten"] == []
    sidecar = json.loads((tmp_path / "both.net.json").read_text())
    assert sidecar["metadata"]["normalized"] == {"mean": [0.3], "std": [0.4]}
    maps = cli("run", *own, "--output", 1, "--on", "torch", "--samples", 4)
    assert "ends in maps of 2 × 8 × 8, not in one score per class" in maps.stderr
    assert "%" not in maps.stdout
    assert "error: --output: both returns a tuple of 2; name one tensor" in error_line("run", *own)
    assert "--normalize imagenet: it has 3 numbers" in error_line(
        "check", *own, "--normalize", "imagenet", "--target", "loihi1"
    )
    assert "--neuron-as Hid: the network has no module of class Hid" in error_line(
        "run", *own[:5], "--neuron-as", "Hid=IF"
    )


def test_frames_over_time(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    graded = rng.integers(0, 256, (9, 4, 2, 6, 6), dtype=np.uint8)
    labels = np.arange(9) % 4
    np.savez(tmp_path / "frames.npz", x_test=graded, y_test=labels)
    np.savez(tmp_path / "spikes.npz", x_test=graded > 127, y_test=labels)
    for coding in ("frames", "spikes"):
        data = ["--data", tmp_path / f"{coding}.npz"]
        own = ["own_factories:events", *EVENTS, "--input-coding", coding]
        found = json.loads(cli("run", *own, *data, "--on", "torch,onnx,emulator", "--samples", 9, "--json").stdout)
        assert all(c["ok"] for c in found["comparisons"])
        cli("export", *own, "--to", "onnx,nir", "--out", tmp_path / coding)
        cli("run", tmp_path / coding / "events.onnx", *data, "--samples", 9)
        cli("profile", *own, *data, "--out", tmp_path / "report")
        report = json.loads((tmp_path / "report" / "report.json").read_text())
        assert "9 test samples of" in json.dumps(report)
        # its file says what it reads, and no one else need
        cli("check", tmp_path / coding / "events.nir", "--target", "loihi2")
        again = error_line("check", tmp_path / coding / "events.nir", "--input-coding", "pixels", "--target", "loihi2")
        assert (
            "error: --input-coding pixels: events.nir: it says itself" in again
            and f"says itself how its input is coded ({coding})" in again
        )
    assert "of 0 and 1" in error_line("run", *own, "--data", tmp_path / "frames.npz")
