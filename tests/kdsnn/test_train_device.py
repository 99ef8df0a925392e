"""Training on a GPU is training on the processor, but for the order of sums."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import kdsnn
from kdsnn.data import DataSet

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


@pytest.fixture(scope="module")
def dots() -> DataSet:
    rng = np.random.default_rng(0)
    labels = np.arange(64) % 4
    images = rng.integers(0, 100, (64, 1, 8, 8)).astype(np.uint8) + (40 * labels[:, None, None, None]).astype(np.uint8)
    return DataSet("dots", images, labels, images[:32], labels[:32], classes=4)


@pytest.mark.parametrize("neuron", ["if", "lif"])
@pytest.mark.parametrize("readout", ["rate", "membrane"])
def test_first_steps_are_the_processors(
    neuron: str, readout: str, dots: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = []
    for on_processor in (True, False):
        monkeypatch.setenv("ACCELERATE_USE_CPU", str(on_processor).lower())
        made = kdsnn.distill(
            "cnn2", dots, method="none", neuron=neuron, readout=readout, T=3, epochs=1, batch_size=16, lr=0.01,
            precision="fp32", options={"channels": (8, 8), "hidden": 16}, augmentation={"crop": 0},
        )  # fmt: skip
        assert next(made.module.parameters()).device.type == "cpu", "what comes back is ready to be saved"
        losses.append(made.history[-1].loss)
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
