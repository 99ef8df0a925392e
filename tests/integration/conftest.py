"""What several modules of command-line tests start from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kdsnn import checkpoint, models
from kdsnn.checkpoint import CheckpointInfo
from tests.networks import randomize


@pytest.fixture(scope="module", autouse=True)
def wide_tables() -> Iterator[None]:
    """Tables have a line for every row, so that what stands in a cell is found in the output whole."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "1000")
        yield


@pytest.fixture(scope="session")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny spiking network for the built-in digits with random weights, as `tiny.safetensors`."""
    options = {"channels": (3, 4), "hidden": 8}
    module = models.build("cnn2", spiking=True, input_shape=(1, 8, 8), classes=10, **options)
    randomize(module, 0)
    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    metrics = {"test_accuracy": 0.1}
    info = CheckpointInfo("cnn2", True, (1, 8, 8), 10, "digits", options, "rate", "if", 4, metrics=metrics)
    checkpoint.save(path, module.float(), info)
    return path
