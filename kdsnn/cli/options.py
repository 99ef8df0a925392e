"""The options that several verbs share, declared once, and what their texts mean."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

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
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace checkpoints, or states of runs that were stopped, that lie there.")
]
Json = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON.")]
Wide = Annotated[
    bool, typer.Option("--wide", help="Draw tables as wide as they are; else no wider than the terminal, in parts.")
]

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
            typer.Option(
                "--timesteps",
                help="T, where the source does not say (package.module:factory, bare .net), or others than a checkpoint was "
                "trained with.",
            ),
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
    "teacher_frames": (
        Annotated[
            Literal["mean", "each"] | None,
            typer.Option(
                help="What an ANN sees of frames over time: their mean, or each, and its logits are averaged; a teacher as it was trained."
            ),
        ],
        None,
    ),
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
    "roll": (
        Annotated[
            int | None,
            typer.Option("--roll", min=0, help="Augment: roll images by up to this many pixels; none leave the image."),
        ],
        None,
    ),
    "drop": (
        Annotated[
            float | None,
            typer.Option(
                "--drop",
                min=0,
                max=1,
                help="Augment frames over time: drop up to this share of frames, area or spikes.",
            ),
        ],
        None,
    ),
    "mix": (
        Annotated[
            float | None,
            typer.Option(
                "--mix",
                min=0,
                max=1,
                help="Augment frames over time: this share of samples has another's events in part, and its label.",
            ),
        ],
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
    "val": (
        Annotated[
            float | None,
            typer.Option(
                help="Hold out this fraction of the training images; the epoch best on them goes to NAME.best.safetensors."
            ),
        ],
        None,
    ),
    "resume": (
        Annotated[bool, typer.Option("--resume", help="Go on with the run of --out that was stopped.")],
        False,
    ),
    "overwrite": (Overwrite, False),
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
        last = [p for p in kept if p.name in ("seed", "json", "wide")]
        parameters = [p for p in kept if p not in last] + shared + last

        @functools.wraps(verb)
        def called(**given: Any) -> None:
            gathered = {key: {name: given.pop(name) for name in group} for key, group in groups.items()}
            verb(**given, **gathered)

        called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        called.__annotations__ = {p.name: p.annotation for p in parameters}
        return called

    return decorated
