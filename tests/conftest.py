"""Fixtures for all tests."""

import os
import signal

# two worker processes on two cores: threads on top would only fight (on tiny tensors 40 times slower)
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hardware.lava import environment
from tests.browser import pytest_terminal_summary

__all__ = ["pytest_terminal_summary"]  # a hook

LONG = (
    "test_lint.py", "test_docs_site.py", "test_whole_networks.py", "test_lava_client.py", "test_docs.py", "test_cli.py",
    "test_onnx_students.py", "test_kills.py", "test_hostile_environment.py", "test_train_features.py", "test_seeds.py",
    "test_random_forwards.py", "test_lava_equals_emulator.py", "test_memory.py", "test_benchmarks.py", "test_train.py",
)  # fmt: skip
"""Files that take longest begin first, so that no worker ends long after the other."""


# a shell that runs tests in the background lets them ignore Ctrl-C, and with them all processes that they start and stop
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


@pytest.fixture(scope="session")
def lava_environment() -> Path:
    """The managed Lava environment; the first test on a fresh machine installs it."""
    return environment.setup(print)


@pytest.fixture(scope="session")
def lava_python(lava_environment: Path) -> Path:
    return environment.python_path()


@pytest.fixture
def in_float64() -> Iterator[None]:
    """Modules are made in float64, with weights that are the same in every run."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(3)
    yield
    torch.set_default_dtype(torch.float32)
