"""The options that several verbs share, declared once."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from kdsnn.errors import KdsnnError

Data = Annotated[
    str, typer.Option("--data", help="digits, mnist, cifar10, npz:FILE, folder:DIR, … with variants: see `list data`.")
]
NoiseSigma = Annotated[
    float, typer.Option("--noise", min=0, help="Gaussian noise on pixels in 0 to 1, rounded to 8 bits; 0 for none.")
]
NoiseKind = Annotated[str, typer.Option("--noise-kind", help="What --noise is: std or var.")]
NoiseOn = Annotated[str, typer.Option("--noise-on", help="Which images get it: train, test or train,test.")]
OutFile = Annotated[Path, typer.Option("--out", help="The checkpoint to write (.safetensors).")]
OutDir = Annotated[Path, typer.Option("--out", help="The folder to write into; made if missing.")]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Makes the run repeatable.")]
Json = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON.")]
ModelOption = Annotated[
    list[str] | None, typer.Option("--option", help="An architecture argument, e.g. channels=16,32 (repeatable).")
]
Weights = Annotated[
    Path | None, typer.Option("--weights", help="For package.module:factory: its state dict (.safetensors or .pt).")
]
InputShape = Annotated[
    str | None, typer.Option("--input-shape", help="For package.module:factory: one image, e.g. 3,32,32.")
]
Timesteps = Annotated[
    int | None,
    typer.Option("--timesteps", help="T, where the source does not say (package.module:factory, bare .net)."),
]
Bits = Annotated[
    int | None,
    typer.Option(
        "--bits", help="Weight bits of the quantized network, 2 to 8; by default 8, or what it was trained for."
    ),
]
InputBits = Annotated[int, typer.Option("--input-bits", help="Bits of an input pixel on the chip, 1 to 8.")]
Calibrate = Annotated[
    str | None,
    typer.Option("--calibrate", help="Quantize so that currents err least on the training images of this data."),
]
CalibrationSamples = Annotated[
    int, typer.Option("--calibration-samples", min=1, help="How many training images --calibrate takes.")
]
Nir = Annotated[
    list[str] | None,
    typer.Option(
        "--nir",
        help="How to read a foreign .nir file: dt=SECONDS, method=euler or exponential, reset=hard or soft (repeatable).",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Any other setting of TrainConfig, e.g. ema=0.999, schedule=step, precision=bf16 (repeatable)."
    ),
]
Crop = Annotated[int, typer.Option("--crop", min=0, help="Augment: move images by up to this many pixels.")]
Flip = Annotated[bool, typer.Option("--flip", help="Augment: mirror images left to right at random.")]
Cutout = Annotated[int, typer.Option("--cutout", min=0, help="Augment: blank a square of this many pixels.")]
Auto = Annotated[bool, typer.Option("--auto-augment", help="Augment: one random operation of AutoAugment strength.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run that was cut off, from OUT.training.")]
TensorBoard = Annotated[Path | None, typer.Option("--tensorboard", help="Also write the history for TensorBoard here.")]


def writable_folder(out: Path) -> None:
    """Make the output folder and try a file in it, before the work rather than after.

    Raises:
        KdsnnError: a file has this name; OSError: it cannot be made or written, or its disk is full.
    """
    from exporters.files import atomic_path

    class Tried(Exception):  # noqa: N818 - no error: nothing is to stay
        pass

    try:
        with suppress(Tried), atomic_path(out / ".probe") as probe:
            probe.write_bytes(bytes(4096))
            raise Tried
    except FileExistsError:
        raise KdsnnError(f"{out}: this is a file; give a folder") from None
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(out)) from error


def writable_file(out: Path) -> None:
    """The same of a file: its folder must take it, and it must not be a folder or a device itself.

    Raises:
        KdsnnError, OSError: as above, and something that is no file has this name.
    """
    if out.is_dir():
        raise KdsnnError(f"{out}: this is a folder; give a file name")
    if out.exists() and not out.is_file():
        raise KdsnnError(f"{out}: this is a device or a pipe; give a file name")
    writable_folder(out.parent)


def nir_options(texts: list[str] | None) -> dict[str, Any]:
    """["dt=1e-3", "reset=soft"] → {"dt": 0.001, "reset": "soft"}.

    Raises:
        KdsnnError: another name or value.
    """
    choices = {"method": ("euler", "exponential"), "reset": ("hard", "soft")}
    found: dict[str, Any] = {}
    for text in texts or []:
        name, _, value = text.partition("=")
        if name == "dt":
            try:
                found["dt"] = float(value)
            except ValueError:
                found["dt"] = 0.0
            if not 0 < found["dt"] < math.inf:
                raise KdsnnError(f"--nir {text}: dt is a time step in seconds, such as dt=1e-3")
        elif value in choices.get(name, ()):
            found[name] = value
        else:
            raise KdsnnError(f"--nir {text}: it must be dt=SECONDS, method=euler|exponential or reset=hard|soft")
    return found


def model_options(texts: list[str] | None) -> dict[str, Any]:
    """["channels=16,32", "hidden=64"] → {"channels": (16, 32), "hidden": 64}.

    Raises:
        KdsnnError: not of the form NAME=NUMBER or NAME=NUMBER,NUMBER.
    """
    found: dict[str, Any] = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        try:
            numbers = tuple(int(part) for part in value.split(","))
        except ValueError:
            numbers = ()
        if not (name and equals and numbers):
            raise KdsnnError(f"--option {text}: it must read NAME=NUMBER or NAME=NUMBER,NUMBER, e.g. channels=16,32")
        found[name] = numbers if "," in value else numbers[0]
    return found
