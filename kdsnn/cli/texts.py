"""What the texts of options mean: as the arguments of the functions that they are for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from kdsnn.errors import KdsnnError, OptionError, did_you_mean


def lowering_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """The `LOWERING` options as the arguments of `kdsnn.lower`.

    Raises:
        KdsnnError: a text that is no shape, or no way to read a `.nir` file.
    """
    found = dict(given)
    read = {"input_shape": _shape(found.pop("input_shape")), "nir": nir_options(found.pop("nir"))}
    if found["calibrate"] == "":  # no value: the data that it was trained on
        found["calibrate"] = True
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
    named = {name: name for name in ("crop", "flip", "cutout", "roll", "drop", "mix")} | {"auto_augment": "auto"}
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
            near = did_you_mean(name, defaults)
            raise KdsnnError(
                f"--set {text}: {f'{near}? ' if near else ''}It must read NAME=VALUE with a name of {', '.join(defaults)}"
            )
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
