"""Real Lava and the emulator agree on a read-out whose membrane leaks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from exporters.graph import LIF, Input, Linear, Output, chain
from tests.integration.test_lava_equals_emulator import assert_lava_agrees


@pytest.mark.usefixtures("lava_environment")
def test_a_membrane_leaks_by_twelve_bits_behind_late_spikes_and_biases(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    graph = chain(
        [
            ("in", Input((7,), scale=255)),
            ("a", Linear(rng.integers(-40, 61, (9, 7)).astype(np.int32))),
            ("n", LIF(4000, 0.75)),
            ("b", Linear(rng.integers(-40, 61, (8, 9)).astype(np.int32))),
            ("m", LIF(60, 0.5)),
            ("c", Linear(rng.integers(-60, 61, (5, 8)).astype(np.int32), rng.integers(-300, 301, 5).astype(np.int32))),
            ("out", Output("membrane", leak=2917 / 4096)),
        ],
        9,
    )
    assert_lava_agrees(graph, tmp_path / "leaks.net", samples=5)
