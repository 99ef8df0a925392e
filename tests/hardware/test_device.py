"""The emulator on every device there is gives the spikes that it gives on the processor, to the last one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hardware.emulator import Recorder, run
from tests.networks import random_frames, random_integer_network, random_recurrent

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")


@pytest.mark.parametrize("seed", range(20))
def test_integer_networks(seed: int) -> None:
    graph = random_integer_network(seed) if seed % 2 else random_recurrent(seed, integer=True)
    frames = random_frames(graph, 4, seed)
    here, there = Recorder(graph), Recorder(graph)
    on_processor = run(graph, frames, observe=here)
    on_gpu = run(graph, frames, observe=there, device="cuda")
    np.testing.assert_array_equal(on_gpu.output, on_processor.output)
    for name, spikes in here.spikes.items():
        np.testing.assert_array_equal(there.spikes[name], spikes, name)
