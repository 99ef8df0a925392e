"""How long a command takes that has next to nothing to do: whole processes, against Python that only starts or imports."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

from benchmarks._measure import Measured, alternate, relative, rounds
from benchmarks._process import CLI, python, run

SMALL = "(1, 8, 8), channels=(4, 4), hidden=16"


BARE = "import typer; app = typer.Typer(); app.command()(lambda: print()); app()"
"""The least that a command line of typer takes: to import it and what it needs to call a function."""


def rows(quick: bool) -> Iterator[Measured]:
    answers = [["--help"], ["--version"], ["distill", "--help"]]
    answers += [["list", what] for what in ("models", "data", "recipes", "energy-models", "time-models", "targets")]
    light = {
        'python -c "import typer…"': python(BARE),
        'python -c "pass"': python("pass"),
        'python -c "import kdsnn"': python("import kdsnn"),
        **{f"kdsnn-deploy {' '.join(arguments)}": [CLI, *arguments] for arguments in answers},
    }
    yield from processes("commands that read no network, to a bare command of typer", light, rounds=rounds(quick, 9))
    with tempfile.TemporaryDirectory() as folder:
        run(python(f"from benchmarks._networks import *; write_checkpoint(Path({folder!r}), 'cnn2', {SMALL})"))
        student, netx, image = (f"{folder}/{name}" for name in ("cnn2.safetensors", "cnn2.net", "image.png"))
        run(python(f"from PIL import Image; Image.new('L', (8, 8), 128).save({image!r})"))
        run([CLI, "export", student, "--to", "netx", "--out", folder])
        heavy = {
            'python -c "import torch"': python("import torch"),
            'python -c "from spikingjelly…"': python("from spikingjelly.activation_based import layer, neuron"),
            "kdsnn-deploy summary STUDENT.net": [CLI, "summary", netx],
            "kdsnn-deploy summary STUDENT": [CLI, "summary", student],
            "kdsnn-deploy check STUDENT.net": [CLI, "check", netx, "--target", "loihi1"],
            "kdsnn-deploy check STUDENT": [CLI, "check", student, "--target", "loihi1"],
            "kdsnn-deploy predict STUDENT.net IMAGE": [CLI, "predict", netx, image],
            "kdsnn-deploy predict STUDENT IMAGE": [CLI, "predict", student, image],
            "kdsnn-deploy run STUDENT --on emulator": [CLI, "run", student, "--on", "emulator", "--data", "digits"],
        }
        yield from processes("commands on a student of 600 neurons", heavy, rounds=rounds(quick, 4))


def processes(group: str, commands: dict[str, list[str]], *, rounds: int) -> Iterator[Measured]:
    """Wall-clock seconds of whole processes, in turn; ratios to the first."""
    timed = {name: lambda command=command: run(command).seconds for name, command in commands.items()}
    yield from relative(group, alternate(timed, rounds=rounds))
