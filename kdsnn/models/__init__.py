"""Teachers and students: one definition per architecture builds the ANN and the SNN.

    teacher = build("resnet18", spiking=False, input_shape=(3, 32, 32), classes=10)
    student = build("cnn2", spiking=True, input_shape=(1, 8, 8), classes=10, channels=(16, 32), hidden=64)

Both have the same parameters under the same names. `Network` says how to run them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, get_args

from exporters.graph.nodes import Reset
from kdsnn.errors import KdsnnError
from kdsnn.models.kit import Kit, Neuron, Readout
from kdsnn.models.network import Network, StagedNetwork, Tap, stage_taps
from kdsnn.models.plain import cnn2, vgg
from kdsnn.models.residual import preact_resnet, pyramidnet, resnet

__all__ = ["MODELS", "Architecture", "Network", "StagedNetwork", "Tap", "build", "stage_taps"]

LARGEST = 1 << 20
"""Of any width, depth, length or number of classes: what is larger is a slip, and torch cannot count the weights."""


@dataclass(frozen=True)
class Architecture:
    """An architecture is one line of the catalog.

    Attributes:
        description: one line for the user.
        builder: called with a `Kit`, the input shape, the number of classes and the options.
        options: keyword arguments of `builder` with their values; `build` accepts others in their place,
            of the same kind: a positive whole number, or as many of them.
        min_size: smallest height and width.
    """

    description: str
    builder: Callable[..., Network]
    options: Mapping[str, int | tuple[int, ...]]
    min_size: int


MODELS: dict[str, Architecture] = {
    "cnn2": Architecture(
        "the paper's 2conv, 128C3-P2-128C3-P2-1152FC; widths as options",
        cnn2,
        {"channels": (128, 128), "hidden": 1152},
        min_size=4,
    ),
    "vgg11": Architecture(
        "VGG11 with BatchNorm and a 512-512 head",
        vgg,
        {"widths": (64, 128, 256, 512, 512), "convs": (1, 1, 2, 2, 2), "hidden": (512, 512)},
        min_size=16,
    ),
    "vgg16": Architecture(
        "VGG16 with BatchNorm and a 512-512 head",
        vgg,
        {"widths": (64, 128, 256, 512, 512), "convs": (2, 2, 3, 3, 3), "hidden": (512, 512)},
        min_size=16,
    ),
    "cnn-dvs": Architecture(
        "five times 128C3-P2 and 512 hidden, as DVSGestureNet of Fang et al. (ICCV 2021); for events of 128×128 and less",
        vgg,
        {"widths": (128, 128, 128, 128, 128), "convs": (1, 1, 1, 1, 1), "hidden": (512,)},
        min_size=16,
    ),
    "resnet14": Architecture(
        "ResNet14 (6n+2), 16-32-64",
        resnet,
        {"stem": 16, "widths": (16, 32, 64), "blocks": (2, 2, 2), "hidden": ()},
        min_size=4,
    ),
    "resnet18": Architecture(
        "ResNet18 with a 3×3 stem, 64-128-256-512",
        resnet,
        {"stem": 64, "widths": (64, 128, 256, 512), "blocks": (2, 2, 2, 2), "hidden": ()},
        min_size=8,
    ),
    "resnet19": Architecture(
        "ResNet19 of the SNN literature, 128-256-512, blocks 3-3-2, 256 hidden",
        resnet,
        {"stem": 128, "widths": (128, 256, 512), "blocks": (3, 3, 2), "hidden": (256,)},
        min_size=4,
    ),
    "preresnet20": Architecture(
        "pre-activation ResNet20 (6n+2), 16-32-64",
        preact_resnet,
        {"stem": 16, "widths": (16, 32, 64), "blocks": (3, 3, 3)},
        min_size=4,
    ),
    "wrn16-2": Architecture(
        "WideResNet 16-2, 32-64-128",
        preact_resnet,
        {"stem": 16, "widths": (32, 64, 128), "blocks": (2, 2, 2)},
        min_size=4,
    ),
    "wrn28-4": Architecture(
        "WideResNet 28-4, 64-128-256",
        preact_resnet,
        {"stem": 16, "widths": (64, 128, 256), "blocks": (4, 4, 4)},
        min_size=4,
    ),
    "pyramidnet18": Architecture(
        "the paper's Pyramidnet18: 51 basic blocks, 16 to 61 channels; a teacher",
        pyramidnet,
        {"alpha": 48, "blocks": 17},
        min_size=4,
    ),
}


def build(
    name: str,
    *,
    spiking: bool,
    input_shape: tuple[int, int, int],
    classes: int,
    readout: Readout = "rate",
    neuron: Neuron = "if",
    reset: Reset = "hard",
    **options: Any,
) -> Network:
    """Build the ANN or the SNN of an architecture, freshly initialized.

    Args:
        name: a key of `MODELS`.
        spiking: the SNN, or the ANN.
        input_shape: (C, H, W) of the images.
        classes: number of classes.
        readout: of the SNN: "rate" of output neurons, "voting" (the mean rate of eight of them for each class), or
            "membrane" of a layer that does not fire.
        neuron: of the SNN: "if", or "lif" with a leak of one half per step.
        reset: of the SNN's membranes by a spike: "hard" to 0, or "soft", by subtraction of the threshold.
        **options: widths and depths in place of the architecture's own, see `MODELS`.

    Raises:
        KdsnnError: an unknown name, option or choice, a value that is not possible, an image too small.
    """
    if name not in MODELS:
        near = get_close_matches(name.lower(), MODELS, n=3)
        hint = f"did you mean {' or '.join(near)}" if near else f"choose from {', '.join(MODELS)}"
        raise KdsnnError(f"there is no model {name!r}; {hint}")
    architecture = MODELS[name]
    for what, value, kind in (("readout", readout, Readout), ("neuron", neuron, Neuron), ("reset", reset, Reset)):
        choices = get_args(kind)
        if value not in choices:
            raise KdsnnError(f"{name}: the {what} is {value!r}; choose {', '.join(choices[:-1])} or {choices[-1]}")
    input_shape = _whole_numbers(f"{name}: the input shape (channels, height, width)", input_shape, like=(3, 32, 32))
    classes = _whole_numbers(f"{name}: the number of classes", classes, like=10)
    _, height, width = input_shape
    if min(height, width) < architecture.min_size:
        raise KdsnnError(
            f"{name}: images of {height}×{width} are too small, it needs at least "
            f"{architecture.min_size}×{architecture.min_size}; pad or enlarge them, or take another model"
        )
    for option, value in options.items():
        if option not in architecture.options:
            raise KdsnnError(f"{name} has no option {option!r}; it has {', '.join(architecture.options)}")
        options[option] = _whole_numbers(f"{name}: option {option}", value, like=architecture.options[option])
    kit = Kit(spiking, readout, neuron, reset)
    return architecture.builder(kit, input_shape, classes, **{**architecture.options, **options})


def _whole_numbers(what: str, value: Any, *, like: int | tuple[int, ...]) -> Any:
    """Take `value` as a positive int, or as a tuple of as many as `like` has (JSON brings lists)."""
    if isinstance(like, int):
        if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST:
            return value
        raise KdsnnError(f"{what} is {value!r}; it must be a whole number of at least 1, at most {LARGEST:,}")
    if isinstance(value, tuple | list) and len(value) == len(like):
        return tuple(_whole_numbers(what, v, like=1) for v in value)
    raise KdsnnError(f"{what} is {value!r}; it must be {len(like)} whole numbers, such as {like}")
