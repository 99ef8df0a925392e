"""What all hostile input is tried on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kdsnn import checkpoint
from kdsnn.checkpoint import CheckpointInfo

SHAPE, CLASSES = (1, 8, 8), 10


@pytest.fixture(scope="session")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a tiny spiking network for the built-in digits, untrained."""
    return _saved(tmp_path_factory.mktemp("student") / "snn.safetensors", True)


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as an ANN."""
    return _saved(tmp_path_factory.mktemp("teacher") / "ann.safetensors", False)


def _saved(path: Path, spiking: bool) -> Path:
    kinds = {"readout": "rate", "neuron": "if", "T": 2} if spiking else {}
    info = CheckpointInfo(
        "cnn2", spiking, SHAPE, CLASSES, "digits", {"channels": (2, 2), "hidden": 4}, **kinds, version="0"
    )
    torch.manual_seed(0)
    network = info.build()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, 0.2, 0.5)
    checkpoint.save(path, network, info)
    return path
