"""The options that several verbs share, declared once, and what their texts mean."""

from __future__ import annotations

import copy
import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from kdsnn.train.config import Optimizer, Precision, Schedule, TrainConfig

PANELS: Mapping[str, tuple[str, ...]] = {
    "Data": ("data", "image_size", "samples", "noise", "noise_kind", "noise_on", "val"),
    "Network": ("timesteps", "readout", "neuron", "reset", "option", "init"),
    "Distillation": ("teacher_weights", "method", "taps", "alpha", "temperature", "teacher_frames"),
    "Training": (
        "epochs", "batch_size", "lr", "optimizer", "weight_decay", "schedule", "warmup_epochs", "label_smoothing",
        "precision", "device", "set_", "seed", "seeds", "processes",
    ),
    "Augmentation": ("crop", "flip", "cutout", "roll", "drop", "mix", "auto_augment"),
    "Few bits": (
        "quantize_activations", "quantize", "start", "bits", "input_bits", "calibrate", "calibration_samples", "encoder",
    ),
    "For networks of your own, package.module:factory": (
        "weights", "input_shape", "input_coding", "output", "neuron_as", "normalize", "nir",
    ),
    "Files": ("out", "resume", "overwrite", "tensorboard"),
}  # fmt: skip
"""Panel of `--help` → the options in it; all others stand above them."""

BY_DATA = "by kind of data, see `list recipes`"
"""What stands as the default of what a recipe decides."""

GENERAL = TrainConfig()

WHICH_DATA = "digits, mnist, cifar10, an .npz file, a folder, … with variants: see `list data`."
Data = Annotated[
    str | None,
    typer.Option("--data", help=WHICH_DATA, show_default="what the network was trained on, else digits"),
]
TrainingData = Annotated[
    str | None,
    typer.Option(
        "--data",
        help=WHICH_DATA,
        show_default="what a network that is given was trained on, else digits",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device", help="Where torch computes: cpu, cuda, cuda:1, mps.", show_default="a GPU where there is one"
    ),
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

Group = Mapping[str, tuple[Any, Any]]
"""Options by name: (type, default)."""


def _given(kind: Any, text: str, otherwise: str, *names: str, **facts: Any) -> tuple[Any, None]:
    """An option that may be left out: its type, help, and in words what holds without it."""
    return Annotated[kind | None, typer.Option(*names, help=text, show_default=otherwise, **facts)], None


IMAGES: Group = {
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

LOWERING: Group = {
    "bits": (
        Annotated[
            int | None,
            typer.Option(
                "--bits",
                help="Weight bits of the quantized network, 2 to 8.",
                show_default="8, or what it was trained for",
            ),
        ],
        None,
    ),
    "input_bits": (Annotated[int, typer.Option("--input-bits", help="Bits of an input pixel on the chip, 1 to 8.")], 8),
    "calibrate": (
        Annotated[
            str | None,
            typer.Option(
                "--calibrate",
                metavar="[DATA]",
                help="Quantize so that currents err least on the training images of DATA, or where none is named of the data "
                "that it was trained on.",
                show_default="not calibrated",
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
            typer.Option("--weights", help="Its state dict (.safetensors or .pt)."),
        ],
        None,
    ),
    "input_shape": (
        Annotated[str | None, typer.Option("--input-shape", help="One image, e.g. 3,32,32.")],
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
                help="Which of several outputs counts, by index, key or path (0.spikes).",
            ),
        ],
        None,
    ),
    "neuron_as": (
        Annotated[
            list[str] | None,
            typer.Option(
                "--neuron-as",
                help="What a class of hidden arithmetic is, e.g. my.LIFLayer=LIF:tau=2,v_threshold=1 (repeatable).",
            ),
        ],
        None,
    ),
    "normalize": (
        Annotated[
            str | None,
            typer.Option(
                "--normalize",
                help="What it expects images to be normalized with: imagenet, cifar10, cifar100, mnist "
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

TRAINING: Group = {
    "epochs": _given(int, "Passes over the training images.", BY_DATA),
    "batch_size": _given(int, "Images per step.", BY_DATA),
    "lr": _given(float, "Peak learning rate.", f"{GENERAL.lr:g}; a fifth of it with --init, a tenth with --start"),
    "teacher_frames": _given(
        Literal["mean", "each"],
        "What an ANN sees of frames over time: their mean, or each, and its logits are averaged.",
        "mean; a teacher as it was trained",
    ),
    "optimizer": _given(Optimizer, "sgd has Nesterov momentum.", GENERAL.optimizer),
    "weight_decay": _given(
        float, "Of all weights but biases and those of BatchNorm.", f"{GENERAL.weight_decay:g}", min=0
    ),
    "schedule": _given(
        Schedule,
        "Of the learning rate behind its warm-up: a cosine to 0, or steps to a tenth at 1/2 and 3/4 of the epochs.",
        GENERAL.schedule,
    ),
    "warmup_epochs": _given(
        float,
        "Epochs in which the learning rate rises to its peak.",
        "5, a tenth of all epochs at most; 0 with --start",
        min=0,
    ),
    "label_smoothing": _given(
        float, "Share of a target that all classes get.", f"{GENERAL.label_smoothing:g}", min=0, max=1
    ),
    "precision": _given(
        Precision,
        "Of convolutions and linear layers in training; auto: bf16 where the machine is faster in it.",
        GENERAL.precision,
    ),
    "device": (Device, None),
    "set_": _given(
        list[str],
        "Any other setting of TrainConfig, e.g. ema=0.999, clip_norm=1, every_step=true (repeatable).",
        "none",
        "--set",
    ),
    "option": _given(list[str], "An architecture argument, e.g. channels=16,32 (repeatable).", "its own"),
    "crop": _given(int, "Augment: move images by up to this many pixels.", BY_DATA, min=0),
    "flip": _given(bool, "Augment: mirror images left to right at random.", BY_DATA, "--flip/--no-flip"),
    "cutout": _given(int, "Augment: blank a square of this many pixels.", BY_DATA, min=0),
    "roll": _given(int, "Augment: roll images by up to this many pixels; none leave the image.", "0", min=0),
    "drop": _given(
        float, "Augment frames over time: drop up to this share of frames, area or spikes.", "0", min=0, max=1
    ),
    "mix": _given(
        float,
        "Augment frames over time: this share of samples has another's events in part, and its label.",
        "0",
        min=0,
        max=1,
    ),
    "auto_augment": _given(
        bool, "Augment: one random operation of AutoAugment strength.", "off", "--auto-augment/--no-auto-augment"
    ),
    "val": _given(
        float,
        "Hold out this fraction of the training images; the epoch best on them goes to NAME.best.safetensors.",
        "0",
    ),
    "resume": (
        Annotated[bool, typer.Option("--resume", help="Go on with the run of --out that was stopped.")],
        False,
    ),
    "overwrite": (Overwrite, False),
    "tensorboard": _given(Path, "Also write the history for TensorBoard here.", "none"),
}
"""Options that `kdsnn.pretrain` and `kdsnn.distill` share."""

SPELLED = {"T": "--timesteps", "options": "--option"}
"""Options of Python that the command line calls differently by more than hyphens."""


def spelled(name: str, value: Any) -> str:
    """An option of Python as the command line writes it: ("input_bits", 8) → "--input-bits 8"."""
    option = SPELLED.get(name, f"--{name.replace('_', '-')}")
    return option if value is None or value is True else f"{option} {value}"


def takes(**groups: Group) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb all options of some groups; it gets each group as one mapping, under the group's name.

    typer reads options off a signature, so the groups are written into it here, before `json`, instead of by hand at every verb;
    `--help` shows each option in its panel, and a default for each.
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
        parameters = [_shown(p) for p in [p for p in kept if p not in last] + shared + last]

        @functools.wraps(verb)
        def called(**given: Any) -> None:
            gathered = {key: {name: given.pop(name) for name in group} for key, group in groups.items()}
            verb(**given, **gathered)

        called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        called.__annotations__ = {p.name: p.annotation for p in parameters}
        return called

    return decorated


def _shown(parameter: inspect.Parameter) -> inspect.Parameter:
    """An option as `--help` shows it: in its panel, and where nothing is its default, saying so."""
    kind, info = typing.get_args(parameter.annotation)
    info = copy.copy(info)
    info.rich_help_panel = next((panel for panel, names in PANELS.items() if parameter.name in names), None)
    if parameter.default is None and info.show_default is True:
        info.show_default = "none"
    return parameter.replace(annotation=Annotated[kind, info])
