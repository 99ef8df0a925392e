"""Public data sets by their names, `nmnist:DIR`: what must lie in DIR, as it is unpacked, so that nothing else is taken for them.

They are looked for in DIR and where tonic and SpikingJelly unpack them below it. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from kdsnn.data.dataset import brief
from kdsnn.data.events.layouts import TRIALS, Layout, layout_of, spikes_of
from kdsnn.errors import KdsnnError

DIGITS = tuple(map(str, range(10)))
OBJECTS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class PublicSet:
    """A public data set as it is unpacked.

    Attributes:
        title: what its authors call it.
        places: where it may lie below the folder that is given.
        needs: patterns, at least one file must match each.
        classes: names of the folders of classes that it has, none other.
        size: (height, width) of its sensor, where the layout does not say it.
        read: (the place, the seed of a split) → its recordings.
    """

    title: str
    places: tuple[str, ...]
    needs: tuple[str, ...]
    classes: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    read: Callable[[Path, int], Layout] = layout_of


def _spoken(name: str, title: str) -> PublicSet:
    parts = (f"{name}_train.h5", f"{name}_test.h5")
    return PublicSet(title, ("", title, "extract"), parts, read=lambda place, seed: spikes_of(place / parts[0]))


PUBLIC: Mapping[str, PublicSet] = MappingProxyType(
    {
        "nmnist": PublicSet(
            "N-MNIST", ("", "NMNIST", "extract"),
            tuple(f"{part}/{digit}/*.bin" for part in ("Train", "Test") for digit in DIGITS), DIGITS, (34, 34),
        ),
        "cifar10-dvs": PublicSet(
            "CIFAR10-DVS", ("", "CIFAR10DVS", "extract"), tuple(f"{one}/*.aedat*" for one in OBJECTS), OBJECTS, (128, 128)
        ),
        "dvs-gesture": PublicSet(
            "DVS-Gesture", ("", "DvsGesture", "extract/DvsGesture"), (*TRIALS, "*.aedat", "*_labels.csv")
        ),
        "shd": _spoken("shd", "SHD"),
        "ssc": _spoken("ssc", "SSC"),
    }
)  # fmt: skip
"""Name → what it is."""


def public_layout(name: str, folder: Path, seed: int) -> Layout:
    """Find the recordings of a public data set below `folder`; `seed` draws the test set where it has none.

    Raises KdsnnError naming what is missing, or what the data set does not have.
    """
    wanted = PUBLIC[name]
    lacks = {place: _lacking(folder / place, wanted) for place in wanted.places}
    place = min(lacks, key=lambda one: len(lacks[one]))
    if lacks[place]:
        more = len(lacks[place]) - 1
        raise KdsnnError(
            f"{name}:{folder}: {'no such folder' if not folder.is_dir() else f'it lacks {lacks[place][0]}'}"
            f"{f' and {more} more' if more and folder.is_dir() else ''}: give the folder in which {wanted.title} was unpacked, "
            f"with {_described(wanted)}."
        )
    found = wanted.read(folder / place, seed)
    if others := [one for one in found.names if wanted.classes and one not in wanted.classes]:
        raise KdsnnError(
            f"{name}:{folder / place}: {wanted.title} has no class {brief(others[0])}: remove that folder, or use events:DIR."
        )
    return replace(found, size=found.size or wanted.size)


def _lacking(place: Path, wanted: PublicSet) -> list[str]:
    try:
        return [pattern for pattern in wanted.needs if next(place.glob(pattern), None) is None]
    except OSError:  # a folder that cannot be read
        return list(wanted.needs)


def _described(wanted: PublicSet) -> str:
    first, last = wanted.needs[0], wanted.needs[-1]
    return f"{first} … {last}" if len(wanted.needs) > 4 else ", ".join(wanted.needs)
