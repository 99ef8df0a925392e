"""What a report is asked for: names for its networks, energy models of the user's own, how long the chips are busy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from kdsnn.deploy.sanafe import TARGET
from kdsnn.errors import KdsnnError, OptionError

if TYPE_CHECKING:
    from hardware.chips.limits import Target
    from profilers.energy.models import EnergyModel, Range
    from profilers.energy.time_models import TimeModel

_FILES = (".safetensors", ".net", ".nir")


def distinct(sources: list[str]) -> list[str]:
    """A short name per source: the file's, with as many of its folders as it takes to tell it from the others.

    Raises:
        KdsnnError: the same source twice.
    """
    if twice := [source for source in sources if sources.count(source) > 1]:
        raise KdsnnError(f"{twice[0]}: given twice; give each network once, and several widths with --bits 2,4,8")
    return _short(sources)


def _short(sources: list[str]) -> list[str]:
    """Files by their last parts; a factory is called as it was given, as `build` says nothing."""
    parts = [list(Path(source).with_suffix("").parts) if source.endswith(_FILES) else [source] for source in sources]
    depths = [1] * len(sources)
    while True:
        names = ["/".join(part[-depth:]) for part, depth in zip(parts, depths, strict=True)]
        alike = [i for i, name in enumerate(names) if names.count(name) > 1]
        if not alike:
            return names
        if all(depths[i] >= len(parts[i]) for i in alike):
            return sources
        for i in alike:
            depths[i] += 1


def chosen_chips(target: Sequence[str | Path], *, simulate: bool = False) -> list[Target]:
    """The chips of these names or files, each once; all that are built in where none is given.

    Raises:
        KdsnnError, DeployError: there is no such chip, or a file is not one; SANA-FE is to `simulate`, and its chip is not among
            them or it is not known here.
    """
    from hardware.chips import limits
    from hardware.sanafe import python_path

    found = [limits.target(str(name)) for name in target] or list(limits.targets().values())
    if simulate:
        python_path()
        if all(chip.name != TARGET for chip in found):
            raise OptionError(f"{{simulate}}: SANA-FE simulates {TARGET}; add {{target}}", simulate=None, target=TARGET)
    return list({chip.name: chip for chip in found}.values())


def energy_models(files: Sequence[str | Path], chips: Sequence[Target] = ()) -> dict[str, EnergyModel]:
    """The built-in models, and behind them those of files, which may be of one of the built-in chips or of `chips`.

    Raises:
        KdsnnError, DeployError: a file that is no model, a name that is taken, or a chip that is not known.
    """
    from profilers.energy import models

    return _with_files("energy_model", models.built_in(), models.load, files, chips)


def time_models(files: Sequence[str | Path], chips: Sequence[Target] = ()) -> dict[str, TimeModel]:
    """The built-in step-time models, and behind them those of files; the rest as `energy_models`."""
    from profilers.energy import time_models

    return _with_files("time_model", time_models.built_in(), time_models.load, files, chips)


Model = TypeVar("Model", "EnergyModel", "TimeModel")


def _with_files(
    option: str,
    found: dict[str, Model],
    load: Callable[[Path], Model],
    files: Sequence[str | Path],
    chips: Sequence[Target],
) -> dict[str, Model]:
    from hardware.chips import limits

    known = {**limits.targets(), **{chip.name: chip for chip in chips}}
    for path in map(Path, files):
        model = load(path)
        if model.name in found:
            raise OptionError(
                f"{{{option}}}: there is a model named {model.name} already; change its name", **{option: path}
            )
        if model.target and model.target not in known:
            raise OptionError(
                f"{{{option}}}: target is {model.target!r}; placements are known for {', '.join(known)}",
                **{option: path},
            )
        found[model.name] = model
    return found


@dataclass(frozen=True)
class BusyTime:
    """How long an image keeps the chips busy: `seconds` per image, or per time step if `per_step`."""

    seconds: Range
    per_step: bool = False

    def per_image(self, T: int) -> Range:
        """Seconds per image of a network of T steps; images follow each other without a gap, T steps apart."""
        return self.seconds * T if self.per_step else self.seconds


Seconds = float | str | Sequence[float] | None
"""Seconds above 0, or (low, nominal, high); also as text, "4e-3,5e-3,8e-3"."""


def busy_time(per_image: Seconds, per_step: Seconds) -> BusyTime | None:
    """How long the chips are busy, given per image or per time step; None without either.

    Raises:
        KdsnnError: both, or what is no duration.
    """
    from profilers.energy.models import Range

    if per_image is not None and per_step is not None:
        raise OptionError(
            "{seconds_per_image} and {seconds_per_step}: give one of them",
            seconds_per_image=None,
            seconds_per_step=None,
        )
    option, given = ("seconds_per_image", per_image) if per_step is None else ("seconds_per_step", per_step)
    if given is None:
        return None
    numbers = _numbers(given)
    low, nominal, high = numbers * 3 if len(numbers) == 1 else numbers if len(numbers) == 3 else (0.0, 0.0, 0.0)
    if not 0 < low <= nominal <= high < math.inf:
        raise OptionError(
            f"{{{option}}}: it must be seconds above 0, such as 5e-3, or low,nominal,high, such as 4e-3,5e-3,8e-3",
            **{option: given},
        )
    return BusyTime(Range(low, nominal, high), per_step is not None)


def _numbers(given: float | str | Sequence[float]) -> list[float]:
    """The numbers that are given; none where a text is no number."""
    if not isinstance(given, str):
        return [float(number) for number in given] if isinstance(given, Sequence) else [float(given)]
    try:
        return [float(part) for part in given.split(",")]
    except ValueError:
        return []


def training_seeds(sources: Mapping[str, object]) -> dict[str, int]:
    """What the networks of a report were trained with: "training of NAME" → seed, of checkpoints and of what training returned."""
    from kdsnn import checkpoint
    from kdsnn.deploy.load import trained_by_us
    from kdsnn.deploy.trained import TrainedNetwork

    found = {}
    for name, source in sources.items():
        if isinstance(source, TrainedNetwork):
            info = source.info
        elif isinstance(source, str | Path) and trained_by_us(source):
            info = checkpoint.read_info(source)
        else:
            continue
        if isinstance(seed := info.training.get("seed"), int):
            found[f"training of {name}"] = seed
    return found
