"""Random networks on real Lava, every layer's values against the emulator's, until the first difference.

`python -m benchmarks lava_parity [--kind space|time] [--networks 48] [--at-once 2] [--results FILE]` prints a line for each network
and their sum, and ends with 1 and the seed at the first network with a difference. `space` are feed-forward networks of all kinds
of layers, `time` dense layers with delays and recurrence. Three samples each, one behind the other, so that what is on its way at
the end of one would show in the next. With `--results` it goes on behind the networks that the file counts.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from exporters import netx
from exporters.errors import DeployError
from exporters.files import atomic_path
from exporters.graph import IF, LIF, AvgPool2d, Conv2d, MaxPool2d, SpikingGraph
from exporters.passes.chain import chain_layers, to_chain
from hardware import emulator
from hardware.lava import client
from tests.networks import random_dense_time, random_frames, random_integer_network

SAMPLES = 3
KINDS: dict[str, Callable[[int], SpikingGraph]] = {"space": random_integer_network, "time": random_dense_time}
DIFFER = "values that differ"


def main() -> None:
    parser = argparse.ArgumentParser("lava_parity", description=__doc__)
    parser.add_argument("--kind", choices=KINDS, action="append", help="both, by default")
    parser.add_argument(
        "--networks", type=int, default=48, help="networks of each kind, of seeds 0, 1, 2, … that netx can say"
    )
    parser.add_argument("--at-once", type=int, default=2, help="networks on Lava at a time")
    parser.add_argument("--results", type=Path, help="JSON of what was compared, to go on with")
    given = parser.parse_args()
    results = json.loads(given.results.read_text()) if given.results and given.results.exists() else {}
    for kind in given.kind or KINDS:
        total = Counter(results.get(kind, {"networks": 0, "next seed": 0}))
        with tempfile.TemporaryDirectory() as folder:
            for seed, found in _found(
                kind, total["next seed"], given.networks - total["networks"], given.at_once, Path(folder)
            ):
                total.update({"networks": 1, **found})
                total["next seed"] = seed + 1
                print(f"{kind} {seed}: {_listed(found)}", flush=True)
                if found[DIFFER]:
                    sys.exit(1)
                results[kind] = dict(total)
                if given.results is not None:
                    with atomic_path(given.results) as path:
                        path.write_text(json.dumps(results, indent=1) + "\n")
        print(f"{kind}: {_listed({name: n for name, n in total.items() if name != 'next seed'})}")


def _found(kind: str, first: int, count: int, at_once: int, folder: Path) -> Iterator[tuple[int, dict[str, int]]]:
    """Seed by seed what was compared, of so many networks that can be written."""

    def written() -> Iterator[int]:
        for seed in itertools.count(first):
            try:
                netx.write(to_chain(KINDS[kind](seed)), folder / f"{seed}.net")
            except DeployError:  # such as weights that no exponent of eight bits holds
                continue
            yield seed

    with ThreadPoolExecutor(at_once) as pool:
        seeds = itertools.islice(written(), max(0, count))
        while batch := list(itertools.islice(seeds, 4 * at_once)):
            yield from zip(
                batch, pool.map(lambda seed: compared(kind, seed, folder / f"{seed}.net"), batch), strict=True
            )


def _listed(found: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in found.items())


def compared(kind: str, seed: int, path: Path) -> dict[str, int]:
    """How many values of a network's layers and read-out were compared with the emulator's, and how many differ."""
    graph = KINDS[kind](seed)
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
    pairs = [
        (found.layers[k], recorder.spikes[step.neuron_name])
        for k, step in enumerate(layers)
        if step.neuron_name in recorder.spikes
    ]
    if membrane:
        assert found.membrane is not None  # the register has 6 fractional bits
        pairs.append((found.membrane / 64, expected.output[:, -1]))
    return {
        **_parts(graph),
        "layers with delays": sum(s.time is not None and s.time.delays is not None for s in layers),
        "recurrent layers": sum(s.time is not None and s.time.recurrent is not None for s in layers),
        "spikes": int(sum(b.sum() for _, b in pairs[: len(recorder.spikes)])),
        "values compared": sum(a.size for a, _ in pairs),
        DIFFER: int(sum((a != b).sum() for a, b in pairs)),
    }


def _parts(graph: SpikingGraph) -> dict[str, int]:
    nodes = list(graph.nodes.values())
    return {
        "convolutions": sum(isinstance(n, Conv2d) for n in nodes),
        "max-pools": sum(isinstance(n, MaxPool2d) for n in nodes),
        "average pools": sum(isinstance(n, AvgPool2d) for n in nodes),
        "sums": sum(len(graph.sources(name)) > 1 for name in graph.nodes),
        "IF layers": sum(isinstance(n, IF) and not isinstance(n, LIF) for n in nodes),
        "LIF layers": sum(isinstance(n, LIF) for n in nodes),
    }


if __name__ == "__main__":
    main()
