"""SANA-FE runs in an environment of its own: its Python is found, told what to do by files, and asked for what it found."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from exporters.errors import DeployError
from exporters.graph import Array
from hardware.sanafe.description import INPUT, Description

VARIABLE = "KDSNN_SANAFE"
"""The environment variable that says which Python has SANA-FE."""


@dataclass(frozen=True, eq=False)
class SanafeRun:
    """SANA-FE gave this.

    Attributes:
        spikes: neuron layer → (N, T, *shape) uint8, at the network's own steps.
        membranes: (N, T, F) of the layer that is read out, after each of its steps; None where spikes are.
        joules, seconds: (N, steps) of the whole chip, for every step of a sample: T and one for each layer.
        wall_seconds: that the simulation took, without its start.
    """

    spikes: Mapping[str, Array]
    membranes: Array | None
    joules: Array
    seconds: Array
    wall_seconds: float


def python_path() -> Path:
    """The Python of an environment that has SANA-FE.

    Raises:
        DeployError: none is known.
    """
    told = os.environ.get(VARIABLE)
    if told is None:
        raise DeployError(
            "SANA-FE is not known here: make an environment of its own (python -m venv DIR, then DIR/bin/pip install sanafe) and "
            f"set {VARIABLE}=DIR/bin/python"
        )
    path = Path(told).expanduser()
    if not path.is_file():
        raise DeployError(f"{VARIABLE}={told}: there is no such file; set it to the Python that has SANA-FE")
    return path


def run(
    description: Description,
    spikes: Array,
    *,
    progress: Callable[[int], None] | None = None,
    python: Path | None = None,
) -> SanafeRun:
    """Samples run through SANA-FE.

    Args:
        description: of the network.
        spikes: (N, T, *shape) of 0 and 1 that the host sends, shape as in `description`.
        progress: called with the number of samples done.
        python: that has SANA-FE; `python_path()` by default.

    Raises:
        DeployError: SANA-FE is not there, or failed; the message has its last words.
    """
    python = python_path() if python is None else python
    with tempfile.TemporaryDirectory(prefix="kdsnn-sanafe-") as name:
        folder = Path(name)
        _write_job(folder, description, spikes)
        _work(python, folder, progress)
        done = json.loads((folder / "done.json").read_text(encoding="utf-8"))
        shape = (len(spikes), description.steps, sum(int(np.prod(layer.shape)) for layer in description.layers))
        fired = np.fromfile(folder / "spikes.bin", np.uint8).reshape(shape)
        membranes = json.loads((folder / "membranes.json").read_text(encoding="utf-8"))
    costs = done["costs"]
    found, first = {}, 0
    for layer in description.layers:
        size = int(np.prod(layer.shape))
        own = fired[:, layer.delay : layer.delay + description.T, first : first + size]
        found[layer.neurons_name] = own.reshape(len(spikes), description.T, *layer.shape)
        first += size
    read = description.layers[-1]
    potentials = np.array(membranes)[:, read.delay :] if read.membrane else None
    joules, step_seconds = (np.array([cost[key] for cost in costs]) for key in ("total_energy", "sim_time"))
    return SanafeRun(found, potentials, joules, step_seconds, done["seconds"])


def _write_job(folder: Path, description: Description, spikes: Array) -> None:
    file = folder / "network.yaml"
    file.write_text(description.text, encoding="utf-8")
    size = int(np.prod(description.shape))
    job = {
        "file": str(file),
        "steps": description.steps,
        "T": description.T,
        "samples": len(spikes),
        "input": INPUT,
        "input_size": size,
        "groups": [(layer.group, int(np.prod(layer.shape))) for layer in description.layers],
        "membranes": description.layers[-1].membrane,
    }
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    (folder / "input.bin").write_bytes(np.ascontiguousarray(spikes.reshape(len(spikes), -1) != 0).tobytes())


def _work(python: Path, folder: Path, progress: Callable[[int], None] | None) -> None:
    worker = Path(__file__).with_name("worker.py")
    with (folder / "log.txt").open("w+", encoding="utf-8", errors="replace") as log:
        try:
            process = subprocess.Popen(
                [str(python), "-I", str(worker), str(folder)], stdout=subprocess.PIPE, stderr=log, cwd=folder, text=True
            )
        except OSError as error:
            raise DeployError(
                f"{python}: cannot be run ({error.strerror}); set {VARIABLE} to the Python that has SANA-FE"
            ) from error
        with process:
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    if progress is not None and line.strip().isdigit():
                        progress(int(line))
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            log.seek(0)
            words = [line for line in log.read().splitlines() if line.strip()] or [f"exit code {process.returncode}"]
            if "No module named 'sanafe'" in words[-1]:
                raise DeployError(
                    f"{python}: there is no SANA-FE in this environment; install it there with pip install sanafe"
                )
            raise DeployError(f"SANA-FE failed: {words[-1][:300]}")
