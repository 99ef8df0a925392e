"""Random networks on real Lava, every layer's values against the emulator's, until the first difference.

`python -m benchmarks lava_parity [--kind space|time] [--networks 48] [--at-once 2] [--results FILE]` prints a line for each network
and their sum, and ends with 1 and the seed at the first network with a difference. `space` are feed-forward networks of all kinds
of layers, `time` dense layers with delays and recurrence. Three samples each, one behind the other, so that what is on its way at
the end of one would show in the next; the read-out also against the network's as it was drawn, before it became a chain of layers. Lava
is started once for many networks. With `--results` it goes on behind the networks that the file counts.
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
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any

import numpy as np

from exporters import netx
from exporters.errors import DeployError
from exporters.files import atomic_path
from exporters.graph import LIF, AvgPool2d, Conv2d, Linear, MaxPool2d, Neuron, SpikingGraph, Synapse
from exporters.passes.chain import chain_layers, to_chain
from hardware import emulator
from hardware.lava import client
from tests.networks import random_dense_time, random_frames, random_integer_network

SAMPLES = 3
KINDS: dict[str, Callable[[int], SpikingGraph]] = {"space": random_integer_network, "time": random_dense_time}
DIFFER = "values that differ"
RENEWED = 100
"""Networks on one Lava: each leaves a megabyte with it."""


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

    with ExitStack() as ends:
        free: SimpleQueue[Lava] = SimpleQueue()
        for _ in range(at_once):
            free.put(ends.enter_context(Lava()))

        def on_a_free_one(seed: int) -> dict[str, int]:
            lava = free.get()
            try:
                return compared(kind, seed, folder / f"{seed}.net", lava)
            finally:
                free.put(lava)

        pool = ends.enter_context(ThreadPoolExecutor(at_once))
        seeds = itertools.islice(written(), max(0, count))
        while batch := list(itertools.islice(seeds, 8 * at_once)):
            yield from zip(batch, pool.map(on_a_free_one, batch), strict=True)


class Lava:
    """Networks run one after another on one Lava, since its start takes longer than any of them."""

    def __init__(self) -> None:
        self._session: client.LavaSession | None = None
        self._networks = 0

    def __enter__(self) -> Lava:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.__exit__(kind, error, trace)

    def run(self, path: Path, frames: np.ndarray, **job: Any) -> client.LavaRun:
        """Frames (N, T, *shape) are run through a netx file; the job is a `LavaSession`'s."""
        if self._session is not None and self._networks % RENEWED:
            self._session.load(path, **job)
        else:
            self.__exit__(None, None, None)
            self._session = client.LavaSession(path, **job).__enter__()
        self._networks += 1
        try:
            return self._session.run(frames)
        except BaseException:
            self._session = None  # it is over
            raise


def _listed(found: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in found.items() if count or what == DIFFER)


def compared(kind: str, seed: int, path: Path, lava: Lava) -> dict[str, int]:
    """How many values of a network's layers and read-out were compared with the emulator's, and how many differ."""
    graph = KINDS[kind](seed)
    chain = to_chain(graph)
    frames = random_frames(chain, SAMPLES, seed)
    recorder = emulator.Recorder(chain)
    expected = emulator.run(chain, frames, observe=recorder)
    shown = frames if chain.input.over_time else np.repeat(frames[:, None], chain.T, axis=1)
    membrane = chain.output.readout == "membrane"
    found = lava.run(
        path, shown.astype(np.int32), T=chain.T, message_bits=netx.message_bits(chain), probes=True, membrane=membrane
    )
    layers = chain_layers(chain)
    pairs = [
        (found.layers[k], recorder.spikes[step.neuron_name])
        for k, step in enumerate(layers)
        if step.neuron_name in recorder.spikes
    ]
    drawn = emulator.run(graph, frames).output
    if membrane:
        assert found.membrane is not None  # the register has 6 fractional bits
        pairs += [(found.membrane / 64, expected.output[:, -1]), (found.membrane / 64, drawn[:, -1])]
    else:
        pairs.append((found.spikes, drawn.reshape(found.spikes.shape)))
    return {
        **_parts(graph),
        "layers with delays": sum(s.time is not None and s.time.delays is not None for s in layers),
        "recurrent layers": sum(s.time is not None and s.time.recurrent is not None for s in layers),
        "spikes": int(sum(b.sum() for _, b in pairs[: len(recorder.spikes)])),
        "values compared": sum(a.size for a, _ in pairs),
        DIFFER: int(sum((a != b).sum() for a, b in pairs)),
    }


def _parts(graph: SpikingGraph) -> dict[str, int]:
    """How many of each kind of part a network has, as it was drawn."""
    nodes = list(graph.nodes.values())
    convolutions = [n for n in nodes if isinstance(n, Conv2d)]
    neurons = [n for n in nodes if isinstance(n, Neuron)]
    leaky = [n for n in neurons if isinstance(n, LIF)]
    sums = [name for name in graph.nodes if len(graph.sources(name)) > 1]
    coding = {"direct": "pixels", "spikes": "spikes", "frames": "graded frames"}[graph.input.encoding]
    return {
        **{f"inputs of {name}": int(name == coding) for name in ("pixels", "graded frames", "spikes")},
        "convolutions": len(convolutions),
        "convolutions in groups": sum(n.groups > 1 for n in convolutions),
        "convolutions with dilation": sum(n.dilation != (1, 1) for n in convolutions),
        "convolutions with strides": sum(n.stride != (1, 1) for n in convolutions),
        "dense layers": sum(isinstance(n, Linear) for n in nodes),
        "biases": sum(isinstance(n, Synapse) and n.bias is not None for n in nodes),
        "max-pools": sum(isinstance(n, MaxPool2d) for n in nodes),
        "average pools": sum(isinstance(n, AvgPool2d) for n in nodes),
        "sums of currents": sum(graph.in_signal(name) == "current" for name in sums),
        "sums of spikes": sum(graph.in_signal(name) == "spikes" for name in sums),
        "IF layers": len(neurons) - len(leaky),
        "LIF layers": sum(not np.any(n.current_leak) for n in leaky),
        "CUBA layers": sum(bool(np.any(n.current_leak)) for n in leaky),
        "membranes read out": int(graph.output.readout == "membrane"),
    }


if __name__ == "__main__":
    main()
