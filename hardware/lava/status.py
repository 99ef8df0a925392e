"""Whether the Lava environment works is found out by running a tiny network on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from exporters.errors import DeployError
from hardware.lava import client, environment, tiny_net


@dataclass(frozen=True)
class LavaStatus:
    """The Lava environment is in this state, as `kdsnn-deploy lava status` says.

    `works` and `seconds_per_step` come from a real run of a tiny network (dense, 4 neurons);
    `problem` is None when all is well, else one line that says what to do.
    """

    installed: bool
    path: Path
    versions: Mapping[str, str]
    works: bool
    seconds_per_step: float | None
    problem: str | None


def status() -> LavaStatus:
    """The environment's state is what is installed, whether a tiny network runs on it, and how fast."""
    path = environment.environment_path()
    problem = environment.problem(path)
    if problem is not None:
        return LavaStatus(False, path, {}, False, None, problem)
    try:
        seconds = _self_test(path)
    except DeployError as error:
        hint = f"{error}; if it stays so, delete {path} and {environment.REPAIR}"
        return LavaStatus(True, path, environment.installed(path), False, None, hint)
    return LavaStatus(True, path, environment.installed(path), True, seconds, None)


def _self_test(path: Path) -> float:
    """A step of the tiny network, which must also give the right spikes, takes so many seconds.

    Raises:
        DeployError: Lava does not run, or computes something else.
    """
    frames = np.eye(tiny_net.NEURONS, dtype=np.int32)[np.arange(64) % tiny_net.NEURONS].reshape(16, 4, -1)
    found = client.run(path / tiny_net.NAME, frames, T=4, message_bits=0)
    if not np.array_equal(found.spikes, frames):
        raise DeployError("Lava runs but computes wrong spikes")
    return found.seconds / found.steps
