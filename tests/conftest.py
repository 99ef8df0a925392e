"""Fixtures for all tests."""

import os

# two worker processes on two cores: threads on top would only fight (on tiny tensors 40 times slower)
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest

from hardware.lava import environment
from tests.browser import pytest_terminal_summary

__all__ = ["pytest_terminal_summary"]  # a hook


@pytest.fixture(scope="session")
def lava_environment() -> Path:
    """The managed Lava environment; the first test on a fresh machine installs it."""
    return environment.setup(print)


@pytest.fixture(scope="session")
def lava_python(lava_environment: Path) -> Path:
    return environment.python_path()
