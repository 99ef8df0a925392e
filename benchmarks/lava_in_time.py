"""Random networks with delays and recurrence on real Lava: every layer's spikes against the emulator's.

`python -m benchmarks lava_in_time [--networks 48] [--at-once 2]`, a few minutes; prints a line for each network and their sum.
Three samples each, one behind the other, so that what is on its way at the end of one would show in the next.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from exporters import netx
from exporters.errors import DeployError
from exporters.passes.chain import chain_layers, to_chain
from hardware import emulator
from hardware.lava import client
from tests.networks import random_dense_time, random_frames

SAMPLES = 3


def main() -> None:
    parser = argparse.ArgumentParser("lava_in_time", description=__doc__)
    parser.add_argument("--networks", type=int, default=48, help="networks, of seeds 0, 1, 2, … that netx can say")
    parser.add_argument("--at-once", type=int, default=2, help="networks on Lava at a time")
    given = parser.parse_args()
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(given.at_once) as pool:
        chosen = []
        for seed in range(2 * given.networks):
            path = Path(folder) / f"{seed}.net"
            try:
                netx.write(to_chain(random_dense_time(seed)), path)
            except DeployError:
                continue
            chosen.append((seed, path))
        for seed, found in pool.map(compared, chosen[: given.networks]):
            total.update(found)
            total["networks"] += 1
            listed = ", ".join(f"{count} {what}" for what, count in found.items())
            print(f"network {seed}: {listed}", flush=True)
    print(", ".join(f"{count:,} {what}" for what, count in total.items()))


def compared(network: tuple[int, Path]) -> tuple[int, dict[str, int]]:
    """How many values of a network's layers and read-out were compared with the emulator's, and how many differ."""
    seed, path = network
    graph = random_dense_time(seed)
    chain = to_chain(graph)
    frames = random_frames(chain, SAMPLES, seed)
    recorder = emulator.Recorder(chain)
    expected = emulator.run(chain, frames, observe=recorder)
    shown = frames if chain.input.over_time else np.repeat(frames[:, None], chain.T, axis=1)
    membrane = chain.output.readout == "membrane"
    found = client.run(
        path, shown.astype(np.int32), T=chain.T, message_bits=netx.message_bits(chain), probes=True, membrane=membrane
    )
    layers = chain_layers(chain)
    pairs = [(found.layers[k], recorder.spikes[step.neuron_name]) for k, step in enumerate(layers) if step.neuron_name in recorder.spikes]
    if membrane:
        assert found.membrane is not None
        pairs.append((found.membrane / 64, expected.output[:, -1]))
    return seed, {
        "layers with delays": sum(s.time is not None and s.time.delays is not None for s in layers),
        "recurrent layers": sum(s.time is not None and s.time.recurrent is not None for s in layers),
        "spikes": int(sum(b.sum() for _, b in pairs[: len(recorder.spikes)])),
        "values compared": sum(a.size for a, _ in pairs),
        "values that differ": int(sum((a != b).sum() for a, b in pairs)),
    }
