"""Files of networks whose content is changed with checksums that fit: `.net` with delays and recurrence, NIR with cycles, checkpoints."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch

import kdsnn
from exporters import netx, nir
from exporters.netx.sidecar import sidecar_path
from exporters.passes.chain import to_chain
from hardware import emulator
from kdsnn import checkpoint
from kdsnn.checkpoint import CheckpointInfo
from kdsnn.deploy.classifiers import wanted_by
from kdsnn.deploy.own_data import own_data
from tests.fuzz.harness import for_seeds, memory_limited, tried
from tests.fuzz.mutation import change_checkpoint, change_hdf5, change_netx
from tests.networks import random_dense_time, random_recurrent

ROOM = 1 << 30
"""Bytes beyond what is taken already; none of the sound networks needs a megabyte."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks in time as `.net` and NIR files, and checkpoints with everything that a description may say."""
    folder = tmp_path_factory.mktemp("sound")
    for seed in (0, 4, 8, 13, 16):  # delays of inputs, of neurons and of synapses, recurrence, frames, pixels, pools
        netx.write(to_chain(random_dense_time(seed)), folder / f"{seed}.net")
    for seed in range(12):
        nir.write(random_recurrent(seed), folder / f"{seed}.nir")
    for name, info in CHECKPOINTS.items():
        torch.manual_seed(0)
        checkpoint.save(folder / f"{name}.safetensors", info.build().eval(), info)
    return folder


SMALL = {"channels": (2, 2), "hidden": 4}
SNN = CheckpointInfo("cnn2", True, (1, 8, 8), 10, "digits", SMALL, "rate", "if", 2, version="0")
CHECKPOINTS = {
    "snn": replace(SNN, class_names=tuple("abcdefghij"), metrics={"accuracy": 0.5}, training={"noise": {"noise": 0.1, "noise_kind": "std", "noise_on": "train"}, "epochs": 1, "seed": 0}),
    "soft": replace(SNN, reset="soft", neuron="lif", readout="membrane"),
    "events": replace(SNN, input_shape=(2, 8, 8), data="digits+events2", preprocessing=checkpoint.SPIKES),
    "ann": CheckpointInfo("cnn2", False, (1, 8, 8), 10, "digits+rot", SMALL, quantized={"bits": 8, "activation_bits": 3}, version="0"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    with memory_limited(ROOM):
        yield


def runs(path: Path, **lowering: Any) -> None:
    """What can be lowered says how it fits, and runs on silence."""
    network = kdsnn.lower(path, **lowering)
    graph = network.integer
    assert network.name and str(kdsnn.check(network, "loihi1"))
    if graph.T * sum(math.prod(shape) for shape in graph.shapes.values()) < 1e6:
        x = np.zeros((1, *([graph.T] if graph.input.over_time else []), *graph.input.shape), np.float32)
        assert np.isfinite(emulator.run(graph, x).output).all()


def loads(path: Path) -> None:
    """What a checkpoint says is used as the verbs use it."""
    trained = kdsnn.load(path)
    assert own_data(trained) is not None and str(kdsnn.summary(trained)) and str(trained)
    wanted_by(trained.info, None)


def mutated(sound: Path, ending: str, rng: Random, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    source = rng.choice(sorted(sound.glob(f"*{ending}")))
    path = folder / f"mutated{ending}"
    shutil.copyfile(source, path)
    sidecar_path(path).unlink(missing_ok=True)
    if ending == ".net":
        shutil.copyfile(sidecar_path(source), sidecar_path(path))
    {".net": change_netx, ".nir": change_hdf5, ".safetensors": change_checkpoint}[ending](path, rng)
    return path


@pytest.mark.parametrize(
    ("kind", "ending", "use", "count"),
    [
        ("netx in time", ".net", runs, 25),
        ("NIR with cycles", ".nir", runs, 25),
        ("checkpoints", ".safetensors", loads, 40),
    ],
)
def test_what_is_changed_inside_is_refused_or_used(
    sound: Path,
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    ending: str,
    use: Callable[[Path], None],
    count: int,
) -> None:
    folder = tmp_path_factory.getbasetemp() / "inside"

    def holds(rng: Random) -> None:
        path = mutated(sound, ending, rng, folder)
        try:
            tried(kind, lambda: use(path))
        except BaseException as error:
            error.add_note(f"the file: {path}")
            raise

    for_seeds(count, holds)
