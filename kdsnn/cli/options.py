"""The options that several verbs share, declared once, and what their texts mean."""

from __future__ import annotations

import functools
import inspect
import math
import typing
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from kdsnn.errors import KdsnnError, OptionError

Data = Annotated[
    str,
    typer.Option("--data", help="digits, mnist, cifar10, an .npz file, a folder, … with variants: see `list data`."),
]
Resized = Annotated[
    str | None, typer.Option("--image-size", help="Resize all images to H,W pixels, or to one number for both.")
]
OutFile = Annotated[Path, typer.Option("--out", help="The checkpoint to write (.safetensors).")]
OutDir = Annotated[Path, typer.Option("--out", help="The folder to write into; made if missing.")]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Makes the run repeatable.")]
Json = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON.")]

IMAGES: dict[str, tuple[Any, Any]] = {
    "image_size": (Resized, None),
    "noise": (
        Annotated[
            float, typer.Option("--noise", min=0, help="Gaussian noise on pixels in 0 to 1, rounded to 8 bits; 0 for none.")
        ],
        0.0,
    ),
    "noise_kind": (Annotated[str, typer.Option("--noise-kind", help="What --noise is: std or var.")], "std"),
    "noise_on": (
        Annotated[str, typer.Option("--noise-on", help="Which images get it: train, test or train,test.")], "train,test",
    ),
}  # fmt: skip
"""Options of `kdsnn.load_data`: name → (type, default)."""

LOWERING: dict[str, tuple[Any, Any]] = {
    "bits": (
        Annotated[
            int | None,
            typer.Option(
                "--bits", help="Weight bits of the quantized network, 2 to 8; by default 8, or what it was trained for."
            ),
        ],
        None,
    ),
    "input_bits": (Annotated[int, typer.Option("--input-bits", help="Bits of an input pixel on the chip, 1 to 8.")], 8),
    "calibrate": (
        Annotated[
            str | None,
            typer.Option(
                "--calibrate", help="Quantize so that currents err least on the training images of this data."
            ),
        ],
        None,
    ),
    "calibration_samples": (
        Annotated[
            int, typer.Option("--calibration-samples", min=1, help="How many training images --calibrate takes.")
        ],
        512,
    ),
    "exact": (
        Annotated[
            bool,
            typer.Option(
                "--exact", help="Float weights on a grid: torch and onnxruntime agree bit for bit. Its price is told."
            ),
        ],
        False,
    ),
    "weights": (
        Annotated[
            Path | None,
            typer.Option("--weights", help="For package.module:factory: its state dict (.safetensors or .pt)."),
        ],
        None,
    ),
    "input_shape": (
        Annotated[
            str | None, typer.Option("--input-shape", help="For package.module:factory: one image, e.g. 3,32,32.")
        ],
        None,
    ),
    "timesteps": (
        Annotated[
            int | None,
            typer.Option("--timesteps", help="T, where the source does not say (package.module:factory, bare .net)."),
        ],
        None,
    ),
    "input_coding": (
        Annotated[
            Literal["pixels", "frames", "spikes"] | None,
            typer.Option(
                "--input-coding",
                help="What it reads, where it does not say itself (package.module:factory, foreign .nir and .net): pixels (the "
                "image at every step), frames (T of graded values) or spikes (T frames of 0 and 1).",
            ),
        ],
        None,
    ),
    "output": (
        Annotated[
            str | None,
            typer.Option(
                "--output",
                help="For package.module:factory: which of several outputs counts, by index, key or path (0.spikes).",
            ),
        ],
        None,
    ),
    "neuron_as": (
        Annotated[
            list[str] | None,
            typer.Option(
                "--neuron-as",
                help="For package.module:factory: what a class of hidden arithmetic is, e.g. my.LIFLayer=LIF:tau=2,v_threshold=1 "
                "(repeatable).",
            ),
        ],
        None,
    ),
    "normalize": (
        Annotated[
            str | None,
            typer.Option(
                "--normalize",
                help="For package.module:factory: what it expects images to be normalized with: imagenet, cifar10, cifar100, mnist "
                "or MEAN/STD, one number each or one per channel, e.g. 0.1307/0.3081.",
            ),
        ],
        None,
    ),
    "nir": (
        Annotated[
            list[str] | None,
            typer.Option(
                "--nir",
                help="How to read a foreign .nir file: dt=SECONDS, method=euler or exponential, reset=hard or soft (repeatable).",
            ),
        ],
        None,
    ),
}
"""Options of `kdsnn.lower`."""

Encoder = Annotated[
    Literal["chip", "host"],
    typer.Option(
        "--encoder", help="host: keep the first layer off the chip, in full precision; the chip reads its spikes."
    ),
]

TRAINING: dict[str, tuple[Any, Any]] = {
    "epochs": (Annotated[int | None, typer.Option(help="Passes over the training images.")], None),
    "batch_size": (Annotated[int | None, typer.Option(help="Images per step.")], None),
    "lr": (Annotated[float | None, typer.Option(help="Peak learning rate.")], None),
    "set_": (
        Annotated[
            list[str] | None,
            typer.Option(
                "--set",
                help="Any other setting of TrainConfig, e.g. ema=0.999, schedule=step, precision=bf16 (repeatable).",
            ),
        ],
        None,
    ),
    "option": (
        Annotated[
            list[str] | None,
            typer.Option("--option", help="An architecture argument, e.g. channels=16,32 (repeatable)."),
        ],
        None,
    ),
    "crop": (
        Annotated[
            int | None,
            typer.Option(
                "--crop", min=0, help="Augment: move images by up to this many pixels; by default as suits them."
            ),
        ],
        None,
    ),
    "flip": (
        Annotated[
            bool | None, typer.Option("--flip/--no-flip", help="Augment: mirror images left to right at random.")
        ],
        None,
    ),
    "cutout": (
        Annotated[int | None, typer.Option("--cutout", min=0, help="Augment: blank a square of this many pixels.")],
        None,
    ),
    "auto_augment": (
        Annotated[
            bool | None,
            typer.Option(
                "--auto-augment/--no-auto-augment", help="Augment: one random operation of AutoAugment strength."
            ),
        ],
        None,
    ),
    "resume": (
        Annotated[bool, typer.Option("--resume", help="Go on with the run that was cut off, from OUT.training.")],
        False,
    ),
    "tensorboard": (
        Annotated[Path | None, typer.Option("--tensorboard", help="Also write the history for TensorBoard here.")],
        None,
    ),
}
"""Options that `kdsnn.pretrain` and `kdsnn.distill` share."""

SPELLED = {"T": "--timesteps", "options": "--option"}
"""Options of Python that the command line calls differently by more than hyphens."""


def spelled(name: str, value: Any) -> str:
    """An option of Python as the command line writes it: ("input_bits", 8) → "--input-bits 8"."""
    option = SPELLED.get(name, f"--{name.replace('_', '-')}")
    return option if value is None else f"{option} {value}"


def takes(**groups: Mapping[str, tuple[Any, Any]]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb all options of some groups; it gets each group as one mapping, under the group's name.

    typer reads options off a signature, so the groups are written into it here, before `json`, instead of by hand at every verb.
    """

    def decorated(verb: Callable[..., None]) -> Callable[..., None]:
        hints = typing.get_type_hints(verb, include_extras=True)
        own = [p.replace(annotation=hints[p.name]) for p in inspect.signature(verb).parameters.values()]
        shared = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
            for group in groups.values()
            for name, (kind, default) in group.items()
        ]
        kept = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own if p.name not in groups]
        last = [p for p in kept if p.name in ("seed", "json")]
        parameters = [p for p in kept if p not in last] + shared + last

        @functools.wraps(verb)
        def called(**given: Any) -> None:
            gathered = {key: {name: given.pop(name) for name in group} for key, group in groups.items()}
            verb(**given, **gathered)

        called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        called.__annotations__ = {p.name: p.annotation for p in parameters}
        return called

    return decorated


def lowering_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """The `LOWERING` options as the arguments of `kdsnn.lower`.

    Raises:
        KdsnnError: a text that is no shape, or no way to read a `.nir` file.
    """
    found = dict(given)
    read = {"input_shape": _shape(found.pop("input_shape")), "nir": nir_options(found.pop("nir"))}
    return {"T": found.pop("timesteps"), **read, **found}


def images_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """The `IMAGES` options as the arguments of `kdsnn.load_data`.

    Raises:
        KdsnnError: a text that is no size.
    """
    return {**given, "image_size": size_of(given["image_size"])}


def size_of(text: str | None) -> int | tuple[int, int] | None:
    """ "32" → 32, "32,48" → (32, 48).

    Raises:
        OptionError: neither one number nor two.
    """
    if text is None:
        return None
    try:
        sides = tuple(int(part) for part in text.split(","))
    except ValueError:
        sides = ()
    if len(sides) not in (1, 2):
        raise OptionError("{image_size}: it must be H,W or one number for both", image_size=text[:100])
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def training_of(given: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """The `TRAINING` options, and `more` of the verb's own, as arguments of `kdsnn.pretrain` and `kdsnn.distill`.

    An option goes before the setting of the same name.

    Raises:
        KdsnnError: a setting or an architecture's argument that does not read as one.
    """
    found = {**given, **more}
    named = {"crop": "crop", "flip": "flip", "cutout": "cutout", "auto_augment": "auto"}
    changed = {field: value for name, field in named.items() if (value := found.pop(name)) is not None}
    settings, options = settings_of(found.pop("set_")), model_options(found.pop("option"))
    chosen = {name: value for name, value in found.items() if value is not None}
    return {**settings, **chosen, "options": options, "augmentation": changed or None}


def listed(texts: list[str] | None, default: str) -> list[str]:
    """["onnx,netx", "nir"] → ["onnx", "netx", "nir"]: an option that may be repeated, or hold commas."""
    return [part.strip() for text in texts or [default] for part in text.split(",")]


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


def settings_of(texts: list[str] | None) -> dict[str, Any]:
    """["ema=0.999", "schedule=step"] → values of the types that `TrainConfig` declares.

    Raises:
        KdsnnError: not NAME=VALUE, no such setting, or a value of the wrong type.
    """
    from kdsnn.train.config import TrainConfig

    defaults = {f.name: f.default for f in fields(TrainConfig) if f.name != "seed"}  # --seed is an option of its own
    found: dict[str, Any] = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals or name not in defaults:
            raise KdsnnError(f"--set {text}: it must read NAME=VALUE with a name of {', '.join(defaults)}")
        kind: Any = float if defaults[name] is None else type(defaults[name])  # None: what suits the run
        try:
            if kind is tuple:
                found[name] = tuple(float(part) for part in value.split(","))
            elif kind is bool:
                found[name] = {"true": True, "false": False}[value.lower()]
            else:
                found[name] = kind(value)
        except (ValueError, KeyError) as error:
            raise KdsnnError(
                f"--set {text}: {name} takes a value such as {2.0 if defaults[name] is None else defaults[name]}"
            ) from error
    return found


def _shape(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        from kdsnn.deploy.factory import shape_error

        raise shape_error(text) from None
